"""How far a training is, by the newest of what its log lines reported. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator

from oellm_autoexp.core.nouns import Record
from oellm_autoexp.rules.measurements import Measurement


def _one_nan(value: float) -> float:
    """The same object for each NaN: records are equal if they hold it."""
    return math.nan if math.isnan(value) else value


_MayDiverge = Annotated[float, AfterValidator(_one_nan)]


class Progress(Record):
    """The newest of what a log reported. A loss or norm may be nan or inf; nan if Megatron omits the loss."""

    iteration: int | None = None
    total: int | None = None
    loss: _MayDiverge | None = None
    grad_norm: _MayDiverge | None = None
    throughput: float | None = None
    """TFLOP/s per GPU; Megatron prints it with `--log-throughput`."""
    seconds: float | None = None
    """What an iteration took."""
    validation_loss: _MayDiverge | None = None
    saved_iteration: int | None = None
    """That of the newest checkpoint."""

    @property
    def seconds_left(self) -> float | None:
        """How long it takes to the last iteration, at the speed of now."""
        if self.iteration is None or self.total is None or self.seconds is None:
            return None
        return max(0, self.total - self.iteration) * self.seconds


_OF_AN_ITERATION = ("loss", "grad_norm", "throughput", "seconds")
_METRICS = (*_OF_AN_ITERATION, "validation_loss")
_FINITE = ("throughput", "seconds")


def reported(progress: Progress) -> dict[str, int | float]:
    """The values that a log reported."""
    return {key: value for key, value in progress.model_dump().items() if value is not None}


@functools.lru_cache(1024)
def _kept(metrics: tuple[str, ...]) -> Sequence[tuple[str, str]]:
    """Those of a line's metrics that are kept, each with the name of its field."""
    found = []
    for name in metrics:
        known = "validation_loss" if name.startswith("validation_") and name.endswith("_loss") else name
        if known in _METRICS:
            found.append((name, known))
    return found


def after(progress: Progress, measurements: Iterable[Measurement]) -> Progress:
    """`progress` after the measurements of some more lines, in their order."""
    new: dict[str, int | float | None] = {}
    for measurement in measurements:
        if measurement.whole:
            new |= dict.fromkeys(_OF_AN_ITERATION)
        for name, known in _kept(tuple(measurement.values)):
            value = measurement.values[name]
            new[known] = _one_nan(value) if known not in _FINITE or math.isfinite(value) else None
        counts = (
            ("iteration", measurement.iteration),
            ("total", measurement.total),
            ("saved_iteration", measurement.saved),
        )
        new |= {name: count for name, count in counts if count is not None}
    return progress.model_copy(update=new) if new else progress
