"""Jobs that are the same but for their numbers, names and places: most likely an axis that has no effect. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

from oellm_autoexp.core.errors import AutoexpError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import plural, scalar
from oellm_autoexp.planning.resolving.resolve import PLACES, SweepResolver
from oellm_autoexp.planning.resolving.trees import value_at
from oellm_autoexp.sweep.paths import Path, leaf_paths

_LISTED = 4


def twins(jobs: SweepResolver, indices: Sequence[int]) -> dict[int, int]:
    """Of these jobs, those that do what an earlier one does, each with the first such job.

    Two jobs are the same if their resolved configs are, with the same name and the same folders in them: so are their
    commands and environments. A value that `${index}` is in makes a difference, a name with it does not; names that the
    sweep itself spells out do.
    """
    found: dict[int, int] = {}
    for alike in _alike(jobs, indices):
        first: dict[Hashable, int] = {}
        for index in alike:
            try:
                config = jobs.nameless(index)
            except AutoexpError:  # it needs its own name or folder
                continue
            same = first.setdefault(_as_said(config), index)
            if same != index:
                found[index] = same
    return dict(sorted(found.items()))


def summary(found: dict[int, int], jobs: int) -> str:
    """`2 of 4 jobs are the same as others: job 2 as job 0, job 3 as job 1`."""
    listed = ", ".join(f"job {index} as job {first}" for index, first in [*found.items()][:_LISTED])
    more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    verb = "is the same as another" if len(found) == 1 else "are the same as others"
    return f"{len(found)} of {plural(jobs, 'job')} {verb}: {listed}{more}"


def problem(found: dict[int, int], jobs: int) -> Problem:
    """The mistake that such jobs are, unless the sweep says otherwise."""
    hint = "let a value differ (a seed of ${index} is enough), or set sweep.allow_duplicates=true"
    return Problem(summary(found, jobs), CONFIG / "sweep", hint)


def _alike(jobs: SweepResolver, indices: Sequence[int]) -> list[list[int]]:
    """The jobs that may be the same, as far as is known without evaluating anything."""
    values: dict[int, dict[Path, Any]] = {}
    for index in indices:
        of_point = jobs.members[index].point.values
        values[index] = {("~", key): value for key, value in of_point.items() if key.startswith("~")}
        for key, value in of_point.items():
            values[index].update(leaf_paths(key, value))
    places = {tuple(key.split(".")) for key in PLACES}
    # What is evaluated may come to be equal to anything; of a name or place the text itself is what differs.
    computed = {path for own in values.values() for path, value in own.items() if "${" in str(value)} - places
    paths = [path for path in dict.fromkeys(path for own in values.values() for path in own) if path not in computed]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, own in values.items():
        base = jobs.base_of(index)
        groups[tuple(_as_said(own[path] if path in own else value_at(base, path)) for path in paths)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _as_said(value: Any) -> Hashable:
    """A stand-in that is equal for values which are the same words of a command: 1 and "1", but not 1000 and 1e3."""
    if isinstance(value, dict):
        return tuple(sorted((str(key), _as_said(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(_as_said, value))
    return ("bool", value) if isinstance(value, bool) or value is None else scalar(value)
