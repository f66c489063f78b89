"""Runs our commands as a user does: as processes, in an empty folder, with a clean environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PATIENCE_SECONDS = 90
QUICK = (
    "project=default",
    "backend.options.train_iters=12",
    "backend.options.log_interval=1",
    "monitoring.poll_interval_seconds=0.2",
)
"""Overrides of a sweep of four real, very short trainings."""


@dataclass(frozen=True)
class User:
    """Somebody at a terminal in `home`. Commands are named without their `_autoexp.py`."""

    home: Path
    environment: dict[str, str]

    def words(self, command: str, *arguments: str) -> list[str]:
        script = SCRIPTS / f"{command}.py"
        return [sys.executable, str(script if script.exists() else SCRIPTS / f"{command}_autoexp.py"), *arguments]

    def run(self, command: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.words(command, *arguments),
            cwd=self.home,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a command whose output goes to `output.txt`."""
        with (self.home / "output.txt").open("w") as output:
            return subprocess.Popen(
                self.words(command, *arguments),
                cwd=self.home,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
            )

    @property
    def outputs(self) -> Path:
        return self.home / "outputs"

    @property
    def plan_id(self) -> str:
        """The id of the newest plan."""
        return os.path.basename(os.readlink(self.outputs / "sweep.json")).removesuffix(".sweep.json")  # noqa: PTH119, PTH115

    def session(self) -> dict[str, Any]:
        """The newest plan's session, as the status command tells it."""
        result = self.run("monitor", "--session", self.plan_id, "--cmd", "status", "--json")
        assert result.stderr == ""
        jobs = json.loads(result.stdout)["jobs"]
        return {job["name"]: job for job in jobs}

    def states(self) -> list[str]:
        return [job["state"] for job in self.session().values()]


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true, and return it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with a home and nothing else set but PATH and, where a SLURM fixture came first, its SLURM_CONF."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "SLURM_CONF", "LANG") if name in os.environ}
    return User(home, {**kept, "HOME": str(home), "PYTHONWARNINGS": "error"})


@pytest.fixture
def slurm_user(slurm: object, user: User) -> User:
    """A user on a cluster with accounting."""
    return User(user.home, {**user.environment, "SLURM_CONF": os.environ["SLURM_CONF"]})


@pytest.fixture
def slurm_user_no_accounting(slurm_no_accounting: object, user: User) -> User:
    """A user on a cluster without."""
    return User(user.home, {**user.environment, "SLURM_CONF": os.environ["SLURM_CONF"]})
