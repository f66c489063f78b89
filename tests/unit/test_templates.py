"""Templates in actions: a look-up and nothing more; no value becomes a second word or a piece of a format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.text import escaped
from oellm_autoexp.rules.actions import EventAction, LogAction, RestartAction, RunAutoexpAction, RunCommandAction
from oellm_autoexp.rules.conditions import FileExistsCondition, GlobExistsCondition, LogPatternCondition
from oellm_autoexp.rules.templates import filled, keys_of, looked_up_keys, used_keys

HOSTILE = [
    "$(touch x)",
    "`id`",
    "; rm -rf /",
    "a b\tc",
    "a\nb",
    "{line}",
    "{0.__class__}",
    "{{x}}",
    "%s %n",
    "'\"\\",
    "\x00",
    "\x1b[31m",
    "--flag",
    "*",
    "",
]


def words(command: str | list[str], **values: Any) -> tuple[str, ...]:
    made = RunCommandAction.model_validate({"class_name": "RunCommandAction", "command": command})
    return filled(made, values).command


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_stays_one_word_as_it_is(value: str) -> None:
    assert words("eval --at {line} 'x {line}'", line=value) == ("eval", "--at", value, f"x {value}")


@given(st.text(), st.text())
def test_any_value_at_all_stays_one_word(first: str, second: str) -> None:
    assert words(["a", "{x}{y}", "{y}"], x=first, y=second) == ("a", first + second, second)


@pytest.mark.parametrize("text", ["{0}", "{x.__class__}", "{x[0]}", "{x!r}", "{x:>10}", "{}", "{ x }"])
def test_a_look_up_is_plain_and_anything_else_is_an_unknown_key(text: str) -> None:
    with pytest.raises(KeyError) as caught:
        words([text], x="secret")
    assert caught.value.args[0] == text[1:-1]


def test_dotted_keys_are_keys_like_others() -> None:
    assert words(["{backend.megatron.lr}"], **{"backend.megatron.lr": 0.001}) == ("0.001",)


def test_values_are_written_as_yaml_does() -> None:
    assert words("{a}{b}{c}{d}", a=True, b=None, c=1.5, d=False) == ("truenull1.5false",)


def test_doubled_braces_are_literal_and_lone_ones_stay() -> None:
    assert words(["awk {{print}} {", "}"]) == ("awk {print} {", "}")
    assert list(keys_of("{{a}} {b} {{{c}}} {")) == ["b", "c"]


def test_every_text_below_an_action_is_filled_but_kinds_modes_and_patterns() -> None:
    made = EventAction.model_validate(
        {
            "class_name": "EventAction",
            "mode": "queue",
            "conditions": [
                {"class_name": "FileExistsCondition", "path": "{p}/done"},
                {"class_name": "LogPatternCondition", "pattern": "a{2} {p}", "path": "{p}"},
            ],
            "action": {
                "class_name": "RestartAction",
                "reason": "{p}",
                "overrides": {"a.b": "{p}", "c": [{"d": "{p}"}, 7], "{p}": 1},
                "exclude_nodes": "{n}",
            },
        }
    )
    found = filled(made, {"p": "/x", "n": "n1"}).model_dump()
    assert found["conditions"][0]["path"] == "/x/done"
    assert (found["conditions"][1]["pattern"], found["conditions"][1]["path"]) == ("a{2} {p}", "/x")
    assert found["action"]["overrides"] == {"a.b": "/x", "c": [{"d": "/x"}, 7], "{p}": 1}
    assert (found["action"]["reason"], found["action"]["exclude_nodes"]) == ("/x", "n1")
    assert list(used_keys(made)) == ["p", "n"]


@pytest.mark.parametrize("text", ["${oc.env:HOME}", r"\${a}", "x${"])
def test_a_value_in_an_override_is_no_interpolation(text: str) -> None:
    restart = RestartAction(class_name="RestartAction", overrides={"a": ["{v}"], "b": "${c:{v},1}"})
    run = RunAutoexpAction(class_name="RunAutoexpAction", overrides=("a={v}", "b={v}"))
    literal = escaped(text)
    assert literal != text
    assert filled(restart, {"v": text}).overrides == {"a": [literal], "b": "${c:" + literal + ",1}"}
    assert filled(run, {"v": text}).overrides == (f"a='{literal}'", f"b='{literal}'")


def test_the_options_of_an_executor_are_no_templates() -> None:
    executor = {"cluster": "slurm", "sbatch": {"comment": "{p}"}}
    action = {"class_name": "RunCommandAction", "command": "x"}
    made = EventAction.model_validate(
        {"class_name": "EventAction", "mode": "queue", "action": action, "executor": executor}
    )
    assert filled(made, {}) == made


def test_a_value_in_a_glob_pattern_stands_for_itself_and_the_pattern_for_many() -> None:
    made = GlobExistsCondition(class_name="GlobExistsCondition", pattern="{root}/iter_*{i}")
    assert filled(made, {"root": "/out[1]/**", "i": 20}).pattern == "/out[[]1]/[*][*]/iter_*20"


def test_the_key_of_a_condition_is_no_template_but_a_key() -> None:
    condition = {"class_name": "MetadataCondition", "key": "backend.lr", "equals": "{x}"}
    action = {"class_name": "LogAction", "message": "{y}"}
    made = EventAction.model_validate({"class_name": "EventAction", "conditions": [condition], "action": action})
    assert (list(looked_up_keys(made)), list(used_keys(made))) == (["backend.lr"], ["x", "y"])


def test_an_unknown_key_is_named_and_the_record_is_as_it_was() -> None:
    made = LogAction(class_name="LogAction", message="{nope}")
    with pytest.raises(KeyError, match="nope"):
        filled(made, {})
    assert made.message == "{nope}"


@pytest.mark.parametrize(
    ("kind", "field"),
    [("LogAction", "message"), ("NotifyAction", "subject"), ("RestartAction", "reason"), ("CancelAction", "reason")],
)
def test_a_text_for_people_gets_no_value_that_its_key_calls_a_secret(kind: str, field: str) -> None:
    more = {"message": "", "command": ["send", "{api_key}"]} if kind == "NotifyAction" else {}
    action = {"class_name": kind, **more, field: "saw {line} {api_key} {num_tokens}"}
    made = EventAction.model_validate({"class_name": "EventAction", "action": action})
    found = filled(made, {"line": "a", "api_key": "hunter2", "num_tokens": 5}).action.model_dump()
    assert found[field] == "saw a *** 5"
    assert found.get("command") in (None, ("send", "hunter2")), "what a program gets is whole"


def test_a_secret_stays_one_under_another_key() -> None:
    action = {"class_name": "LogAction", "message": "{line} {renamed} {whole} {short}"}
    values = {"token": "pl4nted-word", "renamed": "pl4nted-word", "whole": "is pl4nted-word.", "line": "a", "pin": "a"}
    found = filled(EventAction.model_validate({"class_name": "EventAction", "action": action}), values | {"short": "b"})
    assert found.action.model_dump()["message"] == "a *** is ***. b"


def test_a_record_without_templates_is_equal_to_itself_filled() -> None:
    for made in (
        FileExistsCondition(class_name="FileExistsCondition", path="/a"),
        LogPatternCondition(class_name="LogPatternCondition", pattern="{x}"),
    ):
        assert filled(made, {}) == made
