"""Patterns that are looked for in logs: fast, and never for long.

A pattern is a Python regular expression (re) for one line. Few lines may match at all (candidates.py finds them); only
these are decoded, and matched by `re` itself under a time limit: a pattern that backtracks without end loses a piece
of the log, and does not stop the loop.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from re import _constants, _parser  # type: ignore[attr-defined]  # no public door to a parsed pattern
from typing import Any, NamedTuple

from oellm_autoexp.search.candidates import Bounds, Candidates
from oellm_autoexp.search.escapes import Shortened
from oellm_autoexp.search.time_limit import TimeLimit
from oellm_autoexp.search.widening import Wide, flat, widened

MATCH_SECONDS = 0.5
"""How long one pattern may take for one line."""
SCAN_SECONDS = 2.0
"""How long one pattern may take for one piece of a log."""
_SHORT_LINE = 1000  # characters
_FEW_WAYS = 1000
_KNOWN = 4096  # patterns


@dataclass(frozen=True)
class Pattern:
    """A pattern, compiled when the first line is tried."""

    text: str
    """A regular expression."""
    wide: Wide
    """How lines that may match are found."""

    @classmethod
    @functools.lru_cache(_KNOWN)
    def of(cls, pattern: str, *, substring: bool = False, core: str = "") -> Pattern:
        """A regular expression, or a plain text that a line must hold. Raises re.error.

        `core` is a part of the pattern that each match holds: then lines are found by it alone, and what is wrong with
        the rest of the pattern is known when a line is tried.
        """
        text = re.escape(pattern) if substring else pattern
        if not core:
            _compiled(text)
        try:
            found_by = _parsed(core or text)
            return cls(text, widened(found_by, found_by.state.flags))
        except RecursionError:  # `re` takes groups that are nested a little deeper
            return cls(text, Wide())

    @functools.cached_property
    def compiled(self) -> re.Pattern[str]:
        """The regular expression."""
        return _compiled(self.text)

    @functools.cached_property
    def bounded(self) -> bool:
        """Whether the time for a line grows with its length only, not with the ways to share the line out."""
        try:
            return _ways(_parsed(self.text)) <= _FEW_WAYS
        except RecursionError:
            return False

    @functools.cached_property
    def beginning(self) -> str:
        """The fixed text that every match begins with, as far as there is one."""
        try:
            return "" if self.compiled.flags & re.IGNORECASE else _beginning(_parsed(self.text))
        except RecursionError:
            return ""

    def search(self, line: str) -> re.Match[str] | None:
        """The match in a line, if there is one: that of `re.search`.

        `re` looks for signals, and so for the end of a time limit, while it matches at one place, but not between two
        places: in a long line each place is tried by itself.
        """
        if len(line) <= _SHORT_LINE or self.bounded:
            return self.compiled.search(line)
        for place in self._places(line):
            if match := self.compiled.match(line, place):
                return match
        return None

    def _places(self, line: str) -> Iterator[int]:
        """Where in a line a match may begin."""
        if not self.beginning:
            yield from range(len(line) + 1)
            return
        place = line.find(self.beginning)
        while place >= 0:
            yield place
            place = line.find(self.beginning, place + 1)


class Match(NamedTuple):
    """A line that a rule matched: its byte offset in the data, its text, the groups that took part, the whole match."""

    rule: str
    offset: int
    line: str
    groups: Mapping[str, str]
    whole: str = ""


@dataclass(frozen=True)
class Scan:
    """What was found in a piece of a log. `too_slow` are the rules that ran out of time; they judged a part of it."""

    matches: Sequence[Match]
    too_slow: frozenset[str] = frozenset()


class Search:
    """A search for patterns in `data` (whole lines), in one pass for all of them.

    Escape sequences of colours are no part of a line. Of the rules in `newest_only` just the last matching line counts.
    """

    def __init__(
        self, data: bytes, patterns: Mapping[str, Pattern], *, newest_only: frozenset[str] = frozenset()
    ) -> None:
        self._plain = Shortened.without_escapes(data)
        self._patterns = patterns
        self._newest_only = newest_only
        self._candidates = Candidates(self._plain.data)

    def matches(self, rules: Iterable[str] | None = None) -> Scan:
        """Every line that a pattern matches, in the order of the lines, then of the patterns. `rules`: not of all."""
        matches: list[Match] = []
        too_slow = set()
        lines_of = {rule: self._lines_of(rule) for rule in (self._patterns if rules is None else rules)}
        with TimeLimit() as limit:
            for rule, lines in lines_of.items():
                until = time.monotonic() + SCAN_SECONDS
                try:
                    limit.deadline = until
                    for bounds in lines:
                        match = self._match(rule, bounds, limit, until)
                        if match is not None:
                            matches.append(match)
                            if rule in self._newest_only:
                                break
                    limit.deadline = math.inf
                except TimeoutError:
                    limit.deadline = math.inf
                    too_slow.add(rule)
        matches.sort(key=lambda match: match.offset)
        return Scan(matches, frozenset(too_slow))

    def newest_first(self, rules: Sequence[str], is_last: Callable[[Match], bool]) -> None:
        """Show `is_last` every match of some rules, in the opposite order, until it says that it needs no more.

        Most lines of a log may be such, and only the last few are matched by `re`. A rule that is too slow is left out.
        """
        lines = [(*bounds, number) for number, rule in enumerate(rules) for bounds in self._lines_of(rule)]
        lines.sort(reverse=True)
        too_slow = set()
        with TimeLimit() as limit:
            until = time.monotonic() + SCAN_SECONDS * len(rules)
            for start, end, number in lines:
                if number in too_slow:
                    continue
                try:
                    match = self._match(rules[number], (start, end), limit, until)
                    limit.deadline = math.inf
                except TimeoutError:
                    limit.deadline = math.inf
                    too_slow.add(number)
                    continue
                if match is not None and is_last(match):
                    return

    def _match(self, rule: str, bounds: Bounds, limit: TimeLimit, until: float) -> Match | None:
        """The match of a rule in a line. Raises TimeoutError."""
        start, end = bounds
        line = self._plain.data[start:end].decode(errors="replace")
        now = time.monotonic()
        limit.deadline = min(now + MATCH_SECONDS, until)
        limit.check(now)
        match = self._patterns[rule].search(line)
        return None if match is None else Match(rule, self._plain.original(start), line, _groups(match), match[0])

    def _lines_of(self, rule: str) -> Iterable[Bounds]:
        """The lines that may match."""
        if rule in self._newest_only:
            return self._candidates.newest_of(self._patterns[rule].wide)
        return self._bounds[rule]

    @functools.cached_property
    def _bounds(self) -> Mapping[str, Sequence[Bounds]]:
        rules = [rule for rule in self._patterns if rule not in self._newest_only]
        return dict(zip(rules, self._candidates.of([self._patterns[rule].wide for rule in rules]), strict=True))


def scan(data: bytes, patterns: Mapping[str, Pattern], *, newest_only: frozenset[str] = frozenset()) -> Scan:
    """Every line of `data` that a pattern matches (see Search)."""
    return Search(data, patterns, newest_only=newest_only).matches()


def _groups(match: re.Match[str]) -> dict[str, str]:
    """The groups that took part: by number, and by name."""
    numbered = {str(number): text for number, text in enumerate(match.groups(), 1) if text is not None}
    return numbered | {name: text for name, text in match.groupdict().items() if text is not None}


def group_names(pattern: str) -> tuple[str, ...]:
    """The groups of a regular expression: by number from 1, then the names. Raises re.error."""
    compiled = _compiled(pattern)
    return (*(str(number) for number in range(1, compiled.groups + 1)), *compiled.groupindex)


def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """`re.compile` without its warnings. Raises re.error, also for too large numbers and too deeply nested groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return re.compile(pattern, flags)
        except (OverflowError, RecursionError) as error:
            raise re.error(str(error), pattern) from None


def _parsed(pattern: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _parser.parse(pattern)


def advice(pattern: str) -> str | None:
    """What makes a pattern slow, and what would be better; None if nothing does. Raises re.error."""
    flags = _compiled(pattern).flags
    try:
        return _advice(_parsed(pattern), flags)
    except RecursionError:
        return "has very many groups inside of each other: leave some out"


def _advice(parsed: Any, flags: int) -> str | None:
    first = next((item for item in parsed if item[0] is not _constants.AT), None)
    if first and first[0] in _REPEATS and first[1][1] is _constants.MAXREPEAT:
        inner = first[1][2]
        if len(inner) == 1 and inner[0][0] is _constants.ANY:
            return "begins with '.*' or '.+': leave that out, a pattern is looked for anywhere in a line"
    if _nested(parsed, inside=False):
        return "has a repeated group with a repeat inside, which may take extremely long: repeat only one of the two"
    if not widened(parsed, flags).fixed:
        return "has no fixed text that every match contains, so each line must be tested: add a word of the message"
    return None


_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)


def _nested(items: Any, *, inside: bool) -> bool:
    for op, value in items:
        if op in _REPEATS:
            endless = value[1] is _constants.MAXREPEAT
            if (endless and inside) or _nested(value[2], inside=inside or endless):
                return True
        elif op is _constants.SUBPATTERN:
            if _nested(value[3], inside=inside):
                return True
        elif op is _constants.BRANCH and any(_nested(branch, inside=inside) for branch in value[1]):
            return True
    return False


def _ways(items: Any) -> float:
    """At most how many ways there are to match a pattern at one place; very many if a repeat in it has no end."""
    ways = 1.0
    for op, value in items:
        if op in (*_REPEATS, _constants.POSSESSIVE_REPEAT):
            inner = _ways(value[2])
            ways *= value[1] + 1 if inner == 1 else inner + 1 if value[1] == 1 else math.inf
        elif op is _constants.SUBPATTERN:
            ways *= _ways(value[3])
        elif op is _constants.BRANCH:
            ways *= sum(map(_ways, value[1]))
        elif op is _constants.GROUPREF_EXISTS:
            ways *= sum(_ways(branch) for branch in value[1:] if branch is not None)
        elif op in (_constants.ASSERT, _constants.ASSERT_NOT):
            ways *= _ways(value[1])
        elif op is _constants.ATOMIC_GROUP:
            ways *= _ways(value)
    return ways


def _beginning(items: Any) -> str:
    """The letters that a pattern begins with."""
    letters = itertools.takewhile(lambda item: item[0] is _constants.LITERAL, flat(items))
    return "".join(chr(value) for _, value in letters)
