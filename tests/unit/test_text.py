"""Words, templates and near misses."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.text import Raw, did_you_mean, dotted, fill, item_hint, plural, scalar, shell

WORDS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))


@given(WORDS)
def test_a_shell_line_splits_into_the_words_it_was_made_of(words: list[str]) -> None:
    assert shlex.split(shell(words)) == words


HOSTILE = ["a b", "'", '"', "a'; echo foo", "$(touch x)", "`id`", "$HOME", "\\", "a\nb", "", "*", "~", "é", "-n", "#"]


def test_bash_gets_the_words_that_a_shell_line_was_made_of() -> None:
    line = f"printf '%s\\0' {shell(HOSTILE)}"
    result = subprocess.run(["/bin/bash", "-c", line], capture_output=True, text=True, check=True)
    assert result.stdout.split("\0")[:-1] == HOSTILE


def test_a_raw_word_is_spliced_as_it_is_and_only_that() -> None:
    assert shell(["echo", Raw('"$SLURM_PROCID"'), "$SLURM_PROCID"]) == "echo \"$SLURM_PROCID\" '$SLURM_PROCID'"


def test_raw_words_are_equal_to_raw_words_only() -> None:
    assert Raw("a") == Raw("a")
    assert Raw("a") != "a"
    assert len({Raw("a"), Raw("a"), Raw("b")}) == 2
    assert repr(Raw("a")) == "Raw('a')"


def test_a_template_takes_values_by_their_dotted_keys() -> None:
    values = {"a.b": 1, "c": None, "d": True, "lr": 1e-05}
    assert fill("{a.b}-{c}-{d}-{lr}", values.__getitem__) == "1-null-true-1e-05"


def test_doubled_braces_are_braces() -> None:
    assert fill('{{"lr": {lr}}}', {"lr": 3}.__getitem__) == '{"lr": 3}'


@pytest.mark.parametrize("field", ["a.__class__", "a[0]", "a!r", "a:>10", "", " a ", "0"])
def test_attributes_items_conversions_and_formats_are_just_unknown_keys(field: str) -> None:
    with pytest.raises(KeyError) as error:
        fill(f"{{{field}}}", {"a": "x"}.__getitem__)
    assert error.value.args == (field,)


@given(st.text(), st.text())
def test_a_value_is_never_read_as_a_template(before: str, value: str) -> None:
    escaped = before.replace("{", "{{").replace("}", "}}")
    assert fill(escaped + "{key}", {"key": value}.__getitem__) == before + value


def test_a_lone_brace_is_left_alone() -> None:
    assert fill("a { b", {"": ""}.__getitem__) == "a { b"


def test_scalars_are_written_as_yaml_writes_them() -> None:
    assert [scalar(value) for value in (True, False, None, 1, 1.5, "x")] == ["true", "false", "null", "1", "1.5", "x"]


KEYS = ["backend.options.lr", "backend.options.load", "project.name", "slurm.array"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("slurn.array", "did you mean 'slurm.array'?"),
        ("lr", "did you mean 'backend.options.lr'?"),
        ("completely.other.name", "did you mean 'project.name'?"),
        ("completely.different.array", "did you mean 'slurm.array'?"),
    ],
)
def test_the_nearest_known_word_is_suggested(word: str, hint: str) -> None:
    assert did_you_mean(word, KEYS) == hint


def test_the_last_part_of_a_path_is_compared_when_its_folders_are_missing() -> None:
    known = ["experiments/me/my_experiment", "autoexp"]
    assert did_you_mean("my_experimnet", known) == "did you mean 'experiments/me/my_experiment'?"


def test_a_few_known_words_are_listed_and_many_are_not() -> None:
    assert did_you_mean("zzz", ["b", "a", "a"]) == "known: a, b"
    assert did_you_mean("zzz", [f"word{n}" for n in range(13)]) == ""
    assert did_you_mean("zzz", []) == ""


def test_a_count_agrees_with_its_noun() -> None:
    assert [plural(count, "job") for count in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def test_leaves_are_found_by_dotted_path_and_lists_and_empty_mappings_are_leaves() -> None:
    assert dotted({"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}]}) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}]}


def test_only_what_is_like_the_word_where_they_differ_is_offered() -> None:
    options = [f"backend.options.{name}" for name in ("seed", "save", "load", "lr", *map(str, range(12)))]
    assert did_you_mean("backend.options.momentum", options) == ""
    assert did_you_mean("a.max_job", ["a.max_jobs", "a.max_gpu_hours", "a"]) == "did you mean 'a.max_jobs'?"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a.1", "'a' is a list of 1 item; set the whole list"),
        (f"a.{'1' * 5000}", "'a' is a list of 1 item; set the whole list"),
        ("a.x.y", "'a' is a list of 1 item; set the whole list"),
        ("a.0.b", ""),
        ("c.0", ""),
    ],
)
def test_a_key_beyond_the_items_of_a_list_is_told_so(name: str, hint: str) -> None:
    assert item_hint({"a": [{"d": 1}], "c": 1}, name) == hint
