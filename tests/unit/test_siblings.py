"""Siblings: the indexed rule equals its plain statement, and unclear references are reported with their candidates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.errors import SweepError
from oellm_autoexp.sweep.expander import Point, expand
from oellm_autoexp.sweep.siblings import Member, Siblings, order

SCALARS = st.one_of(st.integers(0, 2), st.sampled_from([0.0, 1.0, "a", True, None]))
VALUES = st.one_of(SCALARS, st.lists(st.integers(0, 1), max_size=2))
COORDS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@st.composite
def members(draw: st.DrawFn) -> list[Member]:
    found = []
    for index in range(draw(st.integers(1, 12))):
        point = Point(draw(COORDS), staged=draw(COORDS))  # a stage may override a value of the grid
        found.append(Member(index, draw(st.sampled_from(["x", "y", None])), point))
    return found


def same(a: Any, b: Any) -> bool:
    """Equal, where true and 1 are not the same value of a grid."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def plainly(everyone: list[Member], me: Member, stage: str) -> list[int]:
    """The rule as it is written in the specification, over all pairs."""
    here = {**me.point.values, **me.point.coords}
    return [
        other.index
        for other in everyone
        if other.stage == stage
        and other.index != me.index
        and all(same(here[key], value) for key, value in other.point.coords.items() if key in here)
    ]


@given(members())
def test_the_sibling_is_the_one_job_that_the_plain_rule_finds(everyone: list[Member]) -> None:
    siblings = Siblings(everyone)
    for me in everyone:
        for stage in ("x", "y"):
            expected = plainly(everyone, me, stage)
            if len(expected) == 1:
                assert siblings.of(me, stage).index == expected[0]
            else:
                with pytest.raises(SweepError, match=f"{len(expected)} jobs match" if expected else "no"):
                    siblings.of(me, stage)


def test_each_decay_finds_its_own_stable_among_ten_thousand_without_looking_at_all() -> None:
    points = expand(
        {
            "type": "list",
            "groups": [
                {"params": {"lr": list(range(500)), "bs": list(range(10))}, "defaults": {"stage": stage}}
                for stage in ("stable", "decay")
            ],
        }
    )
    everyone = [Member(index, point.values["stage"], point) for index, point in enumerate(points)]
    siblings = Siblings(everyone)
    for me in everyone[5000:]:
        assert siblings.of(me, "stable").index == me.index - 5000


def test_a_misspelt_stage_is_reported_with_the_nearest() -> None:
    (me,) = everyone = [Member(0, "decay", Point())]
    with pytest.raises(SweepError, match=r"there is no stage 'decya'\n.*did you mean 'decay'"):
        Siblings(everyone).of(me, "decya")


def test_two_candidates_are_both_listed() -> None:
    everyone = [Member(i, "stable", Point({"lr": i})) for i in (0, 1)]
    with pytest.raises(SweepError, match=r"2 jobs match: job 0 \(lr=0\); job 1 \(lr=1\)"):
        Siblings(everyone).of(Member(2, "decay", Point()), "stable")


def test_no_candidate_is_reported_with_what_was_looked_for_and_what_there_is() -> None:
    everyone = [Member(0, "stable", Point({"lr": 1}))]
    me = Member(1, "decay", Point({"lr": 2}))
    with pytest.raises(SweepError, match=r"none of its 1 job has lr=2\n.*candidates: job 0 \(lr=1\)"):
        Siblings(everyone).of(me, "stable")


def test_values_that_look_alike_and_paths_that_end_alike_are_reported_apart() -> None:
    everyone = [Member(0, "stable", Point({"a.lr": 1}))]
    me = Member(1, "decay", Point({"a.lr": "1"}))
    with pytest.raises(SweepError, match=r"has a\.lr='1'\n.*candidates: job 0 \(a\.lr=1\)"):
        Siblings(everyone).of(me, "stable")


@pytest.mark.parametrize("mine", [{"a.b": {"x": 1}}, {"a.b.x": 1}, {"a": {"b": {"x": 1}}}])
@pytest.mark.parametrize("theirs", [{"a.b": {"x": 1}}, {"a.b.x": 1}])
def test_a_place_is_the_same_in_whatever_form_its_keys_are_written(
    mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    other = {"a.b": {"x": 2}} if "a.b" in theirs else {"a.b.x": 2}
    everyone = [Member(0, "stable", Point(other)), Member(1, "stable", Point(theirs)), Member(2, "decay", Point(mine))]
    assert Siblings(everyone).of(everyone[2], "stable").index == 1
    further = Point(mine, inherited={"a.b.y": 3}, staged={"a.b.z": 4})  # other keys of the same mapping
    assert Siblings(everyone).of(Member(2, "decay", further), "stable").index == 1


def test_a_choice_of_a_group_is_no_other_form_of_what_is_set_in_it() -> None:
    everyone = [Member(0, "s", Point({"backend": "tiny_lm"})), Member(1, "d", Point({"backend.options.x": 1}))]
    assert Siblings(everyone).of(everyone[1], "s").index == 0


def test_a_job_is_never_its_own_sibling_and_is_reported_so() -> None:
    everyone = [Member(0, "stable", Point({"lr": 1}))]
    with pytest.raises(SweepError, match=r"'sibling\.stable' is job 0 \(stage stable\) itself"):
        Siblings(everyone).of(everyone[0], "stable")


@given(st.integers(1, 30), st.data())
def test_the_order_puts_every_job_after_those_it_depends_on(count: int, data: st.DataObject) -> None:
    edges = {i: data.draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set() for i in range(count)}
    found = order(edges, {i: str(i) for i in range(count)})
    assert sorted(found) == list(range(count))
    for job, parents in edges.items():
        assert all(found.index(parent) < found.index(job) for parent in parents)


def test_a_cycle_is_named() -> None:
    with pytest.raises(SweepError, match=r"in a circle: (a → b → a|b → a → b)"):
        order({0: [1], 1: [0]}, {0: "a", 1: "b"})
