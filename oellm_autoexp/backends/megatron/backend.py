"""Megatron-LM as a backend: its words, its launch by srun or torchrun, and how many ranks that gives. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oellm_autoexp.backends.base import Command, Note, Probe
from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.backends.megatron.validation import WHERE, Verdict, validate
from oellm_autoexp.config.schema import MegatronBackend
from oellm_autoexp.errors import BackendError, Problem, raise_all
from oellm_autoexp.slurm import script
from oellm_autoexp.text import plural, shell

PARSER = Path(__file__).with_name("parser_check.py")
"""The program that asks Megatron's own parser; it needs Megatron and nothing of this package."""

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


_FRACTION = re.compile(r"-?\d+(\.\d*)?e[+-]?\d+|-?\d+\.\d*")


class MegatronCommand:
    """A `MegatronBackend` section as a Backend."""

    def __init__(self, section: MegatronBackend) -> None:
        self._section = section

    def command(self, config: Mapping[str, Any]) -> Command:
        """See Backend.command. Raises BackendError: unknown arguments, wrong values, what Megatron would refuse."""
        section = self._section
        values = {key: value for key, value in section.megatron.items() if key != "aux"}
        try:
            arguments = Arguments.of(section.version)
        except BackendError as error:
            raise BackendError(*(Problem(p.what, "$.backend.version", p.hint) for p in error.problems)) from None
        problems: list[Problem] = []
        words: list[str] = []
        try:
            # also what equals the default: that may be another one in the Megatron that is run
            words = arguments.argv(values, WHERE, explicit=values)
        except BackendError as error:
            problems += error.problems
        launch = _Launch(section, config["slurm"])
        problems += launch.problems
        environment = launch.environment()
        notes: tuple[Note, ...] = ()
        if section.checks != "none":
            verdict = _verdict(arguments, values, launch.world, environment)
            problems += _beside(verdict.problems, problems)
            notes = (*verdict.notes, *_repeated(words, section.extra_args))
        raise_all(BackendError, problems)
        words += section.extra_args
        probe = self._probe(words, launch.world, environment) if section.checks == "parser" else None
        return Command(tuple(launch.argv(words)), launch.own_environment(), notes, probe)

    def _probe(self, words: Sequence[str], world: int, environment: Mapping[str, str]) -> Probe:
        section = self._section
        return Probe(
            program=(*section.python, str(PARSER), section.script),
            question={"argv": list(words), "world": world, "environment": dict(environment)},
            shape=(str(world), *map(_shape, words)),
            where=WHERE,
            help="this asks Megatron's own parser: plan where backend.python can import torch and backend.script is "
            "Megatron-LM's pretrain_gpt.py (git submodule update --init, or inside of the container), "
            "or set backend.validate=checks",
        )


def _verdict(arguments: Arguments, values: Mapping[str, Any], world: int, environment: Mapping[str, str]) -> Verdict:
    by_dest = {known.dest: value for key, value in values.items() if (known := arguments.known(key)) is not None}
    dests = arguments.dests

    def default(dest: str) -> Any:
        return dests[dest].default if dest in dests else None

    return validate(by_dest, default, world, environment)


def _beside(found: Sequence[Problem], known: Sequence[Problem]) -> list[Problem]:
    """Those of `found` that are not about a value which is no value at all."""
    places = {problem.where for problem in known}
    return [problem for problem in found if problem.where not in places]


def _repeated(words: Sequence[str], extra: Sequence[str]) -> list[Note]:
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    again = dict.fromkeys(flag for word in extra if (flag := word.partition("=")[0]) in flags)
    return [
        Note(f"extra_args {flag}", f"backend.extra_args: {flag} is given again, and the last one wins")
        for flag in again
    ]


def _shape(word: str) -> str:
    """A word without what Megatron's checks do not depend on: fractions and paths."""
    return "#" if "/" in word or _FRACTION.fullmatch(word) else word


class _Launch:
    """How the ranks of a job come to be: what is wrong with it, how many there are, and the words."""

    def __init__(self, section: MegatronBackend, slurm: Mapping[str, Any]) -> None:
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
                text = f"srun starts {plural(self.world, 'task')} for {gpus} GPUs, and Megatron needs one for each"
                hint = f"set slurm.sbatch.ntasks_per_node: {each}, or choose backend=megatron_torchrun"
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
                hint = "set slurm.sbatch.ntasks_per_node: 1, or choose backend=megatron"
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

    def argv(self, words: Sequence[str]) -> list[str]:
        """The whole command: bash takes the rank or the node from SLURM's variables, where it runs."""
        python, program = self._section.python, (self._section.script, *words)
        if self._section.launch == "srun":
            return ["bash", "-c", _SRUN, "megatron", *python, *program]
        torchrun = shell([*python, "-m", "torch.distributed.run"])
        nodes = "1" if self._alone else '"$SLURM_JOB_NUM_NODES"'
        # By fixed node ranks: nobody has to guess from a host's name which node is the master.
        node = '--node-rank="${SLURM_NODEID:-0}" --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT"'
        start = f"{torchrun} --nnodes={nodes} --nproc-per-node={self._per_node} {node}"
        return ["bash", "-c", f'{_MASTER}; exec {start} "$@"', "megatron", *program]
