"""Tracebacks of Python in logs: where an exception was raised, and which one came first in a chain of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oellm_autoexp.causes.labels import split

_BEGINS = "Traceback (most recent call last):"
_FRAME = re.compile(r'\s*(?:> )?File "([^"]*)", line (\d{1,9}), in (.*)')
_CAUGHT = '> File "'
"""How loguru marks the call that caught the exception."""
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::\s|$)")
_CHAINED = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python[\d.]*[/\\]|^<")
_MARKERS = re.compile(r"[\s~^]*")
_NESTED = re.compile(r"[\s|+-]*")
"""What stands before the lines of exception groups."""


@dataclass(frozen=True)
class Frame:
    """A call: the file's path, the line number, the function, the statement."""

    path: str
    number: int
    function: str
    statement: str = ""

    @property
    def file(self) -> str:
        """The file's name without folders."""
        return re.split(r"[/\\]", self.path)[-1]


@dataclass(frozen=True)
class Traceback:
    """One traceback: the number of its exception's line among the lines given, its frames, the innermost one last."""

    exception: int
    frames: tuple[Frame, ...]
    above: str = ""
    """The line of the same rank above it."""

    @property
    def frame(self) -> Frame | None:
        """Where the exception was raised."""
        return self.frames[-1] if self.frames else None

    @property
    def own(self) -> Frame | None:
        """The last call outside of installed packages, which says more to those who wrote the program."""
        own = (frame for frame in reversed(self.frames) if not _INSTALLED.search(frame.path))
        return next(own, self.frame)

    @property
    def places(self) -> tuple[str, ...]:
        """Each frame as `folder/file.py:function`."""
        return tuple(f"{frame.path}:{frame.function}" for frame in self.frames)


def chain(lines: Sequence[str], last: int) -> list[Traceback]:
    """The tracebacks that lead to the exception in line `last`, the first one raised at the front; [] if none does.

    Lines of other ranks between them, by their labels, are ignored. Python prints a chain of exceptions in the order
    in which they were raised.
    """
    label = split(lines[last]).label
    own = [number for number in range(last + 1) if split(lines[number]).label == label]
    texts = [split(lines[number]).text for number in own]
    found: list[Traceback] = []
    end = len(own) - 1
    while (begin := _beginning(texts, end)) is not None:
        above = texts[begin - 1] if begin else ""
        found.insert(0, Traceback(own[end], tuple(_frames(texts[begin + 1 : end])), above))
        before = _before(texts, begin)
        if before is None:
            break
        end = before
    return found


def _beginning(texts: Sequence[str], end: int) -> int | None:
    """Where the traceback of an exception begins: above it there are only frames and their statements."""
    for number in range(end - 1, -1, -1):
        text = _NESTED.sub("", texts[number], count=1)
        if text.startswith(_BEGINS):
            return number
        if not texts[number][:1].isspace() and texts[number].strip() and not texts[number].startswith(("[", _CAUGHT)):
            return None
    return None


def _before(texts: Sequence[str], begin: int) -> int | None:
    """The line of the exception that a chained traceback names as the one above; its message may have several lines."""
    number = begin - 1
    while number >= 0 and not texts[number].strip():
        number -= 1
    if number < 0 or not texts[number].strip().endswith(_CHAINED):
        return None
    number -= 1
    while number >= 0 and not (_EXCEPTION.match(texts[number]) and _beginning(texts, number) is not None):
        if texts[number].startswith(_BEGINS):
            return None
        number -= 1
    return number if number >= 0 else None


def _frames(texts: Sequence[str]) -> Iterator[Frame]:
    for number, text in enumerate(texts):
        if found := _FRAME.match(text):
            after = texts[number + 1].strip() if number + 1 < len(texts) else ""
            yield Frame(found[1], int(found[2]), found[3].strip(), "" if _MARKERS.fullmatch(after) else after)
