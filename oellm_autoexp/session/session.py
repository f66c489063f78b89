"""The session: what is known of each job of a plan, kept so that a crash at any instant loses and repeats nothing.

A snapshot `<plan_id>.json` (what people read) and, between snapshots, a journal `<plan_id>.journal` of whole job
records, one JSON line each; both without secrets (`session.confidential`). Records are numbered, so that a journal left
behind by a crash never overrules a newer snapshot.
One process writes a session, under the lock `<plan_id>.lease`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oellm_autoexp.core.errors import AutoexpError, ConfigError, CorruptError, Problem, StateError
from oellm_autoexp.core.nouns import SESSION_VERSION, Hold, Manifest
from oellm_autoexp.core.text import did_you_mean, plain_name
from oellm_autoexp.session import records, requests
from oellm_autoexp.session.confidential import Confidential, readable
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.silence import Watched
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import loads, read_json, write_atomic
from oellm_autoexp.storage.journal import Journal, whole_lines
from oellm_autoexp.storage.lock import Lock, locked
from oellm_autoexp.storage.session_files import SessionFiles

_SNAPSHOT_EVERY_SECONDS = 60.0
_SNAPSHOT_ALWAYS_BELOW = 500  # jobs; above, a snapshot costs more than a few journal lines


class Session:
    """The jobs of one plan. Changes are made with `put` and last once `save` returns."""

    def __init__(self, path: Path, plan_id: str, manifest_path: Path, jobs: dict[str, JobState], serial: int) -> None:
        self.path = path
        self.plan_id = plan_id
        self.manifest_path = manifest_path
        self.jobs = jobs
        self.parent = ""
        """`<plan id>/<job>/<event id>` of what started it, if another session's action did."""
        self.watched = Watched()
        """The session's clock; it is saved with the next change, and by `close`."""
        self._watched_saved = self.watched
        self.hold = Hold()
        """Whether jobs that have not begun are held; only a snapshot saves it."""
        self._serial = serial
        self._confidential = Confidential(path)
        self._journal = Journal(SessionFiles(path).journal)
        self._changed: dict[str, JobState] = {}
        self._snapshot_at = 0.0
        self._behind = False

    @classmethod
    def create(cls, manifest: Manifest, manifest_path: Path) -> Session:
        """A new session on disk, every job waiting."""
        path = SessionFiles.of(manifest).path
        trust.check_folders(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        jobs = {job.name: JobState(name=job.name) for job in manifest.jobs}
        session = cls(path, manifest.plan_id, manifest_path, jobs, 0)
        session.parent = str(manifest.provenance.get("parent", ""))
        session.snapshot()
        return session

    @classmethod
    def load(cls, path: Path) -> Session:
        """The session in a file, with what its journal adds. Raises ConfigError, CorruptError, StateError."""
        data = read_json(path, "session", SESSION_VERSION, missing=_known_sessions(path))
        try:
            session = cls(path, path.stem, Path(), {}, 0)
            jobs = {name: session._job(job) for name, job in data["jobs"].items()}
            plan_id, manifest_path, serial = data["plan_id"], data["manifest_path"], data["serial"]
            parent = data.get("parent", "")
            watched = Watched.model_validate(data.get("watched", {}))
            session.hold = Hold.model_validate(data.get("hold", {}))
        except (KeyError, AttributeError, TypeError, ValidationError) as error:
            raise CorruptError(Problem(f"not a valid session: {str(error).splitlines()[0]}", str(path))) from None
        texts = isinstance(manifest_path, str) and isinstance(parent, str) and "\0" not in manifest_path
        if not texts or type(serial) is not int or any(name != job.name for name, job in jobs.items()):
            raise CorruptError(Problem("not a valid session", str(path), "it was edited; restore it from a copy"))
        if plan_id != path.stem:
            hint = f"a session's file has the name of its plan: {plan_id}.json" if isinstance(plan_id, str) else ""
            raise CorruptError(Problem("this file is not where its session belongs", str(path), hint))
        if not jobs:  # it would look as if every job had succeeded
            raise CorruptError(Problem("not a valid session: it has no jobs", str(path)))
        session.manifest_path, session.jobs, session._serial = Path(manifest_path), jobs, serial
        session.parent = parent
        session.watched = session._watched_saved = watched
        session._replay()
        return session

    def _job(self, data: Any) -> JobState:
        """A job from its record. Raises ValidationError."""
        return readable(records.job_of(self._confidential.revealed(data)))

    def _replay(self) -> None:
        try:
            with self._journal.opened() as file:
                for line in whole_lines(file):  # one that a crash has cut was never acknowledged
                    self._replay_line(line.text, f"{self._journal.path}:{line.number}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(Problem(f"can't read the journal: {error.strerror}", str(self._journal.path))) from None
        self._behind = True

    def _replay_line(self, line: bytes, where: str) -> None:
        try:
            record = loads(line)
            job = self._job(record["job"])
            serial, plan_id = record["serial"], record.get("plan_id", self.plan_id)
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
            raise CorruptError(Problem("this line is not a job record", where)) from None
        if type(serial) is not int or job.name not in self.jobs or plan_id != self.plan_id:
            raise CorruptError(Problem("this line is not a record of a job of this session", where))
        if serial > self._serial:
            self.jobs[job.name] = job
            self._serial = serial

    @property
    def finished(self) -> bool:
        """True if every job has ended for good or is blocked by those, and no action or request is waiting."""
        return all(job.at_rest for job in self.jobs.values()) and not self._asked

    @property
    def untouched(self) -> bool:
        """True if no job was ever submitted and nothing was requested: its creator stopped at once."""
        return all(job == JobState(name=job.name) for job in self.jobs.values()) and not self._asked

    @property
    def _asked(self) -> bool:
        """True if a request waits. One that can't be read is ignored, and does not keep the session unfinished."""
        try:
            return bool(requests.waiting(self.path))
        except AutoexpError:
            return False

    def put(self, job: JobState) -> None:
        """Change a job's record in memory. Secrets are removed from its texts for people."""
        job = readable(job)
        self.jobs[job.name] = job
        self._changed[job.name] = job

    def save(self) -> None:
        """Write the changes to disk: as a snapshot if that is cheap or due, else to the journal."""
        if not self._changed:
            return
        due = time.monotonic() - self._snapshot_at >= _SNAPSHOT_EVERY_SECONDS
        if due or len(self.jobs) < _SNAPSHOT_ALWAYS_BELOW or self.finished:
            self.snapshot()
        else:
            self.journal()

    def journal(self) -> None:
        """Append the changes to the journal. Raises OSError, StateError."""
        if not self._changed:
            return
        lines = []
        for job in self._changed.values():
            self._serial += 1
            head = f'"serial": {self._serial}, "plan_id": {json.dumps(self.plan_id)}'
            lines.append(f'{{{head}, "job": {records.line(self._confidential.concealed(job))}}}')
        self._confidential.save()
        self._behind = True  # also if it can't be written whole: the disk may be full
        self._journal.append(lines)
        self._changed.clear()

    def snapshot(self) -> None:
        """Write the whole session, and start an empty journal."""
        self._serial += 1
        head = {
            "version": SESSION_VERSION,
            "plan_id": self.plan_id,
            "manifest_path": str(self.manifest_path),
            "parent": self.parent,
            "updated_at": time.time(),
            "watched": self.watched.model_dump(),
            "hold": self.hold.model_dump(),
            "serial": self._serial,
        }
        jobs = {name: self._confidential.concealed(job) for name, job in self.jobs.items()}
        self._confidential.save()
        text = ",\n".join(f"{json.dumps(name)}: {records.line(job)}" for name, job in jobs.items())
        write_atomic(self.path, f'{json.dumps(head, indent=1)[:-2]},\n "jobs": {{\n{text}\n}}}}\n')
        if self._behind:
            self._journal.remove()
            self._behind = False
        self._confidential.forget_all_but(name for job in jobs.values() for name in job.secrets.values())
        self._changed.clear()
        self._watched_saved = self.watched
        self._snapshot_at = time.monotonic()

    def close(self) -> None:
        """Write a final snapshot, so that no journal is needed."""
        if self._changed or self._behind or self.watched != self._watched_saved:
            self.snapshot()

    def discard(self) -> None:
        """Remove the session, in which nothing has happened."""
        self.path.unlink(missing_ok=True)
        self._journal.remove()


_HEAD_BYTES = 16384


def parent_of(path: Path) -> str:
    """What started a session (`Session.parent`), read from the head of its file; '' if nothing did or it is unknown."""
    try:
        with trust.open_file(path, most=trust.WHOLE) as file:
            head, jobs, _ = file.read(_HEAD_BYTES).partition(b',\n "jobs"')
        return str(loads(head + b"}").get("parent", "")) if jobs else ""
    except (OSError, ValueError, AttributeError, StateError):
        return ""


def find_session(directory: Path, name: str) -> Path:
    """The session with this plan id, or whose id begins with it. Raises ConfigError if there is none or several.

    The name must be a plain file name: it can't lead to another directory, and can't be empty.
    """
    if not plain_name(name):
        hint = "give the plan's id or its beginning; --monitoring-state-dir names the folder; --cmd list shows them"
        raise ConfigError(Problem(f"{name!r} can't be a session's id", "--session", hint))
    exact = SessionFiles.named(directory, name).path
    if exact.exists():
        return exact
    begins = [path for path in all_sessions(directory) if path.stem.startswith(name)]
    if len(begins) == 1:
        return begins[0]
    if begins:
        listed = ", ".join(path.stem for path in begins[:10])
        raise ConfigError(Problem(f"several sessions begin with '{name}'", str(directory), f"choose one of: {listed}"))
    raise ConfigError(Problem(f"no session '{name}'", str(directory), _known_sessions(exact)))


def all_sessions(directory: Path) -> list[Path]:
    """The sessions in a state directory, newest first."""
    return list(stamps(directory))


Stamp = tuple[int, int]
"""Modification time (ns since 1970) and inode: the pair changes whenever the file is replaced."""


def stamps(directory: Path) -> dict[Path, Stamp]:
    """The sessions in a state directory with the stamps of their files, newest first; removed files are skipped."""
    found = {
        path: stamp
        for path in directory.glob("*.json")
        if not path.name.startswith(".") and (stamp := stamp_of(path)) is not None
    }
    return dict(sorted(found.items(), key=lambda item: item[1], reverse=True))


def stamp_of(path: Path) -> Stamp | None:
    """A file's stamp; None if the file does not exist (for example a broken link)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _known_sessions(path: Path) -> str:
    names = [known.stem for known in all_sessions(path.parent)][:10]
    near = did_you_mean(path.stem, names) if names else ""
    return near or (
        f"the newest sessions there: {', '.join(names)}" if names else "name the folder with --monitoring-state-dir"
    )


@contextmanager
def writing(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[Lock]:
    """Hold the lock of the session at `path`, as its only writer; `waiting` as in lock.locked.

    Raises LockedError naming the other.
    """
    with locked(SessionFiles(path).lease, f"session {path.stem}", waiting=waiting) as lock:
        yield lock


def by_id(jobs: Iterable[JobState]) -> dict[str, JobState]:
    """Jobs by their scheduler ids. If two have the same id (the scheduler reused it), the newest job has it."""
    return {job.newest.scheduler_id: job for job in sorted(jobs, key=lambda job: job.newest.submitted_at or 0)}
