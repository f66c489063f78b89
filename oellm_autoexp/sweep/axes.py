"""What counts as an axis of a grid: a list, also further inside of a mapping, and an interpolation to one. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from oellm_autoexp.config.limits import shortened
from oellm_autoexp.errors import Problem
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


def bracket_problems(text: Any, where: str) -> list[Problem]:
    """What is wrong with an axis of one text that looks like several values: `1, 2` without its brackets."""
    if not isinstance(text, str) or "${" in text or not re.fullmatch(r"[^,\[\](){}'\"]+(,[^,\[\](){}'\"]+)+", text):
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or not (", " in text or all(map(_NUMBER.fullmatch, parts))):
        return []
    hint = f"write [{shortened(', '.join(parts))[1:-1]}], or [{shortened(text)}] for one text"
    return [Problem(f"{shortened(text)} is one text, not a list", where, hint)]


_NUMBER = re.compile(r"[-+]?[0-9._]+(?:[eE][-+]?[0-9]+)?")
