"""How the ranks of a PyTorch training come to be: by srun, one task per GPU, or by torchrun, once per node. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from oellm_autoexp.backends.base import Backend, Note, with_blanks
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.fields import Words
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import plural, shell
from oellm_autoexp.sbatch import resources
from oellm_autoexp.sbatch.launch import srun_index, srun_options
from oellm_autoexp.sbatch.section import SlurmOptions

_MASTER = (
    'export MASTER_ADDR="${MASTER_ADDR:-${SLURM_LAUNCH_NODE_IPADDR:-localhost}}"; '
    # by the job's id, so that jobs that share a node do not meet (an array's tasks: 12_3)
    'job="${SLURM_JOB_ID:-0}"; '
    # and below the ports that Linux gives to connections (32768 and up, ip(7))
    'export MASTER_PORT="${MASTER_PORT:-$((20000 + (${job%%_*} + 97 * ${SLURM_ARRAY_TASK_ID:-0}) % 12000))}"'
)
_OF_JOB = "${SLURM_NTASKS:-1}"  # those of a step that does not say; without a step there is one task, not those
_ADDRESS = (
    # A name that can't be looked up is as good as nothing better.
    'address="$(getent ahostsv4 "${MASTER_ADDR-}" 2>/dev/null)" && MASTER_ADDR="${address%% *}"; '
)
"""Makes an IP address of MASTER_ADDR, where a task runs: each finds the same one in the same name."""
_SRUN = (
    'export RANK="${SLURM_PROCID:-0}" LOCAL_RANK="${SLURM_LOCALID:-0}"; '
    'export WORLD_SIZE="${SLURM_STEP_NUM_TASKS:-' + _OF_JOB + '}"; '
    f'{_MASTER}; exec "$@"'
)
"""What each task runs, by bash: torch's `env://` rendezvous from srun's variables (srun(1), OUTPUT ENVIRONMENT)."""


_PLAIN_RULES = ("{hostname}", "{address}")
_GPUS = ("gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket", "gres")


class LaunchedBackend(Backend):
    """What every backend of a PyTorch training holds that has one process per GPU."""

    launch: Literal["srun", "torchrun"] = "srun"
    """One task per GPU, which reads its rank from SLURM's variables; or one torchrun per node."""
    python: Words = ("python3",)
    """The Python that runs the training."""
    extra_args: Words = ()
    """Words behind all others."""


class Launch:
    """How the ranks of a job come to be: what is wrong or should be known of it, how many there are, and the words."""

    def __init__(self, section: LaunchedBackend, slurm: SlurmOptions) -> None:
        self._section = section
        self._slurm = slurm
        self._here = slurm.client.runs_here
        self._alone = self._here or not slurm.launcher_cmd
        self._sbatch, self._extra = slurm.sbatch, slurm.sbatch_extra_directives
        self._srun = srun_options(slurm.launcher_cmd, slurm.srun)
        self.problems = [*with_blanks(section.extra_args, CONFIG / "backend.extra_args")]
        self.notes = [*self._signal_notes()]
        self._per_node = self.world = 1
        nodes, gpus, _ = resources.resources(self._sbatch, self._extra)
        if not self._alone:
            self._count(nodes, gpus)
        elif not self._here and section.launch == "torchrun":  # the script runs on the first node
            self._per_node = self.world = max(1, gpus // nodes)
        self.notes += self._idle_notes(gpus)

    def _idle_notes(self, gpus: int) -> Iterator[Note]:
        """GPUs that the job asks for and no rank uses."""
        launcher = self._slurm.launcher_cmd
        if gpus > self.world:
            if self._here:
                why = "on this machine a job runs as one rank"
            elif self._alone:
                why = "without slurm.launcher_cmd the script's own node has all of them; set launcher_cmd: srun"
            else:
                why = "slurm.srun leaves out what the job asks for besides"
            ranks = "one process" if self.world == 1 else f"{self.world} processes"
            yield Note("idle GPUs", f"the job asks for {gpus} GPUs and starts {ranks}, one for each GPU: {why}")
        if not self._alone and srun_index(launcher) is None:
            text = f"slurm.launcher_cmd has no srun: '{launcher[0]}' must start the {plural(self.world, 'rank')} itself"
            yield Note("launcher", text)

    def _count(self, nodes: int, gpus: int) -> None:
        """How many ranks there are. The options of srun come last, and may leave nodes of the job to spare."""
        step_nodes = resources.resources({"nodes": self._srun.get("nodes", nodes)})[0]
        of_job = resources.tasks(self._sbatch, self._extra)
        if "ntasks" in self._srun:
            tasks = resources.tasks({"ntasks": self._srun["ntasks"]})
        elif of_job is None and "ntasks_per_node" in self._srun:
            tasks = resources.tasks({"nodes": step_nodes, "ntasks_per_node": self._srun["ntasks_per_node"]})
        else:  # srun takes the job's number, and ignores another one per node (SLURM_NTASKS)
            tasks = of_job
        if of_step := {key: self._srun[key] for key in _GPUS if key in self._srun}:
            gpus = resources.resources({"nodes": step_nodes, "ntasks": tasks, **of_step})[1]
        elif step_nodes != nodes:
            gpus = gpus // nodes * step_nodes
        if self._section.launch == "srun":
            self._count_tasks(tasks, step_nodes, gpus)
        else:
            self._count_torchruns(tasks, step_nodes, gpus)

    def _count_tasks(self, tasks: int | None, nodes: int, gpus: int) -> None:
        self.world = tasks or nodes
        if not gpus and not (tasks and self._sbatch.get("exclusive") is True):  # which gives all GPUs (sbatch(1))
            self._problem("gpus_per_node", "there is one task per GPU, and the job asks for none", "set it, e.g. to 4")
        elif gpus and self.world != gpus:
            text = f"srun starts {plural(self.world, 'task')} for {gpus} GPUs, and each needs its own"
            self._tasks_problem(text, gpus // nodes, gpus, "torchrun")
            self.world = gpus
        if self._sbatch.get("gpus_per_task") or self._srun.get("gpus_per_task"):
            text = "with gpus_per_task each task sees its own GPU alone, while LOCAL_RANK counts those of the node"
            self.notes.append(Note("gpus_per_task", f"{text}: set gpus_per_node instead"))

    def _count_torchruns(self, tasks: int | None, nodes: int, gpus: int) -> None:
        self._per_node = max(1, gpus // nodes)
        self.world = nodes * self._per_node
        if not gpus:
            text = "torchrun starts one process per GPU, and the job asks for none"
            self._problem("gpus_per_node", text, "set it, e.g. to 4")
        if tasks is not None and tasks != nodes:
            text = f"srun starts {tasks} tasks on {plural(nodes, 'node')}; torchrun is started once per node"
            self._tasks_problem(text, 1, nodes, "srun")

    def _tasks_problem(self, text: str, each: int, all_of_them: int, other: str) -> None:
        """A wrong number of tasks: srun's own option is to be corrected there, and with a spare node it is needed."""
        if "ntasks" in self._srun or "nodes" in self._srun or "ntasks_per_node" in self._srun:
            hint = f"set slurm.srun.ntasks: {all_of_them}, or backend.launch: {other}"
            self.problems.append(Problem(text, CONFIG / "slurm.srun.ntasks", hint))
        else:
            hint = f"set slurm.sbatch.ntasks_per_node: {each}, or backend.launch: {other}"
            self._problem("ntasks_per_node", text, hint)

    def _problem(self, key: str, text: str, hint: str) -> None:
        self.problems.append(Problem(text, CONFIG / "slurm.sbatch" / key, hint))

    def _signal_notes(self) -> Iterator[Note]:
        """torchrun ends its processes 30 s after a TERM or INT, and dies of USR1 and USR2 itself (elastic/agent).

        With B: it gets them from the script's shell.
        """
        signal = str(self._sbatch.get("signal") or "")
        if self._section.launch == "torchrun" and signal:
            yield Note(
                "torchrun and signal",
                f"slurm.sbatch.signal {signal} goes to torchrun, which gives its processes 30 s after TERM and dies of "
                "other signals at once: too little to save; take backend.launch: srun",
            )

    def own_environment(self) -> dict[str, str]:
        """What the backend adds to the job's environment."""
        # The batch script runs on the first node; a cluster's profile may know a better name of it.
        known = {*self._slurm.env, *self._section.env}
        own = {} if self._alone else {"MASTER_ADDR": self._master_name()}
        if not self._alone and "kill_on_bad_exit" not in self._srun:
            own["SLURM_KILL_BAD_EXIT"] = "1"  # else all others wait for a dead rank, for as long as NCCL does
        return {**{name: value for name, value in own.items() if name not in known}, **self._section.env}

    def _master_name(self) -> str:
        """The first node's name, as `slurm.master_addr` makes it; the batch script runs there."""
        rule = self._slurm.master_addr
        return "$SLURMD_NODENAME" if rule in _PLAIN_RULES else rule.replace("{hostname}", "${SLURMD_NODENAME}")

    def _prelude(self, text: str) -> str:
        """What a task runs first; where a profile asks for it, the master's address is looked up before."""
        known = {*self._slurm.env, *self._section.env}
        wanted = self._slurm.master_addr == "{address}" and not self._alone and "MASTER_ADDR" not in known
        return f"{_ADDRESS}{text}" if wanted else text

    def environment(self) -> dict[str, str]:
        """All that the job exports."""
        return {**self._slurm.env, **self.own_environment()}

    @property
    def programs(self) -> tuple[str, ...]:
        """What `argv` starts."""
        return ("bash", *self._section.python[:1])

    def argv(self, name: str, program: Sequence[str]) -> list[str]:
        """The whole command: bash, as `name`, takes the rank or the node from SLURM's variables, where it runs.

        `program` is what follows the word python: a script or `-m` and a module, and its arguments.
        """
        python = self._section.python
        if self._section.launch == "srun":
            ranks = _SRUN if self._here or not self._alone else _SRUN.replace(_OF_JOB, "1")
            return ["bash", "-c", self._prelude(ranks), name, *python, *program]
        torchrun = shell([*python, "-m", "torch.distributed.run"])
        nodes = "1" if self._alone else '"${SLURM_STEP_NUM_NODES:-$SLURM_JOB_NUM_NODES}"'
        # By fixed node ranks: nobody has to guess from a host's name which node is the master.
        node = '--node-rank="${SLURM_NODEID:-0}" --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT"'
        start = f"{torchrun} --nnodes={nodes} --nproc-per-node={self._per_node} {node}"
        return ["bash", "-c", self._prelude(f'{_MASTER}; exec {start} "$@"'), name, *program]
