"""Locks that survive the death of their holder (`.lease` files of sessions, of the queue); which process still runs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import LockedError, Problem, StateError
from oellm_autoexp.core.text import printable
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import create_atomic, write_atomic

STALE_AFTER_SECONDS = 120.0
"""A lock of another machine is abandoned if it did not change for so long after the pause that its holder announced."""
UNREADABLE_AFTER_SECONDS = 10.0
"""The writer of a file that is still empty or garbage after this time was killed; before, it may still be writing."""
_UNANNOUNCED_SECONDS = 600.0  # for the file of an older version, which does not announce a pause
_LONGEST_GAP_SECONDS = 60.0  # the most that the time between two reads counts: the reader may have been suspended
_FOR_EVER_SECONDS = 1e9


def process_started(pid: int) -> str | None:
    """A text that identifies the running process with this pid: no other process ever has both. None if none runs.

    It is the boot's id and the start in clock ticks since boot (proc(5): field 22 of /proc/PID/stat). Where there is
    no /proc (macOS) it is "" for any running process: there a reused pid can't be recognized.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None if Path("/proc/self").exists() else _answers(pid)
    state, *fields = status[status.rindex(b")") + 2 :].split()
    return None if state in b"ZX" else f"{boot_id()}.{int(fields[18])}"


def _answers(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


@functools.cache
def boot_id() -> str:
    """An id of the last boot of this machine (random(4)); "" if there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""


def is_running(pid: int, started: str) -> bool:
    """Whether the process that had `pid` and start time `started` still runs."""
    return process_started(pid) == started


@dataclass(frozen=True)
class Machine:
    """The scope in which a pid is unique: a host, one boot of it, and a pid namespace ("" where there is none)."""

    host: str
    boot: str
    pids: str

    @classmethod
    def here(cls) -> Machine:
        """The machine, and the container, that this process runs in."""
        return cls(socket.gethostname(), boot_id(), _pid_namespace())


@functools.cache
def _pid_namespace() -> str:
    """The pid namespace of this process (namespaces(7)); containers with one host name have several."""
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)  # noqa: PTH116
    except OSError:
        return ""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock (`started`: see process_started), with a token of this one acquisition."""

    host: str
    pid: int
    started: str
    token: str
    pids: str = ""
    """The pid namespace; "" in files of older versions."""

    @classmethod
    def parse(cls, content: bytes) -> Holder | None:
        """The holder in the content of a lock file; None if it is not whole."""
        return None if (data := _parsed(content)) is None else data[0]

    def on(self, machine: Machine) -> bool:
        """Whether the process runs on this machine, so that its pid shows whether it still runs."""
        boot = self.started.partition(".")[0]
        known = all(mine in ("", its) or its == "" for mine, its in ((machine.boot, boot), (machine.pids, self.pids)))
        return self.host == machine.host and known

    def __str__(self) -> str:
        host = " ".join(printable(self.host).split())
        return f"process {self.pid} on {host}" if self.pid else "a process that is acquiring it now"


def _parsed(content: bytes) -> tuple[Holder, float] | None:
    """The holder in a lock file, and the seconds within which it announced to change the file."""
    try:
        data = json.loads(content)
        holder = Holder(
            str(data["host"]), int(data["pid"]), str(data["started"]), str(data["token"]), str(data.get("pids", ""))
        )
        announced = float(data.get("next_in", _UNANNOUNCED_SECONDS))
        return (holder, min(max(0.0, announced), _FOR_EVER_SECONDS)) if math.isfinite(announced) else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _content(holder: Holder, beats: int, next_in_seconds: float) -> bytes:
    """The content of a lock file; its length is the same for one holder, so that it can be overwritten in place."""
    pulse = {"beats": f"{beats:016}", "next_in": f"{min(next_in_seconds, _FOR_EVER_SECONDS):016.3f}"}
    return json.dumps({**asdict(holder), **pulse}).encode()


_UNKNOWN_HOLDER = Holder("", 0, "", "")
_RETRY_SECONDS = 0.05
_READ_AGAIN_SECONDS = 1.0
_TRIES = 100  # each failed try means that another process made progress


@dataclass(frozen=True)
class _Reading:
    """A lock file as it was read. `unchanged_seconds` is the time for which this process has read it unchanged."""

    content: bytes
    state: tuple[Any, ...]
    at: float
    unchanged_seconds: float
    limit_seconds: float
    """Seconds without a change after which it counts as abandoned; 0 if the pid decides."""
    holder: Holder | None
    """The process that holds the lock; None if that no longer runs."""


_last_readings: dict[tuple[Machine, str], _Reading] = {}
"""The last readings by this process of locks for which no pid decides; shared by all Lock objects."""


class Lock:
    """An exclusive lock in a small file, which a crash of its holder can't leave locked; works without `flock`.

    The file names host, boot, pid namespace, pid and start time. On the same machine, a lock whose process has ended is
    taken over at once. The lock of another machine is held while it changes: each heartbeat increments a number in it
    and announces the next one. It is taken over when this process has read it unchanged for STALE_AFTER_SECONDS
    more than was announced, by its own monotonic clock; clocks of two machines are never compared.
    """

    def __init__(
        self, path: Path, machine: Machine | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._machine = machine or Machine.here()
        self._monotonic = monotonic
        self._mine: Holder | None = None
        self._beats = 0

    def acquire(self) -> Holder | None:
        """Take the lock. Returns None on success, else the process that holds it. Raises OSError, StateError."""
        pid, here = os.getpid(), self._machine
        mine = Holder(here.host, pid, process_started(pid) or "", secrets.token_hex(8), here.pids)
        held, self._mine = self._mine, mine  # before the file is created: an interrupt may come at any moment
        for _ in range(_TRIES):
            found = self._read()
            if found is None:
                create_atomic(self.path, _content(mine, 0, 0))
            elif Holder.parse(found.content) == mine:  # the file decides, whatever create_atomic returned
                return None
            elif (other := found.holder or self._take_over(found, mine)) is not None:
                self._mine = held
                return other
        raise StateError(Problem("the lock can't be acquired", str(self.path), "if it is a broken link, remove it"))

    def _take_over(self, abandoned: _Reading, mine: Holder) -> Holder | None:
        """Replace a lock that no running process holds, unless it has changed; returns the process that does so now.

        Several processes may find the same abandoned lock. Only one may replace it: the one that takes a second lock,
        whose name is made of the content of the first. So none of them can replace the new lock of a successor.
        """
        key = hashlib.sha256(self.path.name.encode() + b"/" + abandoned.content).hexdigest()[:16]
        successor = Lock(self.path.with_name(f".{key}.heir"), self._machine, self._monotonic)
        other = successor.acquire()
        if other is None:
            found = self._read()
            if found is not None and found.content == abandoned.content and found.holder is None:
                write_atomic(self.path, _content(mine, 0, 0))
            successor.release()
        return other

    def _read(self) -> _Reading | None:
        key = (self._machine, os.path.abspath(self.path))  # noqa: PTH100  it need not exist
        try:
            with trust.open_file(self.path, most=trust.SMALL, anyone=True) as file:
                content, status = file.read(), os.fstat(file.fileno())
        except FileNotFoundError:
            _last_readings.pop(key, None)
            return None
        now = self._monotonic()
        holder, announced = _parsed(content) or (None, 0.0)
        if holder is not None and holder.on(self._machine):
            alive = is_running(holder.pid, holder.started)
            return _Reading(content, (), now, 0.0, 0.0, holder if alive else None)
        state = (content, status.st_mtime_ns, status.st_ino)
        last = _last_readings.get(key)
        unchanged = 0.0
        if last is not None and last.state == state:
            unchanged = last.unchanged_seconds + min(max(0.0, now - last.at), _LONGEST_GAP_SECONDS)
        limit = UNREADABLE_AFTER_SECONDS if holder is None else STALE_AFTER_SECONDS + announced
        owner = (holder or _UNKNOWN_HOLDER) if unchanged < limit else None
        _last_readings[key] = found = _Reading(content, state, now, unchanged, limit, owner)
        return found

    def holder(self) -> Holder | None:
        """The running process that holds the lock now; None if there is none."""
        found = self._read()
        return None if found is None else found.holder

    def clear(self) -> bool:
        """Remove a lock that no running process holds; returns whether the lock is free then.

        A process that has just started must read the lock of another machine for some time before it can do this.
        """
        if not self.path.exists():
            return True
        if self.holder() is not None or self.acquire() is not None:
            return False
        self.release()
        return True

    def outlook(self) -> str:
        """For a lock of another machine: since when it is unchanged, and when it is taken over; else ""."""
        found = self._read()
        if found is None or found.holder is None or not found.limit_seconds:
            return ""
        unchanged, limit = round(found.unchanged_seconds), round(found.limit_seconds)
        return f"its heartbeat has not changed for {unchanged} s; it is taken over after {limit} s"

    def await_change(
        self,
        what: str,
        report: Callable[[str], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Holder | None:
        """Wait until the lock of another machine changes (its holder still runs) or counts as abandoned.

        Returns the process that holds it then, None if none does. `report` gets a line that says what this waits for.
        """
        begun = self._read()
        reported = False
        while True:
            found = self._read()
            if found is None or found.holder is None:
                return None
            if begun is None or not found.limit_seconds or found.state != begun.state:
                return found.holder
            if not reported and found.unchanged_seconds > 0:
                reported = True
                report(f"waiting: {what} is in use by {found.holder}; {self.outlook()}")
            sleep(_READ_AGAIN_SECONDS)

    def beat(self, next_in_seconds: float = 0) -> None:
        """Renew the heartbeat, and announce when the next one is due (other machines then wait so much longer).

        Raises LockedError if the lock was taken over, while this process was suspended.
        """
        mine = self._mine
        with contextlib.suppress(FileNotFoundError):
            # In place: to replace the file could remove the lock of a process that has just taken it over.
            file = os.open(self.path, os.O_RDWR)
            try:
                if mine is not None and Holder.parse(os.read(file, os.fstat(file).st_size)) == mine:
                    self._beats += 1
                    os.pwrite(file, _content(mine, self._beats, next_in_seconds), 0)
                    now = time.time()
                    os.utime(file, (now, now + min(next_in_seconds, _FOR_EVER_SECONDS)))  # for older versions
                    return
            finally:
                os.close(file)
        raise LockedError(Problem(f"lost to {self.holder() or 'an unknown process'}", str(self.path)))

    def release(self) -> None:
        """Release the lock, if this process (not the one that it was forked from) still holds it."""
        mine, self._mine = self._mine, None
        if mine is None or mine.pid != os.getpid():
            return
        found = self._read()
        if found is not None and Holder.parse(found.content) == mine:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(
    path: Path, what: str, *, wait_seconds: float = 0, waiting: Callable[[str], None] | None = None
) -> Iterator[Lock]:
    """Hold the lock `path` during a block; wait up to `wait_seconds` for it if another process has it.

    With `waiting`, this also waits until it is known whether the holder on another machine still runs, however long
    that takes; `waiting` gets a line that says so. Raises LockedError, which names the holder and `what` it holds, and
    StateError if the lock file can't be created.
    """
    lock = Lock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        give_up = time.monotonic() + wait_seconds
        unknown_until = time.monotonic() + 2 * UNREADABLE_AFTER_SECONDS
        while (holder := lock.acquire()) is not None:
            now = time.monotonic()
            if waiting is not None and holder is not _UNKNOWN_HOLDER and lock.await_change(what, waiting) is None:
                continue
            if now >= give_up and (holder is not _UNKNOWN_HOLDER or now >= unknown_until):
                break
            time.sleep(_RETRY_SECONDS)
    except OSError as error:
        with contextlib.suppress(OSError):  # the file may exist already, and would block the next try
            lock.release()
        raise StateError(Problem(f"can't lock {what}: {error.strerror}", str(path))) from None
    except KeyboardInterrupt:
        lock.release()
        raise
    if holder is not None:
        outlook = lock.outlook()
        hint = "wait for it, or stop that process"
        raise LockedError(
            Problem(f"{what} is in use by {holder}", str(path), f"{hint}; {outlook}" if outlook else hint)
        )
    try:
        yield lock
    finally:
        lock.release()
