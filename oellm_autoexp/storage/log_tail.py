"""Reads logs by bytes, line by line, from where the last call stopped."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from oellm_autoexp.core.errors import StateError
from oellm_autoexp.storage import trust

_MARK_BYTES = 64
_PLACES = 6
_LONGEST_ENTRY = 1 << 16
_NUMBER = re.compile(r"([._-])([0-9][0-9._:T-]*)")
_DIGITS_OF_DATES = 4
_LAST_LINE_BYTES, _LAST_LINE_CHARACTERS = 4096, 300


@dataclass(frozen=True)
class Cursor:
    """How far a log was read: which file, and the byte offset after the last whole line.

    `identity`: the file's inode (not its device, whose number differs between hosts that mount the same file system)
    and, after `#`, how often the log began anew: file systems reuse the inodes of removed files.
    `mark`: a checksum of the file's first bytes and of the last ones before the offset. It shows that a file was
    truncated and has grown beyond the offset since; "" is not checked.
    `size`: the size of the file when it was last read, an unfinished last line included.
    `changed`: the time of the file's last change in nanoseconds. If size and time are equal, nothing is new; the size
    alone does not show it, since programs may replace a small file by one of the same size.
    `places`: for a file that may be overwritten, the ends of the last lines, each with a checksum of the bytes before.
    """

    identity: str = ""
    offset: int = 0
    mark: str = field(default="", compare=False)
    size: int = 0
    changed: int = 0
    places: tuple[tuple[int, str], ...] = field(default=(), compare=False)

    @property
    def inode(self) -> str:
        """The file's inode number, "" before anything was read."""
        return self.identity.partition("#")[0]

    def anew(self, inode: str) -> Cursor:
        """A cursor at the start of new content, of another file or of the same one."""
        if not self.identity:
            return Cursor(inode)
        return Cursor(f"{inode}#{int(self.identity.partition('#')[2] or 0) + 1}")

    def grew(self, before: Cursor) -> bool:
        """Whether bytes were written since `before`: parts of a line, equal bytes and a new file count, too."""
        return self != before and (self.size > 0 or before.size > 0)


def read_added(
    name: str | Path,
    cursor: Cursor,
    *,
    final: bool = False,
    limit: int = 1 << 20,
    longest: int = 16 << 20,
    overwritten: bool = False,
) -> tuple[bytes, Cursor]:
    """The whole lines added to a log since `cursor` (about `limit` bytes of them, or one line), and the new cursor.

    They begin in the file that the new cursor names, `len(lines)` bytes before its offset.

    Lines end as in bytes.splitlines. An unfinished last line is left for the next call, unless `final`; if it is longer
    than `longest` bytes, it is returned in pieces. A truncated or replaced file is read from its start. The rest of the
    old file comes before, if that was renamed to a longer name (train.log → train.log.1), as do files that were renamed
    between two calls (train.log.2, train.log.1; of dates, and of numbers that grow, the later ones). With
    `overwritten`, the program may overwrite the end or the first lines of its file: reading continues after the part
    that has not changed. A file that is missing, or can't be read now, has no new lines.
    """
    size = (limit, max(limit, longest))
    try:
        status = os.stat(name)  # noqa: PTH116  of every running job at every look: without making objects
        same = (status.st_size, status.st_mtime_ns) == (cursor.size, cursor.changed)
        if not final and same and str(status.st_ino) == cursor.inode:
            return b"", cursor
    except FileNotFoundError:
        if not cursor.identity:  # nothing was read before, so no file can have been renamed
            return b"", cursor
    except OSError:
        pass
    path = Path(name)
    old = _moved_aside(path, cursor)
    if old is not None:
        # Its writer does not finish the last line any more once there is a new file.
        data, after = _read_on(old, cursor, final=final or _inode(path) != "", size=size)
        if data and after.inode == cursor.inode:
            return data, after
        for newer in _moved_after(old, path):
            data, after = _read_on(newer, cursor, final=True, size=size)
            if data:
                return data, after
    return _read_on(path, cursor, final=final, size=size, overwritten=overwritten)


def _moved_aside(path: Path, cursor: Cursor) -> Path | None:
    """The new path of the file that was read so far, if it was renamed in its folder and `path` is another file now."""
    with contextlib.suppress(OSError):
        if not cursor.inode or _inode(path) == cursor.inode:
            return None
        with os.scandir(path.parent) as entries:
            for entry in entries:
                if str(entry.inode()) == cursor.inode and entry.name.startswith(path.stem):
                    return Path(entry.path)
    return None


def _moved_after(old: Path, path: Path) -> list[Path]:
    """The logs that were renamed after `old`, oldest first: train.log.2, train.log.1, or where numbers grow the others.

    Dates grow. Other numbers do if most of the files were changed last in their order.
    """
    known = _rotated(old.name, path)
    if known is None:
        return []
    kind, own = known
    found: dict[tuple[int, ...], tuple[int, Path]] = {}
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            other = _rotated(entry.name, path)
            if other is not None and other[0] == kind:
                with contextlib.suppress(OSError):  # it may be removed at this moment
                    found[other[1]] = entry.stat().st_mtime_ns, Path(entry.path)
    ordered = sorted(found)
    changed = [found[number][0] for number in ordered]
    grows = kind.dated or sum((later > earlier) - (later < earlier) for earlier, later in pairwise(changed)) > 0
    numbers = [n for n in ordered if n > own] if grows else [n for n in reversed(ordered) if n < own]
    return [found[number][1] for number in numbers]


class _Kind(NamedTuple):
    """How rotated logs are named: `train.log.1`, `train.log-20260101`, `train.2026-01-01.log`."""

    separator: str
    suffix: str
    dated: bool
    """Whether the number is a date or a time, or a counter with zeros before it: such numbers only grow."""


def _rotated(name: str, path: Path) -> tuple[_Kind, tuple[int, ...]] | None:
    """What the name of a rotated log of `path` says; None if it is not the name of one."""
    for before, suffix in ((path.name, ""), (path.stem, path.suffix)):
        found = _NUMBER.fullmatch(name.removeprefix(before).removesuffix(suffix))
        if found and name == f"{before}{found[0]}{suffix}":
            numbers = re.findall(r"[0-9]+", found[2])
            return _Kind(found[1], suffix, sum(map(len, numbers)) >= _DIGITS_OF_DATES), tuple(map(int, numbers))
    return None


def _inode(path: Path) -> str:
    try:
        return str(path.stat().st_ino)
    except OSError:
        return ""


def _read_on(
    path: Path, cursor: Cursor, *, final: bool, size: tuple[int, int], overwritten: bool = False
) -> tuple[bytes, Cursor]:
    """Read on in one file. `size`: the bytes to read, and how many more if they hold no line's end."""
    limit, longest = size
    try:
        # Non-blocking: the path may be that of a pipe, and opening a pipe waits for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return b"", cursor
            if str(status.st_ino) != cursor.inode:
                cursor = cursor.anew(str(status.st_ino))
            elif cursor.offset > status.st_size:
                cursor = cursor.anew(cursor.inode)
            elif (cursor.offset, cursor.changed) == (status.st_size, status.st_mtime_ns) and not final:
                return b"", replace(cursor, size=status.st_size)
            before = min(cursor.offset, _MARK_BYTES)
            head = file.read(before)
            file.seek(cursor.offset - before)
            data = file.read(before + limit)
            while len(data) - before == limit < longest and not _whole(data[before:]):
                limit = min(2 * limit, longest)
                data += file.read(before + limit - len(data))
    except OSError:
        return b"", cursor
    if cursor.mark not in ("", _mark(head, data[:before])):
        standing = _still_standing(path, cursor) if overwritten else None
        return _read_on(path, standing or cursor.anew(cursor.inode), final=final, size=size, overwritten=overwritten)
    added = data[before:]
    end = _whole(added)
    at_end = cursor.offset + len(added) >= status.st_size
    if (final and at_end) or (end == 0 and len(added) >= longest):
        end = len(added)
    # More than was read: for the next call, which reads the other lines, the file must not look unchanged.
    size_seen = max(status.st_size, cursor.offset + end) if at_end else cursor.offset + end
    if end == 0:
        return b"", replace(cursor, size=size_seen, changed=status.st_mtime_ns)
    offset = cursor.offset + end
    stop = before + end
    first = (head + added[: min(end, _MARK_BYTES)])[: min(offset, _MARK_BYTES)]
    mark = _mark(first, data[max(0, stop - _MARK_BYTES) : stop])
    places = _places(data[:stop], cursor.offset - before, cursor) if overwritten else ()
    return added[:end], Cursor(cursor.identity, offset, mark, size_seen, status.st_mtime_ns, places)


def _places(data: bytes, start: int, cursor: Cursor) -> tuple[tuple[int, str], ...]:
    """The ends of the last lines of `data`, which begins at `start` in the file, and of the lines before it."""
    ends = [len(data)]
    while len(ends) < _PLACES and (end := _whole(data[: ends[-1] - 1])) + start > cursor.offset:
        ends.append(end)
    new = [(start + end, _mark(b"", data[max(0, end - _MARK_BYTES) : end])) for end in reversed(ends)]
    return (*cursor.places, *new)[-_PLACES:]


def _still_standing(path: Path, cursor: Cursor) -> Cursor | None:
    """The cursor at the last end of a line up to which an overwritten file is as it was; None if there is none.

    A line that has got a comma is as it was: the last entry of a list in JSON gets one when others follow.
    """
    newer = ""
    with contextlib.suppress(OSError), path.open("rb") as file:
        for number, (offset, mark) in reversed([*enumerate(cursor.places, 1)]):
            length = min(offset, _MARK_BYTES)
            file.seek(offset - length)
            last = file.read(length)
            if _mark(b"", last) == mark:
                line = file.readline(_LONGEST_ENTRY)
                before = last + line.rstrip(b"\r\n").removesuffix(b",") + b"\n"
                if line.endswith(b",\n") and _mark(b"", before[-_MARK_BYTES:]) == newer:
                    offset += len(line)
                    last = (last + line)[-_MARK_BYTES:]
                file.seek(0)
                whole = _mark(file.read(min(offset, _MARK_BYTES)), last)
                places = (*cursor.places[:number], (offset, _mark(b"", last)))[-_PLACES:]
                return replace(cursor, offset=offset, mark=whole, places=places)
            newer = mark
    return None


def pieces(stream: BinaryIO, *, limit: int = 1 << 20, longest: int = 16 << 20) -> Iterator[bytes]:
    """The whole lines of a stream from where it stands to its end, about `limit` bytes at a time.

    Lines end as in bytes.splitlines; one of more than `longest` bytes comes in pieces.
    """
    kept: list[bytes] = []
    size = 0
    while data := stream.read(limit):
        end = _whole(data)
        if kept and kept[-1].endswith(b"\r") and not data.startswith(b"\n"):  # that line had ended
            yield b"".join(kept)
            kept, size = [], 0
        if end:
            yield b"".join([*kept, data[:end]])
            kept, size = [], 0
        kept.append(data[end:])
        size += len(data) - end
        if size >= longest:
            yield b"".join(kept)
            kept, size = [], 0
    if rest := b"".join(kept):
        yield rest


def _whole(data: bytes) -> int:
    """The length of the whole lines that `data` begins with; a last `\r` may be the first half of `\r\n`."""
    return max(data.rfind(b"\n"), data.rfind(b"\r", 0, len(data) - 1 if data else 0)) + 1


def _mark(first: bytes, last: bytes) -> str:
    return f"{zlib.crc32(first + last):08x}" if last else ""


def read_end(name: str, size: int, since: str = "") -> tuple[bytes, int, bool]:
    """The last lines of a log, about `size` bytes: the bytes, the offset of the first one, and whether that is all.

    `since`: a file's inode, `:` and an offset; what comes before it in that file does not count. A file that can't be
    read has no lines.
    """
    try:
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return b"", 0, True
            inode, _, offset = since.partition(":")
            begin = int(offset) if inode == str(status.st_ino) and int(offset) <= status.st_size else 0
            start = max(begin, status.st_size - size)
            file.seek(start)
            data = file.read(status.st_size - start)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return b"", 0, True
    if start > begin:
        cut = data.find(b"\n") + 1
        return data[cut:], start + cut, False
    return data, start, True


def last_line(path: Path) -> str:
    """The last line of a program's output with something in it, cut to what a table can hold; '' if there is none.

    Of this program's own errors, below each of which its hint stands, it is the error.
    """
    try:
        with trust.open_file(path, most=None, lenient=True) as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_LINE_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except (OSError, StateError):
        return ""
    said = [line for line in lines if line.strip()]
    last = said[-1].strip() if said else ""
    if last and said[-1][0].isspace():
        above = next((line for line in reversed(said) if not line[0].isspace()), "")
        last = above if above.startswith("error: ") else last
    return "".join(c if c.isprintable() else " " for c in last)[:_LAST_LINE_CHARACTERS]
