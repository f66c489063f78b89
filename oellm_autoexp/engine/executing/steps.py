"""One step with an action: its outcome, or the action as it waits. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

from oellm_autoexp.core.errors import AutoexpError, UnwritableError
from oellm_autoexp.rules.events import Deadline, Pending
from oellm_autoexp.session.event_log import Status
from oellm_autoexp.session.job_state import JobState


@dataclass(frozen=True)
class Outcome:
    """How an action has ended."""

    status: Status
    message: str
    surprising: bool = False
    """True if a skipped action is reported."""
    quiet: bool = False
    """True if its failure need not be reported."""


def caught(step: Callable[[], Outcome | Pending]) -> Outcome | Pending:
    """The result of a step; one that raises has failed. Raises OSError, UnwritableError: the step is tried again."""
    try:
        return step()
    except (OSError, UnwritableError):  # a full disk fails no action
        raise
    except AutoexpError as error:
        return Outcome("failed", error.problems[0].what)
    except Exception:  # one action must not keep the others, nor the watch, from going on
        return Outcome("failed", traceback.format_exc(limit=-3))


def waiting(pending: Pending, reason: str, action: str, deadline: Deadline | None = None) -> Pending:
    """An action as it waits, for what and until when; `action` is its class."""
    if (pending.reason, pending.action, pending.deadline) == (reason, action, deadline):
        return pending
    return pending.model_copy(update={"reason": reason, "action": action, "deadline": deadline})


def with_execution(job: JobState, pending: Pending, now: float) -> JobState:
    """A job one of whose actions is carried out now, by which the next cooldown is measured."""
    carried_out = {**job.actions.carried_out, place(pending): now}
    return replace(job, actions=replace(job.actions, carried_out=carried_out))


def key(pending: Pending) -> str:
    """What identifies an action of an event."""
    return f"{pending.event.id}/{pending.rule}/{pending.binding}"


def place(pending: Pending) -> str:
    """What identifies an action in the configuration (`Actions.carried_out`)."""
    return f"{pending.rule}/{pending.binding}"
