"""A job's record in the files of a session: plain data and back. Records of version 1 had no parts, and are sorted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter

from oellm_autoexp.session.job_state import JobState

_JOB = TypeAdapter(JobState)
_FRESH: Mapping[str, Any] = _JOB.dump_python(JobState(name=""), mode="json")
PARTS = {part.name: frozenset(_FRESH[part.name]) for part in fields(JobState) if is_dataclass(part.default)}
"""The parts of a job's state, with the names of those of their fields that are in files; no name is in two of them."""


def job_of(data: Any) -> JobState:
    """The job of a record as in JSON, with parts or flat. Raises ValidationError."""
    return _JOB.validate_python(_in_parts(data) if isinstance(data, Mapping) else data)


def _in_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the fields that stand beside the parts put into their parts."""
    found = dict(data)
    for part, names in PARTS.items():
        flat = names & found.keys()
        if flat and isinstance(kept := found.get(part, {}), Mapping):
            found[part] = {**kept, **{name: found.pop(name) for name in flat}}
    return found


def record(job: JobState, include: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A job as plain data; `include` as in pydantic, by the names of fields."""
    data: dict[str, Any] = _JOB.dump_python(job, mode="json", include=include)
    return data


def flat(job: JobState) -> dict[str, Any]:
    """A job as programs get it (`--json`, templates): every field by its own name, wherever it is kept."""
    data = record(job)
    parts = [data.pop(part) for part in PARTS]
    return data | {name: value for part in parts for name, value in part.items()}


def line(job: JobState) -> str:
    """A job's record as JSON, on one line."""
    return _JOB.dump_json(job).decode()
