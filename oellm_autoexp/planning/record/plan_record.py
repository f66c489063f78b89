"""A plan's record read back: its jobs, as they were planned, with what planning took from the world."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from oellm_autoexp import MANIFEST_VERSION
from oellm_autoexp.config.loader import Composed, Source
from oellm_autoexp.core.errors import ConfigError, CorruptError, Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.redacted_text import REDACTED
from oellm_autoexp.planning.record import side_file
from oellm_autoexp.planning.record.record_files import json_value, mapping, read, whole
from oellm_autoexp.planning.record.secret_marks import marked, secrets_named
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.planning.resolving.resolve import SweepResolver
from oellm_autoexp.sbatch.shell_code import Parts
from oellm_autoexp.sbatch.times import TIME, automatic, format_time
from oellm_autoexp.storage.files import parsed_yaml


@dataclass(frozen=True)
class Recorded:
    """The jobs of a plan as its record describes them; `marks` are the places of the secrets that it lacks."""

    jobs: SweepResolver
    context: PlanContext
    template: Callable[[Path | None], str]
    marks: tuple[Location, ...]


def recorded(manifest: Manifest, job: JobSpec) -> Recorded:
    """What was recorded of a job's plan. Raises StateError: it is gone or was made by another version.

    Raises ConfigError or SweepError where the jobs need a secret that is not to be had.
    """
    with whole(Path(job.script_path).parent):
        record = _Record.of(manifest, job)
        jobs, marks = _jobs(record)
        return Recorded(_with_limit(jobs, job), record.context(), record.template, marks)


def _with_limit(jobs: SweepResolver, job: JobSpec) -> SweepResolver:
    """The jobs of a plan with the time limit that was found for one of them, where its config says `auto`."""
    time, seconds = tuple(TIME.split(".")), job.resources.time_limit_seconds
    written, _ = jobs.parts(job.index, [time])
    if seconds is None or automatic(written.get(time)) is None:
        return jobs
    return jobs.overriding(job.index, {TIME: format_time(seconds)})


@dataclass(frozen=True)
class _Record:
    """What was recorded of a plan: the texts of its files, and what they say of the world."""

    source: Source
    unresolved: str
    planning: str
    secrets: str
    environment: tuple[tuple[str, str], ...]
    missing: frozenset[str]
    """The variables whose values are secrets and that are not set now."""
    work_dir: Path
    python: str
    code_dir: Path
    git: tuple[tuple[str, Any], ...]
    shipped: str
    """The folder of shipped files, of a plan that was made in an image; else ''."""

    @classmethod
    def of(cls, manifest: Manifest, job: JobSpec) -> _Record:
        """The record of a job's plan. Raises StateError."""
        config, planning, variables = (
            side_file.record_file(manifest, job, name)
            for name in ("config_unresolved.yaml", "planning.yaml", "environment.json")
        )
        recorded = mapping(json_value, variables)
        hidden = {name for name, value in recorded.items() if REDACTED in value}
        environment = {**recorded, **{name: os.environ[name] for name in hidden if name in os.environ}}
        mapping(parsed_yaml, config)
        if mapping(parsed_yaml, planning).get("version") != MANIFEST_VERSION:
            raise CorruptError(Problem("recorded by another version of this program", str(planning), "plan again"))
        return cls(
            Source(manifest.config_ref, (), manifest.overrides),
            read(config),
            read(planning),
            side_file.kept(manifest),
            tuple(environment.items()),
            frozenset(hidden - os.environ.keys()),
            Path(manifest.provenance["work_dir"]),
            manifest.provenance["python"],
            Path(manifest.base_output_dir, "manifests", f"{manifest.plan_id}.code"),
            tuple(manifest.provenance.get("git", {}).items()),
            manifest.provenance.get("image", {}).get("shipped", ""),
        )

    def context(self) -> PlanContext:
        """What the plan took from the world, as far as jobs depend on it."""
        now = datetime.fromisoformat(parsed_yaml(self.planning)["now"])
        return PlanContext(
            now,
            self.work_dir,
            self.python,
            dict(self.environment),
            (),
            "",
            "",
            "",
            git=dict(self.git),
            image={"shipped": self.shipped},
            code_dir=self.code_dir,
        )

    def template(self, path: Path | None) -> str:
        """A template of the plan. Raises ConfigError for one that was not recorded."""
        planning = side_file.with_secrets(parsed_yaml(self.planning), self.secrets, side_file.PLANNING)
        templates = planning.get("templates")
        found = templates.get(str(path) if path else "") if isinstance(templates, dict) else None
        if not isinstance(found, str):
            hint = "a plan records its templates, unless they contain secrets; write secrets into slurm.env"
            raise ConfigError(
                Problem("this template is not in the plan's record", CONFIG / "slurm.template_path", hint)
            )
        return found


@dataclass(frozen=True)
class _RecordedConfig(Composed):
    """A config from a record, with the group choices that its sweep made."""

    choices: Mapping[tuple[str, ...], dict[str, Any]]
    codes: Mapping[tuple[str, ...], Mapping[str, Parts]]

    def choosing(self, choices: tuple[str, ...]) -> Composed:
        """The config with these choices. Raises ConfigError: none of the plan's jobs made them."""
        if choices not in self.choices:
            known = "; ".join(" ".join(made) for made in self.choices)
            hint = f"recorded: {known}" if known else "override its values one by one"
            problem = Problem("the plan has recorded no config with these choices", " ".join(choices), hint)
            raise ConfigError(problem)
        return replace(self, base=self.choices[choices], code=self.codes[choices])


class _Nowhere:
    """The files that values were written in may be others by now."""

    def of(self, where: Location) -> Location:
        return where

    def placed(self, problem: Problem) -> Problem:
        return problem


@lru_cache(maxsize=1)  # many jobs of one plan may begin anew at the same time
def _jobs(record: _Record) -> tuple[SweepResolver, tuple[Location, ...]]:
    """All jobs of the plan, and what each mark in their configs stands for. Raises ConfigError, SweepError."""
    marks: list[Location] = []
    environment = {
        name: marked(value, Location(text=f"the environment variable {name}"), marks)
        if name in record.missing
        else value
        for name, value in record.environment
    }
    planning = side_file.with_secrets(parsed_yaml(record.planning), record.secrets, side_file.PLANNING)
    unresolved = side_file.with_secrets(parsed_yaml(record.unresolved), record.secrets, side_file.UNRESOLVED)
    tree = _in_style(marked(unresolved, CONFIG, marks), planning)
    composed = _RecordedConfig(
        source=record.source,
        base={name: value for name, value in tree.items() if name != "sweep"},
        sweep=tree["sweep"],
        groups=frozenset(planning["groups"]),
        locations=_Nowhere(),
        choices={
            tuple(made["chosen"]): _in_style(marked(made["config"], CONFIG, marks), planning)
            for made in planning["choices"]
        },
        code=_code(planning, marks),
        codes={tuple(made["chosen"]): _code(made, marks) for made in planning["choices"]},
    )
    with secrets_named(marks):
        return SweepResolver(composed, replace(record.context(), environment=environment)), tuple(marks)


def _code(recorded: Mapping[str, Any], marks: list[Location]) -> dict[str, Parts]:
    """The recorded shell code of a config, by dotted key; plans of older versions have none."""
    return {key: tuple(marked(parts, CONFIG / key, marks)) for key, parts in recorded.get("code", {}).items()}


def _in_style(tree: dict[str, Any], planning: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config whose options are spelled as its plan spelled them: before there was a choice, with dashes."""
    backend = tree.get("backend")
    if isinstance(backend, dict) and backend.get("class_name") == "CommandBackend":
        backend.setdefault("option_style", planning.get("option_style", "dashes"))
    return tree
