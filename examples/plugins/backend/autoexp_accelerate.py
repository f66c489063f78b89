"""A backend for oellm-autoexp: a script that Hugging Face's `accelerate launch` starts on one node."""

from __future__ import annotations

from typing import Literal

from oellm_autoexp.backends.base import Backend, Command, Job
from oellm_autoexp.backends.command import flag
from oellm_autoexp.core.errors import BackendError, Problem
from oellm_autoexp.core.fields import Count, Flags


class AccelerateBackend(Backend):
    """A script and its options; `processes` is how many of it run on the node, one per GPU."""

    own_keys = ("options",)
    class_name: Literal["AccelerateBackend"]
    script: str
    processes: Count = 1
    options: Flags = {}

    def command(self, job: Job) -> Command:
        """The words of the job's command. Raises BackendError."""
        if job.slurm.sbatch.get("nodes", 1) != 1:
            raise BackendError(Problem("this backend starts one node", "$.slurm.sbatch.nodes", "write nodes: 1"))
        words = [word for name, value in self.options.items() for word in flag(name, value)]
        launcher = ("accelerate", "launch", f"--num_processes={self.processes}")
        return Command((*launcher, self.script, *words), self.env, needs=(self.script,))
