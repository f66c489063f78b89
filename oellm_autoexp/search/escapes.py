"""Text without the escape sequences of a terminal: colours may stand inside of what is looked for. Pure."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import AnyStr

ESCAPE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\r\n]*(?:\x07|\x1b\\)|[()][0-9AB])"
"""ECMA-48: control sequences (colours, `clear to the end of the line`), titles and links, and character sets."""
_TEXT, _BYTES = re.compile(ESCAPE), re.compile(ESCAPE.encode())

Replacement = tuple[int, int, bytes]
"""Start and end of what is replaced, and what by."""


def without_escapes(text: AnyStr) -> AnyStr:
    """A text or bytes without escape sequences."""
    if isinstance(text, str):
        return _TEXT.sub("", text) if "\x1b" in text else text
    return _BYTES.sub(b"", text) if b"\x1b" in text else text


@dataclass(frozen=True)
class Shortened:
    """Bytes of a log of which parts were left out or replaced; none of them holds the end of a line."""

    data: bytes
    _places: Sequence[int] = ()
    """Where in `data` something was left out."""
    _left_out: Sequence[int] = ()
    """How many bytes, up to each of these places."""

    @classmethod
    def of(cls, data: bytes, replacements: Iterable[Replacement]) -> Shortened:
        """The bytes of a log with replacements, in their order."""
        pieces, places, left_out = [], array("q"), array("q")
        count = end = 0
        for start, stop, text in replacements:
            pieces += [data[end:start], text]
            end = stop
            places.append(start - count)
            count += stop - start - len(text)
            left_out.append(count)
        return cls(b"".join([*pieces, data[end:]]), places, left_out)

    @classmethod
    def without_escapes(cls, data: bytes) -> Shortened:
        """The bytes of a log without escape sequences."""
        if b"\x1b" not in data:
            return cls(data)
        return cls.of(data, ((*found.span(), b"") for found in _BYTES.finditer(data)))

    def original(self, offset: int) -> int:
        """Where a line begins in the log, that begins at an offset in `data`."""
        number = bisect_left(self._places, offset)
        return offset + (self._left_out[number - 1] if number else 0)
