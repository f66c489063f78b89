"""Columns of numbers for a page: made shorter without losing what is seen, and packed into few bytes. Pure.

A curve is packed as two columns, of whole numbers (the differences of its iterations) and of IEEE single-precision
numbers, each byte of all numbers after the other: so they compress well. All together are one zlib stream, in base64.
"""

from __future__ import annotations

import base64
import math
import sys
import zlib
from array import array
from collections.abc import Sequence
from itertools import pairwise

_MOST_STEP = 0xFFFFFFFF
_HALF_OF_THE_LAST_BYTE = b"\x80\x00\x00\x00"


def extremes(values: Sequence[float], most: int) -> Sequence[int]:
    """Which of many values to keep, about `most` of them, so that a curve of them looks as that of all.

    Kept are the first and the last, and of each stretch the least, the greatest and the first that is no number.
    """
    count = len(values)
    if count <= most:
        return range(count)
    stretches = max(1, (most - 2) // 2)
    whole = all(map(math.isfinite, values))
    kept = {0, count - 1}
    for number in range(stretches):
        first = 1 + number * (count - 2) // stretches
        part = values[first : 1 + (number + 1) * (count - 2) // stretches]
        if not whole:
            odd = next((index for index, value in enumerate(part) if not math.isfinite(value)), None)
            if odd is not None:
                kept.add(first + odd)
            finite = [value for value in part if math.isfinite(value)]
            if not finite:
                continue
            kept |= {first + part.index(min(finite)), first + part.index(max(finite))}
        elif part:
            kept |= {first + part.index(min(part)), first + part.index(max(part))}
    return sorted(kept)


def corners(xs: Sequence[float], ys: Sequence[float], tolerance: float) -> list[int]:
    """Which points of a line to keep, so that straight pieces between them are nowhere further off than `tolerance`.

    `xs` rise. For lines that are nearly straight, such as time over iterations (a swinging door).
    """
    count = len(xs)
    if count <= 2:
        return list(range(count))
    kept, start = [0], 0
    low, high = -math.inf, math.inf
    for index in range(1, count):
        run = xs[index] - xs[start]
        slope = (ys[index] - ys[start]) / run
        if not low <= slope <= high:
            start = index - 1
            kept.append(start)
            run = xs[index] - xs[start]
            low, high = -math.inf, math.inf
        low = max(low, (ys[index] - ys[start] - tolerance) / run)
        high = min(high, (ys[index] - ys[start] + tolerance) / run)
    kept.append(count - 1)
    return kept


def short(value: float | None) -> float | str | None:
    """A number of seven digits, as single precision has them; `nan`, `inf` and `-inf` as texts, as JSON has no such."""
    if value is None or type(value) is int:
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else str(value)


class Packed:
    """Packs curves one after the other. `exact`: with four bytes a value, else three (a relative error of 2**-16)."""

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, iterations: Sequence[int], values: Sequence[float]) -> int:
        """The offset, in what is unpacked, of a curve whose iterations rise: its steps, then its values."""
        offset = self._size
        steps = [min(after - before, _MOST_STEP) for before, after in pairwise(iterations)]
        self._append(_planes(array("I", [0, *steps][: len(iterations)]).tobytes(), drop=0))
        data = array("f", values).tobytes()
        if not self.exact:
            data = _rounded(data)
        self._append(_planes(data, drop=0 if self.exact else 1))
        return offset

    def _append(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)

    def text(self) -> str:
        """All of them, compressed, in base64."""
        return base64.b64encode(zlib.compress(b"".join(self._pieces), 6)).decode()


def _planes(data: bytes, drop: int) -> bytes:
    """The bytes of 32-bit numbers by their place, the lowest first, without the `drop` lowest of each."""
    order = range(4) if sys.byteorder == "little" else range(3, -1, -1)
    return b"".join(data[place::4] for place in [*order][drop:])


def _rounded(data: bytes) -> bytes:
    """Single-precision numbers rounded to their three upper bytes: half of what the last byte holds is added to each.

    As one large number, since no carry leaves a number: infinity and those that are no number end in zeros.
    """
    count = len(data) // 4
    if sys.byteorder == "big":
        halves = _HALF_OF_THE_LAST_BYTE[::-1] * count
        return (int.from_bytes(data, "big") + int.from_bytes(halves, "big")).to_bytes(len(data), "big")
    halves = _HALF_OF_THE_LAST_BYTE * count
    return (int.from_bytes(data, "little") + int.from_bytes(halves, "little")).to_bytes(len(data), "little")
