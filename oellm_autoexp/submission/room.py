"""How many jobs may be submitted now, and when the next one may."""

from __future__ import annotations

import math
from collections.abc import Callable

from oellm_autoexp.core.errors import TooManyJobsError
from oellm_autoexp.core.states import IN_QUEUE, SUBMITTING
from oellm_autoexp.rules.events import Deadline
from oellm_autoexp.session.session import Session
from oellm_autoexp.submission.retries import growing, spread

_FOR_ROOM = "waits for room in the queue (scheduler.max_jobs)"


class Room:
    """How many jobs of a session may be in the queue: by `max_jobs`, and by what the scheduler took when it was full.

    Now and then one more is tried all the same.
    """

    def __init__(self, session: Session, max_jobs: int | None, now: Callable[[], float]) -> None:
        self._session = session
        self._max_jobs = max_jobs
        self._now = now
        self._most: int | None = None
        self._full_words = self._full_error = ""
        self._tries_beyond = 0
        self._try_beyond_at = 0.0

    @property
    def full(self) -> str:
        """The scheduler's message that it accepts no more jobs now; '' if there was none."""
        return self._full_error if self._most is not None else ""

    @property
    def reason(self) -> str:
        """Why a job without room waits."""
        return _FOR_ROOM if self._most is None else self._full_words

    @property
    def left(self) -> int | None:
        """How many jobs may be submitted now; None: any number."""
        here = self._in_queue()
        rooms = [] if self._max_jobs is None else [max(0, self._max_jobs - here)]
        if self._most is not None:
            rooms.append(max(self._most - here, int(self._now() >= self._try_beyond_at)))
        return min(rooms, default=None)

    def is_full(self, error: TooManyJobsError) -> None:
        """Record that the scheduler accepts no more jobs than this session has there now."""
        self._most = self._in_queue()
        self._try_beyond_at = spread(self._now(), growing(self._tries_beyond))
        self._tries_beyond += 1
        self._full_error = error.problems[0].what
        hint = "scheduler.max_jobs says how many jobs may be in the queue at once"
        self._full_words = f"waits until the scheduler accepts more jobs; {hint} ({self._full_error})"

    def taken(self) -> None:
        """Record accepted jobs: if there are more now than when it was full, it is no longer full."""
        if self._most is not None and self._in_queue() > self._most:
            self._most, self._tries_beyond = None, 0

    def forget(self) -> None:
        """Forget that the scheduler was full, so that more jobs are tried."""
        self._most = None

    def _in_queue(self) -> int:
        """Those that are there, or will be: the next link of a chain is there when one has ended."""
        jobs = self._session.jobs.values()
        return sum(job.state in (*IN_QUEUE, SUBMITTING) or bool(job.later_links) for job in jobs)


class Pace:
    """The pace of submissions: at least `seconds` between two of them (`submit_rate_limit_seconds`)."""

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self.seconds = seconds
        self.awaited = False
        """Whether jobs wait for their turn."""
        self._now = now
        self._next_at = 0.0

    @property
    def due_in(self) -> float:
        """Seconds until the next submission is due, for jobs that wait for their turn; infinity if none does."""
        return self.left if self.awaited else math.inf

    @property
    def left(self) -> float:
        """Seconds until the next submission may go."""
        left = self._next_at - self._now()
        return left if 0 < left <= self.seconds else 0.0  # above: the clock was set back

    def turn(self, place: int) -> Deadline:
        """When the submission at a place of the line goes, from 0."""
        return Deadline(at=self._next_at + place * self.seconds, then="submitted")

    def begun(self) -> None:
        """A submission goes now."""
        self._next_at = self._now() + self.seconds
