"""What an attempt of a job took: seconds of an iteration, of its start-up, of a checkpoint; memory. Pure.

All is taken from the series of its metrics, which hold the time of each log line, and from its session's times.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from oellm_autoexp.core.nouns import Record, Series
from oellm_autoexp.core.states import FINAL, RUNNING, SUCCESS

if TYPE_CHECKING:  # plans are made without sessions
    from oellm_autoexp.session.job_state import JobState

METRICS = ("seconds", "loss", "memory")
"""The metrics that are needed: what an iteration took as the log says it, else the times of lines with a loss."""
_SUBMITTED = "submitted"
_MOST_APART_SECONDS = 60
"""By how much the clocks of two machines may differ."""


_MOST_SECONDS = 1e9
Seconds = Annotated[float, Field(ge=0, le=_MOST_SECONDS)]
"""What something may have taken; NaN is refused by that, too."""


class Spread(Record):
    """Three quantiles of a number: 10, 50 and 90 %."""

    low: Seconds
    middle: Seconds
    high: Seconds

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Those of some numbers, at least one."""
        ordered = sorted(numbers)
        return cls(low=quantile(ordered, 0.1), middle=quantile(ordered, 0.5), high=quantile(ordered, 0.9))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The number below which a share of some sorted numbers is; between two of them on a straight line."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


class Measured(Record):
    """What one attempt took. All times are in seconds; None: its log does not show it."""

    job: str
    attempt: int
    at: Annotated[float, Field(allow_inf_nan=False)]
    """When it ended, or its newest line; seconds since 1970."""
    iterations: int = 0
    """How many it has done from its first line of an iteration to its last one."""
    pace: Spread | None = None
    """Of one iteration, without checkpoints."""
    startup: Seconds | None = None
    """From its start to the beginning of its first iteration."""
    end: Seconds | None = None
    """From its last line of an iteration to its end, of an attempt that succeeded."""
    save: Seconds | None = None
    """Of one checkpoint: by how much longer the time between two lines is if one was written."""
    memory_gib: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The most that a GPU held."""
    whole: Seconds | None = None
    """From start to end, of a job that succeeded in its first attempt."""


@dataclass(frozen=True)
class _Times:
    """When an attempt began to run (None: not known, or it did more than once) and ended, and in which state."""

    started: float | None = None
    ended: float | None = None
    state: str = ""


@dataclass(frozen=True)
class _Line:
    """A log line of an iteration: when it was written, and what its iterations took each, if it says so."""

    iteration: int
    at: float
    seconds: float | None


def measured(job: JobState, series: Mapping[str, Series], save_interval: int | None) -> list[Measured]:
    """What the attempts of a job took, of which something is known; `series` are those of METRICS."""
    times = _times(job)
    lines, headless = _lines(series)
    memory = _most(series.get("memory"))
    found = []
    for attempt in sorted({*lines, *(number for number, each in times.items() if each.state == SUCCESS)}):
        own, when = lines.get(attempt, []), times.get(attempt, _Times())
        at = when.ended or (own[-1].at if own else 0.0)
        one = Measured(job=job.name, attempt=attempt, at=at, memory_gib=memory.get(attempt))
        ended = when.ended if when.state == SUCCESS else None
        whole = ended - when.started if attempt == 1 and ended and when.started is not None else None
        believed = _is_within(own, when)
        started = when.started if believed and attempt not in headless else None
        taken = _taken(own, save_interval, started, ended if believed else None)
        if whole is not None and not 0 <= whole <= _MOST_SECONDS:  # by clocks that differ
            whole = None
        if taken or whole is not None:
            found.append(one.model_copy(update={**taken, "whole": whole}))
    return found


def _times(job: JobState) -> dict[int, _Times]:
    """The times of attempts, as far as the job's history has them; those of the newest are the scheduler's."""
    number = job.attempt - sum(entry.event == _SUBMITTED for entry in job.history)
    found: defaultdict[int, _Times] = defaultdict(_Times)
    starts: defaultdict[int, int] = defaultdict(int)
    for entry in job.history:
        if entry.event == _SUBMITTED:
            number += 1
        elif entry.event == RUNNING:
            starts[number] += 1
            found[number] = _Times(started=entry.at)
        elif entry.event in FINAL:
            found[number] = _Times(found[number].started, entry.at, entry.event)
    newest = job.newest
    if newest.started_at is not None:
        over = job.state in FINAL
        found[job.attempt] = _Times(newest.started_at, newest.ended_at if over else None, job.state if over else "")
        starts[job.attempt] = newest.runs
    return {at: each if starts[at] <= 1 else _Times(None, each.ended, each.state) for at, each in found.items()}


def _is_within(lines: Sequence[_Line], when: _Times) -> bool:
    """False if the times of a log are not those of its attempt: a container may have another time zone than SLURM."""
    begins_too_early = bool(lines) and when.started is not None and lines[0].at < when.started - _MOST_APART_SECONDS
    ends_too_late = bool(lines) and when.ended is not None and lines[-1].at > when.ended + _MOST_APART_SECONDS
    return not (begins_too_early or ends_too_late)


def _lines(series: Mapping[str, Series]) -> tuple[dict[int, list[_Line]], set[int]]:
    """The lines of iterations of each attempt, whose iterations rise; and the attempts that have had others before.

    Those have begun again within the attempt (a restart in the job), or their first lines were not read.
    """
    printed = series.get("seconds")
    points = printed or series.get("loss")
    found: defaultdict[int, list[_Line]] = defaultdict(list)
    if points is None:
        return found, set()
    headless = set(points.headless)
    for iteration, at, value, attempt in zip(
        points.iterations, points.times, points.values, points.attempts, strict=True
    ):
        own = found[attempt]
        if own and iteration <= own[-1].iteration:
            own.clear()
            headless.add(attempt)
        if printed is None or 0 < value <= _MOST_SECONDS:
            own.append(_Line(iteration, at, value if printed else None))
    return found, headless


def _most(memory: Series | None) -> dict[int, float]:
    found: dict[int, float] = {}
    if memory is not None:
        for value, attempt in zip(memory.values, memory.attempts, strict=True):
            if math.isfinite(value):
                found[attempt] = max(value, found.get(attempt, value))
    return found


def _taken(
    lines: Sequence[_Line], save_interval: int | None, started: float | None, ended: float | None
) -> dict[str, object]:
    """What can be known of an attempt by its lines; nothing if these are too few."""
    timed = [*_timed(lines)]
    if len(timed) < 2 and not (timed and timed[0].seconds):
        return {}
    steps = [(before, after) for before, after in pairwise(timed) if after.at >= before.at]
    paces = [after.seconds or (after.at - before.at) / (after.iteration - before.iteration) for before, after in steps]
    plain = [
        pace for pace, (before, after) in zip(paces, steps, strict=True) if not _saves(before, after, save_interval)
    ]
    usual = plain if plain and timed[0].seconds is None else paces  # what is printed has no checkpoints in it
    pace = Spread.of(usual or [line.seconds for line in timed if line.seconds])
    saving = [*_saving(steps, pace.middle, save_interval)]
    save = quantile(sorted(saving), 0.5) if saving else None
    beside = _beside(steps, pace.middle, save or 0.0, save_interval)
    first, last = timed[0], timed[-1]
    covered = min(first.iteration, timed[1].iteration - first.iteration) if len(timed) > 1 else 1
    startup = None if started is None else first.at - started - covered * pace.middle
    end = None if ended is None else ended - last.at
    return {
        "iterations": last.iteration - first.iteration + covered,
        "pace": Spread(low=pace.low + beside, middle=pace.middle + beside, high=pace.high + beside),
        "startup": startup if startup is not None and startup >= 0 else None,
        "end": end if end is not None and end >= 0 else None,
        "save": save,
    }


def _timed(lines: Sequence[_Line]) -> Iterator[_Line]:
    """Lines of which each has a time of its own.

    Those of a program that prints no times have the time at which they were read, many at once: of these, the last one
    counts, unless the lines say themselves what an iteration took.
    """
    for line, after in pairwise([*lines, None]):
        if line is not None and (line.seconds or after is None or after.at != line.at):
            yield line


def _saves(before: _Line, after: _Line, save_interval: int | None) -> int:
    """How many checkpoints were written between two lines: a line comes before the checkpoint of its iteration."""
    if not save_interval:
        return 0
    return (after.iteration - 1) // save_interval - (before.iteration - 1) // save_interval


def _saving(steps: Sequence[tuple[_Line, _Line]], pace: float, save_interval: int | None) -> Iterator[float]:
    """The seconds of each checkpoint."""
    for before, after in steps:
        if saves := _saves(before, after, save_interval):
            own = after.seconds or pace
            yield max(0.0, after.at - before.at - own * (after.iteration - before.iteration)) / saves


def _beside(steps: Sequence[tuple[_Line, _Line]], pace: float, save: float, save_interval: int | None) -> float:
    """Seconds of an iteration that are in no line and no checkpoint, on average: evaluations, pauses."""
    done = sum(after.iteration - before.iteration for before, after in steps)
    if not done:
        return 0.0
    passed = sum(after.at - before.at for before, after in steps)
    known = sum(
        (after.seconds or pace) * (after.iteration - before.iteration) + save * _saves(before, after, save_interval)
        for before, after in steps
    )
    return max(0.0, passed - known) / done
