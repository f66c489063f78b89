"""What a job did when: spans of time in a state, with the attempt and its cause, by the job's history. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from oellm_autoexp.core.states import BAD_ENDS, FINAL, OURS, PENDING, RUNNING, SUBMITTING, UNSUBMITTED, WAITING
from oellm_autoexp.session.job_state import HistoryEntry, JobState

_SUBMITTED, _RESTART = "submitted", "restart"


@dataclass(frozen=True)
class Span:
    """From when to when (seconds since 1970) a job was in a state, in which attempt; an end has no length.

    `cause`: why the attempt was begun, of the span in which it waits; why it ended, of its end.
    """

    start: float
    end: float
    state: str
    attempt: int
    cause: str = ""


def first_seen(jobs: Iterable[JobState]) -> float | None:
    """When something happened first to any of these jobs."""
    return min((job.history[0].at for job in jobs if job.history), default=None)


def spans(job: JobState, began: float, now: float) -> list[Span]:
    """The spans of a job from `began` to `now`; those of its history that are kept (see MOST_HISTORY)."""
    marks = _marks(job.history, job.attempt, _failures(job))
    if not marks and job.newest.submitted_at is not None:
        marks = [Span(job.newest.submitted_at, 0, PENDING, job.attempt)]
    if not marks and job.state == WAITING:
        marks = [Span(began, began, WAITING, 0)]
    if marks and marks[0].attempt <= 1 and marks[0].start > began:
        marks.insert(0, Span(began, began, WAITING, 0))
    found: list[Span] = []
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        end = now if after is None else after.start
        found.append(replace(mark, end=mark.start if mark.state in FINAL else max(mark.start, end)))
    whole = _waits_between(_as_the_scheduler_says(found, job))
    return [span for span in whole if span.state in FINAL or span.end > span.start]


def _failures(job: JobState) -> dict[int, str]:
    """Why attempts failed, as their logs show, by attempt."""
    known = {failure.attempt: failure.cause for failure in job.past.failures}
    if job.run.cause is not None:
        known[job.attempt] = job.run.cause
    return {attempt: f"{cause.category}: {cause.text}" for attempt, cause in known.items()}


def _marks(history: Sequence[HistoryEntry], newest: int, failures: Mapping[int, str]) -> list[Span]:
    """The moments at which a job got another state; where an attempt was submitted, and of its end, with why."""
    attempt = newest - sum(entry.event == _SUBMITTED for entry in history)
    cause, marks = "", list[Span]()
    for entry in history:
        if entry.event == _RESTART:
            cause = entry.message
        elif entry.event == _SUBMITTED:
            attempt += 1
            marks.append(Span(entry.at, entry.at, PENDING, attempt, cause))
            cause = ""
        elif entry.event in OURS and entry.event != SUBMITTING:
            last = marks[-1] if marks else None
            if last is None or last.state != entry.event:
                ended = entry.event in FINAL | UNSUBMITTED
                failed = failures.get(attempt, "") if entry.event in BAD_ENDS else ""
                why = "; ".join(filter(None, [entry.message, failed])) if ended else ""
                marks.append(Span(entry.at, entry.at, entry.event, attempt, why))
    return marks


def _as_the_scheduler_says(found: list[Span], job: JobState) -> list[Span]:
    """The newest attempt's beginning and end as its scheduler reports them, where that fits to what was seen before."""
    started, ended = job.newest.started_at, job.newest.ended_at
    if not found or found[-1].attempt != job.attempt:
        return found
    *before, last = found
    if last.state in FINAL and before:
        own = before[-1]
        if ended is not None and ended >= own.start:
            last = replace(last, start=ended, end=ended)
            own = replace(own, end=ended)
        return [*before[:-1], *_begun(own, started), last]
    if last.state == RUNNING and before and before[-1].state == PENDING and started is not None:
        return [*before[:-1], *_begun(replace(before[-1], end=last.end), started)]
    return found


def _begun(span: Span, started: float | None) -> list[Span]:
    """A span in the queue that ends with that of the run, which it may not have been seen to begin."""
    if started is None or span.state not in (PENDING, RUNNING):
        return [span]
    at = min(max(span.start, started), span.end)
    if span.state == RUNNING:
        return [span]
    return [replace(span, end=at), replace(span, start=at, state=RUNNING, cause="")]


def _waits_between(found: list[Span]) -> list[Span]:
    """With the time between the end of an attempt and the submission of the next one."""
    whole: list[Span] = []
    for span in found:
        last = whole[-1] if whole else None
        if last is not None and last.state in FINAL and span.start > last.end:
            whole.append(Span(last.end, span.start, WAITING, span.attempt))
        whole.append(span)
    return whole
