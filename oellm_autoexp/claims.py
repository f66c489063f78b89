"""Processes told apart for good, and claims that survive their owner's death."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from oellm_autoexp import trust
from oellm_autoexp.errors import LockedError, Problem, StateError
from oellm_autoexp.files import create_atomic, write_atomic

STALE_AFTER_SECONDS = 120.0
"""A claim held on another host counts as abandoned when its next heartbeat is overdue by this much."""
UNREADABLE_AFTER_SECONDS = 10.0
"""A file that is still empty or garbage after this long has lost its writer; before, it may be in the making."""


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
class Holder:
    """Who holds a claim: a process (`started`: see process_started), and a word of this very claim."""

    host: str
    pid: int
    started: str
    token: str

    @classmethod
    def parse(cls, content: bytes) -> Holder | None:
        """The holder that a claim file names; None if it does not hold one, whole."""
        try:
            data = json.loads(content)
            return cls(str(data["host"]), int(data["pid"]), str(data["started"]), str(data["token"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None

    @property
    def here(self) -> bool:
        """Whether its process is one of this machine."""
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.pid else "a process that takes it just now"


_SOMEBODY = Holder("", 0, "", "")
_BETWEEN_TRIES_SECONDS = 0.05
_TRIES = 100  # each failed one means that another process got further


@dataclass(frozen=True)
class _Found:
    """A claim file as it was seen."""

    content: bytes
    overdue_seconds: float
    """Since when the next heartbeat is due."""

    @property
    def holder(self) -> Holder | None:
        """Who holds it, or None if nobody alive does."""
        holder = Holder.parse(self.content)
        if holder is None:
            return _SOMEBODY if self.overdue_seconds < UNREADABLE_AFTER_SECONDS else None
        alive = is_running(holder.pid, holder.started) if holder.here else self.overdue_seconds < STALE_AFTER_SECONDS
        return holder if alive else None


class Claim:
    """An exclusive, crash-proof claim on a name, held by a small file; works without `flock`.

    The file names host, pid and start time. A claim whose process is gone is taken over at once on the same host; one
    from another host when its heartbeat (the file's modification time: when the next one is due) is
    STALE_AFTER_SECONDS late.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mine: Holder | None = None

    def acquire(self) -> Holder | None:
        """Take the claim. Returns None on success, else who holds it. Raises OSError."""
        pid = os.getpid()
        mine = Holder(socket.gethostname(), pid, process_started(pid) or "", secrets.token_hex(8))
        for _ in range(_TRIES):
            found = self._look()
            if found is None:
                create_atomic(self.path, json.dumps(asdict(mine)))
            elif Holder.parse(found.content) == mine:  # the file decides, whatever was said of our attempt to make it
                self._mine = mine
                return None
            elif (other := found.holder or self._take_over(found, mine)) is not None:
                return other
        raise StateError(Problem("can't be claimed", str(self.path), "is it a link to nowhere? remove it"))

    def _take_over(self, dead: _Found, mine: Holder) -> Holder | None:
        """Put `mine` in the place of a claim that nobody alive holds, unless it has changed; or who else does so now.

        Several processes may find the same dead claim. The right to replace it is a claim itself, named after the dead
        one; so only one of them has it, and none can replace a successor's fresh claim by mistake.
        """
        key = hashlib.sha256(self.path.name.encode() + b"/" + dead.content).hexdigest()[:16]
        right = Claim(self.path.with_name(f".{key}.heir"))
        other = right.acquire()
        if other is None:
            found = self._look()
            if found is not None and found.content == dead.content and found.holder is None:
                write_atomic(self.path, json.dumps(asdict(mine)))
            right.release()
        return other

    def _look(self) -> _Found | None:
        try:
            with trust.open_file(self.path, most=trust.SMALL, anyone=True) as file:
                return _Found(file.read(), time.time() - os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return None

    def holder(self) -> Holder | None:
        """Who holds the claim now, or None if nobody alive does."""
        found = self._look()
        return None if found is None else found.holder

    def beat(self, next_in_seconds: float = 0) -> None:
        """Renew the heartbeat, and say when the next one is due (other hosts then wait so much longer).

        Raises LockedError if the claim was lost (taken over while this process slept).
        """
        found = self._look()
        now = time.time()
        if found is not None and self._mine is not None and Holder.parse(found.content) == self._mine:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path, (now, now + next_in_seconds))
                return
        holder = found.holder if found is not None else None
        raise LockedError(Problem(f"lost to {holder or 'an unknown process'}", str(self.path)))

    def release(self) -> None:
        """Give the claim up, if this process (not one that it was forked from) still holds it."""
        mine, self._mine = self._mine, None
        if mine is None or mine.pid != os.getpid():
            return
        found = self._look()
        if found is not None and Holder.parse(found.content) == mine:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(path: Path, what: str, *, patience_seconds: float = 0) -> Iterator[Claim]:
    """Hold the claim `path` for the time of a block; wait so long for it if somebody else has it.

    Raises LockedError, naming the holder and `what` it holds, and StateError where no claim can be made.
    """
    claim = Claim(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        give_up = time.monotonic() + patience_seconds
        while (holder := claim.acquire()) is not None and time.monotonic() < give_up:
            time.sleep(_BETWEEN_TRIES_SECONDS)
    except OSError as error:
        raise StateError(Problem(f"can't claim {what}: {error.strerror}", str(path))) from None
    if holder is not None:
        raise LockedError(Problem(f"{what} is in use by {holder}", str(path), "wait for it, or stop that process"))
    try:
        yield claim
    finally:
        claim.release()
