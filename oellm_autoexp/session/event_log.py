"""The event log of a session: a journal of every event, and of the results of its actions, as one JSON line each.

It is written before the session, so that a crash loses no event. An event that is detected again after a crash is
written twice, with the same id, and is read once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from pydantic import ValidationError

from oellm_autoexp.core.errors import CorruptError, Problem, StateError, UnwritableError
from oellm_autoexp.core.nouns import Record
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.redaction import redact
from oellm_autoexp.rules.events import Event
from oellm_autoexp.storage.files import loads
from oellm_autoexp.storage.journal import Journal, line_at, whole_lines
from oellm_autoexp.storage.session_files import SessionFiles

Status = Literal["done", "failed", "skipped", "queued"]


class Result(Record):
    """The result of an action. `id` is that of its queue entry; after `status: queued`, the entry has a result, too."""

    event_id: str
    id: str
    job: str
    action: str
    status: Status
    message: str
    at: float


def _readable(entry: Event | Result) -> Event | Result:
    """An entry without secrets: others may read the event log."""
    if isinstance(entry, Event):
        clean = redact(entry.metadata)
        return entry if clean == entry.metadata else entry.model_copy(update={"metadata": clean})
    message = redact_message(entry.message)
    return entry if message == entry.message else entry.model_copy(update={"message": message})


class Histories(NamedTuple):
    """The number of selected events, and those to show, each with the results of its actions."""

    total: int
    shown: Iterator[tuple[Event, list[Result]]]


class EventLog:
    """`<plan_id>.events.jsonl` beside the session."""

    def __init__(self, session_path: Path) -> None:
        self.path = SessionFiles(session_path).events
        self._journal = Journal(self.path)

    def add(self, entries: Iterable[Event | Result]) -> None:
        """Append entries, without secrets, so that a crash does not lose them.

        Raises StateError; UnwritableError if they can't be written.
        """
        lines = [
            f'{{"version": 1, "{"event" if isinstance(entry, Event) else "result"}": {entry.model_dump_json()}}}'
            for entry in map(_readable, entries)
        ]
        try:
            self._journal.append(lines)
        except OSError as error:
            raise UnwritableError(Problem(f"can't record events: {error.strerror}", str(self.path))) from None

    def entries(self) -> Iterator[Event | Result]:
        """Every entry once, in the order of writing. Raises CorruptError, which names the line, and StateError."""
        seen: set[tuple[str, ...]] = set()
        with self._opened() as file:
            for line, number, _ in whole_lines(file):
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
        """The events that `wanted` selects, with the results of their actions; at most the newest `most`.

        `wanted` gets an event as it is in the file. All lines are read first, and of each event that is wanted only
        the offsets of its lines are kept, so that a log of any length needs little memory. Raises as `entries`.
        """
        places: dict[str, list[tuple[int, int]]] = {}
        seen: set[int] = set()
        with self._opened() as file:
            for line, number, offset in whole_lines(file):
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
                    found.append(self._parsed(line_at(file, offset), number))
                event, *results = found
                if isinstance(event, Event):
                    yield event, [result for result in results if isinstance(result, Result)]

    def _opened(self) -> BinaryIO:
        """The file, open for reading; an empty one where there is none. Raises StateError."""
        try:
            return self._journal.opened(lenient=True)
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
        return CorruptError(Problem("this line is not a record of an event", f"{self.path}:{number}"))
