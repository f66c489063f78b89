"""The sweep algebra: a tree of nodes becomes a list of points. Pure, and all of it.

A node holds at most one of `grids`, `params`, `configs`, `groups`; `type` says how groups combine; `defaults`,
`base_values` and loose dotted keys are values below everything that is written further inside; `filter` drops points.

Lists of points form an algebra: `list` adds (concatenation, lengths add), `product` multiplies (every pair merged,
lengths multiply, last factor fastest), and one empty point is the unit of the product. Values are merged by their
paths (`paths.over`), and no point gets two values for one path from the choices of a grid or of two factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import product
from math import prod
from typing import Any, NamedTuple

from oellm_autoexp.config.values.argument_names import respelled, spelled
from oellm_autoexp.config.values.other_names import instead
from oellm_autoexp.core.errors import Problem, SweepError
from oellm_autoexp.core.limits import shortened
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import did_you_mean
from oellm_autoexp.sweep.axes import axes_of, bracket_problems, values_of
from oellm_autoexp.sweep.paths import Path, Taken, frozen, leaf_paths, over, path_of, plain

KINDS = ("grids", "params", "configs", "groups")
_DEFAULTS = ("base_values", "defaults")
MOST_POINTS = 1_000_000
ALLOW_DUPLICATES = "allow_duplicates"
"""At the top of a sweep: jobs that are the same are no mistake."""
KEYWORDS = frozenset((*KINDS, *_DEFAULTS, "type", "filter", ALLOW_DUPLICATES))
_ROOT = CONFIG / "sweep"


class Filter(NamedTuple):
    """An expression that must hold in a job's config, and the path in the sweep of where it is written."""

    text: str
    where: Location


@dataclass(frozen=True)
class Point:
    """One combination of values.

    `chosen` comes from params, grids and configs, `inherited` from defaults, and never overrides what was chosen.
    `staged` are the values of an entry that names a stage, which override what was chosen elsewhere.
    """

    chosen: Mapping[str, Any] = field(default_factory=dict)
    inherited: Mapping[str, Any] = field(default_factory=dict)
    staged: Mapping[str, Any] = field(default_factory=dict)
    filters: tuple[Filter, ...] = ()

    @cached_property
    def values(self) -> dict[str, Any]:
        """Every value the sweep sets, by dotted key, in the order in which they are to be applied: later ones win."""
        return over(over(self.inherited, self.chosen), self.staged)

    @property
    def coords(self) -> dict[str, Any]:
        """The point's place in hyperparameter space, through which stages go: what was chosen, by plain keys."""
        return {plain(key): value for key, value in self.chosen.items()}

    def __or__(self, other: Point) -> Point:
        """Both points' values; where they disagree the right one's."""
        return Point(
            over(self.chosen, other.chosen),
            over(self.inherited, other.inherited),
            over(self.staged, other.staged),
            tuple(dict.fromkeys((*self.filters, *other.filters))),
        )


Points = list[Point]


def add(parts: Iterable[Points]) -> Points:
    """The points of all parts, one after another. Raises SweepError if that is too many."""
    points: Points = []
    for part in parts:
        points += part
        if len(points) > MOST_POINTS:
            raise SweepError(Problem("the sweep has too many points", _ROOT, f"a plan has at most {MOST_POINTS}"))
    return points


def multiply(factors: Iterable[Points]) -> Points:
    """Every combination of one point of each factor, the last factor fastest. Raises SweepError if that is too many."""
    parts = list(factors)
    if (count := prod(max(1, len(part)) for part in parts)) > MOST_POINTS:
        sizes = " x ".join(str(len(part)) for part in parts)
        raise SweepError(Problem(f"{sizes} are {count} points", _ROOT, f"a plan has at most {MOST_POINTS}"))
    return reduce(lambda left, right: [a | b for a, b in product(left, right)], parts, [Point()])


def expand(sweep: Any) -> Points:
    """The points of a `sweep` section, in the order of the YAML; one empty point where there is no sweep.

    Raises SweepError with all mistakes, each at its key.
    """
    problems: list[Problem] = []
    points = _node({} if sweep is None else sweep, _ROOT, problems)
    if problems:
        raise SweepError(*problems)
    return points


def allows_duplicates(sweep: Any) -> bool:
    """Whether a sweep section says that several of its jobs may be the same."""
    return isinstance(sweep, dict) and sweep.get(ALLOW_DUPLICATES) is True


def keys_set(sweep: Any) -> set[str]:
    """The plain keys that any node of a sweep section sets, also of one with mistakes."""
    if isinstance(sweep, list):
        return {key for item in sweep for key in keys_set(item)}
    if not isinstance(sweep, dict):
        return set()
    own = {
        ".".join(filter(None, path))
        for key, value in sweep.items()
        if isinstance(key, str) and key not in KEYWORDS
        for path, _ in [*leaf_paths(plain(key), value)] or [(path_of(key), value)]
    }
    return own | {key for name, part in sweep.items() if name in KEYWORDS for key in keys_set(part)}


def _node(node: Any, where: Location, problems: list[Problem]) -> Points:
    if not isinstance(node, dict):
        problems.append(Problem(f"a sweep node must hold keys and values, not {_kind(node)}", where))
        return []
    # An empty list of entries is no sweep.
    kinds = [kind for kind in node if kind in KINDS and not (node[kind] == [] and kind != "params")]
    beside = [kind for kind in kinds if kind != "groups"]
    if len(beside) > 1:
        what = f"a node takes one of {', '.join(KINDS)}; this one has {' and '.join(kinds)}"
        problems.append(Problem(what, where, "put each of them into an entry of groups"))
        return []
    _check_keys(node, where, problems)
    parts: list[tuple[Any, Location, Points]] = []
    for kind in kinds:
        at = where / kind
        if kind == "groups":
            items = _items(node[kind], at, problems)
            parts += [(group, place, _node(group, place, problems)) for group, place in items]
        else:  # beside groups, one more of them
            parts.append(({kind: node[kind]}, where, _EXPANSIONS[kind](node[kind], at, problems)))
    points = _combined(parts, node.get("type"), problems) if "groups" in kinds else parts[0][2] if parts else [Point()]
    filters = () if node.get("filter") is None else (_filter(node["filter"], where / "filter", problems),)
    frame = Point(inherited=_inherited(node, where, problems), filters=filters)
    return [frame | point for point in points]


def _check_keys(node: dict[str, Any], where: Location, problems: list[Problem]) -> None:
    problems += [
        Problem(f"unknown key '{key}' in a sweep node", where / key, hint)
        for key in _text_keys(node, where, problems)
        if key not in KEYWORDS and "." not in key and "/" not in key and (hint := _near_keyword(key))
    ]
    if "type" in node:
        problems += _type_problems(node, where / "type")
    if ALLOW_DUPLICATES in node:
        problems += _duplicates_problems(node[ALLOW_DUPLICATES], where)


def _duplicates_problems(value: Any, where: Location) -> list[Problem]:
    at = where / ALLOW_DUPLICATES
    if where != _ROOT:
        return [Problem(f"{ALLOW_DUPLICATES} applies to the whole sweep", at, f"write it at the top: {_ROOT.key}")]
    if not isinstance(value, bool):
        return [Problem(f"{ALLOW_DUPLICATES} is {shortened(value)}", at, "write true or false")]
    return []


def _type_problems(node: dict[str, Any], where: Location) -> list[Problem]:
    """What is wrong with a node's `type`: only groups can combine in two ways."""
    if node["type"] not in ("product", "list"):
        return [Problem(f"type is {shortened(node['type'])}", where, "write product or list")]
    kind = next((kind for kind in KINDS if kind in node and "groups" not in node), "groups")
    parts = node.get(kind)
    if kind == "groups" or node["type"] == _COMBINED[kind] or not isinstance(parts, list | dict) or len(parts) == 1:
        return []
    how = "multiplied" if kind == "params" else "alternatives, one after another"
    return [Problem(f"type is {node['type']!r}, but {kind} are {how}", where, "nest them in groups, which can do both")]


_COMBINED = {"grids": "list", "params": "product", "configs": "list"}
"""How the parts of each kind but groups combine."""


def _text_keys(mapping: dict[Any, Any], where: Location, problems: list[Problem]) -> dict[str, Any]:
    """The entries whose keys are text; the others are problems, and so is what no sweep can set."""
    wrong = [key for key in mapping if not isinstance(key, str)]
    problems += [Problem(f"the key {key!r} is not text", where, f"write '{key}' in quotes") for key in wrong]
    texts = {key: value for key, value in mapping.items() if isinstance(key, str)}
    problems += [
        Problem("a sweep can't set the index", where / key, "it numbers the jobs, from 0")
        for key in texts
        if plain(key) == "index"
    ]
    return texts


def _set_once(values: Mapping[str, Any], where: Location, problems: list[Problem]) -> dict[str, Any]:
    """The values by their keys as they are kept (`argument_names`); two that set the same path are a problem."""
    _check_once(((key, key, [value]) for key, value in values.items()), where, problems)
    return {spelled(key): respelled(value, plain(key)) for key, value in values.items()}


def _check_once(axes: Iterable[tuple[str, str, list[Any]]], where: Location, problems: list[Problem]) -> None:
    """Report each path that two keys of a mapping set, as in `a.b` and `a: {b: …}`, by the keys as written."""
    taken = Taken()
    for written, key, choices in axes:
        paths = dict.fromkeys(path for choice in choices for path, _ in leaf_paths(key, choice))
        twice = next((found for path in paths if (found := (path, taken.by(path)))[1] is not None), None)
        if twice is not None:
            path, other = twice
            problems.append(
                Problem(f"{_dotted(path)} is set twice", (where / other) & (where / written), "keep one of the two")
            )
        for path in paths:
            taken.add(path, written)


def _dotted(path: Path) -> str:
    return f"'{'.'.join(filter(None, path))}'"


def _near_keyword(key: str) -> str:
    if hint := instead(f"sweep.{key}"):
        return hint
    hint = did_you_mean(key, KEYWORDS)
    return hint if hint.startswith("did you mean") else ""


def _inherited(node: dict[str, Any], where: Location, problems: list[Problem]) -> dict[str, Any]:
    """What a node says for all of its points. Several blocks may say the same, but not differ."""
    blocks = [(name, node[name]) for name in _DEFAULTS if node.get(name) is not None]
    blocks.append(("", {key: value for key, value in node.items() if key not in KEYWORDS and isinstance(key, str)}))
    values: dict[str, Any] = {}
    taken = Taken()
    for name, block in blocks:
        at = where / name if name else where
        if not isinstance(block, dict):
            problems.append(Problem(f"must hold keys and values, not {_kind(block)}", at))
            continue
        found = _text_keys(block, at, problems) if name else block
        own = {path: (at / key, value) for key, whole in found.items() for path, value in leaf_paths(key, whole)}
        for path, (place, value) in own.items():
            other = taken.by(path)
            if other is not None and frozen(other[1]) != frozen(value):
                what = f"{_dotted(path)} has two values for the same jobs"
                problems.append(Problem(what, other[0] & place, "keep one of the two"))
        for path, by in own.items():
            taken.add(path, by)
        values = over(values, _set_once(found, at, problems))
    return values


def _filter(text: Any, where: Location, problems: list[Problem]) -> Filter:
    if not isinstance(text, str | bool):
        problems.append(Problem(f"a filter is an expression, not {_kind(text)}", where))
    return Filter(str(text), where)


def _grids(grids: Any, where: Location, problems: list[Problem]) -> Points:
    return add(_grid(grid, at, problems) for grid, at in _items(grids, where, problems))


def _params(params: Any, where: Location, problems: list[Problem]) -> Points:
    return _grid(params, where, problems)


def _grid(grid: Any, where: Location, problems: list[Problem]) -> Points:
    if not isinstance(grid, dict):
        hint = "write 'key: [1, 2]'" + (", without '- '" if isinstance(grid, list) else "")
        problems.append(Problem(f"a grid maps keys to lists of values; this is {_kind(grid)}", where, hint))
        return []
    texts = _text_keys(grid, where, problems)
    axes = [(written, *axis) for written, values in texts.items() for axis in axes_of(written, values)]
    _check_once(((written, key, values_of(values)) for written, key, values in axes), where, problems)
    factors = []
    for _, key, values in axes:
        if values == []:
            problems.append(Problem("this axis has no values", where / key, "give at least one, or remove the key"))
        for text in [] if isinstance(values, list) else (leaf for _, leaf in leaf_paths(key, values)):
            problems += bracket_problems(text, where / key)
        kept = spelled(key)
        factors.append([_chosen({kept: respelled(choice, plain(key))}) for choice in values_of(values)])
    return multiply(factors)


def _chosen(values: dict[str, Any]) -> Point:
    """A point with these values: its place, or (where they name a stage) what this stage overrides."""
    return Point(staged=values) if any(plain(key) == "stage" for key in values) else Point(values)


def _configs(configs: Any, where: Location, problems: list[Problem]) -> Points:
    return add(_config(entry, at, problems) for entry, at in _items(configs, where, problems))


def _config(entry: Any, where: Location, problems: list[Problem]) -> Points:
    if not isinstance(entry, dict):
        problems.append(Problem(f"an entry maps keys to values; this is {_kind(entry)}", where))
        return []
    if any(key in KEYWORDS for key in entry):
        return _node(entry, where, problems)
    return [_chosen(_set_once(_text_keys(entry, where, problems), where, problems))]


def _combined(parts: list[tuple[Any, Location, Points]], kind: Any, problems: list[Problem]) -> Points:
    """The points of groups, one after another for the type `list`, else each with each."""
    points = [found for _, _, found in parts]
    if kind == "list":
        return add(points)
    problems += _clashes([(group, at) for group, at, _ in parts], points)
    return multiply(points)


def _clashes(items: list[tuple[Any, Location]], parts: list[Points]) -> list[Problem]:
    """The paths for which two factors of a product choose different values: one of them would be lost."""
    problems: dict[Path, Problem] = {}
    for tier in ("chosen", "staged"):
        taken = Taken()
        for number, part in enumerate(parts):
            own: dict[Path, set[Any]] = {}
            entries = {(key, id(value)): (key, value) for point in part for key, value in getattr(point, tier).items()}
            for path, leaf in (found for entry in entries.values() for found in leaf_paths(*entry)):
                own.setdefault(path, set()).add(frozen(leaf))
            for path, leaves in own.items():
                other, where, others = taken.by(path) or (path, number, leaves)
                if where != number and (other != path or len(leaves | others) > 1):
                    places = [_place(*items[where], other), _place(*items[number], path)]
                    hint = "keep one of the two; put a value that others may override into defaults"
                    what = f"{_dotted(path)} is set by two parts of a product"
                    problems.setdefault(path, Problem(what, places[0] & places[1], hint))
            for path, leaves in own.items():
                taken.add(path, (path, number, leaves))
    return list(problems.values())


def _place(node: Any, where: Location, path: Path) -> Location:
    """Where a node chooses the value at a path."""
    return next(_choices(node, where, path), where)


def _choices(node: Any, where: Location, path: Path) -> Iterator[Location]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _choices(item, where / index, path)
    elif isinstance(node, dict):
        for kind in (kind for kind in KINDS if kind in node):
            yield from _choices(node[kind], where / kind, path)
        for key, values in node.items():
            if isinstance(key, str) and key not in KEYWORDS:
                taken = Taken()
                for axis, choices in axes_of(key, values):
                    for found in (found for choice in values_of(choices) for found, _ in leaf_paths(axis, choice)):
                        taken.add(found, key)
                if taken.by(path) is not None:
                    yield where / key


def _items(items: Any, where: Location, problems: list[Problem]) -> list[tuple[Any, Location]]:
    if not isinstance(items, list) or not items:
        problems.append(Problem(f"must be a list of entries, not {_kind(items)}", where, "begin each with '- '"))
        return []
    return [(item, where / index) for index, item in enumerate(items)]


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {shortened(value)}"
    names: dict[type, str] = {dict: "a mapping", list: "a list" if value else "an empty list"}
    return "empty" if value is None else names.get(type(value), shortened(value))


_EXPANSIONS: Mapping[str, Callable[[Any, Location, list[Problem]], Points]] = {
    "grids": _grids,
    "params": _params,
    "configs": _configs,
}
