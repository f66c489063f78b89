"""The links of a chain in words: which one a job is at, and how those before have ended. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.states import BAD_ENDS, TIMEOUT
from oellm_autoexp.session.job_state import JobState

_LISTED = 3


def links(job: JobState, spec: JobSpec | None) -> list[str]:
    """`link 3 of 10`, and the newest links before that ended badly, but not at a time limit; none for other jobs."""
    last = spec.last_link(job.attempt) if spec is not None and job.attempt else None
    if last is None:
        return []
    bad = [f"link {link}: {state}" for link, state in _earlier(job) if state in BAD_ENDS and state != TIMEOUT]
    return [f"link {job.attempt} of {last}", *bad[-_LISTED:]]


def _earlier(job: JobState) -> Iterator[tuple[int, str]]:
    """The links before the newest one, each with its last state, by the job's history."""
    link, state = 0, ""
    for entry in job.history:
        if entry.event == "submitted":
            if link:
                yield link, state
            link, state = _link(entry.message), ""
        elif entry.event in BAD_ENDS:
            state = entry.event


def _link(message: str) -> int:
    """The number in `as 12_3, link 3 of 10`; 0 without one."""
    number = message.partition(", link ")[2].partition(" ")[0]
    return int(number) if number.isdecimal() else 0
