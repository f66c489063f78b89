"""What counts as an axis of a grid: a list, also further inside of a mapping, and an interpolation to one. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.limits import shortened
from oellm_autoexp.core.location import Location
from oellm_autoexp.sweep.paths import is_part


def with_lists(sweep: Any, listed: Callable[[str, str], list[Any] | None]) -> Any:
    """A sweep section in which the axes of one text are lists, where `listed` (of key and text) knows that they are."""

    def axes(key: str, values: Any) -> Any:
        if isinstance(values, dict):
            return {part: axes(f"{key}.{part}" if key else str(part), inner) for part, inner in values.items()}
        found = listed(key, values) if isinstance(values, str) else None
        return values if found is None else found

    def inside(tree: Any, kind: str) -> Any:
        if isinstance(tree, list):
            return [inside(item, kind) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if kind == "grid":
            return axes("", tree)
        return {key: inside(value, _HOLDS[key]) if key in _HOLDS else value for key, value in tree.items()}

    return inside(sweep, "node")


_HOLDS = {"params": "grid", "grids": "grid", "configs": "node", "groups": "node"}


def values_of(values: Any) -> list[Any]:
    """The values of an axis: one that is no list is a list of one."""
    return values if isinstance(values, list) else [values]


def axes_of(key: str, values: Any) -> Iterator[tuple[str, Any]]:
    """The axes of a grid's key and value, each with its values: one, or those further inside of a mapping.

    A mapping without any list is one value.
    """
    if not isinstance(values, dict) or not _has_list(values):
        yield key, values
        return
    for part, inner in values.items():
        if is_part(part):
            yield from axes_of(f"{key}.{part}", inner)
        else:
            yield key, [{part: choice} for choice in values_of(inner)]


def _has_list(values: dict[Any, Any]) -> bool:
    return any(isinstance(inner, list) or (isinstance(inner, dict) and _has_list(inner)) for inner in values.values())


def bracket_problems(text: Any, where: Location) -> list[Problem]:
    """What is wrong with an axis of one text that looks like several values: `1, 2` without brackets, `range(4)`."""
    if isinstance(text, str) and (of_hydra := _SWEPT.fullmatch(text.strip())):
        hint = f"write {_spelled_out(of_hydra[1], of_hydra[2])}, or [{shortened(text)}] for one text"
        return [Problem(f"{shortened(text)} is one text, not a list", where, hint)]
    if isinstance(text, str) and (bounds := _DOTS.fullmatch(text.strip())):
        first, last = int(bounds[1]), int(bounds[2])
        hint = f"write {_counted(range(first, last + 1))}, or [{shortened(text)}] for one text"
        return [Problem(f"{shortened(text)} is one text, not a list", where, hint)]
    if not isinstance(text, str) or "${" in text or not re.fullmatch(r"[^,\[\](){}'\"]+(,[^,\[\](){}'\"]+)+", text):
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or not (", " in text or all(map(_NUMBER.fullmatch, parts))):
        return []
    hint = f"write {_listed(parts)}, or [{shortened(text)}] for one text"
    return [Problem(f"{shortened(text)} is one text, not a list", where, hint)]


_SWEPT = re.compile(r"(range|choice|interval|shuffle|sort|glob)\((.*)\)", re.DOTALL)
"""The sweeps of Hydra's command line, which are texts in YAML."""
_DOTS = re.compile(r"(\d{1,6}) ?\.\.\.? ?(\d{1,6})")
_FEW, _MANY = 8, 12
_OWN = ("'", '"', "[", "{")
_PLAIN = re.compile(r"(?!(?:yes|no|on|off|true|false|null)$)\w[\w.+/-]*(?: [\w.+/-]+)*|[-+.][\d._eE+-]+", re.IGNORECASE)


def _listed(parts: Sequence[str]) -> str:
    """A list in brackets of texts that are written without quotes, or in their own."""
    items = [shortened(part)[1:-1] if _PLAIN.fullmatch(part) or part[:1] in _OWN else repr(part) for part in parts]
    return f"[{', '.join(items[:_MANY])}{', …' * (len(parts) > _MANY)}]"


def _spelled_out(name: str, arguments: str) -> str:
    """The list that a sweep of Hydra's is, as it is written here."""
    if name == "choice":
        return _listed([part.strip() for part in re.split(r",(?![^\[\]{}()]*[\]})])", arguments)])
    numbers = arguments.split(",")
    if name == "range" and len(numbers) <= 3 and all(re.fullmatch(r" *-?\d{1,6} *", number) for number in numbers):
        try:
            return _counted(range(*map(int, numbers)))
        except ValueError:  # a step of 0
            pass
    return "its values as a list, [1, 2]"


def _counted(numbers: range) -> str:
    return str([*numbers]) if len(numbers) <= _FEW else f"[{numbers[0]}, {numbers[1]}, …, {numbers[-1]}]"


_NUMBER = re.compile(r"[-+]?[0-9._]+(?:[eE][-+]?[0-9]+)?")
