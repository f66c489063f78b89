"""The commands that are printed work as they are printed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oellm_autoexp.cli.steps import hints
from oellm_autoexp.core import commands
from oellm_autoexp.core.nouns import Manifest


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Python of a virtual environment that runs us: a link to another one, which is found as `python`."""
    base, own = tmp_path / "base" / "bin" / "python", tmp_path / "own" / "bin" / "python"
    for program in (base, own):
        program.parent.mkdir(parents=True)
    base.write_text("#!/bin/sh\n")
    base.chmod(0o755)
    own.symlink_to(base)
    monkeypatch.setattr(sys, "executable", str(own))
    monkeypatch.setattr(sys, "argv", ["scripts/run_autoexp.py"])
    monkeypatch.setenv("PATH", str(base.parent))
    return own


def test_python_is_named_by_its_path_where_the_name_finds_the_one_that_it_is_a_link_to(environment: Path) -> None:
    assert hints.command("monitor", "--all") == f"{environment} scripts/monitor_autoexp.py --all"


def test_python_is_plain_where_the_environment_is_active(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(environment.parent))
    assert hints.command("monitor", "--all") == "python scripts/monitor_autoexp.py --all"


def test_the_command_for_a_session_names_its_folder(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["oellm_autoexp/__main__.py"])
    monkeypatch.setenv("PATH", str(environment.parent))
    reported = commands.monitor(Path("/a b/p.json"), "--cmd", "cancel")
    assert reported == "python -m oellm_autoexp monitor --session p --monitoring-state-dir '/a b' --cmd cancel"


def with_folder(state: Path) -> Manifest:
    """A manifest of which nothing but its id and its state folder is looked at."""
    return Manifest.model_construct(plan_id="p", monitoring_state_dir=str(state))  # type: ignore[call-arg]


def test_the_folder_is_left_out_where_this_shell_looks_for_sessions_there_and_named_in_what_works_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OELLM_MONITORING_STATE_DIR", "OUTPUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    usual = tmp_path / "outputs" / "monitoring_state"
    manifest = with_folder(usual)
    assert hints.resume_command(manifest).endswith("monitor --session p")
    monkeypatch.setenv("OELLM_MONITORING_STATE_DIR", str(tmp_path / "elsewhere"))
    assert hints.resume_command(manifest).endswith(f"monitor --session p --monitoring-state-dir {usual}")
    manifest = with_folder(tmp_path / "elsewhere")
    assert hints.resume_command(manifest).endswith("monitor --session p")
    assert commands.monitor(tmp_path / "elsewhere" / "p.json").endswith("monitor --session p")
    named = hints.resume_command(manifest, anywhere=True)
    assert named.endswith(f"--monitoring-state-dir {tmp_path / 'elsewhere'}")
