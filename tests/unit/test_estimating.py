"""How long a job runs by earlier attempts, and what follows for its time limit."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.nouns import Estimate, Workload
from oellm_autoexp.learning import words
from oellm_autoexp.learning.estimating import ENOUGH, Run, estimate, limit_for, links_needed
from oellm_autoexp.learning.measuring import Measured, Spread

HOUR = 3600.0
WORK = Workload(shape="s", sizes={"hidden_size": 1024, "gpus": 8}, flops=8e15, iterations=1000, save_interval=100)


def attempt(pace: float, at: float = 0.0, **more: float | None) -> Measured:
    spread = Spread(low=pace * 0.9, middle=pace, high=pace * 1.1)
    return Measured(job="a", attempt=1, at=at, iterations=500, pace=spread, **more)


def runs(paces: Iterable[float], work: Workload = WORK, **more: float | None) -> list[Run]:
    return [Run(work, attempt(pace, at, **more)) for at, pace in enumerate(paces)]


def test_start_up_iterations_checkpoints_and_end_add_up() -> None:
    known = runs([2.0, 2.0, 2.0], startup=300.0, end=60.0, save=30.0, memory_gib=61.2)
    found = estimate(WORK, known)
    assert found is not None
    assert found.seconds == found.low == found.high == pytest.approx(300 + 1000 * 2 + 9 * 30 + 60)
    assert (found.runs, found.scaled, found.per_link_seconds, found.memory_gib) == (3, False, 360, 61.2)


def test_only_what_a_checkpoint_leaves_is_counted() -> None:
    found = estimate(WORK, runs([2.0]), start=900)
    assert found is not None
    assert (found.low, found.seconds, found.high) == pytest.approx((180, 200, 220))
    nothing_left = estimate(WORK, runs([2.0], startup=10.0), start=2000)
    assert nothing_left is not None
    assert nothing_left.seconds == 10


def test_the_bounds_are_those_of_attempts_and_of_few_attempts_also_their_own() -> None:
    paces = [1.0, 1.5, 2.0, 2.5, 3.0]
    many = estimate(WORK, runs(paces))
    assert many is not None
    assert (many.low, many.seconds, many.high) == pytest.approx((1200, 2000, 2800))
    few = estimate(WORK, runs([2.0, 2.2]))
    assert few is not None
    assert (few.low, few.seconds, few.high) == pytest.approx((1800, 2100, 2420))


def test_the_newest_attempts_count() -> None:
    old, new = [9.0] * 50, [2.0] * ENOUGH
    found = estimate(WORK, runs([*old, *new]))
    assert found is not None
    assert (found.seconds, found.runs) == (2000, ENOUGH)


def test_runs_of_another_shape_say_nothing() -> None:
    other = WORK.model_copy(update={"shape": "other"})
    assert estimate(WORK, runs([2.0], other)) is None
    assert estimate(WORK, []) is None


def test_another_size_is_scaled_by_operations_and_gpus_with_wider_bounds() -> None:
    larger = WORK.model_copy(update={"sizes": {"hidden_size": 2048, "gpus": 16}, "flops": 32e15})
    found = estimate(larger, runs([2.0, 2.0, 2.0], memory_gib=60.0))
    assert found is not None
    assert found.seconds == pytest.approx(1000 * 2.0 * 4 / 2)
    assert (found.low, found.high) == pytest.approx((found.seconds / 1.5, found.seconds * 1.5))
    assert (found.scaled, found.memory_gib) == (True, None)
    assert estimate(larger, [*runs([2.0]), *runs([5.0], larger)]).scaled is False  # type: ignore[union-attr]


def test_the_nearest_size_is_scaled_and_none_that_is_too_far() -> None:
    near = WORK.model_copy(update={"sizes": {"hidden_size": 1200, "gpus": 8}, "flops": 10e15})
    far = WORK.model_copy(update={"sizes": {"hidden_size": 64, "gpus": 8}, "flops": 0.5e15})
    found = estimate(WORK, [*runs([1.0], near), *runs([7.0], far)])
    assert found is not None
    assert found.seconds == pytest.approx(800)
    assert estimate(WORK, runs([7.0], far)) is None
    without = WORK.model_copy(update={"sizes": {"gpus": 4}, "flops": None})
    assert estimate(WORK, runs([7.0], without)) is None


def test_equal_operations_on_other_sizes_are_scaled_too() -> None:
    other = WORK.model_copy(update={"sizes": {"hidden_size": 1024, "gpus": 8, "micro_batch_size": 2}})
    found = estimate(WORK, runs([2.0], other))
    assert found is not None
    assert (found.scaled, found.seconds) == (True, 2000)


def test_a_program_without_iterations_takes_what_whole_runs_took() -> None:
    work = Workload(shape="s", sizes={"gpus": 0})
    taken = [Run(work, Measured(job="a", attempt=1, at=at, whole=100.0 + at)) for at in (0.0, 10.0)]
    found = estimate(work, [*taken, Run(work, attempt(1.0))])
    assert found is not None
    assert (found.seconds, found.runs) == (105, 2)
    assert (found.low, found.high) == pytest.approx((101 / 1.2, 109 * 1.2))
    assert estimate(work, runs([2.0], work)) is None


def expected(seconds: float, low: float, high: float, **more: float | bool) -> Estimate:
    return Estimate(**{"seconds": seconds, "low": low, "high": high, "runs": 3, **more})


@pytest.mark.parametrize(
    ("high", "per_link", "limit", "links"),
    [
        (10, 0, 12, 1),
        (12, 0, 12, 1),
        (14, 0, 12, 2),
        (25, 0, 12, 3),
        (23, 2, 12, 3),
        (22, 2, 12, 2),
        (14, 12, 9, None),
    ],
)
def test_links_are_counted_with_what_each_spends_on_its_start(
    high: float, per_link: float, limit: float, links: int | None
) -> None:
    assert links_needed(expected(high, high, high, per_link_seconds=per_link), limit) == links


@given(st.floats(1, 1e6), st.floats(0, 1e4), st.floats(1, 1e5))
def test_so_many_links_are_enough_and_one_less_is_not(high: float, per_link: float, limit: float) -> None:
    links = links_needed(expected(high, high, high, per_link_seconds=min(per_link, high)), limit)
    if links is None:
        assert limit <= per_link
        return
    useful, work = limit - min(per_link, high), high - min(per_link, high)
    assert links * useful >= work * (1 - 1e-9)
    assert links == 1 or (links - 1) * useful < work * (1 + 1e-9)


@pytest.mark.parametrize(
    ("high", "factor", "limit"),
    [(10, 1.25, 600), (480, 1.25, 600), (481, 1.25, 900), (3600, 1.25, 4500), (3600, 2, 7200), (3601, 1, 3900)],
)
def test_an_automatic_limit_has_a_margin_whole_steps_and_a_least_length(high: float, factor: float, limit: int) -> None:
    assert limit_for(expected(high, high, high), factor) == limit


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (45, "45 s"),
        (100, "2 min"),
        (3600, "60 min"),
        (2.5 * HOUR, "2.5 h"),
        (14 * HOUR, "14 h"),
        (77 * HOUR, "3.2 days"),
    ],
)
def test_lengths_of_time_are_short(seconds: float, text: str) -> None:
    assert words.about(seconds) == text


@pytest.mark.parametrize(
    ("found", "limit", "text"),
    [
        ((14, 12, 16), 12, "needs about 14 h (12 to 16 h, from 3 runs), has 12 h: 2 links"),
        ((14, 12, 16), 16, "needs about 14 h (12 to 16 h, from 3 runs), has 16 h"),
        ((14, 12, 16), None, "needs about 14 h (12 to 16 h, from 3 runs)"),
        ((14, 14, 14), 24, "needs about 14 h (from 3 runs), has 24 h"),
        ((2, 1, 3), 4, "needs about 2 h (60 min to 3 h, from 3 runs), has 4 h"),
    ],
)
def test_an_estimate_is_one_sentence(found: tuple[float, float, float], limit: float | None, text: str) -> None:
    seconds = None if limit is None else int(limit * HOUR)
    assert words.needs(expected(*(hours * HOUR for hours in found)), seconds) == text


def test_a_limit_below_the_start_up_and_a_scaled_estimate_are_named() -> None:
    slow = expected(3 * HOUR, 3 * HOUR, 3 * HOUR, per_link_seconds=2 * HOUR, scaled=True)
    assert words.needs(slow, 1800) == (
        "needs about 3 h (from 3 runs of other sizes, scaled), has 30 min: less than start-up and end take (2 h)"
    )


def test_memory_is_shown_beside_what_the_gpu_has() -> None:
    assert words.memory(expected(1, 1, 1, memory_gib=61.24), 64) == "at most 61.2 of 64 GiB of GPU memory"
    assert words.memory(expected(1, 1, 1, memory_gib=61.24), None) == "at most 61.2 GiB of GPU memory"
    assert words.memory(expected(1, 1, 1), 64) == ""
