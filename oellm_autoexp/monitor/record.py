"""The record of a session: every event and what became of its actions, one JSON line each, only ever added to.

It is written before the session, so that a crash loses no event; one that is seen again after a crash stands there
twice, with the same id, and is read once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import ValidationError

from oellm_autoexp import trust
from oellm_autoexp.errors import CorruptError, Problem, StateError, UnwritableError
from oellm_autoexp.files import loads
from oellm_autoexp.model import Record
from oellm_autoexp.monitor.events import Event
from oellm_autoexp.redaction import redact, redact_message

Status = Literal["done", "failed", "skipped", "queued"]


class Result(Record):
    """What became of an action. `id` is that of its entry in the queue, whose own result follows `status: queued`."""

    event_id: str
    id: str
    job: str
    action: str
    status: Status
    message: str
    at: float


def _readable(entry: Event | Result) -> Event | Result:
    """An entry for others to read."""
    if isinstance(entry, Event):
        clean = redact(entry.metadata)
        return entry if clean == entry.metadata else entry.model_copy(update={"metadata": clean})
    message = redact_message(entry.message)
    return entry if message == entry.message else entry.model_copy(update={"message": message})


class RecordFile:
    """`<plan_id>.events.jsonl` beside the session."""

    def __init__(self, session_path: Path) -> None:
        self.path = session_path.with_suffix(".events.jsonl")
        self._whole = False

    def add(self, entries: Iterable[Event | Result]) -> None:
        """Add entries, for good, without secrets. Raises StateError; UnwritableError where it is the disk."""
        lines = [
            f'{{"version": 1, "{"event" if isinstance(entry, Event) else "result"}": {entry.model_dump_json()}}}\n'
            for entry in map(_readable, entries)
        ]
        if not lines:
            return
        try:
            with trust.open_to_append(self.path) as file:
                if not self._whole:
                    _cut_torn_line(file)
                self._whole = False  # until it is: the disk may be full
                file.write("".join(lines).encode(errors="replace"))
                file.flush()
                os.fsync(file.fileno())
                self._whole = True
        except OSError as error:
            raise UnwritableError(Problem(f"can't record events: {error.strerror}", str(self.path))) from None

    def entries(self) -> Iterator[Event | Result]:
        """Every entry once, in the order in which they came. Raises CorruptError naming the line, StateError."""
        seen: set[tuple[str, ...]] = set()
        try:
            file = trust.open_file(self.path, most=None, lenient=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(Problem(f"can't read the events: {error.strerror}", str(self.path))) from None
        with file:
            number = 0
            while line := file.readline(trust.LINE):
                number += 1
                if not line.endswith(b"\n") and len(line) < trust.LINE:
                    return  # being written, or cut by a crash
                entry = self._parsed(line, number)
                key = (
                    (entry.id,) if isinstance(entry, Event) else (entry.event_id, entry.id, entry.action, entry.status)
                )
                if key not in seen:
                    seen.add(key)
                    yield entry

    def _parsed(self, line: bytes, number: int) -> Event | Result:
        try:
            data: dict[str, Any] = loads(line)
            if "event" in data:
                return Event.model_validate(data["event"])
            return Result.model_validate(data["result"])
        except (ValueError, KeyError, TypeError, ValidationError):
            raise CorruptError(Problem("this line is no record of an event", f"{self.path}:{number}")) from None


def _cut_torn_line(file: BinaryIO) -> None:
    """Take away a line that a crash has cut: what it told was not acted upon, and is seen again."""
    size = file.seek(0, os.SEEK_END)
    keep = size
    while keep:
        start = max(0, keep - 65536)
        file.seek(start)
        newline = file.read(keep - start).rfind(b"\n")
        keep = start + newline + 1
        if newline >= 0:
            break
    if keep < size:
        file.truncate(keep)
    file.seek(0, os.SEEK_END)
