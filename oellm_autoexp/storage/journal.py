"""A journal: a file of lines that is only appended to, so that a crash at any moment loses nothing that was appended.

One process appends, under a lock that its caller holds; any process may read meanwhile. `append` returns once the lines
are on the disk. A crash or a full disk may leave some of the lines of an `append` that did not return, the last of
them cut: readers skip a cut last line, and the next `append` removes it. So each line must be one whole record, and a
caller that repeats an `append` must accept to read a record twice. `append_line` is for files without such a lock.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from oellm_autoexp.storage import trust

_BLOCK_BYTES = 65536


class Line(NamedTuple):
    """A whole line with its end, its number (from 1), and its offset in bytes."""

    text: bytes
    number: int
    offset: int


class Journal:
    """The journal in one file, which the first `append` creates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = False

    def append(self, lines: Iterable[str]) -> None:
        """Append lines, each without its end. Raises OSError, StateError: then a part of them may be in the file."""
        data = "".join(f"{line}\n" for line in lines).encode(errors="replace")
        if not data:
            return
        with trust.open_to_append(self.path) as file:
            if not self._whole:
                _remove_cut_line(file)
            self._whole = False  # until all is written: the disk may be full
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._whole = True

    def opened(self, *, lenient: bool = False) -> BinaryIO:
        """The file, open for reading; `lenient` as in trust.open_file. Raises OSError, StateError."""
        return trust.open_file(self.path, most=None, lenient=lenient)

    def remove(self) -> None:
        """Remove the file, if there is one: what it holds is kept elsewhere. Raises OSError."""
        self.path.unlink(missing_ok=True)


def append_line(path: Path, line: str, *, named: bool = False, shared: bool = False) -> None:
    """Append a line to a file that several processes append to, each by one write(2) at its end.

    A cut last line is ended first, and stays: readers must pass over lines that are no whole records. `named` as in
    trust.open_to_append. `shared`: the file's group gets the right to read it. Raises OSError, StateError.
    """
    with trust.open_to_append(path, named=named) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if shared and not mode & stat.S_IRGRP:  # by the umask
            os.fchmod(file.fileno(), mode | stat.S_IRGRP)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        cut = file.read(1) not in (b"", b"\n")
        data = f"{chr(10) * cut}{line}\n".encode(errors="replace")
        if os.write(file.fileno(), data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def whole_lines(file: BinaryIO) -> Iterator[Line]:
    """The lines of an open journal, but for a last one that is cut, or being written."""
    number = offset = 0
    while text := file.readline(trust.LINE):
        number += 1
        if not text.endswith(b"\n") and len(text) < trust.LINE:
            return
        yield Line(text, number, offset)
        offset += len(text)


def line_at(file: BinaryIO, offset: int) -> bytes:
    """The line of an open journal at an offset that `whole_lines` gave."""
    file.seek(offset)
    return file.readline(trust.LINE)


def _remove_cut_line(file: BinaryIO) -> None:
    """Cut the file off after its last whole line."""
    size = file.seek(0, os.SEEK_END)
    keep = size
    while keep:
        start = max(0, keep - _BLOCK_BYTES)
        file.seek(start)
        newline = file.read(keep - start).rfind(b"\n")
        keep = start + newline + 1
        if newline >= 0:
            break
    if keep < size:
        file.truncate(keep)
    file.seek(0, os.SEEK_END)
