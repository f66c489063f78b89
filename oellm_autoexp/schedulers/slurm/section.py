"""The section of SLURM as a scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from oellm_autoexp.core.fields import Pause, Seconds
from oellm_autoexp.sbatch.section import SlurmOptions
from oellm_autoexp.schedulers.base import Scheduler, SchedulerClient
from oellm_autoexp.schedulers.site import Site

if TYPE_CHECKING:
    from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler

_LONGEST_LOOK_SECONDS = 20  # a plan can be made where SLURM does not answer


class SlurmClient(SchedulerClient):
    """The real SLURM commands. A submission with an unclear answer is looked for during `settle_seconds`."""

    is_slurm = True
    class_name: Literal["SlurmClient"]
    timeout_seconds: Seconds = 60
    """Seconds after which a command of SLURM counts as unanswered."""
    settle_seconds: Pause = 30
    """Seconds for which a submission with an unclear answer is looked for."""

    def scheduler(self, section: SlurmOptions, state_dir: Path) -> Scheduler:  # noqa: ARG002
        """See SchedulerClient.scheduler."""
        return self._scheduler(section, self.timeout_seconds)

    def site(self, section: SlurmOptions) -> Site:
        """See SchedulerClient.site."""
        return self._scheduler(section, min(self.timeout_seconds, _LONGEST_LOOK_SECONDS)).site()

    def _scheduler(self, section: SlurmOptions, timeout_seconds: float) -> SlurmScheduler:
        from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler

        return SlurmScheduler(
            submit_cmd=section.submit_cmd,
            squeue_cmd=section.squeue_cmd,
            sacct_cmd=section.sacct_cmd,
            cancel_cmd=section.cancel_cmd,
            timeout_seconds=timeout_seconds,
            settle_seconds=self.settle_seconds,
        )
