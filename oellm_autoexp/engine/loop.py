"""Watches a session: observe, detect, save, act, again; until every job has ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from oellm_autoexp.core.errors import CorruptError, Problem, SchedulerError, UnwritableError, unforeseen
from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Manifest, Usage
from oellm_autoexp.core.states import ENDED, FINAL, IN_QUEUE, NODE_FAIL, PENDING, RUNNING, SUBMITTING, UNKNOWN, WAITING
from oellm_autoexp.decisions import detect, lifecycle, readiness, restarts
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.engine.executor import ActionExecutor
from oellm_autoexp.rules.events import Deadline, Event
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.sbatch.log_paths import stream_files
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session import status_files
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.job_state import JobState, Run, by_id
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.lock import Lock
from oellm_autoexp.storage.log_tail import Cursor, read_added
from oellm_autoexp.submission.outcomes import link_current
from oellm_autoexp.submission.submit import Submitter

_LOG_BYTES_PER_CYCLE = 64 << 20
_ERRAND_SECONDS = 2.0
_UNCLEAR_PAUSE_SECONDS = 10.0
_ASK_EVERY_SECONDS = 2.0
_SHORTEST_NAP_SECONDS = 0.1
_SLOWER = 1.2
_ACCOUNTS_LAG_SECONDS = 10.0
_OCCUPIED = "its script has not begun, as"
_LOOKS_BETWEEN_TRIES, _LONGEST_BETWEEN_TRIES = 10, 900.0
"""After how many looks a job is submitted again whose output directory another one had, at first; at last, seconds."""

_PROLOG_FAILED = b"Error running slurm prolog:"
"""The beginning of the line that slurmd adds to a job's output (_prolog_error, src/slurmd/slurmd/req.c)."""


@dataclass
class Monitor:
    """One session's loop. `trouble` is what the scheduler last failed with, '' while it answers.

    `obstacle` is what kept a cycle from its end, '' if nothing did: files that can't be written, on a full disk. Raises
    CorruptError for a session that is not of this manifest.
    """

    manifest: Manifest
    session: Session
    scheduler: Scheduler
    submitter: Submitter
    claim: Lock
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    once: bool = False
    """Whether this process takes a single look (`--once`)."""
    trouble: str = ""
    obstacle: str = ""
    cycles: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}
        if odd := sorted(self._specs.keys() ^ self.session.jobs.keys()):
            what = f"its jobs are not those of {self.session.manifest_path}: {', '.join(odd[:5])}"
            hint = "only one of the two has them: is one of another plan, or was it changed by hand?"
            raise CorruptError(Problem(what, str(self.session.path), hint))
        self._pause_seconds = self._planned_seconds = self.scheduler.poll_interval_seconds
        self._detectors = detectors(self.manifest)
        self._record = EventLog(self.session.path)
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self._looked: float | None = None
        self._doubt = ""
        self._complaints: defaultdict[str, list[str]] = defaultdict(list)
        self.submitter.in_queue = self._came_into_queue
        self.reactions = ActionExecutor(
            self.manifest, self.session, self.scheduler, self._record, self._detectors, self.now
        )

    @property
    def interval_seconds(self) -> float:
        """Seconds between two cycles: what the config says, else what the scheduler finds polite.

        That grows while no job changes its state, and is never quite the same, so that not all monitors of a cluster
        ask at once.
        """
        configured: float | None = self.manifest.monitoring.get("poll_interval_seconds")
        seconds = configured or self._pause_seconds * random.uniform(0.9, 1.1)  # noqa: S311  no secret
        if self.reactions.under_way and not self.queued_ids:  # nothing else is waited for
            seconds = min(seconds, _ERRAND_SECONDS)
        if not self.queued_ids and any(job.logs.late_until is not None for job in self.session.jobs.values()):
            seconds = min(seconds, self.scheduler.log_lag_seconds)
        return min(seconds, _UNCLEAR_PAUSE_SECONDS) if self.submitter.unsettled else seconds

    @property
    def queued_ids(self) -> dict[str, str]:
        """The scheduler's ids of the jobs in its queue, or perhaps, with the token of each."""
        queued = (job for job in self.session.jobs.values() if job.state in IN_QUEUE or job.may_still_run)
        return {job: tracked.newest.token for job, tracked in by_id(queued).items()}

    @property
    def nap_seconds(self) -> float:
        """How long to pause at most until something may be done without another look; infinity if nothing may."""
        return min(self.submitter.due_in, _ASK_EVERY_SECONDS if self._beside else math.inf)

    @property
    def _beside(self) -> bool:
        """Whether something is at work beside us whose end lets something else begin."""
        return self.submitter.asking or self.reactions.crowded

    def rest(self, seconds: float) -> None:
        """Pause between two cycles (see `rest`)."""
        rest([self], seconds, self.sleep)

    def between_looks(self) -> None:
        """Do what needs no look: a program has made room for another, a command has answered, it is a job's turn."""
        with self._obstacles():
            if self.reactions.crowded:
                self._act()
            if self.submitter.asking or self.submitter.due_in <= 0:
                self._submit()

    @property
    def awaited(self) -> bool:
        """Whether something that this monitor has started beside itself is yet to end, or to answer.

        No job's command is awaited where the scheduler does not answer: its job could not be submitted.
        """
        return self.reactions.awaited or (self.submitter.awaited and self._reached)

    def go_on(self) -> None:
        """Get on with what is under way, and submit what may go for that; the scheduler is not asked for news."""
        self.obstacle = ""
        with self._obstacles():
            self.claim.beat(self.interval_seconds)
            waiting = self._waiting()
            self._act()
            if (self.submitter.awaited and self._reached) or self._waiting() - waiting:
                self._submit()

    @property
    def _reached(self) -> bool:
        """True if the scheduler answers, perhaps without knowing the state of some job."""
        return self.trouble in ("", self._doubt)

    def _waiting(self) -> set[str]:
        return {job.name for job in self.session.jobs.values() if job.state == WAITING}

    def _came_into_queue(self, job: JobState) -> JobState:
        if job.state in FINAL:
            self.reactions.news.append(f"{job.name}: not submitted: {job.reason}")
        job, events = self._detectors[job.name].state(replace(job, state=WAITING), job, self.now())
        return _with_unrecorded(job, events) if events else job

    def close(self) -> None:
        """End the programs that are at work beside the monitor."""
        self.submitter.close()
        self.reactions.close()

    def _act(self) -> None:
        try:
            self.reactions.act()
        except SchedulerError as error:
            self.trouble = error.problems[0].what

    def _submit(self) -> None:
        if any(job.state in (WAITING, SUBMITTING) for job in self.session.jobs.values()):
            try:
                self.submitter.submit_ready()
            except SchedulerError as error:
                self.trouble = error.problems[0].what
            self.session.save()

    @contextlib.contextmanager
    def _obstacles(self) -> Iterator[None]:
        """What is not done because a file can't be written is done by a later cycle: it is told, and nothing is lost.

        What has changed stays in memory, and is saved with the next change; an intent that is not on disk is none.
        """
        try:
            yield
        except OSError as error:
            self.obstacle = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        except UnwritableError as error:
            self.obstacle = str(error)

    def cycle(self) -> None:
        """One look at the scheduler and the logs, then what is to be submitted. Facts are saved before deeds."""
        self.obstacle = ""
        with self._obstacles():
            self._cycle()

    def _cycle(self) -> None:
        self.claim.beat(max(self.interval_seconds, self.scheduler.longest_poll_interval_seconds))
        self.cycles += 1
        before = {job.name: job.state for job in self.session.jobs.values()}
        self.look()
        self._act()
        self._submit()
        changed = any(before[job.name] != job.state for job in self.session.jobs.values())
        shortest, longest = self.scheduler.poll_interval_seconds, self.scheduler.longest_poll_interval_seconds
        self._pause_seconds = shortest if changed else min(self._pause_seconds * _SLOWER, longest)

    def look(self) -> None:
        """Ask the scheduler and read the logs, and save what is new."""
        now = self.now()
        self.trouble = ""
        self._go_on_watching(now)
        self._observe(now)
        self._settle_accounts(now)
        # Facts before deeds. The session is what counts: events are in it until they are in the record, too.
        for name, events in self._events.items():
            if events:
                job = self.session.jobs[name]
                self.session.put(_with_unrecorded(job, events))
        self._events.clear()
        self.session.save()
        late = [job for job in self.session.jobs.values() if job.actions.unrecorded]
        self._record.add(event for job in late for event in job.actions.unrecorded)
        for job in late:
            self.session.put(replace(job, actions=replace(job.actions, unrecorded=())))

    @property
    def _clock(self) -> float:
        """The session's clock: seconds of watching (see session/silence.py)."""
        return self.session.watched.seconds

    def _go_on_watching(self, now: float) -> None:
        last, self._looked = self._looked, self.monotonic()
        since = None if last is None else self._looked - last
        self.session.watched = self.session.watched.after(now, since, self._planned_seconds, once=self.once)
        self._planned_seconds = self.interval_seconds

    def cancel(self, names: Iterable[str], reason: str) -> list[str]:
        """End jobs for good, begin no new attempt of them, and give up their actions that wait.

        Returns the names of those that had not ended. Those in the queue are ended by the scheduler, those that wait
        are never submitted. Raises SchedulerError; then it is kept in the session that they are to end, those that wait
        have ended, and a later look has the scheduler end the others.
        """
        wanted = list(names)
        trouble: SchedulerError | None = None
        try:
            self.submitter.settle_all()
        except SchedulerError as error:
            trouble = error
        ended = [name for name in wanted if self.reactions.cancel(name, reason, self.now())]
        self.skip(wanted, reason)
        if trouble is not None:
            raise trouble
        self.reactions.act()
        return ended

    def skip(self, names: Iterable[str], reason: str) -> int:
        """Give up the actions of jobs that wait; how many these were. Those whose programs are at work go on."""
        given_up = sum(self.reactions.give_up(name, reason, self.now()) for name in names)
        self.reactions.save()
        return given_up

    def _observe(self, now: float) -> None:
        jobs, asked = self.session.jobs, self.queued_ids
        watched = [job for job in jobs.values() if job.state in IN_QUEUE or job.may_still_run]
        late = [job for job in jobs.values() if job.logs.late_until is not None and not job.may_still_run]
        replaced = [job for job in jobs.values() if self._may_begin_anew(job) and job.newest.scheduler_id not in asked]
        earlier = {
            job.past.earlier[-1].scheduler_id: job.past.earlier[-1].token for job in jobs.values() if _is_between(job)
        }
        also = {**earlier, **{job.newest.scheduler_id: job.newest.token for job in replaced}}
        try:
            answers = self.scheduler.poll({**also, **asked})
        except SchedulerError as error:  # no answer is no news
            self.trouble = error.problems[0].what
            answers = None
        answered = answers is not None
        for job in sorted(watched, key=lambda job: bool(job.newest.after)):  # those that are followed come first
            meant = asked[job.newest.scheduler_id] == job.newest.token  # else the id is a newer job's
            told = answers.get(job.newest.scheduler_id) if answers is not None and meant else None
            look = self._look_for_end if job.may_still_run else self._look_at
            self._carefully(job, now, told, look, answered=answered)
        for job in late:
            self._carefully(job, now, None, self._look_late, answered=False)
        if answers is not None:
            self._tell_doubt(answers)
        if answered and (watched or also):
            self._look_for_requeued(now)
            self._look_for_earlier(now)

    def _tell_doubt(self, answers: Mapping[str, JobStatus]) -> None:
        """Tell of a job whose state the scheduler does not know now: it is watched on as it was, for however long."""
        self._doubt = next(
            (
                f"{job.name}: {status.reason}"
                for job in self.session.jobs.values()
                if job.state in IN_QUEUE and (status := answers.get(job.newest.scheduler_id)) is not None
                if status.scheduler_state == UNKNOWN and status.reason
            ),
            "",
        )
        self.trouble = self._doubt

    def _may_begin_anew(self, job: JobState) -> bool:
        """Whether a job has ended and a new attempt may come: somebody may have it begun again meanwhile."""
        return job.awaits_attempt or (job.surely_ended and self.reactions.may_restart(job))

    def _carefully(
        self,
        job: JobState,
        now: float,
        told: JobStatus | None,
        look: Callable[[JobState, float, JobStatus | None, bool], JobState],
        *,
        answered: bool,
    ) -> None:
        """Look at one job; what goes wrong with it is told once, and keeps no other from being watched."""
        try:
            seen = look(job, now, told, answered)
            if seen.problem:
                seen = replace(seen.happened(now, "watched", "nothing hinders it any more"), problem="")
        except Exception as error:  # one job must not keep the others from being watched
            self._events.pop(job.name, None)
            seen = self._hindered(job, now, error)
            if (
                seen.logs.late_until is not None and self._clock >= seen.logs.late_until
            ):  # what it wrote late can't be read
                seen = replace(seen, logs=replace(seen.logs, late_until=None))
            with contextlib.suppress(Exception):
                seen = self._by_status_alone(seen, now, told, answered=answered)
        for name in seen.run.slow.keys() - job.run.slow.keys() - set(seen.run.switched_off):
            text = f"the pattern of the rule '{name}' took too long: a part of the log was not looked at for it"
            self.reactions.news.append(f"{job.name}: {text}")
        for name in seen.run.switched_off:
            if name not in job.run.switched_off:
                self.reactions.news.append(f"{job.name}: the rule '{name}' is switched off: its pattern takes too long")
        for text in self._complaints.pop(job.name, ()):
            if not any(entry.message == text for entry in seen.history):
                seen = seen.happened(now, "warning", text)
                self.reactions.news.append(f"{job.name}: {text}")
        if seen is not job:
            self.session.put(seen)

    def _hindered(self, job: JobState, now: float, error: Exception) -> JobState:
        """A job that an exception keeps from being watched in full: told when it is another one than at the last look.

        The words of one exception may differ from look to look; its kind and its place do not.
        """
        kind, place, message = unforeseen(error)
        if job.problem.startswith(f"{kind} in {place}"):
            return job
        problem = f"{kind} in {place}: {message}"
        self.reactions.news.append(f"{job.name}: can't be watched in full, tried again at each look: {problem}")
        return replace(job.happened(now, "not watched in full", traceback.format_exc(limit=-3)), problem=problem)

    def _by_status_alone(self, job: JobState, now: float, told: JobStatus | None, *, answered: bool) -> JobState:
        """What the scheduler's answer alone says of a job whose log or marks can't be looked at."""
        if not answered or job.state in FINAL:
            return job
        seen = lifecycle.see_status(job, told, now, self._clock)
        if seen.state == job.state:
            return seen
        settling = lifecycle.to_be_settled(seen) if seen.state in FINAL else seen
        seen, events = self._detectors[job.name].state(job, settling, now)
        self._events[job.name] += events
        return seen

    def _look_at(self, job: JobState, now: float, told: JobStatus | None, answered: bool) -> JobState:
        status = self._complete(job, told) if answered else None
        if readiness.cut_off(job, status, self.session.jobs):
            return readiness.withdrawn(job, now)
        ended = status is not None and status.scheduler_state in ENDED and job.state in IN_QUEUE
        if ended and not job.cancelled_by and (other := self._kept_from_beginning(job)):
            return self._not_begun(job, other, now)
        return self._seen(job, now, status, answered=answered)

    def _kept_from_beginning(self, job: JobState) -> str:
        """The id of the job because of which a job's script has not begun its program; '' if it has."""
        return status_files.refused(
            Path(self._specs[job.name].output_dir, MARKS), job.newest.scheduler_id, job.newest.token
        )

    def _not_begun(self, job: JobState, other: str, now: float) -> JobState:
        """A job whose script has found another one in its output directory: it waits, and that counts as no attempt."""
        before = sum(entry.message.startswith(_OCCUPIED) for entry in job.history)
        at = now + min(_LOOKS_BETWEEN_TRIES * self.interval_seconds * 2.0 ** min(before, 10), _LONGEST_BETWEEN_TRIES)
        text = f"{_OCCUPIED} job {other} runs in its output directory"
        self.reactions.news.append(f"{job.name}: {text}")
        back = readiness.withdrawn(job, now, text)
        newest = replace(back.newest, scheduler_id="", started_at=None)
        deadline = Deadline(at=at, then="submitted again")
        waiting = replace(back.waiting, waiting_since=now, retry_at=at, deadline=deadline)
        return replace(back, reason=text, newest=newest, run=Run(), waiting=waiting)

    def _seen(self, job: JobState, now: float, status: JobStatus | None, *, answered: bool) -> JobState:
        """A job after a look at the scheduler's answer and at its logs: what it wrote comes before how it ended."""
        detector = self._detectors[job.name]
        begun = answered and status is None and self._says_it_runs(job)

        def see(job: JobState) -> JobState:
            return lifecycle.see_status(job, status, now, self._clock, begun=begun) if answered else job

        seen = see(job)
        if not job.state == seen.state == PENDING:  # of one that was requeued: the rest of what its run wrote
            read = self._read_logs(job, now, final=seen.state in FINAL)
            if read is not job:
                wrote = read.run.last_activity != job.run.last_activity
                if wrote and read.newest.missing_since is not None:  # it runs, somewhere
                    read = replace(read, newest=replace(read.newest, missing_since=self._clock))
                seen = see(read)
        if seen.state != job.state or seen.newest.runs != job.newest.runs:
            seen = self._with_own_times(seen, now)
            if seen.state in FINAL:
                started = job.state == PENDING and seen.newest.started_at != job.newest.started_at
                if seen.newest.runs != job.newest.runs or started:
                    seen = self._began(job, seen, now)  # it ran between two looks
                seen = self._ended(lifecycle.to_be_settled(seen))
            before = replace(job, state=PENDING) if seen.state == job.state else job
            seen, events = detector.state(before, seen, now)
            self._events[job.name] += events
        known = status is not None and status.scheduler_state != UNKNOWN
        seen, events = detector.quiet(seen, now, self._clock, known=known)
        self._events[job.name] += events
        return seen

    def _began(self, job: JobState, ended: JobState, now: float) -> JobState:
        """A job that began to run and ended since the last look, with what follows from its beginning."""
        before = replace(job, state=PENDING)
        newest = replace(ended.newest, runs=job.newest.runs + 1)
        running = replace(ended, state=RUNNING, reason="", newest=newest)
        began, events = self._detectors[job.name].state(before, running, now)
        self._events[job.name] += events
        return replace(began, state=ended.state, reason=ended.reason)

    def _says_it_runs(self, job: JobState) -> bool:
        """Whether a job has left word that it began, and none that it ended."""
        return self._mark(job, "start") is not None and self._mark(job, "exit") is None

    # ---- jobs that have ended

    def _ended(self, job: JobState) -> JobState:
        """A job that has ended just now: on a shared file system its last lines may come some seconds late."""
        lag = self.scheduler.log_lag_seconds
        if not lag or not job.logs.resolved_log_path:
            return job
        return replace(job, logs=replace(job.logs, late_until=self._clock + lag))

    def _look_late(self, job: JobState, now: float, told: JobStatus | None = None, answered: bool = False) -> JobState:
        """A job that has ended, after the lines that its log has got since: they may say that its end was another."""
        del told, answered
        read = self._read_logs(job, now, final=True)
        seen = lifecycle.revised(read, now)
        if seen.state != read.state:
            if seen.restart is not None and not seen.restart.by_hand:
                seen = replace(seen, restart=None)  # what follows is judged anew
            seen, events = self._detectors[job.name].state(read, seen, now)
            self._events[job.name] += events
        until = job.logs.late_until
        if until is None:
            return seen
        grew = read.run.last_activity != job.run.last_activity
        if grew and job.state == NODE_FAIL:  # its node is lost to the scheduler: it may run on there
            until = self._clock + self.scheduler.log_lag_seconds
        return replace(seen, logs=replace(seen.logs, late_until=until if self._clock < until else None))

    def _look_for_end(self, job: JobState, now: float, told: JobStatus | None, answered: bool) -> JobState:
        """See lifecycle.see_end."""
        read, exited = self._look_late(job, now), self._mark(job, "exit") is not None
        return lifecycle.see_end(job, read, told, self._clock, answered=answered, exited=exited)

    def _look_for_requeued(self, now: float) -> None:
        """Find jobs that have ended and that the scheduler lists as alive: `scontrol requeue` begins them again."""
        newest = {job.newest.scheduler_id: job for job in sorted(self.session.jobs.values(), key=_submitted)}
        ended = [
            job
            for job in newest.values()
            if job.state in FINAL and job.answer.scheduler_state and not job.may_still_run
        ]
        between = [restarts.as_before(job) for job in self.session.jobs.values() if _is_unsubmitted(job)]
        known = {job.newest.scheduler_id: job for job in (*ended, *between)}
        asked = {job.newest.scheduler_id: job.newest.token for job in known.values()}
        for scheduler_id, status in self.scheduler.listed(asked).items():
            job = known[scheduler_id]
            seen = lifecycle.runs_again(job, status, now)
            if seen is not job:
                if job.restart is not None:
                    self.reactions.news.append(f"{job.name}: {lifecycle.no_new_attempt(job)}")
                seen, events = self._detectors[job.name].state(job, seen, now)
                self._events[job.name] += events
                self.session.put(seen)

    def _look_for_earlier(self, now: float) -> None:
        """Find attempts that were begun again although a newer one is in their place."""
        for job in list(self.session.jobs.values()):
            if job.past.earlier:
                told = self.scheduler.listed({attempt.scheduler_id: attempt.token for attempt in job.past.earlier})
                seen = restarts.see_earlier(job, told, now)
                if seen is not job:
                    self.session.put(seen)
                    if len(seen.past.begun_again) > len(job.past.begun_again):
                        self.reactions.news.append(f"{job.name}: {seen.history[-1].message}")

    def _read_logs(self, job: JobState, now: float, *, final: bool) -> JobState:
        if job.logs.resolved_log_path:
            job = self._read(job, job.logs.resolved_log_path, now, final=final)
        spec = self._specs[job.name]
        found = [path for pattern in spec.streams for path in _files(*stream_files(pattern, job.newest.scheduler_id))]
        for path in dict.fromkeys((*spec.output_paths, *found)):
            if path != job.logs.resolved_log_path:
                job = self._read(job, path, now, final=final)
        return job

    def _read(self, job: JobState, path: str, now: float, *, final: bool) -> JobState:
        """A job after what one of its files has got since the last look; much of it is left for the next looks."""
        own = path == job.logs.resolved_log_path
        detector = self._detectors[job.name]
        budget = _LOG_BYTES_PER_CYCLE
        link = self._specs[job.name].log_path_current
        while True:
            before = job.logs.cursor if own else job.logs.cursors.get(path, Cursor())
            data, cursor = read_added(path, before, final=final, overwritten=not own)
            # asked for only where there is news, as a log that has none costs one stat a look
            if own and (data or final) and not os.path.lexists(link) and os.path.lexists(path):
                link_current(self._specs[job.name], path)
            if own:
                job = detect.see_log(job, data, cursor, now)
            elif cursor != before:
                logs = replace(job.logs, cursors={**job.logs.cursors, path: cursor})
                run = replace(job.run, last_activity=now) if data or cursor.grew(before) else job.run
                job = replace(job, logs=logs, run=run)
            if not data:
                return job
            job, events = detector.lines(job, data, cursor, now)
            self._events[job.name] += events
            budget -= len(data)
            if budget <= 0 and not final:
                return job

    def _complete(self, job: JobState, status: JobStatus | None) -> JobStatus | None:
        """The scheduler's answer, completed by what the job left itself: its exit code.

        That is asked where the scheduler has lost the job or has no code, and for failures, whose code sacct distorts
        (130 shows as 2).
        """
        if status is not None and self._prolog_failed(job, status):
            reason = "the prolog of its node failed (`sinfo -R` lists drained nodes)"
            return replace(status, scheduler_state="NODE_FAIL", reason=reason, failed_nodes=status.nodes)
        lost = status is None or status.scheduler_state == UNKNOWN
        known = status is not None and (status.scheduler_state not in ENDED or status.exit_code is not None)
        if not lost and known and status is not None and status.scheduler_state != "FAILED":
            return status
        never_began = status is not None and status.reason == NEVER_BEGAN
        lost = lost or never_began
        code = self._mark(job, "exit")
        if code is None:
            return None if never_began and self._has_begun(job) else status
        if lost or status is None:
            return JobStatus("COMPLETED" if code == 0 else "FAILED", "told by the job itself", code)
        return replace(status, exit_code=code)

    def _prolog_failed(self, job: JobState, status: JobStatus) -> bool:
        """True if SLURM shows a job as cancelled that a node could not start, by what slurmd wrote to its log.

        That is so for a job that may not be requeued; sacct names the user of slurmd (22.05). A job that is held after
        a failed prolog, and then cancelled by a person, has no nodes.
        """
        unexplained = status.scheduler_state == "CANCELLED" and not status.reason and not job.cancelled_by
        if not (unexplained and status.nodes and job.logs.resolved_log_path) or self._mark(job, "start") is not None:
            return False
        written, _ = read_added(job.logs.resolved_log_path, Cursor(), final=True)
        return any(line.startswith(_PROLOG_FAILED) for line in written.splitlines())

    def _with_own_times(self, job: JobState, now: float) -> JobState:
        """The job with the times that it left itself, which are truer than when somebody looked."""
        start = self._mark(job, "start")
        if start is None:
            return job
        newest = replace(job.newest, started_at=float(start))
        if job.state in FINAL:
            with contextlib.suppress(OSError):
                ended = min(self._mark_path(job, "exit").stat().st_mtime, max(now, time.time()))
                newest = replace(newest, ended_at=max(float(start), ended))
        return replace(job, newest=newest)

    def _has_begun(self, job: JobState) -> bool:
        """Whether a job has left traces of its beginning: a mark, or something in its log that was not read yet."""
        if job.state == RUNNING or self._mark(job, "start") is not None:
            return True
        with contextlib.suppress(OSError):
            return Path(job.logs.resolved_log_path).stat().st_size != job.logs.cursor.offset
        return False

    def _mark_path(self, job: JobState, kind: status_files.Kind) -> Path:
        return Path(self._specs[job.name].output_dir, MARKS, f"{job.newest.scheduler_id}.{kind}")

    def _mark(self, job: JobState, kind: status_files.Kind) -> int | None:
        """A number that the job's script left: when it started (seconds since 1970), or its exit code.

        What an earlier attempt left under the same id, as the scheduler began its ids anew, is not the job's.
        """
        start = status_files.read(self._mark_path(job, "start"), "start", self.now())
        token = job.newest.token
        if token and status_files.TOKEN_AT_END.search(start.name) and not start.name.endswith(f".{token}"):
            return None
        mark = start if kind == "start" else status_files.read(self._mark_path(job, kind), kind, self.now())
        if mark.wrong and mark.wrong not in self._complaints[job.name]:
            self._complaints[job.name].append(mark.wrong)
        return mark.number

    def _settle_accounts(self, now: float) -> None:
        """Add to each job's ledger what its attempts that have ended used: by the accounts, else by its own times."""
        patience = 0.0 if self.session.finished else _ACCOUNTS_LAG_SECONDS
        due = [
            (job, run)
            for job in self.session.jobs.values()
            for run in job.past.unsettled
            if run.ended_at <= now - patience
        ]
        with_gpus = {run.scheduler_id: run.token for job, run in due if self._specs[job.name].resources.gpus}
        usage: Mapping[str, Sequence[Usage]] = {}
        if with_gpus:
            with contextlib.suppress(SchedulerError):
                usage = self.scheduler.usage(with_gpus)
        for job, run in due:
            asked = self._specs[job.name].resources.gpus
            runs = usage.get(run.scheduler_id, [Usage(run.seconds)])
            seconds = sum(each.seconds * (asked if each.gpus is None else each.gpus) for each in runs)
            job = self.session.jobs[job.name]
            left = tuple(other for other in job.past.unsettled if other != run)
            past = replace(job.past, gpu_hours=job.past.gpu_hours + seconds / 3600, unsettled=left)
            self.session.put(replace(job, past=past))


def _is_between(job: JobState) -> bool:
    """Whether a job has a new attempt to come: the one before may be begun again meanwhile."""
    return job.state in (WAITING, SUBMITTING) and bool(job.past.earlier)


def _is_unsubmitted(job: JobState) -> bool:
    """Whether a job has had an attempt, and its next one was not submitted, nor is perhaps."""
    return job.past.before is not None and job.state in (WAITING, *FINAL)


def _submitted(job: JobState) -> float:
    return job.newest.submitted_at or 0.0


def _with_unrecorded(job: JobState, events: Iterable[Event]) -> JobState:
    """A job with events that are to be written into the session's record."""
    return replace(job, actions=replace(job.actions, unrecorded=(*job.actions.unrecorded, *events)))


def rest(
    monitors: Sequence[Monitor],
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    act: Callable[[Monitor], None] | None = None,
) -> None:
    """Pause between two rounds of cycles; what may be done meanwhile without another look is done.

    `act` does that for one monitor (None: `between_looks`).
    """
    left = seconds
    while left > 0:
        nap = max(min([left, *(monitor.nap_seconds for monitor in monitors)]), min(left, _SHORTEST_NAP_SECONDS))
        sleep(nap)
        left -= nap
        if left > 0:
            for monitor in monitors:
                (act or Monitor.between_looks)(monitor)


def detectors(manifest: Manifest) -> dict[str, Detector]:
    """What watches each job, by name; jobs with the same rules share it."""
    made: dict[str, Detector] = {}
    found = {}
    for job in manifest.jobs:
        own = job.monitoring
        key = json.dumps([own, job.inactivity_threshold_seconds])
        if key not in made:
            section = manifest.monitoring if own is None else own
            rules = Rules.of_section(section)
            made[key] = Detector(rules, job.inactivity_threshold_seconds)
        found[job.name] = made[key]
    return found


def _files(folder: str, names: str) -> list[str]:
    """The files of a folder whose names fit; none where it can't be read now."""
    try:
        return sorted(map(str, Path(folder).glob(names)))
    except OSError:
        return []
