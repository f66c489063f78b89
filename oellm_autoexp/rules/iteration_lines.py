"""Lines of iterations of Megatron-LM, many at once. Pure.

Nearly all lines of a training's log are such lines, with the same fields. They are split into columns, one for each
field, and a column is checked and converted by a few calls for all lines. If one of the lines differs, each half of the
lines is tried by itself. The lines of small parts that differ are left to metrics.known_lines, which reads line by
line; the results are the same.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from itertools import accumulate, compress, count, repeat
from operator import add, contains, mul

from oellm_autoexp.rules.measurements import Iterations, Span
from oellm_autoexp.rules.metrics import (
    BEFORE_ITERATION,
    ITERATION_MARK,
    NUMBER,
    OTHER_MARKS,
    megatron_name,
    seconds_of,
)

_FEW = 8
"""So few lines are read line by line."""
_MANY = 512
"""So many lines are read at a time, as their pieces fit into a processor's cache."""
_LEAST_PIECES = 3
_NOT_HERE = (*OTHER_MARKS, b"\x1b")
"""What is left to the reading line by line: lines that report more than an iteration, and coloured ones."""
_MARKS = (b"] iteration ", b" elapsed time per iteration (")
"""What lines with a time have and few others, and what those without any have. Of the first mark of a log's part the
lines are looked at."""
_HEAD = re.compile(
    rb"\|([^|]*?)(?:\[(2\d{3}-\d\d-\d\d \d\d:\d\d):([0-5]\d(?:\.\d{1,6})?)\]|(?<=["
    + BEFORE_ITERATION
    + rb"])) *iteration +(\d{1,18})/\s*(\d{1,18}) (?=\|)"
)
"""What stands before the first field: a label, the time to the minute, seconds, and the iteration."""
_NAME = re.compile(rb" [^|:]{1,80}: ")
_NUMBERS = re.compile(rb"(?:\| *+" + NUMBER + rb" )*+", re.IGNORECASE)


def iterations_of(data: bytes) -> tuple[list[Iterations], list[Span]]:
    """What is read by columns of whole lines of a log, and the spans of the other lines."""
    lines = data.split(b"\n")
    offsets = list(map(add, accumulate(map(len, lines), initial=0), count()))
    mark = next((mark for mark in _MARKS if mark in data), ITERATION_MARK)
    marked = list(map(contains, lines, repeat(mark)))
    found, begins, behind = (list(compress(column, marked)) for column in (lines, offsets, offsets[1:]))
    read: list[Iterations] = []
    for start in range(0, len(found), _MANY):
        part = slice(start, start + _MANY)
        read += _halved(found[part], begins[part], behind[part])
    ends = [0, *(end for each in read for end in each.ends)]
    starts = [*(offset for each in read for offset in each.offsets), len(data)]
    return read, [(end, start) for end, start in zip(ends, starts, strict=True) if end < start]


def _halved(lines: Sequence[bytes], offsets: Sequence[int], ends: Sequence[int]) -> list[Iterations]:
    """What is read of lines that have the same fields, and of the halves of others."""
    if len(lines) < _FEW:
        return []
    if (read := _read(lines, offsets, ends)) is not None:
        return [read]
    half = len(lines) // 2
    first, second = slice(half), slice(half, None)
    return [
        *_halved(lines[first], offsets[first], ends[first]),
        *_halved(lines[second], offsets[second], ends[second]),
    ]


def _read(lines: Sequence[bytes], offsets: Sequence[int], ends: Sequence[int]) -> Iterations | None:
    """What lines report; None if one of them has other fields than the first, or what is not read here."""
    first, rows = lines[0], len(lines)
    width = first.count(b"|") + 2
    if width < _LEAST_PIECES or any(mark in first for mark in _NOT_HERE):
        return None
    pieces = (b"|\n|".join(lines) + b"|\n").split(b"|")
    if len(pieces) != width * rows or pieces[width - 1 :: width].count(b"\n") != rows:
        return None
    head, *fields, rest, _ = (pieces[number::width] for number in range(width))
    if rest.count(rest[0]) != rows or (read := _heads(head)) is None:
        return None
    values: dict[str, Sequence[float]] = {}
    for field in fields:
        if (name := _NAME.match(field[0])) is None or (numbers := _numbers(field, name[0])) is None:
            return None
        known, factor = megatron_name(name[0][1:-2])
        values[known] = numbers if factor == 1.0 else array("d", map(mul, numbers, repeat(factor)))
    if not any(name.endswith("loss") for name in values):
        values["loss"] = array("d", [math.nan]) * rows
    return Iterations(offsets, ends, *read, values)


def _heads(head: Sequence[bytes]) -> tuple[Sequence[int], Sequence[int], Sequence[float] | None] | None:
    """Iterations, totals and times (None: no line has one); None if a line begins in another way."""
    found = _HEAD.findall(b"|" + b"|".join(head) + b"|")
    if len(found) != len(head):
        return None
    labels, minutes, seconds, iterations, totals = zip(*found, strict=True)
    if any(mark in label for label in set(labels) for mark in (ITERATION_MARK, *_NOT_HERE)):
        return None
    if not any(minutes):
        return list(map(int, iterations)), list(map(int, totals)), None
    began = {minute: at for minute in set(minutes) if (at := seconds_of(minute)) is not None}
    if began.keys() != set(minutes):
        return None
    times = map(add, map(began.__getitem__, minutes), map(float, seconds))  # as exact as the time of a whole date
    return list(map(int, iterations)), list(map(int, totals)), array("d", times)


def _numbers(field: Sequence[bytes], name: bytes) -> Sequence[float] | None:
    """The numbers of a field; None if one of them has another name, or is no number."""
    rows = len(field)
    if field.count(field[0]) == rows:  # as of most lines: size of a batch, skipped iterations
        field = field[:1]
    numbers = (b"|" + b"|".join(field)).split(b"|" + name)
    if len(numbers) != len(field) + 1 or not _NUMBERS.fullmatch(b"|".join(numbers)):
        return None
    return array("d", map(float, numbers[1:])) * (rows // len(field))
