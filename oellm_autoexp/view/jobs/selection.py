"""Which jobs and columns a person asks for, and in which order: --columns, --sort, --filter. Pure."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oellm_autoexp.core.errors import ConfigError, Problem, raise_all
from oellm_autoexp.core.text import did_you_mean
from oellm_autoexp.view.jobs.columns import Column, Subject, Value, columns_of, in_utc
from oellm_autoexp.view.jobs.times import length, moment

_FILTER = re.compile(r"\s*([^!<>=]+?)\s*(!=|<=|>=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Filter:
    """`loss<3.5`: a column, how its values are compared (`=`, `!=`, `<`, …), and with what."""

    column: str
    operator: str
    wanted: str


@dataclass(frozen=True)
class Selection:
    """What is asked for. `columns` None: those that fit; `sort`: columns by their rank, each with `-` if it falls."""

    columns: tuple[str, ...] | None = None
    sort: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()


def selection(columns: str | None, sort: Iterable[str], filters: Iterable[str]) -> Selection:
    """What the words of the options ask for. Raises ConfigError for words that say nothing."""
    problems, found = [], []
    for word in filters:
        match = _FILTER.fullmatch(word)
        if match is None:
            hint = "write column=value, column!=value, column<value or column>=value"
            problems.append(Problem(f"{word!r} is no filter", "--filter", hint))
        else:
            found.append(Filter(match[1], match[2].replace("==", "="), match[3]))
    names = None if columns is None else _words(columns)
    if names == ():
        problems.append(Problem("no column is named", "--columns", "write --columns job,state,loss"))
    raise_all(ConfigError, problems)
    return Selection(names, tuple(word for each in sort for word in _words(each)), tuple(found))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def chosen(asked: Selection, subjects: Sequence[Subject]) -> list[Subject]:
    """The jobs that pass every filter, sorted; what has no value, or nan, comes last. Raises ConfigError."""
    known = columns_of(subjects)
    _check(asked, known)
    now = subjects[0].now if subjects else 0.0
    tests = [_test(each, known[_name(each.column, known)], now) for each in asked.filters]
    found = [subject for subject in subjects if all(test(subject) for test in tests)]
    for word in reversed(asked.sort):
        column = known[_name(word.removeprefix("-"), known)]
        there = [subject for subject in found if _has_rank(column.value(subject))]
        absent = [subject for subject in found if not _has_rank(column.value(subject))]
        there.sort(key=lambda subject: _rank(column.value(subject)), reverse=word.startswith("-"))
        found = [*there, *absent]
    return found


def chosen_columns(asked: Selection, subjects: Sequence[Subject]) -> list[Column]:
    """The columns that are asked for by name. Raises ConfigError."""
    known = columns_of(subjects)
    _check(asked, known)
    return [known[_name(name, known)] for name in asked.columns or ()]


def _name(name: str, known: Mapping[str, Column]) -> str:
    """A column's name; a key of the sweep may also be written in full."""
    if name in known:
        return name
    return next((column.name for column in known.values() if column.key == name), name)


def _check(asked: Selection, known: Mapping[str, Column]) -> None:
    words = [
        *(("--columns", name) for name in asked.columns or ()),
        *(("--sort", word.removeprefix("-")) for word in asked.sort),
        *(("--filter", each.column) for each in asked.filters),
    ]
    problems = []
    for option, name in words:
        if _name(name, known) not in known:
            near = did_you_mean(name, known)
            hint = f"{near} " if near.startswith("did") else ""
            problems.append(Problem(f"there is no column '{name}'", option, f"{hint}known: {', '.join(known)}"))
    raise_all(ConfigError, problems)


def _has_rank(value: Value) -> bool:
    return value not in (None, "") and not (isinstance(value, float) and math.isnan(value))


def _rank(value: Value) -> tuple[bool, Value]:
    """Numbers by size, before texts by the alphabet."""
    return isinstance(value, str), value


def _test(wanted: Filter, column: Column, now: float) -> Callable[[Subject], bool]:
    """Whether a job passes. Raises ConfigError for a text that the column can't have: no number, time or known word."""
    if wanted.operator in ("=", "!="):
        same = wanted.operator == "="
        options = [option.strip() for option in wanted.wanted.split(",")]
        raise_all(ConfigError, [_no_word(option, column) for option in options if _means_nothing(option, column)])
        return lambda subject: any(_equal(column, subject, option) for option in options) is same
    text = in_utc(moment(wanted.wanted, now, "--filter")) if column.is_time else wanted.wanted
    limit = None if column.is_time else _as_number(text, column)
    if limit is None and column.is_number:
        like = "30s, 5min, 2h or a number of seconds" if column.seconds else "a number"
        raise ConfigError(Problem(f"'{wanted.wanted}' is no number", "--filter", f"{column.name} wants {like}"))
    compare = _ORDER[wanted.operator]

    def test(subject: Subject) -> bool:
        value = column.value(subject)
        if value is None or value == "":
            return False
        if limit is None:
            return isinstance(value, str) and compare(value, text)
        number = value if isinstance(value, int | float) else _as_number(value, column)
        return number is not None and compare(number, limit)

    return test


def _means_nothing(option: str, column: Column) -> bool:
    """True if a column has only certain words, and this pattern means none of them."""
    return bool(option and column.words and not fnmatch.filter(column.words, option))


def _no_word(option: str, column: Column) -> Problem:
    near = did_you_mean(option, column.words)
    hint = f"{near} " if near.startswith("did") else ""
    what = f"no job can have the {column.name} '{option}'"
    return Problem(what, "--filter", f"{hint}known: {', '.join(sorted(column.words))}")


def _equal(column: Column, subject: Subject, wanted: str) -> bool:
    """Whether a value is the one that is wanted: as a number, as a text (`*` and `?` are wildcards), or as shown."""
    value = column.value(subject)
    number = _as_number(wanted, column)
    if isinstance(value, int | float) and not isinstance(value, bool) and number is not None:
        return value == number or (math.isnan(value) and math.isnan(number))
    if number is not None and math.isnan(number) and str(value).lower() in ("nan", ".nan"):
        return True
    text = "" if value is None else column.shown(subject) if isinstance(value, bool) else str(value)
    if isinstance(value, bool) and wanted.lower() == text:  # `True`, as Python and the CSV file have it
        return True
    return fnmatch.fnmatchcase(text, wanted) or column.shown(subject) == wanted


def _as_number(text: str, column: Column) -> float | None:
    if column.seconds and (seconds := length(text)) is not None:
        return seconds
    try:
        return float(text)
    except ValueError:
        return None
