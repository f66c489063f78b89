"""The record of a session: every event and what became of its actions, one JSON line each, only ever added to.

It is written before the session, so that a crash loses no event; one that is seen again after a crash stands there
twice, with the same id, and is read once.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from pydantic import ValidationError

from oellm_autoexp.core.errors import CorruptError, Problem, StateError, UnwritableError
from oellm_autoexp.core.nouns import Record
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.redaction import redact
from oellm_autoexp.rules.events import Event
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import loads

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


class Histories(NamedTuple):
    """How many events are wanted in all, and those that are to be shown, each with the results of its actions."""

    total: int
    shown: Iterator[tuple[Event, list[Result]]]


class EventLog:
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
        with self._opened() as file:
            for line, number, _ in _whole_lines(file):
                entry = self._parsed(line, number)
                key = (
                    (entry.id,) if isinstance(entry, Event) else (entry.event_id, entry.id, entry.action, entry.status)
                )
                if key not in seen:
                    seen.add(key)
                    yield entry

    def histories(
        self, wanted: Callable[[Mapping[str, Any]], bool], *, newest_first: bool, most: int | None = None
    ) -> Histories:
        """The events that are wanted, each with what became of its actions; at most the newest `most` of them.

        `wanted` gets an event as it is in the file. All lines are looked at first, and of each event that is wanted
        only its places are kept, so that a record of any length needs little memory. Raises as `entries`.
        """
        places: dict[str, list[tuple[int, int]]] = {}
        seen: set[int] = set()
        with self._opened() as file:
            for line, number, offset in _whole_lines(file):
                try:
                    data = loads(line)
                    event = data.get("event")
                    if event is not None:
                        if event["id"] not in places and wanted(event):
                            places[event["id"]] = [(offset, number)]
                        continue
                    result = data["result"]
                    key = hash((result["event_id"], result["id"], result["action"], result["status"]))
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise self._no_record(number) from None
                if result["event_id"] in places and key not in seen:
                    seen.add(key)
                    places[result["event_id"]].append((offset, number))
        chosen = list(places.values())[0 if most is None else max(0, len(places) - most) :]
        return Histories(len(places), self._at(reversed(chosen) if newest_first else chosen))

    def _at(self, chosen: Iterable[Sequence[tuple[int, int]]]) -> Iterator[tuple[Event, list[Result]]]:
        with self._opened() as file:
            for places in chosen:
                found = []
                for offset, number in places:
                    file.seek(offset)
                    found.append(self._parsed(file.readline(trust.LINE), number))
                event, *results = found
                if isinstance(event, Event):
                    yield event, [result for result in results if isinstance(result, Result)]

    def _opened(self) -> BinaryIO:
        """The file, open for reading; an empty one where there is none. Raises StateError."""
        try:
            return trust.open_file(self.path, most=None, lenient=True)
        except FileNotFoundError:
            return io.BytesIO()
        except OSError as error:
            raise StateError(Problem(f"can't read the events: {error.strerror}", str(self.path))) from None

    def _parsed(self, line: bytes, number: int) -> Event | Result:
        try:
            data: dict[str, Any] = loads(line)
            if "event" in data:
                return Event.model_validate(data["event"])
            return Result.model_validate(data["result"])
        except (ValueError, KeyError, TypeError, ValidationError):
            raise self._no_record(number) from None

    def _no_record(self, number: int) -> CorruptError:
        return CorruptError(Problem("this line is no record of an event", f"{self.path}:{number}"))


def _whole_lines(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """The lines of a record with their numbers and byte offsets, but for one that is being written or cut."""
    number = offset = 0
    while line := file.readline(trust.LINE):
        number += 1
        if not line.endswith(b"\n") and len(line) < trust.LINE:
            return
        yield line, number, offset
        offset += len(line)


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
