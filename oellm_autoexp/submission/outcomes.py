"""Records the result of submissions in the session: jobs wait, are accepted, refused, or ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from oellm_autoexp.core.errors import AutoexpError, InvalidSubmissionError, StateError, SubmitError
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.decisions import submissions
from oellm_autoexp.decisions.readiness import StartGate
from oellm_autoexp.planning.batches import Batch
from oellm_autoexp.rules.events import Deadline
from oellm_autoexp.sbatch.log_paths import resolve_log_path
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.session import status_files
from oellm_autoexp.session.job_state import JobState, SpecChanges
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.files import link_atomic
from oellm_autoexp.submission.retries import LONGEST_RETRY_SECONDS, growing, spread

_SAME_SECONDS = 60.0
"""Deadlines that differ by less are the same: each change of one is a record of the session."""
_log = logging.getLogger(__name__)


class Outcomes:
    """Changes the jobs of a session after submissions, without saving it.

    `in_queue` is called as `Submitter.in_queue` says.
    """

    def __init__(
        self,
        session: Session,
        gates: Mapping[str, StartGate],
        *,
        now: Callable[[], float],
        in_queue: Callable[[JobState], JobState],
    ) -> None:
        self._session = session
        self._gates = gates
        self._now = now
        self._in_queue = in_queue

    def job(self, spec: JobSpec) -> JobState:
        """A job as it is now."""
        return self._session.jobs[spec.name]

    def waits(
        self, name: str, reason: str, deadline: Deadline | None = None, *, patience_seconds: float | None = None
    ) -> None:
        """Record why a job waits, since when and until when; after `patience_seconds` it is cancelled."""
        job, now = self._session.jobs[name], self._now()
        since, deadline = _wait_of(job, now, deadline, patience_seconds)
        waiting = submissions.waits(job, reason, since, deadline, now)
        if waiting is not job:
            self._session.put(waiting)

    def blocked(self, name: str, reason: str, patience_seconds: float | None) -> None:
        """Record that a job waits for what can't come true, as `waits`."""
        job, now = self._session.jobs[name], self._now()
        since, deadline = _wait_of(job, now, None, patience_seconds)
        blocked = submissions.blocked(job, reason, since, deadline, now)
        if blocked is not job:
            self._session.put(blocked if job.state == blocked.state else self._in_queue(blocked))

    def ended(self, job: JobState, state: str, reason: str, now: float) -> None:
        """End a waiting job."""
        self._gates[job.name].forget()
        self._session.put(job.ended(now, state, reason))

    def accepted(self, token: str, batch: Batch, scheduler_id: str) -> None:
        """Record that the scheduler has accepted a batch, under this id."""
        now = self._now()
        for task, spec in batch.jobs.items():
            self._gates[spec.name].forget()
            job_id = scheduler_id if task is None else f"{scheduler_id}_{task}"
            log = resolve_log_path(spec.log_path, job_id)
            last_link = None if task is None else spec.last_link(task)
            submitted = submissions.accepted(self.job(spec), token, task, job_id, log, now, last_link)
            self._session.put(self._in_queue(submitted))
            link_current(spec, log)
            if submitted.past.earlier:
                last = submitted.past.earlier[-1]
                try:
                    status_files.replace(Path(spec.output_dir, MARKS), last.scheduler_id, last.token)
                except (OSError, StateError) as error:  # a look that finds both ends the older one
                    _log.warning(
                        "can't note in its folder that job %s has a newer attempt: %s", last.scheduler_id, error
                    )

    def not_submitted(self, batch: Batch) -> None:
        """Record that the jobs of a batch were not submitted and wait again."""
        for spec in batch.jobs.values():
            self._session.put(submissions.not_submitted(self.job(spec)))

    def refused(self, batch: Batch, error: SubmitError) -> None:
        """Record a refusal: the jobs of a batch wait for their next try.

        A job whose script is its own, and refused for good, is ended: only other overrides would help it.
        """
        words, now = error.problems[0].what, self._now()
        for_good = isinstance(error, InvalidSubmissionError)
        for spec in batch.jobs.values():
            job = self.job(spec)
            if for_good and job.changes.script_path:
                self.refused_for_good(job, f"{words}{_changed(job.changes)}", now)
            else:
                pause = LONGEST_RETRY_SECONDS if for_good else growing(job.waiting.refusals)
                self._session.put(submissions.refused(job, words, spread(now, pause), now))

    def without_files(self, job: JobState, words: str, now: float) -> None:
        """Record that a job waits for its files, for at most one day."""
        since = now if job.waiting.files_missing_since is None else job.waiting.files_missing_since
        since = min(since, now)  # clocks are set back
        if now - since >= submissions.FILES_PATIENCE_SECONDS:
            self.refused_for_good(job, f"given up: for a day, {words}", now)
            return
        at = spread(now, growing(job.waiting.refusals))
        self._session.put(submissions.without_files(job, words, at, now, since))

    def refused_for_good(self, job: JobState, words: str, now: float) -> None:
        """End a job whose next attempt can't be submitted."""
        self._gates[job.name].forget()
        self._session.put(self._in_queue(submissions.refused_for_good(job, words, now)))


def _changed(changes: SpecChanges) -> str:
    """In what an attempt differs from the plan, as words that follow why it was refused."""
    parts = [f"with other values of {', '.join(changes.overrides)}"] if changes.overrides else []
    if changes.excluded:
        parts.append(f"without {', '.join(changes.excluded)}")
    return f" (for an attempt {' and '.join(parts)})" if parts else ""


def _wait_of(
    job: JobState, now: float, deadline: Deadline | None, patience_seconds: float | None
) -> tuple[float, Deadline | None]:
    """Since when a job waits, and until when; one deadline that is about the same as before is the one before."""
    since = now if job.waiting.waiting_since is None else job.waiting.waiting_since
    if patience_seconds is not None:
        deadline = Deadline(at=since + patience_seconds, then="cancelled")
    known = job.waiting.deadline
    return since, known if _about_the_same(known, deadline) else deadline


def _about_the_same(one: Deadline | None, other: Deadline | None) -> bool:
    return one is not None and other is not None and one.then == other.then and abs(one.at - other.at) < _SAME_SECONDS


def link_current(spec: JobSpec, log: str) -> None:
    """Point the job's `current.log` to its newest log. If this fails, the job still counts as submitted."""
    link = Path(spec.log_path_current)
    try:
        target = Path(os.path.relpath(log, link.parent) if Path(log).is_relative_to(link.parent) else log)
        try:
            link_atomic(link, target)
        except FileNotFoundError:
            link.parent.mkdir(parents=True, exist_ok=True)
            link_atomic(link, target)
    except (OSError, AutoexpError) as error:
        _log.warning("can't create the link %s to the log: %s", link, error)
