"""Series of metrics in files: what counts is what the session says, whatever a crash has left beyond."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.errors import StateError
from oellm_autoexp.core.nouns import Series
from oellm_autoexp.session import series
from oellm_autoexp.session.series import Point, Written


def test_points_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "s.series" / "a.points"
    written = series.append(path, Written(), 0, [Point("loss", 1, 10.0, 2.5), Point("lr", 1, 10.0, 1e-4)])
    written = series.append(path, written, 3, [Point("loss", 2, 20.0, math.inf), Point("x", None, 20.0, 7.0)])
    found = series.read(path, written)
    assert found["loss"] == Series([1, 2], found["loss"].times, found["loss"].values, [0, 3])
    assert (list(found["loss"].times), list(found["loss"].values)) == ([10.0, 20.0], [2.5, math.inf])
    assert list(found) == ["loss", "lr", "x"]
    assert (found["x"].iterations, written.points) == ([1], {"loss": 2, "lr": 1, "x": 1})
    assert list(series.read(path, written, ["lr"])) == ["lr"]


def test_what_a_monitor_wrote_before_it_died_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "a.points"
    saved = series.append(path, Written(), 0, [Point("loss", 1, 1.0, 1.0)])
    series.append(path, saved, 0, [Point("loss", step, 2.0, 9.0) for step in (2, 3, 4)])
    assert list(series.read(path, saved)["loss"].values) == [1.0]
    after = series.append(path, saved, 0, [Point("loss", 2, 2.0, 2.0)])
    assert list(series.read(path, after)["loss"].values) == [1.0, 2.0]
    assert path.stat().st_size == after.size


def test_a_file_that_a_power_cut_has_shortened_goes_on_from_its_last_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "a.points"
    saved = series.append(path, Written(), 0, [Point("loss", step, 1.0, float(step)) for step in (1, 2)])
    os.truncate(path, saved.size - 5)
    assert list(series.read(path, saved)["loss"].values) == [1.0]
    after = series.append(path, saved, 0, [Point("loss", 3, 1.0, 3.0)])
    assert list(series.read(path, after)["loss"].values) == [1.0, 3.0]


def test_no_file_is_no_series_and_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.points"
    assert series.read(path, Written(24, {"loss": 1})) == {}
    assert series.append(path, Written(), 0, []) == Written()
    assert not path.exists()
    path.symlink_to(tmp_path / "other")
    with pytest.raises(StateError, match="is a link"):
        series.append(path, Written(), 0, [Point("loss", 1, 1.0, 1.0)])


def test_more_metrics_than_are_kept_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.points"
    many = [Point(f"m{number}", 1, 1.0, 1.0) for number in range(series.MOST_METRICS + 5)]
    written = series.append(path, Written(), 0, many)
    assert len(series.read(path, written)) == series.MOST_METRICS


def test_of_a_long_file_both_ends_are_read_and_which_attempts_began_between_is_known(tmp_path: Path) -> None:
    path, written = tmp_path / "a.points", Written()
    for attempt in (1, 2, 3):
        points = [Point("loss", step, float(step), float(attempt)) for step in range(100)]
        written = series.append(path, written, attempt, points)
    found = series.read(path, written, most=100 * 24)["loss"]
    assert (list(found.attempts), found.headless) == ([1] * 50 + [3] * 50, frozenset({3}))
    found = series.read(path, written, most=250 * 24)["loss"]
    assert (list(found.attempts), found.headless) == ([1] * 100 + [2] * 50 + [3] * 100, frozenset())
    assert series.read(path, written, most=300 * 24)["loss"].headless == frozenset()


@given(st.lists(st.integers(0, 8), max_size=12))
def test_the_newest_point_of_an_iteration_wins_and_ends_what_was_beyond(iterations: list[int]) -> None:
    numbers = list(range(len(iterations)))
    current = Series(iterations, numbers, [float(number) for number in numbers], numbers).current()
    expected = [
        number
        for number, iteration in enumerate(iterations)
        if all(later > iteration for later in iterations[number + 1 :])
    ]
    assert list(current.values) == expected
    assert list(current.iterations) == [iterations[number] for number in expected]


def test_each_of_as_many_metrics_as_are_kept_has_its_own_points_in_every_attempt(tmp_path: Path) -> None:
    path = tmp_path / "a.points"
    names = [f"m{number}" for number in range(series.MOST_METRICS)]
    last = (1 << 40) - 1
    written = Written()
    for attempt in (0, 255, 4095):
        reported = [Point(name, last, float(attempt), float(number)) for number, name in enumerate(names)]
        written = series.append(path, written, attempt, reported)
    found = series.read(path, written)
    assert list(found) == names
    for number, name in enumerate(names):
        one = found[name]
        assert (list(one.iterations), list(one.attempts)) == ([last] * 3, [0, 255, 4095])
        assert (list(one.times), list(one.values)) == ([0.0, 255.0, 4095.0], [float(number)] * 3)


@given(st.lists(st.sampled_from(["loss", "lr", "validation_loss"]), max_size=9), st.integers(1, 3))
def test_points_are_found_however_metrics_take_turns(turns: list[str], repeats: int) -> None:
    reported = [Point(name, number, float(number), -float(number)) for number, name in enumerate(turns * repeats)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.points"
        found = series.read(path, series.append(path, Written(), 7, reported))
    expected = {name: [point for point in reported if point.metric == name] for name in dict.fromkeys(turns)}
    assert {name: list(one.iterations) for name, one in found.items()} == {
        name: [point.iteration for point in points] for name, points in expected.items()
    }
    for name, points in expected.items():
        assert list(found[name].times) == [point.at for point in points]
        assert list(found[name].values) == [point.value for point in points]
        assert set(found[name].attempts) == {7}


@given(st.lists(st.lists(st.tuples(st.sampled_from(["loss", "lr"]), st.integers(1, 5)), max_size=6), max_size=3))
def test_the_current_values_of_a_metric_are_those_of_its_current_points(attempts: list[list[tuple[str, int]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, written = Path(folder) / "a.points", Written()
        for attempt, points in enumerate(attempts):
            reported = [
                Point(name, step, 1.0, float(10 * attempt + place)) for place, (name, step) in enumerate(points)
            ]
            written = series.append(path, written, attempt, reported)
        for name in ("loss", "lr", "absent"):
            whole = series.read(path, written).get(name)
            expected = [] if whole is None else list(whole.current().values)
            assert list(series.current_values(path, written, name)) == expected
