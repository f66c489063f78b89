"""Two jobs that may run at the same time write into no place that both name: each would overwrite the other. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from oellm_autoexp.backends.base import Place
from oellm_autoexp.core.errors import Problem, SweepError, raise_all
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.states import ENDED, FINAL

_LISTED = 8
_MOST_COMPARED = 64
_HINT = "write ${project.output_dir}/… for a folder of each job's own (${project.base_output_dir} is that of all jobs)"


def check_places(jobs: Sequence[tuple[JobSpec, Iterable[Place]]]) -> None:
    """Raises SweepError for places that two jobs write to of which neither waits for the other.

    A job that waits for another one (a stage that goes on from it), or for a file or a command, may share its places.
    """
    sharing: dict[tuple[str, str], list[JobSpec]] = defaultdict(list)
    written: dict[tuple[str, str], str] = {}
    for job, places in jobs:
        for place in places:
            sharing[place.path, place.key].append(job)
            written.setdefault((place.path, place.key), place.written)
    by_name = {job.name: job for job, _ in jobs}
    problems = []
    for (path, key), together in sharing.items():
        if len(together) < 2 or _in_order(together, by_name):
            continue
        indices = ", ".join(str(job.index) for job in together[:_LISTED]) + (", …" if len(together) > _LISTED else "")
        what = f"{len(together)} jobs would write to the same place, '{path}': jobs {indices}"
        problems.append(Problem(what, CONFIG / written[path, key], _HINT))
    raise_all(SweepError, problems[:_LISTED])


def _in_order(jobs: Sequence[JobSpec], by_name: Mapping[str, JobSpec]) -> bool:
    """Whether of each two of these jobs one waits for the other, or for something that nobody knows of here."""
    if len(jobs) > _MOST_COMPARED:  # no chain is that long
        jobs = jobs[:_MOST_COMPARED]
    before = {job.name: _awaited(job, by_name) for job in jobs}
    return all(
        one.name in before[other.name] or other.name in before[one.name] or _waits(one) or _waits(other)
        for one, other in combinations(jobs, 2)
    )


def _awaited(job: JobSpec, by_name: Mapping[str, JobSpec]) -> Collection[str]:
    """The names of the jobs that must end before a job begins, of whatever depth."""
    found: set[str] = set()
    waiting = [job.name]
    while waiting:
        spec = by_name.get(waiting.pop())
        if spec is None:
            continue
        ended = {str(each["job_name"]) for each in spec.start_conditions if _waits_for_an_end(each)}
        new = (ended if spec.start_conditions else {*spec.depends_on}) - found
        found |= new
        waiting += new
    return found


_ENDS = frozenset(word.lower() for word in (*FINAL, *ENDED))
_OF_A_CLOCK = ("ElapsedTimeCondition", "CooldownCondition", "AlwaysTrueCondition")


def _waits_for_an_end(condition: Mapping[str, Any]) -> bool:
    """Whether a condition holds only once another job has ended: each of its states is an end."""
    states = condition.get("state", ())
    words = [states] if isinstance(states, str) else states
    return "job_name" in condition and all(str(word).lower() in _ENDS for word in words)


def _waits(job: JobSpec) -> bool:
    """Whether a job waits for files or a command, which may tell that another one has ended."""
    others = (each for each in job.start_conditions if "job_name" not in each)
    return bool(job.start_condition_cmd) or any(each.get("class_name") not in _OF_A_CLOCK for each in others)
