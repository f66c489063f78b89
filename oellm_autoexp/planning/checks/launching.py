"""What follows from how a job is launched: where what it prints goes, and which of its nodes nothing runs on. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from oellm_autoexp.backends.base import Note
from oellm_autoexp.config.schema import SlurmSection
from oellm_autoexp.core.errors import ConfigError, Problem, raise_all
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import Resources
from oellm_autoexp.core.text import plural, scalar
from oellm_autoexp.sbatch.directives import DIRECTIVE
from oellm_autoexp.sbatch.launch import own_options, srun_index, srun_options
from oellm_autoexp.sbatch.log_paths import slurm_path, stream_problem
from oellm_autoexp.sbatch.options import long_name, option_words, options_in
from oellm_autoexp.sbatch.resources import resources, tasks

_NOWHERE = ("none", "/dev/null")


def streams(slurm: SlurmSection, asked: Mapping[str, str], work_dir: str) -> tuple[str, ...]:
    """The files beside the log that SLURM writes what a job prints to: absolute, in SLURM's notation.

    `asked` are the options of its script. Raises ConfigError for files that could be mistaken for other jobs'.
    """
    found: dict[str, None] = {}
    problems = []
    for where, value in _diverted(slurm, asked):
        if value in _NOWHERE:
            continue
        pattern = posixpath.normpath(posixpath.join(slurm_path(work_dir), value))
        if what := stream_problem(pattern):
            hint = (
                "write <folder>/%j.err (%A_%a in an array; %t for each task of srun), or leave it to project.log_path"
            )
            problems.append(Problem(f"'{value}' can't be watched: {what}", where, hint))
        found[pattern] = None
    raise_all(ConfigError, problems)
    return tuple(found)


def _diverted(slurm: SlurmSection, asked: Mapping[str, str]) -> Iterator[tuple[Location, str]]:
    """Where each stream goes that does not go into the log, with the key that says so."""
    if slurm.client.runs_here:
        return
    if asked.get("error"):
        yield CONFIG / "slurm.sbatch.error", asked["error"]
    given = srun_options(slurm.launcher_cmd, slurm.srun) if srun_index(slurm.launcher_cmd) is not None else {}
    for key in ("output", "error"):
        value = scalar(given[key]) if key in given else "all"
        if value != "all" and not value.isdecimal():  # the number of a task whose words alone are taken
            yield CONFIG / "slurm.srun" / key, value


def notes(slurm: SlurmSection, asked: Mapping[str, str], needs: Resources) -> Iterator[Note]:
    """What a person should know of a job's launch: words that nobody sees, GPUs that nothing can use."""
    for where, value in _diverted(slurm, asked):
        if value in _NOWHERE:
            key = where.key
            yield Note(key, f"{key}: {value} throws away what the job prints, and no rule sees it")
    yield from _said_again(slurm)
    if slurm.srun and not slurm.launcher_cmd:
        yield Note("srun", f"slurm.srun ({', '.join(slurm.srun)}) has no effect: slurm.launcher_cmd starts no srun")
    if not slurm.launcher_cmd and not slurm.client.runs_here and (count := tasks(asked) or 1) > 1:
        text = f"the job asks for {count} tasks and starts its program once, as no launcher is set"
        yield Note("tasks", f"{text}; set slurm.launcher_cmd: srun, or ask for one task")
    reached = _reached(slurm, asked, needs.nodes)
    if needs.gpus and reached < needs.nodes and not slurm.client.runs_here:
        idle = needs.gpus // needs.nodes * (needs.nodes - reached)
        text = f"the job runs on {reached} of its {plural(needs.nodes, 'node')}: {idle} of {needs.gpus} GPUs are idle"
        hint = "set slurm.srun" if slurm.launcher_cmd else "set slurm.launcher_cmd: srun"
        yield Note("idle GPUs", f"{text}; {hint}, or ask for fewer nodes")


def _said_again(slurm: SlurmSection) -> Iterator[Note]:
    """Options that two places give different values, of which SLURM's commands take the later one."""
    own = own_options(slurm.launcher_cmd) if slurm.srun else {}
    for key, value in slurm.srun.items() if own else ():
        name = long_name(key)
        if name in own and own[name] not in (texts := _texts(key, value)) and texts:
            yield Note(f"srun {name}", f"slurm.srun.{key} counts, and not {_flag(name)} in slurm.launcher_cmd")
    said: dict[str, tuple[str, list[str]]] = {}
    for key, value in slurm.sbatch.items() if slurm.sbatch_extra_directives else ():
        if texts := _texts(key, value):
            said[long_name(key)] = f"slurm.sbatch.{key}", texts
    for index, line in enumerate(slurm.sbatch_extra_directives):
        where = f"slurm.sbatch_extra_directives[{index}]"
        for name, text in options_in(line.removeprefix(DIRECTIVE)):
            other, texts = said.get(name, (where, [text]))
            if text not in texts:
                yield Note(f"directive {where} {name}", f"{_flag(name)} of {where} counts, and not that of {other}")
            said[name] = where, [text]


def _texts(key: str, value: Any) -> list[str]:
    """What an option of SLURM's is given; none if it is left out."""
    return [text for _, _, text in option_words(key, value)]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _reached(slurm: SlurmSection, asked: Mapping[str, str], nodes: int) -> int:
    """On how many nodes there are processes, as far as is known: a launcher of another name may reach all."""
    if not slurm.launcher_cmd:
        return 1
    if srun_index(slurm.launcher_cmd) is None:
        return nodes
    given = srun_options(slurm.launcher_cmd, slurm.srun)
    try:
        step = resources({"nodes": given["nodes"]})[0] if "nodes" in given else nodes
        count = tasks({"ntasks": given["ntasks"]}) if "ntasks" in given else tasks(asked)
    except ConfigError:  # srun itself reports it
        return nodes
    return min(step, nodes, count or step)
