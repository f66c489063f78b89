"""What earlier attempts took, in the files that monitors keep beside their sessions, read back for later plans.

A file `<plan_id>.measured.jsonl` has a line for each kind of work of its plan: the workload, and its newest attempts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oellm_autoexp.core.errors import AutoexpError, CorruptError, Problem
from oellm_autoexp.core.nouns import Workload
from oellm_autoexp.learning.estimating import ENOUGH, Run, is_equal
from oellm_autoexp.learning.measuring import Measured
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import loads
from oellm_autoexp.storage.session_files import MEASURED

VERSION = 1
MOST_FILES = 200
"""Of a folder so many files are read, the newest."""
_MOST_BYTES = 4 << 20
_MOST_WORKLOADS = 500
"""Of one plan."""


def text_of(runs: Iterable[Run]) -> str:
    """The text of a session's file: the newest attempts of each kind of work."""
    groups: dict[str, tuple[Workload, list[Measured]]] = {}
    for run in sorted(runs, key=lambda run: run.taken.at, reverse=True):
        plain = run.workload.model_copy(update={"estimate": None, "limit": ""})
        groups.setdefault(plain.model_dump_json(), (plain, []))[1].append(run.taken)
    lines = []
    for workload, taken in [*groups.values()][:_MOST_WORKLOADS]:
        line = {
            "version": VERSION,
            "workload": workload.model_dump(mode="json", exclude_defaults=True),
            "attempts": [each.model_dump(mode="json", exclude_defaults=True) for each in taken[:ENOUGH]],
        }
        lines.append(json.dumps(line))
    return "".join(f"{line}\n" for line in lines)


def runs_in(path: Path) -> list[Run]:
    """The attempts in a file, without lines of newer versions. Raises OSError, StateError, CorruptError."""
    found = []
    for number, text in enumerate(trust.read(path, most=_MOST_BYTES).splitlines(), 1):
        try:
            line: Mapping[str, Any] = loads(text)
            if line["version"] != VERSION:
                continue
            workload = Workload.model_validate(line["workload"])
            found += [Run(workload, Measured.model_validate(each)) for each in line["attempts"]]
        except (ValueError, KeyError, TypeError, ValidationError):
            hint = "remove it: a monitor of its session writes it anew"
            raise CorruptError(Problem("this line does not describe attempts", f"{path}:{number}", hint)) from None
    return found


class PastRuns:
    """The earlier runs that a plan is compared with, read as they are needed, the newest first.

    `newest_checkpoint` gives the iteration of the newest checkpoint in a folder (0: there is none). `notes` say what
    could not be read.
    """

    def __init__(self, newest_checkpoint: Callable[[str], int]) -> None:
        self.newest_checkpoint = newest_checkpoint
        self.notes: list[str] = []
        self._folders: dict[str, _Folder] = {}

    def like(self, work: Workload, folders: Sequence[str], named: Collection[str] = ()) -> list[Run]:
        """The runs in state folders that a job's time can be estimated by; those of equal jobs, if there are enough.

        `named`: those of the folders that a person has named, so that one that is missing is noted.
        """
        return [run for folder in dict.fromkeys(folders) for run in self._folder(folder, folder in named).like(work)]

    def _folder(self, folder: str, named: bool) -> _Folder:
        if folder not in self._folders:
            self._folders[folder] = _Folder(Path(folder), named, self.notes)
        return self._folders[folder]


class _Folder:
    """The runs of one state folder."""

    def __init__(self, folder: Path, named: bool, notes: list[str]) -> None:
        self._notes = notes
        self._unread: Iterator[Path] = iter(self._files(folder, named))
        self._runs: defaultdict[str, list[Run]] = defaultdict(list)

    def like(self, work: Workload) -> list[Run]:
        """See PastRuns.like."""
        while sum(is_equal(run.workload, work) for run in self._runs[work.shape]) < ENOUGH:
            path = next(self._unread, None)
            if path is None:
                break
            for run in self._read(path):
                self._runs[run.workload.shape].append(run)
        return self._runs[work.shape]

    def _read(self, path: Path) -> list[Run]:
        try:
            return runs_in(path)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._note(path, error)
        except AutoexpError as error:
            self._notes.append(f"earlier runs are not used: {error.problems[0].sentence}")
        return []

    def _files(self, folder: Path, named: bool) -> list[Path]:
        """The newest of a folder's files; none where it can't be listed."""
        found = []
        try:
            for path in folder.iterdir():
                if path.name.endswith(MEASURED) and path.name[0] != ".":
                    with suppress(FileNotFoundError):  # removed meanwhile, or a link that leads nowhere
                        found.append((path.stat().st_mtime_ns, path))
        except OSError as error:
            if named or not isinstance(error, FileNotFoundError):  # else nothing was ever planned there
                self._note(folder, error)
        return [path for _, path in sorted(found, reverse=True)[:MOST_FILES]]

    def _note(self, path: Path, error: OSError) -> None:
        self._notes.append(f"earlier runs are not used: {path}: {error.strerror}")
