"""The node logs of a folder: each user appends to a file of their own, and reads those of all whose files count.

`<user>.nodes.jsonl` counts if it belongs to the user of that name, who alone can write to it. In a folder that
everybody may write to, only one's own and root's count. All that follows from an entry is that a share of the nodes is
left out (docs/decisions/017-nodes.md). Lines are only appended; of a long file the end is read.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.nodes.entry import Entry, entries_in, line_of
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.journal import append_line, whole_lines

SUFFIX = ".nodes.jsonl"
FOLDER_VARIABLE = "OELLM_NODES_DIR"
"""The variable that names the folder of a group, as config/monitoring/default.yaml has it."""
_MOST_BYTES = 4 << 20
"""How much of the end of a file is read: about 10,000 lines."""
_MOST_FILES = 1000

_Stamp = tuple[int, int, int]


@dataclass
class NodeLog:
    """The node logs of one folder. `ignored`: the files that do not count, and why, as of the last `read`.

    `shared`: it is the folder of a group, who has made it for all of them; another one is made when it is needed.
    """

    folder: Path
    shared: bool = False
    ignored: dict[Path, str] = field(default_factory=dict, init=False)
    _known: dict[Path, tuple[_Stamp, list[Entry]]] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, named: str | None, state_dir: Path) -> NodeLog:
        """The node logs in the folder that a config or the variable names, else in that of the sessions."""
        return cls(Path(named).expanduser(), shared=True) if named else cls(state_dir)

    @property
    def own(self) -> Path:
        """The file of this user."""
        return self.folder / f"{_user_name()}{SUFFIX}"

    def append(self, entries: Iterable[Entry]) -> None:
        """Append entries to this user's file, which is made if there is none. Raises OSError, StateError.

        In the folder of a group, its group can read it, whatever the umask.
        """
        for entry in entries:
            if not self.shared:
                self.folder.mkdir(parents=True, exist_ok=True)
            append_line(self.own, line_of(entry), named=True, shared=self.shared)

    def read(self) -> list[Entry]:
        """The entries of all files that count. Never raises: a file that can't be read is in `ignored`."""
        self.ignored = {}
        try:
            paths = sorted(path for path in self.folder.iterdir() if path.name.endswith(SUFFIX))[:_MOST_FILES]
            everybody_writes = bool(self.folder.stat().st_mode & stat.S_IWOTH)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self.shared:
                return []
            self.ignored[self.folder] = error.strerror or str(error)
            return []
        found: list[Entry] = []
        known: dict[Path, tuple[_Stamp, list[Entry]]] = {}
        for path in paths:
            try:
                owner = _owner(path, everybody_writes=everybody_writes)
                before = self._known.get(path)
                fresh = before is not None and before[0] == _stamp(path.lstat())
                stamp, entries = before if before is not None and fresh else _read(path, owner)
            except AutoexpError as error:
                self.ignored[path] = error.problems[0].what
            except OSError as error:
                self.ignored[path] = error.strerror or str(error)
            else:
                known[path] = stamp, entries
                found += entries
        self._known = known
        return found


def _owner(path: Path, *, everybody_writes: bool) -> trust.Owner:
    """The user whose file it is by its name. Raises OSError where that does not count."""
    owner = _uid(path.name.removesuffix(SUFFIX))
    if owner is None:
        raise FileNotFoundError(0, "no user has this name")
    if everybody_writes and owner not in (os.geteuid(), 0):
        raise PermissionError(0, "everybody may write to the folder, so that only your own file counts")
    return trust.Owner(owner)


def _read(path: Path, owner: trust.Owner) -> tuple[_Stamp, list[Entry]]:
    """The entries of a file. Raises OSError, StateError."""
    with trust.open_of(path, owner) as file:
        status = os.fstat(file.fileno())
        if status.st_size > _MOST_BYTES:
            file.seek(status.st_size - _MOST_BYTES)
            file.readline()
        lines = [line.text for line in whole_lines(file)]
    return _stamp(status), entries_in(lines, path.name.removesuffix(SUFFIX))


def _stamp(status: os.stat_result) -> _Stamp:
    """What changes with a file's content, owner and permissions."""
    return status.st_ino, status.st_size, status.st_ctime_ns


def _uid(name: str) -> int | None:
    """The number of a user; of one without a name, the name is the number."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return int(name) if name.isascii() and name.isdecimal() and len(name) <= 10 else None


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
