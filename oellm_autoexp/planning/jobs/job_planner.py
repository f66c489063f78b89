"""One job of a plan: its description (JobSpec), its script, and what is wrong with it. Pure."""

from __future__ import annotations

import operator
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from oellm_autoexp.backends.base import Command, Job, Place
from oellm_autoexp.config.schema import AutoexpConfig, ProjectSection, SlurmSection, decode_parts
from oellm_autoexp.core.errors import AutoexpError, BackendError, Collector, ConfigError, Problem, raise_all
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import Chain, JobSpec, Resources
from oellm_autoexp.core.redaction import Redactor, redact, secret_texts
from oellm_autoexp.core.text import dotted
from oellm_autoexp.learning.past_runs import PastRuns
from oellm_autoexp.planning.checks import launching, rule_checks, shell_texts
from oellm_autoexp.planning.checks.job_checks import ReadTemplate, all_problems, of_themselves, placed
from oellm_autoexp.planning.checks.plan_checks import (
    dependency_problems,
    environment_problems,
    log_pattern,
    name_problems,
    place_problems,
)
from oellm_autoexp.planning.checks.site_checks import debug_notes, longest_seconds, site_problems
from oellm_autoexp.planning.jobs.chain import by_task, chain_of
from oellm_autoexp.planning.jobs.chain import notes as chain_notes
from oellm_autoexp.planning.jobs.code_copy import Snapshot, snapshot_for
from oellm_autoexp.planning.jobs.expectation import Expectations
from oellm_autoexp.planning.jobs.gathered import Gathered
from oellm_autoexp.planning.jobs.job_script import JobPlaces, job_script
from oellm_autoexp.planning.jobs.packing import Packer
from oellm_autoexp.planning.resolving.code_files import code_files, copied_files
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.planning.resolving.resolve import ResolvedJob, SweepResolver
from oellm_autoexp.sbatch.directives import array_group, directive_lines, options
from oellm_autoexp.sbatch.in_job import layout
from oellm_autoexp.sbatch.log_paths import slurm_path
from oellm_autoexp.sbatch.resources import resources
from oellm_autoexp.sbatch.signals import signal_problems
from oellm_autoexp.sbatch.times import TIME, automatic, format_time, is_past
from oellm_autoexp.schedulers.site import Site

_PLACES = ("output_dir", "log_path", "log_path_current")


@dataclass(frozen=True)
class PlannedJob:
    """A job, with its script and its packed config; its description lacks its place in the plan and its parents."""

    spec: JobSpec
    script: str
    config: bytes
    resume: bool = True
    places: tuple[Place, ...] = ()
    """Where its program writes, by what its arguments say; absolute."""
    siblings: tuple[int, ...] = ()
    """The numbers of the jobs that it refers to."""


class JobPlanner:
    """Plans one job after the other; `gathered` is what they add to their plan, `templates` those that they use.

    `automatic` are the time limits of those that have an automatic one, as sbatch takes them. `secrets` are the secrets
    of the planning environment, which are left out of what is recorded under any key.
    """

    def __init__(
        self,
        jobs: SweepResolver,
        context: PlanContext,
        read_template: ReadTemplate,
        site: Callable[[SlurmSection], Site] | None = None,
        plan_id: str = "",
        past: PastRuns | None = None,
    ) -> None:
        self.gathered = Gathered()
        self.automatic: dict[int, str] = {}
        self.templates: dict[str, str] = {}
        self.snapshot: Snapshot | None = None
        self._files: frozenset[str] | None = None
        self._jobs = jobs
        self._plan_id = plan_id
        self._site = site
        self._sites: dict[tuple[str, ...], Site] = {}
        self._context = context
        self._read_template = read_template
        self._packer = Packer()
        self.secrets = tuple(secret_texts(context.environment))
        self._redactor = Redactor(self.secrets)
        self._rules = rule_checks.Decoder()
        self._right_sections: Sequence[Any] = (None, None, None)
        self._right_env: Mapping[str, str] = {}
        self._expectations = Expectations(past, jobs.absolute)

    def checked(self, index: int, *, thoroughly: bool = True) -> PlannedJob:
        """One job. Raises what is wrong with it; if `thoroughly`, all of it."""
        try:
            planned = self.job(index)
            raise_all(ConfigError, signal_problems(planned.script))
            return planned
        except (ConfigError, BackendError) as error:
            wrong = error
        if not thoroughly:
            raise wrong
        found = Collector()
        tree: dict[str, Any] = {}
        failed: Mapping[tuple[str, ...], ConfigError] = {}
        others: list[Problem] = []
        with found.step():
            tree, failed = self._jobs.config_mostly(index)
            others = all_problems(tree, self._jobs.absolute, self._read_template, failed)
        given = of_themselves([*wrong.problems, *others], tree, failed)
        found.add(placed((problem for problem in wrong.problems if problem in given), tree), type(wrong))
        found.add(placed((problem for problem in others if problem in given), tree))
        found.raise_all()
        raise AssertionError("a job that fails has problems")

    def rough(self, index: int) -> list[JobSpec]:
        """Of a job that is wrong, its name and places, if they are known: it may share them with others."""
        try:
            tree, failed = self._jobs.config_mostly(index)
        except AutoexpError:
            return []
        project: ProjectSection | None = decode_parts(tree)[0].get("project")
        if project is None or any(path[0] == "project" for path in failed):
            return []
        places: dict[str, Any] = {key: self._jobs.absolute(getattr(project, key)) for key in _PLACES}
        parameters = self._jobs.members[index].point.values
        return [JobSpec.model_construct(index=index, name=project.name, parameters=parameters, **places)]

    def job(self, index: int) -> PlannedJob:
        """One job. Raises something of what is wrong with it."""
        resolved, config, command, limit = self._decided(index)
        self.gathered.note((*command.notes, *shell_texts.notes(config, command, resolved.code)))
        self.gathered.note(shell_texts.of_conditions(config.job))
        self.gathered.command(config, command)
        packed = self._packed(resolved.config)
        places = self._places(config.project)
        self.gathered.options(config)
        self._check_deadline(config.slurm)
        work, run = command, config
        if self.snapshot:
            command, run = self.snapshot.command(command), self.snapshot.config(config)
        chain = chain_of(config, resolved.config, command, places.output_dir, self._jobs.absolute)
        if chain is not None:
            places = replace(places, log_path=by_task(places.log_path))
        script = self._script(run, command, resolved, places, chain)
        if self.snapshot:
            self.gathered.note(self.snapshot.notes(script))
        directives = options(script)  # a template may have directives of its own
        if chain is not None:
            self.gathered.note(chain_notes(chain, directives))
        spec = self._spec(resolved, run, command, places, script, directives, chain)
        workload = self._expectations.workload(config, work, places, spec.resources, directives)
        spec = spec.model_copy(update={"workload": workload.model_copy(update={"limit": limit}) if limit else workload})
        self.gathered.config(config, resolved.groups_chosen)
        written = tuple(replace(place, path=self._jobs.absolute(place.path)) for place in command.places)
        return PlannedJob(spec, script, packed, config.project.resume, written, resolved.siblings)

    def _decided(self, index: int) -> tuple[ResolvedJob, AutoexpConfig, Command, str]:
        """A job's config and command, and where its time limit comes from ('': from the config).

        An automatic limit is put in the place of `auto`, and what refers to it is evaluated anew.
        """
        resolved = self._jobs.job(index)
        config, command = self._command(resolved)
        try:
            factor = automatic(config.slurm.sbatch.get("time"))
        except ConfigError as error:
            raise ConfigError(*(Problem(p.what, CONFIG / TIME, p.hint) for p in error.problems)) from None
        if factor is None:
            return resolved, config, command, ""
        places = self._places(config.project)
        sbatch = {key: value for key, value in config.slurm.sbatch.items() if key != "time"}
        limitless = config.model_copy(update={"slurm": config.slurm.model_copy(update={"sbatch": sbatch})})
        directives = options(self._script(limitless, command, resolved, places))
        nodes, gpus, _ = resources(directives)
        asked = Resources(nodes=nodes, gpus=gpus)
        workload = self._expectations.workload(config, command, places, asked, directives)
        seconds, source = self._expectations.limit(config, workload, self._longest(config.slurm, directives))
        self.automatic[index] = format_time(seconds)
        limited = self._jobs.overriding(index, {TIME: self.automatic[index]}).job(index)
        limited = replace(limited, point=resolved.point)  # it is no value of the sweep
        return limited, *self._command(limited), source

    def _command(self, resolved: ResolvedJob) -> tuple[AutoexpConfig, Command]:
        """A job's typed config, and its command. Raises ConfigError, BackendError."""
        config = self._rules.config(resolved.config)
        self._check_sections(config)
        command = config.backend.command(Job(resolved.config, config.slurm))
        raise_all(ConfigError, [*shell_texts.word_problems(command.argv, CONFIG / "backend")])
        return config, command

    def _script(
        self,
        config: AutoexpConfig,
        command: Command,
        resolved: ResolvedJob,
        places: JobPlaces,
        chain: Chain | None = None,
    ) -> str:
        """The text of a job's script. Raises ConfigError."""
        path = config.slurm.template_path
        template = self._template(self._jobs.absolute(path) if path else "")
        return job_script(config, command, resolved.code, places, template, chain)

    def _check_sections(self, config: AutoexpConfig) -> None:
        """Raises ConfigError for sections that a job can't have; those that it shares with the last one are right."""
        problems = [*name_problems(config.project.name), *place_problems(config.project, self._jobs.absolute)]
        sections, env = (config.slurm, config.container, config.scheduler), config.backend.env
        if env != self._right_env or not all(map(operator.is_, sections, self._right_sections)):
            problems += [
                *environment_problems(config.slurm, config.container, env),
                *config.container.problems(config.slurm.launcher_cmd),
                *dependency_problems(config.scheduler, config.slurm),
                *shell_texts.problems(config.slurm),
                *layout.problems(config.slurm, config.container.image_file("/")),
            ]
        raise_all(ConfigError, problems)
        self._right_sections, self._right_env = sections, env

    def _check_deadline(self, slurm: SlurmSection) -> None:
        """Raises ConfigError for a deadline that is past."""
        if is_past(str(slurm.sbatch.get("deadline")), self._context.now):
            what = f"the deadline {slurm.sbatch['deadline']} is past: SLURM would refuse the job"
            raise ConfigError(Problem(what, CONFIG / "slurm.sbatch.deadline"))

    def _packed(self, tree: dict[str, Any]) -> bytes:
        """A resolved config as it is recorded: without secrets. Raises ConfigError."""
        redacted = self._redactor.redact(tree)
        try:
            return self._packer.packed(to_json(redacted, indent=2, inf_nan_mode="strings") + b"\n")
        except PydanticSerializationError:  # what UTF-8 can't hold, or what Python makes of an odd YAML tag
            wrong = [CONFIG / key for key, value in dotted(redacted).items() if not _as_json(value)] or [CONFIG]
            raise ConfigError(*(Problem("can't be written as JSON in UTF-8", key) for key in wrong)) from None

    def _places(self, project: ProjectSection) -> JobPlaces:
        """Where a job runs and writes. Raises ConfigError."""
        base, output_dir = self._jobs.absolute(project.base_output_dir), self._jobs.absolute(project.output_dir)
        log_path = log_pattern(self._jobs.absolute(project.log_path), output_dir)
        folder, written = f"{base}/manifests/{self._plan_id}.code", (base, output_dir, posixpath.dirname(log_path))
        self.snapshot = snapshot_for(project, self._context, folder, written, partial(self._code, base))
        work_dir = self.snapshot.work_dir if self.snapshot else str(self._context.work_dir)
        return JobPlaces(work_dir, base, output_dir, log_path)

    def _code(self, base: str, top: str) -> frozenset[str]:
        """The files of the code in a checkout, without those of the output root; listed once. Raises ConfigError."""
        if self._files is None:
            copy = self._context.code_dir
            found = code_files(Path(top)) if copy is None else copied_files(copy)
            self._files = frozenset(name for name in found if not f"{top}/{name}".startswith(f"{base}/"))
        return self._files

    def _spec(
        self,
        resolved: ResolvedJob,
        config: AutoexpConfig,
        command: Command,
        places: JobPlaces,
        script: str,
        directives: Mapping[str, str],
        chain: Chain | None,
    ) -> JobSpec:
        """The description of a job, by its config and by what its script asks for. Raises ConfigError."""
        slurm, job, monitoring, absolute = config.slurm, config.job, config.monitoring, self._jobs.absolute
        nodes, gpus, limit = resources(directives)
        raise_all(ConfigError, self._site_problems(slurm, directives))
        needs = Resources(nodes=nodes, gpus=gpus, time_limit_seconds=limit)
        streams = launching.streams(slurm, directives, places.work_dir)
        notes = (*launching.notes(slurm, directives, needs), *debug_notes(slurm, directives, self._context.environment))
        of_command = {note.about for note in command.notes}
        self.gathered.note(note for note in notes if note.about not in of_command)
        return JobSpec(
            index=config.index,
            name=config.project.name,
            stage=config.stage,
            parameters=redact(resolved.parameters, secrets=self.secrets),
            coords=redact(dict(resolved.point.coords), secrets=self.secrets),
            argv=self._redactor.words(command.argv),
            env=redact(shell_texts.environment(config, command, resolved.code)[0], secrets=self.secrets),
            work_dir=places.work_dir,
            output_dir=places.output_dir,
            script_path="",
            log_path=places.log_path,
            log_path_current=absolute(config.project.log_path_current),
            start_conditions=_records(job.start_conditions),
            cancel_conditions=_records(job.cancel_conditions),
            done_conditions=_records(job.done_conditions),
            start_condition_cmd=job.start_condition_cmd,
            start_condition_interval_seconds=job.start_condition_interval_seconds,
            inactivity_threshold_seconds=job.inactivity_threshold_seconds,
            resources=needs,
            gpu_hours=_gpu_hours(needs, chain),
            output_paths=tuple(map(absolute, monitoring.output_paths)),
            streams=streams,
            template_values=rule_checks.template_values(monitoring, job, resolved.config),
            monitoring=rule_checks.own_rules(monitoring, (self.gathered.first or config).monitoring),
            array_group=None if chain else _array_group(slurm, places, script, streams),
            chain=chain,
            in_steps=layout.in_steps(slurm),
        )

    def _site_problems(self, slurm: SlurmSection, asked: Mapping[str, str]) -> list[Problem]:
        """Why the site would not take a job."""
        live = self._live(slurm)
        return site_problems(slurm, asked, live, self._context.environment) if live else []

    def _longest(self, slurm: SlurmSection, asked: Mapping[str, str]) -> int | None:
        """The longest time limit in seconds that the site allows a job; None: no limit is known."""
        live = self._live(slurm)
        return longest_seconds(slurm, asked, live, self._context.environment) if live else None

    def _live(self, slurm: SlurmSection) -> Site | None:
        """What SLURM reports of a cluster, which is asked once; None where jobs are not compared with it."""
        if self._site is None or not slurm.client.is_slurm:
            return None
        if slurm.squeue_cmd not in self._sites:
            self._sites[slurm.squeue_cmd] = self._site(slurm)
        return self._sites[slurm.squeue_cmd]

    def _template(self, path: str) -> str:
        """The template at a path ('': the shipped one), read once. Raises ConfigError."""
        if path not in self.templates:
            self.templates[path] = self._read_template(Path(path) if path else None)
        return self.templates[path]


def _gpu_hours(asked: Resources, chain: Chain | None) -> float | None:
    """The GPU-hours of a job whose every link runs until its time limit; None without a limit."""
    hours = asked.gpu_hours
    return hours if hours is None or chain is None else hours * chain.links


def _array_group(slurm: SlurmSection, places: JobPlaces, script: str, streams: tuple[str, ...]) -> str | None:
    """Jobs with the same one can be tasks of one array; None: the job is submitted alone."""
    log_name = places.log_path.removeprefix(f"{slurm_path(places.output_dir)}/")
    in_array = slurm.array and log_name != places.log_path and "/" in log_name and "%j" not in log_name
    in_array = in_array and not any("%j" in each or "%J" in each for each in streams)
    return array_group(directive_lines(script), log_name) if in_array else None


def _records(conditions: Iterable[BaseModel]) -> tuple[dict[str, Any], ...]:
    return tuple(condition.model_dump(mode="json", by_alias=True, exclude_defaults=True) for condition in conditions)


def _as_json(value: Any) -> bool:
    """Whether a value can be written as JSON."""
    try:
        to_json(value, inf_nan_mode="strings")
    except PydanticSerializationError:
        return False
    return True


def plan_job(jobs: SweepResolver, context: PlanContext, read_template: ReadTemplate, index: int) -> tuple[JobSpec, str]:
    """One job as a plan describes it, without its place and its dependencies, and its script.

    Raises ConfigError, SweepError or BackendError.
    """
    planned = JobPlanner(jobs, context, read_template).checked(index)
    return planned.spec, planned.script
