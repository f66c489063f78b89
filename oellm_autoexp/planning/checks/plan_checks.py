"""What must be so of a plan's jobs together, and of each one's names, places and environment. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from oellm_autoexp.config.schema import AutoexpConfig, ProjectSection, SchedulerSection, SlurmSection
from oellm_autoexp.containers.kinds import Container
from oellm_autoexp.core.errors import ConfigError, Problem, SweepError, raise_all
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.planning.resolving.filters import ENOUGH_PROBLEMS
from oellm_autoexp.planning.resolving.plan_places import in_the_way, own_place, taken_problem
from oellm_autoexp.sbatch import log_paths
from oellm_autoexp.sbatch.environment import hidden_problems, task_problems
from oellm_autoexp.sweep.paths import leaf_paths, path_of, plain

LISTED = 8
_VALID_NAME = re.compile(r"[A-Za-z0-9_+=@,.][A-Za-z0-9_+=@,.\-]*")
_LONGEST_NAME = 180  # a file name has 255 bytes, and names get endings
_LONGEST_PLAN_ID = 180  # bytes; a file name has 255, and ids get endings
_ENDINGS = re.compile(
    r"\.(sweep|provenance|code|arrays|planning|json|jsonl|journal|lease|events|actions|requests|detached|part|heir)$",
    re.IGNORECASE,
)
"""Endings of files beside manifests and sessions: with `z` and `z.sweep`, `z.sweep.json` would be both plans' file."""
_SPOOL = "local"


def check_plan_id(text: str) -> None:
    """Raise ConfigError if a text can't be a plan's id, which names files beside those of other plans."""
    if not text or not all(c.isalnum() or c in "._-" for c in text) or text[0] in ".-":
        what, hint = f"{text!r} can't be a plan's id", "use letters, digits and . _ -"
    elif len(text.encode(errors="replace")) > _LONGEST_PLAN_ID:
        what, hint = f"a plan's id has at most {_LONGEST_PLAN_ID} bytes", f"this one has {len(text.encode())}"
    elif ending := _ENDINGS.search(text):
        what = f"{text!r} can't be a plan's id: its files could be those of a plan '{text[: ending.start()]}'"
        hint = f"choose an id that does not end in {ending[0]}"
    elif text.lower() == _SPOOL:
        what, hint = f"{text!r} can't be a plan's id: it names the folder of the embedded scheduler", "choose another"
    else:
        return
    raise ConfigError(Problem(what, "--plan-id", hint))


def check_plan_wide(first: AutoexpConfig, config: AutoexpConfig, chosen: Collection[str] = ()) -> None:
    """Raises SweepError if a job differs from the first in what holds for a whole plan.

    `chosen`: the groups of which the sweep chooses a config for the job, and so all that is in it.
    """
    hint = "this value must be the same for all jobs of a plan; make one plan for each value"
    # The copy of the code is beside the manifest, and jobs name it.
    wide = (*PLAN_WIDE, "project.base_output_dir") if config.project.code == "snapshot" else PLAN_WIDE
    problems = [
        Problem(
            f"job {config.index} has another value of {path} than job {first.index}",
            CONFIG / (path.partition(".")[0] if path.partition(".")[0] in chosen else path),
            hint,
        )
        for path in wide
        if (value_of := attrgetter(path))(first) != value_of(config)
    ]
    raise_all(SweepError, problems)


PLAN_WIDE = (
    "project.code",
    "slurm.array",
    "slurm.array_task_limit",
    "slurm.client",
    "slurm.submit_cmd",
    "slurm.squeue_cmd",
    "slurm.sacct_cmd",
    "slurm.cancel_cmd",
    "scheduler",
    "monitoring.poll_interval_seconds",
    "monitoring.detach",
    "monitoring.alive",
    "monitoring.nodes",
)


def name_problems(name: str) -> list[Problem]:
    """What is wrong with a job's name, which is also that of files."""
    if not _VALID_NAME.fullmatch(name) or name in (".", "..") or len(name) > _LONGEST_NAME:
        hint = f"use letters, digits and . _ + = @ , - (at most {_LONGEST_NAME}); it names files and the SLURM job"
        return [Problem(f"{name!r} can't be a job's name", CONFIG / "project.name", hint)]
    return []


def well_named(project: ProjectSection) -> ProjectSection:
    """A section whose places hold no part of a wrong name: what is wrong with them because of it is not reported."""
    if not project.name or not name_problems(project.name):
        return project
    return project.model_copy(
        update={key: getattr(project, key).replace(project.name, "name") for key in ("log_path", "output_dir")}
    )


def place_problems(project: ProjectSection, absolute: Callable[[str], str]) -> list[Problem]:
    """What is wrong with a job's places: none, the root, or one in which plans and sessions are kept."""
    project = well_named(project)
    if wrong := [*_no_places(project, absolute)]:
        return wrong
    output_dir, base, state_dir = map(
        absolute, (project.output_dir, project.base_output_dir, project.monitoring_state_dir)
    )
    taken = in_the_way(output_dir, base, state_dir) and not own_place(project, absolute)
    return [taken_problem(output_dir)] if taken else []


def _no_places(project: ProjectSection, absolute: Callable[[str], str]) -> Iterator[Problem]:
    for key in ("base_output_dir", "output_dir", "log_path", "log_path_current", "monitoring_state_dir"):
        value: str = getattr(project, key)
        what = "a file" if key.startswith("log_path") else "a folder"
        if not value.strip():
            yield Problem(
                f"the path is empty: {key} names {what}", CONFIG / "project" / key, "set a path, or remove the key"
            )
        elif variable := re.match(r"\$(\w+)(/|$)", value):
            hint = f"write ${{oc.env:{variable[1]}}} for its value"
            yield Problem(
                f"{value!r} begins with a shell's variable, which is plain text here", CONFIG / "project" / key, hint
            )
            return  # the paths below it have it, too
        elif not absolute(value).strip("/"):
            hint = f"name {what} below it" if what == "a folder" else "name a file in the job's folder"
            yield Problem(f"{value!r} is the root of the file system", CONFIG / "project" / key, hint)


def environment_problems(slurm: SlurmSection, container: Container, backend: Mapping[str, str]) -> list[Problem]:
    """The names in the sections `env` that no environment variable can have, and those that srun alone would see."""
    sections = {
        CONFIG / "slurm.env": slurm.env,
        CONFIG / "container.env": container.env,
        CONFIG / "backend.env": backend,
    }
    wrong = [
        Problem(f"{name!r} is not a name for an environment variable", where / name, _VARIABLE_HINT)
        for where, env in sections.items()
        for name in env
        if not _VARIABLE.fullmatch(name)
    ]
    wrong += [
        Problem(f"{name} is a variable of the shell that runs the job's script", where / name, _SHELL_HINT)
        for where, env in sections.items()
        for name in env
        if name in _OF_THE_SHELL or name.startswith("autoexp_")
    ]
    for where, env in sections.items():
        wrong += [*hidden_problems(env, where), *task_problems(env, where)]
    return wrong


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_THE_SHELL = frozenset(["IFS", "UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO"])
"""Variables that bash does not let anybody set, or by which it reads the rest of a script otherwise (bash(1))."""
_SHELL_HINT = "leave it out; the program itself can get it by `env NAME=value` before its words"
_VARIABLE_HINT = "use letters, digits and _, and no digit first"


def dependency_problems(config: SchedulerSection, slurm: SlurmSection) -> list[Problem]:
    """Dependencies that both a person and the program set."""
    if not config.native_dependencies or "dependency" not in slurm.sbatch:
        return []
    hint = "set one of the two: scheduler.native_dependencies sets it"
    return [Problem("the program sets this itself", CONFIG / "slurm.sbatch.dependency", hint)]


def log_pattern(log_path: str, output_dir: str) -> str:
    """A log path as sbatch reads it: the output directory is literal, `%` begins a pattern only after it.

    Raises ConfigError for a pattern in a folder's name (nobody would make that folder), or one that can't be followed.
    """
    inside = log_path.startswith(f"{output_dir}/")
    pattern = log_paths.slurm_path(output_dir) + log_path[len(output_dir) :] if inside else log_path
    folder, _, name = pattern.rpartition("/")
    hint = f"the name of the file may contain {' '.join(log_paths.LOG_PATTERNS)}, where %% stands for %"
    wrong = [found for found in re.findall("%.?", name) if found not in log_paths.LOG_PATTERNS]
    wrong += [found for found in re.findall("%.?", folder) if found != "%%"]
    wrong += ["\\"] * ("\\" in pattern)  # sbatch(1): a backslash switches all patterns off
    raise_all(
        ConfigError,
        [Problem(f"'{found}' is not allowed in a log path", CONFIG / "project.log_path", hint) for found in wrong],
    )
    return pattern


def check_job_names(jobs: Sequence[JobSpec]) -> None:
    """Raises SweepError if a condition looks at a job that the plan does not have."""
    names = {job.name for job in jobs}
    wrong = {
        condition["job_name"]: job.index
        for job in jobs
        for condition in (*job.start_conditions, *job.cancel_conditions, *job.done_conditions)
        if "job_name" in condition and condition["job_name"] not in names
    }
    hint = "name a job of the plan, as in ${sibling.STAGE.name}; --array-subset must not leave it out"
    problems = [
        Problem(f"a condition of job {index} refers to '{name}', which is not a job of this plan", CONFIG / "job", hint)
        for name, index in list(wrong.items())[:LISTED]
    ]
    if len(wrong) > LISTED:
        problems.append(Problem(f"other conditions refer to {len(wrong) - LISTED} more unknown names", CONFIG / "job"))
    raise_all(SweepError, problems)


def check_unique(jobs: Sequence[JobSpec]) -> None:
    """Raises SweepError if two jobs share what must be each one's own: their names and the places of their files."""
    problems = (
        _shared(jobs, lambda job: job.name, "the name", CONFIG / "project.name")
        or _shared(jobs, lambda job: job.output_dir, "the output directory", CONFIG / "project.output_dir")
        or [
            *_shared(jobs, lambda job: _sole_log(job.log_path), "the log", CONFIG / "project.log_path"),
            *_shared(jobs, lambda job: job.log_path_current, "the link", CONFIG / "project.log_path_current"),
        ]
    )
    raise_all(SweepError, problems[:ENOUGH_PROBLEMS])


def _sole_log(pattern: str) -> str:
    """A log's path, or '' if it has the id of the job in it."""
    return "" if re.search("%[jA]", pattern.replace("%%", "")) else pattern


def _shared(jobs: Sequence[JobSpec], key: Callable[[JobSpec], str], what: str, where: Location) -> list[Problem]:
    groups: dict[str, list[JobSpec]] = defaultdict(list)
    for job in jobs:
        if value := key(job):
            groups[value].append(job)
    problems = []
    for value, jobs in groups.items():
        if len(jobs) > 1:
            indices = ", ".join(str(job.index) for job in jobs[:LISTED]) + (", …" if len(jobs) > LISTED else "")
            problems.append(
                Problem(f"{len(jobs)} jobs share {what} '{value}': jobs {indices}", where, _distinct(jobs, where))
            )
    return problems


def _distinct(jobs: Sequence[JobSpec], where: Location) -> str:
    """How these jobs differ: the keys in which they differ."""
    if where != CONFIG / "project.name" and len({job.name for job in jobs}) == len(jobs):
        key = where.key
        return f"their names differ: put ${{project.name}} into {key}, or remove {key}"
    values = [_leaves(job) for job in jobs]
    # a group's choice (`backend`, `backend/megatron`) is not a value of the config, nor is what holds other values
    keys = [
        key
        for key in values[0]
        if (key == "stage" or "." in key) and "/" not in key and key != "project.name"
        if len({str(own.get(key)) for own in values}) > 1
        and not any(isinstance(own.get(key), dict | list | None) for own in values)
    ]
    apart = keys and len({tuple(str(own[key]) for key in keys) for own in values}) == len(jobs)
    suggestion = "_".join(f"${{{key}}}" for key in (keys if apart else [*keys, "index"]))
    return f"put the values that differ into the name, e.g. project.name: 'run_{suggestion}' in the sweep's defaults"


def _leaves(job: JobSpec) -> dict[str, Any]:
    """The single values that a job's point sets, by dotted key."""
    return {
        ".".join(filter(None, path)): value
        for key, whole in job.parameters.items()
        for path, value in leaf_paths(plain(key), whole)
    }


def overruled(keys: Iterable[str], specs: Sequence[JobSpec]) -> list[str]:
    """What is to be said of values on the command line, by their dotted keys, that the sweep sets, too."""
    keys = dict.fromkeys(map(plain, keys))
    counts = Counter(key for spec in specs for key in keys if _sets(spec.parameters, path_of(key)))
    return [
        f"{key} on the command line changes nothing in "
        f"{'any job' if counts[key] == len(specs) else f'{counts[key]} of {len(specs)} jobs'}: the sweep sets it"
        for key in keys
        if counts[key]
    ]


def _sets(parameters: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    """Whether these values set the one at a path, or one that it is a part of."""
    return any(
        path[: len(found)] == found
        for key, value in parameters.items()
        for found in (tuple(filter(None, whole)) for whole, _ in leaf_paths(plain(key), value))
    )
