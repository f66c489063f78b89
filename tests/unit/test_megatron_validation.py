"""What Megatron would refuse is refused while planning, with its place and what would work; the rest is let through."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.backends.megatron.validation import Judge, Verdict
from tests.megatron.validation_cases import BASE, ENVIRONMENT, RIGHT, RIGHT_UNASKED, SILENT, WRONG, Case, offered

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
    found = [problem for problem in problems if str(problem.where) == where]
    assert found, [str(problem) for problem in problems]
    text = f"{found[0].what} {found[0].hint}"
    for words in case.says:
        assert words in text


@pytest.mark.parametrize("case", WRONG, ids=named)
def test_one_mistake_is_reported_once(case: Case) -> None:
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


def test_all_mistakes_are_reported_at_once() -> None:
    values = {**BASE, "global_batch_size": 60, "min_lr": 1, "num_attention_heads": 13, "fp16": True}
    places = [str(problem.where) for problem in judged(values, 8, ENVIRONMENT).problems]
    dests = ("global_batch_size", "num_attention_heads", "min_lr", "fp16")
    assert places == [f"$.backend.megatron.{dest}" for dest in dests]


@pytest.mark.parametrize("value", [None, "x", [1], {"a": 1}, True, -1, 0, float("nan"), float("inf"), 1.5, ""])
def test_values_of_any_type_make_no_check_fail(value: Any) -> None:
    for dest in DESTS:
        judged({**BASE, dest: value}, 8, ENVIRONMENT)


@pytest.mark.parametrize("case", WRONG, ids=named)
def test_whoever_takes_a_value_that_a_hint_offers_is_through(case: Case) -> None:
    (problem,) = verdict(case).problems
    for mended in offered(case, problem.hint):
        assert [str(left) for left in verdict(mended).problems] == [], (problem.hint, mended.changes)


def test_many_hints_offer_values() -> None:
    offers = [list(offered(case, verdict(case).problems[0].hint)) for case in WRONG]
    assert len([offer for offer in offers if offer]) >= 25
    assert sum(map(len, offers)) >= 60


SIZES = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
)


@pytest.mark.parametrize("seed", range(60))
def test_hints_lead_out_of_any_sizes_in_a_few_steps(seed: int) -> None:
    chance = random.Random(seed)
    changes: dict[str, Any] = {dest: chance.choice([1, 1, 2, 3, 4, 6, 8]) for dest in SIZES}
    changes |= {"num_layers": chance.choice([8, 10, 12, 13]), "num_experts": chance.choice([None, 6, 8])}
    changes |= {"num_attention_heads": chance.choice([6, 8, 12]), "hidden_size": 768, "sequence_parallel": True}
    case = Case("", {**changes, "global_batch_size": chance.choice([60, 64])}, world=chance.choice([8, 12, 16]))
    places: list[str] = []
    while problems := verdict(case).problems:
        for problem in problems:
            follow = list(offered(case, problem.hint))
            follow += [
                replace(case, world=-(-case.world // int(size)) * int(size))
                for size in re.findall(r"multiple of (\d+) GPUs", problem.hint)
            ]
            if follow:
                case = follow[0]
                places.append(str(problem.where))
                break
        else:  # each of several is at fault
            assert any("change several of them together" in problem.hint for problem in problems), problems
            return
        assert len(places) <= 6, (case.changes, places)
