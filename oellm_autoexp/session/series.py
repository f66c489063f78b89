"""Series of metrics, a file per job: points of an iteration, a time and a value, appended as log lines are read.

A file holds records of 24 bytes, little-endian: a word of metric number (12 bits), attempt (12 bits) and iteration
(40 bits), then the time (seconds since 1970) and the value as IEEE doubles. What a job's state says (`Written`) ties
them to how far its logs were read: so many bytes of the file count, and its metrics have these numbers. Whatever is
beyond was written by a monitor that died before it saved its session; the next points take its place.
"""

from __future__ import annotations

import operator
import os
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from oellm_autoexp.storage import trust
from oellm_autoexp.storage.session_files import SessionFiles

_RECORD = struct.Struct("<Qdd")
_ITERATION_BITS, _ATTEMPT_BITS = 40, 12
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
class Written:
    """How many bytes of a job's file count, and how many points each metric has there, in the order of its number."""

    size: int = 0
    points: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """The points of one metric, in the order in which they were read; the columns are equally long."""

    iterations: Sequence[int]
    times: Sequence[float]
    values: Sequence[float]
    attempts: Sequence[int]

    def __len__(self) -> int:
        return len(self.values)

    def current(self) -> Series:
        """Without the points that newer ones replace, so that the iterations rise.

        A run that goes on from a checkpoint repeats iterations: a point replaces all before it of its iteration and of
        later ones.
        """
        if all(map(operator.lt, self.iterations, self.iterations[1:])):
            return self
        kept: list[int] = []
        for number, iteration in enumerate(self.iterations):
            while kept and self.iterations[kept[-1]] >= iteration:
                kept.pop()
            kept.append(number)
        return Series(
            [self.iterations[number] for number in kept],
            [self.times[number] for number in kept],
            [self.values[number] for number in kept],
            [self.attempts[number] for number in kept],
        )


def file_of(session: Path, job: str) -> Path:
    """The file of a job's series. A job's name is a file's name."""
    return SessionFiles(session).series / f"{job}.points"


def append(path: Path, written: Written, attempt: int, points: Iterable[Point]) -> Written:
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


def _records(points: Iterable[Point], counts: dict[str, int], attempt: int) -> Iterator[bytes]:
    numbers = {name: number for number, name in enumerate(counts)}
    head = min(attempt, _MOST_ATTEMPTS) << _ITERATION_BITS
    for metric, iteration, at, value in points:
        number = numbers.get(metric)
        if number is None:
            if len(numbers) >= MOST_METRICS:
                continue
            number = numbers[metric] = len(numbers)
            counts[metric] = 0
        counts[metric] += 1
        step = counts[metric] if iteration is None else min(iteration, _MOST_ITERATIONS)
        yield _RECORD.pack(number << (_ATTEMPT_BITS + _ITERATION_BITS) | head | step, at, value)


def read(path: Path, written: Written, metrics: Iterable[str] | None = None) -> dict[str, Series]:
    """The series of a job by metric, as they were read from its logs (see Series.current); `metrics` None: all.

    Raises OSError, StateError; a file that is not there has none.
    """
    wanted = {name: number for number, name in enumerate(written.points) if metrics is None or name in set(metrics)}
    if not wanted or not written.size:
        return {}
    try:
        with trust.open_file(path, most=None, lenient=True) as file:
            data = file.read(written.size)
    except FileNotFoundError:
        return {}
    data = data[: len(data) - len(data) % _RECORD.size]
    heads, numbers = array("Q", data), array("d", data)
    if sys.byteorder == "big":
        heads.byteswap()
        numbers.byteswap()
    return {name: series for name, number in wanted.items() if len(series := _series(heads[0::3], numbers, number))}


def _series(heads: array[int], numbers: array[float], number: int) -> Series:
    """The points of the metric of this number."""
    first = number << (_ATTEMPT_BITS + _ITERATION_BITS)
    last = first | (1 << (_ATTEMPT_BITS + _ITERATION_BITS)) - 1
    chosen = [first <= head <= last for head in heads]
    own = list(compress(heads, chosen))
    return Series(
        [head & _MOST_ITERATIONS for head in own],
        array("d", compress(numbers[1::3], chosen)),
        array("d", compress(numbers[2::3], chosen)),
        [head >> _ITERATION_BITS & _MOST_ATTEMPTS for head in own],
    )
