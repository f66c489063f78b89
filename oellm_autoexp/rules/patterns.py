"""Patterns that are looked for in logs: fast, by the fixed text that every match must hold, and never for long.

A pattern is a Python regular expression (re) for one line. Most lines hold none of the texts that the patterns need, so
that a plain search for those decides; only the few lines that are left are decoded, and matched by `re` itself under a
time limit: a pattern that backtracks without end loses a piece of the log, and does not stop the loop.
"""

from __future__ import annotations

import itertools
import math
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from re import _constants, _parser  # type: ignore[attr-defined]  # no public door to a parsed pattern
from typing import Any

from oellm_autoexp.rules.time_limit import TimeLimit

MATCH_SECONDS = 0.5
"""How long one pattern may take for one line."""
SCAN_SECONDS = 2.0
"""How long one pattern may take for one piece of a log."""
_SHORT_LINE = 1000  # characters
_FEW_WAYS = 1000
_BLOCK = 16384  # characters of several lines
_MANY_LINES = 32
_BYTES_PER_LINE = 1000


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern. Every line that it matches holds one of each of `texts` (small letters if `ignore_case`)."""

    compiled: re.Pattern[str]
    bounded: bool
    """Whether the time for a line grows with its length only, not with the ways to share the line out."""
    beginning: str
    """The fixed text that every match begins with, as far as there is one."""
    whole: re.Pattern[str] | None
    """The same for many lines at once: each line that matches has a place where this does; None: not to be had."""
    texts: tuple[tuple[bytes, ...], ...]
    """The best set first: it chooses the lines that are tried."""
    ignore_case: bool

    @classmethod
    def of(cls, pattern: str, *, substring: bool = False) -> Pattern:
        """A regular expression, or a plain text that a line must hold. Raises re.error."""
        if substring:
            texts = _usable(frozenset({pattern}), ignore_case=False)
            return cls(re.compile(re.escape(pattern)), True, pattern, None, _encoded([texts] if texts else []), False)
        compiled = _compiled(pattern)
        ignore_case = bool(compiled.flags & re.IGNORECASE)
        try:
            parsed = _parsed(pattern)
            needed = _encoded(_needed(parsed, ignore_case=ignore_case))
            beginning = "" if ignore_case else _beginning(parsed)
            whole = None
            if beginning and _sees_one_line(parsed, dot_all=bool(compiled.flags & re.DOTALL)):
                whole = _compiled(pattern, re.MULTILINE)
            return cls(compiled, _ways(parsed) <= _FEW_WAYS, beginning, whole, needed, ignore_case)
        except RecursionError:  # `re` takes groups that are nested a little deeper
            return cls(compiled, False, "", None, (), ignore_case)

    def search(self, line: str) -> re.Match[str] | None:
        """The match in a line, if there is one: that of `re.search`.

        `re` looks for signals, and so for the end of a time limit, while it matches at one place, but not between two
        places: in a long line each place is tried by itself.
        """
        if self.bounded or len(line) <= _SHORT_LINE:
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

    def may_match(self, data: bytes, lowered: bytes) -> bool:
        """Whether some line of `data` may match, by the texts."""
        where = lowered if self.ignore_case else data
        return all(any(text in where for text in texts) for texts in self.texts)

    def lines(self, data: bytes, lowered: bytes) -> Iterator[tuple[int, int]]:
        """Start and end of the lines of `data` that may match, in order. `lowered`: `data` in small letters."""
        if not self.texts:
            yield from _all_lines(data)
            return
        where = lowered if self.ignore_case else data
        chosen = self.texts[0]
        if self.whole is not None and _is_plain(data):
            count = sum(map(data.count, chosen))
            if count >= max(_MANY_LINES, len(data) // _BYTES_PER_LINE):
                yield from _lines_of_matches(self.whole, data)
                return
        if len(chosen) == 1:
            yield from _lines_with(chosen[0], where)
        else:
            yield from sorted({bounds for text in chosen for bounds in _lines_with(text, where)})

    def newest_lines(self, data: bytes, lowered: bytes) -> Iterator[tuple[int, int]]:
        """As `lines`, the last one first."""
        if not self.texts or len(self.texts[0]) > 1:
            yield from reversed(list(self.lines(data, lowered)))
            return
        where, text = lowered if self.ignore_case else data, self.texts[0][0]
        position = where.rfind(text)
        while position >= 0:
            start = _start(where, position)
            yield start, _end(where, position)
            position = where.rfind(text, 0, start)


@dataclass(frozen=True)
class Match:
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


def scan(data: bytes, patterns: Mapping[str, Pattern], *, newest_only: frozenset[str] = frozenset()) -> Scan:
    """Every line of `data` (whole lines) that a pattern matches, in the order of the lines, then of the patterns.

    Of the rules in `newest_only` just the last matching line of all counts.
    """
    lowered = data.lower() if any(pattern.ignore_case for pattern in patterns.values()) else b""
    matches: list[Match] = []
    too_slow = set()
    with TimeLimit() as limit:
        for rule, pattern in patterns.items():
            if not pattern.may_match(data, lowered):
                continue
            newest = rule in newest_only
            bounds = pattern.newest_lines(data, lowered) if newest else pattern.lines(data, lowered)
            now = time.monotonic()
            until = now + SCAN_SECONDS
            try:
                limit.deadline = until
                for start, end in bounds:
                    line = data[start:end].decode(errors="replace")
                    now = time.monotonic()
                    limit.deadline = min(now + MATCH_SECONDS, until)
                    limit.check(now)
                    match = pattern.search(line)
                    if match is not None:
                        matches.append(Match(rule, start, line, _groups(match), match[0]))
                        if newest:
                            break
                limit.deadline = math.inf
            except TimeoutError:
                limit.deadline = math.inf
                too_slow.add(rule)
    matches.sort(key=lambda match: match.offset)
    return Scan(matches, frozenset(too_slow))


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
    ignore_case = bool(_compiled(pattern).flags & re.IGNORECASE)
    try:
        return _advice(_parsed(pattern), ignore_case=ignore_case)
    except RecursionError:
        return "has very many groups inside of each other: leave some out"


def _advice(parsed: Any, *, ignore_case: bool) -> str | None:
    first = next((item for item in parsed if item[0] is not _constants.AT), None)
    if first and first[0] in _REPEATS and first[1][1] is _constants.MAXREPEAT:
        inner = first[1][2]
        if len(inner) == 1 and inner[0][0] is _constants.ANY:
            return "begins with '.*' or '.+': leave that out, a pattern is looked for anywhere in a line"
    if _nested(parsed, inside=False):
        return "has a repeated group with a repeat inside, which may take endless time: repeat only one of the two"
    if not _needed(parsed, ignore_case=ignore_case):
        return "has no fixed text that every match holds, so each line must be tried: add a word of the message"
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
    letters = itertools.takewhile(lambda item: item[0] is _constants.LITERAL, _flat(items))
    return "".join(chr(value) for _, value in letters)


def _encoded(found: Iterable[frozenset[str]]) -> tuple[tuple[bytes, ...], ...]:
    return tuple(tuple(sorted(text.encode() for text in texts)) for texts in found)


_CASELESS = re.compile("[^\x00-\x7f]|[iksIKS]")
"""Letters with other forms than the two of ASCII (ı, the Kelvin sign, ſ), which bytes in small letters do not show."""


def _usable(texts: frozenset[str], *, ignore_case: bool) -> frozenset[str] | None:
    """The texts as they can be looked for in a log's bytes; None if one of them can't be."""
    if ignore_case:
        texts = frozenset(max(_CASELESS.split(text), key=len).lower() for text in texts)
    for text in texts:
        # What can't be decoded is replaced by U+FFFD, which the bytes do not hold; and no line holds its own end.
        if not text or any(letter in "\r\n\ufffd" or "\ud800" <= letter <= "\udfff" for letter in text):
            return None
    return texts


def _needed(items: Any, *, ignore_case: bool) -> list[frozenset[str]]:
    """Sets of texts: every match holds at least one of each. The best set first: few texts, and long."""
    found: list[frozenset[str]] = []
    run = _NOTHING
    for op, value in _flat(items):
        texts = _fixed(op, value)
        if texts and len(run) * len(texts) <= _MOST_TEXTS:  # `grad norm: (nan|inf)` is two texts
            run = frozenset(before + text for before in run for text in texts)
            continue
        found += [run, *_needed_of(op, value, ignore_case=ignore_case)]
        run = texts or _NOTHING
    usable = {ready for texts in (*found, run) if (ready := _usable(texts, ignore_case=ignore_case))}
    return sorted(
        usable, key=lambda texts: (-min(8, *map(len, texts)), len(texts), -min(map(len, texts)), sorted(texts))
    )


_NOTHING = frozenset({""})
_MOST_TEXTS = 4


def _flat(items: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a pattern, those of groups that change no flags among them."""
    for op, value in items:
        if op is _constants.SUBPATTERN and not value[1] and not value[2]:
            yield from _flat(value[3])
        else:
            yield op, value


def _fixed(op: Any, value: Any) -> frozenset[str] | None:
    """The texts that an item stands for, if it stands for few and nothing else."""
    if op is _constants.LITERAL:
        return frozenset({chr(value)})
    if op is _constants.BRANCH and all(item[0] is _constants.LITERAL for branch in value[1] for item in branch):
        return frozenset("".join(chr(item[1]) for item in branch) for branch in value[1])
    return None


def _needed_of(op: Any, value: Any, *, ignore_case: bool) -> list[frozenset[str]]:
    if op is _constants.BRANCH:
        branches = [_needed(branch, ignore_case=ignore_case)[:1] for branch in value[1]]
        return [frozenset(text for best in branches for text in best[0])] if all(branches) else []
    if op in (*_REPEATS, _constants.POSSESSIVE_REPEAT) and value[0] > 0:
        return _needed(value[2], ignore_case=ignore_case)
    if op is _constants.ATOMIC_GROUP:
        return _needed(value, ignore_case=ignore_case)
    return _needed(value[1], ignore_case=ignore_case) if op is _constants.ASSERT else []


def _is_plain(data: bytes) -> bool:
    """Whether bytes and letters are the same in it, and its lines end with \\n alone."""
    return data.isascii() and b"\r" not in data


def _lines_of_matches(pattern: re.Pattern[str], data: bytes) -> Iterator[tuple[int, int]]:
    """The lines in which a match begins, and those that are too long to be searched together with others."""
    text = data.decode("ascii")
    position = 0
    while position < len(text):  # in blocks of whole lines: no signal is looked for within a search
        stop = text.rfind("\n", position, position + _BLOCK)
        if stop < 0:
            stop = _end_of_line(text, position)
            if stop - position > _BLOCK:
                yield position, stop
                position = stop + 1
                continue
        while match := pattern.search(text, position, stop):
            start = text.rfind("\n", position, match.start()) + 1
            end = _end_of_line(text, match.start())
            yield max(start, position), end
            position = end + 1
        position = stop + 1


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _sees_one_line(items: Any, *, dot_all: bool, forbidden: bool = False) -> bool:
    """Whether a pattern that matches a line by itself also matches it among others, where it may see further.

    It does if it can only gain by that: so what is `forbidden` to come (a negative look-around) must end with the line.
    """
    for op, value in items:
        if op is _constants.LITERAL:
            good = not forbidden or value != ord("\n")
        elif op is _constants.ANY:
            good = not (forbidden and dot_all)
        elif op is _constants.AT:
            good = value in (_constants.AT_BEGINNING, _constants.AT_END)
        elif op is _constants.IN:
            good = not forbidden or all(_within_line(*item) for item in value)
        elif op is _constants.NOT_LITERAL:
            good = not forbidden
        elif op in _REPEATS:
            good = _sees_one_line(value[2], dot_all=dot_all, forbidden=forbidden)
        elif op is _constants.SUBPATTERN:
            good = not value[1] and not value[2] and _sees_one_line(value[3], dot_all=dot_all, forbidden=forbidden)
        elif op is _constants.BRANCH:
            good = all(_sees_one_line(branch, dot_all=dot_all, forbidden=forbidden) for branch in value[1])
        elif op is _constants.ASSERT:
            good = _sees_one_line(value[1], dot_all=dot_all, forbidden=forbidden)
        elif op is _constants.ASSERT_NOT:
            good = not forbidden and _sees_one_line(value[1], dot_all=dot_all, forbidden=True)
        else:
            good = False
        if not good:
            return False
    return True


def _within_line(op: Any, value: Any) -> bool:
    """Whether an item of a set can't be the end of a line."""
    if op is _constants.CATEGORY:
        return value in (_constants.CATEGORY_DIGIT, _constants.CATEGORY_WORD)
    if op is _constants.RANGE:
        return not value[0] <= ord("\n") <= value[1]
    return op is _constants.LITERAL and value != ord("\n")


def _lines_with(text: bytes, data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each line that holds a text; lines end as in bytes.splitlines."""
    position = data.find(text)
    while position >= 0:
        end = _end(data, position)
        yield _start(data, position), end
        position = data.find(text, max(end, position + 1))


def _start(data: bytes, position: int) -> int:
    start = data.rfind(b"\n", 0, position) + 1
    return max(start, data.rfind(b"\r", start, position) + 1)


def _end(data: bytes, position: int) -> int:
    newline = data.find(b"\n", position)
    newline = len(data) if newline < 0 else newline
    carriage = data.find(b"\r", position, newline)
    return newline if carriage < 0 else carriage


def _all_lines(data: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    for line in data.splitlines(keepends=True):
        yield start, start + len(line.rstrip(b"\r\n"))
        start += len(line)
