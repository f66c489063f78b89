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
    ("load", "tracker", "noted"),
    [
        ("ck", "200", True),
        ("ck", "release\n", True),
        ("ck", "", False),
        ("elsewhere", "200", False),
        ("ck", "\x1b[2J", False),
    ],
)
def test_a_run_that_goes_on_from_checkpoints_of_an_earlier_one_says_so(
    tmp_path: Path, load: str, tracker: str, noted: bool
) -> None:
    folder = tmp_path / "ck"
    words = ("train", "--save", str(folder), "--load", str(tmp_path / load))
    assert not [*notes([job(*words)], {}, {})]
    folder.mkdir()
    (folder / "latest_checkpointed_iteration.txt").write_text(tracker)
    found = [*notes([job(*words)], {}, {})]
    assert len(found) == noted
    if noted:
        assert (
            f"1 job goes on from checkpoints of an earlier run (job a: iteration {tracker.strip()} in {folder})"
            in found[0]
        )


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
