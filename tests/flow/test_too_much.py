"""Input that is too much: numbers without end, files without end; one message each, and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm_autoexp.cli.main import main
from tests.flow.conftest import User

pytestmark = pytest.mark.slow

NUMBERS = {
    "5,000 digits": "9" * 5000,
    "20 digits": "99999999999999999999",
    "negative": "-1",
    "Arabic digits": "٣",
    "superscript": "²",
    "an exponent": "1e3",
    "nothing": "",
}
OPTIONS = {
    "lines": ["monitor", "--session", "x", "--cmd", "tail", "--lines"],
    "jobs": ["monitor", "--session", "x", "--cmd", "actions", "--jobs"],
    "index": ["run-sweep-entry", "--index"],
    "job": ["render-config", "project=default", "--job"],
    "subset": ["plan", "project=default", "--array-subset"],
    "names": ["visualize-plan", "project=default", "--max-jobs-per-stage"],
}
VALUES = {
    "time": "slurm.sbatch.time",
    "nodes": "slurm.sbatch.nodes",
    "tasks": "slurm.sbatch.ntasks_per_node",
    "GPUs": "slurm.sbatch.gpus",
    "seconds": "job.inactivity_threshold_seconds",
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_takes_a_number_says_which_numbers(
    option: str, number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main([*OPTIONS[option], NUMBERS[number]])
    except SystemExit as exited:
        code = exited.code
    reported = capsys.readouterr().err
    assert code == 2
    assert OPTIONS[option][-1] in reported
    assert "Traceback" not in reported
    assert len(reported) < 3000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ranges", [",".join(["0-999999"] * 50), "0-1000000", "5-3", "1-" + "9" * 5000])
def test_a_part_of_a_plan_is_no_longer_than_a_plan(
    ranges: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "project=default", "--array-subset", ranges]) == 2
    assert "--array-subset" in capsys.readouterr().err


@pytest.mark.parametrize("digits", [10, 500, 5000])
@pytest.mark.parametrize("value", VALUES)
def test_a_number_of_a_config_that_is_too_long_is_reported_with_its_key(
    value: str,
    digits: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("9" * digits, f"'{'9' * digits}'"):
        code = main(["plan", "project=default", f"{VALUES[value]}={text}"])
        reported = capsys.readouterr().err
        assert code == 2 or (code == 0 and digits == 10)
        assert "Traceback" not in reported
        assert code == 0 or VALUES[value] in reported


@pytest.mark.parametrize("words", [["--overrides-from", "/dev/zero"], ["slurm.template_path=/dev/zero"]])
def test_a_file_that_never_ends_is_reported(user: User, words: list[str]) -> None:
    reported = user.run("plan", "project=default", *words)
    assert reported.returncode == 2
    assert "it has more than" in reported.stderr


@pytest.mark.parametrize(
    "override",
    [
        "slurm.sbatch.mem={}",
        "slurm.sbatch.mem='{}'",
        "slurm.sbatch.signal='{}'",
        "slurm.sbatch.gres='gpu:{}'",
        "slurm.sbatch.account='{}'",
        "slurm.srun.mem_per_cpu='{}'",
        "slurm.sbatch_extra_directives=['--mem={}']",
        "sweep.grids=[{{slurm.sbatch.mem: ['{}']}}]",
        "{}=3",
    ],
)
def test_what_slurm_is_asked_for_has_a_limit_and_the_message_does_not_repeat_all_of_it(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "project=default", "slurm=base", override.format("9" * 5000)]) == 2
    reported = capsys.readouterr().err
    assert "Traceback" not in reported
    assert override.partition("=")[0].format("9" * 20) in reported
    assert len(reported) < 1500
