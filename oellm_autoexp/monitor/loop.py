"""Watches a session: observe, detect, save, act, again; until every job has ended."""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from oellm_autoexp import trust
from oellm_autoexp.claims import Claim
from oellm_autoexp.errors import CorruptError, Problem, SchedulerError, StateError, UnwritableError
from oellm_autoexp.logs import Cursor, read_added
from oellm_autoexp.model import JobStatus, Manifest, Usage
from oellm_autoexp.monitor import detect, gate
from oellm_autoexp.monitor.detect import Detector
from oellm_autoexp.monitor.events import Event
from oellm_autoexp.monitor.reactions import Reactions
from oellm_autoexp.monitor.record import RecordFile
from oellm_autoexp.monitor.rules import Rules
from oellm_autoexp.monitor.session import Session
from oellm_autoexp.monitor.tracked import FINAL, IN_QUEUE, PENDING, RUNNING, SUBMITTING, WAITING, Run, TrackedJob
from oellm_autoexp.scheduler.base import ENDED, UNKNOWN, Scheduler
from oellm_autoexp.slurm.script import MARKS
from oellm_autoexp.workflow.submit import Submitter

_LOG_BYTES_PER_CYCLE = 64 << 20
_ERRAND_SECONDS = 2.0
_UNCLEAR_PAUSE_SECONDS = 10.0
_ASK_EVERY_SECONDS = 2.0
_SHORTEST_NAP_SECONDS = 0.1
_SLOWER = 1.2
_ACCOUNTS_LAG_SECONDS = 10.0
_MOST_DIGITS = 15  # of a mark; more are garbage, and no number of seconds


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
    claim: Claim
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    trouble: str = ""
    obstacle: str = ""
    cycles: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}
        if odd := sorted(self._specs.keys() ^ self.session.jobs.keys()):
            what = f"its jobs are not those of {self.session.manifest_path}: {', '.join(odd[:5])}"
            hint = "only one of the two has them: is one of another plan, or was it changed by hand?"
            raise CorruptError(Problem(what, str(self.session.path), hint))
        self._pause_seconds = self.scheduler.poll_interval_seconds
        self._detectors = detectors(self.manifest)
        self._record = RecordFile(self.session.path)
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self.submitter.in_queue = self._came_into_queue
        self.reactions = Reactions(self.manifest, self.session, self.scheduler, self._record, self._detectors, self.now)

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
        return min(seconds, _UNCLEAR_PAUSE_SECONDS) if self.submitter.unsettled else seconds

    @property
    def queued_ids(self) -> list[str]:
        """The scheduler's ids of the jobs in its queue."""
        return [job.scheduler_id for job in self.session.jobs.values() if job.state in IN_QUEUE]

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
        return self.reactions.awaited or (self.submitter.awaited and not self.trouble)

    def go_on(self) -> None:
        """Get on with what is under way, and submit what may go for that; the scheduler is not asked for news."""
        self.obstacle = ""
        with self._obstacles():
            self.claim.beat(self.interval_seconds)
            waiting = self._waiting()
            self._act()
            if (self.submitter.awaited and not self.trouble) or self._waiting() - waiting:
                self._submit()

    def _waiting(self) -> set[str]:
        return {job.name for job in self.session.jobs.values() if job.state == WAITING}

    def _came_into_queue(self, job: TrackedJob) -> TrackedJob:
        job, events = self._detectors[job.name].state(job.model_copy(update={"state": WAITING}), job, self.now())
        return job.model_copy(update={"unrecorded": (*job.unrecorded, *events)}) if events else job

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
        self._observe(now)
        self._settle_accounts(now)
        # Facts before deeds. The session is what counts: events are in it until they are in the record, too.
        for name, events in self._events.items():
            if events:
                job = self.session.jobs[name]
                self.session.put(job.model_copy(update={"unrecorded": (*job.unrecorded, *events)}))
        self._events.clear()
        self.session.save()
        late = [job for job in self.session.jobs.values() if job.unrecorded]
        self._record.add(event for job in late for event in job.unrecorded)
        for job in late:
            self.session.put(job.model_copy(update={"unrecorded": ()}))

    def cancel(self, names: Iterable[str], reason: str) -> list[str]:
        """End jobs for good, and begin no new attempt of them; the names of those that had not ended.

        Those in the queue are ended by the scheduler, those that wait are never submitted. Raises SchedulerError; then
        those that wait are cancelled all the same, and the others perhaps.
        """
        self.submitter.settle_all()
        alive = [name for name in names if not self.session.jobs[name].over]
        for name in alive:
            self.reactions.cancel(name, reason, self.now())
        self.session.save()
        self.reactions.act()
        return alive

    def _observe(self, now: float) -> None:
        watched = [job for job in self.session.jobs.values() if job.state in IN_QUEUE]
        try:
            answers = self.scheduler.poll([job.scheduler_id for job in watched])
        except SchedulerError as error:  # no answer is no news
            self.trouble = error.problems[0].what
            answers = None
        for job in sorted(watched, key=lambda job: bool(job.after)):  # those that are followed come first
            try:
                status = None if answers is None else self._complete(job, answers.get(job.scheduler_id))
                if gate.cut_off(job, status, self.session.jobs):
                    self.session.put(gate.withdrawn(job, now))
                    continue
                seen = self._seen(job, now, status, answered=answers is not None)
            except Exception:  # one job must not keep the others from being watched
                self._events.pop(job.name, None)
                seen = job.happened(now, "not watched", traceback.format_exc(limit=-3))
            if seen is not job:
                self.session.put(seen)

    def _seen(self, job: TrackedJob, now: float, status: JobStatus | None, *, answered: bool) -> TrackedJob:
        """A job after a look at the scheduler's answer and at its logs: what it wrote comes before how it ended."""
        detector = self._detectors[job.name]
        seen = detect.see_status(job, status, now) if answered else job
        if not job.state == seen.state == PENDING:  # of one that was requeued: the rest of what its run wrote
            read = self._read_logs(job, now, final=seen.state in FINAL)
            if read is not job:
                seen = detect.see_status(read, status, now) if answered else read
        if seen.state != job.state:
            seen = self._with_own_times(seen)
            if seen.state in FINAL:
                if job.state == PENDING and seen.started_at != job.started_at:  # it ran between two looks
                    seen = self._began(job, seen, now)
                seen = _with_run(seen)
            seen, events = detector.state(job, seen, now)
            self._events[job.name] += events
        known = status is not None and status.scheduler_state != UNKNOWN
        seen, events = detector.quiet(seen, now, known=known)
        self._events[job.name] += events
        return seen

    def _began(self, job: TrackedJob, ended: TrackedJob, now: float) -> TrackedJob:
        """A job that began to run and ended since the last look, with what follows from its beginning."""
        running = ended.model_copy(update={"state": RUNNING, "reason": "", "runs": job.runs + 1})
        began, events = self._detectors[job.name].state(job, running, now)
        self._events[job.name] += events
        return began.model_copy(update={"state": ended.state, "reason": ended.reason})

    def _read_logs(self, job: TrackedJob, now: float, *, final: bool) -> TrackedJob:
        if job.resolved_log_path:
            job = self._read(job, job.resolved_log_path, now, final=final)
        for path in self._specs[job.name].output_paths:
            if path != job.resolved_log_path:
                job = self._read(job, path, now, final=final)
        return job

    def _read(self, job: TrackedJob, path: str, now: float, *, final: bool) -> TrackedJob:
        """A job after what one of its files has got since the last look; much of it is left for the next looks."""
        own = path == job.resolved_log_path
        detector = self._detectors[job.name]
        budget = _LOG_BYTES_PER_CYCLE
        while True:
            before = job.cursor if own else job.cursors.get(path, Cursor())
            data, cursor = read_added(path, before, final=final)
            if own:
                job = detect.see_log(job, data, cursor, now)
            elif cursor != before:
                update: dict[str, object] = {"cursors": {**job.cursors, path: cursor}}
                job = job.model_copy(update=update | ({"last_activity": now} if data else {}))
            if not data:
                return job
            job, events = detector.lines(job, data, cursor, now)
            self._events[job.name] += events
            budget -= len(data)
            if budget <= 0 and not final:
                return job

    def _complete(self, job: TrackedJob, status: JobStatus | None) -> JobStatus | None:
        """The scheduler's answer, completed by what the job left itself: its exit code.

        That is asked where the scheduler has lost the job or has no code, and for failures, whose code sacct distorts
        (130 shows as 2).
        """
        lost = status is None or status.scheduler_state == UNKNOWN
        known = status is not None and (status.scheduler_state not in ENDED or status.exit_code is not None)
        if not lost and known and status is not None and status.scheduler_state != "FAILED":
            return status
        code = self._mark(job, "exit")
        if code is None:
            return status
        if lost or status is None:
            return JobStatus("COMPLETED" if code == 0 else "FAILED", "told by the job itself", code)
        return replace(status, exit_code=code)

    def _with_own_times(self, job: TrackedJob) -> TrackedJob:
        """The job with the times that it left itself, which are truer than when somebody looked."""
        start = self._mark(job, "start")
        if start is None:
            return job
        update: dict[str, float] = {"started_at": float(start)}
        if job.state in FINAL:
            with contextlib.suppress(OSError):
                update["ended_at"] = max(float(start), self._mark_path(job, "exit").stat().st_mtime)
        return job.model_copy(update=update)

    def _mark_path(self, job: TrackedJob, kind: str) -> Path:
        return Path(self._specs[job.name].output_dir, MARKS, f"{job.scheduler_id}.{kind}")

    def _mark(self, job: TrackedJob, kind: str) -> int | None:
        """A number that the job's script left: when it started (seconds since 1970), or its exit code."""
        try:
            text = trust.read(self._mark_path(job, kind), most=trust.SMALL, lenient=True)
            number = text.partition(b"\n")[0]
            return int(number) if len(number) <= _MOST_DIGITS else None
        except (OSError, ValueError, StateError):
            return None

    def _settle_accounts(self, now: float) -> None:
        """Add to each job's ledger what its attempts that have ended used: by the accounts, else by its own times."""
        patience = 0.0 if self.session.finished else _ACCOUNTS_LAG_SECONDS
        due = [
            (job, run) for job in self.session.jobs.values() for run in job.unsettled if run.ended_at <= now - patience
        ]
        with_gpus = [run.scheduler_id for job, run in due if self._specs[job.name].resources.gpus]
        usage: Mapping[str, Sequence[Usage]] = {}
        if with_gpus:
            with contextlib.suppress(SchedulerError):
                usage = self.scheduler.usage(with_gpus)
        for job, run in due:
            asked = self._specs[job.name].resources.gpus
            runs = usage.get(run.scheduler_id, [Usage(run.seconds)])
            seconds = sum(each.seconds * (asked if each.gpus is None else each.gpus) for each in runs)
            job = self.session.jobs[job.name]
            left = tuple(other for other in job.unsettled if other != run)
            update = {"gpu_hours": job.gpu_hours + seconds / 3600, "unsettled": left}
            self.session.put(job.model_copy(update=update))


def _with_run(job: TrackedJob) -> TrackedJob:
    """A job whose attempt has ended, with that in its ledger's queue."""
    ended = job.ended_at or 0.0
    seconds = max(0.0, ended - job.started_at) if job.started_at else 0.0
    run = Run(scheduler_id=job.scheduler_id, ended_at=ended, seconds=seconds)
    return job.model_copy(update={"unsettled": (*job.unsettled, run)})


def rest(monitors: Sequence[Monitor], seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Pause between two rounds of cycles; what may be done meanwhile without another look is done."""
    left = seconds
    while left > 0:
        nap = max(min([left, *(monitor.nap_seconds for monitor in monitors)]), min(left, _SHORTEST_NAP_SECONDS))
        sleep(nap)
        left -= nap
        if left > 0:
            for monitor in monitors:
                monitor.between_looks()


def detectors(manifest: Manifest) -> dict[str, Detector]:
    """What watches each job, by name; jobs with the same rules share it."""
    made: dict[str, Detector] = {}
    found = {}
    for job in manifest.jobs:
        own = job.monitoring
        key = json.dumps([own, job.inactivity_threshold_seconds])
        if key not in made:
            section = manifest.monitoring if own is None else own
            rules = Rules.model_validate({k: v for k, v in section.items() if k in Rules.model_fields})
            made[key] = Detector(rules, job.inactivity_threshold_seconds)
        found[job.name] = made[key]
    return found
