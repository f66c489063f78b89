"""How long a planned job runs, by what earlier attempts took; and what follows from it for its time limit. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from oellm_autoexp.core.nouns import Estimate, Workload
from oellm_autoexp.learning.measuring import Measured, Spread

ENOUGH = 20
"""So many attempts of equal jobs are used, the newest."""
_FEW = 3
"""With fewer attempts, the spread within them counts, too."""
_SINGLE = 1.2
"""By what factor a whole run may differ from the next one where only one or two are known."""
_SCALED = 1.5
"""By what factor a scaled time may be wrong. The share of their peak that GPUs reach differs by a factor of 1.2 between
tuned trainings of 1.7e9 to 1e12 weights (Narayanan et al. 2021, "Efficient large-scale language model training on GPU
clusters using Megatron-LM", table 1), and by more if they are not tuned."""
_FURTHEST = 8.0
"""A time is not scaled by more than this factor."""
_LEAST_SECONDS, _STEP_SECONDS = 600, 300


@dataclass(frozen=True)
class Run:
    """An earlier attempt: what decided how long it took, and what it took."""

    workload: Workload
    taken: Measured


@dataclass(frozen=True)
class _Known:
    """Spreads over attempts, in seconds."""

    pace: Spread
    startup: Spread
    end: Spread
    save: Spread


def is_equal(one: Workload, other: Workload) -> bool:
    """Whether two jobs are equally fast, as far as can be known."""
    return (one.shape, one.sizes) == (other.shape, other.sizes)


def estimate(work: Workload, runs: Iterable[Run], start: int = 0) -> Estimate | None:
    """How long a job runs that begins after the iteration `start`; None if no earlier run is like it.

    Runs of equal jobs count alone; without any, those of the nearest size, scaled: the seconds of an iteration are
    proportional to its floating-point operations, and inversely proportional to the number of GPUs.
    """
    alike = [run for run in runs if run.workload.shape == work.shape]
    equal = _newest(run for run in alike if run.workload.sizes == work.sizes)
    if work.iterations is None:
        return _by_whole_runs(equal)
    if found := _by_iterations(work, equal, start, 1.0):
        return found
    nearest = [(abs(math.log(factor)), factor, run) for run in alike if (factor := _factor(work, run.workload))]
    if not nearest:
        return None
    distance, factor, _ = min(nearest, key=lambda each: each[0])
    return _by_iterations(work, _newest(run for at, _, run in nearest if at == distance), start, factor)


def _newest(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.taken.at, reverse=True)[:ENOUGH]


def _factor(work: Workload, other: Workload) -> float | None:
    """How much longer an iteration of a job takes than one of another; None if that is not known well enough."""
    if not work.flops or not other.flops or work.sizes == other.sizes:
        return None
    ours, theirs = (each.flops / max(each.sizes.get("gpus", 1), 1) for each in (work, other) if each.flops)
    factor = ours / theirs
    return factor if 1 / _FURTHEST <= factor <= _FURTHEST else None


def _by_iterations(work: Workload, runs: Sequence[Run], start: int, factor: float) -> Estimate | None:
    """By the seconds of an iteration, of which there are so many left."""
    taken = [run.taken for run in runs if run.taken.pace is not None]
    if not taken or work.iterations is None:
        return None
    pace = _pace([each.pace for each in taken if each.pace is not None])
    startup, end, save = (_spread(map(attrgetter(part), taken)) for part in ("startup", "end", "save"))
    left = max(0, work.iterations - start)
    saves = max(0, math.ceil(left / work.save_interval) - 1) if work.save_interval else 0  # the last one is in `end`
    low, middle, high = (
        getattr(startup, part) + getattr(end, part) + left * factor * getattr(pace, part) + saves * getattr(save, part)
        for part in ("low", "middle", "high")
    )
    scaled = factor != 1.0 or any(run.workload.sizes != work.sizes for run in runs)
    return Estimate(
        seconds=middle,
        low=low / _SCALED if scaled else low,
        high=high * _SCALED if scaled else high,
        runs=len(taken),
        scaled=scaled,
        per_link_seconds=startup.middle + end.middle,
        memory_gib=None if scaled else _most(taken),
    )


def _by_whole_runs(runs: Sequence[Run]) -> Estimate | None:
    """Of a program that does not count in iterations: by the times of whole runs of the same work."""
    taken = [run.taken for run in runs if run.taken.whole is not None]
    if not taken:
        return None
    spread = _spread(each.whole for each in taken)
    wider = _SINGLE if len(taken) < _FEW else 1.0
    return Estimate(
        seconds=spread.middle,
        low=spread.low / wider,
        high=spread.high * wider,
        runs=len(taken),
        memory_gib=_most(taken),
    )


def _pace(paces: Sequence[Spread]) -> Spread:
    """Seconds of an iteration over attempts: their medians; of few attempts, their own spreads count, too."""
    if len(paces) >= _FEW:
        return Spread.of([pace.middle for pace in paces])
    middle = Spread.of([pace.middle for pace in paces]).middle
    return Spread(low=min(pace.low for pace in paces), middle=middle, high=max(pace.high for pace in paces))


def _spread(numbers: Iterable[float | None]) -> Spread:
    """Of the numbers that are known; zero if none is."""
    return Spread.of([number for number in numbers if number is not None] or [0.0])


def _most(taken: Iterable[Measured]) -> float | None:
    return max((each.memory_gib for each in taken if each.memory_gib is not None), default=None)


# ---------------------------------------------------------------------------------------------------------------------
# Time limits


def links_needed(expected: Estimate, limit_seconds: float) -> int | None:
    """How many jobs of this time limit, one after the other, a run needs (by `high`); None: no number is enough.

    Each of them spends `per_link_seconds` beside its iterations. What a job computes after its last checkpoint, and
    loses at its time limit, does not count: many programs save at a signal before it.
    """
    if expected.high <= limit_seconds:
        return 1
    useful = limit_seconds - expected.per_link_seconds
    if useful <= 0:
        return None
    return math.ceil((expected.high - expected.per_link_seconds) / useful)


def limit_for(expected: Estimate, factor: float) -> int:
    """An automatic time limit in seconds: `factor` times what 9 of 10 runs need, in steps of 5 min, at least 10 min."""
    return max(_LEAST_SECONDS, math.ceil(expected.high * factor / _STEP_SECONDS) * _STEP_SECONDS)
