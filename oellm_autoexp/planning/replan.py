"""One job planned again from what its plan has recorded, with other values: no config of today has a say in it.

Recorded files hold no secrets (`***`). A variable's is taken from the environment of now, others from the plan's side
file; where that is gone, that of an exported variable from the job's own script. Where there is none of these, and the
script would need it, the job is not planned again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml

from oellm_autoexp import MANIFEST_VERSION
from oellm_autoexp.config.hydra.source import normalise
from oellm_autoexp.config.loader import Composed, Source
from oellm_autoexp.core.errors import AutoexpError, ConfigError, CorruptError, Problem, StateError, raise_all
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import JobSpec, Manifest, Resources
from oellm_autoexp.core.redacted_text import REDACTED
from oellm_autoexp.core.text import dotted
from oellm_autoexp.planning import side_file
from oellm_autoexp.planning.checks.plan_checks import PLAN_WIDE
from oellm_autoexp.planning.plan import plan_job
from oellm_autoexp.planning.resolving.plan_places import PER_JOB
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.planning.resolving.resolve import SweepResolver
from oellm_autoexp.sbatch.shell_code import Parts
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import loads

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FIXED = {
    "name": "project.name",
    "stage": "stage",
    "output_dir": "project.output_dir",
    "log_path": "project.log_path",
    "log_path_current": "project.log_path_current",
}
"""What a job keeps in all its attempts, and the keys that say it."""
NO_VALUE = "its value is a secret, which is not in the plan's record"
_MARK = re.compile(r"AUTOEXP_REDACTED_(\d+)_")
_EXPORT = re.compile(r"""^export (\w+)=((?:'[^']*'|"[^"]*"|[^\s'"])*)$""", re.MULTILINE)


@dataclass(frozen=True)
class Replanned:
    """A job with other values: its script, what that asks for, and the program's words (without secrets)."""

    script: str
    resources: Resources
    argv: tuple[str, ...]


def replan(manifest: Manifest, job: JobSpec, overrides: Mapping[str, Any]) -> Replanned:
    """A job of a plan with `overrides` (dotted key → value, `+ ++ ~` as in Hydra) over the values of its sweep point.

    Whatever refers to an overridden value follows it, but for what the job keeps: its name, stage and paths; siblings
    are those of the plan. Nothing is written. Raises ConfigError, SweepError or BackendError: an override is wrong,
    is of what the job keeps or the whole plan has in common, or the script needs a secret that is not to be had;
    StateError: the record is gone or was made by another version.
    """
    values = cast("dict[str, Any]", normalise(dict(overrides)))
    _check_keys(values)
    with _telling(Path(job.script_path)):
        script = trust.read_script(Path(job.script_path), job.script_digest, Path(manifest.base_output_dir))
    with _whole(Path(job.script_path).parent):
        record = _Record.of(manifest, job)
        jobs, marks = _jobs(record)
        around = record.circumstances()
    with _secrets_named(marks):
        values = {**_kept(job), **values} if values else values
        planned, text = plan_job(jobs.overriding(job.index, values), around, record.template, job.index)
        moved = _moved(job, planned)
        if moved or _MARK.search(text):
            as_it_was, text_before = plan_job(jobs, around, record.template, job.index)
            if others := _moved(job, as_it_was):
                raise StateError(Problem(f"its plan's record tells of another {', '.join(others)}", job.script_path))
            text = _with_secrets(text, text_before, script, marks)
    raise_all(
        ConfigError,
        [
            Problem(f"a new attempt keeps its {key}, {value!r}", CONFIG / key, "leave it as it is")
            for key, value in moved.items()
        ],
    )
    if planned.streams != job.streams:
        raise ConfigError(Problem("a new attempt keeps the files that its output goes to", CONFIG / "slurm"))
    return Replanned(text, planned.resources, planned.argv)


def _kept(job: JobSpec) -> dict[str, Any]:
    """What a job keeps, as its recorded config has it. Raises StateError."""
    config = _mapping(_json, Path(job.script_path).with_name("config.json"))
    known = dotted(config)
    kept = {key: known[key] for key in _FIXED.values() if key in known}
    return {key: value for key, value in kept.items() if value is not None and REDACTED not in str(value)}


def _check_keys(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for keys that no attempt can have of its own."""
    problems = []
    for key, value in dotted(values).items():
        name = key.lstrip("+~")
        if name == "index":
            problems.append(Problem("a job keeps its index", key))
        elif name.split(".")[0] == "sweep":
            problems.append(Problem("the sweep is the plan's", key, "set the value itself"))
        elif REDACTED in str(value):
            problems.append(Problem(f"{REDACTED} stands for a secret, and is none", key, "write the value itself"))
        elif any(f"{name}.".startswith(f"{wide}.") for wide in (*PLAN_WIDE, *PER_JOB)):
            problems.append(Problem("this holds for all jobs of a plan", key, "make a new plan"))
    raise_all(ConfigError, problems)


def _moved(job: JobSpec, planned: JobSpec) -> dict[str, str | None]:
    """What a job was to keep and has not kept: key → what it was."""
    kept = {key: (getattr(job, field), getattr(planned, field)) for field, key in _FIXED.items()}
    return {key: was for key, (was, is_now) in kept.items() if was != is_now}


# ---------------------------------------------------------------------------------------------------------------------
# The record


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
        recorded = _mapping(_json, variables)
        hidden = {name for name, value in recorded.items() if REDACTED in value}
        environment = {**recorded, **{name: os.environ[name] for name in hidden if name in os.environ}}
        _mapping(_parsed, config)
        if _mapping(_parsed, planning).get("version") != MANIFEST_VERSION:
            raise CorruptError(Problem("recorded by another version of this program", str(planning), "plan again"))
        return cls(
            Source(manifest.config_ref, (), manifest.overrides),
            _read(config),
            _read(planning),
            side_file.kept(manifest),
            tuple(environment.items()),
            frozenset(hidden - os.environ.keys()),
            Path(manifest.provenance["work_dir"]),
            manifest.provenance["python"],
            Path(manifest.base_output_dir, "manifests", f"{manifest.plan_id}.code"),
            tuple(manifest.provenance.get("git", {}).items()),
            manifest.provenance.get("image", {}).get("shipped", ""),
        )

    def circumstances(self) -> PlanContext:
        """What the plan took from the world, as far as jobs depend on it."""
        now = datetime.fromisoformat(_parsed(self.planning)["now"])
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
        planning = side_file.with_secrets(_parsed(self.planning), self.secrets, side_file.PLANNING)
        templates = planning.get("templates")
        found = templates.get(str(path) if path else "") if isinstance(templates, dict) else None
        if not isinstance(found, str):
            hint = "a plan keeps the templates that it used, unless they hold secrets, whose place is slurm.env"
            raise ConfigError(
                Problem("this template is not in the plan's record", CONFIG / "slurm.template_path", hint)
            )
        return found


def _read(path: Path) -> str:
    """A file of the record. Raises StateError."""
    with _telling(path):
        return trust.read(path, most=trust.WHOLE).decode()


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Tell why a file of the record can't be read. Raises StateError."""
    try:
        yield
    except FileNotFoundError:
        hint = "without it no value of the job can be changed; plan again"
        raise StateError(Problem("the record of the job's plan lacks this file", str(path), hint)) from None
    except OSError as error:
        raise StateError(Problem(f"can't be read: {error.strerror}", str(path))) from None
    except UnicodeDecodeError:
        raise CorruptError(Problem("is no text", str(path), "plan again")) from None


@lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    """YAML as the planner wrote it; for reading only."""
    return yaml.load(text, _LOADER)  # noqa: S506  the safe one


def _json(text: str) -> Any:
    return loads(text.encode(), any_bytes=True)


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Tell of a record that lacks something, or has it in another form. Raises CorruptError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        what = f"the record of the job's plan is not whole: {type(error).__name__}: {error}".splitlines()[0]
        raise CorruptError(Problem(what, str(folder), "it was cut or edited; plan again")) from None


def _mapping(parse: Callable[[str], Any], path: Path) -> dict[str, Any]:
    """What a file of the record holds. Raises StateError."""
    try:
        found = parse(_read(path))
    except (yaml.YAMLError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise CorruptError(Problem("is cut short or not ours", str(path), "plan again"))
    return found


@dataclass(frozen=True)
class _Recorded(Composed):
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
        name: _marked(value, Location(text=f"the environment variable {name}"), marks)
        if name in record.missing
        else value
        for name, value in record.environment
    }
    planning = side_file.with_secrets(_parsed(record.planning), record.secrets, side_file.PLANNING)
    unresolved = side_file.with_secrets(_parsed(record.unresolved), record.secrets, side_file.UNRESOLVED)
    tree = _in_style(_marked(unresolved, CONFIG, marks), planning)
    composed = _Recorded(
        source=record.source,
        base={name: value for name, value in tree.items() if name != "sweep"},
        sweep=tree["sweep"],
        groups=frozenset(planning["groups"]),
        locations=_Nowhere(),
        choices={
            tuple(made["chosen"]): _in_style(_marked(made["config"], CONFIG, marks), planning)
            for made in planning["choices"]
        },
        code=_code(planning, marks),
        codes={tuple(made["chosen"]): _code(made, marks) for made in planning["choices"]},
    )
    with _secrets_named(marks):
        return SweepResolver(composed, replace(record.circumstances(), environment=environment)), tuple(marks)


def _code(recorded: Mapping[str, Any], marks: list[Location]) -> dict[str, Parts]:
    """The recorded shell code of a config, by dotted key; plans of older versions have none."""
    return {key: tuple(_marked(parts, CONFIG / key, marks)) for key, parts in recorded.get("code", {}).items()}


def _in_style(tree: dict[str, Any], planning: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config whose options are spelled as its plan spelled them: before there was a choice, with dashes."""
    backend = tree.get("backend")
    if isinstance(backend, dict) and backend.get("class_name") == "CommandBackend":
        backend.setdefault("option_style", planning.get("option_style", "dashes"))
    return tree


# ---------------------------------------------------------------------------------------------------------------------
# Secrets


def _marked(value: Any, place: Location, marks: list[Location]) -> Any:
    """A copy of recorded data in which each `***` is a mark, whose number is that of its place in `marks`."""
    if isinstance(value, dict):
        return {key: _marked(item, place / str(key), marks) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item, place / index, marks) for index, item in enumerate(value)]
    if isinstance(value, str) and REDACTED in value:
        marks.append(place)
        return value.replace(REDACTED, f"AUTOEXP_REDACTED_{len(marks) - 1}_")
    return value


def _problems_of(text: str, marks: Sequence[Location]) -> list[Problem]:
    """One problem for each secret whose mark is in a text."""
    hint = "set it by an override, or refer to a variable that is set now: ${oc.env:NAME}"
    places = dict.fromkeys(marks[int(number)] for number in _MARK.findall(text))
    return [Problem(NO_VALUE, place, hint) for place in places]


@contextmanager
def _secrets_named(marks: Sequence[Location]) -> Iterator[None]:
    """Say of an error in a block, if a secret's mark is in its words, that the secret is what is missing."""
    try:
        yield
    except AutoexpError as error:
        raise_all(ConfigError, _problems_of(str(error), marks))
        raise


def _with_secrets(text: str, before: str, script: str, marks: Sequence[Location]) -> str:
    """A script in whose place of marks stand the secrets, as the job's `script` exports them.

    An exported value that the overrides change is not what the script has. Raises ConfigError for any mark that stays.
    """
    unchanged, known = _exports(before), _exports(script)

    def restored(match: re.Match[str]) -> str:
        name, value = match.groups()
        same = [value] == unchanged.get(name)
        if _MARK.search(value) and same and len(known.get(name, ())) == 1:
            return f"export {name}={known[name][0]}"
        return match.group()

    text = _EXPORT.sub(restored, text)
    raise_all(ConfigError, _problems_of(text, marks))
    return text


def _exports(script: str) -> dict[str, list[str]]:
    """The values of a script's `export` lines as they stand there, by name."""
    found: dict[str, list[str]] = {}
    for name, value in _EXPORT.findall(script):
        found.setdefault(name, []).append(value)
    return found
