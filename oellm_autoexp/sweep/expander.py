"""The sweep algebra: a tree of nodes becomes a list of points. Pure, and all of it.

A node holds at most one of `grids`, `params`, `configs`, `groups`; `type` says how groups combine; `defaults`,
`base_values` and loose dotted keys are values below everything that is written further inside; `filter` drops points.

Lists of points form an algebra: `list` adds (concatenation, lengths add), `product` multiplies (every pair merged,
lengths multiply, last factor fastest), and one empty point is the unit of the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from math import prod
from typing import Any, NamedTuple

from oellm_autoexp.errors import Problem, SweepError
from oellm_autoexp.text import did_you_mean

KINDS = ("grids", "params", "configs", "groups")
_DEFAULTS = ("base_values", "defaults")
MOST_POINTS = 1_000_000
_KEYWORDS = frozenset((*KINDS, *_DEFAULTS, "type", "filter"))


def plain(key: str) -> str:
    """The key that a sweep's key is about: `a.b` for `+a.b`, `++a.b` and `~a.b`."""
    return key.lstrip("+~")


class Filter(NamedTuple):
    """An expression that must hold in a job's config, and the path in the sweep of where it is written."""

    text: str
    where: str


@dataclass(frozen=True)
class Point:
    """One combination of values.

    `chosen` comes from params and configs; `inherited` from defaults, and never overrides what was chosen. `coords` are
    the values that came from a grid (or a config that names no stage), by plain keys: the point's place in
    hyperparameter space, through which stages go.
    """

    chosen: Mapping[str, Any] = field(default_factory=dict)
    inherited: Mapping[str, Any] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)
    filters: tuple[Filter, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """Every value the sweep sets, by dotted key, in the order in which they are to be laid: later ones win."""
        return _over(self.inherited, self.chosen)

    def __or__(self, other: Point) -> Point:
        """Both points' values; where they disagree the right one's, but its coordinates never displace the left's."""
        return Point(
            _over(self.chosen, other.chosen),
            _over(self.inherited, other.inherited),
            {**self.coords, **other.coords, **self.coords},
            tuple(dict.fromkeys((*self.filters, *other.filters))),
        )


def _over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Both; a key of both is the upper's, in value and in place: `a: {x: 1}` below must not undo `a.x` above."""
    if not lower or not upper:
        return {**lower, **upper}
    return {**{key: value for key, value in lower.items() if key not in upper}, **upper}


Points = list[Point]


def add(parts: Iterable[Points]) -> Points:
    """The points of all parts, one after another. Raises SweepError if that is too many."""
    points: Points = []
    for part in parts:
        points += part
        if len(points) > MOST_POINTS:
            raise SweepError(Problem("these are too many points", "$.sweep", f"a plan has at most {MOST_POINTS}"))
    return points


def multiply(factors: Iterable[Points]) -> Points:
    """Every combination of one point of each factor, the last factor fastest. Raises SweepError if that is too many."""
    parts = list(factors)
    if (count := prod(max(1, len(part)) for part in parts)) > MOST_POINTS:
        sizes = " x ".join(str(len(part)) for part in parts)
        raise SweepError(Problem(f"{sizes} are {count} points", "$.sweep", f"a plan has at most {MOST_POINTS}"))
    return reduce(lambda left, right: [a | b for a, b in product(left, right)], parts, [Point()])


def expand(sweep: Any) -> Points:
    """The points of a `sweep` section, in the order of the YAML; one empty point where there is no sweep.

    Raises SweepError with all mistakes, each at its `$.sweep…` path.
    """
    problems: list[Problem] = []
    points = _node({} if sweep is None else sweep, "$.sweep", problems)
    if problems:
        raise SweepError(*problems)
    return points


def keys_set(sweep: Any) -> set[str]:
    """The plain keys that any node of a sweep section sets, also of one with mistakes."""
    if isinstance(sweep, list):
        return {key for item in sweep for key in keys_set(item)}
    if not isinstance(sweep, dict):
        return set()
    own = {plain(key) for key in sweep if isinstance(key, str) and key not in _KEYWORDS}
    return own | {key for name, part in sweep.items() if name in _KEYWORDS for key in keys_set(part)}


def _node(node: Any, where: str, problems: list[Problem]) -> Points:
    if not isinstance(node, dict):
        problems.append(Problem(f"a sweep node must hold keys and values, not {_kind(node)}", where))
        return []
    kinds = [kind for kind in KINDS if kind in node]
    if len(kinds) > 1:
        problems.append(
            Problem(f"a node takes one of {', '.join(KINDS)}; here are {' and '.join(kinds)}", where, "nest groups")
        )
        return []
    _check_keys(node, where, problems)
    points = _EXPANSIONS[kinds[0]](node[kinds[0]], node, f"{where}.{kinds[0]}", problems) if kinds else [Point()]
    filters = () if node.get("filter") is None else (_filter(node["filter"], f"{where}.filter", problems),)
    frame = Point(inherited=_inherited(node, where, problems), filters=filters)
    return [frame | point for point in points]


def _check_keys(node: dict[str, Any], where: str, problems: list[Problem]) -> None:
    problems += [
        Problem(f"unknown key '{key}' in a sweep node", f"{where}.{key}", hint)
        for key in _text_keys(node, where, problems)
        if key not in _KEYWORDS and "." not in key and "/" not in key and (hint := _near_keyword(key))
    ]
    if "type" in node:
        problems += _type_problems(node, f"{where}.type")


def _type_problems(node: dict[str, Any], where: str) -> list[Problem]:
    """What is wrong with a node's `type`: only groups can combine in two ways."""
    if node["type"] not in ("product", "list"):
        return [Problem(f"type is {node['type']!r}", where, "write product or list")]
    kind = next((kind for kind in KINDS if kind in node), "groups")
    parts = node.get(kind)
    if kind == "groups" or node["type"] == _COMBINED[kind] or not isinstance(parts, list | dict) or len(parts) == 1:
        return []
    how = "multiplied" if kind == "params" else "alternatives, one after another"
    return [Problem(f"type is {node['type']!r}, but {kind} are {how}", where, "nest them in groups, which can do both")]


_COMBINED = {"grids": "list", "params": "product", "configs": "list"}
"""How the parts of each kind but groups combine."""


def _text_keys(mapping: dict[Any, Any], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The entries whose keys are text; the others are problems, and so is what no sweep can set."""
    wrong = [key for key in mapping if not isinstance(key, str)]
    problems += [Problem(f"the key {key!r} is not text", where, f"write '{key}' in quotes") for key in wrong]
    texts = {key: value for key, value in mapping.items() if isinstance(key, str)}
    problems += [
        Problem("a sweep can't set the index", f"{where}.{key}", "it numbers the jobs, from 0")
        for key in texts
        if plain(key) == "index"
    ]
    return texts


def _near_keyword(key: str) -> str:
    hint = did_you_mean(key, _KEYWORDS)
    return hint if hint.startswith("did you mean") else ""


def _inherited(node: dict[str, Any], where: str, problems: list[Problem]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _DEFAULTS:
        block = node.get(name)
        if block is None:
            continue
        if not isinstance(block, dict):
            problems.append(Problem(f"must hold keys and values, not {_kind(block)}", f"{where}.{name}"))
            continue
        found = _text_keys(block, f"{where}.{name}", problems)
        problems += [
            Problem("base_values and defaults are the same thing, and differ here", f"{where}.{name}.{key}", "keep one")
            for key in found
            if key in values and values[key] != found[key]
        ]
        values = _over(values, found)
    return _over(values, {key: value for key, value in node.items() if key not in _KEYWORDS and isinstance(key, str)})


def _filter(text: Any, where: str, problems: list[Problem]) -> Filter:
    if not isinstance(text, str | bool):
        problems.append(Problem(f"a filter is an expression, not {_kind(text)}", where))
    return Filter(str(text), where)


def _grids(grids: Any, node: dict[str, Any], where: str, problems: list[Problem]) -> Points:  # noqa: ARG001
    return add(_grid(grid, at, problems) for grid, at in _items(grids, where, problems))


def _params(params: Any, node: dict[str, Any], where: str, problems: list[Problem]) -> Points:  # noqa: ARG001
    return _grid(params, where, problems)


def _grid(grid: Any, where: str, problems: list[Problem]) -> Points:
    if not isinstance(grid, dict):
        problems.append(Problem(f"a grid maps keys to lists of values, this is {_kind(grid)}", where))
        return []
    axes = []
    for key, values in _text_keys(grid, where, problems).items():
        choices = values if isinstance(values, list) else [values]
        if not choices:
            problems.append(Problem("this axis has no values", f"{where}.{key}", "give at least one, or leave it out"))
        axes.append([Point({key: value}, coords=_place({key: value})) for value in choices])
    return multiply(axes)


def _configs(configs: Any, node: dict[str, Any], where: str, problems: list[Problem]) -> Points:  # noqa: ARG001
    return add(_config(entry, at, problems) for entry, at in _items(configs, where, problems))


def _config(entry: Any, where: str, problems: list[Problem]) -> Points:
    if not isinstance(entry, dict):
        problems.append(Problem(f"an entry maps keys to values, this is {_kind(entry)}", where))
        return []
    if any(key in _KEYWORDS for key in entry):
        return _node(entry, where, problems)
    values = _text_keys(entry, where, problems)
    return [Point(values, coords=_place(values))]


def _place(values: Mapping[str, Any]) -> dict[str, Any]:
    """The coordinates that these values are: none where they name a stage, which a place is gone through in."""
    place = {plain(key): value for key, value in values.items()}
    return {} if "stage" in place else place


def _groups(groups: Any, node: dict[str, Any], where: str, problems: list[Problem]) -> Points:
    parts = [_node(group, at, problems) for group, at in _items(groups, where, problems)]
    combine: Callable[[Iterable[Points]], Points] = add if node.get("type") == "list" else multiply
    return combine(parts)


def _items(items: Any, where: str, problems: list[Problem]) -> list[tuple[Any, str]]:
    if not isinstance(items, list) or not items:
        problems.append(Problem(f"must be a list of entries, not {_kind(items)}", where, "begin each with '- '"))
        return []
    return [(item, f"{where}[{index}]") for index, item in enumerate(items)]


def _kind(value: Any) -> str:
    names: dict[type, str] = {
        dict: "a mapping",
        list: "a list" if value else "an empty list",
        str: f"the text {value!r}",
    }
    return "empty" if value is None else names.get(type(value), repr(value))


_EXPANSIONS: Mapping[str, Callable[[Any, dict[str, Any], str, list[Problem]], Points]] = {
    "grids": _grids,
    "params": _params,
    "configs": _configs,
    "groups": _groups,
}
