"""What is noted of a plan, as it mostly is a mistake."""

from __future__ import annotations

from pathlib import Path

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
