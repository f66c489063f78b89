"""What actions start, as plain programs: messages to a real server, runs of our own, words that reach no shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import ConfigError, StateError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.engine.executing.programs import launch
from oellm_autoexp.rules.actions import Program, RunAutoexpAction
from tests.unit.test_queue import make_event, make_manifest

HOSTILE = ["$(touch pwned)", "; touch pwned", "{x.__class__}", "a\nb", "'\"\\`", "--yes", "äö€"]


def a_run(
    config_ref: str | None, config_dirs: tuple[str, ...], overrides: tuple[str, ...], timeout_seconds: float | None
) -> RunAutoexpAction:
    return RunAutoexpAction(
        class_name="RunAutoexpAction",
        config_ref=config_ref,
        config_dirs=config_dirs,
        overrides=overrides,
        timeout_seconds=timeout_seconds,
    )


def test_a_command_keeps_its_words_and_gets_its_jobs_directory(tmp_path: Path) -> None:
    request = Program((*HOSTILE,), cwd="below", env={"A": "$B"}, timeout_seconds=3, text="{t}")
    made = launch(request, manifest=make_manifest(tmp_path), event=make_event(), id="i", state_dir=tmp_path)
    assert made == Program((*HOSTILE,), str(tmp_path / "below"), {"A": "$B"}, 3, "{t}")


# ---- runs of our own

CONFIG = """\
backend: {argv: [python3, -c, "print('trained')"], options: {lr: 1e-3, text: "1e-4", flag: true}}
monitoring: {poll_interval_seconds: 0.2}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "it's a, home"
    made.mkdir()
    return made


def planned(home: Path) -> Manifest:
    """The manifest of a real plan of two jobs."""
    (home / "own.yaml").write_text(f"# @package _global_\n{CONFIG}")
    words = [
        *("--config-ref", "own.yaml", "--plan-id", "parent", "--json"),
        "sweep.grids=[{backend.options.lr:[0.5,0.25]}]",
        "++sweep.base_values={project.name:'own_${backend.options.lr}'}",
    ]
    result = our(home, [sys.executable, "-m", "oellm_autoexp", "plan", *words])
    assert result.returncode == 0, result.stderr
    return Manifest.model_validate_json(Path(json.loads(result.stdout)["manifest"]).read_text())


def our(home: Path, words: Any, **env: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": root, **env}
    return subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=120)


def plan_of(home: Path, manifest: Manifest, request: RunAutoexpAction, number: int = 0) -> Program:
    event = make_event(job=manifest.jobs[1].name, number=number)
    state_dir = Path(manifest.monitoring_state_dir)
    return launch(request, manifest=manifest, event=event, id="0a-1b", state_dir=state_dir)


@pytest.mark.slow
def test_the_recorded_config_is_run_for_the_job_of_the_event_and_continued_if_it_was_planned(home: Path) -> None:
    manifest = planned(home)
    request = a_run(None, (), ("project.name=eval", "+metadata.note='a, b'"), 60)
    made = plan_of(home, manifest, request)
    event = make_event(job=manifest.jobs[1].name)
    assert made.env["AUTOEXP_PARENT"] == f"1/parent/{event.job}/{event.id}"
    written = Path(manifest.monitoring_state_dir, "parent.actions", event.id, "0a-1b.yaml")
    assert written.stat().st_mode & 0o077 == 0
    composed = load(Source(str(written))).base["backend"]["options"]
    assert composed == {"lr": 0.25, "text": "1e-4", "flag": True}
    result = our(home, made.words, **made.env)
    assert result.returncode == 0, result.stderr + result.stdout
    state_dir = Path(manifest.monitoring_state_dir)
    session = state_dir / "saved-0a1b.json"
    assert list(json.loads(session.read_text())["jobs"]) == ["eval"]
    again = plan_of(home, manifest, request)
    assert "submit" in again.words
    assert our(home, again.words, **again.env).returncode in (0, 1)
    # One that was planned and not submitted:
    session.unlink()
    assert plan_of(home, manifest, request).words[-3:-1] == ("--no-monitor", "--manifest")
    # One that was never whole, as its planner was killed:
    for path in (home / "outputs" / "manifests" / "saved-0a1b.json", written.with_suffix(".manifest")):
        path.unlink()
    assert "--plan-id=saved-0a1b-2" in plan_of(home, manifest, request).words


def test_a_config_by_name_is_run_with_its_folders_and_overrides_as_words(home: Path) -> None:
    manifest = make_manifest(home)
    made = launch(
        a_run("x y", ("d 1",), ("a.b=$(x)", "c='; y'"), None),
        manifest=manifest,
        event=make_event(),
        id="i",
        state_dir=home,
    )
    assert made.timeout_seconds is None
    assert made.words[-5:-1] == ("--config-ref=x y", "--config-dir=d 1", "a.b=$(x)", "c='; y'")
    assert made.cwd == str(home)


@pytest.mark.parametrize("request_", [a_run("x", (), ("--yes",), 1), a_run("x", ("-C",), (), 1)])
def test_what_looks_like_an_option_is_refused(tmp_path: Path, request_: RunAutoexpAction) -> None:
    with pytest.raises(ConfigError, match="begins with '-'"):
        launch(request_, manifest=make_manifest(tmp_path), event=make_event(), id="i", state_dir=tmp_path)


@pytest.mark.parametrize("name", ["a b", "it's", "x\\y", "end\\", 'q"q', "c,d=[e]{f}", "a$b", "1e-4", "ä%j", "\\'"])
def test_a_state_directory_of_any_name_reaches_the_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    made = launch(a_run("x", (), (), 1), manifest=make_manifest(tmp_path), event=make_event(), id="i", state_dir=folder)
    composed = load(Source(overrides=("project=default", made.words[-1])))
    assert composed.base["project"]["monitoring_state_dir"] == str(folder)


def test_a_recorded_config_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="this file is missing"):
        launch(
            a_run(None, (), (), 1),
            manifest=make_manifest(tmp_path),
            event=make_event(),
            id="i",
            state_dir=tmp_path,
        )
    with pytest.raises(ConfigError, match="the plan has no job 'gone'"):
        launch(
            a_run(None, (), (), 1),
            manifest=make_manifest(tmp_path),
            event=make_event(job="gone"),
            id="i",
            state_dir=tmp_path,
        )


def test_a_run_does_not_start_itself_again_and_again(home: Path) -> None:
    manifest = planned(home)
    started = {"parent": "grandparent/own_0.25/saved-0123456789ab", "generation": 1}
    child = manifest.model_copy(update={"provenance": {**manifest.provenance, **started}})
    with pytest.raises(ConfigError, match=r"was itself started by 'saved'.*would go on so"):
        plan_of(home, child, a_run(None, (), (), 60))
    assert plan_of(home, child, a_run("eval", (), (), 60)).env["AUTOEXP_PARENT"].startswith("2/parent/")
    late = manifest.model_copy(update={"provenance": {**manifest.provenance, "generation": 20}})
    with pytest.raises(ConfigError, match="is this a circle"):
        plan_of(home, late, a_run("eval", (), (), 60))


def test_overrides_with_secrets_are_in_no_list_of_processes(tmp_path: Path) -> None:
    request = a_run("x", (), ("a.lr=1", "slurm.env.HF_TOKEN=pl4nted"), 1)
    made = launch(request, manifest=make_manifest(tmp_path), event=make_event(), id="i", state_dir=tmp_path)
    assert "pl4nted" not in str(made)
    path = Path(next(word for word in made.words if "overrides-from" in word).partition("=")[2])
    assert path.read_text() == "a.lr=1\nslurm.env.HF_TOKEN=pl4nted\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0


def test_other_overrides_stay_on_the_command_line(tmp_path: Path) -> None:
    request = a_run("x", (), ("a.lr=1", "a.num_tokens=5"), 1)
    made = launch(request, manifest=make_manifest(tmp_path), event=make_event(), id="i", state_dir=tmp_path)
    assert {"a.lr=1", "a.num_tokens=5"} <= {*made.words}
