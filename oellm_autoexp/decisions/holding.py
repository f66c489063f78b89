"""Decides whether jobs of a plan that have not begun are held: several others failed in the same way. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.core.nouns import Hold, JobStatus
from oellm_autoexp.core.states import FINAL, HELD_BY_PLAN, PENDING, SUCCESS, UNSUBMITTED
from oellm_autoexp.session.job_state import JobState

COMMON = frozenset({"config", "code", "data", "checkpoint", "filesystem", "unknown"})
"""Categories that several jobs of a plan may share as they have the same image, code, data and disks. A loss that is
NaN, or too little memory of a GPU, is a matter of a job's own sizes and rates; broken nodes are excluded instead."""


def to_hold(jobs: Mapping[str, JobState], known: Hold, most: int | None) -> Hold | None:
    """Why the rest of the jobs are to be held from now on; None if they are held already, or need not be.

    `most` (monitoring.hold_after_same_failures): so many jobs that failed in the same way, without any iteration, are
    too many, where they are so many more than those that have succeeded or reported an iteration; None: no number is.
    What a person has released is held for the same failure once as many more have it.
    """
    if most is None or known.fingerprint or not any(may_be_held(job) for job in jobs.values()):
        return None
    proven = sum(job.progress.iteration is not None or job.state == SUCCESS for job in jobs.values())
    for fingerprint, alike in failures(jobs).items():
        if len(alike) >= most + proven + known.released.get(fingerprint, 0):
            cause = next(iter(alike.values()))
            reason = f"{len(alike)} jobs failed in the same way: {cause.text}"
            return known.model_copy(update={"fingerprint": fingerprint, "reason": reason, "asked": False})
    return None


def failures(jobs: Mapping[str, JobState]) -> dict[str, dict[str, Cause]]:
    """Failures that several jobs may share: by fingerprint the jobs that had them, and their causes."""
    failed: dict[str, dict[str, Cause]] = {}
    for job in jobs.values():
        for cause in _fruitless_failures(job):
            failed.setdefault(cause.fingerprint, {})[job.name] = cause
    return failed


def waits_for_release(job: JobState, hold: Hold) -> bool:
    """True if a hold keeps a job from beginning: its first attempt, or another one after the failure that is shared.

    An attempt that a person has asked for is not kept.
    """
    if not hold.fingerprint:
        return False
    last = job.past.failures[-1].cause.fingerprint if job.past.failures else ""
    again = job.state in UNSUBMITTED and job.attempt > 0 and last == hold.fingerprint and not job.waiting.by_hand
    return may_be_held(job) or again


_HELD_BY_USER = "JobHeldUser"
"""The reason of a job that its owner holds, as this program does (squeue(1), JOB REASON CODES)."""
FIRST_JOBS = "first_jobs"
"""What `Hold.released` holds where a person has let the jobs go that wait for the first ones."""
_FOR_FIRST = "waits until one of the first jobs has reported an iteration or succeeded (scheduler.first_jobs)"
_FIRST_FAILED = (
    "none of the first jobs (scheduler.first_jobs) has reported an iteration or succeeded, and all have ended:"
    " --cmd release lets the others go"
)


def for_first(jobs: Mapping[str, JobState], known: Hold, first: int | None, going: int) -> str:
    """Why no more jobs may begin before the first ones are proven; '' if they may.

    `first` (scheduler.first_jobs): how many go first; None: all do. `going`: how many others are about to be submitted.
    """
    if first is None or FIRST_JOBS in known.released:
        return ""
    begun = [job for job in jobs.values() if job.attempt or job.state not in UNSUBMITTED]
    proven = any(job.progress.iteration is not None or job.state == SUCCESS for job in begun)
    if proven or len(begun) + going < first:
        return ""
    return _FIRST_FAILED if begun and not going and all(job.state in FINAL for job in begun) else _FOR_FIRST


def may_be_held(job: JobState) -> bool:
    """True if no attempt of a job has begun."""
    return (job.state in UNSUBMITTED and job.attempt == 0) or (job.state == PENDING and not job.newest.runs)


def answered(job: JobState, status: JobStatus | None, hold: Hold) -> JobStatus | None:
    """The scheduler's answer about a job; of one that the plan holds in the queue, with the command that releases it.

    The scheduler's own command would leave the plan held.
    """
    if status is None or status.reason != _HELD_BY_USER or not hold.fingerprint or not may_be_held(job):
        return status
    return replace(status, reason=HELD_BY_PLAN)


def in_queue(jobs: Iterable[JobState]) -> dict[str, str]:
    """The scheduler's ids and tokens of jobs that may be held in its queue."""
    held = [job for job in jobs if job.state == PENDING and may_be_held(job)]
    first = {job.newest.scheduler_id: job.newest.token for job in held}
    return first | {link: token for job in held for link, token in job.later_links.items()}


def _fruitless_failures(job: JobState) -> Iterable[Cause]:
    """The causes of a job's failed attempts, if none has done an iteration; those that other jobs may share."""
    if job.progress.iteration is not None:
        return
    newest = [job.run.cause] if job.state in FINAL else []
    for cause in (*newest, *(failure.cause for failure in job.past.failures)):
        if cause is not None and cause.category in COMMON and (cause.line or cause.category != "unknown"):
            yield cause
