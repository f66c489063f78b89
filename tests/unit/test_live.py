"""What a watch shows: how far stages are, when they are likely to end, what happened last."""

from __future__ import annotations

import io
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.session import series
from oellm_autoexp.session.job_state import HistoryEntry, JobState, Tally
from oellm_autoexp.session.series import Point
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec, manifest
from oellm_autoexp.view.jobs.progress import Done, bar, done, seconds_left, share
from oellm_autoexp.view.jobs.selection import chosen, chosen_columns, selection
from oellm_autoexp.view.jobs.table import as_csv, subjects_of
from oellm_autoexp.view.live import Screen, newest_events
from oellm_autoexp.view.metrics import SeriesReader


def running(name: str = "a", iteration: int = 25, total: int = 100, seconds: float | None = 2.0) -> JobState:
    job = job_state(name, state="running", started_at=0.0)
    return changed(job, progress=Progress(iteration=iteration, total=total, seconds=seconds))


def ended(name: str, state: str = "success") -> JobState:
    return job_state(name, state=state, started_at=0.0, ended_at=200.0)


def test_the_share_of_a_job_is_that_of_its_iterations() -> None:
    found = [
        share(job) for job in (running(), ended("b"), ended("c", "crash"), running(total=0), running(iteration=200))
    ]
    assert found == [0.25, 1.0, None, None, 1.0]
    assert bar(0.25, 8) == "██░░░░░░"


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000), st.floats(0, 1), st.integers(1, 40))
def test_a_bar_has_its_width_and_each_bad_end_is_seen(good: int, bad: int, rest: int, part: float, width: int) -> None:
    how = Done(good + bad + rest, good, bad, part * rest)
    cells = how.cells(width)
    assert min(cells) >= 0
    assert sum(cells) <= width
    assert not bad or cells[1]
    assert 0 <= how.share <= 1


@pytest.mark.parametrize(
    ("jobs", "seconds"),
    [
        ([running()], 150),
        ([running(), running("b", iteration=75)], 150),
        ([running(), job_state("w")], 350),
        ([running(), running("b"), job_state("w"), job_state("v")], 350),
        ([running(), ended("e"), ended("f")], 150),
        ([running(), running("b", seconds=None)], None),
        ([job_state("w")], None),
        ([], None),
    ],
)
def test_the_end_is_reckoned_with_as_many_jobs_at_once_as_now(jobs: list[JobState], seconds: float | None) -> None:
    assert seconds_left(jobs) == seconds


def test_a_job_that_is_to_begin_anew_has_not_ended() -> None:
    assert (done([ended("a", "crash")]).failed, done([running()]).running) == (1, 0.25)


def test_what_happened_last_comes_from_jobs_rules_and_the_watcher_each_once() -> None:
    past = (
        HistoryEntry(at=1, event="submitted", message="as 7"),
        HistoryEntry(at=5, event="restart", message="retry: crash"),
        HistoryEntry(at=6, event="cancelled", message="cancelled: b\nended"),
        HistoryEntry(at=7, event="running", message="RUNNING"),
    )
    job = job_state("a", history=past, events={"saved": Tally(count=3, last_at=4)})
    said = [(5.5, "a: retry: crash"), (8.0, "a: saw it")]
    assert newest_events([job], said, 5) == [
        (4, "a: saved (no. 3)"),
        (5, "a: restart (retry: crash)"),
        (6, "a: cancelled (b ended)"),
        (7, "a: running"),
        (8.0, "a: saw it"),
    ]


def test_what_a_rule_saw_and_what_its_action_said_are_one_line_and_nothing_is_said_twice() -> None:
    past = (
        HistoryEntry(at=2.1, event="LogAction", message="checkpoint 2 of a", rule="saved"),
        HistoryEntry(at=4.1, event="LogAction", message="checkpoint 3 of a", rule="saved"),
        HistoryEntry(at=4.1, event="LogAction", message="loss is high", rule="spike"),
        HistoryEntry(at=5, event="RestartAction", message="new attempt 1 of 2", rule="crash"),
        HistoryEntry(at=5, event="restart", message="new attempt 1 of 2"),
    )
    job = job_state("a", history=past, events={"saved": Tally(count=3, last_at=4), "spike": Tally(count=1, last_at=4)})
    assert newest_events([job], [(5.2, "a: new attempt 1 of 2")], 5) == [
        (2.1, "a: saved: checkpoint 2 of a"),
        (4.1, "a: saved (no. 3): checkpoint 3 of a"),
        (4.1, "a: spike: loss is high"),
        (5, "a: restart (new attempt 1 of 2)"),
    ]


class Watched:
    """What is shown of a session of two stages."""

    def __init__(self, folder: Path) -> None:
        jobs = [ended("a", "crash"), running("b"), job_state("c"), job_state("d")]
        specs = [job_spec(name=job.name, stage="stable" if job.name in "ab" else "decay") for job in jobs]
        self.manifest = manifest(folder, specs)
        self.session = Session(folder / "p.json", "p", folder, {job.name: job for job in jobs}, 0)
        self.scheduler_error = self.storage_error = ""
        self.messages: deque[str] = deque(["a: given up"])


def drawn(what: Any, height: int = 24) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=80, height=height, color_system=None, force_terminal=True).print(what)
    return file.getvalue().splitlines()


def test_a_watch_shows_its_summary_a_bar_for_each_stage_its_jobs_and_what_happened(tmp_path: Path) -> None:
    watched, screen = Watched(tmp_path), Screen()
    lines = drawn(screen.of([watched], alone=True))
    assert lines[0] == "4 jobs: 1 crash, 1 running, 2 waiting"
    assert lines[1].startswith("stable   ██████████")
    assert "62 %, 1/2 ended, 1 badly, 2:30 left" in lines[1]
    assert lines[2].rstrip() == "decay    ░░░░░░░░░░░░░░░░░░░░   0 %, 0/2 ended"
    assert lines[3].startswith("all jobs ██████")
    assert "9:10 left, until " in lines[3]
    assert lines[-1].endswith("a: given up")
    assert not watched.messages
    watched.scheduler_error = "sacct: gone"
    lines = drawn(screen.of([watched], alone=True))
    assert any("the scheduler does not answer, waiting for it: sacct: gone" in line for line in lines)
    assert lines[-1].endswith("a: given up"), "what was said stays"
    small = drawn(screen.of([watched], alone=True), height=8)
    assert (len(small) <= 7, small[0]) == (True, lines[0])


def test_a_trend_is_read_again_once_a_job_has_told_more(tmp_path: Path) -> None:
    session = Session(tmp_path / "p.json", "p", tmp_path, {}, 0)
    path, reader = series.file_of(session.path, "a"), SeriesReader()

    def reported(written: series.Written, values: list[float]) -> series.Written:
        return series.append(path, written, 1, [Point("loss", None, 0, value) for value in values])

    written = reported(series.Written(), [3.0, 2.0, 1.0])
    trend = reader.of(session).trend
    assert trend(job_state("b")) == ""
    assert trend(job_state("a", series=written)) == "█▄▁" or trend(job_state("a", series=written)) == "█▅▁"
    more = reported(written, [3.0])
    path.rename(tmp_path / "away")
    assert trend(job_state("a", series=written)), "it is known"
    assert trend(job_state("a", series=more)) == ""
    (tmp_path / "away").rename(path)
    assert len(SeriesReader().of(session).trend(job_state("a", series=more))) == 4


def test_a_metric_of_ones_own_is_a_column_with_its_last_value(tmp_path: Path) -> None:
    session = Session(tmp_path / "p.json", "p", tmp_path, {}, 0)
    jobs = []
    for name, values in (("a", [0.25, 0.5]), ("b", [0.75]), ("c", [])):
        points = [Point("accuracy", number, 0, value) for number, value in enumerate(values)]
        jobs.append(
            job_state(name, series=series.append(series.file_of(session.path, name), series.Written(), 1, points))
        )
    reader = SeriesReader()
    subjects = subjects_of(jobs, [job_spec(name=job.name) for job in jobs], 0.0, series=reader.of(session))
    asked = selection("job,accuracy", ["-accuracy"], ["accuracy>0.1"])
    found = chosen(asked, subjects)
    assert [subject.job.name for subject in found] == ["b", "a"]
    shown = [[column.shown(subject) for column in chosen_columns(asked, subjects)] for subject in found]
    assert shown == [["b", "0.75"], ["a", "0.5"]]
    assert as_csv([("p", found)], ["job", "accuracy"]) == "session,job,accuracy\np,b,0.75\np,a,0.5\n"
    assert "accuracy" not in as_csv([("p", found)]).partition("\n")[0]
    more = series.append(series.file_of(session.path, "b"), jobs[1].logs.series, 1, [Point("accuracy", 9, 0, 1.5)])
    assert reader.of(session).last(job_state("b", series=more), "accuracy") == 1.5
    assert reader.of(session).last(jobs[2], "accuracy") is None
