"""Decides whether to execute an action now, by its conditions and the time that it has waited. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from oellm_autoexp.rules.conditions import Condition, Surroundings

USUAL_WAIT_SECONDS = 3600.0
"""How long an action waits for a blocking condition without `timeout_seconds`."""


@dataclass(frozen=True)
class Step:
    """What to do with an action: execute it, wait for a later poll, or skip it; and why."""

    kind: Literal["go", "wait", "skip"]
    reason: str = ""
    patience_seconds: float = USUAL_WAIT_SECONDS
    """Seconds after its event when a waiting action is skipped."""
    surprising: bool = False
    """True if a waiting (blocking) action is skipped, which is reported to the user."""


def decide(conditions: Iterable[Condition], context: Surroundings, waited_seconds: float) -> Step:
    """The step for an action whose event is `waited_seconds` old. All its conditions must hold at the same time."""
    waits: list[str] = []
    patiences: list[float] = []
    for condition in conditions:
        holds = condition.holds(context)
        if holds:
            continue
        if holds is not None and not condition.blocking:
            return Step("skip", f"not fulfilled: {condition}")
        if holds is not None and condition.lost(context):
            return Step("skip", f"can no longer be fulfilled: {condition}", surprising=True)
        patience = condition.timeout_seconds or USUAL_WAIT_SECONDS
        if waited_seconds >= patience:
            return Step("skip", f"waited {patience:g} s for {condition}", surprising=True)
        patiences.append(patience)
        waits.append(str(condition) if holds is not None else f"the result of {condition}")
    if not waits:
        return Step("go")
    return Step("wait", f"waits for {', '.join(waits)}", min(patiences))
