"""How the ranks of a PyTorch training come to be: by srun, one task per GPU, or by torchrun, once per node. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oellm_autoexp.config.schema import LaunchedBackend
from oellm_autoexp.errors import Problem
from oellm_autoexp.slurm import script
from oellm_autoexp.text import plural, shell

_MASTER = (
    'export MASTER_ADDR="${MASTER_ADDR:-${SLURM_LAUNCH_NODE_IPADDR:-localhost}}"; '
    # by the job's id, so that jobs that share a node do not meet (an array's tasks: 12_3)
    'job="${SLURM_JOB_ID:-0}"; '
    'export MASTER_PORT="${MASTER_PORT:-$((20000 + (${job%%_*} + 97 * ${SLURM_ARRAY_TASK_ID:-0}) % 20000))}"'
)
_SRUN = (
    'export RANK="${SLURM_PROCID:-0}" LOCAL_RANK="${SLURM_LOCALID:-0}"; '
    'export WORLD_SIZE="${SLURM_STEP_NUM_TASKS:-${SLURM_NTASKS:-1}}"; '
    f'{_MASTER}; exec "$@"'
)
"""What each task runs, by bash: torch's `env://` rendezvous from srun's variables (srun(1), OUTPUT ENVIRONMENT)."""


class Launch:
    """How the ranks of a job come to be: what is wrong with it, how many there are, and the words."""

    def __init__(self, section: LaunchedBackend, slurm: Mapping[str, Any]) -> None:
        self._section = section
        self._slurm = slurm
        self._alone = slurm["client"]["class_name"] == "LocalClient" or not slurm.get("launcher_cmd")
        self.problems: list[Problem] = []
        sbatch, extra = slurm.get("sbatch") or {}, slurm.get("sbatch_extra_directives") or []
        self._nodes, gpus, _ = script.resources(sbatch, extra)
        # srun's own options come last
        own = {key: value for key, value in (slurm.get("srun") or {}).items() if key in ("ntasks", "ntasks_per_node")}
        tasks = script.tasks({**sbatch, **({"ntasks": None} if own else {}), **own}, () if own else extra)
        self._per_node = 1
        if self._alone:
            self.world = 1
        elif section.launch == "srun":
            self.world = tasks or self._nodes
            if gpus and self.world != gpus:
                each = gpus // self._nodes
                text = f"srun starts {plural(self.world, 'task')} for {gpus} GPUs, and each needs its own"
                hint = f"set slurm.sbatch.ntasks_per_node: {each}, or backend.launch: torchrun"
                self.problems.append(Problem(text, "$.slurm.sbatch.ntasks_per_node", hint))
                self.world = gpus
        else:
            self._per_node = max(1, gpus // self._nodes)
            self.world = self._nodes * self._per_node
            if not gpus:
                text = "torchrun starts one process per GPU, and the job asks for none"
                self.problems.append(Problem(text, "$.slurm.sbatch.gpus_per_node", "set it, e.g. to 4"))
            if tasks is not None and tasks != self._nodes:
                text = f"srun starts {tasks} tasks on {self._nodes} nodes; torchrun is started once per node"
                hint = "set slurm.sbatch.ntasks_per_node: 1, or backend.launch: srun"
                self.problems.append(Problem(text, "$.slurm.sbatch.ntasks_per_node", hint))

    def own_environment(self) -> dict[str, str]:
        """What the backend adds to the job's environment."""
        # The batch script runs on the first node; a cluster's profile may know a better name of it.
        known = {*(self._slurm.get("env") or {}), *self._section.env}
        master = {} if self._alone or "MASTER_ADDR" in known else {"MASTER_ADDR": "$SLURMD_NODENAME"}
        return {**master, **self._section.env}

    def environment(self) -> dict[str, str]:
        """All that the job exports."""
        of_slurm = {name: str(value) for name, value in (self._slurm.get("env") or {}).items() if value is not None}
        return {**of_slurm, **self.own_environment()}

    def argv(self, name: str, program: Sequence[str]) -> list[str]:
        """The whole command: bash, as `name`, takes the rank or the node from SLURM's variables, where it runs.

        `program` is what follows the word python: a script or `-m` and a module, and its arguments.
        """
        python = self._section.python
        if self._section.launch == "srun":
            return ["bash", "-c", _SRUN, name, *python, *program]
        torchrun = shell([*python, "-m", "torch.distributed.run"])
        nodes = "1" if self._alone else '"$SLURM_JOB_NUM_NODES"'
        # By fixed node ranks: nobody has to guess from a host's name which node is the master.
        node = '--node-rank="${SLURM_NODEID:-0}" --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT"'
        start = f"{torchrun} --nnodes={nodes} --nproc-per-node={self._per_node} {node}"
        return ["bash", "-c", f'{_MASTER}; exec {start} "$@"', name, *program]
