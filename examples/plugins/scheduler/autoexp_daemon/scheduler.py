"""What plans, submissions and monitors ask of a scheduler, answered from the daemon's files."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from autoexp_daemon.files import forget_environments, opened, submission_of
from oellm_autoexp.core.errors import InvalidSubmissionError, Problem, StateError, SubmitError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.core.states import ENDED
from oellm_autoexp.sbatch.log_paths import resolve_log_path
from oellm_autoexp.schedulers.base import Scheduler, outside_jobs
from oellm_autoexp.storage import trust

_OF_JOB = (
    "(id = :job OR number = :job) AND :token IN ('', (SELECT token FROM submissions s WHERE s.number = jobs.number))"
)
_log = logging.getLogger(__name__)


class DaemonScheduler(Scheduler):
    """The scheduler whose files are in `folder`. Its jobs have no nodes, accounts or options to be checked."""

    poll_interval_seconds = longest_poll_interval_seconds = 1.0
    settle_seconds = log_lag_seconds = 0.0  # what `find` says is certain at once, and logs are on this machine

    def __init__(self, folder: Path, slots: int, kill_grace_seconds: float) -> None:
        self._folder = folder
        self._options = (str(slots), str(kill_grace_seconds))

    def submit(self, submission: Submission) -> str:
        """See Scheduler.submit."""
        try:
            script = trust.read_script(Path(submission.script_path), submission.script_digest)
        except OSError as error:
            raise SubmitError(Problem(f"the script can't be read: {error}", submission.name)) from None
        except StateError as error:
            raise InvalidSubmissionError(*error.problems) from None
        if not re.match(r"#!\s*\S", script):
            raise InvalidSubmissionError(Problem("the first line must name a program: #!/bin/bash", submission.name))
        row = (submission.token, json.dumps(asdict(submission)), script, json.dumps(outside_jobs(os.environ)))
        with opened(self._folder) as db:
            columns = "submissions(token, submission, script, environment)"
            number = str(db.execute(f"INSERT INTO {columns} VALUES(?, ?, ?, ?)", row).lastrowid)
            jobs = [f"{number}_{task}" for task in submission.array] or [number]
            db.executemany("INSERT INTO jobs(id, number) VALUES(?, ?)", [(job, number) for job in jobs])
        self._start_daemon()
        return number

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        """See Scheduler.find."""
        asked = "SELECT number FROM submissions WHERE token = ?"
        with opened(self._folder) as db:
            rows = {one.token: db.execute(asked, (one.token,)).fetchone() for one in submissions}
        return {token: str(row["number"]) for token, row in rows.items() if row is not None}

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.poll."""
        asked = "SELECT * FROM jobs JOIN submissions USING (number) WHERE id = ? AND ? IN ('', token)"
        with opened(self._folder) as db:
            found = [db.execute(asked, job).fetchone() for job in jobs.items()]
        statuses = {}
        for row in filter(None, found):
            log = resolve_log_path(submission_of(row).log_path, row["id"])
            statuses[row["id"]] = JobStatus(row["state"], row["reason"], row["code"], log_path=log)
        if any(status.scheduler_state not in ENDED for status in statuses.values()):
            self._start_daemon()
        return statuses

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.cancel: what waits ends at once, what runs is ended by the daemon."""
        with opened(self._folder) as db:
            asked = [{"job": job, "token": token} for job, token in jobs.items()]
            db.executemany(f"UPDATE jobs SET state = 'CANCELLED' WHERE state = 'PENDING' AND {_OF_JOB}", asked)  # noqa: S608
            stops = "UPDATE jobs SET stop = 'CANCELLED' WHERE state = 'RUNNING' AND stop = ''"
            db.executemany(f"{stops} AND {_OF_JOB}", asked)
            forget_environments(db)
        self._start_daemon()

    def _start_daemon(self) -> None:
        """Start the daemon unless it runs: it has the lock. Whoever gets the lock hands it to the daemon.

        No job is lost where that fails: the next poll tries again.
        """
        try:
            with (self._folder / "daemon.lock").open("a") as lock, (self._folder / "daemon.log").open("a") as log:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                subprocess.run(
                    [
                        sys.executable,
                        "-Pm",
                        "autoexp_daemon.daemon",
                        str(self._folder),
                        str(lock.fileno()),
                        *self._options,
                    ],
                    env={**outside_jobs(os.environ), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock.fileno()],
                    start_new_session=True,
                    check=True,
                )
        except BlockingIOError:
            pass
        except (OSError, subprocess.CalledProcessError) as error:
            _log.warning("can't start the daemon: %s", error)
