"""The daemon: begins jobs that wait, ends those that are to end, and keeps how each has ended.

Run as `python -m autoexp_daemon.daemon FOLDER LOCK SLOTS GRACE_SECONDS`; LOCK is the lock's descriptor.
A job does not need it: each is the leader of a session of its own, and its shell leaves the exit code in a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path

from autoexp_daemon.files import forget_environments, opened, submission_of
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import Submission
from oellm_autoexp.sbatch.log_paths import resolve_log_path
from oellm_autoexp.schedulers.base import job_variables
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.lock import is_running, process_started

_STAYS_SECONDS, _NAP_SECONDS = 5.0, 0.05
# Signals to all of the job's processes are for the script: its shell only notes them.
_SHELL = """trap : HUP INT QUIT TERM USR1 USR2
"$@"
code=$?; echo $code > "$0.part"; mv "$0.part" "$0"; exit $code"""
_ALIVE = "SELECT * FROM jobs JOIN submissions USING (number) WHERE state IN ('PENDING', 'RUNNING') ORDER BY jobs.rowid"


def alive(db: sqlite3.Connection) -> list[sqlite3.Row]:
    """Jobs that have not ended, first come first."""
    return db.execute(_ALIVE).fetchall()


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to all processes of a job."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


class Daemon:
    """Of the jobs in `folder`."""

    def __init__(self, folder: Path, slots: int, grace_seconds: float) -> None:
        self._folder = folder
        self._slots = slots
        self._grace = grace_seconds
        self._children: dict[int, str] = {}
        """Jobs by the processes that were made for them and not waited for yet."""

    def serve(self) -> None:
        """Until there has been nothing to do for a while."""
        until = time.monotonic() + _STAYS_SECONDS
        while time.monotonic() < until and self._folder.exists():
            if self.look():
                until = time.monotonic() + _STAYS_SECONDS
            time.sleep(_NAP_SECONDS)

    def look(self) -> bool:
        """Do what is due; returns whether there are jobs that have not ended."""
        with opened(self._folder) as db:
            rows = alive(db)
            running = [row for row in rows if row["state"] == "RUNNING"]
            for row in running:
                self._look_after(db, row)
        for pid in set(self._children) - {row["pid"] for row in running}:  # ended, or not needed: it was cancelled
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._children[pid]
        busy = {row["id"] for row in running} | set(self._children.values())
        arrays = Counter(job.partition("_")[0] for job in busy)
        for row in rows:
            if row["id"] in busy or len(busy) >= self._slots:
                continue
            limit = submission_of(row).array_limit
            if limit is None or arrays[str(row["number"])] < limit:
                busy.add(row["id"])
                arrays[str(row["number"])] += 1
                self._begin(row)
        return bool(rows)

    def _look_after(self, db: sqlite3.Connection, row: sqlite3.Row) -> None:
        """End a job at its time limit or by request, and keep its end."""
        now, limit = time.time(), submission_of(row).time_limit_seconds
        if not is_running(row["pid"], row["started"]):
            self._end(db, row)
        elif row["signalled"] and now >= row["signalled"] + self._grace:
            send_signal(row["pid"], signal.SIGKILL)
        elif row["stop"] and not row["signalled"]:
            send_signal(row["pid"], signal.SIGTERM)
            db.execute("UPDATE jobs SET signalled = ? WHERE id = ?", (now, row["id"]))
        elif not row["stop"] and limit is not None and now >= row["begun"] + limit:
            db.execute("UPDATE jobs SET stop = 'TIMEOUT' WHERE id = ?", (row["id"],))

    def _end(self, db: sqlite3.Connection, row: sqlite3.Row) -> None:
        code = None
        with contextlib.suppress(OSError, ValueError):
            code = int(self._path(row, "code").read_text())
        if row["pid"] in self._children:  # not waited for yet, so that the number is no other process's
            send_signal(row["pid"], signal.SIGKILL)  # what the script has left behind
        state = row["stop"] if row["signalled"] else "COMPLETED" if code == 0 else "FAILED"
        reason = "" if row["signalled"] or code is not None else "its processes were killed"
        db.execute("UPDATE jobs SET state = ?, code = ?, reason = ? WHERE id = ?", (state, code, reason, row["id"]))
        forget_environments(db)
        for kind in ("code", "script"):
            self._path(row, kind).unlink(missing_ok=True)

    def _begin(self, row: sqlite3.Row) -> None:
        pid = os.fork()  # no transaction is open: a child must not use its parent's
        if pid:
            self._children[pid] = row["id"]
            return
        try:
            os.setsid()
            if self._claim(row):
                self._execute(row, submission_of(row))
        finally:
            os._exit(1)

    def _claim(self, row: sqlite3.Row) -> bool:
        """In the child: become the job's one process, unless it was cancelled or begun by now."""
        with opened(self._folder) as db:
            pid = os.getpid()
            values = (pid, process_started(pid), time.time(), row["id"])
            begun = "UPDATE jobs SET state = 'RUNNING', pid = ?, started = ?, begun = ?"
            return db.execute(f"{begun} WHERE id = ? AND state = 'PENDING'", values).rowcount == 1

    def _execute(self, row: sqlite3.Row, submission: Submission) -> None:
        """In the child: become the shell that runs the script as it was when it was submitted."""
        try:
            log = Path(resolve_log_path(submission.log_path, row["id"]))
            log.parent.mkdir(parents=True, exist_ok=True)
            with trust.open_to_append(log) as output:
                for descriptor in (1, 2):
                    os.dup2(output.fileno(), descriptor)
            os.chdir(submission.work_dir)
            script = self._path(row, "script")
            script.write_text(row["script"])
            program = row["script"].partition("\n")[0].removeprefix("#!").strip().split(maxsplit=1)
            words = ["sh", "-c", _SHELL, str(self._path(row, "code")), *program, str(script)]
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)  # a job would inherit that they are ignored
            os.execve("/bin/sh", words, json.loads(row["environment"]) | job_variables(submission, row["id"]))  # noqa: S606
        except (OSError, ValueError, AutoexpError) as error:
            with opened(self._folder) as db:
                ended = "UPDATE jobs SET state = 'FAILED', reason = ? WHERE id = ?"
                db.execute(ended, (f"can't start: {error}", row["id"]))

    def _path(self, row: sqlite3.Row, kind: str) -> Path:
        return self._folder / f"{row['id']}.{kind}"


def main() -> None:
    """Go into the background; serve until nothing is left to do."""
    folder, lock, slots, grace = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    if os.fork():
        return
    os.set_inheritable(lock, False)  # jobs would keep it
    (folder / "daemon.pid").write_text(str(os.getpid()))
    daemon = Daemon(folder, slots, grace)
    with contextlib.suppress(BlockingIOError):  # another one has the lock by then
        while folder.exists():
            daemon.serve()
            fcntl.flock(lock, fcntl.LOCK_UN)
            with opened(folder) as db:
                if not alive(db):  # else it was submitted while this daemon still had the lock
                    return
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


if __name__ == "__main__":
    main()
