"""docs/causes.md: its run works, its rules are taken, and its tables are those of the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.causes.cause import CATEGORIES, MEANINGS
from oellm_autoexp.causes.rule import ROLES, CauseRule
from oellm_autoexp.rules.rules import MonitoringSection

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "causes.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def table(heading: str) -> dict[str, str]:
    """The first two columns of the table whose header begins so."""
    rows = TEXT[TEXT.index(f"\n{heading}") :].split("\n\n")[0].splitlines()[3:]
    cells = [row.strip("| ").split(" | ") for row in rows]
    return {cell[0]: cell[1] for cell in cells}


@pytest.mark.slow
def test_the_run_of_a_reader_shows_what_the_document_shows(tmp_path: Path) -> None:
    (first, *_), (shown, *_) = blocks("bash"), blocks("text")
    (config,) = re.findall(r"<<'YAML'\n(.*?)^YAML$", first, re.DOTALL | re.MULTILINE)
    (tmp_path / "fails.yaml").write_text(config)
    commands = [line for line in first.splitlines() if line.startswith("oellm-autoexp ")]
    assert len(commands) == 2
    for command in commands:
        words = [sys.executable, "-m", "oellm_autoexp", *shlex.split(command)[1:]]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = result.stdout.splitlines()
    for line, wanted in zip(found, shown.splitlines(), strict=True):
        pattern = ".*".join(re.escape(word) for word in _without_order(wanted).split("…"))
        assert re.fullmatch(pattern, _without_order(line)), (line, wanted)


def _without_order(line: str) -> str:
    """Without what depends on which job ends first."""
    return re.sub(r"size_\d|logs/\d+|byte \d+", "#", line)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_its_settings_are_taken(block: str) -> None:
    MonitoringSection.model_validate({"class_name": "x", **yaml.safe_load(block)["monitoring"]})


def test_its_categories_keys_and_roles_are_those_of_the_code() -> None:
    assert table("| category | is |") == {f"`{name}`": MEANINGS[name] for name in CATEGORIES}
    keys = {key for cell in table("| key | meaning |") for key in re.findall(r"`(\w+)`", cell)}
    assert keys == set(CauseRule.model_fields)
    assert all(f"`{role}`" in table("| key | meaning |")["`role`"] for role in ROLES)
