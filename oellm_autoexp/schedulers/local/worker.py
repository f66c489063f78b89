"""The process that serves one slot of the local scheduler: runs waiting jobs one by one, and ends when there are none.

Run by start.py as `oellm_autoexp.schedulers.local.worker SPOOL SLOT GRACE_SECONDS STAY_SECONDS`. Each process that
submits or polls starts workers, detached. A worker goes on without that process, and a job without its worker: a job is
the leader of a session of its own, and its processes have a variable in their environment by which they are found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from oellm_autoexp.core.errors import LockedError, StateError
from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.schedulers.base import job_variables
from oellm_autoexp.schedulers.local.interpreter import interpreter
from oellm_autoexp.schedulers.local.processes import RUN_VARIABLE, conclude, enforce, lingers
from oellm_autoexp.schedulers.local.records import Job, Run
from oellm_autoexp.schedulers.local.spool import Spool
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.lock import Lock, process_started

_SHORTEST_SLEEP, _LONGEST_SLEEP = 0.02, 0.25
_BEAT_SECONDS = 30.0
# Runs the script and records its exit code, also if the worker has ended by then. Signals to all processes of the job
# are for the script: this shell handles them by doing nothing. (Ignored signals would be ignored by the script, too.)
_SHELL = """\
trap : HUP INT QUIT TERM USR1 USR2
code_path=$1
shift
"$@"
code=$?
echo "$code $$" > "$code_path.part" && mv -- "$code_path.part" "$code_path"
exit "$code"
"""


class Worker:
    """The worker of one slot. It keeps the slot's lock for at least `stay_seconds`, also without jobs."""

    def __init__(self, spool: Spool, slot: int, grace_seconds: float, stay_seconds: float) -> None:
        self._spool = spool
        self._slot = slot
        self._grace = grace_seconds
        self._stay = stay_seconds
        self._lock = Lock(spool.directory / f"slot-{slot}")
        self._lost = False
        self._beat_at = 0.0
        self._started = process_started(os.getpid()) or ""

    def work(self) -> None:
        """Run jobs while there are any and this process has the lock of the slot."""
        while not self._lost:
            if self._lock.acquire() is not None:
                return
            try:
                self._serve()
            finally:
                self._lock.release()
            # A job may have been submitted between the last check and the release; its submitter saw a locked slot.
            if self._next() is None:
                return

    def _serve(self) -> None:
        until = time.monotonic() + self._stay
        self._take_over_orphans()
        while not self._lost:
            job = self._next()
            if job is not None:
                self._run(job)
            elif time.monotonic() < until:
                self._sleep(_LONGEST_SLEEP)
            else:
                return

    def _next(self) -> Job | None:
        return next(self._spool.waiting(self._spool.names()), None)

    def _sleep(self, seconds: float) -> None:
        """Sleep, and refresh the lock. Only another host can take it, after this one was suspended or disconnected."""
        time.sleep(seconds)
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + _BEAT_SECONDS
            try:
                self._lock.beat()
            except LockedError:
                self._lost = True

    def _take_over_orphans(self) -> None:
        """Take over the running jobs of this slot's last worker, which was killed: they still use the slot."""
        self._spool.tidy()
        names = self._spool.names()
        begun = {name.removesuffix(".run") for name in names if name.endswith(".run")}
        ended = {name.removesuffix(".end") for name in names if name.endswith(".end")}
        for job in filter(None, map(self._spool.job, sorted(begun - ended))):
            run = self._spool.run(job.id)
            if run is None or run.slot != self._slot or not run.here or run.has_worker:
                continue
            while self._spool.has(job) and (run.alive or lingers(self._spool, job, run, self._grace)):
                enforce(self._spool, job, run, self._grace)
                self._sleep(_LONGEST_SLEEP)
            if self._spool.has(job):
                self._spool.end(job.id, conclude(self._spool, job, run))

    def _run(self, job: Job) -> None:
        pid = os.fork()
        if pid == 0:
            self._become(job)
        pause = _SHORTEST_SLEEP
        while True:
            ended, wait_status = os.waitpid(pid, os.WNOHANG)
            run = self._spool.run(job.id) if self._spool.has(job) else None
            if ended:
                break
            if run is not None and self._started_by_me(run, pid):
                enforce(self._spool, job, run, self._grace)
            self._sleep(pause)
            pause = min(pause * 1.3, _LONGEST_SLEEP)
        if run is None:  # the child could not write its .run: the file system is full, or the folder was removed
            self._sleep(_LONGEST_SLEEP)
        elif self._started_by_me(run, pid):
            self._spool.record_code(job.id, _shell_code(wait_status))
            while lingers(self._spool, job, run, self._grace):
                self._sleep(_LONGEST_SLEEP)
            self._spool.end(job.id, conclude(self._spool, job, run))

    def _started_by_me(self, run: Run, pid: int) -> bool:
        """Whether a .run file is that of this worker's child; the child of another worker may have been faster."""
        return run.here and (run.worker_pid, run.worker_started, run.pid) == (os.getpid(), self._started, pid)

    def _become(self, job: Job) -> NoReturn:
        """In the child: take the job by writing its .run file, then execute its shell."""
        try:
            os.setsid()
            pid, host = os.getpid(), socket.gethostname()
            started = process_started(pid) or ""
            run = Run(host, pid, started, time.time(), self._slot, os.getppid(), self._started)
            # The .job file is read once more: if the number is another job's by now, that job has begun.
            if self._spool.begin(job.id, run) and (begun := self._spool.job(job.id)) is not None:
                self._execute(begun, run)
        finally:
            os._exit(1)

    def _execute(self, job: Job, run: Run) -> None:
        """Execute the shell that runs the job's script; if that fails, record the failure as the job's end."""
        try:
            _redirect(Path(job.log_path))
            _reset_signals()
            os.chdir(job.submission.work_dir)
            text = trust.read_script(Path(job.submission.script_path), job.submission.script_digest)
            script = self._spool.keep_script(job.id, text)
            words = [*interpreter(script), str(script)]
            environment = {
                **self._spool.environment(job),
                **job_variables(job.submission, job.id),
                RUN_VARIABLE: run.mark,
            }
            code_path = str(self._spool.path(job.id, "code"))
            os.execve("/bin/sh", ["sh", "-c", _SHELL, "sh", code_path, *words], environment)  # noqa: S606
        except (OSError, ValueError, StateError) as error:
            reason = f"can't start: {error}"
            with contextlib.suppress(OSError):
                os.write(2, f"job {job.id} {reason}\n".encode())
            self._spool.end(job.id, JobStatus("FAILED", reason, None, socket.gethostname(), job.log_path))


def _shell_code(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


def _redirect(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    nowhere = str(log) == os.devnull
    with log.open("wb") if nowhere else trust.open_to_append(log) as output, Path(os.devnull).open("rb") as null:
        os.dup2(null.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def _reset_signals() -> None:
    """Restore the signals that Python, nohup or a shell's `&` have set to be ignored: a job would inherit that."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # the C library reserves some signals
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    """Entry point of the worker process."""
    directory, slot, grace, stay = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Worker(Spool(Path(directory)), int(slot), float(grace), float(stay)).work()


if __name__ == "__main__":
    main()
