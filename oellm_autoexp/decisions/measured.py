"""A job after the numbers that its log lines report: points of its series, and its progress. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter, itemgetter

from oellm_autoexp.rules import progress
from oellm_autoexp.rules.iteration_lines import iterations_of
from oellm_autoexp.rules.measurements import Iterations, Measurement
from oellm_autoexp.rules.metrics import MetricReader, with_iterations
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.series import Point, Rows, points_of

_offset = attrgetter("offset")


def measured(
    job: JobState, reader: MetricReader, data: bytes, now: float, *, own: bool
) -> tuple[JobState, frozenset[str]]:
    """The job after whole lines of its own log, or of another file (not `own`: only what `reader` names is read).

    With it the rules whose patterns took too long.
    """
    many, others = iterations_of(data) if own else ([], None)
    found, too_slow = reader.read(data, known=own, spans=others, but=job.run.switched_off)
    if not many and not found:
        return job, too_slow
    many, found = _without_clashes(many, found)
    points = _points(many, found, job.progress.iteration, now)
    logs = replace(job.logs, unwritten=(*job.logs.unwritten, *points)) if points else job.logs
    newest = sorted([*(each.line(-1) for each in many), *found], key=_offset)  # earlier lines report the same metrics
    return replace(job, logs=logs, progress=progress.after(job.progress, newest)), too_slow


def _without_clashes(
    many: Sequence[Iterations], found: list[Measurement]
) -> tuple[list[Iterations], list[Measurement]]:
    """Iterations, and measurements; the lines of iterations between which another one reports the same metric too."""
    kept: list[Iterations] = []
    lines: list[Measurement] = []
    for each in many:
        start = bisect_left(found, each.offsets[0], key=_offset)
        between = found[start : bisect_right(found, each.offsets[-1], key=_offset)]
        if all(each.values.keys().isdisjoint(one.values) for one in between):
            kept.append(each)
        else:
            lines += map(each.line, range(len(each.offsets)))
    return kept, sorted([*lines, *found], key=_offset) if lines else found


def _points(
    many: Sequence[Iterations], found: Iterable[Measurement], iteration: int | None, now: float
) -> list[Point | Rows]:
    """The points of lines, so that those of one metric, and the first ones of all metrics, are in the lines' order."""
    offsets = [offset for each in many for offset in each.offsets]
    iterations = [number for each in many for number in each.iterations]
    reported: list[tuple[int, Iterable[Point | Rows]]] = [
        (each.offsets[0], [Rows(tuple(each.values), each.iterations, times, tuple(each.values.values()))])
        for each in many
        for times in [[now] * len(each.offsets) if each.times is None else each.times]
    ]
    reported += [
        (one.offset, points_of(one.values, number, now if one.at is None else one.at))
        for one, number in with_iterations(found, iteration, offsets, iterations)
    ]
    reported.sort(key=itemgetter(0))
    return [point for _, points in reported for point in points]
