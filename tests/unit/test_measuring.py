"""What attempts took, by the series of their metrics: made up, and those of real logs of Megatron-LM on a GPU."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import median

import pytest

from oellm_autoexp.core.nouns import Series
from oellm_autoexp.decisions.measured import measured as after_lines
from oellm_autoexp.learning.measuring import METRICS, Measured, Spread, measured
from oellm_autoexp.rules.metrics import MetricReader
from oellm_autoexp.session import series
from oellm_autoexp.session.job_state import Attempt, HistoryEntry, JobState
from oellm_autoexp.session.series import Written

REAL = Path(__file__).resolve().parents[1] / "real_logs"
BEGAN = 1_000_000.0


def lines(*points: tuple[int, float, float], attempt: int = 1) -> Series:
    """A series of (iteration, time, value)."""
    iterations, times, values = zip(*points, strict=True)
    return Series(iterations, times, values, [attempt] * len(points))


def job(*, state: str = "success", ended: float | None = None, attempt: int = 1) -> JobState:
    newest = Attempt(started_at=BEGAN, ended_at=ended, runs=1)
    return JobState(name="a", state=state, attempt=attempt, newest=newest)


def alone(seconds: Series) -> Measured:
    """What the only attempt of a job took, by the seconds of its iterations."""
    (found,) = measured(job(), {"seconds": seconds}, None)
    return found


def training(*, iterations: int, every: int, seconds: float, startup: float, save_every: int, save: float) -> Series:
    """The lines of a training with made-up times, in which a checkpoint follows the line of its iteration."""
    at, points = BEGAN + startup, []
    for iteration in range(every, iterations + 1, every):
        at += every * seconds
        points.append((iteration, at, seconds))
        if iteration % save_every == 0:
            at += save
    return lines(*points)


def test_the_times_of_a_regular_training_are_found_again() -> None:
    made = training(iterations=100, every=10, seconds=3.0, startup=120.0, save_every=20, save=45.0)
    memory = lines((10, BEGAN, 50.5), (20, BEGAN, 61.25), (30, BEGAN, 60.0))
    ended = made.times[-1] + 60.0
    found = measured(job(ended=ended), {"seconds": made, "memory": memory}, 20)
    assert found == [
        Measured(
            job="a",
            attempt=1,
            at=ended,
            iterations=100,
            pace=Spread(low=3, middle=3, high=3),
            startup=120,
            end=60,
            save=45,
            memory_gib=61.25,
            whole=ended - BEGAN,
        )
    ]


def test_without_printed_times_the_times_of_lines_count_and_checkpoints_are_no_iterations() -> None:
    made = training(iterations=100, every=10, seconds=3.0, startup=120.0, save_every=20, save=45.0)
    (found,) = measured(job(), {"loss": made}, 20)
    assert found.pace is not None
    assert found.pace.middle == pytest.approx(3.0)
    assert found.save == pytest.approx(45.0)
    assert found.startup == pytest.approx(120.0)


def test_evaluations_and_pauses_are_spread_over_the_iterations() -> None:
    points = [(10, BEGAN, 1.0), (20, BEGAN + 10, 1.0), (30, BEGAN + 50, 1.0)]  # 30 s of 20 iterations
    (found,) = measured(job(), {"seconds": lines(*points)}, None)
    assert found.pace == Spread(low=2.5, middle=2.5, high=2.5)


def test_lines_that_were_read_together_have_one_time_and_do_not_make_iterations_of_no_length() -> None:
    points = [(1, 10.0, 5.0), (2, 10.0, 5.0), (3, 10.0, 5.0), (4, 16.0, 4.0), (5, 16.0, 4.0), (7, 24.0, 3.0)]
    (found,) = measured(job(), {"loss": lines(*points)}, None)
    assert found.pace is not None
    assert found.pace.low == pytest.approx(3.1)  # 6 s in 2 iterations, 8 s in 2
    assert found.pace.high == pytest.approx(3.9)


def test_made_up_times_of_a_log_give_no_start_up_and_no_end() -> None:
    points = [(1, 10.0, 60.0), (2, 70.0, 60.0)]
    (found,) = measured(job(ended=5.0), {"seconds": lines(*points)}, None)
    assert (found.startup, found.end) == (None, None)
    assert found.pace == Spread(low=60, middle=60, high=60)


def test_a_restart_in_the_job_is_no_start_up() -> None:
    before = [(number, BEGAN + 60 + 10.0 * number, 10.0) for number in range(1, 101)]
    after = [(number, BEGAN + 5000 + 10.0 * number, 10.0) for number in range(91, 121)]
    found = alone(lines(*before, *after))
    assert found.startup is None
    assert found.pace == Spread(low=10, middle=10, high=10)


def test_a_start_that_was_not_read_is_no_start_up() -> None:
    read = [(number, BEGAN + 60 + 10.0 * number, 10.0) for number in range(901, 1001)]
    assert alone(lines(*read)).startup == pytest.approx(60 + 9000)
    found = alone(replace(lines(*read), headless=frozenset({1})))
    assert (found.startup, found.pace) == (None, Spread(low=10, middle=10, high=10))


@pytest.mark.parametrize("hours", [-2, 2])
@pytest.mark.parametrize("state", ["success", "timeout"])
def test_a_log_in_another_time_zone_gives_no_start_up_and_no_end(hours: int, state: str) -> None:
    at = BEGAN + hours * 3600
    (found,) = measured(
        job(state=state, ended=BEGAN + 300), {"seconds": lines((1, at + 90, 60.0), (2, at + 150, 60.0))}, None
    )
    assert (found.startup, found.end) == (None, None)
    assert found.pace == Spread(low=60, middle=60, high=60)


def test_each_attempt_is_measured_by_its_own_lines_and_times() -> None:
    first = lines((1, 110.0, 5.0), (2, 115.0, 5.0), attempt=1)
    second = lines((3, 320.0, 7.0), (4, 327.0, 7.0), attempt=2)
    both = Series(
        [*first.iterations, *second.iterations],
        [*first.times, *second.times],
        [*first.values, *second.values],
        [*first.attempts, *second.attempts],
    )
    history = [(90.0, "submitted"), (100.0, "running"), (140.0, "crash"), (200.0, "submitted"), (300.0, "running")]
    entries = tuple(HistoryEntry(at=at, event=event) for at, event in history)
    state = JobState(name="a", state="running", attempt=2, history=entries, newest=Attempt(started_at=301.0, runs=1))
    one, two = measured(state, {"seconds": both}, None)
    assert (one.attempt, one.startup, one.end, one.at) == (1, 5.0, None, 140.0)
    assert (two.attempt, two.startup, two.at) == (2, 12.0, 327.0)
    assert [each.pace.middle for each in (one, two) if each.pace] == [5.0, 7.0]
    assert (one.whole, two.whole) == (None, None)


def test_nothing_is_concluded_from_what_is_too_little_or_no_number() -> None:
    assert measured(job(state="crash"), {}, None) == []
    assert measured(job(state="crash"), {"loss": lines((1, 10.0, 2.0))}, None) == []
    assert measured(job(state="crash"), {"seconds": lines((1, 10.0, math.nan))}, None) == []


def test_a_program_without_iterations_is_measured_as_a_whole_if_it_succeeded_at_once() -> None:
    (found,) = measured(job(ended=BEGAN + 90), {}, None)
    assert (found.whole, found.pace) == (90.0, None)
    assert measured(job(ended=BEGAN + 90, attempt=2), {}, None) == []
    assert measured(job(state="crash", ended=BEGAN + 90), {}, None) == []


def of_log(name: str, folder: Path) -> tuple[Measured, list[float]]:
    """What the attempt of a real log took, and the seconds of an iteration that it prints, but for the first line."""
    data = (REAL / name).read_bytes()
    state, _ = after_lines(JobState(name="a", state="running", attempt=1), MetricReader({}), data, 0.0, own=True)
    written = series.append(folder / "a.points", Written(), 1, state.logs.unwritten)
    (found,) = measured(state, series.read(folder / "a.points", written, METRICS), 40)
    printed = [float(ms) / 1000 for ms in re.findall(rb"time per iteration \(ms\): ([\d.]+)", data)]
    return found, printed[1:]


@pytest.mark.parametrize("name", ["success.log", "torchrun_success.log", "decay_from_sibling.log"])
def test_real_logs_give_the_seconds_that_megatron_prints(name: str, tmp_path: Path) -> None:
    found, printed = of_log(name, tmp_path)
    assert found.pace is not None
    assert found.pace.middle == pytest.approx(median(printed), rel=0.05)
    assert min(printed) <= found.pace.low <= found.pace.middle <= found.pace.high <= 1.05 * max(printed)
    assert (found.memory_gib or 0) == pytest.approx(5.35, rel=0.1)


def test_the_checkpoints_of_a_real_log_took_what_its_lines_say(tmp_path: Path) -> None:
    found, _ = of_log("success.log", tmp_path)
    text = (REAL / "success.log").read_text()
    begins, ends = (
        [datetime.fromisoformat(at) for at in re.findall(rf"\[([\d: .-]+)\] {words}", text)]
        for words in ("saving checkpoint at", "successfully saved checkpoint")
    )
    seconds = [(end - begin).total_seconds() for begin, end in zip(begins, ends, strict=True)]
    assert len(seconds) == 3
    assert found.save == pytest.approx(median(seconds[:2]), rel=0.02)  # no line follows the last one
    assert found.iterations == 100
