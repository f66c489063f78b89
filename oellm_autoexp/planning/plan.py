"""From a composed config to a plan: the manifest and the text of every file, all of it in memory. Pure."""

from __future__ import annotations

import json
import posixpath
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from oellm_autoexp import MANIFEST_VERSION
from oellm_autoexp.backends.base import Command, Job, Note, Place, Probe
from oellm_autoexp.backends.command import CommandBackend
from oellm_autoexp.config.experiment import ROOT
from oellm_autoexp.config.hydra.findings import uncertain
from oellm_autoexp.config.hydra.source import yaml_text
from oellm_autoexp.config.loader import Composed, Source
from oellm_autoexp.config.overrides import keys_of_override
from oellm_autoexp.config.schema import AutoexpConfig, ProjectSection, SlurmSection, decode_parts
from oellm_autoexp.containers import kinds as containers
from oellm_autoexp.core.errors import (
    AutoexpError,
    BackendError,
    Collector,
    ConfigError,
    Problem,
    SweepError,
    of_each_kind,
    raise_all,
)
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import JobSpec, Manifest, Resources
from oellm_autoexp.core.redacted_text import redact_message, redact_text
from oellm_autoexp.core.redaction import Redactor, redact, redact_words, taken_out
from oellm_autoexp.core.registry import broken
from oellm_autoexp.core.text import digest, dotted, is_utf8, plural
from oellm_autoexp.decisions.readiness import needs_monitor
from oellm_autoexp.planning.checks import launching, rule_checks, shell_texts, twins
from oellm_autoexp.planning.checks.job_checks import ReadTemplate, all_problems, of_themselves, placed
from oellm_autoexp.planning.checks.places_checks import check_places
from oellm_autoexp.planning.checks.plan_checks import (
    LISTED,
    check_job_names,
    check_plan_id,
    check_plan_wide,
    check_unique,
    dependency_problems,
    environment_problems,
    log_pattern,
    name_problems,
    overruled,
    place_problems,
)
from oellm_autoexp.planning.checks.site_checks import debug_notes, site_problems
from oellm_autoexp.planning.record import side_file
from oellm_autoexp.planning.resolving.filters import ENOUGH_PROBLEMS
from oellm_autoexp.planning.resolving.plan_places import differing, own_place, place_note, place_of_plan, taken_problems
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.planning.resolving.resolve import ResolvedJob, SweepResolver, from_directory, without_sweep
from oellm_autoexp.sbatch.directives import array_group, directive_lines, directives, options
from oellm_autoexp.sbatch.known_options import OPTIONS, SRUN_OPTIONS, unknown_option, unknown_option_notes
from oellm_autoexp.sbatch.launch import Launcher, srun_index
from oellm_autoexp.sbatch.log_paths import slurm_path
from oellm_autoexp.sbatch.resources import resources
from oellm_autoexp.sbatch.script import MARKS, render
from oellm_autoexp.sbatch.shell_code import with_variables
from oellm_autoexp.sbatch.signals import signal_problems
from oellm_autoexp.sbatch.times import is_past
from oellm_autoexp.schedulers.base import client_of
from oellm_autoexp.schedulers.site import Site
from oellm_autoexp.sweep.expander import keys_set

PARENT_VARIABLE = "AUTOEXP_PARENT"
"""In the environment of a run that an action has started: `<generation>/<plan id>/<job>/<event id>`."""
_PLENTY_BYTES = 64 << 20
_LONGEST_STEM = 120
_FEW = 3
_THOROUGHLY = 20  # jobs with mistakes of which all is told; the others most likely have the same ones
_ENOUGH_WRONG = 200
_OF_A_KIND = 2  # problems that are told of one kind at one place
_PLACES = ("output_dir", "log_path", "log_path_current")


@dataclass(frozen=True)
class PlannedFile:
    """A file to write: where, its text and its mode."""

    path: Path
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Checkpoints:
    """The folder of a job's checkpoints: `resume` (project.resume) says whether it may go on from what is there."""

    job: str
    output_dir: str
    path: str
    resume: bool


@dataclass(frozen=True)
class Snapshot:
    """A copy of a checkout for the jobs of a plan: its `top` is copied into `folder`, and jobs run in `work_dir`."""

    top: str
    folder: str
    work_dir: str

    @classmethod
    def of(cls, top: str, work_dir: str, folder: str) -> Snapshot:
        """The snapshot in `folder` of the checkout at `top`, in which the plan was made at `work_dir`."""
        return cls(top, folder, posixpath.normpath(posixpath.join(folder, posixpath.relpath(work_dir, top))))

    def moved(self, words: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
        """Words of which those that are one of these files of the checkout name its copy."""
        copies = {
            file: f"{self.folder}{file.removeprefix(self.top)}" for file in files if file.startswith(f"{self.top}/")
        }
        return tuple(copies.get(word, word) for word in words)


@dataclass(frozen=True)
class Plan:
    """A manifest, and what is to be written beside it. Nothing has been written yet.

    `shared` are the files that all jobs of the plan have in common. `scripts` and `configs` (resolved, without secrets)
    are those of the jobs; a config has the size of its experiment, so many are kept packed (`_Packer`).
    """

    manifest: Manifest
    shared: tuple[PlannedFile, ...]
    scripts: tuple[str, ...]
    configs: tuple[bytes, ...]
    notes: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    """What the programs themselves are to be asked before the plan is written, each question once."""
    secrets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What was taken out of the files of the record, by file and place (`planning.record.side_file`)."""
    needs: tuple[str, ...] = ()
    """Files that the commands read where they run."""
    snapshot: Snapshot | None = None
    """The copy of the code that the jobs run, which is made when the plan is written."""
    checkpoints: tuple[Checkpoints, ...] = ()
    """Where the jobs keep checkpoints, as far as their arguments say so."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The version of Megatron-LM that some of them are to be of, by their paths."""

    @property
    def manifest_path(self) -> Path:
        """Where the manifest goes."""
        return manifest_path(self.manifest)

    @property
    def sweep_path(self) -> Path:
        """Where the expanded sweep goes."""
        return self.manifest_path.with_suffix(".sweep.json")

    def sweep_file(self) -> PlannedFile:
        """The expanded sweep."""
        return PlannedFile(self.sweep_path, _sweep_json(self.manifest))

    def job_files(self, number: int) -> tuple[PlannedFile, ...]:
        """The files of one job's own: its script, and its resolved config without secrets.

        Only the owner may read the script: its environment may hold secrets.
        """
        job = self.manifest.jobs[number]
        script_path = Path(job.script_path)
        config = _Packer.unpacked(self.configs[number])
        return (
            PlannedFile(script_path, self.scripts[number], 0o700),
            PlannedFile(script_path.with_name("config.json"), config),
        )


def manifest_path(manifest: Manifest) -> Path:
    """`<base_output_dir>/manifests/<plan_id>.json`."""
    return Path(manifest.base_output_dir, "manifests", f"{manifest.plan_id}.json")


def make_plan(
    composed: Composed,
    circumstances: PlanContext,
    *,
    read_template: ReadTemplate,
    site: Callable[[SlurmSection], Site] | None = None,
    plan_id: str | None = None,
    subset: frozenset[int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Plan every job of a composed config.

    `read_template` gives the sbatch template at a path (None: the shipped one); `site` asks SLURM what it allows (None:
    jobs are not compared with what their site allows); `subset` keeps only those job indices;
    `progress` is told how many of how many jobs are planned. Raises ConfigError, SweepError or BackendError with all
    mistakes found, each located in its file where it can be.
    """
    if plan_id is not None:
        check_plan_id(plan_id)
    if not is_utf8(str(circumstances.work_dir)):
        raise ConfigError(
            Problem("the name of the working directory is not UTF-8 text", _utf8(str(circumstances.work_dir)))
        )
    with with_locations(composed):
        jobs = expanded_jobs(composed, circumstances, read_template)
        plan_id = plan_id or _plan_id(composed.source, circumstances)
        planner = _Planner(jobs, circumstances, read_template, site, plan_id)
        planned = planner.jobs(subset, progress)
        return planner.plan(planned, composed, plan_id)


def job_config(composed: Composed, circumstances: PlanContext, index: int | None) -> dict[str, Any]:
    """The resolved config of one job, or without the sweep's values (`index` None). Raises ConfigError."""
    with with_locations(composed):
        jobs = SweepResolver(composed, circumstances)
        if index is None:
            return jobs.base()
        if not 0 <= index < len(jobs):
            raise ConfigError(Problem(f"no job has index {index}", "--job", f"there are 0 to {len(jobs) - 1}"))
        return jobs.config(index)


def plan_job(
    jobs: SweepResolver, circumstances: PlanContext, read_template: ReadTemplate, index: int
) -> tuple[JobSpec, str]:
    """One job as `make_plan` describes it, without its place and its dependencies, and its script. Raises as that."""
    planned = _Planner(jobs, circumstances, read_template).checked(index)
    return planned.spec, planned.script


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


def expanded_jobs(composed: Composed, circumstances: PlanContext, read_template: ReadTemplate) -> SweepResolver:
    """The jobs of a composed config, not yet planned. Raises as Jobs, with all that is wrong beside the sweep."""
    try:
        return SweepResolver(composed, circumstances)
    except AutoexpError as error:
        others = _beside_the_sweep(composed, circumstances, read_template)
        raise type(error)(*error.problems, *others) from None


def _beside_the_sweep(composed: Composed, circumstances: PlanContext, read_template: ReadTemplate) -> list[Problem]:
    """What is wrong with a config whatever its sweep may set."""
    tree, failed = without_sweep(composed, circumstances)
    unclear = {*failed, *(tuple(key.split(".")) for key in keys_set(composed.sweep))}
    return all_problems(tree, from_directory(str(circumstances.work_dir)), read_template, unclear)


@dataclass(frozen=True)
class _Planned:
    spec: JobSpec
    script: str
    config: bytes
    resume: bool = True
    places: tuple[Place, ...] = ()
    """Where its program writes, by what its arguments say; absolute."""
    siblings: tuple[int, ...] = ()
    """The numbers of the jobs that it refers to."""


class _Packer:
    """Keeps JSON texts in memory: as they are while they are few, and compressed (zlib) beyond that."""

    def __init__(self) -> None:
        self._bytes = 0

    def packed(self, text: bytes) -> bytes:
        self._bytes += len(text)
        return text if self._bytes <= _PLENTY_BYTES else zlib.compress(text, 1)

    @staticmethod
    def unpacked(data: bytes) -> str:
        return (data if data.startswith(b"{") else zlib.decompress(data)).decode()


class _Planner:
    def __init__(
        self,
        jobs: SweepResolver,
        circumstances: PlanContext,
        read_template: ReadTemplate,
        site: Callable[[SlurmSection], Site] | None = None,
        plan_id: str = "",
    ) -> None:
        self._jobs = jobs
        self._plan_id = plan_id
        self._snapshot: Snapshot | None = None
        self._site = site
        self._sites: dict[tuple[str, ...], Site] = {}
        self._circumstances = circumstances
        self._read_template = read_template
        self._templates: dict[str, str] = {}
        self._packer = _Packer()
        self._redactor = Redactor()
        self._odd_options: dict[str, dict[str, Location]] = {"sbatch": {}, "srun": {}}  # with their places
        self._notes: list[str] = []
        self._told: dict[str, list[Note]] = defaultdict(list)  # by what they are about
        self._probes: dict[tuple[tuple[str, ...], ...], tuple[Probe, list[str]]] = {}
        self._versions: dict[str, str] = {}
        self._needs: dict[str, None] = {}
        self._containers: dict[str, dict[str, Any]] = {}
        self._first: AutoexpConfig | None = None  # what holds for the whole plan is taken from the first job
        self._differing: set[str] = set()  # places that are not the same for all jobs
        self._rules = rule_checks.Decoder()
        self._later: dict[tuple[str | None, Location, str], tuple[int, Location, dict[str, Any]]] = {}

    def jobs(self, subset: frozenset[int] | None, progress: Callable[[int, int], None]) -> list[_Planned]:
        """Every job, in order. Raises the collected problems."""
        found = Collector()
        wanted = [index for index in range(len(self._jobs)) if subset is None or index in subset]
        if subset is not None and (unknown := sorted(subset - set(wanted))):
            listed = ", ".join(map(str, unknown[:LISTED])) + (", …" if len(unknown) > LISTED else "")
            hint = f"there are 0 to {len(self._jobs) - 1}"
            found.add([Problem(f"no job has index {listed}", "--array-subset", hint)])
        planned: list[_Planned] = []
        rough: list[JobSpec] = []
        wrong = 0
        for done, index in enumerate(wanted):
            try:
                planned.append(self.checked(index, thoroughly=wrong < _THOROUGHLY))
            except (ConfigError, BackendError) as error:
                of_job = (replace(problem, job=index) for problem in error.problems)
                found.add(self._jobs.placed(index, of_job), type(error))
                rough += self._rough(index) if wrong < _THOROUGHLY else []
                wrong += 1
                if found.kinds >= ENOUGH_PROBLEMS or wrong >= _ENOUGH_WRONG:
                    if left := len(wanted) - done - 1:
                        what = f"{left} of {plural(len(wanted), 'job')} were not checked after these"
                        found.add([Problem(what, CONFIG / "sweep")])
                    break
            progress(done, len(wanted))
        if planned and not wrong:
            with found.step():
                self._check_later_attempts()
            with found.step():
                self._check_twins([job.spec.index for job in planned])
        with found.step():
            check_unique([*(job.spec for job in planned), *rough])
        found.raise_all()
        if subset is not None:
            planned = self._without_those_left_out(planned)
        with found.step():
            check_job_names([job.spec for job in planned])
        with found.step():
            self._jobs.check_order()
        found.raise_all()
        names = {job.spec.index: job.spec.name for job in planned}
        planned = [
            replace(job, spec=job.spec.model_copy(update={"depends_on": tuple(parents)})) if parents else job
            for job in planned
            for parents in ([names[index] for index in job.siblings if index in names],)
        ]
        check_places([(job.spec, job.places) for job in planned])
        return planned

    def _without_those_left_out(self, planned: list[_Planned]) -> list[_Planned]:
        """The jobs of a part of the plan: neither waiting for siblings that are not in it, nor cancelled by them."""
        names = {job.spec.name for job in planned}
        indices = {job.spec.index for job in planned}
        alone = [job.spec.name for job in planned if not indices.issuperset(job.siblings)]
        if alone:
            self._notes.append(
                f"{plural(len(alone), 'job')} of this part ({alone[0]}{', …' if len(alone) > 1 else ''}) "
                "would wait for jobs that --array-subset leaves out, and does not"
            )
        kept = []
        for job in planned:
            left = [each for each in job.spec.cancel_conditions if each.get("job_name", job.spec.name) in names]
            kept.append(replace(job, spec=job.spec.model_copy(update={"cancel_conditions": tuple(left)})))
        return kept

    def _check_twins(self, indices: list[int]) -> None:
        """Raises SweepError for jobs that are the same, which is a note where the sweep allows it."""
        found = twins.twins(self._jobs, indices)
        if found and not self._jobs.allows_duplicates():
            raise SweepError(twins.problem(found, len(indices)))
        if found:
            self._notes.append(twins.told(found, len(indices)))

    def _check_later_attempts(self) -> None:
        """Raises ConfigError for new attempts that could not be planned: of each stage, one job with their values."""
        problems = []
        for index, place, values in self._later.values():
            try:
                plan_job(self._jobs.overriding(index, values), self._circumstances, self._read_template, index)
            except AutoexpError as error:
                problems += [Problem(p.sentence, place, p.hint) for p in error.problems]
        raise_all(ConfigError, problems)

    def _rough(self, index: int) -> list[JobSpec]:
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

    def checked(self, index: int, *, thoroughly: bool = True) -> _Planned:
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

    def job(self, index: int) -> _Planned:
        """One job. Raises something of what is wrong with it."""
        resolved = self._jobs.job(index)
        tree, code = resolved.config, resolved.code
        config = self._rules.config(tree)
        raise_all(
            ConfigError,
            [
                *name_problems(config.project.name),
                *place_problems(config.project, self._jobs.absolute),
                *environment_problems(config.slurm, config.container, config.backend.env),
                *config.container.problems(config.slurm.launcher_cmd),
                *dependency_problems(config.scheduler, config.slurm),
                *shell_texts.problems(config.slurm),
            ],
        )
        command = config.backend.command(Job(tree, config.slurm))
        raise_all(ConfigError, [*shell_texts.word_problems(command.argv, CONFIG / "backend")])
        for note in (*command.notes, *shell_texts.notes(config, command, code)):
            self._told[note.about].append(note)
        self._needs.update(dict.fromkeys(command.needs))
        launcher = config.slurm.launcher_cmd
        srun = launcher[at] if (at := srun_index(launcher)) is not None else ""
        if recorded := containers.recorded(config.container, command.programs or command.argv[:1], srun):
            self._containers.setdefault(str(recorded), recorded)
        if command.probe is not None:
            kind = command.probe.program, command.probe.shape
            self._probes.setdefault(kind, (command.probe, []))[1].append(config.project.name)
        if command.version:
            self._versions[command.needs[0]] = command.version
        redacted = self._redactor.redact(tree)
        try:
            packed = self._packer.packed(to_json(redacted, indent=2, inf_nan_mode="strings") + b"\n")
        except PydanticSerializationError:  # what UTF-8 can't hold, or what Python makes of an odd YAML tag
            wrong = [CONFIG / key for key, value in dotted(redacted).items() if not _as_json(value)] or [CONFIG]
            raise ConfigError(*(Problem("can't be written as JSON in UTF-8", key) for key in wrong)) from None
        return self._assemble(resolved, config, command, packed)

    def _assemble(
        self,
        resolved: ResolvedJob,
        config: AutoexpConfig,
        command: Command,
        packed: bytes,
    ) -> _Planned:
        point, code = resolved.point, resolved.code
        env, evaluated = shell_texts.environment(config, command, code)
        project, slurm, absolute = config.project, config.slurm, self._jobs.absolute
        output_dir = absolute(project.output_dir)
        log_path = log_pattern(absolute(project.log_path), output_dir)
        self._snapshot = snapshot = self._code(project)
        work_dir = snapshot.work_dir if snapshot else str(self._circumstances.work_dir)
        if snapshot:
            command = replace(command, argv=snapshot.moved(command.argv, command.needs))
        for program, written, known in (("sbatch", slurm.sbatch, OPTIONS), ("srun", slurm.srun, SRUN_OPTIONS)):
            odd = {key: CONFIG / "slurm" / program / key for key in written if unknown_option(key, known)}
            self._odd_options[program] = {**odd, **self._odd_options[program]}
        if is_past(str(slurm.sbatch.get("deadline")), self._circumstances.now):
            what = f"the deadline {slurm.sbatch['deadline']} is past: SLURM takes no such job"
            raise ConfigError(Problem(what, CONFIG / "slurm.sbatch.deadline"))
        for place, overrides in rule_checks.known_overrides(config.monitoring):
            later = [
                key.removeprefix(rule_checks.DIRECTIVES) for key in overrides if key.startswith(rule_checks.DIRECTIVES)
            ]
            odd = {key: place for key in later if unknown_option(key)}
            self._odd_options["sbatch"] = {**odd, **self._odd_options["sbatch"]}
            values = {key: value for key, value in overrides.items() if not key.startswith(rule_checks.DIRECTIVES)}
            if values:
                self._later.setdefault((config.stage, place, str(values)), (config.index, place, values))
        lines = directives(
            slurm.sbatch,
            slurm.sbatch_extra_directives,
            name=project.name,
            log_path=log_path,
            work_dir=work_dir,
        )
        folders = (absolute(project.base_output_dir), output_dir)
        entry = config.container.entry(containers.Job(work_dir, folders, tuple(env)))
        text = render(
            self._template(absolute(slurm.template_path) if slurm.template_path else ""),
            name=project.name,
            lines=lines,
            env=evaluated,
            work_dir=work_dir,
            log_path=log_path,
            marks=f"{output_dir}/{MARKS}",
            launcher=Launcher.of(
                shell_texts.launcher_words(slurm, code),
                {**entry.srun, **slurm.srun},
                env=(*env, *entry.variables),
                wrapper=entry.words,
            ),
            argv=with_variables(command.argv, of_slurm_alone=True),
            for_slurm=not slurm.client.runs_here,
            modules=(*slurm.modules, *config.container.modules),
            more=entry.lines,
        )
        told = options(text)  # a template may have directives of its own
        nodes, gpus, limit = resources(told)
        raise_all(ConfigError, self._site_problems(slurm, told))
        asked = Resources(nodes=nodes, gpus=gpus, time_limit_seconds=limit)
        streams = launching.streams(slurm, told, work_dir)
        of_debug = debug_notes(slurm, told, self._circumstances.environment)
        for note in (*launching.notes(slurm, told, asked), *of_debug):
            if all(note.about != known.about for known in command.notes):
                self._told[note.about].append(note)
        log_name = log_path.removeprefix(f"{slurm_path(output_dir)}/")
        in_array = slurm.array and log_name != log_path and "/" in log_name and "%j" not in log_name
        in_array = in_array and not any("%j" in each or "%J" in each for each in streams)
        spec = JobSpec(
            index=config.index,
            name=project.name,
            stage=config.stage,
            parameters=redact(point.values),
            coords=redact(dict(point.coords)),
            argv=self._redactor.words(command.argv),
            env=redact(env),
            work_dir=work_dir,
            output_dir=output_dir,
            script_path="",
            log_path=log_path,
            log_path_current=absolute(project.log_path_current),
            start_conditions=_records(config.job.start_conditions),
            cancel_conditions=_records(config.job.cancel_conditions),
            done_conditions=_records(config.job.done_conditions),
            start_condition_cmd=config.job.start_condition_cmd,
            start_condition_interval_seconds=config.job.start_condition_interval_seconds,
            inactivity_threshold_seconds=config.job.inactivity_threshold_seconds,
            resources=asked,
            gpu_hours=asked.gpu_hours,
            output_paths=tuple(map(absolute, config.monitoring.output_paths)),
            streams=streams,
            template_values=rule_checks.template_values(config.monitoring, config.job, resolved.config),
            monitoring=rule_checks.own_rules(config.monitoring, (self._first or config).monitoring),
            array_group=array_group(directive_lines(text), log_name) if in_array else None,
        )
        self._first = self._first or config
        check_plan_wide(self._first, config, resolved.groups_chosen)
        self._differing |= differing(self._first, config)
        places = tuple(Place(place.key, absolute(place.path)) for place in command.places)
        return _Planned(spec, text, packed, project.resume, places, resolved.siblings)

    def _code(self, project: ProjectSection) -> Snapshot | None:
        """Where a job's code is, if it runs a copy. Raises ConfigError."""
        if project.code == "inplace":
            return None
        around = self._circumstances
        top = str(around.git.get("top") or "")
        if not top or not f"{around.work_dir}/".startswith(f"{top}/"):
            hint = "plan within a checkout that has a commit, or set project.code: inplace"
            if around.git_trouble:
                what = f"the checkout of git here is not copied: {around.git_trouble}"
                raise ConfigError(Problem(what, CONFIG / "project.code", "or set project.code: inplace"))
            raise ConfigError(Problem("there is no checkout of git here to copy", CONFIG / "project.code", hint))
        place = f"{self._jobs.absolute(project.base_output_dir)}/manifests/{self._plan_id}.code"
        folder = str(around.code_dir or place)
        return Snapshot.of(top, str(around.work_dir), folder)

    def _site_problems(self, slurm: SlurmSection, asked: Mapping[str, str]) -> list[Problem]:
        """Why the site would not take a job; SLURM is asked once."""
        if self._site is None or not slurm.client.is_slurm:
            return []
        if slurm.squeue_cmd not in self._sites:
            self._sites[slurm.squeue_cmd] = self._site(slurm)
        return site_problems(slurm, asked, self._sites[slurm.squeue_cmd], self._circumstances.environment)

    def _template(self, path: str) -> str:
        """The template at a path ('': the shipped one), read once. Raises ConfigError."""
        if path not in self._templates:
            self._templates[path] = self._read_template(Path(path) if path else None)
        return self._templates[path]

    def _planning(self, composed: Composed) -> dict[str, Any]:
        """What a plan was made from beside the config and the environment (see workflow.replan)."""
        return {
            "version": MANIFEST_VERSION,
            "now": self._circumstances.now.isoformat(),
            "groups": sorted(composed.groups),
            "choices": [
                {"chosen": list(choices), "config": config.base, **_recorded_code(config.code)}
                for choices, config in self._jobs.chosen().items()
            ],
            **_recorded_code(composed.code),
            "templates": dict(self._templates),
            "option_style": CommandBackend.model_fields["option_style"].default,
        }

    def _place(self, key: str) -> str:
        """Where the plan's own files are, by a key of which jobs may have values of their own."""
        first = cast("AutoexpConfig", self._first)
        path = self._jobs.absolute(attrgetter(key)(first))
        if key in self._differing or own_place(first.project, self._jobs.absolute):
            path = place_of_plan(path, first.project.name)
            self._notes.append(place_note(key, path))
        return path

    def plan(self, planned: list[_Planned], composed: Composed, plan_id: str) -> Plan:
        """The whole plan of these jobs."""
        first = cast("AutoexpConfig", self._first)
        base = Path(self._place("project.base_output_dir"))
        state_dir = self._place("project.monitoring_state_dir")
        specs = tuple(
            job.spec.model_copy(
                update={
                    "script_path": f"{job.spec.output_dir}/provenance/{plan_id}/job.sbatch",
                    "script_digest": digest(job.script),
                }
            )
            for job in planned
        )
        if self._differing:
            raise_all(SweepError, taken_problems(specs, str(base), state_dir)[:LISTED])
        around = self._circumstances
        slurm_keys = {"array", "array_task_limit", "submit_cmd", "squeue_cmd", "sacct_cmd", "cancel_cmd", "client"}
        manifest = Manifest(
            plan_id=plan_id,
            created_at=around.now.isoformat(timespec="seconds"),
            project=_utf8(_title(composed.source)),
            config_ref=_utf8(composed.source.config_ref),
            overrides=tuple(redact_words(composed.source.overrides)),
            base_output_dir=str(base),
            monitoring_state_dir=state_dir,
            container=tuple(self._containers.values()) or None,
            slurm=first.slurm.model_dump(include=slurm_keys),
            scheduler=first.scheduler.model_dump(),
            monitoring=rule_checks.recorded(first.monitoring),
            jobs=specs,
            provenance={
                "command_line": [*map(_utf8, redact_words(around.command_line))],
                **_descent(around.environment.get(PARENT_VARIABLE, "")),
                "config_dirs": [_utf8(self._jobs.absolute(str(place))) for place in composed.source.config_dirs],
                "work_dir": str(around.work_dir),
                "user": around.user,
                "host": around.host,
                "python": around.python,
                "git": dict(around.git),
                **({"image": dict(around.image)} if around.image else {}),
            },
        )
        planning, of_planning = _taken_out(self._planning(composed), templates=self._templates)
        unresolved, of_config = _taken_out({**composed.base, "sweep": composed.sweep})
        folder = base / "manifests" / f"{plan_id}.provenance"
        shared = _shared_files(folder, composed, around, unresolved, planning)
        secrets = {side_file.UNRESOLVED: of_config, side_file.PLANNING: of_planning}
        scripts, configs = tuple(job.script for job in planned), tuple(job.config for job in planned)
        notes = (
            *self._circumstances.notes,
            *map(str, broken()),
            *composed.notes,
            *self._notes,
            *overruled((key for text in composed.source.overrides for key in keys_of_override(text)), specs),
            *_notes(first, planned),
            *unknown_option_notes(self._odd_options if first.slurm.client.is_slurm else {}, composed.locations.of),
            *_monitor_notes(manifest),
            *_told(self._told, len(planned)),
        )
        notes = tuple(map(redact_message, notes))
        probes = tuple(replace(probe, jobs=tuple(names)) for probe, names in self._probes.values())
        checkpoints = tuple(
            Checkpoints(job.spec.name, job.spec.output_dir, place.path, job.resume)
            for job in planned
            for place in job.places
            if place.key.endswith(".save")
        )
        return Plan(
            manifest,
            shared,
            scripts,
            configs,
            notes,
            probes,
            secrets,
            needs=tuple(self._needs),
            snapshot=self._snapshot,
            checkpoints=checkpoints,
            versions=dict(self._versions),
        )


def _recorded_code(code: shell_texts.Code) -> dict[str, Any]:
    """The shell code of a config as it is recorded: the parts of values by dotted key; nothing where there is none."""
    return {"code": {key: list(parts) for key, parts in code.items()}} if code else {}


def _descent(variable: str) -> dict[str, Any]:
    """What started a run, if an action did, and how many runs have started each other before it."""
    generation, _, parent = variable.partition("/")
    return {"parent": parent, "generation": int(generation)} if generation.isdecimal() else {}


def _as_json(value: Any) -> bool:
    """Whether a value can be written as JSON."""
    try:
        to_json(value, inf_nan_mode="strings")
    except PydanticSerializationError:
        return False
    return True


def _utf8(text: str) -> str:
    """A text in which bytes of another encoding are written as `\\udcff`."""
    return text.encode(errors="backslashreplace").decode()


def _records(conditions: Iterable[BaseModel]) -> tuple[dict[str, Any], ...]:
    return tuple(condition.model_dump(mode="json", exclude_defaults=True) for condition in conditions)


def _taken_out(
    tree: dict[str, Any], templates: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tree without secrets, and those that were in it, by place. Half a template is none: null stands for it."""
    cleaned = redact(tree)
    if templates is not None:
        cleaned["templates"] = {path: text if redact_text(text) == text else None for path, text in templates.items()}
    return cleaned, dict(taken_out(tree, cleaned))


def _shared_files(
    directory: Path, composed: Composed, around: PlanContext, unresolved: dict[str, Any], planning: dict[str, Any]
) -> tuple[PlannedFile, ...]:
    """The provenance that all jobs have in common; each job's folder holds a link to the folder of these files."""
    documents = {
        "config_unresolved.yaml": yaml_text(unresolved),
        "planning.yaml": yaml_text(planning),
        "overrides.txt": "".join(f"{word}\n" for word in redact_words(composed.source.overrides)),
        "command_line.json": _json(redact_words(around.command_line)),
        "environment.json": _json(redact(dict(sorted(around.environment.items())))),
        "git.json": _json(dict(around.git)),
        "git.diff": around.git_diff,
    }
    return tuple(PlannedFile(directory / name, text, 0o600) for name, text in documents.items())


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _sweep_json(manifest: Manifest) -> str:
    of_script = ("script_path", "script_digest")
    keys = ("index", "name", "stage", "parameters", "argv", "env", "work_dir", "output_dir", *of_script)
    entries = [{key: getattr(job, key) for key in keys} for job in manifest.jobs]
    sweep = {"version": manifest.version, "plan_id": manifest.plan_id, "entries": entries}
    return to_json(sweep, indent=2, inf_nan_mode="strings").decode() + "\n"


def _plan_id(source: Source, circumstances: PlanContext) -> str:
    """Readable and, with its random end, one of its kind: `my_experiment-20260131-235959-3f9c2a1b`."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", _title(source)).strip("-")[:_LONGEST_STEM] or "plan"
    return f"{stem}-{circumstances.now.astimezone():%Y%m%d-%H%M%S}-{circumstances.nonce}"


def _title(source: Source) -> str:
    """What an experiment is called: its config's name; for the root config, the project chosen."""
    chosen = [word.removeprefix("project=") for word in source.overrides if word.startswith("project=")]
    return chosen[-1] if chosen and source.config_ref == ROOT else Path(source.config_ref).stem


def _notes(config: AutoexpConfig, planned: list[_Planned]) -> tuple[str, ...]:
    """What a person should know about a plan that is not wrong."""
    notes = rule_checks.notes(config.monitoring, config.backend.sample_lines())
    if config.scheduler.native_dependencies and not config.slurm.client.is_slurm:
        notes.append("only SLURM has native dependencies: here the monitor waits for siblings")
    if config.slurm.array and any(job.spec.array_group is None for job in planned):
        notes.append(
            "jobs whose log_path holds %j, or is not in a folder of their output directory, are submitted singly"
        )
    wide = max(job.spec.resources.nodes for job in planned)
    if config.slurm.client.runs_here and wide > 1:
        notes.append(f"jobs run on this machine alone: those that ask for {wide} nodes run here as one process")
    return tuple(notes)


def _monitor_notes(manifest: Manifest) -> list[str]:
    """Which jobs native dependencies do not bring to their end alone."""
    if not manifest.scheduler["native_dependencies"] or not client_of(manifest).is_slurm:
        return []
    needing = [f"{name} ({why})" for name, why in needs_monitor(manifest.jobs, manifest.monitoring).items()]
    if not needing:
        return []
    listed = ", ".join(needing[:_FEW]) + (f" and {len(needing) - _FEW} more" if len(needing) > _FEW else "")
    return [f"native dependencies, but {plural(len(needing), 'job')} only while a monitor watches: {listed}"]


def _told(told: Mapping[str, Sequence[Note]], jobs: int) -> list[str]:
    """What the backends have to say of their jobs: each thing once, and of how many jobs it is true."""
    return [
        notes[0].text if len(notes) == jobs else f"{notes[0].text} ({len(notes)} of {plural(jobs, 'job')})"
        for notes in told.values()
    ]
