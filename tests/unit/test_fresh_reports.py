"""Reports beside a watch: one program at a time, at most one twentieth of the time, the last state in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.engine.fresh_reports import SHORTEST_PAUSE_SECONDS, FreshReports
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

    def launch(self, _session: Path) -> Subprocess:
        self.started.append(self.now)
        return cast("Subprocess", Program(self, self.now + self.takes, self.code))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def reports(self) -> FreshReports:
        return FreshReports(self.launch, lambda: self.now, self.sleep)


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
    reports = clock.reports()
    for _ in range(60):
        watched.change()
        reports.look([watched])
        clock.now += 10
    assert clock.started == [0, 210, 420]
    reports = clock.reports()
    clock.started.clear()
    for _ in range(600):
        reports.look([watched])
        clock.now += 1
    assert len(clock.started) == 1


def test_a_report_whose_end_is_seen_late_has_taken_as_long_as_its_file_says(watched: Watched) -> None:
    clock = Clock(takes=1)
    reports = clock.reports()
    for _ in range(4):
        watched.change()
        reports.look([watched])
        SessionFiles(watched.session.path).report.write_text("")
        clock.now += 60
    assert clock.started == [0, 120]


def test_the_last_state_is_reported_at_the_end(watched: Watched) -> None:
    clock = Clock(takes=3)
    reports = clock.reports()
    reports.look([watched])
    clock.now += 1
    watched.change()
    reports.close()
    assert [round(at) for at in clock.started] == [0, 3]
    assert clock.now < 10


def test_a_report_that_takes_long_or_fails_does_not_hold_up_the_watch(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(takes=1e9)
    reports = clock.reports()
    reports.look([watched])
    reports.close()
    assert clock.now < 31
    clock = Clock(code=2)
    reports = clock.reports()
    for _ in range(int(SHORTEST_PAUSE_SECONDS) + 3):
        watched.change()
        reports.look([watched])
        clock.now += 1
    assert len(clock.started) == 2
    assert "no report of p" in caplog.text


def test_what_can_not_be_started_is_reported_and_harms_nothing(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_session: Path) -> Subprocess:
        raise OSError("no")

    reports = FreshReports(refuse)
    reports.look([watched])
    reports.close()
    assert "no report" in caplog.text


def test_a_plan_that_asks_for_none_gets_none(tmp_path: Path) -> None:
    plan = manifest(tmp_path, [job_spec(tmp_path)])
    clock = Clock()
    reports = clock.reports()
    reports.look([Watched(plan, Session.create(plan, tmp_path / "manifest.json"))])
    reports.close()
    assert clock.started == []
