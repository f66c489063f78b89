"""Series of metrics, a file per job: points of an iteration, a time and a value, appended as log lines are read.

A file holds records of 24 bytes, little-endian: a word of metric number (12 bits), attempt (12 bits) and iteration
(40 bits), then the time (seconds since 1970) and the value as IEEE doubles. What a job's state says (`Written`) ties
them to how far its logs were read: so many bytes of the file count, and its metrics have these numbers. Whatever is
beyond was written by a monitor that died before it saved its session; the next points take its place.
"""

from __future__ import annotations

import functools
import operator
import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from oellm_autoexp.core.nouns import Series
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.session_files import SessionFiles

_RECORD = struct.Struct("<Qdd")
_ITERATION_BITS, _ATTEMPT_BITS = 40, 12
_OWNER_BYTES = 3
"""The bytes of a head after its iteration: number and attempt."""
_MOST_ATTEMPTS = (1 << _ATTEMPT_BITS) - 1
_MOST_ITERATIONS = (1 << _ITERATION_BITS) - 1
MOST_METRICS = 256
"""Metrics of one job that are kept; further ones are left out."""


class Point(NamedTuple):
    """A metric's number in a log line; `iteration` None: it is of no iteration, and is counted instead."""

    metric: str
    iteration: int | None
    at: float
    value: float


@dataclass(frozen=True)
class Rows:
    """The points of lines that have the same metrics: for each metric a column, with a number of each line."""

    metrics: tuple[str, ...]
    iterations: Sequence[int]
    times: Sequence[float]
    columns: tuple[Sequence[float], ...]


def points_of(values: Mapping[str, float], iteration: int | None, at: float) -> Iterator[Point]:
    """The points of one line's numbers by metric.

    There are a dozen in each line of a log: this takes half of the time of Point(...).
    """
    made = zip(values, repeat(iteration), repeat(at), values.values(), strict=False)
    return map(_point, made)


_point: Callable[[tuple[str, int | None, float, float]], Point] = functools.partial(tuple.__new__, Point)


@dataclass(frozen=True)
class Written:
    """How many bytes of a job's file count, and how many points each metric has there, in the order of its number."""

    size: int = 0
    points: dict[str, int] = field(default_factory=dict)


def file_of(session: Path, job: str) -> Path:
    """The file of a job's series. A job's name is a file's name."""
    return SessionFiles(session).series / f"{job}.points"


def append(path: Path, written: Written, attempt: int, points: Iterable[Point | Rows]) -> Written:
    """Write points after those that count; what counts then. Raises OSError, StateError."""
    counts = dict(written.points)
    records = b"".join(_records(points, counts, attempt))
    if not records:
        return written
    path.parent.mkdir(mode=0o755, exist_ok=True)
    with trust.open_to_append(path) as file:
        there = os.fstat(file.fileno()).st_size // _RECORD.size * _RECORD.size  # less than counts, after a power cut
        kept = min(written.size, there)
        file.truncate(kept)
        file.write(records)
    return Written(kept + len(records), counts)


def _records(points: Iterable[Point | Rows], counts: dict[str, int], attempt: int) -> Iterator[bytes]:
    numbers = {name: number for number, name in enumerate(counts)}
    attempt = min(attempt, _MOST_ATTEMPTS)

    def number_of(metric: str) -> int | None:
        if metric not in numbers and len(numbers) < MOST_METRICS:
            numbers[metric] = len(numbers)
            counts[metric] = 0
        return numbers.get(metric)

    for each in points:
        if isinstance(each, Rows):
            columns = {}
            for metric, column in zip(each.metrics, each.columns, strict=True):
                if (number := number_of(metric)) is not None:
                    counts[metric] += len(column)
                    columns[number] = column
            yield _packed(each, columns, attempt)
            continue
        metric, iteration, at, value = each
        if (number := number_of(metric)) is not None:
            counts[metric] += 1
            step = counts[metric] if iteration is None else min(iteration, _MOST_ITERATIONS)
            yield _RECORD.pack(_owner(number, attempt) << _ITERATION_BITS | step, at, value)


def _owner(number: int, attempt: int) -> int:
    """What stands in a record's head before its iteration."""
    return number << _ATTEMPT_BITS | attempt


def _packed(rows: Rows, columns: Mapping[int, Sequence[float]], attempt: int) -> bytes:
    """The records of rows, line by line; `columns` by the number of the metric."""
    length, width = len(rows.iterations), 3 * len(columns)
    steps = array("Q", [step if step < _MOST_ITERATIONS else _MOST_ITERATIONS for step in rows.iterations])
    times = _words(rows.times)
    words = array("Q", bytes(8 * width * length))
    for place, column in enumerate(columns.values()):
        words[3 * place :: width] = steps
        words[3 * place + 1 :: width] = times
        words[3 * place + 2 :: width] = _words(column)
    if sys.byteorder == "big":
        words.byteswap()
    records = bytearray(words)
    for place, number in enumerate(columns):
        owner = _owner(number, attempt).to_bytes(_OWNER_BYTES, "little")
        for byte, part in enumerate(owner, _RECORD.size * place + _ITERATION_BITS // 8):
            records[byte :: 8 * width] = bytes([part]) * length
    return bytes(records)


def _words(numbers: Sequence[float]) -> array[int]:
    """The bits of doubles."""
    return array("Q", array("d", numbers).tobytes())


def read(
    path: Path, written: Written, metrics: Iterable[str] | None = None, *, most: int | None = None
) -> dict[str, Series]:
    """The series of a job by metric, as they were read from its logs (see Series.current); `metrics` None: all.

    `most`: of a file with more bytes, only about so many are read, half of them at its beginning (Series.headless).
    Raises OSError, StateError; a file that is not there has none.
    """
    wanted = {name: number for number, name in enumerate(written.points) if metrics is None or name in set(metrics)}
    columns = _columns_of(path, written, most) if wanted else None
    if columns is None:
        return {}
    return {name: series for name, number in wanted.items() if len(series := columns.series(number))}


def current_values(path: Path, written: Written, metric: str) -> Sequence[float]:
    """The values of a metric that no later attempt has replaced: those of `read(…)[metric].current()`, but faster.

    Raises OSError, StateError; a metric, or a file, that is not there has none.
    """
    number = list(written.points).index(metric) if metric in written.points else None
    columns = None if number is None else _columns_of(path, written)
    if number is None or columns is None:
        return ()
    heads, _, values = columns.of(number)
    one_attempt = len(heads) > 0 and heads[0] >> _ITERATION_BITS == heads[-1] >> _ITERATION_BITS
    if one_attempt and all(map(operator.lt, heads, heads[1:])):  # so that the iterations rise
        return values
    return columns.series(number).current().values


def _columns_of(path: Path, written: Written, most: int | None = None) -> _Columns | None:
    """The records of a job (`most`: see read); None where nothing is written. Raises OSError, StateError."""
    if not written.size:
        return None
    try:
        with trust.open_file(path, most=None, lenient=True) as file:
            if most is None or written.size <= most:
                data, gap = file.read(written.size), None
            else:
                gap = most // 2 // _RECORD.size
                data = _ends(file, written.size, gap * _RECORD.size)
    except FileNotFoundError:
        return None
    return _Columns(data[: len(data) - len(data) % _RECORD.size], gap)


def _ends(file: BinaryIO, size: int, each: int) -> bytes:
    """The first and the last bytes of a file, so many each."""
    first = file.read(each)
    file.seek(size - each)
    return first + file.read(each)


class _Columns:
    """Records by columns. A file may hold millions: what can be is done by one call for all of them.

    `gap`: after so many records some are missing.
    """

    def __init__(self, data: bytes, gap: int | None = None) -> None:
        heads, numbers = array("Q", data), array("d", data)
        if sys.byteorder == "big":
            heads.byteswap()
            numbers.byteswap()
        self._heads, self._times, self._values = heads[0::3], numbers[1::3], numbers[2::3]
        self._first, self._second = data[7 :: _RECORD.size], data[6 :: _RECORD.size]
        self._headless = frozenset[int]()
        if gap is not None:
            before, after = map(_attempt_of, self._heads[gap - 1 : gap + 1])
            self._headless = frozenset({after} - {before})

    def of(self, number: int) -> tuple[array[int], array[float], array[float]]:
        """The heads, times and values of the metric of this number."""
        chosen = self._chosen(number)
        if (even := _even(chosen)) is not None:
            return self._heads[even], self._times[even], self._values[even]
        times, values = (array("d", compress(column, chosen)) for column in (self._times, self._values))
        return array("Q", compress(self._heads, chosen)), times, values

    def series(self, number: int) -> Series:
        """The points of the metric of this number."""
        own, times, values = self.of(number)
        return Series(
            [head & _MOST_ITERATIONS for head in own],
            times,
            values,
            [head >> _ITERATION_BITS & _MOST_ATTEMPTS for head in own],  # a call of _attempt_of for each takes long
            self._headless,
        )

    def _chosen(self, number: int) -> bytes:
        """For each record 1 if it is of this metric, else 0: its number is a head's first byte and half of the next."""
        high, low = _signs_of(number)
        first, second = self._first.translate(high), self._second.translate(low)
        both = int.from_bytes(first, "little") & int.from_bytes(second, "little")
        return both.to_bytes(len(first), "little")


def _attempt_of(head: int) -> int:
    return head >> _ITERATION_BITS & _MOST_ATTEMPTS


@functools.lru_cache(MOST_METRICS)
def _signs_of(number: int) -> tuple[bytes, bytes]:
    """Tables that make 1 of the two bytes of a head that hold this number, and 0 of others."""
    high, low = number >> 4, number & 15
    return bytes(byte == high for byte in range(256)), bytes(byte >> 4 == low for byte in range(256))


def _even(chosen: bytes) -> slice | None:
    """The places of the 1s as a slice if each is as far from the next; most lines of a log have the same metrics."""
    first = chosen.find(1)
    second = chosen.find(1, first + 1)
    places = slice(max(first, 0), chosen.rfind(1) + 1, max(second - first, 1))
    found = chosen[places]
    return places if len(found) == found.count(1) == chosen.count(1) else None
