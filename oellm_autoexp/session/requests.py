"""Requests to the monitor of a session: to restart a job, to cancel it, or to skip waiting actions.

Each is a file `<monitoring_state_dir>/<plan_id>.requests/<id>.json`, which the monitor removes once it has handled it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from oellm_autoexp.core.errors import AutoexpError, ConfigError, CorruptError, Problem, StateError
from oellm_autoexp.core.nouns import Record
from oellm_autoexp.rules.actions import RestartAction
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import create_atomic, read_json
from oellm_autoexp.storage.session_files import SessionFiles

REQUEST_VERSION = 2
_RESTART_FIELDS = ("reason", "overrides", "exclude_nodes", "cause", "max_attempts", "max_fruitless", "cooldown_seconds")
"""What version 1 had beside the request, of a restart; without limits where it named none."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")


class Request(Record):
    """A request. A restart applies to `attempt` only: it has no effect if there is a later one.

    `skip`: waiting actions of the job are abandoned; of a cancel, `actions` asks for that, too. `release`: the held
    jobs of the plan are let go, whatever `job` says. `restart` is the action of a restart, None otherwise; one without
    a `cause` is a person's, and has no budget. `job` None: every job of the plan. `at`: seconds since 1970. `seen_at`:
    when the event was seen that calls for it.
    """

    version: int = REQUEST_VERSION
    id: str
    kind: Literal["restart", "cancel", "skip", "release"]
    job: str | None
    attempt: int
    reason: str = ""
    restart: RestartAction | None = None
    actions: bool = False
    at: float
    seen_at: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, data: Any) -> Any:
        """A restart whose action stands field by field beside the request, as version 1 wrote it."""
        if not isinstance(data, dict) or data.get("kind") != "restart" or data.get("restart") is not None:
            return data
        action = {field: data[field] for field in _RESTART_FIELDS if field in data}
        restart = {"class_name": "RestartAction", "max_attempts": None, "max_fruitless": None, **action}
        return {**{key: value for key, value in data.items() if key not in _RESTART_FIELDS}, "restart": restart}


def place(session_path: Path, asked: Request) -> Path:
    """The file of a request, which exists until the request is handled."""
    return SessionFiles(session_path).requests / f"{asked.id}.json"


def ask(session_path: Path, asked: Request) -> bool:
    """Write a request; False if one with this id is already waiting. Raises StateError, OSError."""
    folder = SessionFiles(session_path).requests
    if not _FILE_NAME.fullmatch(asked.id):
        raise StateError(Problem(f"{asked.id!r} can't be the name of a file", str(folder)))
    trust.private_folder(folder)
    return create_atomic(place(session_path, asked), asked.model_dump_json(indent=1) + "\n", 0o600)


def waiting(session_path: Path, report: Callable[[AutoexpError], None] | None = None) -> list[tuple[Path, Request]]:
    """The waiting requests, oldest first, each with its file; the caller removes the file of a handled request.

    Files that can't be used are skipped and passed to `report`; without `report` the first error is raised:
    CorruptError, StateError. Raises StateError if the folder can't be read.
    """
    folder = SessionFiles(session_path).requests
    try:
        names = [name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError(Problem(f"can't read the requests: {error.strerror}", str(folder))) from None
    found = []
    for name in names:
        try:
            found.append((folder / name, _read(folder / name, session_path.parent)))
        except ConfigError:  # handled meanwhile
            continue
        except AutoexpError as error:
            if report is None:
                raise
            report(error)
    return sorted(found, key=lambda item: (item[1].at, item[1].id))


def _read(path: Path, root: Path) -> Request:
    data = read_json(path, "request", REQUEST_VERSION, most=trust.LINE, root=root)
    try:
        asked = Request.model_validate(data)
    except ValidationError as error:
        what = f"not a valid request: {str(error).splitlines()[0]}"
        raise CorruptError(Problem(what, str(path), "remove it if nobody needs it")) from None
    if asked.id != path.stem:
        raise CorruptError(Problem("this file does not have the name of its request", str(path), "remove it"))
    return asked
