"""The record of events: what was added is read once, in order, whatever a crash has cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from oellm_autoexp.core.errors import CorruptError, StateError
from oellm_autoexp.rules.events import Event
from oellm_autoexp.session.event_log import EventLog, Result, Status


def event(name: str, line: str = "") -> Event:
    return Event(id=f"{name}-1", kind="log", name=name, job="a", attempt=1, at=1.0, metadata={"line": line})


def result(name: str, status: Status = "done") -> Result:
    return Result(event_id=f"{name}-1", id="i", job="a", action="LogAction", status=status, message="", at=2.0)


@pytest.fixture
def record(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "p.json")


def names(record: EventLog) -> list[str]:
    return [entry.name if isinstance(entry, Event) else entry.status for entry in record.entries()]


def test_a_record_that_is_not_there_is_empty(record: EventLog) -> None:
    assert names(record) == []
    record.add([])
    assert not record.path.exists()


def test_what_was_added_is_read_in_its_order_and_duplicates_once(record: EventLog) -> None:
    record.add([event("x"), event("y")])
    record.add([event("x"), result("x", "queued"), result("x")])
    record.add([result("x")])
    assert names(record) == ["x", "y", "queued", "done"]


def test_events_and_results_come_back_as_they_were(record: EventLog) -> None:
    hostile = event("x", "a\x00b \x1b[31m \u2028 \x85 \ufffd {x} $(y) \\n \"'")
    record.add([hostile, result("x", "failed")])
    assert list(record.entries()) == [hostile, result("x", "failed")]


@pytest.mark.parametrize("torn", [b"{", b'{"version": 1, "event": {"id": "z', b"x" * 200_000, b"\xff\x00"])
def test_a_line_cut_by_a_crash_is_left_out_and_taken_away_by_the_next_writer(record: EventLog, torn: bytes) -> None:
    record.add([event("x")])
    with record.path.open("ab") as file:
        file.write(torn)
    assert names(record) == ["x"]
    later = EventLog(record.path.with_name("p.json"))
    later.add([event("y")])
    later.add([event("z")])
    assert names(later) == ["x", "y", "z"]


def test_a_record_that_is_nothing_but_a_cut_line_is_begun_anew(record: EventLog) -> None:
    record.path.write_bytes(b'{"ver')
    record.add([event("x")])
    assert names(record) == ["x"]


@pytest.mark.parametrize(
    "line", ["garbage", "[]", "7", "null", '{"version": 1}', '{"event": {"id": 7}}', '{"event": null}']
)
def test_a_broken_line_is_named(record: EventLog, line: str) -> None:
    record.add([event("x")])
    with record.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorruptError, match=r"events\.jsonl:2"):
        names(record)


def test_a_full_disk_is_reported_and_what_is_added_later_is_whole(
    record: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    record.add([event("x")])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StateError, match="can't record events: No space"):
            record.add([event("y")])
    record.path.write_bytes(record.path.read_bytes()[:-7])
    record.add([event("z")])
    assert names(record)[-1] == "z"


def test_a_folder_that_can_not_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="can't record events"):
        EventLog(tmp_path / "nowhere" / "p.json").add([event("x")])
