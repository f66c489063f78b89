"""The files of the local scheduler: what was submitted, which process runs it, and how it ended.

One folder holds everything, so any process can read the state of any job, and no process has to stay alive for it:

    <id>.job            the submission, with the signal that it asks for before its time limit (sbatch's --signal);
                        an array is one file
    <id>.env            the environment of the submission, readable by its owner only, as it may hold secrets; it is
                        removed when the job, or the last task of the array, has ended
    <id>[_<task>].run   the process that runs the job; this process itself makes the file, just before it becomes the
                        script
    <id>[_<task>].code  the script's exit code and the process id of the shell that wrote it (there may be no worker
                        to wait for the script)
    <id>[_<task>].sig   the job was sent that signal
    <id>[_<task>].stop  the job is to end; holds the state that it ends in: CANCELLED or TIMEOUT
    <id>[_<task>].term  the job was sent SIGTERM
    <id>[_<task>].hold  the job is not to begin for now: the one file that is removed again, when the job is released
    <id>[_<task>].end   how the job ended
    slot-<n>            the lock of worker n

A file is never changed once it exists: of several processes, the one that creates it first decides. So the names in
the folder say most of a job's state, and a file has to be read only once, as long as the job's .job file is the same
one. If a user removes the folder, numbers begin again at 1, and a process of an old job does not touch the new job
that has its number.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import CorruptError, Problem
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.sbatch.signals import Signal
from oellm_autoexp.schedulers.local.records import Job, Run, checked, no_process
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import create_atomic, parse_json, write_atomic
from oellm_autoexp.storage.lock import UNREADABLE_AFTER_SECONDS

CANCELLED, TIMEOUT = "CANCELLED", "TIMEOUT"
_VERSION = 1
_MOST_DIGITS = 12


@dataclass
class Spool:
    """The folder. Everywhere, the argument `names` is one listing of it."""

    directory: Path
    _tasks: dict[str, dict[str, Job]] = field(default_factory=dict, init=False, repr=False)
    _files: dict[str, tuple[int, int] | None] = field(default_factory=dict, init=False, repr=False)
    """The .job files that were read (inode, time of change in nanoseconds), by number."""
    _runs: dict[str, Run] = field(default_factory=dict, init=False, repr=False)
    _ends: dict[str, JobStatus] = field(default_factory=dict, init=False, repr=False)
    _newest: int = field(default=0, init=False, repr=False)

    def path(self, job: str, kind: str) -> Path:
        """The file of that kind of a job."""
        return self.directory / f"{job}.{kind}"

    def names(self) -> frozenset[str]:
        """The names of all files in the folder now."""
        try:
            return frozenset(os.listdir(self.directory))
        except FileNotFoundError:
            return frozenset()

    # ---- submissions

    def add(self, submission: Submission, environment: dict[str, str], signal: Signal | None = None) -> str:
        """Store a submission; returns its id, the next free number. After an OSError, nothing was submitted."""
        trust.private_folder(self.directory)
        content = {"submission": asdict(submission), "signal": signal and asdict(signal)}
        data = json.dumps({"version": _VERSION, **content})
        variables = json.dumps({"version": _VERSION, "environment": environment})
        if not self._newest:
            self._newest = max(map(int, _numbers(self.names())), default=0)
        while True:
            self._newest += 1
            number = str(self._newest)
            # The environment comes first: a job may begin as soon as its .job file exists.
            if self.path(number, "job").exists() or not create_atomic(self.path(number, "env"), variables, 0o600):
                continue
            if create_atomic(self.path(number, "job"), data, 0o600):
                return number
            self.path(number, "env").unlink(missing_ok=True)

    def numbers(self, names: Collection[str]) -> list[str]:
        """The ids of all jobs and arrays, in the order of their submission."""
        return sorted(_numbers(names), key=int)

    def tasks(self, number: str, token: str = "") -> Mapping[str, Job]:
        """The tasks of an array, or the one job, by id; empty if there is no such number, or if it has another token.

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
                given = data["submission"]
                lists = {"array": tuple(given["array"]), "exclude": tuple(given.get("exclude", ()))}
                plain = {**given, **lists}
                submission = checked(Submission, plain)
                signal = checked(Signal, data["signal"]) if data.get("signal") else None
                ids = [f"{number}_{task}" for task in submission.array] or [number]
                self._tasks[number] = {job: Job(job, submission, signal) for job in ids}
                self._files[number] = file
        return self._tasks[number]

    def _file(self, number: str) -> tuple[int, int] | None:
        """The inode and time of change of a .job file, which differ if another file takes its name."""
        try:
            found = self.path(number, "job").stat() if _is_number(number) else None
        except FileNotFoundError:
            return None
        return found and (found.st_ino, found.st_mtime_ns)

    def _forget(self, number: str) -> None:
        """Forget what was read of a job whose .job file was replaced or removed."""
        for job in self._tasks.pop(number, {}):
            self._runs.pop(job, None)
            self._ends.pop(job, None)

    def has(self, job: Job) -> bool:
        """Whether this job still exists. If its folder was removed, another job may have its number.

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
            raise FileNotFoundError(errno.ENOENT, "its environment file is missing", str(self.path(job.number, "env")))
        with self._whole(job.number, "env"):
            found = data["environment"]
            if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
                raise TypeError("the environment has values that are not text")
        return dict(found)

    def tidy(self) -> None:
        """Remove environments of jobs that have ended, where the process that should have removed them was killed."""
        names = self.names()
        for number in [name[:-4] for name in names if name.endswith(".env")]:
            if f"{number}.job" in names:
                self._forget_environment(number)
            elif (since := self.since(number, "env")) is not None and time.time() >= since + UNREADABLE_AFTER_SECONDS:
                self.path(number, "env").unlink(missing_ok=True)

    def _forget_environment(self, number: str) -> None:
        """Remove the environment of a job that has ended, or of an array if all of its tasks have ended."""
        tasks = reversed(list(self.tasks(number)))  # the last task begins last, and mostly ends last
        if all(self.path(task, "end").exists() for task in tasks):
            self.path(number, "env").unlink(missing_ok=True)

    def waiting(self, names: Collection[str]) -> Iterator[Job]:
        """Jobs that may begin now, oldest first: not begun, within the limit of their array. Raises CorruptError."""
        for number in self.numbers(names):
            if f"{number}.run" in names:  # a single job that has begun; tasks of arrays are filtered below
                continue
            tasks = self.tasks(number).values()
            kept = ("run", "stop", "hold")
            free = (task for task in tasks if not any(f"{task.id}.{kind}" in names for kind in kept))
            limit = next((task.submission.array_limit for task in tasks), None)
            if limit is None:
                yield from free
            else:
                active = sum(f"{task.id}.run" in names and f"{task.id}.end" not in names for task in tasks)
                yield from itertools.islice(free, max(0, limit - active))

    # ---- a job's life

    def begin(self, job: str, run: Run) -> bool:
        """Record the process that is about to become the job; False if another process was faster."""
        return self._create(job, "run", asdict(run))

    def run(self, job: str) -> Run | None:
        """The process of a job that has begun. Raises CorruptError."""
        if job not in self._runs:
            data = self._read(job, "run")
            if data is None:
                since = self.since(job, "run")  # created by a process that was killed before it wrote the content
                late = since is not None and time.time() >= since + UNREADABLE_AFTER_SECONDS
                return no_process() if late else None
            with self._whole(job, "run"):
                self._runs[job] = checked(Run, data)
        return self._runs[job]

    def stop(self, job: str, state: str) -> None:
        """Record that a job is to end in this state (CANCELLED, TIMEOUT), unless that was recorded before."""
        create_atomic(self.path(job, "stop"), state, sync=False)

    def stopped(self, job: str) -> str | None:
        """The state that a job is to end in; None if it is not to end."""
        text = self._text(job, "stop")
        return None if text is None else text or CANCELLED

    def hold(self, job: str) -> None:
        """Record that a job is not to begin."""
        create_atomic(self.path(job, "hold"), "", sync=False)

    def release(self, job: str) -> None:
        """Let a job begin that was held."""
        self.path(job, "hold").unlink(missing_ok=True)

    def record_term(self, job: str) -> bool:
        """Record that a job is now sent SIGTERM; False if it was sent before."""
        return create_atomic(self.path(job, "term"), "", sync=False)

    def record_signal(self, job: str) -> bool:
        """Record that a job is now sent the signal that it asked for; False if it was sent before."""
        return create_atomic(self.path(job, "sig"), "", sync=False)

    def since(self, job: str, kind: str) -> float | None:
        """The time (seconds since 1970) at which a job's file of that kind was written; None if there is none."""
        try:
            return self.path(job, kind).stat().st_mtime
        except FileNotFoundError:
            return None

    def keep_script(self, job: str, text: str) -> Path:
        """Copy a job's script to where others can't replace it, as slurmd does, until the job ends."""
        path = self.path(job, "script")
        write_atomic(path, text, 0o600, sync=False)
        return path

    def code(self, job: str) -> int | None:
        """The exit code that the job's shell or its worker has recorded; None if there is none."""
        code, _, shell = (self._text(job, "code") or "").partition(" ")
        run = self.run(job) if shell else None
        return int(code) if _is_number(code) and (run is None or shell == str(run.pid)) else None

    def record_code(self, job: str, code: int) -> None:
        """Record the exit code for a shell that was killed before it could, unless there is one."""
        if self.code(job) is None:
            write_atomic(self.path(job, "code"), f"{code}\n", sync=False)

    def end(self, job: str, status: JobStatus) -> None:
        """Record how a job ended, unless that was recorded before."""
        self._create(job, "end", asdict(status))
        self.path(job, "script").unlink(missing_ok=True)
        self._forget_environment(job.partition("_")[0])

    def ended(self, job: str) -> JobStatus | None:
        """How a job ended; None if that is not recorded. Raises CorruptError."""
        if job not in self._ends:
            data = self._read(job, "end")
            if data is None:
                return None
            with self._whole(job, "end"):
                self._ends[job] = checked(JobStatus, data)
        return self._ends[job]

    # ---- files

    def _create(self, job: str, kind: str, data: dict[str, Any]) -> bool:
        return create_atomic(self.path(job, kind), json.dumps({"version": _VERSION, **data}))

    def _read(self, job: str, kind: str) -> dict[str, Any] | None:
        """The content of a file without its version; None if it is missing, or still empty (files.create_atomic)."""
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
            what = f"not a valid file of the local scheduler: {str(error).splitlines()[0]}"
            problem = Problem(what, str(self.path(job, kind)))
            raise CorruptError(problem) from None


def _numbers(names: Collection[str]) -> Iterator[str]:
    return (name[:-4] for name in names if name.endswith(".job") and _is_number(name[:-4]))


def _is_number(text: str) -> bool:
    """Whether a text is a number in ASCII digits, short enough to be a job's id or an exit code."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
