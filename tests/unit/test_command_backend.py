"""The backend for any program: words as written, options as flags, values of the config by `{dotted.key}`."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.backends.base import Command, Job
from oellm_autoexp.backends.command import CommandBackend, flag
from oellm_autoexp.core.errors import BackendError
from oellm_autoexp.sbatch.section import SlurmOptions

CONFIG: dict[str, Any] = {
    "backend": {"lr": 1e-4, "tags": ["a", "b"]},
    "project": {"name": "a b", "none": None},
    "x": {},
}


def command(**section: Any) -> Command:
    backend = CommandBackend.model_validate({"class_name": "CommandBackend", **section})
    return backend.command(Job(CONFIG, SlurmOptions(client=None)))


def refusals(**section: Any) -> list[tuple[str, str]]:
    with pytest.raises(BackendError) as error:
        command(**section)
    return [(str(problem.where), problem.what) for problem in error.value.problems]


@pytest.mark.parametrize(
    ("section", "noted"),
    [
        ({"argv": "train --lr 3"}, True),
        ({"argv": "train --lr=0.25"}, False),
        ({"argv": "train", "options": {"steps": 5}}, False),
        ({"argv": "train", "env": {"LR": "0.25"}}, False),
    ],
)
def test_values_of_megatron_that_no_program_gets_are_noted(section: dict[str, Any], noted: bool) -> None:
    notes = command(megatron={"lr": 0.25}, **section).notes
    assert ["backend=megatron" in note.text for note in notes] == [True] * noted
    assert not command(**section).notes


def test_a_word_with_a_blank_behind_its_flag_is_noted_with_what_to_write() -> None:
    (note,) = command(argv=["train", "--lr 3e-4"]).notes
    assert note.text.startswith("$.backend.argv[1]: '--lr 3e-4' is one word, with a blank in it")
    assert "write several: '--lr', '3e-4'" in note.text
    assert not command(argv=["bash", "-c", "train --lr 3e-4", "--title=two words"]).notes


def test_a_folder_to_write_to_is_told_with_the_key_that_names_it() -> None:
    (place,) = command(argv=["train", "--save", "/a"]).places
    assert (place.path, place.written) == ("/a", "backend.argv")
    (place,) = command(argv=["train", "--save", "/a"], options={"save": "/b"}).places
    assert (place.path, place.written) == ("/b", "backend.options.save")


def test_an_option_is_spelled_as_it_is_written_or_with_dashes() -> None:
    options = {"learning_rate": 1, "model.n_layers": 3}
    assert command(argv="x", options=options).argv[1::2] == ("--learning_rate", "--model.n_layers")
    made = command(argv="x", options=options, option_style="dashes")
    assert made.argv[1::2] == ("--learning-rate", "--model.n-layers")


@pytest.mark.parametrize("name", ["-x", "--y", "", " ", "a b", "a=b", "a\n", "-", "--", "_", "="])
def test_what_is_no_name_of_an_option_is_refused(name: str) -> None:
    where = f"$.backend.options.{name}" if name else "$.backend.options"
    assert refusals(argv="x", options={name: 1}) == [
        (where, f"{name!r} can't be the name of an option: it becomes '--{name}'")
    ]


def test_a_name_that_begins_with_a_dash_once_it_is_spelled_with_dashes_is_refused() -> None:
    assert command(argv="x", options={"_x": 1}).argv == ("x", "--_x", "1")
    (refusal,) = refusals(argv="x", options={"_x": 1}, option_style="dashes")
    assert refusal == ("$.backend.options._x", "'_x' can't be the name of an option: it becomes '---x'")


@pytest.mark.parametrize("style", ["dashes", "as_written"])
def test_one_option_in_two_spellings_is_refused(style: str) -> None:
    found = refusals(argv="x", options={"a_b": 1, "x": 1, "a-b": None}, option_style=style)
    assert found == [("$.backend.options.a-b", "'a_b' and 'a-b' are one option in two spellings")]


def test_words_come_first_and_then_options_in_their_order() -> None:
    made = command(argv="python -m 'my module'", options={"lr": 1e-4, "batch_size": 8, "resume": True, "off": False})
    assert made.argv == ("python", "-m", "my module", "--lr", "0.0001", "--batch_size", "8", "--resume")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1, ["--a_b", "1"]),
        (-1, ["--a_b=-1"]),
        (-1e-05, ["--a_b=-1e-05"]),
        ("x y", ["--a_b", "x y"]),
        ("", ["--a_b", ""]),
        ("-x", ["--a_b=-x"]),
        ("--other", ["--a_b=--other"]),
        (True, ["--a_b"]),
        (False, []),
        (None, []),
        ([], []),
        ([1, "b c", None, True], ["--a_b", "1", "b c", "null", "true"]),
    ],
)
def test_an_option_becomes(value: Any, words: list[str]) -> None:
    assert flag("a_b", value) == words


@pytest.mark.slow
@given(st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_program_reads_the_value_that_an_option_has(value: Any) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--value", type=type(value))
    assert parser.parse_args(flag("value", value)).value == value


def test_a_word_takes_values_of_the_config_and_stays_one_word() -> None:
    assert command(argv=["run", "{project.name}", "{{{backend.lr}}}"]).argv == ("run", "a b", "{0.0001}")


def test_options_and_environment_are_taken_as_they_are() -> None:
    made = command(argv="run", options={"o": "{backend.lr}"}, env={"E": '{"lr": 1}'})
    assert (made.argv, made.env) == (("run", "--o", "{backend.lr}"), {"E": '{"lr": 1}'})


def test_no_program_is_an_error_with_what_to_do() -> None:
    assert refusals() == refusals(argv="") == [("$.backend.argv", "no program to run")]


def test_all_unknown_keys_are_reported_at_once_with_their_places() -> None:
    assert refusals(argv=["a", "{project.nam}", "{backend.lr.__class__}{}"]) == [
        ("$.backend.argv[1]", "no value {project.nam} in the config"),
        ("$.backend.argv[2]", "no value {backend.lr.__class__} in the config"),
        ("$.backend.argv[2]", "no value {} in the config"),
    ]


def test_an_unknown_key_gets_a_suggestion_or_the_way_to_write_braces() -> None:
    with pytest.raises(BackendError, match=r"did you mean 'project\.name'"):
        command(argv=["a", "{project.nam}"])
    with pytest.raises(BackendError) as error:
        command(argv=["a", '{"lr": 1}'])
    assert error.value.problems[0].hint


def test_a_list_or_a_section_is_not_a_value_for_a_word() -> None:
    assert refusals(argv=["{backend.tags}", "{x}"]) == [
        ("$.backend.argv[0]", "{backend.tags} is not one value"),
        ("$.backend.argv[1]", "{x} is not one value"),
    ]
