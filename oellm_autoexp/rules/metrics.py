"""The numbers in log lines: of Megatron-LM and torchtitan, and what `monitoring.metrics` names. Pure.

A metric's usual name is the same for every program: loss, validation_loss, grad_norm, learning_rate, throughput
(TFLOP/s per GPU), seconds (that an iteration took), samples, tokens, tokens_per_second, memory (GiB that the GPU holds
at most). What else a program prints has its own name, in lower case, with `_` for what is no letter or digit.

Formats of Megatron-LM: training.py (training_log, evaluate_and_print_results), utils/common_utils.py (report_memory);
of torchtitan: components/metrics.py (MetricsProcessor.log and log_validation), trainer.py.
"""

from __future__ import annotations

import functools
import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from oellm_autoexp.rules.measurements import Measurement, Span
from oellm_autoexp.rules.metric_rules import MetricRule
from oellm_autoexp.search.escapes import without_escapes
from oellm_autoexp.search.patterns import Pattern, scan

_GIB = 1024.0  # MiB


# ---------------------------------------------------------------------------------------------------------------------
# The lines of known programs

_COUNT = rb"\d{1,18}"
NUMBER = rb"[-+]?+(?:\d{1,32}+(?:\.\d{0,32}+)?+(?:[eE][-+]?+\d{1,4}+)?+|nan|inf)"
"""A number as these programs print it, with re.IGNORECASE."""
_MEGATRON_FIELD = re.compile(rb" ([^|:]{1,80}): +(" + NUMBER + rb") \|", re.IGNORECASE)
_MEGATRON_NAMES: Mapping[bytes, tuple[str, float]] = {
    b"lm loss": ("loss", 1.0),
    b"throughput per GPU (TFLOP/s/GPU)": ("throughput", 1.0),
    b"elapsed time per iteration (ms)": ("seconds", 1e-3),
    b"elapsed time per iteration (s)": ("seconds", 1.0),  # Megatron-DeepSpeed
    b"consumed samples": ("samples", 1.0),
    b"consumed tokens": ("tokens", 1.0),
}
_TITAN_FIELD = re.compile(rb"(\w{1,80}):\s+(" + NUMBER + rb")(?:GiB|%|\s|\(|$)", re.IGNORECASE)
_TITAN_NAMES: Mapping[bytes, tuple[str, float]] = {
    b"tflops": ("throughput", 1.0),
    b"tps": ("tokens_per_second", 1.0),
}


@functools.lru_cache(4096)
def _own_name(name: bytes) -> str:
    """A program's name of a metric as ours."""
    text = re.sub(r"[^a-z0-9]+", "_", name.decode(errors="replace").lower()).strip("_")
    return text or "unnamed"


def megatron_name(name: bytes) -> tuple[str, float]:
    """The metric of a field of an iteration's line, and the factor of its numbers."""
    return _MEGATRON_NAMES.get(name) or (_own_name(name), 1.0)


def _pairs(pattern: re.Pattern[bytes], text: bytes, names: Mapping[bytes, tuple[str, float]]) -> dict[str, float]:
    found = {}
    for name, number in pattern.findall(text):
        known, factor = names.get(name) or (_own_name(name), 1.0)
        found[known] = float(number) * factor
    return found


@functools.lru_cache(1024)
def seconds_of(text: bytes) -> float | None:
    """The time of a line as seconds since 1970: it is that of the machine, as a program writes it."""
    try:
        return datetime.fromisoformat(text.decode().replace(",", ".")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _time(text: bytes | None) -> float | None:
    return None if text is None else seconds_of(text)


def _megatron_iteration(match: re.Match[bytes], offset: int) -> Measurement:
    values = _pairs(_MEGATRON_FIELD, match[4], _MEGATRON_NAMES)
    if not any(name.endswith("loss") for name in values):
        values["loss"] = math.nan  # Megatron leaves out a loss that is no number (training.py: `if avg > 0.0`)
    return Measurement(
        offset,
        values,
        iteration=int(match[2]),
        total=int(match[3]),
        at=_time(match[1]),
        whole=True,
    )


def _megatron_validation(match: re.Match[bytes], offset: int) -> Measurement:
    which = match[1].decode(errors="replace").strip("-")
    name = f"validation_{_own_name(which.encode())}_loss" if which else "validation_loss"
    return Measurement(offset, {name: float(match[3])}, iteration=int(match[2]))


def _megatron_memory(match: re.Match[bytes], offset: int) -> Measurement:
    return Measurement(offset, {"memory": float(match[2]) / _GIB}, iteration=int(match[1]))


def _titan_step(match: re.Match[bytes], offset: int) -> Measurement:
    values = _pairs(_TITAN_FIELD, match[3].replace(b",", b""), _TITAN_NAMES)
    return Measurement(offset, values, iteration=int(match[2]), at=_time(match[1]), whole=True)


def _titan_validation(match: re.Match[bytes], offset: int) -> Measurement:
    return Measurement(offset, {"validation_loss": float(match[3])}, iteration=int(match[2]), at=_time(match[1]))


ITERATION_MARK = b"iteration "
BEFORE_ITERATION = rb":)>|\dZ"
"""What may end a label before an iteration without a time, as of versions of Megatron-LM up to core_v0.5: a class."""
_TITAN = rb"\[titan\] (?:(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}))?.* - "
_KINDS: tuple[tuple[bytes, re.Pattern[bytes], Callable[[re.Match[bytes], int], Measurement]], ...] = (
    (
        ITERATION_MARK,
        re.compile(
            rb"(?:(?:\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?))?\]|^|["
            + BEFORE_ITERATION
            + rb"]) *iteration +("
            + _COUNT
            + rb")/\s*("
            + _COUNT
            + rb") \|(.*)"
        ),
        _megatron_iteration,
    ),
    (
        b" loss at iteration",
        re.compile(
            rb"validation(\S*) loss at iteration ("
            + _COUNT
            + rb")\b(?! on test set).*?\| lm loss value: ("
            + NUMBER
            + rb")",
            re.IGNORECASE,
        ),
        _megatron_validation,
    ),
    (
        b" memory (MB) |",
        re.compile(
            rb"\(after (" + _COUNT + rb") iterations\) memory \(MB\) \|.*\bmax reserved: (\d{1,12}(?:\.\d{1,32})?)"
        ),
        _megatron_memory,
    ),
    (
        b"checkpoint from iteration",
        re.compile(rb"successfully saved (?:local )?checkpoint from iteration\s+(" + _COUNT + rb")\b"),
        lambda match, offset: Measurement(offset, saved=int(match[1])),
    ),
    (
        b" at iteration ",
        re.compile(rb"successfully loaded checkpoint from .* at iteration (" + _COUNT + rb")"),
        lambda match, offset: Measurement(offset, iteration=int(match[1])),
    ),
    (
        b"grad_norm: ",
        re.compile(_TITAN + rb"step:\s*(" + _COUNT + rb")\s+(loss:\s*" + NUMBER + rb"\s.*)", re.IGNORECASE),
        _titan_step,
    ),
    (
        b"validate step: ",
        re.compile(_TITAN + rb"validate step:\s*(" + _COUNT + rb")\s+loss:\s*(" + NUMBER + rb")\s", re.IGNORECASE),
        _titan_validation,
    ),
    (
        b", total steps ",
        re.compile(rb"\[titan\].* - Trainer is initialized with .*, total steps (" + _COUNT + rb") "),
        lambda match, offset: Measurement(offset, total=int(match[1])),
    ),
    (
        b"Training starts at step ",
        re.compile(rb"\[titan\].* - Training starts at step (" + _COUNT + rb")"),
        lambda match, offset: Measurement(offset, iteration=max(0, int(match[1]) - 1)),
    ),
)
"""Kinds of lines: what stands in each, its form, and what it reports."""
OTHER_MARKS = tuple(mark for mark, _, _ in _KINDS if mark != ITERATION_MARK)
"""What stands in lines of known programs that are not those of an iteration of Megatron-LM."""


def known_lines(data: bytes, spans: Sequence[Span] | None = None) -> list[Measurement]:
    """What the lines of known programs report, in the order of the lines. `data`: whole lines of a log.

    `spans`: the lines that are read, if not all.
    """
    found = [
        measurement
        for start, end in (((0, len(data)),) if spans is None else spans)
        for mark, pattern, reader in _KINDS
        for measurement in _each(data, start, end, mark, pattern, reader)
    ]
    found.sort(key=lambda measurement: measurement.offset)
    return found


def _each(
    data: bytes,
    first: int,
    last: int,
    mark: bytes,
    pattern: re.Pattern[bytes],
    reader: Callable[[re.Match[bytes], int], Measurement],
) -> Iterator[Measurement]:
    position = data.find(mark, first, last)
    while position >= 0:
        start = data.rfind(b"\n", 0, position) + 1
        newline = data.find(b"\n", position)
        end = newline if newline >= 0 else len(data)
        line = data[start:end]
        if match := pattern.search(without_escapes(line)):
            yield reader(match, start)
        position = data.find(mark, end, last)


# ---------------------------------------------------------------------------------------------------------------------
# What `monitoring.metrics` names


class MetricReader:
    """The rules of `monitoring.metrics`, compiled."""

    def __init__(self, rules: Mapping[str, MetricRule]) -> None:
        self._rules = {f"metrics.{name}": (name, rule) for name, rule in rules.items() if rule.pattern is not None}
        self._patterns = {key: Pattern.of(rule.pattern or "") for key, (_, rule) in self._rules.items()}
        self._json = {name: rule for name, rule in rules.items() if rule.json_key is not None}

    def read(
        self, data: bytes, *, known: bool, spans: Sequence[Span] | None = None, but: Container[str] = ()
    ) -> tuple[list[Measurement], frozenset[str]]:
        """What whole log lines report, in their order; also those of known programs, with `known` (see known_lines).

        The other names are those of the rules whose patterns ran out of time, each as `metrics.NAME`; those in `but`
        are not looked for.
        """
        found = known_lines(data, spans) if known else []
        if not self._rules and not self._json:
            return found, frozenset()
        scanned = scan(data, {name: pattern for name, pattern in self._patterns.items() if name not in but})
        for match in scanned.matches:
            name, rule = self._rules[match.rule]
            if (measurement := rule.read(name, match)) is not None:
                found.append(measurement)
        if self._json:
            found += self._of_json(data)
        found.sort(key=lambda measurement: measurement.offset)
        return found, scanned.too_slow

    def _of_json(self, data: bytes) -> Iterator[Measurement]:
        offset = 0
        for line in data.splitlines(keepends=True):
            text = without_escapes(line).lstrip()
            if text[:1] == b"{" and isinstance(entry := _entry(text), dict):
                for name, rule in self._json.items():
                    if (measurement := rule.read_json(name, entry, offset)) is not None:
                        yield measurement
            offset += len(line)


def _entry(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def with_iterations(
    measurements: Iterable[Measurement],
    iteration: int | None,
    offsets: Sequence[int] = (),
    iterations: Sequence[int] = (),
) -> Iterator[tuple[Measurement, int | None]]:
    """Measurements in the order of their lines, each with the iteration that it is about.

    One that has none is about that of the lines before (`iteration`: that of all lines before these; None: none yet).
    `offsets` and `iterations` are those of lines that have one and are not among the measurements.
    """
    newest = -1
    for measurement in measurements:
        if measurement.iteration is not None:
            iteration, newest = measurement.iteration, measurement.offset
        elif (place := bisect_right(offsets, measurement.offset) - 1) >= 0 and offsets[place] > newest:
            iteration, newest = iterations[place], offsets[place]
        yield measurement, iteration
