"""May a job start? Pure: its conditions, the files it names and its siblings' states in; a verdict out.

A job with start conditions of its own waits for those alone, and may start while its sibling still runs. One without
waits until the siblings it refers to have succeeded, and is cancelled if one of them ended otherwise. Where the
scheduler does that waiting itself (`native`), the job may go to its queue as soon as its siblings are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from oellm_autoexp.model import JobSpec, JobStatus
from oellm_autoexp.monitor import facts
from oellm_autoexp.monitor.around import Around, Questions
from oellm_autoexp.monitor.conditions import Condition
from oellm_autoexp.monitor.tracked import IN_QUEUE, PENDING, SUCCESS, WAITING, TrackedJob
from oellm_autoexp.world import Files

_CONDITIONS = TypeAdapter(tuple[Condition, ...])


@dataclass(frozen=True)
class Verdict:
    """What is to become of a waiting job, and why."""

    step: Literal["start", "wait", "cancel", "done"]
    reason: str = ""
    after: tuple[str, ...] = ()
    """Names of jobs in the queue whose success the scheduler is to await."""
    patience_seconds: float | None = None
    """How long the job may wait in all before it is cancelled; None: for ever."""


class Gate:
    """One job's gate; its conditions are decoded once."""

    def __init__(
        self,
        job: JobSpec,
        files: Callable[[str], Files] = Files,
        *,
        native: bool = False,
        questions: Questions | None = None,
    ) -> None:
        self._job = job
        self._questions = questions or Questions()
        self.native = native
        self._files = files(job.work_dir)
        self._start = _CONDITIONS.validate_python(job.start_conditions)
        self._cancel = _CONDITIONS.validate_python(job.cancel_conditions)
        self._done = _CONDITIONS.validate_python(job.done_conditions)

    def verdict(self, jobs: Mapping[str, TrackedJob], waited_seconds: float = 0, now: float = 0) -> Verdict:
        """What is to become of the job, which has waited so long. `jobs`: every job of the plan."""
        around = self._around(jobs, now)
        done = self.done(jobs, now)
        if done:
            return Verdict("done", done)
        if done is None:
            return _unanswered(self._done)
        cancel = [(condition, condition.holds(around)) for condition in self._cancel]
        for condition, answer in cancel:
            if answer:
                return Verdict("cancel", f"cancelled by {condition}")
        if unanswered := [condition for condition, answer in cancel if answer is None]:
            return _unanswered(unanswered)
        if self._start:
            answers = [(condition, condition.holds(around)) for condition in self._start]
            verdict = self._by_conditions([one for one in answers if not one[1]], around, waited_seconds)
        else:
            verdict = self._by_siblings(jobs)
        waits = self._command(now) if verdict.step == "start" else ""
        return Verdict("wait", waits) if waits else verdict

    def forget(self) -> None:
        """End the commands that are asked, and forget what they said: what comes next is to be judged anew."""
        self._questions.forget(self._job.name)

    def done(self, jobs: Mapping[str, TrackedJob], now: float = 0) -> str | None:
        """Why there is nothing left to do for the job; '' if there is, None if a command has not said so yet."""
        around = self._around(jobs, now)
        answers = [condition.holds(around) for condition in self._done]
        if not answers or False in answers:
            return ""
        return None if None in answers else f"already done: {', '.join(map(str, self._done))}"

    def _around(self, jobs: Mapping[str, TrackedJob], now: float) -> Around:
        def ask(words: tuple[str, ...], interval_seconds: float) -> bool | None:
            return self._questions.answer(self._job.name, words, self._job.work_dir, interval_seconds, now)

        me = jobs.get(self._job.name) or TrackedJob(name=self._job.name)
        return Around(self._files, jobs, me, now, ask, value=lambda key: facts.values(self._job, me, None, "")[key])

    def _command(self, now: float) -> str:
        """Why the job's `start_condition_cmd` keeps it waiting, '' if it does not; an answer stands until the next."""
        job, words = self._job, self._job.start_condition_cmd
        if not words or self._questions.answer(
            job.name, words, job.work_dir, job.start_condition_interval_seconds, now
        ):
            return ""
        return f"waits for start_condition_cmd {words[0]}: {self._questions.wording(job.name, words)}"

    def _by_conditions(
        self, missing: Sequence[tuple[Condition, bool | None]], around: Around, waited_seconds: float
    ) -> Verdict:
        """The verdict by the start conditions that do not hold (False) or have no answer yet (None)."""
        patiences = []
        for condition, answer in missing:
            if answer is False and condition.lost(around):
                return Verdict("cancel", f"cancelled: this can't come true any more: {condition}")
            if condition.timeout_seconds is not None:
                if waited_seconds >= condition.timeout_seconds:
                    return Verdict("cancel", f"cancelled: waited {condition.timeout_seconds:g} s for {condition}")
                patiences.append(condition.timeout_seconds)
        if not missing:
            return Verdict("start")
        reason = f"waits for {', '.join(str(condition) for condition, _ in missing)}"
        return Verdict("wait", reason, patience_seconds=min(patiences, default=None))

    def _by_siblings(self, jobs: Mapping[str, TrackedJob]) -> Verdict:
        ended = [name for name in self._job.depends_on if jobs[name].over and jobs[name].state != SUCCESS]
        if ended:
            return Verdict("cancel", f"cancelled: {ended[0]} ended as {jobs[ended[0]].state}")
        open_ones = [name for name in self._job.depends_on if jobs[name].state != SUCCESS]
        if not open_ones:
            return Verdict("start")
        # What only we can judge (conditions, a command) must be judged when the siblings have ended.
        ours = self._done or self._cancel or self._job.start_condition_cmd
        if self.native and not ours and all(jobs[name].state in IN_QUEUE for name in open_ones):
            return Verdict("start", after=tuple(open_ones))
        return Verdict("wait", f"waits for {', '.join(open_ones)}")


def cut_off(job: TrackedJob, status: JobStatus | None, jobs: Mapping[str, TrackedJob]) -> bool:
    """Whether the scheduler has ended a job because those that it waited for in the queue can't succeed any more.

    That is no end of the job: one of them may be on its way again, or count as a success to us. squeue tells the reason
    (squeue(1), JOB REASON CODES), accounts do not: there it is told from those others, which have gone.
    """
    ended = status is not None and status.scheduler_state == "CANCELLED"
    if status is None or not ended or not job.after or job.state != PENDING or job.cancelled_by or job.restart:
        return False
    there = {other.scheduler_id for other in jobs.values() if other.state in (*IN_QUEUE, SUCCESS)}
    return status.reason == "DependencyNeverSatisfied" or not (status.reason or there.issuperset(job.after))


def withdrawn(job: TrackedJob, now: float) -> TrackedJob:
    """A job that came into the queue in vain, as it waits to be submitted again: it has had no attempt."""
    return job.happened(
        now,
        WAITING,
        "what it waited for in the queue has ended otherwise",
        state=WAITING,
        reason="",
        token="",
        task=None,
        after=(),
        scheduler_state="",
        attempt=job.attempt - 1,
        submitted_at=None,
        missing_since=None,
    )


def _unanswered(conditions: Iterable[Condition]) -> Verdict:
    return Verdict("wait", f"waits for an answer: {', '.join(map(str, conditions))}")
