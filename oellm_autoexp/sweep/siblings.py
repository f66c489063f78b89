"""Which job a job means by `${sibling.STAGE.…}`, and the order that follows. Pure, and indexed: never all pairs.

The sibling of a job in a stage is the one job of that stage that has the job's place in hyperparameter space: every
grid coordinate of that job which this one has too (as a coordinate or as a value) is equal. A stage that overrides a
value of the grid keeps its coordinate.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from oellm_autoexp.core.errors import Problem, SweepError
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import did_you_mean, plural
from oellm_autoexp.sweep.expander import Point
from oellm_autoexp.sweep.paths import dotted_keys, frozen, plain

_LISTED = 5


@dataclass(frozen=True)
class Member:
    """A job as siblings see it: its number, its stage, and its point."""

    index: int
    stage: str | None
    point: Point


class Siblings:
    """All jobs of a plan, to be asked for siblings."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._stages: dict[str, dict[frozenset[str], list[Member]]] = defaultdict(lambda: defaultdict(list))
        self._coords: dict[int, Mapping[str, Any]] = {}
        for member in members:
            if member.stage is not None:
                coords = self._coords[member.index] = _by_leaf(member.point.coords)
                self._stages[member.stage][frozenset(coords)].append(member)
        self._indices: dict[tuple[str, frozenset[str], frozenset[str]], dict[Any, list[Member]]] = {}

    def named(self, path: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """The stage that a path begins with, whose name may hold dots, and the rest of the path."""
        for count in range(len(path), 1, -1):
            if (stage := ".".join(path[:count])) in self._stages:
                return stage, tuple(path[count:])
        return path[0], tuple(path[1:])

    def of(self, member: Member, stage: str) -> Member:
        """The sibling of a job in a stage. Raises SweepError if there is none or more than one, listing candidates."""
        if stage not in self._stages:
            hint = did_you_mean(stage, self._stages) or "no job has a stage; set stage in the sweep"
            raise SweepError(Problem(f"'sibling.{stage}': there is no stage '{stage}'", hint=hint))
        values = {plain(key): value for key, value in member.point.values.items()}
        here = {**_by_leaf(values), **_by_leaf(member.point.coords)}
        alike = [candidate for keys in self._stages[stage] for candidate in self._matching(stage, keys, here)]
        found = [candidate for candidate in alike if candidate.index != member.index]
        if len(found) == 1:
            return found[0]
        if alike == [member]:
            what = (
                f"'sibling.{stage}' is job {member.index} (stage {member.stage}) itself; a job is not its own sibling"
            )
            raise SweepError(
                Problem(what, hint="name another stage; the job's own values are ${project.name} and so on")
            )
        raise SweepError(self._unclear(member, stage, found, here))

    def _matching(self, stage: str, keys: frozenset[str], here: Mapping[str, Any]) -> list[Member]:
        shared = keys.intersection(here)
        slot = (stage, keys, shared)
        if slot not in self._indices:
            index: dict[Any, list[Member]] = defaultdict(list)
            for member in self._stages[stage][keys]:
                index[_place(self._coords[member.index], shared)].append(member)
            self._indices[slot] = index
        return self._indices[slot].get(_place(here, shared), [])

    def _unclear(self, member: Member, stage: str, found: list[Member], here: Mapping[str, Any]) -> Problem:
        where = f"job {member.index} (stage {member.stage})"
        if found:
            listed = "; ".join(_described(candidate) for candidate in found[:_LISTED])
            more = f"; … {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            what = f"'sibling.{stage}' is ambiguous for {where}: {len(found)} jobs match: {listed}{more}"
            return Problem(what, hint="give both stages the grid key whose values differ")
        everyone = [candidate for members in self._stages[stage].values() for candidate in members]
        listed = "; ".join(_described(candidate, whole=True) for candidate in everyone[:_LISTED])
        known = {key for candidate in everyone for key in self._coords[candidate.index]}
        place = ", ".join(f"{key}={_shown(value)}" for key, value in here.items() if key in known)
        jobs = plural(len(everyone), "job")
        what = f"'sibling.{stage}' matches no job for {where}: none of its {jobs} has {place or 'such values'}"
        return Problem(what, hint=f"candidates: {listed}" + (" …" if len(everyone) > _LISTED else ""))


def _by_leaf(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values by the dotted keys of their leaves, so that `a: {b: 1}` and `a.b: 1` are the same."""
    if not any(isinstance(value, dict) for value in values.values()):
        return values
    return {leaf: inner for key, value in values.items() for leaf, inner in dotted_keys(key, value).items()}


def _place(values: Mapping[str, Any], keys: frozenset[str]) -> Any:
    return tuple(frozen(values[key]) for key in sorted(keys))


def _shown(value: Any) -> str:
    """A value, with quotes around text that looks like a number or another value."""
    return repr(value) if isinstance(value, str) and _NO_TEXT.fullmatch(value) else str(value)


_NO_TEXT = re.compile(r"\s*|[-+.\d][-+.\deE_]*|true|false|null|none", re.IGNORECASE)


def _described(member: Member, *, whole: bool = False) -> str:
    """A job with its coordinates, by the last parts of their keys or by the `whole` keys."""
    coords = member.point.coords.items()
    place = ", ".join(f"{key if whole else key.rsplit('.', 1)[-1]}={_shown(value)}" for key, value in coords)
    return f"job {member.index} ({place})" if place else f"job {member.index}"


def order(depends_on: Mapping[int, Iterable[int]], names: Mapping[int, str]) -> list[int]:
    """The jobs such that each comes after those it depends on. Raises SweepError naming a cycle."""
    try:
        return list(TopologicalSorter(depends_on).static_order())
    except CycleError as error:
        circle = " → ".join(names[index] for index in reversed(error.args[1]))
        raise SweepError(Problem(f"jobs depend on each other in a circle: {circle}", CONFIG / "sweep")) from None
