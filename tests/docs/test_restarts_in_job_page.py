"""docs/restarts_in_job.md: its run works, its settings are taken, and its tables are those of the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.core.states import DO_NOT_REQUEUE
from oellm_autoexp.sbatch.in_job.steps import OTHER_NODES
from oellm_autoexp.sbatch.section import PreflightCheck, SlurmOptions

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "restarts_in_job.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_run_of_a_reader_shows_what_the_page_shows(tmp_path: Path) -> None:
    program, command = blocks("bash")
    (config,) = [block for block in blocks("yaml") if block.startswith("# @package")]
    (shown,) = blocks("text")
    (tmp_path / "crashes_once.sh").write_text(program)
    (tmp_path / "crashes_once.yaml").write_text(config)
    words = shlex.split(command)
    words = [sys.executable, str(ROOT / words[1]), *words[2:]]
    result = subprocess.run(
        words,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    log = (tmp_path / "outputs" / "crashes_once" / "current.log").read_text()
    assert re.sub(r"on \S+, as", "on localhost, as", log) == shown


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if not block.startswith("# @package")])
def test_its_settings_are_taken(block: str) -> None:
    SlurmOptions.model_validate({"client": None, **yaml.safe_load(block)["slurm"]})


def test_its_checks_and_codes_are_those_of_the_code() -> None:
    rows = TEXT[TEXT.index("| check | a node passes if |") :].split("\n\n")[0].splitlines()[2:]
    named = [row.strip("| ").split(" | ")[0].strip("`") for row in rows]
    names = PreflightCheck.model_json_schema()["properties"]["check"]["anyOf"][0]["enum"]
    assert sorted(named) == sorted([*names, "{command: [...], name: …}"])
    for code in (DO_NOT_REQUEUE, OTHER_NODES, 75):
        assert f"exit code {code}" in TEXT
