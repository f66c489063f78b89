"""The YAML of monitoring: both forms of it, states in every spelling, and what can't be, reported with its place."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from oellm_autoexp.config.schema import AutoexpConfig, decode
from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.rules.actions import EventAction, LogAction, RestartAction
from oellm_autoexp.rules.rules import STATES, LogEvent, MonitoringSection, Rules

PROJECT = dict.fromkeys(
    ("name", "base_output_dir", "output_dir", "log_path", "log_path_current", "monitoring_state_dir"), "/x"
)
LOG = {"class_name": "LogAction", "message": "x"}

MISSION = r"""
log_events:
  - name: checkpoint_saved
    pattern: "saved checkpoint (?P<path>\\S+)"
    pattern_type: regex
    metadata:
      kind: checkpoint
    extract_groups:
      checkpoint_path: path
    actions:
      - class_name: EventAction
        mode: queue
        conditions:
          - class_name: FileExistsCondition
            path: "{checkpoint_path}"
            blocking: true
        action:
          class_name: RunCommandAction
          # does not work yet
          command: "python convert_checkpoint.py {checkpoint_path} {checkpoint_path}/../converted"

state_events:
  - name: stall
    state:
      class_name: StalledState
    actions:
      - class_name: EventAction
        action:
          class_name: RestartAction
          reason: "retry stall"
  - name: success
    state:
      class_name: SuccessState
    actions:
      - class_name: EventAction
        action:
          class_name: LogAction
          message: "run_finished"
"""


def config(monitoring: Any) -> AutoexpConfig:
    """A whole config with this section."""
    client = {"class_name": "FakeSlurmClient"}
    tree = {"project": PROJECT, "backend": {"class_name": "CommandBackend"}, "slurm": {"client": client}}
    return decode({**tree, "monitoring": monitoring})


def rules(**monitoring: Any) -> MonitoringSection:
    return config(monitoring).monitoring


def test_the_block_of_the_mission_decodes_as_it_stands() -> None:
    made = config(yaml.safe_load(MISSION)).monitoring
    saved = made.log_events["checkpoint_saved"]
    assert saved.extracted({"1": "/c/5", "path": "/c/5"}) == {"path": "/c/5", "checkpoint_path": "/c/5"}
    assert saved.bindings[0].mode == "queue"
    stall, success = made.state_events["stall"], made.state_events["success"]
    assert (stall.state, success.state) == ("stall", "success")
    assert isinstance(stall.bindings[0].action, RestartAction)
    assert isinstance(success.bindings[0].action, LogAction)


def test_a_list_and_a_mapping_by_name_are_the_same() -> None:
    event = {"pattern": "x", "actions": [LOG]}
    assert rules(log_events={"a": event}) == rules(log_events=[{"name": "a", **event}])
    assert rules(state_events={"crash": {}}) == rules(state_events=[{"name": "crash"}])


def test_what_hydra_has_set_to_null_is_left_out() -> None:
    assert list(rules(log_events={"a": None, "b": {"pattern": "x"}}).log_events) == ["b"]
    assert rules(state_events={"crash": None}).for_state("crash") is None


def test_a_bare_action_is_an_inline_one_without_conditions() -> None:
    made = rules(log_events={"a": {"pattern": "x", "actions": [LOG, {"class_name": "EventAction", "action": LOG}]}})
    bare, wrapped = made.log_events["a"].bindings
    assert (
        bare == wrapped == EventAction(class_name="EventAction", action=LogAction(class_name="LogAction", message="x"))
    )
    places = [place.key for _, _, place in made.bindings()]
    assert places == ["monitoring.log_events.a.actions[0]", "monitoring.log_events.a.actions[1]"]


def test_rules_come_back_from_the_manifest_as_they_were() -> None:
    made = config(yaml.safe_load(MISSION)).monitoring
    assert MonitoringSection.model_validate(made.model_dump(mode="json", exclude_defaults=True)) == made


@pytest.mark.parametrize(
    ("written", "state"),
    [
        *((state, state) for state in STATES),
        *((state.upper(), state) for state in STATES),
        *(({"class_name": "".join(map(str.title, state.split("_"))) + "State"}, state) for state in STATES),
        ({"class_name": "StalledState"}, "stall"),
        ({"class_name": "CrashState"}, "crash"),
        ({"class_name": "CrashedState"}, "crash"),
        ({"class_name": "TimeoutState"}, "timeout"),
        ({"class_name": "SuccessState"}, "success"),
        ({"class_name": "OOMState"}, "oom"),
        ("COMPLETED", "success"),
        ("FAILED", "crash"),
        ("OUT_OF_MEMORY", "oom"),
        ("canceled", "cancelled"),
        ("TimedOut", "timeout"),
    ],
)
def test_a_state_may_be_spelled_in_many_ways(written: Any, state: str) -> None:
    assert rules(state_events={"x": {"state": written}}).state_events["x"].state == state
    assert rules(log_events={"x": {"pattern": "y", "state": written}}).log_events["x"].state == state


def test_a_state_event_is_by_default_for_the_state_of_its_name() -> None:
    assert rules(state_events={"node_fail": {}}).state_events["node_fail"].state == "node_fail"
    assert rules(state_events=[{"name": "timeout", "state": None}]).state_events["timeout"].state == "timeout"


@pytest.mark.parametrize(
    ("declared", "asked", "found"),
    [
        (["crash"], "crash", "crash"),
        (["crash"], "oom", "crash"),
        (["crash"], "node_fail", "crash"),
        (["crash"], "preempted", "crash"),
        (["crash"], "cancelled", "crash"),
        (["crash"], "timeout", None),
        (["crash"], "stall", None),
        (["crash"], "success", None),
        (["crash", "oom"], "oom", "oom"),
        (["oom", "crash"], "node_fail", "crash"),
        (["oom"], "crash", None),
        ([], "crash", None),
    ],
)
def test_the_most_specific_declared_state_is_taken(declared: list[str], asked: str, found: str | None) -> None:
    event = rules(state_events={name: {} for name in declared}).for_state(asked)
    assert (event.name if event else None) == found


def one(event: Any) -> dict[str, Any]:
    return {"log_events": {"a": event}}


PROGRESS = {"pattern_type": "progress", "stall_seconds": 60}


@pytest.mark.parametrize(
    ("monitoring", "path", "words"),
    [
        ({"log_events": 7}, "$.monitoring.log_events", "must be keys and values"),
        ({"log_events": "x"}, "$.monitoring.log_events", "must be keys and values"),
        ({"log_events": [{"pattern": "x"}]}, "$.monitoring.log_events", "entry 0 must be a mapping with a name"),
        ({"log_events": [None]}, "$.monitoring.log_events", "entry 0 must be a mapping with a name"),
        ({"log_events": [{"name": "a"}, {"name": "a"}]}, "$.monitoring.log_events", "two events have the name 'a'"),
        ({"log_events": {"a/b": {}}}, "$.monitoring.log_events", "can't be an event's name"),
        ({"log_events": {"..": {}}}, "$.monitoring.log_events", "can't be an event's name"),
        ({"log_events": {"": {}}}, "$.monitoring.log_events", "can't be an event's name"),
        ({"log_events": {"x" * 81: {}}}, "$.monitoring.log_events", "can't be an event's name"),
        ({"log_events": {"a": {"name": "b"}}}, "$.monitoring.log_events", "contains a different name: 'b'"),
        (one({"patern": "x"}), "$.monitoring.log_events.a.patern", "unknown key 'patern'"),
        (one("x"), "$.monitoring.log_events.a", "must be keys and values"),
        (one({"pattern": "("}), "$.monitoring.log_events.a", "no regular expression"),
        (one({"pattern": ""}), "$.monitoring.log_events.a", "the pattern is empty"),
        (one({"pattern": "x", "pattern_type": "glob"}), "$.monitoring.log_events.a.pattern_type", "'regex'"),
        (
            one({"pattern": "x", "pattern_type": "inactivity"}),
            "$.monitoring.log_events.a",
            "an inactivity rule has no pattern",
        ),
        (
            one({"pattern": "x", **PROGRESS}),
            "$.monitoring.log_events.a",
            "a progress rule needs stall_seconds, and a pattern with a group",
        ),
        (one({"pattern": "(x)", "pattern_type": "progress"}), "$.monitoring.log_events.a", "needs stall_seconds"),
        (
            one({"pattern": "(x)", "stall_seconds": 5}),
            "$.monitoring.log_events.a",
            "stall_seconds can't be used with pattern_type: regex",
        ),
        (
            one({"pattern": "(x)", "counter": 1}),
            "$.monitoring.log_events.a",
            "counter can't be used with pattern_type: regex",
        ),
        (one({"pattern": "x", "startup_seconds": 5}), "$.monitoring.log_events.a", "startup_seconds can't be used"),
        (
            one({"pattern": "x", "inactivity_threshold_seconds": 5}),
            "$.monitoring.log_events.a",
            "can't be used with pattern_type",
        ),
        (
            one({"pattern": "(?P<n>x)", "counter": "m", **PROGRESS}),
            "$.monitoring.log_events.a",
            "'m' is no group of the pattern",
        ),
        (
            one({"pattern": "x", "extract_groups": {"a": "path"}}),
            "$.monitoring.log_events.a",
            "the pattern has no groups",
        ),
        (
            one({"pattern": "(?P<path>x)", "extract_groups": {"a": "pth"}}),
            "$.monitoring.log_events.a",
            "did you mean 'path'",
        ),
        (
            one({"pattern": "x", "state": "crsh"}),
            "$.monitoring.log_events.a.state",
            "'crsh' is no state; did you mean 'crash'",
        ),
        (one({"pattern": "x", "state": 7}), "$.monitoring.log_events.a.state", "must be a state's name"),
        (
            one({"pattern_type": "inactivity", "inactivity_threshold_seconds": 0}),
            "$.monitoring.log_events.a.inactivity_threshold_seconds",
            "greater than 0",
        ),
        (one({"pattern": "x", "actions": [{}]}), "$.monitoring.log_events.a.actions[0].class_name", "required"),
        (
            one({"pattern": "x", "actions": [{"class_name": "LgAction"}]}),
            "$.monitoring.log_events.a.actions[0].class_name",
            "unknown class_name 'LgAction'",
        ),
        (
            one({"pattern": "x", "actions": [{"class_name": "LogAction"}]}),
            "$.monitoring.log_events.a.actions[0].message",
            "required",
        ),
        (
            one({"pattern": "x", "actions": [{"class_name": "EventAction", "action": {**LOG, "level": "loud"}}]}),
            "$.monitoring.log_events.a.actions[0].action.level",
            "must be",
        ),
        (
            one(
                {
                    "pattern": "x",
                    "actions": [{"class_name": "EventAction", "action": LOG, "conditions": [{"class_name": "X"}]}],
                }
            ),
            "$.monitoring.log_events.a.actions[0].conditions[0].class_name",
            "unknown class_name 'X'",
        ),
        (
            one({"pattern": "x", "actions": [{"class_name": "EventAction", "action": LOG, "executor": "local"}]}),
            "$.monitoring.log_events.a.actions[0]",
            "an executor needs mode: queue",
        ),
        (
            one(
                {
                    "pattern": "x",
                    "actions": [{"class_name": "EventAction", "mode": "queue", "action": LOG, "executor": "local"}],
                }
            ),
            "$.monitoring.log_events.a.actions[0]",
            "an executor is for actions that start a program: LogAction is none",
        ),
        (
            one(
                {
                    "pattern": "x",
                    "actions": [
                        {
                            "class_name": "EventAction",
                            "mode": "queue",
                            "action": {"class_name": "PublishEventAction", "event_name": "b"},
                        }
                    ],
                }
            ),
            "$.monitoring.log_events.a.actions[0]",
            "only the monitor can make an event: PublishEventAction is for mode: inline",
        ),
        (
            one({"pattern": "x", "actions": [{"class_name": "NotifyAction", "message": "x"}]}),
            "$.monitoring.log_events.a.actions[0]",
            "give either 'webhook', 'command' or 'notifier'",
        ),
        (
            one({"pattern": "x", "actions": [{"class_name": "RestartAction", "max_attempts": -1}]}),
            "$.monitoring.log_events.a.actions[0].max_attempts",
            "at least 0",
        ),
        ({"state_events": {"strange": {}}}, "$.monitoring.state_events.strange.state", "'strange' is no state"),
        (
            {"state_events": {"x": {"state": {"class_name": "NopeState"}}}},
            "$.monitoring.state_events.x.state",
            "is no state",
        ),
        (
            {"state_events": {"crash": {"pattern": "x"}}},
            "$.monitoring.state_events.crash.pattern",
            "unknown key 'pattern'",
        ),
        ({"termination_string": ""}, "$.monitoring.termination_string", "at least 1"),
        ({"inactivity_threshold_seconds": True}, "$.monitoring.inactivity_threshold_seconds", "must be a number"),
        ({"poll_interval_seconds": float("inf")}, "$.monitoring.poll_interval_seconds", "must be a number"),
        ({"log_event": {}}, "$.monitoring.log_event", "unknown key 'log_event'"),
    ],
)
def test_what_can_not_be_is_reported_with_its_place(monitoring: Any, path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(monitoring)
    assert [str(problem.where) for problem in caught.value.problems] == [path]
    assert words in str(caught.value)


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config({"log_events": {"a": {"pattern": "("}, "b": {"x": 1}}, "state_events": {"strange": {}}})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"pattern": "x", "pattern_type": "substring"},
        {"pattern": "(", "pattern_type": "substring"},
        {"pattern_type": "inactivity", "startup_seconds": 5},
        {"pattern": r"(\d+)", **PROGRESS},
        {"pattern": r"(\d+)/(\d+)", "counter": 2, **PROGRESS},
        {"pattern": r"(?P<it>\d+)", "counter": "it", "startup_seconds": 9, **PROGRESS},
        {"pattern": "(x)", "extract_groups": {"a": 1, "b": "1"}},
    ],
)
def test_every_right_combination_is_taken(event: dict[str, Any]) -> None:
    assert Rules.model_validate({"log_events": {"a": event}}).log_events["a"].searches == ("pattern" in event)


def test_the_whole_match_is_a_group_named_match() -> None:
    rule = LogEvent.model_validate(
        {"name": "a", "pattern": r"saved (\w+)", "extract_groups": {"what": "1", "said": "match"}}
    )
    assert rule.extracted({"1": "it"}, "saved it") == {"what": "it", "said": "saved it"}
    own = LogEvent.model_validate({"name": "a", "pattern": r"(?P<match>x)y", "extract_groups": {"said": "match"}})
    assert own.extracted({"1": "x", "match": "x"}, "xy") == {"match": "x", "said": "x"}
