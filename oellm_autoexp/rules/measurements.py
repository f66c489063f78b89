"""What log lines report: numbers by metric, and the iteration that they are about. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

Span = tuple[int, int]
"""Whole lines of a piece of a log: the offsets of the first one and after the last one."""


class Measurement(NamedTuple):
    """What one line reports: its offset in the data, the iteration that it is about, and numbers by metric.

    `at`: the line's own time, in seconds since 1970 (None: it has none). `whole`: it holds all of an iteration, so that
    a metric that is not in it is not known of that iteration.
    """

    offset: int
    values: Mapping[str, float] = MappingProxyType({})
    iteration: int | None = None
    total: int | None = None
    saved: int | None = None
    """The iteration whose checkpoint is complete."""
    at: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class Iterations:
    """What lines of iterations with the same metrics report: a column for each part of a Measurement.

    `ends`: the offset after each line. `times`: None if the lines have none.
    """

    offsets: Sequence[int]
    ends: Sequence[int]
    iterations: Sequence[int]
    totals: Sequence[int]
    times: Sequence[float] | None
    values: Mapping[str, Sequence[float]]

    def line(self, number: int) -> Measurement:
        """What one of the lines reports."""
        return Measurement(
            self.offsets[number],
            {name: column[number] for name, column in self.values.items()},
            iteration=self.iterations[number],
            total=self.totals[number],
            at=None if self.times is None else self.times[number],
            whole=True,
        )
