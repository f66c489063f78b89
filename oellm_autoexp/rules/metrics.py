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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from oellm_autoexp.core.fields import Section, Text
from oellm_autoexp.search.patterns import Match, Pattern, group_names, scan

_GIB = 1024.0  # MiB


@dataclass(frozen=True)
class Measurement:
    """What one line reports: its offset in the data, the iteration that it is about, and numbers by metric.

    `at`: the line's own time, in seconds since 1970 (None: it has none). `whole`: it holds all of an iteration, so that
    a metric that is not in it is not known of that iteration.
    """

    offset: int
    values: Mapping[str, float] = field(default_factory=dict)
    iteration: int | None = None
    total: int | None = None
    saved: int | None = None
    """The iteration whose checkpoint is complete."""
    at: float | None = None
    whole: bool = False


# ---------------------------------------------------------------------------------------------------------------------
# The lines of known programs

_COUNT = rb"\d{1,18}"
_NUMBER = rb"[-+]?(?:\d{1,32}(?:\.\d{0,32})?(?:[eE][-+]?\d{1,4})?|nan|inf)"
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_MEGATRON_FIELD = re.compile(rb" ([^|:]{1,80}): +(" + _NUMBER + rb") \|", re.IGNORECASE)
_MEGATRON_NAMES: Mapping[bytes, tuple[str, float]] = {
    b"lm loss": ("loss", 1.0),
    b"throughput per GPU (TFLOP/s/GPU)": ("throughput", 1.0),
    b"elapsed time per iteration (ms)": ("seconds", 1e-3),
    b"consumed samples": ("samples", 1.0),
    b"consumed tokens": ("tokens", 1.0),
}
_TITAN_FIELD = re.compile(rb"(\w{1,80}):\s+(" + _NUMBER + rb")(?:GiB|%|\s|\(|$)", re.IGNORECASE)
_TITAN_NAMES: Mapping[bytes, tuple[str, float]] = {
    b"tflops": ("throughput", 1.0),
    b"tps": ("tokens_per_second", 1.0),
}


@functools.lru_cache(4096)
def _own_name(name: bytes) -> str:
    """A program's name of a metric as ours."""
    text = re.sub(r"[^a-z0-9]+", "_", name.decode(errors="replace").lower()).strip("_")
    return text or "unnamed"


def _pairs(pattern: re.Pattern[bytes], text: bytes, names: Mapping[bytes, tuple[str, float]]) -> dict[str, float]:
    found = {}
    for name, number in pattern.findall(text):
        known, factor = names.get(name) or (_own_name(name), 1.0)
        found[known] = float(number) * factor
    return found


@functools.lru_cache(1024)
def _seconds(text: bytes) -> float | None:
    """The time of a line as seconds since 1970: it is that of the machine, as a program writes it."""
    try:
        return datetime.fromisoformat(text.decode().replace(",", ".")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _time(text: bytes | None) -> float | None:
    return None if text is None else _seconds(text)


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


_TITAN = rb"\[titan\] (?:(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}))?.* - "
_KINDS: tuple[tuple[bytes, re.Pattern[bytes], Callable[[re.Match[bytes], int], Measurement]], ...] = (
    (
        b"] iteration",
        re.compile(
            rb"(?:\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?))?\] iteration\s+("
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
            + _NUMBER
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
        re.compile(_TITAN + rb"step:\s*(" + _COUNT + rb")\s+(loss:\s*" + _NUMBER + rb"\s.*)", re.IGNORECASE),
        _titan_step,
    ),
    (
        b"validate step: ",
        re.compile(_TITAN + rb"validate step:\s*(" + _COUNT + rb")\s+loss:\s*(" + _NUMBER + rb")\s", re.IGNORECASE),
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


def known_lines(data: bytes) -> list[Measurement]:
    """What the lines of known programs report, in the order of the lines. `data`: whole lines of a log."""
    found = [measurement for mark, pattern, reader in _KINDS for measurement in _each(data, mark, pattern, reader)]
    found.sort(key=lambda measurement: measurement.offset)
    return found


def _each(
    data: bytes, mark: bytes, pattern: re.Pattern[bytes], reader: Callable[[re.Match[bytes], int], Measurement]
) -> Iterator[Measurement]:
    position = data.find(mark)
    while position >= 0:
        start = data.rfind(b"\n", 0, position) + 1
        newline = data.find(b"\n", position)
        end = newline if newline >= 0 else len(data)
        line = data[start:end]
        if match := pattern.search(_COLOUR.sub(b"", line) if b"\x1b" in line else line):
            yield reader(match, start)
        position = data.find(mark, end)


# ---------------------------------------------------------------------------------------------------------------------
# What `monitoring.metrics` names

VALUE, ITERATION, TOTAL = "value", "iteration", "total"
"""Groups of a pattern: the metric's number, the iteration that the line is about, the last iteration."""
_ITERATION_KEYS = ("iteration", "step", "global_step", "iter")


class MetricRule(Section):
    """How a metric is read from log lines: by a regular expression, or by a key of lines that are JSON objects.

    Of a `pattern`, the group `value` (or the only group) is the number; every other named group but `iteration` and
    `total` is a metric of the group's name. `json`: the key of the number, with dots for keys within keys;
    `iteration_key` the key of the iteration (by default iteration, step, global_step or iter).
    """

    pattern: str | None = None
    json_key: Text | None = Field(default=None, alias="json")
    iteration_key: Text | None = None

    @model_validator(mode="after")
    def _fits(self) -> MetricRule:
        if (self.pattern is None) == (self.json_key is None):
            raise ValueError("needs one of `pattern` (a regular expression) and `json` (a key of JSON lines)")
        if self.pattern is None:
            return self
        if self.iteration_key is not None:
            raise ValueError("iteration_key goes with `json`; a pattern has a group: (?P<iteration>\\d+)")
        try:
            groups = group_names(self.pattern)
        except re.error as error:
            raise ValueError(f"the pattern is no regular expression: {error}") from None
        if not self._value_groups(groups):
            raise ValueError("the pattern needs a group for the number, such as (?P<value>\\S+)")
        return self

    def _value_groups(self, groups: Sequence[str]) -> list[str]:
        named = [name for name in groups if not name.isdecimal()]
        return [name for name in named if name not in (ITERATION, TOTAL)] or [
            name for name in groups if name.isdecimal() and not named
        ]

    def names(self, name: str) -> list[str]:
        """The metrics that it reads, as a rule of this name."""
        groups = self._value_groups(group_names(self.pattern)) if self.pattern is not None else [VALUE]
        return [name if group == VALUE or group.isdecimal() else group for group in groups]

    def read(self, name: str, match: Match) -> Measurement | None:
        """What a line that the pattern matched reports; None if there is no number in it."""
        known = match.groups
        wanted = self._value_groups(tuple(known))
        values = {}
        for group in wanted:
            number = _number(known[group])
            if number is not None:
                values[name if group == VALUE or group.isdecimal() else group] = number
            if group.isdecimal():
                break
        iteration, total = _count(known.get(ITERATION)), _count(known.get(TOTAL))
        if not values and iteration is None:
            return None
        return Measurement(match.offset, values, iteration=iteration, total=total)

    def read_json(self, name: str, entry: Mapping[str, Any], offset: int) -> Measurement | None:
        """What a line that is a JSON object reports; None if it has no such key, or no number there."""
        number = _number(_at(entry, self.json_key or ""))
        if number is None:
            return None
        keys = (self.iteration_key,) if self.iteration_key else _ITERATION_KEYS
        iteration = next((count for key in keys if (count := _count(_at(entry, key))) is not None), None)
        return Measurement(offset, {name: number}, iteration=iteration)


def _at(entry: Mapping[str, Any], key: str) -> Any:
    """The value of a key, with its dots or below each part of it."""
    if key in entry:
        return entry[key]
    first, dot, rest = key.partition(".")
    below = entry.get(first)
    return _at(below, rest) if dot and isinstance(below, Mapping) else None


def _number(value: Any) -> float | None:
    """A number as programs write it, `1,234.5` and `nan` among them; None if it is none."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value.replace(",", "") if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        return None


def _count(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and math.isfinite(number) and 0 <= number < 2**40 else None


def _as_rule(value: Any) -> Any:
    """A rule may be written as its pattern alone."""
    return {"pattern": value} if isinstance(value, str) else value


def _named(value: Any) -> Any:
    """Rules by name; null entries are left out."""
    if not isinstance(value, dict):
        return value
    return {name: rule for name, rule in value.items() if rule is not None}


Metrics = Annotated[
    dict[Text, Annotated[MetricRule, BeforeValidator(_as_rule)]],
    BeforeValidator(_named),
]


class MetricReader:
    """The rules of `monitoring.metrics`, compiled."""

    def __init__(self, rules: Mapping[str, MetricRule]) -> None:
        self._rules = {f"metrics.{name}": (name, rule) for name, rule in rules.items() if rule.pattern is not None}
        self._patterns = {key: Pattern.of(rule.pattern or "") for key, (_, rule) in self._rules.items()}
        self._json = {name: rule for name, rule in rules.items() if rule.json_key is not None}

    def read(self, data: bytes, *, known: bool, but: Container[str] = ()) -> tuple[list[Measurement], frozenset[str]]:
        """What whole log lines report, in their order; also those of known programs, with `known`.

        The other names are those of the rules whose patterns ran out of time, each as `metrics.NAME`; those in `but`
        are not looked for.
        """
        found = known_lines(data) if known else []
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
            if line.lstrip()[:1] == b"{" and isinstance(entry := _entry(line), dict):
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
    measurements: Iterable[Measurement], iteration: int | None
) -> Iterator[tuple[Measurement, int | None]]:
    """Measurements in the order of their lines, each with the iteration that it is about.

    One that has none is about that of the lines before (`iteration`: that of all lines before these; None: none yet).
    """
    for measurement in measurements:
        if measurement.iteration is not None:
            iteration = measurement.iteration
        yield measurement, iteration
