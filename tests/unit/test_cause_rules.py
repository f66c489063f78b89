"""Rules of causes: the shipped ones match their examples, and none is slow; wrong ones get a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm_autoexp.causes.labels import LABELS
from oellm_autoexp.causes.rule import CauseRule, combined
from oellm_autoexp.config.loader import Source
from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.engine.observing.cause_finder import shipped_rules
from oellm_autoexp.search.patterns import advice, scan
from oellm_autoexp.testing.plans import plan_of

SHIPPED = combined({}, shipped_rules())
LABELLED = (
    "{}",
    "3: {}",
    "[rank3]: {}",
    "[default3]:{}",
    "12: [rank12]: {}",
    "[rank0]: 2026-01-31 10:00:00,123 ERROR {}",
)
LINES = [(name, line) for name, rule in SHIPPED.items() for line in rule.examples]
OTHERS = [(name, line) for name, rule in SHIPPED.items() for line in rule.others]


def first(line: str) -> str:
    """The rule that counts for a line: the first one that matches it."""
    return next((name for name, rule in SHIPPED.items() if rule.place is None and rule.matches(line)), "")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_rule_has_examples_unless_it_is_about_frames(name: str) -> None:
    rule = SHIPPED[name]
    assert rule.examples or rule.within


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_rule_is_as_right_as_one_of_a_config(name: str) -> None:
    assert CauseRule.model_validate(SHIPPED[name].model_dump()) == SHIPPED[name]


@pytest.mark.parametrize(("name", "line"), LINES)
def test_an_example_is_found_in_a_log_and_no_rule_of_another_category_is_asked_before(name: str, line: str) -> None:
    found = {match.rule for match in scan(f"{line}\n".encode(), {name: SHIPPED[name].compiled}).matches}
    assert found == {name}
    assert SHIPPED[first(line)].category == SHIPPED[name].category, first(line)


@pytest.mark.parametrize(("name", "line"), OTHERS)
def test_what_a_rule_must_not_match_it_does_not(name: str, line: str) -> None:
    assert not SHIPPED[name].matches(line)


@pytest.mark.parametrize("labelled", LABELLED)
def test_labels_of_ranks_times_and_levels_come_before_what_a_pattern_begins_with(labelled: str) -> None:
    rule = CauseRule(category="code", pattern="^KeyError: ")
    assert rule.matches(labelled.format("KeyError: 'lr'"))
    assert not rule.matches(labelled.format("the text says KeyError: 'lr'"))


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_pattern_is_slow(name: str) -> None:
    rule = SHIPPED[name]
    if rule.within is None:
        assert advice(rule.pattern.replace("^", "")) is None
        assert rule.compiled.wide.ways, "each line of a log would be tried"


def test_lines_are_found_without_their_labels() -> None:
    rule = CauseRule(category="code", pattern="^KeyError: ")
    assert len(rule.compiled.wide.ways[0][0]) < len(LABELS)
    assert rule.compiled.search("[rank3]: KeyError: 'lr'")


def test_a_rule_of_ones_own_comes_first_replaces_a_shipped_one_or_switches_it_off() -> None:
    mine = CauseRule(category="config", pattern="mine")
    found = combined({"mine": mine, "exception": mine, "nan_notice": None}, shipped_rules())
    assert list(found)[:2] == ["mine", "exception"]
    assert found["exception"] is mine
    assert "nan_notice" not in found
    assert len(found) == len(SHIPPED)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("{category: cod, pattern: x}", "cod"),
        ("{category: code, pattern: '('}", "pattern is no regular expression"),
        ("{category: code, pattern: x, within: '['}", "within is no regular expression"),
        ("{category: code, pattern: ''}", "pattern is empty"),
        ("{category: code, pattern: x, role: cause}", "cause"),
        ("{category: code, pattern: x, exemples: x}", "exemples"),
        ("{category: code, pattern: x, examples: y}", "disagree about this line: y"),
        ("{category: code, pattern: x, others: [y, ax]}", "disagree about this line: ax"),
        ("{pattern: x}", "category"),
    ],
)
def test_a_wrong_rule_is_one_clear_error_with_its_place(rule: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "# @package _global_\ndefaults: [{override /backend: command}]\nbackend: {argv: [x]}\n"
        f"monitoring:\n  causes:\n    mine: {rule}\n"
    )
    with pytest.raises(ConfigError) as error:
        plan_of(Source(str(file)))
    (problem,) = error.value.problems
    assert told in problem.sentence
    assert "mine.yaml:6" in str(problem.where)
