"""How far a training is, read from its log lines: those of Megatron-LM (0.10 and newer) and of torchtitan. Pure.

Megatron's formats: training.py, training_log and evaluate_and_print_results; checkpointing.py. torchtitan's:
components/metrics.py, MetricsProcessor.log and log_validation; trainer.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from oellm_autoexp.core.nouns import Record

_NUMBER = rb"[-+]?\d{1,32}(?:\.\d{1,32})?(?:[eE][-+]?\d{1,4})?"
_COUNT = rb"\d{1,18}"
_Told = dict[str, int | float | None]
_Reader = Callable[[re.Match[bytes]], _Told]


class Progress(Record):
    """The newest of what a log told. `loss` None after an iteration: it was not a number (Megatron omits it then)."""

    iteration: int | None = None
    total: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    throughput: float | None = None
    """TFLOP/s per GPU; Megatron tells it with `--log-throughput`."""
    seconds: float | None = None
    """What an iteration took."""
    validation_loss: float | None = None
    saved_iteration: int | None = None
    """That of the newest checkpoint."""

    @property
    def seconds_left(self) -> float | None:
        """How long it takes to the last iteration, at the speed of now."""
        if self.iteration is None or self.total is None or self.seconds is None:
            return None
        return max(0, self.total - self.iteration) * self.seconds


def told(progress: Progress) -> dict[str, int | float]:
    """The values that a log told."""
    return {key: value for key, value in progress.model_dump().items() if value is not None}


def _number(pattern: re.Pattern[bytes], text: bytes) -> float | None:
    match = pattern.search(text)
    return _finite(match[1]) if match else None


def _megatron_field(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb" " + re.escape(name) + rb": (" + _NUMBER + rb") \|")


_LOSS = _megatron_field(b"lm loss")
_GRAD_NORM = _megatron_field(b"grad norm")
_THROUGHPUT = _megatron_field(b"throughput per GPU (TFLOP/s/GPU)")
_MILLISECONDS = _megatron_field(b"elapsed time per iteration (ms)")


def _megatron_iteration(match: re.Match[bytes]) -> _Told:
    milliseconds = _number(_MILLISECONDS, match[3])
    return {
        "iteration": int(match[1]),
        "total": int(match[2]),
        "loss": _number(_LOSS, match[3]),
        "grad_norm": _number(_GRAD_NORM, match[3]),
        "throughput": _number(_THROUGHPUT, match[3]),
        "seconds": None if milliseconds is None else milliseconds / 1000,
    }


_TITAN_GRAD_NORM = re.compile(rb" grad_norm:\s*(" + _NUMBER + rb")\s")
_TITAN_THROUGHPUT = re.compile(rb" tflops: (" + _NUMBER + rb")\s")


def _titan_step(match: re.Match[bytes]) -> _Told:
    rest = match[3].replace(b",", b"")
    return {
        "iteration": int(match[1]),
        "loss": _finite(match[2]),
        "grad_norm": _number(_TITAN_GRAD_NORM, rest),
        "throughput": _number(_TITAN_THROUGHPUT, rest),
    }


def _finite(text: bytes) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_KINDS: tuple[tuple[bytes, re.Pattern[bytes], _Reader], ...] = (
    (
        b"] iteration",
        re.compile(rb"\] iteration\s+(" + _COUNT + rb")/\s*(" + _COUNT + rb") \|(.*)"),
        _megatron_iteration,
    ),
    (
        b" loss at iteration",
        re.compile(
            rb"validation\S* loss at iteration ("
            + _COUNT
            + rb")\b(?! on test set).*?\| lm loss value: ("
            + _NUMBER
            + rb"|NAN|INF)"
        ),
        lambda match: {"iteration": int(match[1]), "validation_loss": _finite(match[2])},
    ),
    (
        b"checkpoint from iteration",
        re.compile(rb"successfully saved (?:local )?checkpoint from iteration\s+(" + _COUNT + rb")\b"),
        lambda match: {"saved_iteration": int(match[1])},
    ),
    (
        b" at iteration ",
        re.compile(rb"successfully loaded checkpoint from .* at iteration (" + _COUNT + rb")"),
        lambda match: {"iteration": int(match[1])},
    ),
    (
        b"grad_norm: ",
        re.compile(rb"\[titan\].* - step:\s*(" + _COUNT + rb")\s+loss:\s*(" + _NUMBER + rb"|nan|inf)\s(.*)"),
        _titan_step,
    ),
    (
        b"validate step: ",
        re.compile(rb"\[titan\].* - validate step:\s*(" + _COUNT + rb")\s+loss:\s*(" + _NUMBER + rb"|nan|inf)\s"),
        lambda match: {"iteration": int(match[1]), "validation_loss": _finite(match[2])},
    ),
    (
        b", total steps ",
        re.compile(rb"\[titan\].* - Trainer is initialized with .*, total steps (" + _COUNT + rb") "),
        lambda match: {"total": int(match[1])},
    ),
    (
        b"Training starts at step ",
        re.compile(rb"\[titan\].* - Training starts at step (" + _COUNT + rb")"),
        lambda match: {"iteration": max(0, int(match[1]) - 1)},
    ),
)
"""Kinds of lines: what stands in each, its form, and what it tells."""


def read(progress: Progress, data: bytes) -> Progress:
    """`progress` after some more whole log lines. Of each kind of line only the newest counts."""
    found: list[tuple[int, re.Match[bytes], _Reader]] = []
    for mark, pattern, reader in _KINDS:
        if newest := _newest(data, mark, pattern):
            found.append((*newest, reader))
    for _, match, reader in sorted(found, key=lambda entry: entry[0]):
        progress = progress.model_copy(update=reader(match))
    return progress


_FEW = 3  # lines that are looked at for one that fits: a mark may also stand in a line of another kind


def _newest(data: bytes, mark: bytes, pattern: re.Pattern[bytes]) -> tuple[int, re.Match[bytes]] | None:
    """The newest line that holds a mark and fits a pattern, with its place."""
    end = len(data)
    for _ in range(_FEW):
        position = data.rfind(mark, 0, end)
        if position < 0:
            return None
        start = data.rfind(b"\n", 0, position) + 1
        newline = data.find(b"\n", position)
        line = data[start : newline if newline >= 0 else len(data)]
        if match := pattern.search(_COLOUR.sub(b"", line)):
            return start, match
        end = start
    return None
