"""Looser expressions for the search library: they match each line that the pattern matches, and some others.

They are made of what `re` has parsed. The library reads letters beyond ASCII, line ends, look-arounds and references
in another way than `re`, so that an exact translation would lose lines; `re` then sorts out those that do not match.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]  # no public door to a parsed one
from typing import Any

_IGNORECASE = int(re.IGNORECASE)  # of an enum, `&` takes ten times as long
LEAST_FIXED = 3
"""Bytes of fixed text that a match must hold: without it there would be a candidate in almost every line."""
_MOST_REPEATS = 16
_MOST_WAYS = 16
_LARGEST = 2000  # letters and sets of a pattern: larger ones take long to compile
_KNOWN = 4096  # letters and sets
_LONG = 5  # bytes of fixed text
_FEW = 2  # letters: a set of them, which may be the two cases of one, does not end a fixed text
_WIDE = 120  # letters of ASCII in a set that excludes little: `[^"]`, but not `\S`


Ways = tuple[tuple[str, ...], ...]
"""Expressions: a line is a candidate if all those of one way match in it."""


@dataclass(frozen=True)
class Wide:
    """Expressions: all those of one way match in each line that a pattern matches. No way: each line may be one."""

    ways: Ways = ()
    fixed: int = 0
    """Bytes of the longest text that each match of the pattern holds."""
    alone: bool = False
    """Whether they are for a search of their own, as those that read each line to its end slow others down."""


class _UnknownError(Exception):
    """A pattern has something in it for which no expression is known."""


@dataclass(frozen=True)
class _Part:
    """An expression that is wider than the part of a pattern that it stands for."""

    text: str
    empty: bool
    """Whether it may match nothing."""
    fixed: int
    """Bytes of the longest text that each match of it holds."""
    literal: bool
    """Whether it is nothing but fixed text."""
    size: int
    letter: str = ""
    """The set of bytes that one letter may be of, where it may be several bytes."""


_NOTHING = _Part("", True, 0, True, 0)
_ANYTHING = _Part(r"[^\n\r]*", True, 0, False, 1)
_LINE_END = _Part(r"[\n\r]", True, 0, False, 1)
_BEGINS = (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING)
_ENDS = (_constants.AT_END, _constants.AT_END_STRING)
_LETTERS = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.IN, _constants.ANY)
_ANY = (_constants.ANY, None)
_GAP = (None, None)
_GIVING_BACK = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
_REPEATS = (*_GIVING_BACK, _constants.POSSESSIVE_REPEAT)
_LOOKS = (_constants.ASSERT, _constants.ASSERT_NOT)
_ASCII = "".join(chr(byte) for byte in range(128) if chr(byte) not in "\n\r")
CASELESS = {"i": r"\xc4[\xb0\xb1]", "k": r"\xe2\x84\xaa", "s": r"\xc5\xbf"}
"""Letters of ASCII with other forms than their two (İ and ı, the Kelvin sign, ſ), and those forms."""


def widened(parsed: Any, flags: int) -> Wide:
    """A parsed pattern as expressions."""
    try:
        ways = [_pieces(way, flags) for way in _ways(parsed, flags)]
    except _UnknownError:
        return Wide()
    fixed = min(max(part.fixed for _, part in way) for way in ways)
    useful = [_useful(way, several=len(ways) > 1) for way in ways]
    if not all(useful) or sum(part.size for way in useful for _, part in way) > _LARGEST:
        return Wide((), fixed)
    alone = [piece for piece in useful[0] if _forbidden(piece[0][-1], flags)] if len(useful) == 1 else []
    texts = [tuple(dict.fromkeys(part.text for _, part in way)) for way in ([alone] if alone else useful)]
    return Wide(tuple(_needed(texts)), fixed, bool(alone))


def _pieces(way: list[Any], flags: int) -> list[tuple[list[Any], _Part]]:
    """What is between the gaps of a way, and its expressions."""
    return [(items, _sequence(items, flags, first=True, last=True)) for items in _split(way)]


def _useful(way: Sequence[tuple[list[Any], _Part]], *, several: bool) -> list[tuple[list[Any], _Part]]:
    """The pieces of a way that few lines hold. Of several ways, short ones only if need be: each word costs time."""
    useful = [piece for piece in way if not piece[1].empty and piece[1].fixed >= LEAST_FIXED]
    longest = max((part.fixed for _, part in useful), default=0)
    return [piece for piece in useful if not several or piece[1].fixed >= min(longest, _LONG)]


def _needed(ways: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Ways without those that ask for all that another one asks for."""
    known: list[frozenset[str]] = []
    for way in sorted(dict.fromkeys(ways), key=len):
        if not any(texts <= frozenset(way) for texts in known):
            known.append(frozenset(way))
            yield way


def flat(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a pattern, those of groups that change no flags among them."""
    for op, value in items:
        if op is _constants.SUBPATTERN and not value[1] and not value[2]:
            yield from flat(value[3])
        else:
            yield op, value


def _ways(items: Iterable[Any], flags: int) -> list[list[Any]]:
    """The ways to match items that follow each other, one for each branch that holds a gap, with _GAP in its place.

    What stands for almost any text is a gap: a line that matches holds all that is between the gaps of one way. To look
    for that is much faster than to look for the whole, where much begins like a match.
    """
    ways: list[list[Any]] = [[]]
    for item in items:
        choices = _choices(item, flags)
        if len(ways) * len(choices) > _MOST_WAYS:
            choices = [[item]]
        ways = [[*way, *choice] for way in ways for choice in choices]
    return ways


def _choices(item: Any, flags: int) -> list[list[Any]]:
    """The ways to match an item: the item itself where it holds no gap that is worth to be looked for."""
    op, value = item
    ways: list[list[Any]] = []
    if _is_any(item, flags):
        return [[_GAP]]
    if op is _constants.SUBPATTERN:
        ways = _ways(value[3], _compiler._combine_flags(flags, value[1], value[2]))
        if value[1] or value[2]:
            ways = [_in_group(way, value) for way in ways]
    elif op is _constants.ATOMIC_GROUP:
        ways = _ways(value, flags)
    elif op is _constants.BRANCH:
        ways = [way for branch in value[1] for way in _ways(branch, flags)]
    elif op in _REPEATS and tuple(value[:2]) == (0, 1):
        ways = [[], *_ways(value[2], flags)]
    whole = [way for way in ways if _GAP not in way]
    if len(whole) == len(ways):
        return [[item]]
    together = [[(_constants.BRANCH, (None, whole))]] if len(whole) > 1 else whole
    return [*together, *(way for way in ways if _GAP in way)]


def _in_group(way: list[Any], group: tuple[Any, ...]) -> list[Any]:
    """A way in which what is between the gaps has the flags of a group."""
    items: list[Any] = []
    for piece in _split(way):
        items += [_GAP, (_constants.SUBPATTERN, (*group[:3], piece))]
    return items[1:]


def _split(way: list[Any]) -> Iterator[list[Any]]:
    """What is between the gaps of a way."""
    start = 0
    for at, item in enumerate(way):
        if item is _GAP:
            yield way[start:at]
            start = at + 1
    yield way[start:]


def _sequence(items: Iterable[Any], flags: int, *, first: bool = False, last: bool = False) -> _Part:
    """Items that follow each other. `first`, `last`: nothing else of the pattern comes before them, or after."""
    items = _trimmed(items, flags, first=first, last=last)
    end = len(items) - 1
    return _joined([_part(it, flags, first=first and at == 0, last=last and at == end) for at, it in enumerate(items)])


def _trimmed(items: Iterable[Any], flags: int, *, first: bool, last: bool) -> list[Any]:
    """Items without what needs not be there for a match."""
    trimmed = list(flat(items))
    while last and trimmed and not _forbidden(trimmed[-1], flags) and (least := _least(trimmed[-1])) is not None:
        trimmed[-1:] = least
    while first and len(trimmed) > 1 and trimmed[0][0] is _constants.AT and _begins_with_little(trimmed[1]):
        del trimmed[0]  # what repeats there costs more than the other lines that are found without it
    while first and trimmed and (least := _least(trimmed[0])) is not None:
        trimmed[:1] = least
    return trimmed


def _begins_with_little(item: Any) -> bool:
    """Whether what may follow the beginning of a line needs not be there for a match."""
    op, value = item
    if op is _constants.BRANCH:
        return any(_begins_with_little(next(flat(branch))) for branch in value[1] if len(branch))
    if op is _constants.SUBPATTERN:
        return any(_begins_with_little(inner) for inner in itertools.islice(flat(value[3]), 1))
    return _least(item) is not None


def _least(item: Any) -> Sequence[Any] | None:
    """What is enough of an item at an end of the pattern; None: all of it."""
    op, value = item
    if op in _LOOKS or op is _constants.GROUPREF or (op is _constants.AT and value not in (*_BEGINS, *_ENDS)):
        return []
    if op in _REPEATS and value[0] <= 1:
        return list(flat(value[2])) if value[0] else []
    if op in _REPEATS and value[0] < value[1]:
        return [(op, (value[0], value[0], value[2]))]
    return None


def _joined(parts: Sequence[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    longest = run = 0
    for part in parts:
        run = run + part.fixed if part.literal else 0
        longest = max(longest, run, part.fixed)
    return _Part(
        "".join(part.text for part in parts),
        all(part.empty for part in parts),
        longest,
        all(part.literal for part in parts),
        sum(part.size for part in parts),
    )


def _part(item: Any, flags: int, *, first: bool, last: bool) -> _Part:
    op, value = item
    if op in _LETTERS:
        return _letter(item, flags)
    if op is _constants.AT:
        return _LINE_END if (first and value in _BEGINS) or (last and value in _ENDS) else _NOTHING
    if op in _LOOKS:
        return _without(_forbidden(item, flags)) if last else _NOTHING
    if op in _REPEATS:
        return _repeated(_sequence(value[2], flags), value[0], value[1])
    if op is _constants.SUBPATTERN:
        return _sequence(value[3], _compiler._combine_flags(flags, value[1], value[2]), first=first, last=last)
    if op is _constants.ATOMIC_GROUP:
        return _sequence(value, flags, first=first, last=last)
    if op is _constants.BRANCH:
        return _either([_sequence(branch, flags, first=first, last=last) for branch in value[1]])
    if op is _constants.GROUPREF_EXISTS:
        return _either([_sequence(branch or (), flags, first=first, last=last) for branch in value[1:]])
    if op is _constants.GROUPREF:
        return _ANYTHING
    raise _UnknownError


def _either(parts: Sequence[_Part]) -> _Part:
    return _Part(
        f"(?:{'|'.join(part.text for part in parts)})",
        any(part.empty for part in parts),
        min(part.fixed for part in parts),
        False,
        sum(part.size for part in parts),
    )


def _repeated(part: _Part, least: int, most: int) -> _Part:
    if not part.text or not most:
        return _NOTHING
    count = min(least, _MOST_REPEATS)
    if part.letter:
        return _Part(f"{part.letter}{{{count},}}", count == 0, 0, False, max(1, count))
    endless = most > _MOST_REPEATS
    literal = part.literal and least == most == count
    return _Part(
        f"(?:{part.text}){{{count},{'' if endless else most}}}",
        count == 0 or part.empty,
        part.fixed * count if literal else part.fixed if count else 0,
        literal,
        part.size * (count + 1 if endless else most),
    )


def _letter(item: Any, flags: int) -> _Part:
    """One letter: a byte of ASCII, or one beyond, which is several bytes. What can't be decoded is U+FFFD."""
    op, value = item
    if op is _constants.LITERAL and (part := _fixed(chr(value), bool(flags & _IGNORECASE))) is not None:
        return part
    letters = _members(item, flags)
    if op is _constants.IN and not flags & _IGNORECASE and all(_is_ascii(each) for each in value):
        if not letters:
            raise _UnknownError  # no line holds one
        return _Part(_set(letters), False, 0, len(letters) <= _FEW, 1, _set(letters))
    one = _set(letters, beyond=True)
    return _Part(rf"{one}[\x80-\xff]*", False, 0, False, 2, one)


@functools.lru_cache(_KNOWN)  # patterns are mostly such letters
def _fixed(letter: str, caseless: bool) -> _Part | None:
    """One letter in its form, or in its forms; None if there are more than two. Raises _UnknownError."""
    if letter in "\n\r" or "\ud800" <= letter <= "\udfff":
        raise _UnknownError  # no line holds one
    if letter.isascii() and caseless:
        forms = _set({letter.lower(), letter.upper()})
        beyond = CASELESS.get(letter.lower())
        return _Part(f"(?:{forms}|{beyond})" if beyond else forms, False, 1, True, 5 if beyond else 1)
    if caseless or letter == "\ufffd":
        return None
    encoded = letter.encode()
    return _Part(_quoted(encoded), False, len(encoded), True, len(encoded))


def _is_ascii(member: Any) -> bool:
    """Whether a member of a set is nothing but letters of ASCII. Those of `\\d` and the like are not."""
    op, value = member
    return (op is _constants.LITERAL and value < 128) or (op is _constants.RANGE and value[1] < 128)


def _members(item: Any, flags: int) -> frozenset[str]:
    """The letters of ASCII that an item stands for, by `re` itself."""
    op, value = item
    return _letters_of(op, tuple(value) if op is _constants.IN else value, flags)


@functools.lru_cache(_KNOWN)
def _letters_of(op: Any, value: Any, flags: int) -> frozenset[str]:
    state = _parser.State()
    state.flags = flags
    item = op, list(value) if op is _constants.IN else value
    return frozenset(_compiler.compile(_parser.SubPattern(state, [item]), flags).findall(_ASCII))


def _set(letters: Iterable[str], *, beyond: bool = False) -> str:
    return f"[{_quoted(''.join(sorted(letters)).encode())}{_BEYOND if beyond else ''}]"


_BEYOND = r"\x80-\xff"


def _quoted(data: bytes) -> str:
    return "".join(chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"\\x{byte:02x}" for byte in data)


def _is_any(item: Any, flags: int) -> bool:
    """Whether an item is any number of almost any letter."""
    op, value = item
    endless = op in _REPEATS and value[1] is _constants.MAXREPEAT and len(value[2]) == 1
    return endless and value[2][0][0] in _LETTERS and len(_members(value[2][0], flags)) >= _WIDE


def _forbidden(item: Any, flags: int) -> Sequence[frozenset[str]]:
    """The words of an item `(?!.*words)`, as the letters of each place, perhaps fewer than it forbids; else nothing."""
    op, value = item
    if op is not _constants.ASSERT_NOT or value[0] < 0 or len(value[1]) < 2:
        return []
    (op, times), *words = value[1]
    if op not in _GIVING_BACK or times[:2] != (0, _constants.MAXREPEAT) or list(times[2]) != [_ANY]:
        return []
    if len(words) > _MOST_REPEATS or any(op not in _LETTERS for op, _ in words):
        return []
    letters = [_members(word, flags) for word in words]
    return letters if all(letters) else []


def _without(words: Sequence[frozenset[str]]) -> _Part:
    """The rest of a line that does not hold words: as much of them as comes, then a letter that differs, and so on."""
    if not words:
        return _NOTHING
    way = tail = ""
    for letters in reversed(words):
        other = _set(set(_ASCII) - letters, beyond=True)
        tail = f"(?:{_set(letters)}{tail})?" if way else ""
        way = f"(?:{other}|{_set(letters)}{way})" if way else other
    return _Part(f"{way}*{tail}{_LINE_END.text}", True, 0, False, 3 * len(words))
