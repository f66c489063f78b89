"""What a plan is called, and where its files are (manifest, sweep, session), if its jobs name several places. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path

from oellm_autoexp.config.experiment import ROOT
from oellm_autoexp.config.loader import Source
from oellm_autoexp.config.schema import AutoexpConfig, ProjectSection
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.planning.resolving.provenance import PlanContext

_LONGEST_STEM = 120
PER_JOB = ("project.base_output_dir", "project.monitoring_state_dir")
"""Places that may differ from job to job; the plan's own files have one each."""


def differing(first: AutoexpConfig, config: AutoexpConfig) -> set[str]:
    """The keys of PER_JOB of which a job has another value than the first one."""
    return {key for key in PER_JOB if attrgetter(key)(first) != attrgetter(key)(config)}


def place_of_plan(path: str, name: str) -> str:
    """The first job's place without the folders that are named after this job: `/out/run_1/state` becomes `/out/state`.

    The place itself where nothing is left of it then.
    """
    holds_name = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
    kept = [part for part in path.split("/") if not holds_name.search(part)]
    return "/".join(kept) if any(kept) else path


def place_note(key: str, place: str) -> str:
    """What is said where a place is each job's own."""
    return f"{key} is each job's own; the plan's own files are in {place}"


def in_the_way(output_dir: str, base: str, state_dir: str) -> bool:
    """Whether a job's folder is one in which plans and sessions are kept, or lies around or in it."""
    taken = (f"{base}/manifests", f"{base}/sweep.json", state_dir)
    return any(f"{output_dir}/".startswith(f"{place}/") or place.startswith(f"{output_dir}/") for place in taken)


def own_place(project: ProjectSection, absolute: Callable[[str], str]) -> bool:
    """Whether a job's folder is the base folder itself, named after the job: the plan's files are above it then."""
    output_dir, base, state_dir = map(
        absolute, (project.output_dir, project.base_output_dir, project.monitoring_state_dir)
    )
    above = [place_of_plan(place, project.name) for place in (base, state_dir)]
    return in_the_way(output_dir, base, state_dir) and not in_the_way(output_dir, above[0], above[1])


def taken_problem(output_dir: str) -> Problem:
    hint = "give the job a folder, and a name, of its own"
    return Problem(f"'{output_dir}' is where plans and sessions are kept", CONFIG / "project.output_dir", hint)


def taken_problems(jobs: Iterable[JobSpec], base: str, state_dir: str) -> list[Problem]:
    """The problems of jobs whose folders are in the way of the plan's files."""
    return [taken_problem(job.output_dir) for job in jobs if in_the_way(job.output_dir, base, state_dir)]


def plan_id(source: Source, context: PlanContext) -> str:
    """Readable and, with its random end, one of its kind: `my_experiment-20260131-235959-3f9c2a1b`."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", title(source)).strip("-")[:_LONGEST_STEM] or "plan"
    return f"{stem}-{context.now.astimezone():%Y%m%d-%H%M%S}-{context.nonce}"


def title(source: Source) -> str:
    """What an experiment is called: its config's name; for the root config, the project chosen."""
    chosen = [word.removeprefix("project=") for word in source.overrides if word.startswith("project=")]
    return chosen[-1] if chosen and source.config_ref == ROOT else Path(source.config_ref).stem
