"""One job after a poll: what the scheduler answered, what the job wrote, and the events that follow from both.

Each method returns the job as it is then; its new events are among those that are to be written into the event log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.core.states import ENDED, FINAL, IN_QUEUE, NODE_FAIL, PENDING, RUNNING, TIMEOUT, UNKNOWN
from oellm_autoexp.decisions import lifecycle, readiness, restarts
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.engine.observing.cause_finder import CauseFinder
from oellm_autoexp.engine.observing.job_reports import JobReports
from oellm_autoexp.engine.observing.log_reader import LogReader
from oellm_autoexp.rules.events import Deadline
from oellm_autoexp.session.job_state import JobState, with_events

_SCRIPT_LOST = "node {node}, on which its script ran, has died: SLURM shows it as running, with nothing in it"
_OCCUPIED = "its script has not begun, as"
_POLLS_BETWEEN_TRIES, _LONGEST_BETWEEN_TRIES = 10, 900.0
"""After how many polls a job is submitted again whose output directory another one had, at first; at last, seconds."""


@dataclass(frozen=True)
class Moment:
    """When jobs are looked at: seconds since 1970, the session's clock (session/silence.py), and two durations."""

    now: float
    clock: float
    poll_interval_seconds: float
    log_lag_seconds: float
    """How long after a job's end lines of its log may still appear."""


@dataclass(frozen=True)
class JobObserver:
    """Looks at one job at a time. `status` is the scheduler's answer; None if it was not `answered` or has no job."""

    detectors: Mapping[str, Detector]
    logs: LogReader
    causes: CauseFinder
    reports: JobReports
    report: Callable[[str], None]
    """Gets lines for people."""

    def in_queue(
        self, job: JobState, status: JobStatus | None, at: Moment, jobs: Mapping[str, JobState], *, answered: bool
    ) -> JobState:
        """A job that was in the queue; `jobs`: all of the session."""
        status = self.reports.completed(job, status) if answered else None
        if readiness.cut_off(job, status, jobs):
            return readiness.withdrawn(job, at.now)
        ended = status is not None and status.scheduler_state in ENDED and job.state in IN_QUEUE
        if ended and not job.cancelled_by and not job.later_links and (other := self.reports.refused_for(job)):
            return self._not_begun(job, other, at)
        return self._seen(job, status, at, answered=answered)

    def _not_begun(self, job: JobState, other: str, at: Moment) -> JobState:
        """A job whose script has found another one in its output directory: it waits, and that counts as no attempt."""
        before = sum(entry.message.startswith(_OCCUPIED) for entry in job.history)
        pause = min(_POLLS_BETWEEN_TRIES * at.poll_interval_seconds * 2.0 ** min(before, 10), _LONGEST_BETWEEN_TRIES)
        text = f"{_OCCUPIED} job {other} runs in its output directory"
        self.report(f"{job.name}: {text}")
        back = readiness.withdrawn(job, at.now, text)
        newest = replace(back.newest, scheduler_id="", started_at=None)
        retry_at = at.now + pause
        deadline = Deadline(at=retry_at, then="submitted again")
        waiting = replace(back.waiting, waiting_since=at.now, retry_at=retry_at, deadline=deadline)
        return replace(back, reason=text, newest=newest, run=job.next_run, waiting=waiting)

    def _seen(self, job: JobState, status: JobStatus | None, at: Moment, *, answered: bool) -> JobState:
        """A job after the scheduler's answer and its logs: what it wrote comes before how it ended."""
        unlisted = answered and status is None
        lost = self.reports.overtaken(job) if unlisted else None
        begun = unlisted and not lost and self.reports.says_it_runs(job)

        def see(job: JobState) -> JobState:
            return lifecycle.see_status(job, status, at.now, at.clock, begun=begun, lost=lost) if answered else job

        seen = see(job)
        if not job.state == seen.state == PENDING:  # of one that was requeued: the rest of what its run wrote
            stepped = self._after_steps(job, seen, at)
            read = self.logs.read(stepped, at.now, final=seen.state in FINAL)
            if read is not job:
                wrote = read.run.last_activity != job.run.last_activity
                if wrote and read.newest.missing_since is not None:  # it runs, somewhere
                    read = replace(read, newest=replace(read.newest, missing_since=at.clock))
                seen = see(read)
        if status is not None and seen.answer.script_lost and not job.answer.script_lost:
            text = _SCRIPT_LOST.format(node=status.batch_host)
            self.report(f"{job.name}: {text}")
            seen = seen.happened(at.now, RUNNING, text)
        seen = self._with_left_out(job, seen, at.now)
        if seen.state != job.state or seen.newest.runs != job.newest.runs:
            seen = self._in_new_state(job, seen, at)
        known = status is not None and status.scheduler_state != UNKNOWN
        return with_events(*self.detectors[job.name].quiet(seen, at.now, at.clock, known=known))

    def _after_steps(self, job: JobState, seen: JobState, at: Moment) -> JobState:
        """A job after the steps that its script has begun, with the log lines before each; `seen`: after the answer."""
        if job.state != PENDING and job.newest.runs != seen.newest.runs:  # requeued: the steps are of another run
            return job
        new = self.reports.new_steps(job)
        left_out = self.reports.left_out(job) if new else {}
        for step in new:
            before = math.nextafter(at.now, -math.inf)  # what follows is then later than it (restarts.is_past)
            job = restarts.step_begun(self.logs.up_to(job, before, step.log_bytes), step, left_out, before)
            if step.number > 1:
                self.report(f"{job.name}: {job.history[-1].message}")
        return job

    def _with_left_out(self, job: JobState, seen: JobState, now: float) -> JobState:
        """A job with the nodes that its script has left out so far, also where it then put the job into the queue."""
        left_out = self.reports.left_out(seen)
        if not left_out or left_out == seen.run.sick_nodes:
            return seen
        seen = replace(seen, run=replace(seen.run, sick_nodes=left_out))
        new = [f"{node} ({why})" for node, why in left_out.items() if node not in job.run.sick_nodes]
        return seen.happened(now, restarts.IN_JOB, f"left out: {', '.join(new)}") if new else seen

    def _in_new_state(self, job: JobState, seen: JobState, at: Moment) -> JobState:
        """A job that has another state than before, or has begun to run once more, with what follows from that."""
        seen = self.reports.with_own_times(seen, at.now)
        if seen.state in FINAL:
            if end := self.reports.chain_end(seen):
                seen = replace(seen, run=replace(seen.run, chain_end=end.why))
            started = job.state == PENDING and seen.newest.started_at != job.newest.started_at
            if seen.newest.runs != job.newest.runs or started:
                seen = self._ran(job, seen, at)
            seen = self._with_cause(_read_on(lifecycle.to_be_settled(seen), at))
        before = replace(job, state=PENDING) if seen.state == job.state else job
        return self.state_changed(before, seen, at.now)

    def _ran(self, job: JobState, ended: JobState, at: Moment) -> JobState:
        """A job that began to run and ended between two polls, with what follows from its beginning."""
        before = replace(job, state=PENDING)
        newest = replace(ended.newest, runs=job.newest.runs + 1)
        running = replace(ended, state=RUNNING, reason="", newest=newest)
        began = self.state_changed(before, running, at.now)
        return replace(began, state=ended.state, reason=ended.reason)

    def _with_cause(self, job: JobState) -> JobState:
        """A job that has ended, with why it failed. A link whose program ended by itself has reached no time limit."""
        by_itself = job.state == TIMEOUT and self.reports.number(job, "exit") == 0
        return job if by_itself else self.causes.with_cause(job)

    def by_status_alone(self, job: JobState, status: JobStatus | None, at: Moment) -> JobState:
        """A job after the scheduler's answer alone, as its log or its status files can't be read."""
        if job.state in FINAL:
            return job
        seen = lifecycle.see_status(job, status, at.now, at.clock)
        if seen.state == job.state:
            return seen
        settling = lifecycle.to_be_settled(seen) if seen.state in FINAL else seen
        return self.state_changed(job, settling, at.now)

    # ---- jobs that have ended

    def ended_lately(self, job: JobState, at: Moment) -> JobState:
        """A job that has ended, after lines that its log has got since: they may change what its end counts as."""
        read = self.logs.read(job, at.now, final=True)
        grew = read.run.last_activity != job.run.last_activity
        seen = lifecycle.revised(read, at.now)
        if grew:
            seen = self._with_cause(seen)
        if seen.state != read.state:
            if seen.restart is not None and not seen.restart.by_hand:
                seen = replace(seen, restart=None)  # what follows is judged anew
            seen = self.state_changed(read, seen, at.now)
        until = job.logs.late_until
        if until is None:
            return seen
        if grew and job.state == NODE_FAIL:  # its node is lost to the scheduler: it may run on there
            until = at.clock + at.log_lag_seconds
        return replace(seen, logs=replace(seen.logs, late_until=until if at.clock < until else None))

    def vanished(self, job: JobState, status: JobStatus | None, at: Moment, *, answered: bool) -> JobState:
        """A job that vanished and is to get a new attempt: it must be gone first (lifecycle.see_end)."""
        read, exited = self.ended_lately(job, at), self.reports.has_exited(job)
        return lifecycle.see_end(job, read, status, at.clock, answered=answered, exited=exited)

    def state_changed(self, before: JobState, job: JobState, now: float) -> JobState:
        """A job whose state is perhaps another one than `before`, with the events of that."""
        return with_events(*self.detectors[job.name].state(before, job, now))


def _read_on(job: JobState, at: Moment) -> JobState:
    """A job that has ended just now: on a shared file system its last lines may come some seconds late."""
    if not at.log_lag_seconds or not job.logs.resolved_log_path:
        return job
    return replace(job, logs=replace(job.logs, late_until=at.clock + at.log_lag_seconds))
