"""What `slurm.restarts_in_job`, `spare_nodes` and `preflight` make of a job's directives and of its srun. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import Raw, scalar
from oellm_autoexp.sbatch.directives import DIRECTIVE
from oellm_autoexp.sbatch.in_job.preflight import Preflight
from oellm_autoexp.sbatch.in_job.steps import Steps
from oellm_autoexp.sbatch.launch import srun_index, srun_options
from oellm_autoexp.sbatch.options import long_name, options_in
from oellm_autoexp.sbatch.resources import resources
from oellm_autoexp.sbatch.section import SlurmOptions
from oellm_autoexp.sbatch.signals import signal_before_end

_WHERE = CONFIG / "slurm"
_CHOSEN = ("nodes", "nodelist", "exclude", "relative", "nodefile", "no_kill")
"""The options of srun that the script itself gives each step; a step that nothing ends (--no-kill) would be none."""
_OF_ALL_NODES = {"ntasks": "ntasks_per_node", "gpus": "gpus_per_node"}


def in_steps(slurm: SlurmOptions) -> bool:
    """Whether the script of a job runs its program in steps."""
    return bool(slurm.restarts_in_job or slurm.spare_nodes or slurm.preflight)


def _spare(slurm: SlurmOptions) -> int:
    """The spare nodes; the local scheduler has one node."""
    return 0 if slurm.client.runs_here else slurm.spare_nodes


def sbatch_section(slurm: SlurmOptions) -> Mapping[str, Any]:
    """`slurm.sbatch` as the job asks for it: with its spare nodes, so that the death of a node does not end it."""
    if not _spare(slurm):  # then the death of a node is the end in any case, and SLURM itself ends and reports it
        return slurm.sbatch
    asked = dict(slurm.sbatch)
    if "no_kill" not in map(long_name, asked):
        asked["no_kill"] = True
    for key, value in slurm.sbatch.items():
        if long_name(key) == "nodes" and _number(value):
            asked[key] = _number(value) + slurm.spare_nodes
    return asked


def srun_section(slurm: SlurmOptions) -> Mapping[str, Any]:
    """The flags of srun by which each step runs on the nodes that the script has chosen, and ends as a whole."""
    if not in_steps(slurm) or not _calls_srun(slurm):
        return {}
    given = srun_options(slurm.launcher_cmd, slurm.srun)
    whole = {} if "kill_on_bad_exit" in given else {"kill_on_bad_exit": 1}
    return {"nodes": "$SLURM_JOB_NUM_NODES", "nodelist": "$SLURM_JOB_NODELIST", **whole}


def steps(slurm: SlurmOptions, lines: tuple[str, ...], log_path: str, image: str | Raw) -> Steps | None:
    """How a script with these directives runs its program in steps; None: it runs it once, as it is.

    `image`: the file of the job's container as a word of the script, '' if it has none. Raises ConfigError.
    """
    if not in_steps(slurm):
        return None
    at = srun_index(slurm.launcher_cmd)
    srun = "" if slurm.client.runs_here else "srun" if at is None else slurm.launcher_cmd[at]
    try:
        warned = signal_before_end(lines)
    except ValueError:  # reported with the job's other signals
        warned = None
    seconds = warned.seconds if warned is not None and not warned.to_batch_shell else 0
    return Steps(slurm.restarts_in_job, _spare(slurm), srun, log_path, _preflight(slurm, image), seconds)


def problems(slurm: SlurmOptions, image: str | Raw) -> Iterator[Problem]:
    """Why a job can't be run in steps as the section asks for it."""
    yield from _preflight(slurm, image).problems()
    if slurm.client.runs_here or not in_steps(slurm):
        return
    where = _WHERE / "spare_nodes"
    if slurm.spare_nodes and not _calls_srun(slurm):
        what = "slurm.launcher_cmd has no srun, so that a step can't be kept from the spare nodes"
        yield Problem(what, where, "start the program by srun, or set spare_nodes: 0 (restarts_in_job works without)")
    if slurm.spare_nodes and not (slurm.restarts_in_job or slurm.preflight):
        yield Problem("spare nodes without a use", where, "set slurm.restarts_in_job, or checks in slurm.preflight")
    if slurm.spare_nodes:
        yield from _size_problems(slurm)
    given = srun_options(slurm.launcher_cmd, slurm.srun) if _calls_srun(slurm) else {}
    for name in _CHOSEN:
        if name in given:
            what = f"--{name.replace('_', '-')} is set by the script, which chooses the nodes of each step"
            yield Problem(what, _WHERE / "srun" / name, "leave it out; slurm.sbatch chooses the nodes of the job")


def _size_problems(slurm: SlurmOptions) -> Iterator[Problem]:
    """Sizes of a job to which spare nodes can't be added."""
    given = {long_name(key): (key, value) for key, value in slurm.sbatch.items() if value not in (None, False)}
    extra = {name for line in slurm.sbatch_extra_directives for name, _ in options_in(line.removeprefix(DIRECTIVE))}
    key, nodes = given.get("nodes", ("nodes", None))
    if not _number(nodes) or "nodes" in extra:
        what = "with slurm.spare_nodes, the nodes of the program must be one number"
        yield Problem(
            what, _WHERE / "sbatch" / key, "set slurm.sbatch.nodes, and no such line in sbatch_extra_directives"
        )
    for name, each in _OF_ALL_NODES.items():
        if name in given or name in extra:
            what = f"with slurm.spare_nodes, {name} would be shared out over the spare nodes, too"
            yield Problem(what, _WHERE / "sbatch" / given.get(name, (name,))[0], f"set {each}")


def _preflight(slurm: SlurmOptions, image: str | Raw) -> Preflight:
    """The checks of a job. Raises ConfigError for sizes that sbatch does not take."""
    if not slurm.preflight:
        return Preflight()
    nodes, gpus, _ = resources(slurm.sbatch, slurm.sbatch_extra_directives)
    uncounted = slurm.client.runs_here and not gpus  # here, nobody need ask for GPUs
    checks = tuple(check for check in slurm.preflight if not (uncounted and check.check == "gpus"))
    return Preflight(checks, gpus // nodes, image)


def _calls_srun(slurm: SlurmOptions) -> bool:
    return not slurm.client.runs_here and srun_index(slurm.launcher_cmd) is not None


def _number(value: Any) -> int:
    """A number of nodes; 0 for a range, and for what is no number."""
    text = scalar(value)
    return int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else 0
