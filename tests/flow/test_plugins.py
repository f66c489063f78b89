"""Kinds of other packages, installed as their users would install them: nothing in this one knows of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User

pytestmark = pytest.mark.xdist_group("plugins")  # installed once
PLUGINS = Path(__file__).resolve().parents[2] / "examples" / "plugins"
EXPERIMENT = """
defaults:
  - /backend: accelerate
  - /slurm: local
  - _self_
project:
  name: job_${index}
backend:
  script: train.py
  processes: 2
sweep:
  params: {backend.options.lr: [0.1, 0.2]}
job:
  start_conditions:
    - {class_name: FreeSpaceCondition, path: ., at_least_gib: 0.001}
monitoring:
  poll_interval_seconds: 0.2
  log_events:
    saved:
      pattern: 'saved (?P<path>\\S+)'
      actions:
        - {class_name: CopyAction, source: '{path}', target: '{output_dir}/kept'}
        - class_name: EventAction
          mode: queue
          action: {class_name: CopyAction, source: '{path}', target: '{output_dir}/queued'}
        - class_name: NotifyAction
          subject: '{name}'
          message: '{name} has saved'
          digest_seconds: 0
          notifier: {class_name: FolderNotifier, folder: inbox}
"""
ACCELERATE = """#!/bin/bash
# what the real one would be given
printf '%s\\n' "$@" > words
touch checkpoint
echo "saved $PWD/checkpoint"
"""


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the example packages are installed."""
    root = tmp_path_factory.mktemp("packages")
    for name in ("action", "condition", "notifier", "exporter", "backend"):
        shutil.copytree(PLUGINS / name, root / "sources" / name)  # a build leaves files beside what it builds
    options = ("--quiet", "--no-deps", "--no-compile", "--target", str(root / "lib"))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *(root / "sources").iterdir()], check=True)
    return root / "lib"


@pytest.fixture
def guest(user: User, packages: Path) -> User:
    """A user who has the packages, and a program of the backend's name."""
    programs = user.home / "bin"
    programs.mkdir()
    (programs / "accelerate").write_text(ACCELERATE)
    (programs / "accelerate").chmod(0o755)
    (user.home / "train.py").touch()
    (user.home / "inbox").mkdir()
    (user.home / "plugins.yaml").write_text(EXPERIMENT)
    path = f"{programs}:{user.environment['PATH']}"
    return User(user.home, {**user.environment, "PATH": path, "PYTHONPATH": str(packages)})


PLANNED = ("--config-ref", "plugins", "--config-dir", ".", "--config-dir", str(PLUGINS / "backend" / "config"))


@pytest.mark.slow
def test_an_action_a_condition_a_notifier_and_a_backend_of_other_packages_run(guest: User) -> None:
    result = guest.run("run", *PLANNED, "--plan-id", "x")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (guest.outputs / "job_0" / "kept").exists()
    assert guest.run("monitor", "--session", "x", "--cmd", "actions").returncode == 0
    assert (guest.outputs / "job_1" / "queued").exists()
    messages = [path.read_text() for path in (guest.home / "inbox").iterdir()]
    assert sorted(messages) == ["job_0\n\njob_0 has saved\n", "job_1\n\njob_1 has saved\n"]
    assert (guest.home / "words").read_text().split()[:3] == ["launch", "--num_processes=2", "train.py"]
    assert "CopyAction: done" in guest.run("monitor", "--session", "x", "--cmd", "events").stdout


def test_a_mistake_in_the_section_of_another_package_is_reported_as_ours_are(guest: User) -> None:
    (guest.home / "plugins.yaml").write_text(
        EXPERIMENT.replace("source:", "sorce:", 1)
        .replace("at_least_gib", "at_least_gb")
        .replace("processes", "proceses")
        .replace("folder: inbox", "foldr: inbox")
    )
    result = guest.run("plan", *PLANNED)
    assert result.returncode == 2
    for reported in (
        "sorce",
        "did you mean 'folder'?",
        "did you mean 'source'?",
        "did you mean 'at_least_gib'?",
        "did you mean 'processes'?",
    ):
        assert reported in result.stderr
    assert "plugins.yaml:" in result.stderr


def test_what_this_machine_lacks_for_a_notifier_is_reported_when_a_plan_is_made(guest: User) -> None:
    (guest.home / "inbox").rmdir()
    result = guest.run("plan", *PLANNED)
    assert result.returncode == 2
    assert "FolderNotifier can't work here: there is no folder inbox" in result.stderr
    assert "plugins.yaml:" in result.stderr


def test_the_schema_for_editors_has_the_kinds_of_packages(guest: User) -> None:
    command = [sys.executable, str(PLUGINS.parents[1] / "scripts/config_schema.py")]
    result = subprocess.run(command, env=guest.environment, cwd=guest.home, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    definitions = json.loads(result.stdout)["definitions"]
    assert definitions["CopyAction"]["properties"].keys() == {"class_name", "source", "target"}
    assert definitions["FreeSpaceCondition"]["required"]
    assert "processes" in definitions["backend"]["properties"]


@pytest.mark.slow
def test_what_no_package_here_knows_is_reported_and_nothing_is_watched_by_half(guest: User, user: User) -> None:
    assert guest.run("plan", *PLANNED, "--plan-id", "x").returncode == 0
    plain = User(guest.home, {**guest.environment, "PYTHONPATH": ""})
    refused = plain.run("plan", *PLANNED)
    assert refused.returncode == 2
    assert "unknown class_name 'AccelerateBackend'" in refused.stderr
    late = plain.run("submit", "--manifest", "outputs/manifests/x.json")
    assert late.returncode == 2
    assert "CopyAction, FolderNotifier, FreeSpaceCondition" in late.stderr
    assert "install their package" in late.stderr
    assert "Traceback" not in refused.stderr + late.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "entry", "why"),
    [
        ("import not_there", "broken:Broken", "No module named 'not_there'"),
        ("raise TypeError('x y')", "broken:Broken", "TypeError: x y"),
        ("import sys; sys.exit('bye')", "broken:Broken", "SystemExit: bye"),
        ("class Broken: pass", "broken:Broken", "it is not a subclass of oellm_autoexp.rules.actions.Action"),
        (
            "from oellm_autoexp.rules.actions import Action\nclass Broken(Action): pass",
            "broken:Broken",
            "it does not declare its class_name; write class_name: Literal['Broken']",
        ),
        (
            "from typing import Literal\nfrom oellm_autoexp.rules.actions import Action\n"
            "class Broken(Action):\n    class_name: Literal['LogAction']",
            "broken:Broken",
            "the class_name LogAction is already used by oellm_autoexp.rules.actions",
        ),
    ],
)
def test_a_package_that_can_not_be_used_is_reported_by_name_and_disturbs_nothing(
    user: User, module: str, entry: str, why: str
) -> None:
    folder = user.home / "lib"
    (folder / "broken-1.0.dist-info").mkdir(parents=True)
    (folder / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (folder / "broken-1.0.dist-info" / "entry_points.txt").write_text(f"[oellm_autoexp.actions]\nmine = {entry}\n")
    (folder / "broken.py").write_text(module)
    guest = User(user.home, {**user.environment, "PYTHONPATH": str(folder)})
    planned = guest.run("plan", *QUICK)
    assert planned.returncode == 0, planned.stderr
    assert "the plugin mine = broken:Broken (oellm_autoexp.actions) can't be used: " in planned.stdout
    assert why in planned.stdout
    (user.home / "wanted.yaml").write_text(
        "monitoring: {log_events: {a: {pattern: x, actions: [{class_name: Brokem}]}}}\n"
    )
    refused = guest.run("plan", "--config-ref", "wanted", "--config-dir", ".")
    assert refused.returncode == 2
    assert "the plugin mine = broken:Broken" in refused.stderr
