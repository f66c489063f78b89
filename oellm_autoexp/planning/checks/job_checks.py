"""Everything that is wrong with a job at once: each check looks at what is right, whatever else is wrong. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from oellm_autoexp.backends.base import Job
from oellm_autoexp.config.hydra.findings import uncertain
from oellm_autoexp.config.schema import decode_parts
from oellm_autoexp.config.values.interpolation import where
from oellm_autoexp.containers.kinds import NoContainer
from oellm_autoexp.core.errors import Collector, Problem
from oellm_autoexp.core.location import CONFIG, KeyPath
from oellm_autoexp.planning.checks import launching, rule_checks, shell_texts
from oellm_autoexp.planning.checks.plan_checks import (
    dependency_problems,
    environment_problems,
    log_pattern,
    name_problems,
    place_problems,
    well_named,
)
from oellm_autoexp.planning.resolving.trees import value_at
from oellm_autoexp.sbatch.directives import at_their_options, directives, options
from oellm_autoexp.sbatch.in_job import layout
from oellm_autoexp.sbatch.launch import Launcher
from oellm_autoexp.sbatch.resources import resource_problems
from oellm_autoexp.sbatch.script import render
from oellm_autoexp.sbatch.signals import signal_problems
from oellm_autoexp.sbatch.times import is_automatic

ReadTemplate = Callable[[Path | None], str]
"""Reads the sbatch template at a path (None: the shipped one). Raises ConfigError."""


def all_problems(
    tree: dict[str, Any],
    absolute: Callable[[str], str],
    read_template: ReadTemplate,
    unclear: Collection[KeyPath] = (),
) -> list[Problem]:
    """What is wrong with a job's resolved config, but at paths whose values nobody knows."""
    typed, further = Collector(), Collector()
    with typed.step():
        rule_checks.Decoder().config(tree)
    sections, right = decode_parts(tree)
    _check_rules(sections, right, further)
    _check_command(sections, right, further)
    _check_script(sections, absolute, read_template, further)
    known = [problem for problem in typed.problems if not uncertain(problem, unclear)]
    wrong = [*unclear, *(path for problem in typed.problems for path in problem.where.paths())]
    return [*known, *(problem for problem in further.problems if not uncertain(problem, wrong))]


def placed(problems: Iterable[Problem], tree: Mapping[str, Any]) -> list[Problem]:
    """Problems of a job, those of SLURM's options where its resolved config sets them."""
    slurm = decode_parts(tree)[0].get("slurm")
    return at_their_options(problems, slurm.sbatch, slurm.sbatch_extra_directives) if slurm else [*problems]


def of_themselves(
    problems: Iterable[Problem], tree: Mapping[str, Any], failed: Iterable[tuple[str, ...]]
) -> frozenset[Problem]:
    """Problems without those of values that can't be evaluated (at the paths in `failed`) as a wrong one is in them."""
    found = frozenset(problems)
    texts = {where(path): str(value_at(tree, path)) for path in failed}
    wrong = [problem.where.key for problem in found if problem.where not in texts]
    follows = {place for place, text in texts.items() if any(f"{key}}}" in text for key in wrong if key)}
    return frozenset(problem for problem in found if problem.where not in follows)


def _check_rules(sections: Mapping[str, Any], right: Mapping[str, Any], found: Collector) -> None:
    if "monitoring" in sections:
        found.add(rule_checks.problems(sections["monitoring"], right))
    if "job" in sections:
        found.add(rule_checks.job_problems(sections["job"], right))


def _check_command(sections: Mapping[str, Any], right: dict[str, Any], found: Collector) -> None:
    if "backend" in sections and "slurm" in sections:
        with found.step():
            command = sections["backend"].command(Job(right, sections["slurm"]))
            found.add(shell_texts.word_problems(command.argv, CONFIG / "backend"))


def _check_script(
    sections: Mapping[str, Any], absolute: Callable[[str], str], read_template: ReadTemplate, found: Collector
) -> None:
    """The names and places of a job, and what its script is made of."""
    project, slurm, log_path = sections.get("project"), sections.get("slurm"), "/log"
    if project is not None:
        found.add([*name_problems(project.name), *place_problems(project, absolute)])
        with found.step():
            named = well_named(project)
            log_path = log_pattern(absolute(named.log_path), absolute(named.output_dir))
    if slurm is None:
        return
    env = sections["backend"].env if "backend" in sections else {}
    container = sections.get("container", NoContainer())
    found.add([*environment_problems(slurm, container, env), *dependency_problems(sections["scheduler"], slurm)])
    found.add([*container.problems(slurm.launcher_cmd), *shell_texts.problems(slurm)])
    with found.step():
        found.add(layout.problems(slurm, container.image_file("/")))
    lines: tuple[str, ...] = ()
    sbatch = {key: value for key, value in slurm.sbatch.items() if key != "time" or not is_automatic(value)}
    with found.step():
        lines = directives(sbatch, slurm.sbatch_extra_directives, name="job", log_path=log_path, work_dir="/")
    launcher = Launcher.of((), {})
    with found.step():
        launcher = Launcher.of(slurm.launcher_cmd, slurm.srun)
    found.add(resource_problems(slurm.sbatch, slurm.sbatch_extra_directives))
    with found.step():
        template = read_template(Path(absolute(slurm.template_path)) if slurm.template_path else None)
        text = _rendered(template, lines, launcher)
        found.add(signal_problems(text))
        launching.streams(slurm, options(text), absolute("."))


def _rendered(template: str, lines: tuple[str, ...], launcher: Launcher) -> str:
    """A script with this template and these directives, of some program. Raises ConfigError."""
    return render(template, name="job", lines=lines, env={}, work_dir="/", marks="/", launcher=launcher, argv=("true",))
