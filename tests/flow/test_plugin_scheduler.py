"""The scheduler of another package, installed as its users would do it: planned for, submitted to, watched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User, until

pytestmark = pytest.mark.xdist_group("plugins")  # installed once
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "scheduler"
CHOSEN = ("slurm.client.class_name=DaemonClient", "slurm.client.slots=2")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example is installed in."""
    root = tmp_path_factory.mktemp("package")
    shutil.copytree(EXAMPLE, root / "source")  # a build leaves files beside what it builds
    words = ["install", "--quiet", "--no-deps", "--target", str(root / "lib"), str(root / "source")]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return root / "lib"


@pytest.fixture
def guest(user: User, package: Path) -> User:
    """A user who has the package."""
    return replace(user, environment={**user.environment, "PYTHONPATH": str(package)})


@pytest.mark.slow
def test_it_keeps_what_every_scheduler_promises(package: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "test_contract.py", tmp_path)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_contract.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(package), "PYTEST_ADDOPTS": f"--basetemp={tmp_path / 'tmp'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed in " in result.stdout
    assert "skipped" not in result.stdout


@pytest.mark.slow
def test_a_sweep_runs_to_success_on_it(guest: User) -> None:
    result = guest.run("run", *QUICK, *CHOSEN)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert "4 jobs: 4 success" in result.stdout
    assert guest.states() == ["success"] * 4
    assert (guest.outputs / "monitoring_state" / ".daemon" / "jobs.sqlite").exists()
    assert not (guest.outputs / "monitoring_state" / "local").exists()


@pytest.mark.slow
def test_a_monitor_and_a_daemon_that_are_killed_repeat_and_lose_nothing(guest: User) -> None:
    monitor = guest.start("run", *QUICK, *CHOSEN, "backend.options.step_seconds=0.15")
    until(lambda: (guest.outputs / "sweep.json").exists() and "running" in guest.states(), "a running job")
    monitor.kill()
    monitor.wait()
    os.kill(int((guest.outputs / "monitoring_state" / ".daemon" / "daemon.pid").read_text()), signal.SIGKILL)
    resumed = guest.run("monitor", "--session", guest.plan_id)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [(job["state"], job["attempt"]) for job in guest.session().values()] == [("success", 1)] * 4


@pytest.mark.slow
def test_a_job_of_it_is_cancelled_and_a_mistake_in_its_section_is_reported(guest: User) -> None:
    refused = guest.run("plan", *QUICK, CHOSEN[0], "slurm.client.slots=0", "+slurm.client.slot=2")
    assert refused.returncode == 2
    assert "slurm.client.slots" in refused.stderr
    assert "did you mean 'slots'?" in refused.stderr
    planned = guest.run("run", "--no-monitor", *QUICK, *CHOSEN, "backend.options.step_seconds=100")
    assert planned.returncode == 0, planned.stderr
    cancelled = guest.run("monitor", "--session", guest.plan_id, "--cmd", "cancel")
    assert cancelled.returncode == 0, cancelled.stderr
    assert guest.run("monitor", "--session", guest.plan_id).returncode == 1  # once all have ended
    assert guest.states() == ["cancelled"] * 4


def test_without_the_package_its_plan_is_refused_with_the_reason(guest: User) -> None:
    assert guest.run("plan", *QUICK, *CHOSEN, "--plan-id", "x").returncode == 0
    plain = replace(guest, environment={**guest.environment, "PYTHONPATH": ""})
    result = plain.run("submit", "--manifest", "outputs/manifests/x.json")
    assert result.returncode == 2
    assert "this plan's scheduler 'DaemonClient' is not known here" in result.stderr
    assert "Traceback" not in result.stderr
