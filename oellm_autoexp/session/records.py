"""A job's record in the files of a session: plain data and back. Records of version 1 had no parts, and are sorted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from oellm_autoexp.session.job_state import JobState


@cache
def _adapter() -> TypeAdapter[JobState]:
    """Made when it is first needed: many commands import this module and have no session."""
    return TypeAdapter(JobState)


@cache
def parts() -> Mapping[str, frozenset[str]]:
    """The parts of a job's state, with the names of those of their fields that are in files; no name is in two."""
    fresh: Mapping[str, Any] = _adapter().dump_python(JobState(name=""), mode="json")
    return {part.name: frozenset(fresh[part.name]) for part in fields(JobState) if is_dataclass(part.default)}


def job_of(data: Any) -> JobState:
    """The job of a record as in JSON, with parts or flat. Raises ValidationError."""
    return _adapter().validate_python(_in_parts(data) if isinstance(data, Mapping) else data)


def _in_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the fields that stand beside the parts put into their parts."""
    found = dict(data)
    for part, names in parts().items():
        flat = names & found.keys()
        if flat and isinstance(kept := found.get(part, {}), Mapping):
            found[part] = {**kept, **{name: found.pop(name) for name in flat}}
    return found


def record(job: JobState, include: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A job as plain data; `include` as in pydantic, by the names of fields."""
    data: dict[str, Any] = _adapter().dump_python(job, mode="json", include=include)
    return data


def flat(job: JobState) -> dict[str, Any]:
    """A job as programs get it (`--json`): every field by its own name, wherever it is kept.

    What of its progress is no finite number is null, as JSON has none (`--cmd plot --json` does the same).
    """
    data = record(job)
    data["progress"] = {
        key: None if isinstance(value := getattr(job.progress, key), float) and not math.isfinite(value) else kept
        for key, kept in data["progress"].items()
    }
    found = [data.pop(part) for part in parts()]
    return data | {name: value for part in found for name, value in part.items()}


def line(job: JobState) -> str:
    """A job's record as JSON, on one line."""
    return _adapter().dump_json(job).decode()
