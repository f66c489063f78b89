"""Reports and exports beside a watch: one program of a kind at a time, the last state at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.engine.background import SHORTEST_PAUSE_SECONDS, Background, log_of
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.storage.world import Outcome, Subprocess
from oellm_autoexp.testing.plans import job_spec, manifest


@dataclass
class Program:
    """A program that takes so many seconds of a clock."""

    clock: Clock
    ends_at: float
    code: int | None = 0

    def poll(self) -> Outcome | None:
        return Outcome(self.code, "") if self.clock.now >= self.ends_at else None


@dataclass
class Clock:
    now: float = 0.0
    takes: float = 1.0
    code: int | None = 0
    started: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def launch(self, _session: Path, kind: str) -> Subprocess:
        self.started.append(self.now)
        self.kinds.append(kind)
        return cast("Subprocess", Program(self, self.now + self.takes, self.code))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def background(self) -> Background:
        return Background(self.notes.append, self.launch, lambda: self.now, self.sleep)


@dataclass
class Watched:
    manifest: Manifest
    session: Session

    def change(self) -> None:
        self.session.snapshot()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    plan = manifest(tmp_path, [job_spec(tmp_path)], monitoring={"report": True})
    return Watched(plan, Session.create(plan, tmp_path / "manifest.json"))


def test_reports_are_made_when_something_changed_and_take_a_twentieth_of_the_time(watched: Watched) -> None:
    clock = Clock(takes=10)
    background = clock.background()
    for _ in range(60):
        watched.change()
        background.look([watched])
        clock.now += 10
    assert clock.started == [0, 210, 420]
    background = clock.background()
    clock.started.clear()
    for _ in range(600):
        background.look([watched])
        clock.now += 1
    assert len(clock.started) == 1


def test_a_report_whose_end_is_seen_late_has_taken_as_long_as_its_file_says(watched: Watched) -> None:
    clock = Clock(takes=1)
    background = clock.background()
    for _ in range(4):
        watched.change()
        background.look([watched])
        SessionFiles(watched.session.path).report.write_text("")
        clock.now += 60
    assert clock.started == [0, 120]


def test_the_last_state_is_reported_at_the_end(watched: Watched) -> None:
    clock = Clock(takes=3)
    background = clock.background()
    background.look([watched])
    clock.now += 1
    watched.change()
    background.close()
    assert [round(at) for at in clock.started] == [0, 3]
    assert clock.now < 10


def test_a_report_that_takes_long_or_fails_does_not_hold_up_the_watch(watched: Watched) -> None:
    clock = Clock(takes=1e9)
    background = clock.background()
    background.look([watched])
    background.close()
    assert clock.now < 31
    assert clock.notes == ["session p: its report takes longer, and goes on by itself"]
    clock = Clock(code=2)
    background = clock.background()
    for _ in range(int(SHORTEST_PAUSE_SECONDS) + 3):
        watched.change()
        background.look([watched])
        clock.now += 1
    assert len(clock.started) == 2
    assert clock.notes == ["session p: its report has failed: ; it is tried again"]
    clock.code = 0
    for _ in range(2):
        clock.now += 2 * SHORTEST_PAUSE_SECONDS
        background.look([watched])
    assert clock.notes[1:] == ["session p: its report works again"]


def test_what_can_not_be_started_is_reported_and_harms_nothing(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_session: Path, _kind: str) -> Subprocess:
        raise OSError("no")

    background = Background(lambda _: None, refuse)
    background.look([watched])
    background.close()
    assert "no report" in caplog.text


def test_a_plan_that_asks_for_none_gets_none(tmp_path: Path) -> None:
    plan = manifest(tmp_path, [job_spec(tmp_path)])
    clock = Clock()
    background = clock.background()
    background.look([Watched(plan, Session.create(plan, tmp_path / "manifest.json"))])
    background.close()
    assert clock.started == []


EXPORTING = [{"class_name": "A", "interval_seconds": 100.0}, {"class_name": "B", "interval_seconds": 10.0}]


def test_each_exporter_has_programs_and_pauses_of_its_own(tmp_path: Path) -> None:
    plan = manifest(tmp_path, [job_spec(tmp_path)], monitoring={"report": True, "exporters": EXPORTING})
    watched, clock = Watched(plan, Session.create(plan, tmp_path / "manifest.json")), Clock(takes=0)
    background = clock.background()
    for _ in range(100):
        watched.change()
        background.look([watched])
        for kind in ("A", "B"):
            log_of(watched.session.path, kind).parent.mkdir(exist_ok=True)
            log_of(watched.session.path, kind).write_text("")
        clock.now += 1
    assert {kind: clock.kinds.count(kind) for kind in clock.kinds} == {"report": 4, "A": 1, "B": 10}


def test_one_that_does_not_end_holds_up_no_other(tmp_path: Path) -> None:
    plan = manifest(tmp_path, [job_spec(tmp_path)], monitoring={"exporters": EXPORTING})
    watched, clock = Watched(plan, Session.create(plan, tmp_path / "manifest.json")), Clock(takes=1e9)
    background = clock.background()
    background.look([watched])
    assert clock.kinds == ["A", "B"]
    watched.change()
    background.close()
    assert clock.now < 31
    path = watched.session.path
    for kind, (goes_on, lacks) in zip("AB", (clock.notes[:2], clock.notes[2:]), strict=True):
        said = f"session p: its export by {kind}"
        assert goes_on == f"{said} takes longer, and goes on by itself; see {log_of(path, kind)}"
        assert lacks == f"{said} lacks the newest state: oellm-autoexp report --session {path} --export {kind}"


def test_an_export_that_failed_is_tried_again_although_nothing_has_changed(tmp_path: Path) -> None:
    plan = manifest(tmp_path, [job_spec(tmp_path)], monitoring={"exporters": EXPORTING[1:]})
    watched, clock = Watched(plan, Session.create(plan, tmp_path / "manifest.json")), Clock(takes=0, code=1)
    background = clock.background()
    log = log_of(watched.session.path, "B")
    log.parent.mkdir()
    for _ in range(30):
        background.look([watched])
        log.write_text("error: no such server\n")
        clock.now += 1
    assert len(clock.started) == 3
    assert clock.notes == ["session p: its export by B has failed: no such server; it is tried again"]
    background.close()
    assert len(clock.started) == 4
    command = f"oellm-autoexp report --session {watched.session.path} --export B"
    assert clock.notes[1:] == [f"session p: its export by B lacks the newest state: {command}"]
