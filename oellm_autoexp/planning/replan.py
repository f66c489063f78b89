"""One job planned again from what its plan has recorded, with other values: no config of today has a say in it.

Recorded files hold no secrets (`***`). A variable's is taken from the environment of now, others from the plan's side
file; where that is gone, that of an exported variable from the job's own script. Where there is none of these, and the
script would need it, the job is not planned again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from oellm_autoexp.config.values.interpolation_syntax import normalise
from oellm_autoexp.core.errors import ConfigError, Problem, StateError, raise_all
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import JobSpec, Manifest, Resources
from oellm_autoexp.core.redacted_text import REDACTED
from oellm_autoexp.core.text import dotted
from oellm_autoexp.planning.checks.plan_checks import PLAN_WIDE
from oellm_autoexp.planning.jobs.job_planner import plan_job
from oellm_autoexp.planning.record.plan_record import recorded
from oellm_autoexp.planning.record.record_files import json_value, mapping, readable
from oellm_autoexp.planning.record.secret_marks import MARK, problems_of, secrets_named
from oellm_autoexp.planning.resolving.plan_places import PER_JOB
from oellm_autoexp.storage import trust

_FIXED = {
    "name": "project.name",
    "stage": "stage",
    "output_dir": "project.output_dir",
    "log_path": "project.log_path",
    "log_path_current": "project.log_path_current",
}
"""What a job keeps in all its attempts, and the keys that say it."""
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
    with readable(Path(job.script_path)):
        script = trust.read_script(Path(job.script_path), job.script_digest, Path(manifest.base_output_dir))
    plan = recorded(manifest, job)
    with secrets_named(plan.marks):
        values = {**_kept(job), **values} if values else values
        planned, text = plan_job(plan.jobs.overriding(job.index, values), plan.context, plan.template, job.index)
        if _links(planned) != _links(job):
            what = "a new attempt has the number of links of its plan" if job.chain else "a new attempt is no chain"
            raise ConfigError(Problem(what, CONFIG / "job.chain", "for another chain, make a new plan"))
        moved = _moved(job, planned)
        if moved or MARK.search(text):
            as_it_was, text_before = plan_job(plan.jobs, plan.context, plan.template, job.index)
            if others := _moved(job, as_it_was):
                raise StateError(Problem(f"its plan's record has another {', '.join(others)}", job.script_path))
            text = _with_secrets(text, text_before, script, plan.marks)
    raise_all(
        ConfigError,
        [
            Problem(f"a new attempt must have the same {key}, {value!r}", CONFIG / key, "do not change it")
            for key, value in moved.items()
        ],
    )
    if planned.streams != job.streams:
        raise ConfigError(Problem("a new attempt must write its output to the same files", CONFIG / "slurm"))
    return Replanned(text, planned.resources, planned.argv)


def _links(job: JobSpec) -> int | None:
    return job.chain.links if job.chain else None


def _kept(job: JobSpec) -> dict[str, Any]:
    """What a job keeps, as its recorded config has it. Raises StateError."""
    config = mapping(json_value, Path(job.script_path).with_name("config.json"))
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
            problems.append(Problem("the sweep belongs to the whole plan", key, "set the value itself"))
        elif REDACTED in str(value):
            problems.append(
                Problem(
                    f"{REDACTED} is shown in place of a secret; it is not the secret", key, "write the value itself"
                )
            )
        elif any(f"{name}.".startswith(f"{wide}.") for wide in (*PLAN_WIDE, *PER_JOB)):
            problems.append(Problem("this value must be the same for all jobs of a plan", key, "make a new plan"))
    raise_all(ConfigError, problems)


def _moved(job: JobSpec, planned: JobSpec) -> dict[str, str | None]:
    """What a job was to keep and has not kept: key → what it was."""
    kept = {key: (getattr(job, field), getattr(planned, field)) for field, key in _FIXED.items()}
    return {key: was for key, (was, is_now) in kept.items() if was != is_now}


def _with_secrets(text: str, before: str, script: str, marks: Sequence[Location]) -> str:
    """A script in whose place of marks stand the secrets, as the job's `script` exports them.

    An exported value that the overrides change is not what the script has. Raises ConfigError for any mark that stays.
    """
    unchanged, known = _exports(before), _exports(script)

    def restored(match: re.Match[str]) -> str:
        name, value = match.groups()
        same = [value] == unchanged.get(name)
        if MARK.search(value) and same and len(known.get(name, ())) == 1:
            return f"export {name}={known[name][0]}"
        return match.group()

    text = _EXPORT.sub(restored, text)
    raise_all(ConfigError, problems_of(text, marks))
    return text


def _exports(script: str) -> dict[str, list[str]]:
    """The values of a script's `export` lines as they stand there, by name."""
    found: dict[str, list[str]] = {}
    for name, value in _EXPORT.findall(script):
        found.setdefault(name, []).append(value)
    return found
