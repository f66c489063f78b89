"""Jobs for tests, as a session keeps them: fields are given by their own names, in whatever part they are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.records import parts


def job_state(name: str = "a", **fields: Any) -> JobState:
    """A job with these values of its fields: `job_state("a", state="running", scheduler_id="7")`.

    Raises TypeError for a name that no field has.
    """
    return changed(JobState(name=name), **fields)


def changed(job: JobState, **fields: Any) -> JobState:
    """A copy of a job with other values of these fields. Raises TypeError for a name that no field has."""
    changes = {}
    for part, names in parts().items():
        if own := {name: fields.pop(name) for name in names & fields.keys()}:
            changes[part] = replace(getattr(job, part), **own)
    return replace(job, **fields, **changes)
