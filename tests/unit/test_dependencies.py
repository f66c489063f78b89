"""The libraries whose internals are used are capped, so that a release that changes them breaks no fresh install."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
UNTRIED = {"hydra-core": ["1.4.0", "1.5.0"], "omegaconf": ["2.4.0", "2.5.0"], "submitit": ["1.6.0", "2.0.0"]}


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {found.name: found for found in map(Requirement, project["dependencies"])}


@pytest.mark.parametrize("name", UNTRIED)
def test_a_fresh_install_takes_no_release_that_was_never_tried(name: str) -> None:
    wanted = requirements()[name].specifier
    assert wanted.contains(version(name))
    assert not [release for release in UNTRIED[name] if wanted.contains(release)]
