"""Watches a session: observe, detect, save, act, again; until every job has ended."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from oellm_autoexp.core.errors import CorruptError, Problem, SchedulerError, UnwritableError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.states import FINAL, SUBMITTING, UNSUBMITTED, WAITING
from oellm_autoexp.decisions.detect import detectors
from oellm_autoexp.engine.executing.executor import ActionExecutor
from oellm_autoexp.engine.node_watch import NodeWatch
from oellm_autoexp.engine.observing.accounts import settle_accounts
from oellm_autoexp.engine.observing.measurement_writer import MeasurementWriter
from oellm_autoexp.engine.observing.observer import Observer, may_be_queued, queued_ids
from oellm_autoexp.engine.observing.series_writer import write_points
from oellm_autoexp.nodes.reputation import Reputation
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.job_state import JobState, with_events
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.lock import Lock
from oellm_autoexp.submission.submit import Submitter

_SUBPROCESS_SECONDS = 2.0
_UNCLEAR_SECONDS = 10.0
_SHORTEST_WAIT_SECONDS = 0.1
_SLOWER = 1.2
"""By what factor the interval between two polls grows while no job changes its state."""
_MOST_MESSAGES = 1000


class Messages(deque[str]):
    """The newest lines for people, without secrets."""

    def __init__(self) -> None:
        super().__init__(maxlen=_MOST_MESSAGES)

    def append(self, line: str, /) -> None:
        """Add one."""
        super().append(redact_message(line))


@dataclass
class Monitor:
    """One session's loop. Raises CorruptError for a session that is not of this manifest."""

    manifest: Manifest
    session: Session
    scheduler: Scheduler
    submitter: Submitter
    lock: Lock
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    once: bool = False
    """True if this process polls once (`--once`)."""
    scheduler_error: str = field(default="", init=False)
    """Message of the last failed scheduler call; empty after a successful one."""
    storage_error: str = field(default="", init=False)
    """Which file could not be written in the last cycle; empty if all were."""
    messages: Messages = field(default_factory=Messages, init=False)
    """Lines for people; whoever shows them removes them."""
    cycles: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}
        if odd := sorted(self._specs.keys() ^ self.session.jobs.keys()):
            what = f"its jobs are not those of {self.session.manifest_path}: {', '.join(odd[:5])}"
            hint = "only one of the two has them: is one of another plan, or was it changed by hand?"
            raise CorruptError(Problem(what, str(self.session.path), hint))
        self._pause_seconds = self._planned_seconds = self.scheduler.poll_interval_seconds
        self._polled_at: float | None = None
        self._reached = True
        """False if the last call of the scheduler failed; it may answer and not know the state of some job."""
        self._detectors = detectors(self.manifest)
        self._event_log = EventLog(self.session.path)
        self.submitter.in_queue = self._came_into_queue
        parts = self.manifest, self.session, self.scheduler
        report = self.messages.append
        self._measurements = MeasurementWriter(self._specs, self.session.path, report)
        self.observer = Observer(*parts, self._detectors, now=self.now, report=report)
        self.executor = ActionExecutor(*parts, self._event_log, self._detectors, report, self.now)
        reputation = Reputation(self.manifest, self.scheduler, now=self.now, report=report)
        self.submitter.left_out, self.submitter.report = reputation.left_out, report
        self.nodes = NodeWatch(*parts, reputation, self.now)

    # ---- pace

    @property
    def interval_seconds(self) -> float:
        """Seconds between two cycles: what the config says, else what the scheduler finds polite.

        That grows while no job changes its state, and is never quite the same, so that not all monitors of a cluster
        ask at once.
        """
        configured: float | None = self.manifest.monitoring.get("poll_interval_seconds")
        seconds = configured or self._pause_seconds * random.uniform(0.9, 1.1)  # noqa: S311  no secret
        queued = any(may_be_queued(job) for job in self.session.jobs.values())
        if self.executor.in_progress and not queued:  # nothing else is waited for
            seconds = min(seconds, _SUBPROCESS_SECONDS)
        if not queued and any(job.logs.late_until is not None for job in self.session.jobs.values()):
            seconds = min(seconds, self.scheduler.log_lag_seconds)
        return min(seconds, _UNCLEAR_SECONDS) if self.submitter.unsettled else seconds

    @property
    def queued_ids(self) -> dict[str, str]:
        """The scheduler's ids of the jobs that are in its queue, or may be, with the token of each."""
        return queued_ids(self.session.jobs.values())

    @property
    def wait_seconds(self) -> float:
        """Seconds until something may be done without another poll, at most; infinity if nothing may."""
        waits_for_subprocess = self.submitter.checking or self.executor.at_capacity
        return min(self.submitter.due_in, _SUBPROCESS_SECONDS if waits_for_subprocess else math.inf)

    def wait(self, seconds: float) -> None:
        """Pause between two cycles, as the function `wait`."""
        wait([self], seconds, self.sleep)

    # ---- a cycle

    def cycle(self) -> None:
        """One poll of the scheduler and the logs, then what is to be submitted. Facts are saved before deeds."""
        self.storage_error = ""
        with self._storage_errors():
            self._cycle()

    def _cycle(self) -> None:
        self.lock.beat(max(self.interval_seconds, self.scheduler.longest_poll_interval_seconds))
        self.cycles += 1
        before = {job.name: job.state for job in self.session.jobs.values()}
        self.poll()
        self._act()
        self._keep_away()
        self._submit()
        self._measurements.write(self.session, self.now())
        changed = any(before[job.name] != job.state for job in self.session.jobs.values())
        shortest, longest = self.scheduler.poll_interval_seconds, self.scheduler.longest_poll_interval_seconds
        self._pause_seconds = shortest if changed else min(self._pause_seconds * _SLOWER, longest)

    def poll(self) -> None:
        """Ask the scheduler and read the logs, and save what is new."""
        now = self.now()
        self.scheduler_error, self._reached = "", True
        self._advance_clock(now)
        found = self.observer.observe(now, self._planned_seconds)
        self.scheduler_error, self._reached = found.error, found.reached
        settle_accounts(self.session, self._specs, self.scheduler, now)
        write_points(self.session)
        # Facts before deeds. The session is what counts: events are in it until they are in the event log, too.
        self.session.save()
        late = [job for job in self.session.jobs.values() if job.actions.unrecorded]
        self._event_log.add(event for job in late for event in job.actions.unrecorded)
        for job in late:
            self.session.put(replace(job, actions=replace(job.actions, unrecorded=())))
        self.nodes.blame()

    def _advance_clock(self, now: float) -> None:
        """Advance the session's clock, which counts the seconds of watching (session/silence.py)."""
        last, self._polled_at = self._polled_at, self.monotonic()
        since = None if last is None else self._polled_at - last
        self.session.watched = self.session.watched.after(now, since, self._planned_seconds, once=self.once)
        self._planned_seconds = self.interval_seconds

    def _act(self) -> None:
        try:
            self.executor.act()
        except SchedulerError as error:
            self._note_failure(error)

    def _keep_away(self) -> None:
        try:
            self.nodes.keep_away()
        except SchedulerError as error:
            self._note_failure(error)

    def _submit(self) -> None:
        if any(job.state in (*UNSUBMITTED, SUBMITTING) for job in self.session.jobs.values()):
            try:
                self.submitter.submit_ready()
            except SchedulerError as error:
                self._note_failure(error)
            self.session.save()

    def _note_failure(self, error: SchedulerError) -> None:
        self.scheduler_error, self._reached = error.problems[0].what, False

    def _came_into_queue(self, job: JobState) -> JobState:
        if job.state in FINAL:
            self.messages.append(f"{job.name}: not submitted: {job.reason}")
        return with_events(*self._detectors[job.name].state(replace(job, state=WAITING), job, self.now()))

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Keep a storage error for people; what was not done because of it is done by a later cycle.

        What has changed stays in memory, and is saved with the next change; an intent that is not on disk is none.
        """
        try:
            yield
        except OSError as error:
            self.storage_error = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        except UnwritableError as error:
            self.storage_error = str(error)

    # ---- between two polls

    def between_polls(self) -> None:
        """Do what needs no scheduler query: start waiting subprocesses, read finished checks, submit jobs at a pace."""
        with self._storage_errors():
            if self.executor.at_capacity:
                self._act()
            if self.submitter.checking or self.submitter.due_in <= 0:
                self._submit()

    @property
    def has_pending_subprocesses(self) -> bool:
        """True if a program of an action has not ended, or a check has no first answer yet.

        The checks of jobs don't count while the scheduler does not answer: their jobs could not be submitted.
        """
        return self.executor.has_pending_subprocesses or (self.submitter.has_pending_checks and self._reached)

    def go_on(self) -> None:
        """Go on with what is in progress, and submit the jobs that may go after that; the scheduler is not polled."""
        self.storage_error = ""
        with self._storage_errors():
            self.lock.beat(self.interval_seconds)
            waiting = self._waiting()
            self._act()
            if (self.submitter.has_pending_checks and self._reached) or self._waiting() - waiting:
                self._submit()

    def _waiting(self) -> set[str]:
        return {job.name for job in self.session.jobs.values() if job.state == WAITING}

    def close(self) -> None:
        """End the programs that run in the background."""
        self.submitter.close()
        self.executor.close()

    # ---- what people ask for

    def cancel(self, names: Iterable[str], reason: str) -> list[str]:
        """End jobs for good, begin no new attempt of them, and abandon their actions that wait.

        Returns the names of those that had not ended. Those in the queue are ended by the scheduler, those that wait
        are never submitted. Raises SchedulerError; then it is kept in the session that they are to end, those that wait
        have ended, and a later poll has the scheduler end the others.
        """
        wanted = list(names)
        failure: SchedulerError | None = None
        try:
            self.submitter.settle_all()
        except SchedulerError as error:
            failure = error
        ended = [name for name in wanted if self.executor.cancel(name, reason, self.now())]
        self.skip(wanted, reason)
        if failure is not None:
            raise failure
        self.executor.act()
        return ended

    def release(self) -> None:
        """Let the jobs go that are held. Raises SchedulerError."""
        self.executor.release()

    def skip(self, names: Iterable[str], reason: str) -> int:
        """Abandon the actions of jobs that wait; how many these were. Those whose programs run go on."""
        given_up = sum(self.executor.give_up(name, reason, self.now()) for name in names)
        self.executor.save()
        return given_up


def wait(
    monitors: Sequence[Monitor],
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    act: Callable[[Monitor], None] | None = None,
) -> None:
    """Pause between two rounds of cycles; what may be done meanwhile without another poll is done.

    `act` does that for one monitor (None: `between_polls`).
    """
    left = seconds
    while left > 0:
        pause = max(min([left, *(monitor.wait_seconds for monitor in monitors)]), min(left, _SHORTEST_WAIT_SECONDS))
        sleep(pause)
        left -= pause
        if left > 0:
            for monitor in monitors:
                (act or Monitor.between_polls)(monitor)
