"""Runs our commands as a user does: as processes, in an empty folder, with a clean environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.flow.forks import Forks

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PATIENCE_SECONDS = 90
STRICT = {"PYTHONWARNINGS": "error"}
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
    forks: Forks | None = None

    def words(self, command: str, *arguments: str) -> list[str]:
        script = SCRIPTS / f"{command}.py"
        return [sys.executable, str(script if script.exists() else SCRIPTS / f"{command}_autoexp.py"), *arguments]

    def run(self, command: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        words, environment = self.words(command, *arguments), {**self.environment, **more}
        if self.forks is not None and self.forks.can(words, environment):
            return self.forks.run(words, cwd=self.home, env=environment, timeout=PATIENCE_SECONDS)
        return subprocess.run(
            words,
            cwd=self.home,
            env=environment,
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
        """The newest plan's session, as the status command shows it."""
        result = self.run("monitor", "--session", self.plan_id, "--cmd", "status", "--json")
        assert result.stderr == ""
        jobs = json.loads(result.stdout)["jobs"]
        return {job["name"]: job for job in jobs}

    def states(self) -> list[str]:
        """The states of the newest plan's jobs; none before there is a session."""
        if not (self.outputs / "monitoring_state" / f"{self.plan_id}.json").exists():
            return []
        return [job["state"] for job in self.session().values()]


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true, and return it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What starts commands quickly, for all tests of this process."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    forks = Forks({**kept, **STRICT})
    yield forks
    forks.close()


@pytest.fixture
def user(tmp_path: Path, forks: Forks) -> User:
    """A user with a home and nothing else set but PATH and, where a SLURM fixture came first, its SLURM_CONF."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "SLURM_CONF", "LANG") if name in os.environ}
    return User(home, {**kept, "HOME": str(home), **STRICT}, forks)


@pytest.fixture
def slurm_user(slurm: object, user: User) -> User:
    """A user on a cluster with accounting."""
    return replace(user, environment={**user.environment, "SLURM_CONF": os.environ["SLURM_CONF"]})


@pytest.fixture
def slurm_user_no_accounting(slurm_no_accounting: object, user: User) -> User:
    """A user on a cluster without."""
    return replace(user, environment={**user.environment, "SLURM_CONF": os.environ["SLURM_CONF"]})
