"""From a composed config to a plan: the manifest and the text of every file, all of it in memory. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from oellm_autoexp.config.hydra.findings import uncertain
from oellm_autoexp.config.loader import Composed
from oellm_autoexp.config.overrides import keys_of_override
from oellm_autoexp.config.schema import AutoexpConfig, SlurmSection
from oellm_autoexp.core.commands import PARENT_VARIABLE
from oellm_autoexp.core.errors import (
    AutoexpError,
    Collector,
    ConfigError,
    Problem,
    SweepError,
    of_each_kind,
    raise_all,
)
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.redaction import redact_words, without_texts
from oellm_autoexp.core.registry import broken
from oellm_autoexp.core.text import digest, is_utf8
from oellm_autoexp.learning.past_runs import PastRuns
from oellm_autoexp.planning.checks import rule_checks
from oellm_autoexp.planning.checks.job_checks import ReadTemplate, all_problems
from oellm_autoexp.planning.checks.plan_checks import LISTED, check_plan_id, overruled
from oellm_autoexp.planning.jobs.all_jobs import AllJobs
from oellm_autoexp.planning.jobs.gathered import Gathered
from oellm_autoexp.planning.jobs.job_planner import JobPlanner, PlannedJob
from oellm_autoexp.planning.plan import Checkpoints, Plan, PlannedFile
from oellm_autoexp.planning.plan_notes import estimate_notes, monitor_notes, notes_of_config, notes_of_jobs
from oellm_autoexp.planning.record.recording import record
from oellm_autoexp.planning.resolving import plan_places
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.planning.resolving.resolve import SweepResolver, from_directory, without_sweep
from oellm_autoexp.sbatch.known_options import unknown_option_notes
from oellm_autoexp.schedulers.site import Site
from oellm_autoexp.sweep.expander import keys_set

_OF_A_KIND = 2  # problems that are reported of one kind at one place


def make_plan(
    composed: Composed,
    context: PlanContext,
    *,
    read_template: ReadTemplate,
    site: Callable[[SlurmSection], Site] | None = None,
    past: PastRuns | None = None,
    plan_id: str | None = None,
    subset: frozenset[int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Plan every job of a composed config.

    `read_template` gives the sbatch template at a path (None: the shipped one); `site` asks SLURM what it allows (None:
    jobs are not compared with what their site allows); `past` are earlier runs, by which times are estimated;
    `subset` keeps only those job indices; `progress` gets how many of how many jobs are planned.
    Raises ConfigError, SweepError or BackendError with all mistakes found, each located in its file where it can be.
    """
    if plan_id is not None:
        check_plan_id(plan_id)
    if not is_utf8(str(context.work_dir)):
        raise ConfigError(Problem("the name of the working directory is not UTF-8 text", _utf8(str(context.work_dir))))
    with with_locations(composed):
        jobs = expanded_jobs(composed, context, read_template)
        plan_id = plan_id or plan_places.plan_id(composed.source, context)
        planner = JobPlanner(jobs, context, read_template, site, plan_id, past)
        all_jobs = AllJobs(jobs, planner, context, read_template)
        planned = all_jobs.planned(subset, progress)
        return _plan(plan_id, composed, context, jobs, planner, planned, all_jobs.notes)


def job_config(composed: Composed, context: PlanContext, index: int | None) -> dict[str, Any]:
    """The resolved config of one job, or without the sweep's values (`index` None). Raises ConfigError."""
    with with_locations(composed):
        jobs = SweepResolver(composed, context)
        if index is None:
            return jobs.base()
        if not 0 <= index < len(jobs):
            raise ConfigError(Problem(f"no job has index {index}", "--job", f"the indices are 0 to {len(jobs) - 1}"))
        return jobs.config(index)


@contextmanager
def with_locations(composed: Composed) -> Iterator[None]:
    """Give the problems raised in a block their places in the files of the config.

    They are raised together with those that were found while composing it, without what follows from these.
    """
    found = Collector()
    found.add(composed.problems)
    try:
        yield
    except AutoexpError as error:
        own = (problem for problem in error.problems if not uncertain(problem, composed.unclear))
        placed_once = dict.fromkeys(map(composed.locations.placed, own))  # several may have one cause
        found.add(of_each_kind(placed_once, _OF_A_KIND), type(error))
        found.raise_all()
    found.raise_all()


def expanded_jobs(composed: Composed, context: PlanContext, read_template: ReadTemplate) -> SweepResolver:
    """The jobs of a composed config, not yet planned. Raises as Jobs, with all that is wrong beside the sweep."""
    try:
        return SweepResolver(composed, context)
    except AutoexpError as error:
        others = _beside_the_sweep(composed, context, read_template)
        raise type(error)(*error.problems, *others) from None


def _beside_the_sweep(composed: Composed, context: PlanContext, read_template: ReadTemplate) -> list[Problem]:
    """What is wrong with a config whatever its sweep may set."""
    tree, failed = without_sweep(composed, context)
    unclear = {*failed, *(tuple(key.split(".")) for key in keys_set(composed.sweep))}
    return all_problems(tree, from_directory(str(context.work_dir)), read_template, unclear)


def _plan(
    plan_id: str,
    composed: Composed,
    context: PlanContext,
    jobs: SweepResolver,
    planner: JobPlanner,
    planned: list[PlannedJob],
    notes: list[str],
) -> Plan:
    """The whole plan of these jobs; `notes` are those of the jobs together. Raises SweepError."""
    gathered = planner.gathered
    first = cast("AutoexpConfig", gathered.first)
    specs = tuple(_with_script(job, plan_id) for job in planned)
    base, state_dir, of_places = _places(gathered, jobs.absolute)
    if gathered.differing:
        raise_all(SweepError, plan_places.taken_problems(specs, base, state_dir)[:LISTED])
    manifest = _manifest(plan_id, composed, context, gathered, specs, (base, state_dir))
    texts, secrets = record(composed, jobs.chosen(), planner.templates, context)
    folder = Path(base, "manifests", f"{plan_id}.provenance")
    of_slurm = gathered.odd_options if first.slurm.client.is_slurm else {}
    all_notes = (
        *context.notes,
        *map(str, broken()),
        *composed.notes,
        *notes,
        *of_places,
        *overruled((key for text in composed.source.overrides for key in keys_of_override(text)), specs),
        *notes_of_config(first, manifest),
        *unknown_option_notes(of_slurm, composed.locations.of),
        *monitor_notes(manifest),
        *notes_of_jobs(gathered.notes, len(planned)),
        *estimate_notes(manifest),
    )
    return Plan(
        manifest,
        tuple(PlannedFile(folder / name, text, 0o600) for name, text in texts.items()),
        tuple(job.script for job in planned),
        tuple(job.config for job in planned),
        tuple(without_texts(redact_message(note), planner.secrets) for note in all_notes),
        gathered.probes(),
        secrets,
        known_secrets=planner.secrets,
        needs=tuple(gathered.needs),
        snapshot=planner.snapshot,
        checkpoints=tuple(
            Checkpoints(job.spec.name, job.spec.output_dir, path, job.resume)
            for job in planned
            for path in _kept_by(job)
        ),
        versions=dict(gathered.versions),
    )


def _kept_by(job: PlannedJob) -> Iterator[str]:
    """The folders of a job's checkpoints, and the file of its chain where it has none."""
    folders = [place.path for place in job.places if place.key.endswith(".save")]
    yield from folders
    if not folders and job.spec.chain is not None and job.spec.chain.progress_file:
        yield job.spec.chain.progress_file


def _with_script(job: PlannedJob, plan_id: str) -> JobSpec:
    """A job's description with the place of its script."""
    path = f"{job.spec.output_dir}/provenance/{plan_id}/job.sbatch"
    return job.spec.model_copy(update={"script_path": path, "script_digest": digest(job.script)})


def _places(gathered: Gathered, absolute: Callable[[str], str]) -> tuple[str, str, list[str]]:
    """Where the plan's own files are, and the sessions, of which jobs may have places of their own; notes of that."""
    first = cast("AutoexpConfig", gathered.first)
    of_first = plan_places.own_place(first.project, absolute)
    places, notes = [], []
    for key in plan_places.PER_JOB:
        path = absolute(attrgetter(key)(first))
        if key in gathered.differing or of_first:
            path = plan_places.place_of_plan(path, first.project.name)
            notes.append(plan_places.place_note(key, path))
        places.append(path)
    base, state_dir = places
    return base, state_dir, notes


def _manifest(
    plan_id: str,
    composed: Composed,
    context: PlanContext,
    gathered: Gathered,
    specs: tuple[JobSpec, ...],
    places: tuple[str, str],
) -> Manifest:
    """The manifest; `places` are the folders of the plan and of sessions."""
    first, source = cast("AutoexpConfig", gathered.first), composed.source
    absolute = from_directory(str(context.work_dir))
    slurm_keys = {"array", "array_task_limit", "submit_cmd", "squeue_cmd", "sacct_cmd", "cancel_cmd", "client"}
    return Manifest(
        plan_id=plan_id,
        created_at=context.now.isoformat(timespec="seconds"),
        project=_utf8(plan_places.title(source)),
        config_ref=_utf8(source.config_ref),
        overrides=tuple(redact_words(source.overrides)),
        base_output_dir=places[0],
        monitoring_state_dir=places[1],
        container=tuple(gathered.containers.values()) or None,
        slurm=first.slurm.model_dump(include=slurm_keys, by_alias=True),
        scheduler=first.scheduler.model_dump(by_alias=True),
        monitoring=rule_checks.recorded(first.monitoring),
        jobs=specs,
        provenance={
            "command_line": [*map(_utf8, redact_words(context.command_line))],
            **_descent(context.environment.get(PARENT_VARIABLE, "")),
            "config_dirs": [_utf8(absolute(str(place))) for place in source.config_dirs],
            "work_dir": str(context.work_dir),
            "user": context.user,
            "host": context.host,
            "python": context.python,
            "git": dict(context.git),
            **({"image": dict(context.image)} if context.image else {}),
        },
    )


def _descent(variable: str) -> dict[str, Any]:
    """What started a run, if an action did, and how many runs have started each other before it."""
    generation, _, parent = variable.partition("/")
    return {"parent": parent, "generation": int(generation)} if generation.isdecimal() else {}


def _utf8(text: str) -> str:
    """A text in which bytes of another encoding are written as `\\udcff`."""
    return text.encode(errors="backslashreplace").decode()
