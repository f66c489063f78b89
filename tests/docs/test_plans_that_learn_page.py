"""docs/plans_that_learn.md: its run shows what the page says, with the numbers of the machine that it runs on."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.config.loader import Source, load

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "plans_that_learn.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_run_of_a_reader_shows_what_the_page_shows(tmp_path: Path) -> None:
    commands, shown = blocks("bash"), blocks("text")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    printed = []
    for command in commands:
        python, script, *words = shlex.split(command)
        assert python == "python"
        argv = [sys.executable, str(ROOT / script), *words]
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    for found, wanted in zip(printed[1:], shown, strict=False):
        assert _without_numbers(wanted) & {*_without_numbers(found)}, found


def _without_numbers(text: str) -> set[str]:
    """The lines of a text without its lengths of time and its counts, or what has none."""
    text = re.sub(r"\((?:\S+ \S+ to|\S+ to) \S+ \S+, from", "(from", text)
    return set(re.sub(r"\d[\d.]* (?:s|min|h|days|links|runs)\b", "N", text).splitlines())


def test_the_keys_of_the_page_compose() -> None:
    found = [yaml.safe_load(block) for block in blocks("yaml")]
    assert found == [
        {"project": {"learn_from": ["/scratch/me/earlier/monitoring_state"]}},
        {"slurm": {"sbatch": {"time": "auto"}}},
    ]
    words = ("project.learn_from=[/scratch/me/earlier/monitoring_state]", "slurm.sbatch.time=auto*1.5")
    base = load(Source(overrides=words)).base
    assert base["project"]["learn_from"] == found[0]["project"]["learn_from"]
    assert base["slurm"]["sbatch"]["time"] == "auto*1.5"
