"""Where a mistake is: a key of the config, lines of files, or what a person has written; and how it is shown. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

Keys = tuple[str | int, ...]
"""The way from the config's root to a value: the keys of mappings and the indices of lists."""
KeyPath = tuple[str, ...]
"""The same as overrides and files are compared by: indices are text, and a key with a dot in it is several."""


def path_of(keys: Keys) -> KeyPath:
    """The path of some keys."""
    return tuple(".".join(map(str, keys)).split(".")) if keys else ()


@dataclass(frozen=True)
class Line:
    """A line of a file (from 1), or the whole file."""

    file: str
    number: int | None = None

    def __str__(self) -> str:
        return self.file if self.number is None else f"{self.file}:{self.number}"


@dataclass(frozen=True)
class Location:
    """A place that a message names: what is known of it, and `str` shows all of that.

    A check knows a key (`$.slurm.sbatch.time`); where the key was written is added from the config's files
    (`exp.yaml:12 ($.slurm.sbatch.time)`). `text` is anything else, as people know it: an override, an option of the
    command line, a job's name, a path; behind a key, it says where the value comes from. `also` are further places of
    the same mistake.
    """

    keys: Keys | None = None
    """None: it is about no key; (): about the config as a whole."""
    lines: tuple[Line, ...] = ()
    text: str = ""
    value: str = ""
    """What stands there, where that is to be shown."""
    also: tuple[Location, ...] = ()

    def __str__(self) -> str:
        lines = ", ".join(map(str, self.lines))
        key = "" if self.keys is None else f"${_dotted(self.keys)}"
        named = " ".join(part for part in (key or self.text, self.value) if part)
        first, *more = [part for part in (lines, named, key and self.text) if part] or [""]
        return " and ".join((f"{first} ({', '.join(more)})" if more else first, *map(str, self.also)))

    def __bool__(self) -> bool:
        return self != NOWHERE

    def __truediv__(self, part: str | int) -> Location:
        """What is at a key or an index below this key; a dotted key is several."""
        parts = (part,) if isinstance(part, int) else tuple(part.split("."))
        keys = (*(self.keys or ()), *parts)
        return Location(keys, self.lines, self.text, self.value, self.also)  # for each key of each job: fast

    def __and__(self, other: Location) -> Location:
        """Both places."""
        return replace(self, also=(*self.also, other))

    @property
    def key(self) -> str:
        """The key as overrides name it: `slurm.sbatch.time`; '' if there is none."""
        return _dotted(self.keys or ()).removeprefix(".")

    @property
    def is_key(self) -> bool:
        """Whether a key is all that is known."""
        return self.keys is not None and not self.lines and not self.text

    def paths(self) -> Iterator[KeyPath]:
        """The paths of those places of which no more than a key is known."""
        if self.keys is not None and self.is_key:
            yield path_of(self.keys)
        for other in self.also:
            yield from other.paths()


def _dotted(keys: Keys) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys)


NOWHERE = Location()
CONFIG = Location(keys=())
"""The config as a whole: `CONFIG / "slurm.sbatch" / option` is a key of it."""


def in_file(file: str, line: int | None = None) -> Location:
    """A line of a file, or the file."""
    return Location(lines=(Line(file, line),))
