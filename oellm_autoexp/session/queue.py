"""The queue: actions that a worker carries out, each a small file that people can read.

`<monitoring_state_dir>/<plan_id>.actions/<event id>/<queue id>.json` is an entry; finished ones are in `done/` beside
it. `<queue id>.lease` is held by the worker that is at it; `<queue id>.log` is what the action printed. An entry is
finished in its place and then moved, so that a crash between the two repeats nothing. Entries may hold secrets of the
YAML: only their owner can read them.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import AutoexpError, ConfigError, LockedError, Problem, StateError
from oellm_autoexp.core.text import did_you_mean
from oellm_autoexp.session.queue_entry import (
    DONE,
    DONE_FOLDER,
    FAILED,
    FINISHED,
    PENDING,
    RUNNING,
    Past,
    Process,
    QueueEntry,
    Status,
    finished_place,
    move_to_finished,
    read_entry,
    text_of,
)
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import create_atomic, write_atomic
from oellm_autoexp.storage.lock import Holder, Lock, process_started
from oellm_autoexp.storage.session_files import SessionFiles

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")
Report = Callable[[AutoexpError], None]


class Queue:
    """The queue of one session. The first entry creates the folder; a missing folder is an empty queue."""

    def __init__(self, session_path: Path) -> None:
        self.session_path = session_path
        self.folder = SessionFiles(session_path).actions

    def place(self, entry: QueueEntry) -> Path:
        """The file of an entry that is not finished."""
        return self.folder / entry.event.id / f"{entry.id}.json"

    def put(self, entry: QueueEntry) -> bool:
        """Add an entry once; False if it is already in the queue, or was and is finished.

        Raises StateError where its ids can't be names of files or the queue belongs to another user, OSError.
        """
        for name in (entry.event.id, entry.id):
            if not _FILE_NAME.fullmatch(name) or name == DONE_FOLDER:
                raise StateError(Problem(f"{name!r} can't be the name of a file", str(self.folder)))
        path = self.place(entry)
        # Pending first: an entry is moved from there to done, and only a retry moves it back.
        if path.exists() or finished_place(path).exists():
            return False
        trust.private_folder(self.folder)
        trust.private_folder(path.parent, self.folder)
        return create_atomic(path, text_of(entry), 0o600)

    def entries(self, event: str | None = None, *, report: Report | None = None) -> list[QueueEntry]:
        """The entries that are not finished, oldest first; those of an event by its name, id or beginning of id.

        `report` gets the error of each file that can't be used, which is then left out; without it the first one is
        raised: CorruptError, StateError.
        """
        return self._read(event, "", report)

    def finished(self, event: str | None = None, *, report: Report | None = None) -> list[QueueEntry]:
        """The entries that are finished, as in `entries`."""
        return self._read(event, DONE_FOLDER, report)

    def tally(self, event: str | None = None) -> dict[str, Counter[str]]:
        """How many entries are finished, by the event's name: `{"checkpoint_saved": {"done": 3, "failed": 1}}`."""
        found: dict[str, Counter[str]] = {}
        for folder in self._events(event):
            for name in _names(folder / DONE_FOLDER):
                found.setdefault(folder.name.rpartition("-")[0], Counter())[
                    _status_at(folder / DONE_FOLDER / name)
                ] += 1
        return found

    def unfinished(self) -> int:
        """How many entries are not finished, by their files alone. Raises StateError."""
        return sum(len(_names(folder)) for folder in self._events(None))

    def get(self, name: str) -> QueueEntry:
        """The entry of that id, or the one whose id begins so. Raises ConfigError if there is none or several."""
        return self._load(self._find(name))

    def take(self, entry: QueueEntry) -> Held | None:
        """Lock an entry to execute it, and read it again; None if it is locked, finished, or removed.

        An entry whose worker died is taken, too; `Held.died` says so.
        Raises CorruptError, StateError, OSError.
        """
        path = self.place(entry)
        lock = Lock(path.with_suffix(".lease"))
        if not path.exists() or lock.acquire() is not None:
            return None
        with _released_on_error(lock):
            held = self._taken(path, lock)
            if held is None:
                lock.release()
            return held

    def give_up(self, jobs: Collection[str], message: str, *, report: Report | None = None) -> list[QueueEntry]:
        """Mark the waiting entries of these jobs as `failed` with a message; returns them.

        An entry that a worker has, or had when it died, stays. `report` as in `entries`. Raises StateError, OSError.
        """
        given_up = []
        for entry in self.entries(report=report):
            if entry.status == PENDING and entry.event.job in jobs and (held := self.take(entry)) is not None:
                held.finish(FAILED, message)
                given_up.append(entry)
        return given_up

    def worker_of(self, entry: QueueEntry) -> Holder | None:
        """The process that works on an entry now; None if no running process does."""
        return Lock(self.place(entry).with_suffix(".lease")).holder()

    def retry(self, name: str) -> QueueEntry:
        """Make a finished entry pending again; its last result moves to its history.

        Raises ConfigError if there is no such entry or it is not finished, LockedError if a process works on it.
        """
        entry = self.get(name)
        path = self.place(entry)
        lock = Lock(path.with_suffix(".lease"))
        if (holder := lock.acquire()) is not None:
            raise LockedError(Problem(f"{holder} is working on this entry now", str(path)))
        try:
            if finished_place(path).exists():
                os.replace(finished_place(path), path)  # if we die here, the next worker moves it back
            found = read_entry(path)
            if found.status not in FINISHED:
                hint = "a worker will take it: --cmd actions"
                raise ConfigError(Problem(f"this entry is {found.status}; there is nothing to retry", name, hint))
            past = Past.model_validate(found.model_dump(include=set(Past.model_fields)))
            cleared: dict[str, Any] = {"worker": "", "started_at": None, "finished_at": None, "message": ""}
            again = found.model_copy(
                update={
                    **cleared,
                    "status": PENDING,
                    "sidecar": None,
                    "process": None,
                    "history": (*found.history, past),
                }
            )
            write_atomic(path, text_of(again), 0o600)
            return again
        finally:
            lock.release()

    # -----------------------------------------------------------------------------------------------------------------

    def _taken(self, path: Path, lock: Lock) -> Held | None:
        try:
            found = read_entry(path)
        except ConfigError:  # moved meanwhile
            return None
        if found.status in FINISHED:  # its worker died before it could move it
            move_to_finished(path)
            return None
        died = ""
        if found.status == RUNNING and found.sidecar is None:
            died = f"its worker ({found.worker}) died in attempt {found.attempts}; run again"
        goes_on = found.sidecar is not None  # its job goes on without us
        update = {
            "status": RUNNING,
            "attempts": found.attempts if goes_on else found.attempts + 1,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "started_at": found.started_at if goes_on else time.time(),
            "message": died or ("" if found.status == PENDING else found.message),
        }
        held = Held(found.model_copy(update=update), path, lock, died, found.process)
        held.save()
        return held

    def _events(self, event: str | None) -> list[Path]:
        """The folders of events: those of an event's name, else of an id or its beginning."""
        try:
            with os.scandir(self.folder) as found:
                names = sorted(
                    item.name
                    for item in found
                    if item.is_dir(follow_symlinks=False) and _FILE_NAME.fullmatch(item.name)
                )
        except FileNotFoundError:
            return []
        except PermissionError:
            if trust.reading_of_others():  # entries may hold secrets, and are for their owner alone
                return []
            raise StateError(Problem("can't read the queue: you have no permission", str(self.folder))) from None
        except OSError as error:
            raise StateError(Problem(f"can't read the queue: {error.strerror}", str(self.folder))) from None
        trust.check_folders(self.folder)
        if event is not None:
            names = [name for name in names if name.rpartition("-")[0] == event] or [
                name for name in names if name.startswith(event)
            ]
        return [self.folder / name for name in names]

    def _read(self, event: str | None, below: str, report: Report | None) -> list[QueueEntry]:
        found = []
        for folder in self._events(event):
            for name in _names(folder / below):
                try:
                    found.append(read_entry(folder / below / name))
                except ConfigError:  # moved meanwhile
                    continue
                except AutoexpError as error:
                    if report is None:
                        raise
                    report(error)
        return sorted(found, key=lambda entry: (entry.created_at, entry.id))

    def _files(self) -> Iterator[Path]:
        for folder in self._events(None):
            for where in (folder, folder / DONE_FOLDER):
                yield from (where / name for name in _names(where))

    def _find(self, name: str) -> Path:
        files = {path.stem: path for path in self._files()}
        if name in files:
            return files[name]
        begin = [path for stem, path in files.items() if name and stem.startswith(name)]
        if len(begin) == 1:
            return begin[0]
        if begin:
            listed = ", ".join(sorted(path.stem for path in begin)[:10])
            raise ConfigError(
                Problem(f"several entries begin with '{name}'", str(self.folder), f"choose one of: {listed}")
            )
        hint = _nearest(name, files) or ("the queue is empty" if not files else "--cmd queue lists them")
        raise ConfigError(Problem(f"there is no entry '{name}' in the queue", str(self.folder), hint))

    def _load(self, path: Path) -> QueueEntry:
        try:
            return read_entry(path)
        except ConfigError:  # moved meanwhile, to or from done
            other = path.parent.parent / path.name if path.parent.name == DONE_FOLDER else finished_place(path)
            return read_entry(other)


@dataclass
class Held:
    """An entry that this worker has locked. `died`: message about an earlier worker that died; `left`: its process."""

    entry: QueueEntry
    path: Path
    lock: Lock
    died: str = ""
    left: Process | None = None

    @property
    def log_path(self) -> Path:
        """The file with the output of the action; one for all attempts."""
        return self.path.with_suffix(".log")

    def beat(self, seconds: float = 0) -> None:
        """Renew the lock, and announce in how many seconds it is renewed next. Raises LockedError if it was lost."""
        self.lock.beat(seconds)

    def change(self, **update: Any) -> None:
        """Change fields of the entry, on disk. Raises OSError."""
        self.entry = self.entry.model_copy(update=update)
        self.save()

    def runs(self, pid: int) -> None:
        """Record the process that executes it."""
        process = Process(host=socket.gethostname(), pid=pid, started=process_started(pid) or "")
        self.entry = self.entry.model_copy(update={"process": process})
        self.save(sync=False)  # it matters only while this machine is up

    def finish(self, status: Status, message: str) -> None:
        """Record the result (`done` or `failed`), move the entry to `done/`, and release it.

        Raises LockedError if the lock was lost: the result is then reported by another worker.
        """
        self.beat()
        output = str(self.log_path) if self.log_path.exists() else ""
        update = {"status": status, "message": message, "finished_at": time.time(), "process": None}
        self.change(**update, output_path=output)
        move_to_finished(self.path)
        self.lock.release()

    def put_back(self, message: str) -> None:
        """Release the entry as pending, for another worker. Raises LockedError if the lock was lost."""
        self.beat()
        self.change(status=PENDING, message=message, process=None)
        self.lock.release()

    def let_go(self) -> None:
        """Release the entry as it is: its job continues, and another worker polls it."""
        self.lock.release()

    def save(self, *, sync: bool = True) -> None:
        """Write the entry; `sync` as in write_atomic. Raises OSError."""
        write_atomic(self.path, text_of(self.entry), 0o600, sync=sync)


@contextlib.contextmanager
def _released_on_error(lock: Lock) -> Iterator[None]:
    try:
        yield
    except BaseException:
        lock.release()
        raise


def _status_at(path: Path) -> str:
    """The status that a finished entry's file begins with; there may be thousands of them."""
    try:
        with trust.open_file(path, most=trust.LINE) as file:
            return FAILED if b'"failed"' in file.read(40) else DONE
    except (OSError, StateError):
        return FAILED


def _names(folder: Path) -> list[str]:
    """The names of entries' files in a folder."""
    try:
        with os.scandir(folder) as found:
            return sorted(item.name for item in found if item.name.endswith(".json") and item.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StateError(Problem(f"can't read the queue: {error.strerror}", str(folder))) from None


_SHOWN_OF_ID = 8
"""Characters of an id that are shown, as in the queue's table; ids that share them are shown with more."""


def _nearest(name: str, files: Mapping[str, Path]) -> str:
    """The ids most similar to an unknown one; if only the beginning fits, those with the longest common beginning."""
    if near := did_you_mean(name, files):
        return near if "?" in near else f"known: {', '.join(sorted(stem[:_SHOWN_OF_ID] for stem in files))}"
    common = {
        stem: next((n for n, pair in enumerate(zip(name, stem, strict=False)) if len({*pair}) > 1), 0) for stem in files
    }
    most = max(common.values(), default=0)
    best = sorted(stem for stem, length in common.items() if length == most > 1)[:3]
    return f"did you mean {' or '.join(best)}?" if best else ""
