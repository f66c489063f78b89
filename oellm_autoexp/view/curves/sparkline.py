"""A curve in one line of text: `█▆▅▃▂▁▁`. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-~=+*#"
"""In place of the blocks, from low to high, where an encoding has none."""


def sparkline(values: Sequence[float | None], width: int, *, ascii_only: bool = False) -> str:
    """Values in at most `width` characters, the lowest as the lowest block and the highest as the highest one.

    Where the values are more than that, each character is the mean of its part of them. What is no finite number is
    left out of a mean, and is a blank where nothing else is there. Values that are all the same are a line in the
    middle.
    """
    signs = ASCII if ascii_only else BLOCKS
    means = [_mean(part) for part in _parts(values, width)]
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(signs) - 1) / (high - low) if math.isfinite(high - low) and high > low else None
    return "".join(
        " " if mean is None else signs[len(signs) // 2 - 1 if scale is None else round((mean - low) * scale)]
        for mean in means
    )


def can_encode(encoding: str | None) -> bool:
    """Whether an encoding has the blocks, braille and boxes; None: it is not known, and is taken for one that has."""
    try:
        (BLOCKS + "⣿│└─").encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _parts(values: Sequence[float | None], width: int) -> list[Sequence[float | None]]:
    """Values in so many parts of nearly the same length, in their order."""
    count = min(len(values), max(0, width))
    bounds = [round(number * len(values) / count) for number in range(count + 1)] if count else []
    return [values[start:end] for start, end in pairwise(bounds)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if known and math.isfinite(whole := sum(known)):
        return whole / len(known)
    finite = [value for value in known if math.isfinite(value)]
    return sum(value / len(finite) for value in finite) if finite else None  # a sum of large values may be infinite
