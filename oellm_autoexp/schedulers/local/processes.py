"""The processes of a local job: signals to them, its time limit, and how it ended."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.sbatch.signals import Signal
from oellm_autoexp.schedulers.local.records import Job, Run
from oellm_autoexp.schedulers.local.spool import TIMEOUT, Spool
from oellm_autoexp.storage.lock import boot_id, process_started

RUN_VARIABLE = "OELLM_LOCAL_RUN"
"""The environment variable by which the processes of a job are found."""


def enforce(spool: Spool, job: Job, run: Run, grace_seconds: float) -> None:
    """Enforce the time limit of a running job, and requests to stop it: SIGTERM once, SIGKILL after `grace_seconds`.

    Before its time limit, the job gets the signal that it asks for.
    Called repeatedly, by the job's worker or, if there is none, by each process that polls.
    """
    if spool.stopped(job.id) is None:
        limit = job.submission.time_limit_seconds
        left = math.inf if limit is None else run.at + limit - time.time()
        if left > 0:
            if job.signal is not None and left <= job.signal.seconds:
                _signal_before_end(spool, job, run, job.signal)
            return
        spool.stop(job.id, TIMEOUT)
    if spool.record_term(job.id):
        _signal_session(run, signal.SIGCONT, signal.SIGTERM)  # as SLURM does: for a stopped process
    elif time.time() >= (spool.since(job.id, "term") or 0) + grace_seconds:
        _signal_session(run, signal.SIGKILL)


def _signal_before_end(spool: Spool, job: Job, run: Run, asked: Signal) -> None:
    """Send a job, once, the signal that it asks for, as soon as there is a process to receive it.

    The batch shell, the process of the job's script, is the only child of the session's leader. Without /proc (macOS)
    this child can't be found, and nothing is sent.
    """
    if spool.since(job.id, "sig") is not None:
        return
    members = [pid for pid in _session(run) if pid > 0 and pid != run.pid]
    receivers = [pid for pid in members if (_parent(pid) == run.pid) == asked.to_batch_shell]
    if receivers and spool.record_signal(job.id):
        _send(receivers, asked.number)


def lingers(spool: Spool, job: Job, run: Run, grace_seconds: float) -> bool:
    """Whether a job that is to end, and whose script has ended, has other processes that may still run (to save)."""
    if spool.stopped(job.id) is None:
        return False
    terminated_at = spool.since(job.id, "term")
    return terminated_at is not None and time.time() < terminated_at + grace_seconds and bool(_session(run))


def conclude(spool: Spool, job: Job, run: Run) -> JobStatus:
    """How a job ended whose main process is gone. Its other processes are killed, as by SLURM."""
    _signal_session(run, signal.SIGKILL)
    code = spool.code(job.id)
    stopped = spool.stopped(job.id)
    if stopped is not None:  # as in SLURM, also if the script then ended with exit code 0
        state, reason = stopped, "TimeLimit" if stopped == TIMEOUT else ""
    elif code is None:
        state, reason = "NODE_FAIL", "its process is gone without an exit code (was the machine restarted?)"
    else:
        state, reason = ("COMPLETED", "") if code == 0 else ("FAILED", "NonZeroExitCode")
    return JobStatus(state, reason, code, run.host, job.log_path)


def _signal_session(run: Run, *signals: int) -> None:
    """Send signals to all processes of a job, also to those in groups of their own (timeout(1) makes one)."""
    for _ in range(3):  # a process may fork while the others are sent the signal
        members = _session(run)
        _send(members, *signals)
        if not members or signal.SIGKILL not in signals:
            return


def _send(pids: Collection[int], *signals: int) -> None:
    for pid in pids:
        for number in signals:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def _session(run: Run) -> list[int]:
    """The running processes of a job, as kill(2) takes them: those of its session, and those with its mark.

    The kernel does not give the leader's id to a new process while the session has members, but may do so afterwards.
    """
    if not run.here or run.pid <= 0 or not run.started.startswith(boot_id()):
        return []
    leader = process_started(run.pid)
    ours = leader in (None, run.started)
    try:
        every_pid = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except FileNotFoundError:  # macOS: the leader's group, as long as the leader itself still has the id
        return [-run.pid] if leader == run.started else []
    mark = f"{RUN_VARIABLE}={run.mark}".encode()
    members = [pid for pid in every_pid if (ours and _session_of(pid) == run.pid) or mark in _environment_of(pid)]
    return [pid for pid in members if process_started(pid) is not None]


def _environment_of(pid: int) -> list[bytes]:
    """The variables that a process was started with (proc(5)); empty for other users' processes and after the end."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _parent(pid: int) -> int:
    """The parent of a process (proc(5): field 4 of /proc/PID/stat); -1 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return -1
