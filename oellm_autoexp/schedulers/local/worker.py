"""One slot of the local scheduler: takes waiting jobs one after another, and goes when there are none.

Run by start.py as `oellm_autoexp.schedulers.local.worker SPOOL SLOT GRACE_SECONDS STAY_SECONDS`. Started detached by
whoever submits. It needs nobody to stay alive, and its jobs do not need it: each is the leader of its own session, and
its processes carry a mark, by which they are found in other sessions, too.
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
from oellm_autoexp.schedulers.local.spool import RUN_VARIABLE, Job, Run, Spool, conclude, hold, interpreter, lingers
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.lock import Lock, process_started

_SHORTEST_NAP, _LONGEST_NAP = 0.02, 0.25
_BEAT_SECONDS = 30.0
# Runs the script and leaves its exit code behind, also when the worker is gone by then. Signals to all of the job's
# processes are for the script: this shell only notes them (which, unlike ignoring them, is not inherited).
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
    """The worker of one slot. It holds the slot for at least `stay_seconds`, also if there is nothing to do."""

    def __init__(self, spool: Spool, slot: int, grace_seconds: float, stay_seconds: float) -> None:
        self._spool = spool
        self._slot = slot
        self._grace = grace_seconds
        self._stay = stay_seconds
        self._claim = Lock(spool.directory / f"slot-{slot}")
        self._lost = False
        self._beat_at = 0.0
        self._started = process_started(os.getpid()) or ""

    def work(self) -> None:
        """Run jobs while there are any and this slot is ours."""
        while not self._lost:
            if self._claim.acquire() is not None:
                return
            try:
                self._serve()
            finally:
                self._claim.release()
            # A job may have been spooled between the last look and the release: its submitter saw this slot taken.
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
                self._nap(_LONGEST_NAP)
            else:
                return

    def _next(self) -> Job | None:
        return next(self._spool.waiting(self._spool.names()), None)

    def _nap(self, seconds: float) -> None:
        """Sleep, and keep the slot; it can be lost only to another host, while this one slept or was cut off."""
        time.sleep(seconds)
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + _BEAT_SECONDS
            try:
                self._claim.beat()
            except LockedError:
                self._lost = True

    def _take_over_orphans(self) -> None:
        """Look after the jobs that this slot's last worker left running: they fill the slot."""
        self._spool.tidy()
        names = self._spool.names()
        begun = {name.removesuffix(".run") for name in names if name.endswith(".run")}
        ended = {name.removesuffix(".end") for name in names if name.endswith(".end")}
        for job in filter(None, map(self._spool.job, sorted(begun - ended))):
            run = self._spool.run(job.id)
            if run is None or run.slot != self._slot or not run.here or run.worked_on:
                continue
            while self._spool.has(job) and (run.alive or lingers(self._spool, job, run, self._grace)):
                hold(self._spool, job, run, self._grace)
                self._nap(_LONGEST_NAP)
            if self._spool.has(job):
                self._spool.end(job.id, conclude(self._spool, job, run))

    def _run(self, job: Job) -> None:
        pid = os.fork()
        if pid == 0:
            self._become(job)
        nap = _SHORTEST_NAP
        while True:
            ended, wait_status = os.waitpid(pid, os.WNOHANG)
            run = self._spool.run(job.id) if self._spool.has(job) else None
            if ended:
                break
            if run is not None and self._started_by_me(run, pid):
                hold(self._spool, job, run, self._grace)
            self._nap(nap)
            nap = min(nap * 1.3, _LONGEST_NAP)
        if run is None:  # it could not even say that it begins: no space left? Or its folder was removed
            self._nap(_LONGEST_NAP)
        elif self._started_by_me(run, pid):
            self._spool.leave_code(job.id, _shell_code(wait_status))
            while lingers(self._spool, job, run, self._grace):
                self._nap(_LONGEST_NAP)
            self._spool.end(job.id, conclude(self._spool, job, run))

    def _started_by_me(self, run: Run, pid: int) -> bool:
        """Whether a .run is that of my child; another worker's child may have been faster."""
        return run.here and (run.worker_pid, run.worker_started, run.pid) == (os.getpid(), self._started, pid)

    def _become(self, job: Job) -> NoReturn:
        """In the child: claim the job by writing its .run, then turn into its shell."""
        try:
            os.setsid()
            pid, host = os.getpid(), socket.gethostname()
            started = process_started(pid) or ""
            run = Run(host, pid, started, time.time(), self._slot, os.getppid(), self._started)
            # Its file is looked at once more: the number may be another job's by now, which then is the one that began.
            if self._spool.begin(job.id, run) and (begun := self._spool.job(job.id)) is not None:
                self._execute(begun, run)
        finally:
            os._exit(1)

    def _execute(self, job: Job, run: Run) -> None:
        """Turn into the shell that runs the job's script; if that can't be, record it as the job's end."""
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
    """Undo what Python, nohup or a shell's `&` have set to be ignored: a job would inherit it."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # the C library keeps some for itself
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
