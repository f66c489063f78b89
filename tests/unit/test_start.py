"""A Python of ours imports this package and the standard library, whatever lies where it is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oellm_autoexp
from oellm_autoexp import start

PACKAGE = Path(oellm_autoexp.__file__).parent
NAMES = ("random", "queue", "json", "oellm_autoexp", "submitit")


@pytest.fixture
def mined(tmp_path: Path) -> Path:
    """A folder with modules that end whatever imports them."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')\n")
    return tmp_path


def help_of(words: tuple[str, ...], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **more}
    return subprocess.run(
        [*words, "monitor", "--help"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_what_lies_in_the_current_folder_is_not_imported(mined: Path) -> None:
    done = help_of(start.words("oellm_autoexp"), mined)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--session" in done.stdout
    mine = help_of((sys.executable, "-m", "oellm_autoexp"), mined)
    assert "was imported" in mine.stderr  # so they would be found


def test_what_lies_beside_the_package_in_a_checkout_is_not_imported(mined: Path, tmp_path: Path) -> None:
    (mined / "oellm_autoexp.py").unlink()
    shutil.copytree(PACKAGE, mined / "oellm_autoexp")
    python, *more = start.words("oellm_autoexp")
    words = (python, "-P", str(mined / "oellm_autoexp" / "start.py"), more[-1])
    done = help_of(words, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_entries_of_the_search_path_that_mean_the_current_folder_are_left_out(
    mined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f":.:/somewhere:{mined.name}:")
    assert start.search_path() == "/somewhere"
    done = help_of(start.words("oellm_autoexp"), mined, PYTHONPATH=start.search_path())
    assert (done.returncode, done.stderr) == (0, "")
    monkeypatch.delenv("PYTHONPATH")
    assert start.search_path() == ""


def test_a_module_of_the_package_runs_with_its_arguments(tmp_path: Path) -> None:
    words = [*start.words("oellm_autoexp.schedulers.local.worker"), str(tmp_path / "spool"), "0", "1", "0"]
    (tmp_path / "spool").mkdir(mode=0o700)
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
