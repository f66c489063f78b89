"""Submissions with unknown outcome: the scheduler is asked for their tokens until the outcome is clear.

Their submitter died, or got no clear answer. A controller that hung may learn of the job only later, so that the job
counts as absent only after the scheduler has not known the token for `settle_seconds`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from oellm_autoexp.core.errors import AutoexpError, Problem, SchedulerError, SubmitError
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.states import SUBMITTING
from oellm_autoexp.decisions import submissions
from oellm_autoexp.planning.batches import Batch, submission
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session import status_files
from oellm_autoexp.session.session import Session
from oellm_autoexp.submission.outcomes import Outcomes

_NO_ANSWER = "unclear"
"""The event in a job's history of a submission that got no clear answer."""
_NOT_ASKED = "the scheduler can't be asked now whether it was submitted"
_LOST = "its submission got no clear answer, and the scheduler does not know the job"


class UnclearSubmissions:
    """The submissions of a session whose outcome is unknown."""

    def __init__(
        self,
        manifest: Manifest,
        session: Session,
        scheduler: Scheduler,
        outcomes: Outcomes,
        *,
        now: Callable[[], float],
    ) -> None:
        self._manifest = manifest
        self._session = session
        self._scheduler = scheduler
        self._outcomes = outcomes
        self._now = now
        self._specs = {job.name: job for job in manifest.jobs}

    @property
    def count(self) -> int:
        """Number of jobs of which it is unknown whether they were submitted."""
        return sum(job.state == SUBMITTING for job in self._session.jobs.values())

    def settle(self) -> None:
        """Find out what became of submissions that were under way when their submitter died or got no clear answer.

        Raises SchedulerError if the scheduler does not know now; then nothing may be submitted.
        """
        unclear = self._by_token()
        if not unclear:
            return
        try:
            found = self._scheduler.find([submission(self._manifest, token, batch) for token, batch in unclear.items()])
        except AutoexpError:
            self._noted(unclear.values(), absent_since=None, reason=_NOT_ASKED)
            self._session.save()
            raise
        now = self._now()
        for token, batch in unclear.items():
            scheduler_id = found.get(token) or self._id_by_marks(token, batch)
            if scheduler_id is not None:
                self._outcomes.accepted(token, batch, scheduler_id)
                continue
            since = self._outcomes.job(next(iter(batch.jobs.values()))).newest.absent_since
            since = now if since is None else min(since, now)  # min: clocks are set back
            until = since + self._scheduler.settle_seconds
            if until <= now:
                self._outcomes.refused(batch, SubmitError(Problem(self._lost(batch))))
            else:
                reason = "not known yet whether it was submitted: searching for it"
                self._noted([batch], absent_since=since, reason=reason, until=until)
        self._session.save()

    def no_answer(self, batch: Batch, error: SchedulerError) -> None:
        """Record that the submission of a batch got an error and its outcome is unknown."""
        for spec in batch.jobs.values():
            self._session.put(self._outcomes.job(spec).happened(self._now(), _NO_ANSWER, error.problems[0].what))

    def _lost(self, batch: Batch) -> str:
        """Why a batch that is surely not there has to be submitted again, with the error of its submission if known."""
        history = self._outcomes.job(next(iter(batch.jobs.values()))).history
        error = history[-1].message if history and history[-1].event == _NO_ANSWER else ""
        return f"{_LOST} ({error})" if error else _LOST

    def _by_token(self) -> dict[str, Batch]:
        """The submissions with unknown outcome, by token."""
        jobs: dict[str, dict[int | None, JobSpec]] = defaultdict(dict)
        for job in self._session.jobs.values():
            if job.state == SUBMITTING:
                jobs[job.newest.token][job.newest.task] = self._specs[job.name]
        return {token: Batch(by_task) for token, by_task in jobs.items()}

    def _noted(
        self, unclear: Iterable[Batch], *, absent_since: float | None, reason: str, until: float | None = None
    ) -> None:
        for batch in unclear:
            for spec in batch.jobs.values():
                self._session.put(submissions.unclear(self._outcomes.job(spec), reason, absent_since, until))

    def _id_by_marks(self, token: str, batch: Batch) -> str | None:
        """The id under which some job of a batch has run: its script leaves the name that it ran by, token included."""
        for spec in batch.jobs.values():
            for scheduler_id, name in status_files.started(Path(spec.output_dir, MARKS)).items():
                if name.endswith(f".{token}"):
                    return scheduler_id.partition("_")[0]
        return None
