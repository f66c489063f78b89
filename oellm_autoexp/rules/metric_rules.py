"""What `monitoring.metrics` names: how a metric is read from log lines. Pure."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from oellm_autoexp.core.fields import Section, Text
from oellm_autoexp.rules.measurements import Measurement
from oellm_autoexp.search.patterns import Match, group_names

VALUE, ITERATION, TOTAL = "value", "iteration", "total"
"""Groups of a pattern: the metric's number, the iteration that the line is about, the last iteration."""
_NAME = re.compile(r"\w(?:[\w .\-/:()%+=@#]*[\w.\-/:()%+=@#])?")
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
        if "" in (self.json_key, self.iteration_key):
            raise ValueError("a key of JSON lines is not empty")
        if self.pattern is None:
            return self
        if self.iteration_key is not None:
            raise ValueError("iteration_key goes with `json`; a pattern has a group: (?P<iteration>\\d+)")
        try:
            groups = group_names(self.pattern)
        except re.error as error:
            raise ValueError(f"the pattern is no regular expression: {error}") from None
        if not _value_groups(groups):
            raise ValueError("the pattern needs a group for the number, such as (?P<value>\\S+)")
        return self

    def names(self, name: str) -> list[str]:
        """The metrics that it reads, as a rule of this name."""
        groups = _value_groups(group_names(self.pattern)) if self.pattern is not None else [VALUE]
        return [name if group == VALUE or group.isdecimal() else group for group in groups]

    def read(self, name: str, match: Match) -> Measurement | None:
        """What a line that the pattern matched reports; None if there is no number in it."""
        known = match.groups
        wanted = _value_groups(tuple(known))
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


@functools.lru_cache(1024)
def _value_groups(groups: tuple[str, ...]) -> Sequence[str]:
    named = [name for name in groups if not name.isdecimal()]
    return [name for name in named if name not in (ITERATION, TOTAL)] or [
        name for name in groups if name.isdecimal() and not named
    ]


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
    """Rules by name; null entries are left out. A name can stand in options, tables, and folders of other programs."""
    if not isinstance(value, dict):
        return value
    wrong = [name for name in map(str, value) if not _NAME.fullmatch(name) or ".." in name.split("/")]
    if wrong:
        raise ValueError(
            f"{', '.join(map(repr, wrong))} can't name a metric: a name begins with a letter, a digit or _, and of "
            "other signs it has blanks and -./:()%+=@# alone"
        )
    return {name: rule for name, rule in value.items() if rule is not None}


Metrics = Annotated[
    dict[Text, Annotated[MetricRule, BeforeValidator(_as_rule)]],
    BeforeValidator(_named),
]
