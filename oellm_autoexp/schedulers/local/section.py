"""The section of the local scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from oellm_autoexp.core.fields import Count, Pause
from oellm_autoexp.sbatch.section import SlurmOptions
from oellm_autoexp.schedulers.base import Scheduler, SchedulerClient


class LocalClient(SchedulerClient):
    """The local scheduler: jobs as processes of this machine, at most `slots` at a time."""

    runs_here = True
    class_name: Literal["LocalClient"]
    slots: Count | None = Field(default=None, ge=1, le=1024)
    """Jobs at a time, at most; null: one for each core."""
    kill_grace_seconds: Pause = 30
    """Seconds between the signals TERM and KILL when a job is ended."""

    def scheduler(self, section: SlurmOptions, state_dir: Path) -> Scheduler:  # noqa: ARG002
        """See SchedulerClient.scheduler."""
        from oellm_autoexp.schedulers.local.scheduler import LocalScheduler

        return LocalScheduler(state_dir / "local", self.slots, self.kill_grace_seconds)
