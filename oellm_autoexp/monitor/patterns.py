"""Patterns that are looked for in logs: fast, by the fixed text that every match must hold, and never for long.

A pattern is a Python regular expression (re) for one line. Most lines hold none of the texts that the patterns need, so
that a plain search for those decides; only the few lines that are left are decoded and matched. Matching itself is done
by the `regex` package, which can be given a time limit: a pattern that backtracks without end loses a line, not the
loop.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from re import _constants, _parser  # type: ignore[attr-defined]  # no public door to a parsed pattern
from typing import Any

import regex

MATCH_SECONDS = 0.5
"""How long one pattern may take for one line."""
_MANY_LINES = 32
_SHORT_LINE = 500  # characters
_FEW_REPEATS = 2  # without an end
SCAN_SECONDS = 2.0
"""How long one pattern may take for one piece of a log."""


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern. Every line that it matches holds one of each of `texts` (small letters if `ignore_case`)."""

    compiled: regex.Pattern[str]
    quick: re.Pattern[str] | None
    """The same by `re`, which is quicker and knows no time limit: for short lines, where that can't take long."""
    whole: regex.Pattern[bytes] | None
    """The same for many lines at once: each line that matches has a place where this does; None: not to be had."""
    texts: tuple[tuple[bytes, ...], ...]
    """The best set first: it chooses the lines that are tried."""
    ignore_case: bool

    @classmethod
    def of(cls, pattern: str, *, substring: bool = False) -> Pattern:
        """A regular expression, or a plain text that a line must hold. Raises re.error."""
        if substring:
            texts = _usable(frozenset({pattern}), ignore_case=False)
            return cls(regex.compile(regex.escape(pattern)), None, None, _encoded([texts] if texts else []), False)
        plain = re.compile(pattern)
        ignore_case = bool(plain.flags & re.IGNORECASE)
        parsed = _parser.parse(pattern)
        quick = plain if _endless(parsed) <= _FEW_REPEATS and not _nested(parsed, inside=False) else None
        whole = None
        if pattern.isascii() and not ignore_case and _sees_one_line(parsed):
            whole = regex.compile(pattern.encode(), regex.MULTILINE)
        needed = _encoded(_needed(parsed, ignore_case=ignore_case))
        return cls(regex.compile(pattern), quick, whole, needed, ignore_case)

    def search(self, line: str, seconds: float) -> re.Match[str] | regex.Match[str] | None:
        """The match in a line, if there is one. Raises TimeoutError."""
        if self.quick is not None and len(line) <= _SHORT_LINE:
            return self.quick.search(line)
        return self.compiled.search(line, timeout=seconds)

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
        if self.whole is not None and sum(map(data.count, chosen)) >= _MANY_LINES and _is_plain(data):
            try:
                yield from _lines_of_matches(self.whole, data)
            except TimeoutError:  # one by one, each with its own limit
                pass
            else:
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
    """A line that a rule matched: its byte offset in the data, its text, and the groups that took part."""

    rule: str
    offset: int
    line: str
    groups: Mapping[str, str]


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
    for rule, pattern in patterns.items():
        if not pattern.may_match(data, lowered):
            continue
        bounds = pattern.newest_lines(data, lowered) if rule in newest_only else pattern.lines(data, lowered)
        until = time.monotonic() + SCAN_SECONDS
        try:
            for start, end in bounds:
                line = data[start:end].decode(errors="replace")
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                match = pattern.search(line, min(MATCH_SECONDS, left))
                if match is not None:
                    matches.append(Match(rule, start, line, _groups(match)))
                    if rule in newest_only:
                        break
        except TimeoutError:
            too_slow.add(rule)
    matches.sort(key=lambda match: match.offset)
    return Scan(matches, frozenset(too_slow))


def _groups(match: re.Match[str] | regex.Match[str]) -> dict[str, str]:
    """The groups that took part: by number, and by name."""
    numbered = {str(number): text for number, text in enumerate(match.groups(), 1) if text is not None}
    return numbered | {name: text for name, text in match.groupdict().items() if text is not None}


def group_names(pattern: str) -> tuple[str, ...]:
    """The groups of a regular expression: by number from 1, then the names. Raises re.error."""
    compiled = re.compile(pattern)
    return (*(str(number) for number in range(1, compiled.groups + 1)), *compiled.groupindex)


def advice(pattern: str) -> str | None:
    """What makes a pattern slow, and what would be better; None if nothing does."""
    parsed = [item for item in _parser.parse(pattern) if item[0] is not _constants.AT]
    if parsed and parsed[0][0] in _REPEATS and parsed[0][1][1] is _constants.MAXREPEAT:
        inner = parsed[0][1][2]
        if len(inner) == 1 and inner[0][0] is _constants.ANY:
            return "begins with '.*' or '.+': leave that out, a pattern is looked for anywhere in a line"
    if _nested(parsed, inside=False):
        return "has a repeated group with a repeat inside, which may take endless time: repeat only one of the two"
    if not _needed(_parser.parse(pattern), ignore_case=bool(re.compile(pattern).flags & re.IGNORECASE)):
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


def _endless(items: Any) -> int:
    """How many repeats without an end a pattern has that may share out a text among them in many ways.

    A line of n letters may take as many steps as n to that power. Digits or blanks before something else do not count:
    they can end at one place only.
    """
    count = 0
    flat = list(_flat(items))
    for (op, value), after in zip(flat, [*flat[1:], None], strict=True):
        if op in _REPEATS:
            endless = value[1] is _constants.MAXREPEAT and not _ends_at_once(value[2], after)
            count += endless + _endless(value[2])
        elif op is _constants.SUBPATTERN:
            count += _endless(value[3])
        elif op is _constants.BRANCH:
            count += max(map(_endless, value[1]))
        elif op in (_constants.ASSERT, _constants.ASSERT_NOT):
            count += _endless(value[1])
        elif op is _constants.GROUPREF:
            count += 1
    return count


_ALIKE = {_constants.CATEGORY_DIGIT: str.isdigit, _constants.CATEGORY_SPACE: str.isspace}


def _ends_at_once(repeated: Any, after: Any) -> bool:
    """Whether what is repeated is digits or blanks, and what comes after it can't be."""
    kind = _category(repeated[0]) if len(repeated) == 1 else None
    if kind not in _ALIKE or after is None:
        return False
    op, value = after
    if op is _constants.LITERAL:
        return not _ALIKE[kind](chr(value))
    if op in _REPEATS and value[0] > 0 and len(value[2]) == 1:
        op, value = value[2][0]
    other = _category((op, value))
    return other in _ALIKE and other is not kind


def _category(item: Any) -> Any:
    """The category that an item stands for, such as digits, if it is just one."""
    op, value = item
    if op is _constants.IN and len(value) == 1 and value[0][0] is _constants.CATEGORY:
        return value[0][1]
    return None


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


def _lines_of_matches(pattern: regex.Pattern[bytes], data: bytes) -> list[tuple[int, int]]:
    """The lines in which a match begins. Raises TimeoutError."""
    found: list[tuple[int, int]] = []
    position = 0
    until = time.monotonic() + min(MATCH_SECONDS, SCAN_SECONDS)
    while position < len(data) and (left := until - time.monotonic()) > 0:
        match = pattern.search(data, position, timeout=left)
        if match is None:
            return found
        start, end = _start(data, match.start()), _end(data, match.start())
        found.append((start, end))
        position = end + 1
    if position < len(data):
        raise TimeoutError
    return found


def _sees_one_line(items: Any, *, forbidden: bool = False) -> bool:
    """Whether a pattern that matches a line by itself also matches it among others, where it may see further.

    It does if it can only gain by that: so what is `forbidden` to come (a negative look-around) must end with the line.
    """
    for op, value in items:
        if op is _constants.LITERAL:
            good = not forbidden or value != ord("\n")
        elif op is _constants.ANY:
            good = True
        elif op is _constants.AT:
            good = value in (_constants.AT_BEGINNING, _constants.AT_END)
        elif op is _constants.IN:
            good = not forbidden or all(_within_line(*item) for item in value)
        elif op is _constants.NOT_LITERAL:
            good = not forbidden
        elif op in _REPEATS:
            good = _sees_one_line(value[2], forbidden=forbidden)
        elif op is _constants.SUBPATTERN:
            good = not value[1] and not value[2] and _sees_one_line(value[3], forbidden=forbidden)
        elif op is _constants.BRANCH:
            good = all(_sees_one_line(branch, forbidden=forbidden) for branch in value[1])
        elif op is _constants.ASSERT:
            good = _sees_one_line(value[1], forbidden=forbidden)
        elif op is _constants.ASSERT_NOT:
            good = not forbidden and _sees_one_line(value[1], forbidden=True)
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
