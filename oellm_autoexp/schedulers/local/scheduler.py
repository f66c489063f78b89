"""The local scheduler: jobs as detached processes of this machine, a limited number at a time. Needs no daemon.

A submission stores the job's files (spool.py) and starts a worker for each free slot (worker.py); a poll reads files.
Jobs and workers go on after the submitter and the monitor have ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from oellm_autoexp import start
from oellm_autoexp.core.errors import InvalidSubmissionError, Problem, SchedulerError, StateError, SubmitError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.sbatch.directives import directive_lines
from oellm_autoexp.sbatch.signals import signal_before_end
from oellm_autoexp.schedulers.base import Scheduler, outside_jobs
from oellm_autoexp.schedulers.local.interpreter import interpreter
from oellm_autoexp.schedulers.local.processes import RUN_VARIABLE, conclude, enforce, lingers
from oellm_autoexp.schedulers.local.records import Job, no_process
from oellm_autoexp.schedulers.local.spool import CANCELLED, Spool
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.lock import Lock

_MAX_ARRAY_SIZE = 100_000
_WORKER_STAYS_SECONDS = 5.0
"""A worker stays for at least this long: within this time, a slot needs no other worker."""
_log = logging.getLogger(__name__)


class LocalScheduler(Scheduler):
    """The scheduler over the spool in `directory`. `slots` None: one per core that this process may use."""

    poll_interval_seconds = longest_poll_interval_seconds = 1.0
    settle_seconds = log_lag_seconds = 0.0

    def __init__(self, directory: Path, slots: int | None = None, kill_grace_seconds: float = 30) -> None:
        self._spool = Spool(directory)
        self._slots = slots or _cores()
        self._grace = kill_grace_seconds
        self._served_until: dict[int, float] = {}
        trust.check_folders(directory)

    def submit(self, submission: Submission) -> str:
        """See Scheduler.submit."""
        try:
            script = Path(submission.script_path)
            interpreter(script)
            text = trust.read_script(script, submission.script_digest)
            signal = signal_before_end(directive_lines(text))
            job = self._spool.add(submission, _unmarked(outside_jobs(os.environ)), signal)
        except OSError as error:
            where = error.filename or self._spool.directory
            raise SubmitError(Problem(f"{error.strerror}: {where}", submission.name)) from None
        except StateError as error:
            raise InvalidSubmissionError(*error.problems) from None
        except ValueError as error:
            raise InvalidSubmissionError(Problem(str(error), submission.script_path)) from None
        self._start_workers()
        return job

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        """See Scheduler.find."""
        tokens = {submission.token for submission in submissions}
        found: dict[str, str] = {}
        with _usable_files():
            for number in self._spool.numbers(self._spool.names()):
                found.update({job.submission.token: number for job in self._spool.tasks(number).values()})
        return {token: number for token, number in found.items() if token in tokens}

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.poll. Takes over jobs whose worker was killed, and starts workers for jobs that wait."""
        with _usable_files():
            names = self._spool.names()
            found = [self._spool.job(job, token) for job, token in jobs.items()]
            statuses = {job.id: self._status(job, names) for job in found if job is not None}
        if any(status.scheduler_state == "PENDING" for status in statuses.values()):
            self._start_workers()
        return statuses

    def _status(self, job: Job, names: Collection[str]) -> JobStatus:
        if f"{job.id}.end" in names and (ended := self._spool.ended(job.id)) is not None:
            return ended
        if f"{job.id}.run" in names:
            return self._begun(job)
        if f"{job.id}.stop" in names:
            return self._end_before_begin(job) or self._begun(job)
        return JobStatus("PENDING", "JobHeldUser" if f"{job.id}.hold" in names else "Resources")

    def _begun(self, job: Job) -> JobStatus:
        """The state of a job that has begun; does the work of its worker if that was killed."""
        run = self._spool.run(job.id)
        running = JobStatus("RUNNING", nodes="" if run is None else run.host, log_path=job.log_path)
        if run is None or run.has_worker:
            return running
        if run.alive or lingers(self._spool, job, run, self._grace):
            enforce(self._spool, job, run, self._grace)
            return running
        self._spool.end(job.id, status := conclude(self._spool, job, run))
        return self._spool.ended(job.id) or status

    def max_array_size(self) -> int:
        """See Scheduler.max_array_size."""
        return _MAX_ARRAY_SIZE

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.cancel."""
        with _usable_files():
            for wanted, token in jobs.items():
                job = self._spool.job(wanted, token)
                for task in self._spool.tasks(wanted, token).values() if job is None else [job]:
                    self._cancel(task)

    def hold(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.hold."""
        with _usable_files():
            for job in filter(None, map(self._spool.job, jobs.keys(), jobs.values())):
                self._spool.hold(job.id)

    def release(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.release."""
        with _usable_files():
            for job in filter(None, map(self._spool.job, jobs.keys(), jobs.values())):
                self._spool.release(job.id)
        self._start_workers()

    def _cancel(self, job: Job) -> None:
        if self._spool.ended(job.id) is not None or self._spool.code(job.id) is not None:
            return
        self._spool.stop(job.id, CANCELLED)
        if self._end_before_begin(job) is None and (run := self._spool.run(job.id)) is not None and run.here:
            enforce(self._spool, job, run, self._grace)

    def _end_before_begin(self, job: Job) -> JobStatus | None:
        """End a job that has not begun, so that no worker begins it afterwards; None if it has begun."""
        if not self._spool.begin(job.id, no_process()):
            return None
        self._spool.end(job.id, JobStatus(CANCELLED, log_path=job.log_path))
        return self._spool.ended(job.id)

    def _start_workers(self) -> None:
        """Start a worker for each free slot and waiting job. If that fails, the next poll does it again."""
        now = time.monotonic()
        try:
            slots = (slot for slot in range(self._slots) if now >= self._served_until.get(slot, 0))
            free = [slot for slot in slots if self._lock(slot).clear()]
            waiting = self._spool.waiting(self._spool.names()) if free else ()
            for slot, _ in zip(free, waiting, strict=False):
                self._start_worker(slot)
                self._served_until[slot] = now + _WORKER_STAYS_SECONDS
        except (OSError, subprocess.CalledProcessError) as error:
            _log.warning("can't start a worker of the local scheduler: %s", error)

    def _lock(self, slot: int) -> Lock:
        return Lock(self._spool.directory / f"slot-{slot}")

    def _start_worker(self, slot: int) -> None:
        worker = start.words("oellm_autoexp.schedulers.local.worker")
        numbers = map(str, (slot, self._grace, _WORKER_STAYS_SECONDS))
        words = [*worker, str(self._spool.directory.absolute()), *numbers]
        with trust.open_to_append(self._spool.directory / "workers.log") as output:
            # The shell ends at once, and the worker is no child of this process, which need not wait for it.
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**_unmarked(os.environ), "PYTHONPATH": start.search_path()},
                start_new_session=True,
                cwd="/",
                check=True,
            )


def _unmarked(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without RUN_VARIABLE: a process that a job starts by a submission is none of its own."""
    return {name: value for name, value in environment.items() if name != RUN_VARIABLE}


@contextlib.contextmanager
def _usable_files() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SchedulerError(Problem(f"can't use the local scheduler's files: {error}")) from None


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
