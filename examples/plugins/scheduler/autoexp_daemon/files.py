"""The jobs, in one file that clients and the daemon change by transactions: whoever is killed leaves it whole."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from oellm_autoexp.core.errors import Problem, SchedulerError
from oellm_autoexp.core.nouns import Submission
from oellm_autoexp.storage import trust

_TABLES = (
    "CREATE TABLE IF NOT EXISTS machine(host TEXT)",
    # Numbers are given once (AUTOINCREMENT). The environment may hold secrets: it goes when its jobs have ended.
    "CREATE TABLE IF NOT EXISTS submissions(number INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT, submission TEXT,"
    " script TEXT, environment TEXT)",
    # stop: the state that a job is to end in (CANCELLED, TIMEOUT), and signalled: when its processes got SIGTERM.
    "CREATE TABLE IF NOT EXISTS jobs(id TEXT PRIMARY KEY, number INTEGER, state TEXT DEFAULT 'PENDING', code INTEGER,"
    " reason TEXT DEFAULT '', pid INTEGER, started TEXT, begun REAL, stop TEXT DEFAULT '', signalled REAL)",
)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """A transaction, which an exception undoes. Raises SchedulerError."""
    try:
        trust.private_folder(folder)
        path = folder / "jobs.sqlite"
        with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA secure_delete = ON")
            db.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                db.execute(table)
            _check_machine(db, folder)
            yield db
            db.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        raise SchedulerError(Problem(f"the daemon's files can't be used: {error}", str(folder))) from None


def _check_machine(db: sqlite3.Connection, folder: Path) -> None:
    """Processes of another machine can't be looked after from here. Raises SchedulerError."""
    here = socket.gethostname()
    row = db.execute("SELECT host FROM machine").fetchone()
    if row is None:
        db.execute("INSERT INTO machine VALUES(?)", (here,))
    elif row["host"] != here:
        raise SchedulerError(Problem(f"these jobs run on {row['host']}, and this is {here}", str(folder), "go there"))


def submission_of(row: sqlite3.Row) -> Submission:
    """The submission of a row of `submissions`."""
    data = json.loads(row["submission"])
    return Submission(**{**data, "array": tuple(data["array"])})


def forget_environments(db: sqlite3.Connection) -> None:
    """Of submissions whose jobs have all ended."""
    alive = "SELECT number FROM jobs WHERE state IN ('PENDING', 'RUNNING')"
    db.execute(f"UPDATE submissions SET environment = '' WHERE environment <> '' AND number NOT IN ({alive})")  # noqa: S608
