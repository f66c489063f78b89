"""The keys of a sweep as paths: which of them are about the same value, and what is applied over what. Pure.

`a.b: {c: 1}` and `a.b.c: 1` set the same value. Mappings merge, anything else replaces, and the later one wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from oellm_autoexp.config.values.argument_names import spelled

Path = tuple[str, ...]

_PART = re.compile(r"[^+~./@\s][^./@]*")
_CHOSEN = ""  # no part of a path is empty


def plain(key: str) -> str:
    """The key that a sweep's key is about: `a.b` for `+a.b`, `++a.b` and `~a.b`."""
    return key.lstrip("+~")


@lru_cache(maxsize=65536)
def path_of(key: str) -> Path:
    """The path of the value that a key is about; the name of a group of configs (`backend/megatron`) is one part."""
    name = plain(spelled(key))
    return (name,) if "/" in name or "@" in name else tuple(name.split("."))


def is_part(key: Any) -> bool:
    """Whether a key of a mapping is one part of a path. `a.b` is not: in a mapping it is a name with a dot in it."""
    return isinstance(key, str) and _PART.fullmatch(key) is not None


def leaf_paths(key: str, value: Any) -> Iterator[tuple[Path, Any]]:
    """The paths that a key and its value set, each with its value. An empty mapping and `~key` set none.

    A text at the top (`backend: tiny_lm`) may choose a config of a group, which leaves what is below it to other keys.
    """
    if key.startswith("~"):
        return
    path = path_of(key)
    if isinstance(value, dict):
        for part, inner in value.items():
            if is_part(part):
                yield from leaf_paths(f"{plain(key)}.{part}", inner)
            else:
                yield (*path, str(part)), inner
    elif len(path) == 1 and (value is None or isinstance(value, str)):
        yield (*path, _CHOSEN), value
    else:
        yield path, value


class Taken:
    """Paths that are set, each by something that can be named."""

    def __init__(self) -> None:
        self._by: dict[Path, Any] = {}
        self._below: dict[Path, Path] = {}

    def add(self, path: Path, by: Any) -> None:
        """Note who sets a path; of several, the first is kept."""
        self._by.setdefault(path, by)
        for depth in range(1, len(path)):
            self._below.setdefault(path[:depth], path)

    def by(self, path: Path) -> Any:
        """Who sets this path, a part of its value, or a value that it is a part of; None if nobody does."""
        for depth in range(1, len(path) + 1):
            if path[:depth] in self._by:
                return self._by[path[:depth]]
        return self._by[self._below[path]] if path in self._below else None


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key, applied over others: to be set one after another in this order, so that the upper ones win.

    A mapping that has a path in common with the other side is taken apart into dotted keys.
    """
    if not lower or not upper:
        return {**lower, **upper}
    if any(map(_is_mapping, lower.values())) or any(map(_is_mapping, upper.values())):
        lower, upper = _apart(lower, upper), _apart(upper, lower)
        upper = {key: _merged(lower.get(key), value) for key, value in upper.items()}
    # A key of both is the upper's, in value and in place: `a: {x: 1}` below must not undo `a.x` above.
    return {**{key: value for key, value in lower.items() if key not in upper}, **upper}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _apart(values: Mapping[str, Any], others: Iterable[str]) -> Mapping[str, Any]:
    paths = [path_of(key) for key in others]
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = path_of(key)
        if isinstance(value, dict) and any(_related(path, other) for other in paths):
            found.update(dotted_keys(key, value))
        else:
            found[key] = value
    return found


def _related(one: Path, other: Path) -> bool:
    return one[: len(other)] == other[: len(one)]


def dotted_keys(key: str, value: Any) -> dict[str, Any]:
    """A mapping as dotted keys, as far as its keys are parts of a path: to set these is to set the mapping."""
    if not isinstance(value, dict) or not value or key.startswith("~"):
        return {key: value}
    name = f"++{plain(key)}" if key.startswith("+") else key
    found: dict[str, Any] = {}
    for part, inner in value.items():
        if is_part(part):
            found.update(dotted_keys(f"{name}.{part}", inner))
        else:
            found[key] = {**found.get(key, {}), part: inner}
    return found


def _merged(lower: Any, upper: Any) -> Any:
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    return {**lower, **{key: _merged(lower.get(key), value) for key, value in upper.items()}}


def frozen(value: Any) -> Any:
    """A hashable stand-in, equal for equal values, lists and mappings too. True and 1 differ, 1 and 1.0 do not."""
    if isinstance(value, Mapping):
        return ("mapping", tuple(sorted((str(key), frozen(item)) for key, item in value.items())))
    if isinstance(value, list | tuple):
        return ("list", tuple(frozen(item) for item in value))
    return ("bool", value) if isinstance(value, bool) else value
