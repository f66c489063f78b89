"""Mistakes in rules that decode, reported when the plan is made; and the values of a config that templates name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.backends.command import CommandBackend
from oellm_autoexp.backends.megatron.backend import MegatronBackend
from oellm_autoexp.backends.torchtitan.backend import TorchtitanBackend
from oellm_autoexp.config.schema import JobSection
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.planning.checks.rule_checks import (
    Decoder,
    job_problems,
    notes,
    own_rules,
    problems,
    recorded,
    template_values,
)
from oellm_autoexp.rules import progress
from oellm_autoexp.rules.metrics import known_lines
from oellm_autoexp.rules.rules import MonitoringSection

ROOT = Path(__file__).resolve().parents[2]
TREE = {"backend": {"megatron": {"lr": 0.1, "layers": [1, 2]}}, "slurm": {"sbatch": {"time": 60}}}
LOG = "LogAction"


def rules(**section: Any) -> MonitoringSection:
    return MonitoringSection.model_validate(section)


def found(**section: Any) -> list[Problem]:
    return problems(rules(**section), TREE)


def said(message: str, **event: Any) -> dict[str, Any]:
    return {
        "log_events": {"a": {"pattern": "x", **event, "actions": [{"class_name": "LogAction", "message": message}]}}
    }


def restarts(overrides: dict[str, Any]) -> dict[str, Any]:
    return {"state_events": {"crash": {"actions": [{"class_name": "RestartAction", "overrides": overrides}]}}}


@pytest.mark.parametrize(
    "section",
    [
        {},
        said("{job_id} {name} {line} {error_type} {iteration} {nodes_at_fault} {log_path_current}"),
        said("{path} {p} {k}", pattern="(?P<path>x)(y)", extract_groups={"p": 2}, metadata={"k": 1}),
        said("{backend.megatron.lr} {slurm.sbatch.time}"),
        said("{{literal}}"),
        restarts({"slurm.sbatch.time": "{iteration}:00"}),
        restarts({"slurm.sbatch.time": "02:00:00", "backend.megatron.lr": 1, "+new.key": 1}),
        {"log_events": {"q": {"pattern_type": "inactivity"}}, "inactivity_threshold_seconds": 60},
    ],
)
def test_rules_that_can_be_have_no_problems(section: dict[str, Any]) -> None:
    assert found(**section) == []


@pytest.mark.parametrize(
    ("section", "where", "what", "hint"),
    [
        (said("{job_ib}"), "$.monitoring.log_events.a.actions[0]", "there is no value '{job_ib}'", "'job_id'"),
        (said("{pth}", pattern="(?P<path>x)"), "$.monitoring.log_events.a.actions[0]", "'{pth}'", "'path'"),
        (said("{1}", pattern="(x)"), "$.monitoring.log_events.a.actions[0]", "'{1}'", ""),
        (said("{backend.megatron.lrr}"), "$.monitoring.log_events.a.actions[0]", "lrr", "'backend.megatron.lr'"),
        (said("{lr}"), "$.monitoring.log_events.a.actions[0]", "'{lr}'", "'backend.megatron.lr'"),
        (said("{zzz qqq}"), "$.monitoring.log_events.a.actions[0]", "'{zzz qqq}'", "a literal brace is written twice"),
        ({"log_events": {"a": {}}}, "$.monitoring.log_events.a", "this event can never occur", "PublishEventAction"),
        (
            {"log_events": {"a": {"pattern_type": "inactivity"}}},
            "$.monitoring.log_events.a",
            "the rule has no time limit",
            "",
        ),
        (
            {"state_events": {"crash": {}, "x": {"state": "crash"}}},
            "$.monitoring.state_events.x",
            "'crash' is already for the state 'crash'",
            "put the actions into 'crash', or remove it: 'crash: null'",
        ),
        (
            {"log_events": {"crash": {"pattern": "x"}}, "state_events": {"crash": {}}},
            "$.monitoring.log_events.crash",
            "a log event and a state event have this name",
            "another name",
        ),
        (
            {"state_events": {"crash": {"actions": [{"class_name": "PublishEventAction", "event_name": "crush"}]}}},
            "$.monitoring",
            "there is no event 'crush'",
            "'crash'",
        ),
        (
            restarts({"backend.megatron.lrr": 1}),
            "$.monitoring.state_events.crash.actions[0].overrides.backend.megatron.lrr",
            "the config has no key 'backend.megatron.lrr'",
            "'backend.megatron.lr'",
        ),
        (
            restarts({"slurm.sbatch.output": "x"}),
            "$.monitoring.state_events.crash.actions[0].overrides",
            "output",
            "",
        ),
        (
            restarts({"slurm.sbatch.time": "soon"}),
            "$.monitoring.state_events.crash.actions[0].overrides",
            "soon",
            "",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_place_and_what_may_be_meant(
    section: dict[str, Any], where: str, what: str, hint: str
) -> None:
    [problem] = found(**section)
    assert str(problem.where) == where
    assert what in problem.what
    assert hint in problem.hint


@pytest.mark.parametrize(
    "overrides",
    [
        {"backend.argv.1": "{loss}"},
        {"backend": {"megatron": {"lr": 1}}},
        {"backend.megatron": {"lr": 1}},
        {"metadata.mine": 2, "+aux.x": 1, "++backend.new": 1},
        {"~backend.megatron.lr": None},
    ],
)
def test_a_new_attempt_may_set_what_a_sweep_may_set(overrides: dict[str, Any]) -> None:
    config = {"backend": {"argv": ["a", "b"], "megatron": {"lr": 3}}, "metadata": {}, "aux": {"x": 0}}
    assert problems(rules(**restarts(overrides)), config) == []


def test_an_event_that_is_published_may_have_the_keys_of_whoever_publishes_it() -> None:
    publish = {"class_name": "PublishEventAction", "event_name": "b", "metadata": {"k": 1}}
    events = {
        "a": {"pattern": "(?P<path>x)", "actions": [publish]},
        "b": {"actions": [{"class_name": LOG, "message": "{path} {k}"}]},
    }
    assert found(log_events=events) == []


def test_an_unknown_key_in_the_termination_command_is_reported() -> None:
    assert [problem.what for problem in found(termination_command="check {nope}")] == ["there is no value '{nope}'"]


def test_the_jobs_own_threshold_is_enough_for_a_rule_of_inactivity() -> None:
    section = rules(log_events={"q": {"pattern_type": "inactivity"}})
    assert problems(section, {"job": {"inactivity_threshold_seconds": 60}}) == []


def asks(key: str, **event: Any) -> dict[str, Any]:
    action = {
        "class_name": "EventAction",
        "conditions": [{"class_name": "MetadataCondition", "key": key}],
        "action": {"class_name": LOG, "message": "x"},
    }
    return {"pattern": "(?P<path>x)", **event, "actions": [action]}


@pytest.mark.parametrize("key", ["path", "job_id", "iteration", "backend.megatron.lr", "k"])
def test_a_condition_may_look_at_what_a_template_may_name(key: str) -> None:
    assert found(log_events={"a": asks(key, metadata={"k": 1})}) == []


@pytest.mark.parametrize(
    ("key", "hint"),
    [("pth", "'path'"), ("backend.megatron.lrr", "'backend.megatron.lr'"), ("backend.megatron.layers", "")],
)
def test_a_key_of_a_condition_that_nothing_is_called_is_reported(key: str, hint: str) -> None:
    [problem] = found(log_events={"a": asks(key)})
    assert (str(problem.where), problem.what) == ("$.monitoring.log_events.a.actions[0]", f"there is no value '{key}'")
    assert hint in problem.hint


def test_a_stall_may_have_the_keys_of_the_lines_that_tell_of_one() -> None:
    hangs = {"pattern": "(?P<worker>x)", "state": "stall"}
    stall = {key: value for key, value in asks("worker").items() if key == "actions"}
    assert found(log_events={"hangs": hangs}, state_events={"stall": stall}) == []
    assert len(found(log_events={"hangs": hangs}, state_events={"crash": stall})) == 1


def job(*keys: str) -> JobSection:
    return JobSection.model_validate(
        {"cancel_conditions": [{"class_name": "MetadataCondition", "key": key, "at_least": 1} for key in keys]}
    )


def test_a_key_of_a_jobs_own_conditions_that_nothing_is_called_is_reported() -> None:
    [problem] = job_problems(job("attempt", "backend.megatron.lr", "backend.megatron.lrr"), TREE)
    assert (str(problem.where), "'backend.megatron.lrr'" in problem.what) == ("$.job.cancel_conditions[2]", True)


def test_the_values_that_conditions_look_at_are_taken_from_the_config() -> None:
    section = rules(log_events={"a": asks("backend.megatron.lr")})
    assert template_values(section, job("slurm.sbatch.time", "attempt"), TREE) == {
        "backend.megatron.lr": 0.1,
        "slurm.sbatch.time": 60,
    }


def test_the_values_that_templates_name_are_taken_from_the_config() -> None:
    section = rules(
        **said("{backend.megatron.lr} {job_id} {path} {backend.megatron}"), termination_command="x {slurm.sbatch.time}"
    )
    assert template_values(section, JobSection(), TREE) == {"backend.megatron.lr": 0.1, "slurm.sbatch.time": 60}


def test_slow_patterns_are_reported_by_name_and_plain_texts_are_not_patterns() -> None:
    events = {"a": {"pattern": ".*x"}, "b": {"pattern": ".*x", "pattern_type": "substring"}, "c": {"pattern": "word"}}
    assert [note.split()[3] for note in notes(rules(log_events=events))] == ["monitoring.log_events.a"]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"pattern": "done", "state": "SuccessState"}, "the exit code decides whether a job has succeeded"),
        ({"pattern": "done", "state": "success", "overrules_success": True}, "monitoring.termination_string"),
        ({"pattern": "begun", "state": "RunningState"}, "the scheduler decides whether a job is running"),
        ({"pattern": "done", "state": "success", "actions": [{"class_name": "CancelAction"}]}, ""),
        ({"pattern": "done", "state": "stall"}, ""),
    ],
)
def test_a_state_that_a_log_line_gives_no_job_is_noted(event: dict[str, Any], message: str) -> None:
    found = notes(rules(log_events={"a": event}))
    assert len(found) == bool(message)
    assert all(message in note and "of monitoring.log_events.a" in note for note in found)


def test_the_manifest_has_a_section_without_its_defaults_and_a_jobs_own_only_where_it_differs() -> None:
    plan = rules(log_events={"a": {"pattern": "x"}}, output_paths=["/a"])
    assert recorded(plan) == {"log_events": {"a": {"name": "a", "pattern": "x"}}}
    other = plan.model_copy(update={"output_paths": ("/b",)})
    assert own_rules(plan, plan) is own_rules(other, plan) is None
    assert own_rules(rules(startup_seconds=5), plan) == {"startup_seconds": 5}
    one, true = (rules(**said("x", metadata={"kept": value})) for value in (1, True))
    assert repr(own_rules(true, one)["log_events"]["a"]["metadata"]) == "{'kept': True}"  # type: ignore[index]
    assert MonitoringSection.model_validate(recorded(plan)).log_events == plan.log_events


def decoded(section: Any) -> MonitoringSection:
    return Decoder().section({**TREE, "monitoring": section})


def test_a_jobs_section_is_decoded_from_its_resolved_tree() -> None:
    made = decoded({"log_events": {"a": {"pattern": "x"}}, "output_paths": "/f"})
    assert (list(made.log_events), made.output_paths) == (["a"], ("/f",))
    assert decoded(None) == MonitoringSection()


@pytest.mark.parametrize(
    ("section", "where"),
    [
        (said("{nope}"), "$.monitoring.log_events.a.actions[0]"),
        ({"log_events": {"a": {"patern": "x"}}}, "$.monitoring.log_events.a.patern"),
        ({"output_paths": [7]}, "$.monitoring.output_paths[0]"),
        ("text", "$.monitoring"),
        (["x"], "$.monitoring"),
    ],
)
def test_a_section_that_can_not_be_is_reported(section: Any, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decoded(section)
    assert [str(problem.where) for problem in caught.value.problems] == [where]


def test_many_jobs_with_one_section_share_what_it_is_decoded_to() -> None:
    decoder = Decoder()
    trees = [{**TREE, "monitoring": {**said("x"), "output_paths": [f"/{number}"]}} for number in range(3)]
    made = [decoder.section(tree) for tree in trees]
    assert len({id(section.log_events) for section in made}) == 1
    assert [section.output_paths for section in made] == [("/0",), ("/1",), ("/2",)]


def test_sections_that_only_python_calls_equal_are_decoded_apart() -> None:
    decoder = Decoder()
    trees = [{**TREE, "monitoring": said("x", metadata={"kept": value})} for value in (1, True, 1.0)]
    assert [repr(decoder.section(tree).log_events["a"].metadata["kept"]) for tree in trees] == ["1", "True", "1.0"]


SAVED = "  [2026-01-31 10:00:10.1] successfully saved checkpoint from iteration      40 to /out/ckpt [ t 1/1, p 1/1 ]"


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"pattern": r"saved checkpoint (?P<path>\S+)"}, "extracts 'from' as path, which is not a path"),
        ({"pattern": r"saved checkpoint (\S+)", "extract_groups": {"checkpoint_dir": "1"}}, "'from' as checkpoint_dir"),
        ({"pattern": r"iteration\s+(?P<step>\S+ to)"}, "'40 to' as step, which is not a whole number"),
        (
            {"pattern": r"saved (\w+)", "pattern_type": "progress", "stall_seconds": 5},
            "extracts 'checkpoint' as 1, which is not a number",
        ),
        ({"pattern": r"iteration\s+(?P<iteration>\d+) to (?P<path>\S+)"}, ""),
        ({"pattern": r"saved checkpoint (?P<word>\S+)"}, ""),
        ({"pattern": r"saved checkpoint nowhere(?P<path>\S+)"}, ""),
        ({"pattern": "saved checkpoint", "pattern_type": "substring"}, ""),
        ({"pattern_type": "inactivity", "inactivity_threshold_seconds": 5}, ""),
    ],
)
def test_a_rule_that_catches_the_wrong_word_of_a_known_line_is_noted_with_the_line(
    event: dict[str, Any], message: str
) -> None:
    found = notes(rules(log_events={"a": event}), [SAVED])
    assert len(found) == bool(message)
    assert all(message in note and "successfully saved checkpoint from iteration" in note for note in found)


@pytest.mark.parametrize(
    ("section", "group"), [(MegatronBackend, "megatron"), (TorchtitanBackend, "torchtitan"), (CommandBackend, "")]
)
def test_sample_lines_are_such_as_progress_is_read_from(section: Any, group: str) -> None:
    lines = section.model_construct().sample_lines()
    assert bool(lines) == bool(group)
    seen = progress.after(progress.Progress(), known_lines("\n".join(lines).encode()))
    assert (seen.iteration is not None) == bool(group)
    assert (seen.validation_loss is not None) == bool(group)
    own = CommandBackend.model_validate({"class_name": "CommandBackend", "prints": group or None})
    assert own.sample_lines() == lines


def test_no_shipped_rule_catches_a_wrong_word_of_the_program_it_is_for() -> None:
    backend = MegatronBackend(class_name="MegatronBackend", script="pretrain_gpt.py")
    for file in sorted((ROOT / "config" / "monitoring").glob("megatron_*.yaml")):
        shipped = yaml.safe_load(file.read_text())
        kept = {key: value for key, value in shipped.items() if key in MonitoringSection.model_fields}
        found = notes(MonitoringSection.model_validate(kept), backend.sample_lines())
        assert not found, file.name
