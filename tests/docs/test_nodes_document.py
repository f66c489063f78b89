"""docs/nodes.md: its run works and shows what the document shows; its settings are those of the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.causes.cause import INFRASTRUCTURE
from oellm_autoexp.nodes.entry import Entry
from oellm_autoexp.rules.rules import Nodes

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "nodes.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_run_of_a_reader_shows_what_the_document_shows(tmp_path: Path) -> None:
    (first, *_), (shown, *_) = blocks("bash"), blocks("text")
    (config,) = re.findall(r"<<'YAML'\n(.*?)^YAML$", first, re.DOTALL | re.MULTILINE)
    (tmp_path / "plays.yaml").write_text(config)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    printed = []
    for line in first.splitlines():
        if line.startswith("oellm-autoexp "):
            words = [sys.executable, "-m", "oellm_autoexp", *shlex.split(line)[1:]]
            result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert result.returncode == 0, (line, result.stderr)
            printed.append(result.stdout)
    assert len(printed) == 6
    for line, wanted in zip(printed[1].splitlines(), shown.splitlines(), strict=True):
        assert _undated(line) == _undated(wanted)
    assert re.search(r"plays +success +n2\n", printed[3])
    assert "left out" not in printed[5]


def _undated(line: str) -> list[str]:
    """The words of a line without times and the user's name."""
    return re.sub(r"[\d-]{10} [\d:]{8}|\d\d:\d\d:\d\d|by (?!hand)\w+", "#", line).split()


def test_its_settings_and_the_keys_of_a_line_are_those_of_the_code() -> None:
    (block,) = blocks("yaml")
    settings = yaml.safe_load(block)["monitoring"]["nodes"]
    assert settings.keys() == Nodes.model_fields.keys()
    assert Nodes(**{**settings, "folder": None}) == Nodes()
    line = TEXT[TEXT.index("A line of a file is one JSON object") :]
    assert set(re.findall(r"`(\w+)`", line)) - {"blamed", "forgiven"} == set(Entry.__dataclass_fields__) - {"user"}
    row = next(line for line in TEXT.splitlines() if "[cause](causes.md)" in line)
    assert set(re.findall(r"`([\w-]+)`", row.split("|")[1])) == INFRASTRUCTURE
