"""A real yaml-language-server, as editors run it: what it marks, explains and offers in configs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.editor import language_server
from tests.editor.language_server import LanguageServer
from tests.editor.wrong import WRONG, unmarked

CONFIG = Path(__file__).resolve().parents[2] / "config"
OF_GROUPS = ("backend/megatron/data/mock", "slurm/jupiter")
"""Files of groups; the server takes a second for the definition of each. test_schema.py has the rest."""


@pytest.fixture(scope="module")
def server() -> Iterator[LanguageServer]:
    if why := language_server.missing():
        if os.environ.get("AUTOEXP_REQUIRE_EDITOR"):
            pytest.fail(why)
        pytest.skip(why)
    with LanguageServer() as started:
        yield started


def config(folder: Path, text: str) -> Path:
    """A file with a config that names the shipped schema."""
    path = folder / "config.yaml"
    path.write_text(f"# yaml-language-server: $schema={CONFIG / 'schema.json'}\n{text}")
    return path


@pytest.mark.slow
def test_no_shipped_experiment_is_complained_about(server: LanguageServer) -> None:
    paths = [*sorted((CONFIG / "experiments").rglob("*.yaml")), *(CONFIG / f"{name}.yaml" for name in OF_GROUPS)]
    complaints = dict(zip(paths, server.problems(*paths), strict=True))
    assert {path: found for path, found in complaints.items() if found} == {}


def test_each_of_many_mistakes_is_marked_at_its_place(server: LanguageServer, tmp_path: Path) -> None:
    header = f"# yaml-language-server: $schema={CONFIG / 'schema.json'}\n"
    paths, places = [], []
    for number, marked in enumerate(WRONG.values()):
        text, place = unmarked(header + marked)
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(text)
        places.append(place)
    found = [{(line, column) for line, column, _ in problems} for problems in server.problems(*paths)]
    wanted = [{(place.line, place.column)} for place in places]
    assert len(wanted) >= 20
    assert dict(zip(WRONG, found, strict=True)) == dict(zip(WRONG, wanted, strict=True))


def test_a_file_of_a_group_is_held_against_its_own_part(server: LanguageServer, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"# yaml-language-server: $schema={CONFIG / 'schema.json'}#/definitions/slurm\nbackend: {{}}\n")
    assert server.problems(path) == [[(2, 1, "Property backend is not allowed.")]]


def test_keys_are_explained_and_offered(server: LanguageServer, tmp_path: Path) -> None:
    text = """\
backend:
  megatron:
    min_lr: 0
sweep:
  params:
    backend.megatron.lr: [1e-4]
monitoring:
  state_events:
    crash:
      actions:
        - class_name: RestartAction
          max_attempts: 3
          re
"""
    path = config(tmp_path, text)
    server.problems(path)
    assert "Minimum value for learning rate" in server.hover(path, 4, 6)
    assert "Initial learning rate" in server.hover(path, 7, 10)
    assert "Starts a new attempt of the same job" in server.hover(path, 13, 14)
    assert "reason" in server.completions(path, 14, 13)
