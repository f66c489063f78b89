"""Limits of a config, far above what any real one needs: beyond them planning would hang or run out of memory. Pure.

A few lines of YAML can name a billion values (aliases of aliases, lists that refer to lists, texts that double):
what is limited is what a config comes to, not how long it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

DEEPEST = 60
"""Levels of mappings and lists within each other, and parts of a dotted key."""
MOST_ALIASED = 50_000
"""Values that the aliases and merge keys of one file add to it."""
MOST_VALUES = 100_000
"""The number of values that the interpolations of one job may produce."""
LONGEST_TEXT = 200_000
"""Characters of one text that an interpolation makes. An argument of a Linux program has 131,072 at most."""
MOST_CHARACTERS = 16_000_000
"""Characters of all texts that the interpolations of one job make."""
LONGEST_INTERPOLATED = 200_000
"""Characters of a text with interpolations, as it is written."""
LONGEST_OVERRIDE = 100_000
"""Characters of one override: the command line's own limit is 131,072."""
MOST_DIGITS = 1000
"""Digits of a whole number. Python itself reads and writes at most 4300."""
MOST_BITS = 4096
"""Bits of a whole number that is computed."""
MOST_BYTES = 64 << 20
"""Bytes of one file."""
_CHARACTERS_PER_VALUE = 64


def shortened(text: object, most: int = 200) -> str:
    """A value in a message: its repr, cut where it is long."""
    shown = repr(text[: most + 1] if isinstance(text, str) else text) if _is_short(text, most) else f"a {_kind(text)}"
    return shown if len(shown) <= most + 2 else f"{shown[:most]}…{shown[0] if isinstance(text, str) else ''}"


def _is_short(value: object, most: int) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= MOST_BITS
    return isinstance(value, str | float | bool | None) or (isinstance(value, list | dict) and size(value)[0] <= most)


def _kind(value: object) -> str:
    return {int: "very large number", list: "long list", dict: "large mapping"}.get(type(value), type(value).__name__)


def size(value: Any, known: dict[int, tuple[int, int]] | None = None) -> tuple[int, int]:
    """The number of values in a value, repeated ones counted each time, and its depth.

    Long texts count as several. `known` keeps the sizes of containers by `id`, as long as these are alive.
    """
    if isinstance(value, str):
        return 1 + len(value) // _CHARACTERS_PER_VALUE, 0
    if not isinstance(value, dict | list):
        return 1, 0
    known = {} if known is None else known
    if (found := known.get(id(value))) is None:
        items: Iterable[Any] = value.values() if isinstance(value, dict) else value
        count, depth = 1, 0
        for item in items:
            more, below = size(item, known)
            count, depth = count + more, max(depth, below)
        found = known[id(value)] = count, depth + 1
    return found
