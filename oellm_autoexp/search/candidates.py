"""Which lines of a log may match which patterns: one pass over the bytes for all patterns, by hyperscan (Vectorscan).

Hyperscan searches for hundreds of expressions at once, in a time that depends on the length of the log alone. Where it
is not installed, or a pattern has no expressions, each line is a candidate.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from oellm_autoexp.search.widening import Ways, Wide

Bounds = tuple[int, int]
"""Start and end of a line, as bytes; lines end as in bytes.splitlines."""

_BLOCK = 1 << 15  # bytes
_TOGETHER = 128  # patterns of one search
_WORTH = 1 << 17  # bytes: `re` searches them in about the time that expressions take to be compiled
_KNOWN = 256  # searches


class Candidates:
    """The lines of a piece of a log (whole lines) that patterns may match."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def of(self, wides: Sequence[Wide]) -> list[Sequence[Bounds]]:
        """For each pattern its lines, in order."""
        known = tuple(dict.fromkeys(wide.ways for wide in wides if wide.ways and not wide.alone))
        groups = [known[start : start + _TOGETHER] for start in range(0, len(known), _TOGETHER)]
        groups += [(ways,) for ways in dict.fromkeys(wide.ways for wide in wides if wide.alone)]
        found: dict[Ways, Sequence[Bounds]] = {}
        for some in groups:
            ends = _searches(some).ends(self._data, self._blocks, len(self._data))
            found.update((some[number], list(self._lines_at(places))) for number, places in ends.items())
        return [self._lines if (lines := found.get(wide.ways)) is None else lines for wide in wides]

    def newest_of(self, wide: Wide) -> Iterator[Bounds]:
        """The lines of a pattern, the last one first."""
        known = (wide.ways,) if wide.ways else ()
        size = len(self._data)
        for block in reversed(self._blocks):
            ends = _searches(known).ends(self._data, [block], size)
            if not ends:
                yield from reversed(self._lines)
                return
            yield from reversed(list(self._lines_at(ends[0])))
            size = 0

    @functools.cached_property
    def _lines(self) -> Sequence[Bounds]:
        """Each line."""
        start, found = 0, []
        for line in self._data.splitlines(keepends=True):
            found.append((start, start + len(line.rstrip(b"\r\n"))))
            start += len(line)
        return found

    @functools.cached_property
    def _blocks(self) -> Sequence[Bounds]:
        """Some whole lines each: expressions of one pattern that match in different blocks say nothing."""
        start, found = 0, []
        while start < len(self._data):
            end = self._data.rfind(b"\n", start, start + _BLOCK) + 1 or self._data.find(b"\n", start) + 1
            end = end if end and start + _BLOCK < len(self._data) else len(self._data)
            found.append((start, end))
            start = end
        return found

    def _lines_at(self, ends: list[int]) -> Iterator[Bounds]:
        """The lines in which matches end: with a letter of the line, or with its end."""
        data, after = self._data, 0
        for end in sorted(ends):
            if end > after:
                start = data.rfind(b"\n", 0, end - 1) + 1
                start = max(start, data.rfind(b"\r", start, end - 1) + 1)
                stop = data.find(b"\n", end - 1)
                stop = len(data) if stop < 0 else stop
                carriage = data.find(b"\r", end - 1, stop)
                stop = stop if carriage < 0 else carriage
                yield start, stop
                after = stop + 1


@functools.cache
def _library() -> Any:
    """hyperscan, which is large and loaded when it is needed; None where the extra `fast` is not installed."""
    try:
        import hyperscan
    except ImportError:
        return None
    return hyperscan


def library_is_there() -> bool:
    """True if lines are found by the library; without it, each pattern is tried on each line."""
    return _library() is not None


class _Search:
    """Expressions of patterns, compiled together as soon as that is worth its time."""

    def __init__(self, known: Sequence[Ways]) -> None:
        self._known = known
        self._searched = 0
        self._taken: Sequence[int] = ()
        self._database: Any = None
        self._owners: Sequence[int] = ()
        self._lock = threading.Lock()  # a database's working memory is for one search at a time

    def ends(self, data: bytes, blocks: Iterable[Bounds], size: int) -> dict[int, list[int]]:
        """By the number of each pattern that can be searched for: where its matches end."""
        with self._lock:
            self._searched += size
            if self._searched < _WORTH or _library() is None:
                return {}
            try:
                if self._database is None:
                    self._compile()
                return self._ends(data, blocks) if self._taken else {}
            except _library().error:  # no memory, say: for good
                self._taken = ()
                return {}

    def _ends(self, data: bytes, blocks: Iterable[Bounds]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {number: [] for number in self._taken}
        start = 0

        def seen(number: int, _from: int, end: int, _flags: int, _context: object) -> None:
            found[self._owners[number]].append(start + end - 1)

        for start, stop in blocks:
            self._database.scan(b"\n" + data[start:stop] + b"\n", match_event_handler=seen)
        return found

    def _compile(self) -> None:
        numbers = range(len(self._known))
        try:
            self._database, self._owners = _database(self._known, numbers)
            self._taken = numbers
        except _library().error:
            self._taken = [number for number in numbers if _is_taken(self._known, number)]
            self._database, self._owners = _database(self._known, self._taken)


_searches = functools.lru_cache(_KNOWN)(_Search)


def _database(known: Sequence[Ways], numbers: Sequence[int]) -> tuple[Any, Sequence[int]]:
    """The ways of these patterns, compiled, and for each number that it reports the pattern. Raises hyperscan.error."""
    ways = [(number, way) for number in numbers for way in known[number]]
    parts = dict.fromkeys(text for _, way in ways if len(way) > 1 for text in way)
    number_of = {text: len(ways) + at for at, text in enumerate(parts)}
    texts = [" & ".join(str(number_of[text]) for text in way) if len(way) > 1 else way[0] for _, way in ways]
    kinds = [_library().HS_FLAG_COMBINATION if len(way) > 1 else 0 for _, way in ways]
    kinds += [_library().HS_FLAG_QUIET] * len(parts)
    expressions = [text.encode() for text in (*texts, *parts)]
    database = _library().Database()
    if expressions:
        database.compile(expressions=expressions, ids=range(len(kinds)), flags=kinds, elements=len(kinds))
    return database, [number for number, _ in ways]


def _is_taken(known: Sequence[Ways], number: int) -> bool:
    try:
        _database(known, [number])
    except _library().error:
        return False
    return True
