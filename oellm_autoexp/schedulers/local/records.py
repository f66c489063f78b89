"""What the local scheduler's files hold: a submitted job, and the process that it became; read with checked types."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.sbatch.log_paths import resolve_log_path
from oellm_autoexp.sbatch.signals import Signal
from oellm_autoexp.storage.lock import is_running

_LARGEST = 1 << 31  # of a C int: a process id, an exit code
_LATEST = float(1 << 40)  # seconds since 1970


@dataclass(frozen=True)
class Run:
    """The process that a job became: leader of a session of its own, started by a worker.

    `started` as in lock.process_started; `at` is the start in seconds since 1970.
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
        """Whether the job runs on this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the leader still runs. On another host it counts as running until its worker records the end."""
        return not self.here or (self.pid > 0 and is_running(self.pid, self.started))

    @property
    def has_worker(self) -> bool:
        """Whether the worker that started it still runs. On another host the worker counts as running."""
        return not self.here or (self.worker_pid > 0 and is_running(self.worker_pid, self.worker_started))

    @property
    def mark(self) -> str:
        """The value of RUN_VARIABLE in the environment of all processes of the job, also in other sessions."""
        return f"{self.pid}@{self.started}"


def no_process() -> Run:
    """The content of the .run file of a job that was cancelled before it began."""
    return Run(socket.gethostname(), 0, "", 0.0, -1, 0, "")


@dataclass(frozen=True)
class Job:
    """One submitted job or array task."""

    id: str
    submission: Submission
    signal: Signal | None = None
    """The signal that the job asks for before its time limit (sbatch's --signal)."""

    @property
    def number(self) -> str:
        """The id of the job or of its array."""
        return self.id.partition("_")[0]

    @property
    def log_path(self) -> str:
        """The path of the log, its patterns (`%j`) replaced."""
        return resolve_log_path(self.submission.log_path, self.id)


_Record = TypeVar("_Record", Submission, Signal, Run, JobStatus)


def checked(kind: type[_Record], data: Mapping[str, Any]) -> _Record:
    """A record made of `data`, if its fields have the types that they declare. Raises TypeError.

    This is not pydantic's work: paths and variables need not be UTF-8, and pydantic refuses such text.
    """
    made = kind(**data)
    for name, hint in _hints()[kind.__name__].items():
        value = getattr(made, name)
        if not (_fit(hint, value) if get_origin(hint) is tuple else _fits(hint, value)):
            raise TypeError(f"{name} can't be {value!r:.80}")
    return made


@functools.cache
def _hints() -> Mapping[str, Mapping[str, Any]]:
    """The types of the fields of each kind of record, by its name."""
    return {kind.__name__: get_type_hints(kind) for kind in (Submission, Signal, Run, JobStatus)}


def _fit(hint: Any, values: Any) -> bool:
    """Whether a list, as JSON has it, or a tuple is of a type such as `tuple[int, ...]`."""
    return isinstance(values, list | tuple) and all(_fits(get_args(hint)[0], value) for value in values)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type (`int`, `float | None`); a number must be one that system calls accept."""
    kinds = get_args(hint) or (hint,)
    if type(value) is int:
        return abs(value) < (_LATEST if float in kinds else _LARGEST) and (int in kinds or float in kinds)
    if type(value) is float:
        return float in kinds and abs(value) < _LATEST
    return type(value) in kinds
