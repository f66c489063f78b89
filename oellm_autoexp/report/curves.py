"""The curves of a report: the series of every job, shortened to what fits into a page, and a summary of each. Pure.

An entry of `Curves.entries` is: number of the job, number of the metric, first iteration, points that are kept, their
offset in what is packed, points that there were; and of all points the last value, the least and its iteration, the
greatest and its iteration (null: none is a number). Metrics that begin with `@` say where an iteration is on other
axes: `@time` in seconds since 1970 (since the value in the place of `points that there were`), `@tokens` in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, count
from typing import Any

from oellm_autoexp.core.nouns import JobSpec, Series
from oellm_autoexp.report.numbers import Packed, corners, extremes, short
from oellm_autoexp.session.job_state import JobState

TIME, TOKENS = "@time", "@tokens"
MOST_POINTS, _FEWEST_POINTS = 1000, 16
"""Points of one curve that are kept, at most and if there are very many curves."""
_ALL_POINTS, _EXACT_POINTS = 2_500_000, 400_000
"""Points of all curves together; up to which number they are kept in full precision."""
_SEQUENCE_LENGTH = ("--seq-length", "--seq_length")
_LENGTHS_OF_A_LINE = 400
"""A time or number of tokens that is read off between two points is wrong by this part of the whole at most."""

ReadSeries = Callable[[JobState], Mapping[str, Series]]


@dataclass(frozen=True)
class Curves:
    """All curves of a report (see above). `most_points`: how many of each curve were kept at most."""

    metrics: list[str]
    entries: list[list[Any]]
    most_points: int
    exact: bool
    packed: str

    @classmethod
    def of(cls, jobs: Iterable[tuple[int, JobSpec, JobState | None, ReadSeries]]) -> Curves:
        """The curves of jobs: of each its number, what was planned, what is known, and how its series are read."""
        known = [(number, spec, job, read) for number, spec, job, read in jobs if job is not None]
        counts = [number for _, _, job, _ in known for number in job.logs.series.points.values()]
        most = _most_points(counts)
        packed = Packed(exact=sum(min(number, most) for number in counts) <= _EXACT_POINTS)
        metrics: dict[str, int] = {}
        entries: list[list[Any]] = []
        for number, spec, job, read in known:
            current = {name: series.current() for name, series in read(job).items()} if job.logs.series.points else {}
            for name, series in current.items():
                metric = metrics.setdefault(name, len(metrics))
                entries.append([number, metric, *_curve(series, most, packed)])
            for name, entry in _axes(spec, current, packed):
                entries.append([number, metrics.setdefault(name, len(metrics)), *entry])
        return cls(list(metrics), entries, most, packed.exact, packed.text())


def _most_points(counts: Sequence[int]) -> int:
    """The most points of one curve with which all of these together are not too many."""
    most = MOST_POINTS
    while most > _FEWEST_POINTS and sum(min(number, most) for number in counts) > _ALL_POINTS:
        most = max(_FEWEST_POINTS, most * 9 // 10)
    return most


def _curve(series: Series, most: int, packed: Packed) -> list[Any]:
    kept = extremes(series.values, most)
    iterations = [series.iterations[index] for index in kept]
    offset = packed.add(iterations, [series.values[index] for index in kept])
    return [iterations[0], len(kept), offset, len(series), *_summary(series)]


def _summary(series: Series) -> list[float | str | None]:
    """The last value, the least one and its iteration, the greatest one and its iteration."""
    values: Sequence[float] = series.values
    finite = values if all(map(math.isfinite, values)) else [value for value in values if math.isfinite(value)]
    if not finite:
        return [short(values[-1]), *[None] * 4]
    low, high = min(finite), max(finite)
    at_low, at_high = (series.iterations[_place(values, value)] for value in (low, high))
    return [short(values[-1]), short(low), at_low, short(high), at_high]


def _place(values: Sequence[float], wanted: float) -> int:
    return next(compress(count(), map(wanted.__eq__, values)))


def _axes(spec: JobSpec, current: Mapping[str, Series], packed: Packed) -> Iterable[tuple[str, list[Any]]]:
    """Where the iterations of a job are in time, and in tokens where that is known."""
    if not current:
        return
    longest = max(current.values(), key=len)
    yield TIME, _line(longest.iterations, longest.times, longest.times[0], packed)
    if (tokens := token_counts(spec, current)) is not None:
        yield TOKENS, _line(*tokens, 0.0, packed)


def token_counts(spec: JobSpec, current: Mapping[str, Series]) -> tuple[Sequence[int], Sequence[float]] | None:
    """Iterations of a job, and the tokens consumed at each; None where that is not known.

    They are the metric `tokens`, or `samples` of as many tokens as Megatron's `--seq-length` says.
    """
    if (tokens := current.get("tokens")) is not None:
        return tokens.iterations, tokens.values
    samples, length = current.get("samples"), _sequence_length(spec.argv)
    if samples is None or length is None:
        return None
    return samples.iterations, [value * length for value in samples.values]


def _sequence_length(words: Sequence[str]) -> int | None:
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        given = value if equals else after
        if name in _SEQUENCE_LENGTH and given.isascii() and given.isdecimal() and len(given) <= 12:
            return int(given)
    return None


def _line(xs: Sequence[int], ys: Sequence[float], origin: float, packed: Packed) -> list[Any]:
    known = [index for index, value in enumerate(ys) if math.isfinite(value)]
    xs, ys = [xs[index] for index in known], [ys[index] - origin for index in known]
    if not xs:
        return [0, 0, packed.add([], []), origin, *[None] * 5]
    kept = corners(xs, ys, max(1e-3, (max(ys) - min(ys)) / _LENGTHS_OF_A_LINE))
    offset = packed.add([xs[index] for index in kept], [ys[index] for index in kept])
    return [xs[0], len(kept), offset, origin, *[None] * 5]
