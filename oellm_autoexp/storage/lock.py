"""Locks that survive the death of who holds them (`.lease` files of sessions, of the queue); processes told apart."""

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
"""A lock of another machine is abandoned when it has not changed for the pause that its holder announced and this."""
UNREADABLE_AFTER_SECONDS = 10.0
"""A file that is still empty or garbage after this long has lost its writer; before, it may be in the making."""
_UNANNOUNCED_SECONDS = 600.0  # of a file that an older version wrote, which does not hold the pause
_LONGEST_GAP_SECONDS = 60.0  # what an interval between two looks counts at most: the observer may have slept
_FOR_EVER_SECONDS = 1e9


def process_started(pid: int) -> str | None:
    """When a live process started, as a word that no other process with this pid ever has; None if there is none.

    It is the boot's id and the start in clock ticks since boot (proc(5): field 22 of /proc/PID/stat). Where there is
    no /proc (macOS) it is "" for any live process: there a reused pid can't be told.
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
    """A word for the time since this machine was last started (random(4)), "" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""


def is_running(pid: int, started: str) -> bool:
    """Whether the process that had `pid` and start time `started` still runs."""
    return process_started(pid) == started


@dataclass(frozen=True)
class Machine:
    """Where a process id means one process: a host, one boot of it, and a pid namespace ("" where there is none)."""

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
    """Who holds a claim: a process (`started`: see process_started), and a word of this very claim."""

    host: str
    pid: int
    started: str
    token: str
    pids: str = ""
    """The pid namespace; "" in files of older versions."""

    @classmethod
    def parse(cls, content: bytes) -> Holder | None:
        """The holder that a claim file names; None if it does not hold one, whole."""
        return None if (data := _parsed(content)) is None else data[0]

    def on(self, machine: Machine) -> bool:
        """Whether the process is one of this machine, so that its id tells whether it lives."""
        boot = self.started.partition(".")[0]
        known = all(mine in ("", its) or its == "" for mine, its in ((machine.boot, boot), (machine.pids, self.pids)))
        return self.host == machine.host and known

    def __str__(self) -> str:
        host = " ".join(printable(self.host).split())
        return f"process {self.pid} on {host}" if self.pid else "a process that takes it just now"


def _parsed(content: bytes) -> tuple[Holder, float] | None:
    """The holder in a claim file, and the seconds within which it announced to change the file."""
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
    """A claim file: of one length for one holder, so that it can be overwritten in place."""
    pulse = {"beats": f"{beats:016}", "next_in": f"{min(next_in_seconds, _FOR_EVER_SECONDS):016.3f}"}
    return json.dumps({**asdict(holder), **pulse}).encode()


_SOMEBODY = Holder("", 0, "", "")
_BETWEEN_TRIES_SECONDS = 0.05
_BETWEEN_LOOKS_SECONDS = 1.0
_TRIES = 100  # each failed one means that another process got further


@dataclass(frozen=True)
class _Sight:
    """A claim file as it was seen. `unchanged_seconds` is the time for which this process has seen it unchanged."""

    content: bytes
    state: tuple[Any, ...]
    at: float
    unchanged_seconds: float
    limit_seconds: float
    """For how long it must be unchanged until it counts as abandoned; 0 where the process id decides."""
    holder: Holder | None
    """The process that holds it, or None if none that is alive does."""


_seen: dict[tuple[Machine, str], _Sight] = {}
"""What this process has seen of claims that no process id decides on, whichever object has looked."""


class Lock:
    """An exclusive, crash-proof claim on a name, held by a small file; works without `flock`.

    The file names host, boot, pid namespace, pid and start time. A claim whose process is gone is taken over at once on
    the same machine. One of another machine is alive as long as it changes: each heartbeat counts up a number in it and
    announces the next. It is taken over when this process has seen it unchanged for STALE_AFTER_SECONDS more than was
    announced, by its own monotonic clock; no clocks of two machines are compared.
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
        """Take the claim. Returns None on success, else the process that holds it. Raises OSError."""
        pid, here = os.getpid(), self._machine
        mine = Holder(here.host, pid, process_started(pid) or "", secrets.token_hex(8), here.pids)
        held, self._mine = self._mine, mine  # before the file is made: an interrupt may come at any instant
        for _ in range(_TRIES):
            found = self._look()
            if found is None:
                create_atomic(self.path, _content(mine, 0, 0))
            elif Holder.parse(found.content) == mine:  # the file decides, whatever was said of our attempt to make it
                return None
            elif (other := found.holder or self._take_over(found, mine)) is not None:
                self._mine = held
                return other
        raise StateError(Problem("can't be claimed", str(self.path), "is it a link to nowhere? remove it"))

    def _take_over(self, dead: _Sight, mine: Holder) -> Holder | None:
        """Put `mine` in the place of a claim that nobody alive holds, unless it has changed; or who else does so now.

        Several processes may find the same dead claim. The right to replace it is a claim itself, named after the dead
        one; so only one of them has it, and none can replace a successor's fresh claim by mistake.
        """
        key = hashlib.sha256(self.path.name.encode() + b"/" + dead.content).hexdigest()[:16]
        right = Lock(self.path.with_name(f".{key}.heir"), self._machine, self._monotonic)
        other = right.acquire()
        if other is None:
            found = self._look()
            if found is not None and found.content == dead.content and found.holder is None:
                write_atomic(self.path, _content(mine, 0, 0))
            right.release()
        return other

    def _look(self) -> _Sight | None:
        key = (self._machine, os.path.abspath(self.path))  # noqa: PTH100  it need not exist
        try:
            with trust.open_file(self.path, most=trust.SMALL, anyone=True) as file:
                content, status = file.read(), os.fstat(file.fileno())
        except FileNotFoundError:
            _seen.pop(key, None)
            return None
        now = self._monotonic()
        holder, announced = _parsed(content) or (None, 0.0)
        if holder is not None and holder.on(self._machine):
            alive = is_running(holder.pid, holder.started)
            return _Sight(content, (), now, 0.0, 0.0, holder if alive else None)
        state = (content, status.st_mtime_ns, status.st_ino)
        last = _seen.get(key)
        unchanged = 0.0
        if last is not None and last.state == state:
            unchanged = last.unchanged_seconds + min(max(0.0, now - last.at), _LONGEST_GAP_SECONDS)
        limit = UNREADABLE_AFTER_SECONDS if holder is None else STALE_AFTER_SECONDS + announced
        owner = (holder or _SOMEBODY) if unchanged < limit else None
        _seen[key] = found = _Sight(content, state, now, unchanged, limit, owner)
        return found

    def holder(self) -> Holder | None:
        """The process that holds the claim now, or None if none that is alive does."""
        found = self._look()
        return None if found is None else found.holder

    def clear(self) -> bool:
        """Remove a claim that no living process holds, for another process to take; True if it is free then.

        A process that begins has not watched a claim of another machine for long enough to judge it.
        """
        if not self.path.exists():
            return True
        if self.holder() is not None or self.acquire() is not None:
            return False
        self.release()
        return True

    def outlook(self) -> str:
        """For a claim of another machine: for how long it was seen unchanged, and when it is taken over; else ""."""
        found = self._look()
        if found is None or found.holder is None or not found.limit_seconds:
            return ""
        unchanged, limit = round(found.unchanged_seconds), round(found.limit_seconds)
        return f"it has not changed for {unchanged} s; it is taken over at {limit} s"

    def await_change(
        self,
        what: str,
        tell: Callable[[str], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Holder | None:
        """Watch a claim of another machine until it changes (its holder lives) or counts as abandoned.

        Returns the process that holds it then, None if none does. `tell` gets a line of what is waited for.
        """
        begun = self._look()
        told = False
        while True:
            found = self._look()
            if found is None or found.holder is None:
                return None
            if begun is None or not found.limit_seconds or found.state != begun.state:
                return found.holder
            if not told and found.unchanged_seconds > 0:
                told = True
                tell(f"{what} is held by {found.holder}; {self.outlook()}: waiting")
            sleep(_BETWEEN_LOOKS_SECONDS)

    def beat(self, next_in_seconds: float = 0) -> None:
        """Renew the heartbeat, and say when the next one is due (other machines then wait so much longer).

        Raises LockedError if the claim was lost (taken over while this process slept).
        """
        mine = self._mine
        with contextlib.suppress(FileNotFoundError):
            # In place: were it replaced, that could hit the file of a process that has just taken the claim over.
            file = os.open(self.path, os.O_RDWR)
            try:
                if mine is not None and Holder.parse(os.read(file, os.fstat(file).st_size)) == mine:
                    self._beats += 1
                    os.pwrite(file, _content(mine, self._beats, next_in_seconds), 0)
                    now = time.time()
                    os.utime(file, (now, now + min(next_in_seconds, _FOR_EVER_SECONDS)))  # older versions go by that
                    return
            finally:
                os.close(file)
        raise LockedError(Problem(f"lost to {self.holder() or 'an unknown process'}", str(self.path)))

    def release(self) -> None:
        """Give the claim up, if this process (not one that it was forked from) still holds it."""
        mine, self._mine = self._mine, None
        if mine is None or mine.pid != os.getpid():
            return
        found = self._look()
        if found is not None and Holder.parse(found.content) == mine:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(
    path: Path, what: str, *, patience_seconds: float = 0, waiting: Callable[[str], None] | None = None
) -> Iterator[Lock]:
    """Hold the claim `path` for the time of a block; wait so long for it if another process has it.

    With `waiting` a claim of another machine is watched until it is known whether its holder lives, however long that
    takes; `waiting` gets a line that says so. Raises LockedError, naming the holder and `what` it holds, and StateError
    where no claim can be made.
    """
    claim = Lock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        give_up = time.monotonic() + patience_seconds
        in_the_making = time.monotonic() + 2 * UNREADABLE_AFTER_SECONDS
        while (holder := claim.acquire()) is not None:
            now = time.monotonic()
            if waiting is not None and holder is not _SOMEBODY and claim.await_change(what, waiting) is None:
                continue
            if now >= give_up and (holder is not _SOMEBODY or now >= in_the_making):
                break
            time.sleep(_BETWEEN_TRIES_SECONDS)
    except OSError as error:
        with contextlib.suppress(OSError):  # the file may be there already, and would keep the next try out
            claim.release()
        raise StateError(Problem(f"can't claim {what}: {error.strerror}", str(path))) from None
    except KeyboardInterrupt:
        claim.release()
        raise
    if holder is not None:
        outlook = claim.outlook()
        hint = "wait for it, or stop that process"
        raise LockedError(
            Problem(f"{what} is in use by {holder}", str(path), f"{hint}; {outlook}" if outlook else hint)
        )
    try:
        yield claim
    finally:
        claim.release()
