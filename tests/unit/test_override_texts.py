"""Templates in the overrides of actions: a value arrives as the text that it is, whatever stands in it."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from oellm_autoexp.rules.actions import RestartAction, RunAutoexpAction
from oellm_autoexp.rules.override_texts import filled_value, filled_word, in_words
from oellm_autoexp.rules.templates import filled

PARSER = OverridesParser.create()
TEXTS = st.text(st.sampled_from("ab1. =,:'\"\\${}[]()\t-~!#/"), max_size=8)
WORDS = ["x={v}", "x='{v}'", 'x="{v}"', "x='a {v} b'", "x={v}_b", "x=[a,'{v}']", "x={{a:'{v}'}}", "x=[{v}]", "++x={v}"]


def value_of(word: str) -> Any:
    """What Hydra and OmegaConf make of the value of an override."""
    return OmegaConf.create({"x": PARSER.parse_override(word).value()})["x"]


def leaves(value: Any) -> Any:
    if isinstance(value, dict):
        return next(iter(value.values()))
    return value[-1] if isinstance(value, list) else value


@pytest.mark.parametrize("word", WORDS)
@given(TEXTS.filter(lambda text: text not in ("", "-") and text.strip("1.-") != "" and text == text.strip()))
@example("${oc.env:HOME}")
@example(r"\${oc.env:HOME}")
@example(r"x${a}y\\")
@example("it's")
@example("[1,2]")
@example("a: b, c=d")
def test_a_text_of_a_log_is_read_by_hydra_as_it_is(word: str, text: str) -> None:
    made = filled_word(word, {"v": text}.__getitem__, "")
    found: Any = OmegaConf.to_container(OmegaConf.create({"x": PARSER.parse_override(made).value()}), resolve=True)
    around = {"x='a {v} b'": f"a {text} b", "x={v}_b": f"{text}_b"}.get(word, text)
    assert leaves(found["x"]) == around, made


@pytest.mark.parametrize(
    ("text", "value"), [("2.5", 2.5), ("1e-4", 1e-4), ("7", 7), ("true", True), ("null", None), ("a/b-c.d", "a/b-c.d")]
)
def test_a_plain_value_stays_what_it_is(text: str, value: Any) -> None:
    made = filled_word("x={v}", {"v": text}.__getitem__, "")
    assert made == f"x={text}"
    assert value_of(made) == value


def test_what_the_author_wrote_stays_an_interpolation() -> None:
    values = {"v": 2.5, "n": "run 1"}.__getitem__
    assert filled_word("x=${oc.mul:{v},2}", values, "") == "x=${oc.mul:2.5,2}"
    assert filled_word("name={n}_x", values, "") == "name='run 1_x'"
    assert filled_word("~x", values, "") == "~x"


def test_a_value_that_becomes_a_word_of_the_program_is_not_filled_once_more() -> None:
    text = '{stage}: {"a": 1}'
    doubled = '{{stage}}: {{"a": 1}}'
    for overrides, key in (
        ({"backend.argv.1": "{v}"}, "backend.argv.1"),
        ({"backend.argv": ["a", "{v}"]}, "backend.argv"),
        ({"backend": {"argv": ["a", "{v}"]}}, "backend"),
    ):
        found = filled(RestartAction(class_name="RestartAction", overrides=overrides), {"v": text}).overrides
        assert doubled in str(found[key]), overrides
    made = filled(RestartAction(class_name="RestartAction", overrides={"backend.options.x": "{v}"}), {"v": text})
    assert made.overrides == {"backend.options.x": text}
    assert filled_value("{{stage}} {v}", {"v": text}.__getitem__, "backend.argv.1") == f"{{stage}} {doubled}"
    run = filled(RunAutoexpAction(class_name="RunAutoexpAction", overrides=("backend.argv.1='{v}'",)), {"v": "{stage}"})
    assert run.overrides == ("backend.argv.1='{{stage}}'",)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"backend.argv": "train --x '{v}' {v}"}, {"backend.argv": ["train", "--x", "a b", "a b"]}),
        ({"backend": {"argv": "train {v}"}}, {"backend": {"argv": ["train", "a b"]}}),
        ({"slurm.launcher_cmd": "env Q={v}"}, {"slurm.launcher_cmd": ["env", "Q=a b"]}),
        ({"backend.argv": "train"}, {"backend.argv": "train"}),
        ({"backend.options.x": "it is {v}"}, {"backend.options.x": "it is a b"}),
    ],
)
def test_a_value_makes_no_second_word_of_a_command_that_is_one_text(overrides: Any, words: Any) -> None:
    made = RestartAction(class_name="RestartAction", overrides=overrides)
    assert filled(made, {"v": "a b"}).overrides == words


def test_a_text_that_can_not_be_split_stays_to_be_refused() -> None:
    assert in_words({"backend.argv": "it's {v}"}) == {"backend.argv": "it's {v}"}
