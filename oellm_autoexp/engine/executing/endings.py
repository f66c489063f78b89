"""Jobs that are to end, for good or for a new attempt: noted in the session first, then the scheduler is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from oellm_autoexp.core.states import CANCELLED, FINAL, IN_QUEUE, SUCCESS, TIMEOUT, UNSUBMITTED
from oellm_autoexp.decisions.restarts import begins_new_chain
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session.job_state import Earlier, JobState, Run
from oellm_autoexp.session.session import Session, by_id

_ASK_AGAIN_SECONDS = 60.0
"""After how long the scheduler is asked again to end a job that has not ended."""


def cancel(
    session: Session, name: str, reason: str, now: float, report: Callable[[str], None], run: Run | None = None
) -> bool:
    """End a job for good: at once if it waits, by the scheduler if it is there; one that has ended stays so.

    `run`: its run with what that is to be called then, if a rule had it ended (`Detector.cause`). Returns False if the
    job has ended already, or is to.
    """
    job = session.jobs[name]
    if job.cancelled_by or job.state in (SUCCESS, CANCELLED):
        return False
    report(f"{name}: ended: {reason}")
    if job.state in UNSUBMITTED:
        session.put(job.ended(now, CANCELLED, reason))
    elif job.restart is not None and job.state in FINAL:
        if job.state == TIMEOUT and job.later_links:  # its chain is what ends
            job = job.ended(now, CANCELLED, reason)
        session.put(replace(job, restart=None, cancelled_by=reason))
    else:
        session.put(replace(job, restart=None, cancelled_by=reason, run=run or job.run))
    return True


@dataclass(frozen=True)
class Endings:
    """What the scheduler is to end: newest attempts, and earlier ones (with the job's name) that were begun again."""

    jobs: tuple[JobState, ...]
    earlier: tuple[tuple[str, Earlier], ...]

    def __bool__(self) -> bool:
        return bool(self.jobs or self.earlier)


def due_endings(jobs: Iterable[JobState], now: float) -> Endings:
    """What is to end now: what was not asked for yet, or long enough ago."""
    found = list(jobs)
    newest = (job for job in found if _is_to_end(job) and _is_time(job.newest.end_asked_at, now))
    earlier = ((job.name, attempt) for job in found for attempt in job.past.begun_again)
    return Endings(tuple(newest), tuple(each for each in earlier if _is_time(each[1].end_asked_at, now)))


def _is_to_end(job: JobState) -> bool:
    to_end = bool(job.cancelled_by or job.restart is not None)
    return (job.state in IN_QUEUE and to_end) or job.may_still_run or bool(_needless_links(job))


def _needless_links(job: JobState) -> dict[str, str]:
    """The links of a job's chain that are in the queue and are not to begin (id → token)."""
    ended = job.state in FINAL and bool(job.state in (SUCCESS, CANCELLED) or job.run.chain_end) and not job.restart
    return job.later_links if job.cancelled_by or ended or begins_new_chain(job) else {}


def _is_time(asked_at: float | None, now: float) -> bool:
    return asked_at is None or now - asked_at >= _ASK_AGAIN_SECONDS


def end_jobs(due: Endings, session: Session, scheduler: Scheduler, now: float) -> None:
    """Have the scheduler end them. Raises SchedulerError if a cancellation fails; it is retried in the next round."""
    ids = {attempt.scheduler_id: attempt.token for _, attempt in due.earlier}
    ids |= {job.newest.scheduler_id: job.newest.token for job in by_id(due.jobs).values()}
    for job in due.jobs:
        ids |= _needless_links(job)
    scheduler.cancel(ids)
    for job in due.jobs:
        # A new chain waits until they have gone: they become earlier attempts (restarts.begun).
        last_link = None if _needless_links(job) and not job.restart else job.newest.last_link
        session.put(replace(job, newest=replace(job.newest, end_asked_at=now, last_link=last_link)))
    for name, attempt in due.earlier:
        job = session.jobs[name]
        asked = replace(attempt, end_asked_at=now)
        earlier = tuple(asked if each == attempt else each for each in job.past.earlier)
        session.put(replace(job, past=replace(job.past, earlier=earlier)))
