"""An entry of the queue: an action of an event and what became of it, and its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from oellm_autoexp.core.errors import CorruptError, Problem
from oellm_autoexp.core.nouns import Record
from oellm_autoexp.rules.actions import ActionField, Executor
from oellm_autoexp.rules.events import Event
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import read_json

QUEUE_VERSION = 1
Status = Literal["pending", "running", "done", "failed"]
PENDING: Status = "pending"
RUNNING: Status = "running"
DONE: Status = "done"
FAILED: Status = "failed"
FINISHED = frozenset({DONE, FAILED})
DONE_FOLDER = "done"


class Process(Record):
    """A process, identified for good: `started` as in lock.process_started."""

    host: str
    pid: int
    started: str


class Sidecar(Record):
    """The job in which an entry runs. `job_id` is '' until the scheduler has answered; `at`: seconds since 1970."""

    token: str
    at: float
    job_id: str = ""


class Past(Record):
    """An earlier result of an entry that was made pending again."""

    status: Status
    attempts: int
    finished_at: float | None
    message: str


class QueueEntry(Record):
    """An action of an event, its templates filled, and what became of it. Times are seconds since 1970."""

    status: Status = PENDING
    version: int = QUEUE_VERSION
    id: str
    plan_id: str
    manifest_path: str
    event: Event
    action: ActionField
    executor: Executor | None = None
    work_dir: str
    created_at: float
    attempts: int = 0
    """How often its execution was started."""
    worker: str = ""
    """`host:pid` of the worker that has, or had, it."""
    started_at: float | None = None
    finished_at: float | None = None
    message: str = ""
    """Its result; for an unfinished entry, why it is executed again."""
    output_path: str = ""
    process: Process | None = None
    """The process that executes it, which survives when its worker is killed."""
    sidecar: Sidecar | None = None
    history: tuple[Past, ...] = ()


def text_of(entry: QueueEntry) -> str:
    """What an entry's file holds."""
    return entry.model_dump_json(indent=1, by_alias=True) + "\n"


def finished_place(path: Path) -> Path:
    """Where an entry's file is once it is finished."""
    return path.parent / DONE_FOLDER / path.name


def move_to_finished(path: Path) -> None:
    """Move the file of an entry that is finished. Raises OSError."""
    finished_place(path).parent.mkdir(mode=0o700, exist_ok=True)
    os.replace(path, finished_place(path))


def read_entry(path: Path) -> QueueEntry:
    """The entry in a file. Raises ConfigError if there is none, CorruptError, StateError."""
    event = path.parent.parent if path.parent.name == DONE_FOLDER else path.parent
    data = read_json(path, "queue entry", QUEUE_VERSION, most=trust.LINE, root=event.parent)
    try:
        entry = QueueEntry.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "$." + ".".join(str(part) for part in first["loc"])
        raise CorruptError(Problem(f"not a valid queue entry: {where}: {first['msg'].lower()}", str(path))) from None
    if entry.id != path.stem or entry.event.id != event.name:
        hint = "an entry's file has the name of its id, in a folder with that of its event"
        raise CorruptError(Problem("this file is not where its entry belongs", str(path), hint))
    return entry
