"""The daemon keeps what every scheduler promises."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from autoexp_daemon.scheduler import DaemonScheduler

from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.testing.scheduler_contract import FAILS, Harness, RunningSchedulerContract


class DaemonHarness(Harness):
    slots = 2

    def make(self) -> Scheduler:
        return DaemonScheduler(self.folder / ".daemon", self.slots, kill_grace_seconds=1)


class TestDaemon(RunningSchedulerContract):
    harness_class = DaemonHarness


def test_jobs_outlive_a_daemon_that_is_killed_and_the_next_one_goes_on(tmp_path: Path) -> None:
    harness = DaemonHarness(tmp_path)
    running = [harness.submit(f"until [ -e go ]; do sleep 0.05; done; {FAILS}") for _ in range(harness.slots)]
    waiting = harness.submit("echo $SLURM_JOB_ID > ran")
    harness.until("RUNNING", *running)
    os.kill(int((tmp_path / ".daemon" / "daemon.pid").read_text()), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert harness.ends(*running, waiting) == [("FAILED", 7), ("FAILED", 7), ("COMPLETED", 0)]
    assert (tmp_path / "ran").read_text() == f"{waiting}\n"
