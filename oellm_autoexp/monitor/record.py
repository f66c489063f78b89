"""The record of a session: every event and what became of its actions, one JSON line each, only ever added to.

It is written before the session, so that a crash loses no event; one that is seen again after a crash stands there
twice, with the same id, and is read once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from oellm_autoexp.errors import CorruptError, Problem, UnwritableError
from oellm_autoexp.files import check_owner
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
            check_owner(self.path)
            with self.path.open("ab") as file:
                if not self._whole:
                    self._cut_torn_line()
                self._whole = False  # until it is: the disk may be full
                file.write("".join(lines).encode(errors="replace"))
                file.flush()
                os.fsync(file.fileno())
                self._whole = True
        except OSError as error:
            raise UnwritableError(Problem(f"can't record events: {error.strerror}", str(self.path))) from None

    def _cut_torn_line(self) -> None:
        """Take away a line that a crash has cut: what it told was not acted upon, and is seen again."""
        with self.path.open("rb+") as file:
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

    def entries(self) -> Iterator[Event | Result]:
        """Every entry once, in the order in which they came. Raises CorruptError naming the line."""
        check_owner(self.path)
        seen: set[tuple[str, ...]] = set()
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
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
            data: dict[str, Any] = json.loads(line)
            if "event" in data:
                return Event.model_validate(data["event"])
            return Result.model_validate(data["result"])
        except (ValueError, KeyError, TypeError, ValidationError):
            raise CorruptError(Problem("this line is no record of an event", f"{self.path}:{number}")) from None
