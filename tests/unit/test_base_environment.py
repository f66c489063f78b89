"""base_environment.yaml, which a site without internet gets, has what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_conda_environment_asks_for_what_the_program_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = yaml.safe_load((ROOT / "base_environment.yaml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    assert sorted(pip) == sorted(project["dependencies"])
    (python,) = [entry for entry in entries if isinstance(entry, str) and entry.startswith("python ")]
    least = re.search(r"[\d.]+", project["requires-python"])
    assert least is not None
    assert f">={least[0]}" in python
    assert "pip" in entries, "conda's pip section needs conda's pip"
