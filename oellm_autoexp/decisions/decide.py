"""Is an action to be carried out now? Pure: its conditions and how long it has waited in, a step out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from oellm_autoexp.rules.conditions import Condition, Surroundings

USUAL_WAIT_SECONDS = 3600.0
"""How long an action waits for a blocking condition that says nothing of it."""


@dataclass(frozen=True)
class Step:
    """What is to be done with an action: carry it out, leave it for a later look, or leave it out; and why."""

    kind: Literal["go", "wait", "skip"]
    reason: str = ""
    patience_seconds: float = USUAL_WAIT_SECONDS
    """How long after its event an action that waits is left out."""
    surprising: bool = False
    """Whether an action is left out that had been waited for, or would have been: people are told."""


def decide(conditions: Iterable[Condition], around: Surroundings, waited_seconds: float) -> Step:
    """The step for an action whose event is `waited_seconds` old. All its conditions must hold at one look."""
    waits: list[str] = []
    patiences: list[float] = []
    for condition in conditions:
        holds = condition.holds(around)
        if holds:
            continue
        if holds is not None and not condition.blocking:
            return Step("skip", f"not fulfilled: {condition}")
        if holds is not None and condition.lost(around):
            return Step("skip", f"can no longer be fulfilled: {condition}", surprising=True)
        patience = condition.timeout_seconds or USUAL_WAIT_SECONDS
        if waited_seconds >= patience:
            return Step("skip", f"waited {patience:g} s for {condition}", surprising=True)
        patiences.append(patience)
        waits.append(str(condition) if holds is not None else f"the result of {condition}")
    if not waits:
        return Step("go")
    return Step("wait", f"waits for {', '.join(waits)}", min(patiences))
