"""What is noted of a plan, as it mostly is a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm_autoexp.model import JobSpec
from oellm_autoexp.workflow.likely_mistakes import notes
from tests.flow.conftest import User
from tests.flow.test_what_is_shown import SPEC


def job(*argv: str) -> JobSpec:
    return SPEC.model_copy(update={"argv": argv})


def test_signs_of_a_shell_among_a_programs_words_are_noted(tmp_path: Path) -> None:
    (note,) = notes([job("train"), job("train", "|", "tee", "log", "2>&1")], {}, {})
    assert note.startswith("'2>&1', '|' among the words of the program (job a): no shell reads them")
    assert not [*notes([job("bash", "-c", "train | tee log"), job("train", "a|b")], {}, {})]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("x;", "'x;' among the words of the program (job a)"),
        (">log", "'>log' among the words of the program (job a)"),
        ("~/data", "the '~' in '~/data' stays text"),
        ("--data=~/x", "the '~' in '--data=~/x' stays text"),
        ("run_{stage}", "the braces in 'run_{stage}' stay text"),
        ("/out/%j.txt", "'%j' in '/out/%j.txt' stays text"),
    ],
)
def test_a_word_in_which_a_shell_or_slurm_would_put_a_value_is_noted(word: str, told: str) -> None:
    (note,) = notes([job("train", word)], {}, {})
    assert note.startswith(told)
    assert not [*notes([job("bash", "-c", word)], {}, {})]


@pytest.mark.parametrize("word", ["a~b", "x/~", "{}", '{"a": 1}', "${x}", "50%", "100%just", "a>b c", "a;b", "{{x}}"])
def test_nothing_is_said_of_a_word_that_means_itself(word: str) -> None:
    assert not [*notes([job("train", word)], {}, {})]
    assert not [*notes([job("train", "{stage}")], {"backend": {"argv": ["train", "{{stage}}"]}}, {})]


def of_value(index: int, **parameters: int) -> JobSpec:
    name, parameters = f"run_{index}", {key.replace("__", "."): value for key, value in parameters.items()}
    return SPEC.model_copy(
        update={"index": index, "name": name, "output_dir": f"/out/{name}", "parameters": parameters}
    )


def test_an_axis_that_reaches_no_program_is_noted() -> None:
    jobs = [of_value(0, metadata__x=1), of_value(1, metadata__x=2)]
    scripts = ["#SBATCH --job-name=run_0\n/out/run_0/logs\ntrain", "#SBATCH --job-name=run_1\n/out/run_1/logs\ntrain"]
    (note,) = notes(jobs, {}, {}, scripts)
    assert note.startswith("1 of 2 jobs get the same words, variables and resources as another (job 1 as job 0): ")
    assert "metadata.x, in which they differ" in note
    assert not [*notes(jobs, {}, {}, [scripts[0], f"{scripts[1]} --x 2"])]
    for key in ("monitoring__poll_interval_seconds", "stage", "job__start_condition_cmd"):
        assert not [*notes([of_value(0, **{key: 1}), of_value(1, **{key: 2})], {}, {}, scripts)]


def test_a_variable_that_is_empty_and_begins_a_path_is_named(user: User) -> None:
    (user.home / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /backend: command]\nproject: {name: x}\n"
        "backend: {argv: ['true'], options: {data: '${oc.env:DATA_DIR}/c4', flags: '${oc.env:FLAGS}'}}\n"
    )
    told = "the environment variable DATA_DIR is empty: what $.backend.options.data names begins at the root"
    empty = user.run("plan", "--config-ref", "x.yaml", DATA_DIR="", FLAGS="")
    assert (empty.returncode, told in " ".join(empty.stdout.split())) == (0, True), empty.stdout
    assert "FLAGS" not in empty.stdout
    assert "is empty" not in user.run("plan", "--config-ref", "x.yaml", DATA_DIR="/data", FLAGS="").stdout
