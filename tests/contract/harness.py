"""The schedulers of this package behind the face of the contract's suite."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.schedulers.fake import FakeScheduler, Script
from oellm_autoexp.schedulers.local.scheduler import LocalScheduler
from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler
from oellm_autoexp.testing.scheduler_contract import FAILS, STAYS, SUCCEEDS, TAKES_TOO_LONG, TASK_2_FAILS, Harness

_WAITS = "wait"
_SUCCESS: Script = ("PENDING", "RUNNING", "COMPLETED")
_FAILURE: Script = ("PENDING", "RUNNING", JobStatus("FAILED", exit_code=7))
PLAYS: Mapping[str, Mapping[int | None, Script]] = {
    SUCCEEDS: {None: _SUCCESS},
    FAILS: {None: _FAILURE},
    STAYS: {None: ("PENDING", "RUNNING")},
    TASK_2_FAILS: {2: _FAILURE, None: _SUCCESS},
    TAKES_TOO_LONG: {None: ("RUNNING", "TIMEOUT")},
    _WAITS: {None: ("PENDING",)},
}
"""What the fake plays for the body of a script, by array task (None: all others)."""


def _behave(submission: Submission, task: int | None) -> Script:
    body = Path(submission.script_path).read_text().splitlines()[-1]
    return PLAYS[body].get(task, PLAYS[body][None])


class FakeHarness(Harness):
    def make(self) -> Scheduler:
        return FakeScheduler(behave=_behave, refuse=["refused"])

    def pending(self, count: int = 1) -> list[str]:
        return [self.submit(_WAITS) for _ in range(count)]

    def refused(self) -> Submission:
        return self.submission(SUCCEEDS, name="refused")


class LocalHarness(Harness):
    slots = 2

    def make(self) -> Scheduler:
        return LocalScheduler(self.folder / "spool", self.slots, kill_grace_seconds=1)


class SlurmHarness(Harness):
    shortest_limit_seconds = 60  # it counts in minutes and looks every 30 s: the test of it takes 90 s

    def make(self) -> Scheduler:
        return SlurmScheduler()

    def some_nodes(self) -> list[str]:
        names = subprocess.run(["sinfo", "-h", "-N", "-o", "%N"], capture_output=True, text=True, check=True)
        return sorted(set(names.stdout.split()))[:1]

    def pending(self, count: int = 1) -> list[str]:
        return [self.submit(SUCCEEDS, sbatch={"hold": True}) for _ in range(count)]

    def refused(self) -> Submission:
        return self.submission(SUCCEEDS, sbatch={"partition": "none"})
