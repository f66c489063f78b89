"""The waiting parts of a session: jobs not yet submitted and actions not yet executed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from oellm_autoexp.core.states import BLOCKED, FINAL, SUBMITTING, UNSUBMITTED
from oellm_autoexp.rules.events import Deadline, Pending
from oellm_autoexp.session.job_state import JobState

AT_WORK = "at work"
"""The reason of an action whose program runs."""
NEXT_POLL = "waits for the next poll of a monitor"
"""The reason of an action that no monitor has started yet."""


@dataclass(frozen=True)
class Wait:
    """A job that waits to be submitted, or an action of it that waits; `since` in seconds since 1970."""

    job: str
    kind: Literal["job", "action"]
    reason: str
    since: float | None
    deadline: Deadline | None = None
    action: str = ""
    event: str = ""

    @property
    def subject(self) -> str:
        """`a`, or `a: RunCommandAction of checkpoint_saved`."""
        return f"{self.job}: {self.action} of {self.event}" if self.kind == "action" else self.job


def waits(jobs: Iterable[JobState]) -> list[Wait]:
    """Everything that waits, by job; an action whose program runs waits for its end."""
    return [wait for job in jobs for wait in (*_of_job(job), *map(_of_action, job.actions.pending))]


def only_actions_wait(jobs: Iterable[JobState]) -> bool:
    """Whether every job has ended, with no new attempt to come, or is blocked, and some action is left."""
    found = list(jobs)
    ended = all(job.state in (*FINAL, BLOCKED) and job.restart is None for job in found)
    return ended and any(job.actions.pending for job in found)


def only_unclear(jobs: Iterable[JobState]) -> bool:
    """Whether nothing is left but cancelled jobs of which nobody knows whether they were submitted."""
    left = [job for job in jobs if not job.over]
    return bool(left) and all(job.state == SUBMITTING and job.cancelled_by for job in left)


def _of_job(job: JobState) -> Iterator[Wait]:
    if job.state in (*UNSUBMITTED, SUBMITTING):
        yield Wait(job.name, "job", job.reason or "not submitted yet", job.waiting.waiting_since, job.waiting.deadline)
    elif job.restart is not None:
        at = job.restart.not_before
        begins = Deadline(at=at, then="submitted") if at else None
        first = "the current attempt must end first"
        if job.state in FINAL and not job.may_still_run:
            first, begins = "the last output of the current attempt must be read first", None
        yield Wait(job.name, "job", f"{job.restart.reason}; {first}", None, begins)


def _of_action(pending: Pending) -> Wait:
    return Wait(
        pending.event.job,
        "action",
        pending.reason or NEXT_POLL,
        pending.since,
        pending.deadline,
        pending.action or f"action {pending.binding + 1}",
        pending.event.name,
    )
