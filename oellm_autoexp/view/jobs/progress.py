"""How far jobs are: the share of their iterations, bars of it, and when all of them are likely to have ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oellm_autoexp.core.states import BAD_ENDS, BLOCKED, FINAL, RUNNING, SUCCESS
from oellm_autoexp.session.job_state import JobState

FULL, EMPTY = "█", "░"


def share(job: JobState) -> float | None:
    """How much of its iterations a job has done, from 0 to 1; None where its log has no number of them."""
    progress = job.progress
    if job.state == SUCCESS:
        return 1.0
    if progress.iteration is None or not progress.total:
        return None
    return max(0.0, min(1.0, progress.iteration / progress.total))


def bar(part: float, width: int) -> str:
    """`███░░`, of so many cells."""
    full = max(0, min(width, round(part * width)))
    return FULL * full + EMPTY * (width - full)


@dataclass(frozen=True)
class Done:
    """Of some jobs: how many there are, succeeded, ended badly, and how many jobs' work those that run have done."""

    count: int
    succeeded: int
    failed: int
    running: float

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1: what has ended, and the iterations of what runs."""
        return (self.succeeded + self.failed + self.running) / self.count if self.count else 1.0

    def cells(self, width: int) -> tuple[int, int, int]:
        """Of a bar of so many cells, those that succeeded, that ended badly, and that run."""
        ends = [self.succeeded, self.succeeded + self.failed, self.succeeded + self.failed + self.running]
        first, second, third = (round(end / max(1, self.count) * width) for end in ends)
        if self.failed and second == first:  # a bad end is seen, however many jobs there are
            first, second, third = (
                (first - 1, first, third) if first == width else (first, first + 1, max(third, first + 1))
            )
        return first, second - first, third - second


def done(jobs: Sequence[JobState]) -> Done:
    """How far some jobs are."""
    return Done(
        len(jobs),
        sum(job.state == SUCCESS for job in jobs),
        sum(job.state in BAD_ENDS and job.restart is None for job in jobs),
        sum(share(job) or 0.0 for job in jobs if job.state == RUNNING),
    )


def seconds_left(jobs: Iterable[JobState]) -> float | None:
    """How long it takes until all jobs have ended, if as many run at once as now; None where that is unknown.

    A job that has not begun takes as long as those that run or have succeeded do on average. What waits in the queue of
    a scheduler is not known and not counted.
    """
    known = list(jobs)
    running = [job.progress.seconds_left for job in known if job.state == RUNNING]
    left = [seconds for seconds in running if seconds is not None]
    if not left or len(left) < len(running):
        return None
    to_come = sum(job.state not in (*FINAL, BLOCKED, RUNNING) for job in known)
    lengths = [length for job in known if (length := _whole(job)) is not None]
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    return max(max(left), (sum(left) + to_come * mean) / len(left))


def _whole(job: JobState) -> float | None:
    """How long a job takes from its first iteration to its last one, or took."""
    start, end, progress = job.newest.started_at, job.newest.ended_at, job.progress
    if job.state == SUCCESS and start is not None and end is not None:
        return end - start
    if job.state == RUNNING and progress.total is not None and progress.seconds is not None:
        return progress.total * progress.seconds
    return None
