"""The files of the embedded local scheduler: what each job is, runs as, and became.

One folder holds everything, so that any process can tell the state of any job and none has to stay alive for it:

    <id>.job            what was submitted, with the signal that it asks for before its time limit (sbatch's --signal);
                        an array is one file
    <id>.env            the environment that it was submitted in, readable by its owner only, as it may hold secrets;
                        it goes when the job, or the last task of the array, has ended
    <id>[_<task>].run   the process that runs it, made by that process itself just before it becomes the script
    <id>[_<task>].code  the script's exit code and the number of its shell, which left it (in case nobody was there to
                        wait for it)
    <id>[_<task>].sig   it was sent that signal
    <id>[_<task>].stop  it is to end; holds the state that it ends in: CANCELLED or TIMEOUT
    <id>[_<task>].term  it was told so, by SIGTERM
    <id>[_<task>].end   how it ended
    slot-<n>            the claim of worker n

None of them is ever changed once it is there: the first one to make it has decided. A name in the folder's listing
thus says most of what there is to know, and what was read once need not be read again, as long as the job's file is the
same one: where people remove the folder, numbers begin anew, and what is still at work for an old job leaves the new
one of its number alone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import math
import os
import signal
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from oellm_autoexp.core.errors import CorruptError, Problem
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.sbatch.log_paths import resolve_log_path
from oellm_autoexp.sbatch.signals import Signal
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import create_atomic, parse_json, write_atomic
from oellm_autoexp.storage.lock import UNREADABLE_AFTER_SECONDS, boot_id, is_running, process_started

CANCELLED, TIMEOUT = "CANCELLED", "TIMEOUT"
RUN_VARIABLE = "OELLM_LOCAL_RUN"
"""The variable by which the processes of a job are known."""
_VERSION = 1
_MOST_DIGITS = 12
_LARGEST = 1 << 31  # of a C int: a process's number, an exit code
_LATEST = float(1 << 40)  # seconds since 1970


@dataclass(frozen=True)
class Run:
    """The process that a job became: leader of a session of its own, started (files.process_started) by a worker.

    `at` is its start in seconds since 1970.
    """

    host: str
    pid: int
    started: str
    at: float
    slot: int
    worker_pid: int
    worker_started: str

    @property
    def here(self) -> bool:
        """Whether its processes are ones of this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the leader still runs. What runs on another host is taken to do so until its worker says more."""
        return not self.here or (self.pid > 0 and is_running(self.pid, self.started))

    @property
    def worked_on(self) -> bool:
        """Whether the worker that started it is there to look after it."""
        return not self.here or (self.worker_pid > 0 and is_running(self.worker_pid, self.worker_started))

    @property
    def mark(self) -> str:
        """What the job's processes carry in their environment, as do those that make a session of their own."""
        return f"{self.pid}@{self.started}"


def nobody() -> Run:
    """Stands in the .run of a job that was cancelled before it began."""
    return Run(socket.gethostname(), 0, "", 0.0, -1, 0, "")


@dataclass(frozen=True)
class Job:
    """One submitted job or array task."""

    id: str
    submission: Submission
    signal: Signal | None = None
    """What it asks for before its time limit."""

    @property
    def number(self) -> str:
        """The id of the job or of its array."""
        return self.id.partition("_")[0]

    @property
    def log_path(self) -> str:
        """The log's path, its patterns filled in."""
        return resolve_log_path(self.submission.log_path, self.id)


@dataclass
class Spool:
    """The folder, and every question about it. `names` stands for one listing of it everywhere."""

    directory: Path
    _tasks: dict[str, dict[str, Job]] = field(default_factory=dict, init=False, repr=False)
    _files: dict[str, tuple[int, int] | None] = field(default_factory=dict, init=False, repr=False)
    """Which .job was read (inode, time of change in nanoseconds), by its number."""
    _runs: dict[str, Run] = field(default_factory=dict, init=False, repr=False)
    _ends: dict[str, JobStatus] = field(default_factory=dict, init=False, repr=False)
    _newest: int = field(default=0, init=False, repr=False)

    def path(self, job: str, kind: str) -> Path:
        """The file of that kind of a job."""
        return self.directory / f"{job}.{kind}"

    def names(self) -> frozenset[str]:
        """The files that there are now."""
        try:
            return frozenset(os.listdir(self.directory))
        except FileNotFoundError:
            return frozenset()

    # ---- submissions

    def add(self, submission: Submission, environment: dict[str, str], signal: Signal | None = None) -> str:
        """Spool a submission; returns its id, the next free number. Raises OSError; then it was not taken."""
        trust.private_folder(self.directory)
        content = {"submission": asdict(submission), "signal": signal and asdict(signal)}
        data = json.dumps({"version": _VERSION, **content})
        around = json.dumps({"version": _VERSION, "environment": environment})
        if not self._newest:
            self._newest = max(map(int, _numbers(self.names())), default=0)
        while True:
            self._newest += 1
            number = str(self._newest)
            # The environment first: a job may begin as soon as it is there.
            if self.path(number, "job").exists() or not create_atomic(self.path(number, "env"), around, 0o600):
                continue
            if create_atomic(self.path(number, "job"), data, 0o600):
                return number
            self.path(number, "env").unlink(missing_ok=True)

    def numbers(self, names: Collection[str]) -> list[str]:
        """The ids of all jobs and arrays, first come first."""
        return sorted(_numbers(names), key=int)

    def tasks(self, number: str, token: str = "") -> Mapping[str, Job]:
        """The tasks of an array, or the one job, by id; none if there is no such number, or it has another token.

        Raises CorruptError.
        """
        tasks = self._submitted(number)
        return {} if any(token not in ("", job.submission.token) for job in tasks.values()) else tasks

    def _submitted(self, number: str) -> Mapping[str, Job]:
        file = self._file(number)
        if self._files.get(number) != file:
            self._forget(number)
        if number not in self._tasks:
            data = self._read(number, "job") if file else None
            if data is None:
                return {}
            with self._whole(number, "job"):
                plain = {**data["submission"], "array": tuple(data["submission"]["array"])}
                submission = _fitting(Submission, plain)
                signal = _fitting(Signal, data["signal"]) if data.get("signal") else None
                ids = [f"{number}_{task}" for task in submission.array] or [number]
                self._tasks[number] = {job: Job(job, submission, signal) for job in ids}
                self._files[number] = file
        return self._tasks[number]

    def _file(self, number: str) -> tuple[int, int] | None:
        """What tells a job's file from another one of its name."""
        try:
            found = self.path(number, "job").stat() if _is_number(number) else None
        except FileNotFoundError:
            return None
        return found and (found.st_ino, found.st_mtime_ns)

    def _forget(self, number: str) -> None:
        """Forget what was read of a job whose file is another one now, or gone."""
        for job in self._tasks.pop(number, {}):
            self._runs.pop(job, None)
            self._ends.pop(job, None)

    def has(self, job: Job) -> bool:
        """Whether this very job is still here: its folder was not removed, nor is its number another job's.

        Raises CorruptError.
        """
        return self.job(job.id, job.submission.token) is not None

    def job(self, job: str, token: str = "") -> Job | None:
        """The job or array task of this id, if there is one and it has this token. Raises CorruptError."""
        return self.tasks(job.partition("_")[0], token).get(job)

    def environment(self, job: Job) -> dict[str, str]:
        """The environment that a job was submitted in. Raises OSError, CorruptError."""
        data = self._read(job.number, "env")
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "its environment is gone", str(self.path(job.number, "env")))
        with self._whole(job.number, "env"):
            found = data["environment"]
            if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
                raise TypeError("the environment holds something else than texts")
        return dict(found)

    def tidy(self) -> None:
        """Take away environments that nobody needs any more, where whoever was to do so died before."""
        names = self.names()
        for number in [name[:-4] for name in names if name.endswith(".env")]:
            if f"{number}.job" in names:
                self._forget_environment(number)
            elif (since := self.since(number, "env")) is not None and time.time() >= since + UNREADABLE_AFTER_SECONDS:
                self.path(number, "env").unlink(missing_ok=True)

    def _forget_environment(self, number: str) -> None:
        """Take away the environment of a job that has ended; of an array, when all of its tasks have."""
        tasks = reversed(list(self.tasks(number)))  # the last task is the last to begin, and mostly to end
        if all(self.path(task, "end").exists() for task in tasks):
            self.path(number, "env").unlink(missing_ok=True)

    def waiting(self, names: Collection[str]) -> Iterator[Job]:
        """Jobs that may start now, first come first: not begun, not over their array's limit. Raises CorruptError."""
        for number in self.numbers(names):
            if f"{number}.run" in names:  # no array, and begun; arrays are looked at task by task
                continue
            tasks = self.tasks(number).values()
            free = (task for task in tasks if f"{task.id}.run" not in names and f"{task.id}.stop" not in names)
            limit = next((task.submission.array_limit for task in tasks), None)
            if limit is None:
                yield from free
            else:
                active = sum(f"{task.id}.run" in names and f"{task.id}.end" not in names for task in tasks)
                yield from itertools.islice(free, max(0, limit - active))

    # ---- a job's life

    def begin(self, job: str, run: Run) -> bool:
        """Record the process that is about to become the job; False if another one was faster."""
        return self._create(job, "run", asdict(run))

    def run(self, job: str) -> Run | None:
        """The process of a job that has begun. Raises CorruptError."""
        if job not in self._runs:
            data = self._read(job, "run")
            if data is None:
                since = self.since(job, "run")  # made by one who died before it could fill it
                late = since is not None and time.time() >= since + UNREADABLE_AFTER_SECONDS
                return nobody() if late else None
            with self._whole(job, "run"):
                self._runs[job] = _fitting(Run, data)
        return self._runs[job]

    def stop(self, job: str, state: str) -> None:
        """Ask for a job's end, in this state (CANCELLED, TIMEOUT), unless that was done before."""
        create_atomic(self.path(job, "stop"), state, sync=False)

    def stopped(self, job: str) -> str | None:
        """The state in which a job was asked to end, if it was."""
        text = self._text(job, "stop")
        return None if text is None else text or CANCELLED

    def warn(self, job: str) -> bool:
        """Record that a job is told now to end; False if it was told before."""
        return create_atomic(self.path(job, "term"), "", sync=False)

    def signalled(self, job: str) -> bool:
        """Record that a job is sent now the signal that it asked for; False if it was sent before."""
        return create_atomic(self.path(job, "sig"), "", sync=False)

    def since(self, job: str, kind: str) -> float | None:
        """Since when (seconds since 1970) a job has a file of that kind, if it has."""
        try:
            return self.path(job, kind).stat().st_mtime
        except FileNotFoundError:
            return None

    def keep_script(self, job: str, text: str) -> Path:
        """Keep the script that a job runs where others can't replace it, as slurmd does, until the job's end."""
        path = self.path(job, "script")
        write_atomic(path, text, 0o600, sync=False)
        return path

    def code(self, job: str) -> int | None:
        """The exit code that the job's shell left, or its worker for it."""
        code, _, shell = (self._text(job, "code") or "").partition(" ")
        run = self.run(job) if shell else None
        return int(code) if _is_number(code) and (run is None or shell == str(run.pid)) else None

    def leave_code(self, job: str, code: int) -> None:
        """Leave an exit code for a shell that could not (it was killed), unless there is one."""
        if self.code(job) is None:
            write_atomic(self.path(job, "code"), f"{code}\n", sync=False)

    def end(self, job: str, status: JobStatus) -> None:
        """Record how a job ended; what is recorded already stays."""
        self._create(job, "end", asdict(status))
        self.path(job, "script").unlink(missing_ok=True)
        self._forget_environment(job.partition("_")[0])

    def ended(self, job: str) -> JobStatus | None:
        """How a job ended, if that is recorded. Raises CorruptError."""
        if job not in self._ends:
            data = self._read(job, "end")
            if data is None:
                return None
            with self._whole(job, "end"):
                self._ends[job] = _fitting(JobStatus, data)
        return self._ends[job]

    # ---- files

    def _create(self, job: str, kind: str, data: dict[str, Any]) -> bool:
        return create_atomic(self.path(job, kind), json.dumps({"version": _VERSION, **data}))

    def _read(self, job: str, kind: str) -> dict[str, Any] | None:
        """The content of a file without its version; None if it is not there, or (files.create_atomic) empty yet."""
        path = self.path(job, kind)
        try:
            text = trust.read(path, most=trust.LINE)
        except FileNotFoundError:
            return None
        if not text:
            return None
        data = parse_json(text, path, "local scheduler's file", _VERSION, any_bytes=True)
        del data["version"]
        return data

    def _text(self, job: str, kind: str) -> str | None:
        try:
            return trust.read(self.path(job, kind), most=trust.SMALL).decode(errors="replace").strip()
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _whole(self, job: str, kind: str) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            what = f"not a whole file of the local scheduler: {str(error).splitlines()[0]}"
            problem = Problem(what, str(self.path(job, kind)))
            raise CorruptError(problem) from None


def _numbers(names: Collection[str]) -> Iterator[str]:
    return (name[:-4] for name in names if name.endswith(".job") and _is_number(name[:-4]))


def _is_number(text: str) -> bool:
    """Whether a text is a job's id or an exit code, of digits that a computer writes; ids have ten at most."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


_Made = TypeVar("_Made", Submission, Signal, Run, JobStatus)


def _fitting(kind: type[_Made], data: Mapping[str, Any]) -> _Made:
    """A record of the spool whose fields have the types that it declares. Raises TypeError.

    Texts are as Python has paths and variables, which need not be UTF-8: pydantic refuses those.
    """
    made = kind(**data)
    for name, hint in _hints()[kind.__name__].items():
        value = getattr(made, name)
        fits = all(_fits(int, item) for item in value) if hint == tuple[int, ...] else _fits(hint, value)
        if not fits:
            raise TypeError(f"{name} can't be {value!r:.80}")
    return made


@functools.cache
def _hints() -> Mapping[str, Mapping[str, Any]]:
    """The types of the fields of each kind of record, by its name."""
    return {kind.__name__: get_type_hints(kind) for kind in (Submission, Signal, Run, JobStatus)}


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type (`int`, `float | None`), and a number one that the system's calls take."""
    kinds = get_args(hint) or (hint,)
    if type(value) is int:
        return abs(value) < (_LATEST if float in kinds else _LARGEST) and (int in kinds or float in kinds)
    if type(value) is float:
        return float in kinds and abs(value) < _LATEST
    return type(value) in kinds


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def hold(spool: Spool, job: Job, run: Run, grace_seconds: float) -> None:
    """Hold a running job to its time limit and to requests to stop: TERM once, and KILL after `grace_seconds`.

    Before the limit, the job gets the signal that it asks for.
    Called again and again, by the worker that looks after the job or, should there be none, by whoever polls.
    """
    if spool.stopped(job.id) is None:
        limit = job.submission.time_limit_seconds
        left = math.inf if limit is None else run.at + limit - time.time()
        if left > 0:
            if job.signal is not None and left <= job.signal.seconds:
                _signal_before_end(spool, job, run, job.signal)
            return
        spool.stop(job.id, TIMEOUT)
    if spool.warn(job.id):
        _signal_session(run, signal.SIGCONT, signal.SIGTERM)  # as SLURM does: one that is stopped gets to know, too
    elif time.time() >= (spool.since(job.id, "term") or 0) + grace_seconds:
        _signal_session(run, signal.SIGKILL)


def _signal_before_end(spool: Spool, job: Job, run: Run, asked: Signal) -> None:
    """Send a job, once, the signal that it asks for, as soon as there is a process to get it.

    Its batch shell, the process of its script, is the only child of the session's leader. Without /proc (macOS) that
    can't be found out, and nothing is sent.
    """
    if spool.since(job.id, "sig") is not None:
        return
    members = [pid for pid in _session(run) if pid > 0 and pid != run.pid]
    told = [pid for pid in members if (_parent(pid) == run.pid) == asked.to_batch_shell]
    if told and spool.signalled(job.id):
        _send(told, asked.number)


def lingers(spool: Spool, job: Job, run: Run, grace_seconds: float) -> bool:
    """Whether a job that was told to end, and whose script has, still has processes with time left: to save, say."""
    if spool.stopped(job.id) is None:
        return False
    told = spool.since(job.id, "term")
    return told is not None and time.time() < told + grace_seconds and bool(_session(run))


def conclude(spool: Spool, job: Job, run: Run) -> JobStatus:
    """How a job ended whose process is gone; what it left running is killed, as SLURM does."""
    _signal_session(run, signal.SIGKILL)
    code = spool.code(job.id)
    stopped = spool.stopped(job.id)
    if stopped is not None:  # as SLURM has it, also if the job then ended in good order
        state, reason = stopped, "TimeLimit" if stopped == TIMEOUT else ""
    elif code is None:
        state, reason = "NODE_FAIL", "its process is gone without an exit code (was the machine restarted?)"
    else:
        state, reason = ("COMPLETED", "") if code == 0 else ("FAILED", "NonZeroExitCode")
    return JobStatus(state, reason, code, run.host, job.log_path)


def _signal_session(run: Run, *signals: int) -> None:
    """Send signals to all processes of a job, its own process groups (timeout(1) makes one) included."""
    for _ in range(3):  # a process may fork while its siblings are being told
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
    """The living processes of a job, as kill(2) takes them: of its session, and with its mark, in one of their own.

    The kernel gives no new process the leader's number while the session has members, but may do so afterwards.
    """
    if not run.here or run.pid <= 0 or not run.started.startswith(boot_id()):
        return []
    leader = process_started(run.pid)
    ours = leader in (None, run.started)
    try:
        everybody = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except FileNotFoundError:  # macOS: the leader's group, while the leader shows that the number is still its own
        return [-run.pid] if leader == run.started else []
    mark = f"{RUN_VARIABLE}={run.mark}".encode()
    members = [pid for pid in everybody if (ours and _session_of(pid) == run.pid) or mark in _environment_of(pid)]
    return [pid for pid in members if process_started(pid) is not None]


def _environment_of(pid: int) -> list[bytes]:
    """The variables that a process was started with (proc(5)); none of other users' and of those that have ended."""
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
    """The parent of a process (proc(5): field 4 of /proc/PID/stat); -1 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return -1


# ---------------------------------------------------------------------------------------------------------------------
# Scripts


def interpreter(script: Path) -> list[str]:
    """The words of a script's `#!` line, by which the kernel, and sbatch, runs it: a program, and at most one argument.

    Raises OSError, and ValueError for what sbatch refuses too (in its words).
    """
    with trust.open_file(script, most=trust.LINE) as file:
        first = file.readline(4096)
    if not first:
        raise ValueError("Batch script is empty!")
    if not first.startswith(b"#!") or not first[2:].strip():
        raise ValueError("This does not look like a batch script (no '#!' in its first line)")
    if first.endswith(b"\r\n"):
        raise ValueError("Batch script contains DOS line breaks (\\r\\n)")
    return os.fsdecode(first[2:].strip()).split(maxsplit=1)
