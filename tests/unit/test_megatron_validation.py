"""What Megatron would refuse is refused while planning, with its place and what would work; the rest is let through."""

from __future__ import annotations

from typing import Any

import pytest

from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.backends.megatron.validation import Judge, Verdict
from tests.megatron.validation_cases import BASE, ENVIRONMENT, RIGHT, RIGHT_UNASKED, SILENT, WRONG, Case

DESTS = Arguments.of().dests


def judged(values: dict[str, Any], world: int, environment: dict[str, str], judge: Judge | None = None) -> Verdict:
    return (judge or Judge(lambda dest: DESTS[dest].default)).verdict(values, world, environment)


def verdict(case: Case, judge: Judge | None = None) -> Verdict:
    return judged(case.values, case.world, case.environment, judge)


def test_what_was_judged_of_other_jobs_changes_nothing() -> None:
    judge = Judge(lambda dest: DESTS[dest].default)
    cases = [*RIGHT, *WRONG, *SILENT, *RIGHT_UNASKED]
    for case in (*cases, *reversed(cases)):
        assert verdict(case, judge) == verdict(case), case.name
    assert judged({**BASE, "lr": 1e-3, "min_lr": 1}, 8, ENVIRONMENT, judge).problems
    assert not judged({**BASE, "lr": 1e-3, "min_lr": True}, 8, ENVIRONMENT, judge).problems


def named(case: Case) -> str:
    return case.name.replace(" ", "_")


@pytest.mark.parametrize("case", WRONG, ids=named)
def test_a_wrong_config_is_refused_at_its_place_with_the_values_and_what_would_work(case: Case) -> None:
    problems = verdict(case).problems
    where = case.where if case.where.startswith("$") else f"$.backend.megatron.{case.where}"
    found = [problem for problem in problems if problem.where == where]
    assert found, [str(problem) for problem in problems]
    text = f"{found[0].what} {found[0].hint}"
    for words in case.says:
        assert words in text


@pytest.mark.parametrize("case", WRONG, ids=named)
def test_one_mistake_is_told_once(case: Case) -> None:
    assert len(verdict(case).problems) == 1, [str(problem) for problem in verdict(case).problems]


@pytest.mark.parametrize("case", [*RIGHT, *RIGHT_UNASKED], ids=named)
def test_a_right_config_passes_without_a_word(case: Case) -> None:
    found = verdict(case)
    assert [str(problem) for problem in found.problems] == []
    assert [note for note in found.notes if "use_distributed_optimizer" not in note.text] == []


@pytest.mark.parametrize("case", SILENT, ids=named)
def test_what_megatron_silently_makes_something_else_of_is_said(case: Case) -> None:
    found = verdict(case)
    assert [str(problem) for problem in found.problems] == []
    (note,) = found.notes
    assert note.text.startswith(f"backend.megatron.{case.where}: ")
    assert case.says[0] in note.text


def test_there_are_enough_cases() -> None:
    assert len(WRONG) >= 40
    assert len(RIGHT) >= 20
    assert len({case.name for case in (*WRONG, *RIGHT, *SILENT)}) == len(WRONG) + len(RIGHT) + len(SILENT)


def test_all_mistakes_are_told_at_once() -> None:
    values = {**BASE, "global_batch_size": 60, "min_lr": 1, "num_attention_heads": 13, "fp16": True}
    places = [problem.where for problem in judged(values, 8, ENVIRONMENT).problems]
    dests = ("global_batch_size", "num_attention_heads", "min_lr", "fp16")
    assert places == [f"$.backend.megatron.{dest}" for dest in dests]


@pytest.mark.parametrize("value", [None, "x", [1], {"a": 1}, True, -1, 0, float("nan"), float("inf"), 1.5, ""])
def test_values_of_any_type_make_no_check_fail(value: Any) -> None:
    for dest in DESTS:
        judged({**BASE, dest: value}, 8, ENVIRONMENT)


def test_a_hint_gives_values_that_work() -> None:
    for size, unit in ((60, 32), (7, 8), (100, 12)):
        values = {**BASE, "global_batch_size": size, "micro_batch_size": unit // 4}
        (problem,) = judged(values, 4, ENVIRONMENT).problems
        for word in problem.hint.split(" (")[0].removeprefix("take ").split(" or "):
            mended = {**values, "global_batch_size": int(word)}
            assert judged(mended, 4, ENVIRONMENT).problems == ()
