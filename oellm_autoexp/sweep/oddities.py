"""What in a sweep section is right, and most likely not what was meant. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.sweep.expander import KEYWORDS
from oellm_autoexp.sweep.paths import plain

_ROOT = CONFIG / "sweep"
_NODES = ("configs", "groups")
_VALUES = ("defaults", "base_values")


def lists_beside_axes(sweep: Any, where: Location = _ROOT) -> Iterator[tuple[Location, str]]:
    """The places and plain keys of lists that are one value each, as they stand beside `params` and `grids`."""
    for index, entry in enumerate(sweep if isinstance(sweep, list) else ()):
        yield from lists_beside_axes(entry, where / index)
    for key, value in sweep.items() if isinstance(sweep, dict) else ():
        at = where / str(key)
        if key in _NODES or key in _VALUES:
            yield from lists_beside_axes(value, at)
        elif key not in KEYWORDS and isinstance(value, list) and len(value) > 1:
            yield at, plain(str(key))


def filters(sweep: Any, where: Location = _ROOT) -> Iterator[tuple[Location, str]]:
    """The places and texts of all filters."""
    for index, entry in enumerate(sweep if isinstance(sweep, list) else ()):
        yield from filters(entry, where / index)
    for key, value in sweep.items() if isinstance(sweep, dict) else ():
        if key in _NODES:
            yield from filters(value, where / str(key))
        elif key == "filter" and isinstance(value, str):
            yield where / str(key), value
