"""The section of the YAML that chooses this scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from oellm_autoexp.sbatch.section import SlurmOptions
from oellm_autoexp.schedulers.base import Scheduler, SchedulerClient


class DaemonClient(SchedulerClient):
    """Jobs of this machine, at most `slots` at a time, run by a daemon of their own."""

    runs_here = True
    class_name: Literal["DaemonClient"]
    slots: int = Field(default=1, ge=1)
    kill_grace_seconds: float = Field(default=30, ge=0)

    def scheduler(self, section: SlurmOptions, state_dir: Path) -> Scheduler:  # noqa: ARG002
        """See SchedulerClient.scheduler."""
        from autoexp_daemon.scheduler import DaemonScheduler  # not before it is needed: every command imports this file

        return DaemonScheduler(state_dir / ".daemon", self.slots, self.kill_grace_seconds)
