"""Every YAML block of the page on monitoring decodes, and would pass the planner."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.schema import decode_section
from oellm_autoexp.decisions.template_values import JOB_KEYS
from oellm_autoexp.planning.checks.rule_checks import problems
from oellm_autoexp.rules.actions import ACTIONS, EventAction
from oellm_autoexp.rules.conditions import CONDITIONS
from oellm_autoexp.rules.rules import STATES, LogEvent, MonitoringSection, StateEvent
from oellm_autoexp.search.patterns import advice

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "monitoring_and_restart.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SECTIONS = ("monitoring", "slurm", "job", "project", "scheduler")
MEGATRON = {"backend": {"megatron": {"micro_batch_size": 4}}}


def by_section(block: str) -> dict[str, Any]:
    """The sections that a block sets; one of rules alone stands for the section `monitoring`."""
    tree = yaml.safe_load(block)
    return {"monitoring": tree} if {"log_events", "state_events"} & set(tree) else tree


def rules_of(block: str) -> MonitoringSection:
    return MonitoringSection.model_validate(by_section(block).get("monitoring", {}))


FRAGMENTS = [block for block in BLOCKS if "@package" not in block]
EXPERIMENTS = [block for block in BLOCKS if "@package" in block]


def test_the_cookbook_is_there() -> None:
    assert len(FRAGMENTS) >= 12
    assert len(EXPERIMENTS) == 1


@pytest.mark.parametrize("block", FRAGMENTS)
def test_a_block_decodes(block: str) -> None:
    for section, tree in by_section(block).items():
        assert section in SECTIONS
        if section == "monitoring":
            decode_section(section, tree)
        else:
            decode_section(section, load(Source()).base[section] | tree)


@pytest.mark.parametrize("block", FRAGMENTS)
def test_the_rules_of_a_block_have_nothing_that_the_planner_would_refuse_or_warn_of(block: str) -> None:
    rules = rules_of(block)
    assert problems(rules, MEGATRON) == []
    for event in rules.log_events.values():
        if event.pattern is not None and event.pattern_type != "substring":
            assert advice(event.pattern) is None


@pytest.mark.parametrize("block", EXPERIMENTS)
def test_an_experiment_composes_with_what_it_changes_and_the_rest(block: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(block)
    rules = MonitoringSection.model_validate(load(Source(str(file))).base["monitoring"])
    shipped = load(Source(overrides=("monitoring=megatron_production",))).base["monitoring"]
    assert set(rules.log_events) == set(shipped["log_events"]) - {"gpu_assert"}
    assert rules.inactivity_threshold_seconds == 3600
    assert rules.log_events["nan_loss"].metadata == {"asked_by": "me"}
    assert rules.log_events["nan_loss"].pattern == shipped["log_events"]["nan_loss"]["pattern"]
    assert len(rules.state_events["stall"].actions) == 1


def row(name: str) -> str:
    """The table row that begins with a name."""
    return next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))


@pytest.mark.parametrize("name", [*ACTIONS.classes(), *CONDITIONS.classes()])
def test_the_reference_names_every_key_of_an_action_and_a_condition(name: str) -> None:
    model = {**ACTIONS.classes(), **CONDITIONS.classes()}[name]
    own = set(model.model_fields) - {"class_name"}
    if name in CONDITIONS.classes():
        own -= {"blocking", "timeout_seconds"}  # described for all conditions together
    named = set(re.findall(r"`(\w+)`", row(name)))
    assert own <= named


def test_the_reference_names_every_key_of_the_section_and_its_events() -> None:
    known = {*MonitoringSection.model_fields} - {"class_name"}
    known |= {*LogEvent.model_fields, *StateEvent.model_fields, *EventAction.model_fields} - {"class_name"}
    for key in known:
        assert f"`{key}`" in PAGE, key
    for state in STATES:
        assert f"`{state}`" in PAGE, state


def test_the_reference_names_every_fact_that_a_template_may_name() -> None:
    paragraph = next(part for part in PAGE.split("\n\n") if part.startswith("`{key}` in a text"))
    for key in JOB_KEYS:
        assert re.search(rf"\b{key}\b", paragraph), key


def test_every_option_in_a_shell_block_exists() -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert lines
    for line in lines:
        script, rest = re.fullmatch(r"python scripts/(\w+)\.py ([^#]*?)\s*(?:#.*)?", line).groups()  # type: ignore[union-attr]
        actions = import_module(f"oellm_autoexp.cli.{script}").parser()._actions
        known = {option for action in actions for option in action.option_strings}
        assert set(re.findall(r"--[a-z][a-z-]+", rest)) <= known, line
        for command in re.findall(r"--cmd (\w+)", rest):
            assert command in next(action.choices for action in actions if action.dest == "cmd"), line
