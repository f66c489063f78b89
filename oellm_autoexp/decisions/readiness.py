"""Decides whether a job may start, by its conditions, its files and the states of its siblings. Pure.

A job with start conditions of its own waits for those alone, and may start while its sibling still runs. One without
waits until the siblings it refers to have succeeded, and is cancelled if one of them ended otherwise. Where the
scheduler does that waiting itself (`native`), the job may go to its queue as soon as its siblings are there.

A job is blocked while one of its start conditions can't come true: the sibling that would fulfil it has finally failed,
was cancelled, or is blocked itself. It is judged again at each poll, and starts as soon as its conditions hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from oellm_autoexp.core.nouns import NEVER_BEGAN, JobSpec, JobStatus
from oellm_autoexp.core.states import BLOCKED, IN_QUEUE, PENDING, SUCCESS, WAITING
from oellm_autoexp.decisions import template_values
from oellm_autoexp.decisions.condition_context import CheckRunner, ConditionContext
from oellm_autoexp.decisions.writers import Writers
from oellm_autoexp.rules.conditions import (
    AlwaysTrueCondition,
    Condition,
    ConditionField,
    ElapsedTimeCondition,
    FileExistsCondition,
    GlobExistsCondition,
    SlurmStateCondition,
)
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.storage.world import Files

_CONDITIONS = TypeAdapter(tuple[ConditionField, ...], config=ConfigDict(defer_build=True))


@dataclass(frozen=True)
class Verdict:
    """What to do with a waiting job, and why."""

    step: Literal["start", "wait", "blocked", "cancel", "done"]
    reason: str = ""
    after: tuple[str, ...] = ()
    """Names of jobs in the queue whose success the scheduler is to await."""
    patience_seconds: float | None = None
    """How long the job may wait in all before it is cancelled; None: for ever."""
    undecided: bool = False
    """True if a result that decides is missing yet: nothing is known that was not known before."""


class StartGate:
    """One job's gate; its conditions are decoded once. `overruled`: see `may_be_overruled`.

    `writers` knows which jobs of the plan write the files that the job waits for.
    """

    def __init__(
        self,
        job: JobSpec,
        files: Callable[[str], Files] = Files,
        *,
        native: bool = False,
        overruled: Collection[str] = (),
        checks: CheckRunner | None = None,
        writers: Writers | None = None,
    ) -> None:
        self._job = job
        self._writers = writers or Writers()
        self._overruled = overruled
        self._checks = checks or CheckRunner()
        self.native = native
        self._files = files(job.work_dir)
        self._start = _CONDITIONS.validate_python(job.start_conditions)
        self._cancel = _CONDITIONS.validate_python(job.cancel_conditions)
        self._done = _CONDITIONS.validate_python(job.done_conditions)

    def verdict(self, jobs: Mapping[str, JobState], waited_seconds: float = 0, now: float = 0) -> Verdict:
        """What to do with the job, which has waited `waited_seconds`. `jobs`: every job of the plan."""
        context = self._context(jobs, now)
        done = self.done(jobs, now)
        if done:
            return Verdict("done", done)
        if done is None:
            return _unanswered(self._done)
        cancel = [(condition, condition.holds(context)) for condition in self._cancel]
        for condition, answer in cancel:
            if answer:
                return Verdict("cancel", f"cancelled by {condition}")
        if unanswered := [condition for condition, answer in cancel if answer is None]:
            return _unanswered(unanswered)
        if self._start:
            answers = [(condition, condition.holds(context)) for condition in self._start]
            verdict = self._by_conditions([one for one in answers if not one[1]], context, waited_seconds)
        else:
            verdict = self._by_siblings(jobs)
        waits = self._command(now) if verdict.step == "start" else ""
        return Verdict("wait", waits) if waits else verdict

    def forget(self) -> None:
        """End the commands of this job and forget their results; the next attempt is judged again."""
        self._checks.forget(self._job.name)

    def done(self, jobs: Mapping[str, JobState], now: float = 0) -> str | None:
        """Why the job has nothing left to do; '' if it has, None while a command has no result yet."""
        context = self._context(jobs, now)
        answers = [condition.holds(context) for condition in self._done]
        if not answers or False in answers:
            return ""
        return None if None in answers else f"already done: {', '.join(map(str, self._done))}"

    def _context(self, jobs: Mapping[str, JobState], now: float) -> ConditionContext:
        def ask(words: tuple[str, ...], interval_seconds: float) -> bool | None:
            return self._checks.answer(self._job.name, words, self._job.work_dir, interval_seconds, now)

        me = jobs.get(self._job.name) or JobState(name=self._job.name)

        def value(key: str) -> Any:
            return template_values.values(self._job, me, None, "")[key]

        def written_by(path: str) -> str:
            return self._writers.of(path, self._job.work_dir)

        return ConditionContext(self._files, jobs, me, now, ask, value=value, written_by=written_by)

    def _command(self, now: float) -> str:
        """Why the job's `start_condition_cmd` keeps it waiting, '' if it does not; a result is valid until the next."""
        job, words = self._job, self._job.start_condition_cmd
        if not words or self._checks.answer(job.name, words, job.work_dir, job.start_condition_interval_seconds, now):
            return ""
        return f"waits for start_condition_cmd {words[0]}: {self._checks.wording(job.name, words)}"

    def _by_conditions(
        self, missing: Sequence[tuple[Condition, bool | None]], context: ConditionContext, waited_seconds: float
    ) -> Verdict:
        """The verdict by the start conditions that do not hold (False) or have no answer yet (None)."""
        patiences = []
        for condition, _ in missing:
            if condition.timeout_seconds is not None:
                if waited_seconds >= condition.timeout_seconds:
                    return Verdict("cancel", f"cancelled: waited {condition.timeout_seconds:g} s for {condition}")
                patiences.append(condition.timeout_seconds)
        if not missing:
            return Verdict("start")
        patience = min(patiences, default=None)
        blocked = (condition.blocked_by(context) for condition, answer in missing if answer is False)
        if why := next(filter(None, blocked), ""):
            return Verdict("blocked", f"blocked: {why}", patience_seconds=patience)
        awaited = [_awaited_sibling(condition) for condition, _ in missing]
        siblings = tuple(dict.fromkeys(filter(None, awaited)))
        if all(awaited) and all(map(_lasts, self._start)) and self._natively(siblings, context.jobs):
            return Verdict("start", after=siblings)
        reason = f"waits for {', '.join(str(condition) for condition, _ in missing)}"
        return Verdict("wait", reason, patience_seconds=patience)

    def _by_siblings(self, jobs: Mapping[str, JobState]) -> Verdict:
        ended = [name for name in self._job.depends_on if jobs[name].over and jobs[name].state != SUCCESS]
        if ended:
            return Verdict("cancel", f"cancelled: {ended[0]} ended as {jobs[ended[0]].state}")
        blocked = [name for name in self._job.depends_on if jobs[name].state == BLOCKED]
        if blocked:
            return Verdict("blocked", f"blocked: {blocked[0]} is blocked")
        open_ones = tuple(name for name in self._job.depends_on if jobs[name].state != SUCCESS)
        if not open_ones:
            return Verdict("start")
        if self._natively(open_ones, jobs):
            return Verdict("start", after=open_ones)
        return Verdict("wait", f"waits for {', '.join(open_ones)}")

    def _natively(self, siblings: Iterable[str], jobs: Mapping[str, JobState]) -> bool:
        """True if the scheduler can wait for the success of the siblings (native dependencies)."""
        # What only we can judge (conditions, a command) must be judged when the siblings have ended.
        ours = self._done or self._cancel or self._job.start_condition_cmd
        return (
            self.native
            and not ours
            and all(name in jobs and jobs[name].state in IN_QUEUE and name not in self._overruled for name in siblings)
        )


def _awaited_sibling(condition: Condition) -> str:
    """The job whose success is all that a condition asks for, for as long as it takes; '' for any other condition."""
    if not isinstance(condition, SlurmStateCondition) or condition.timeout_seconds is not None:
        return ""
    return condition.job_name if {word.lower() for word in condition.state} <= {"success", "completed"} else ""


_LASTING = (AlwaysTrueCondition, ElapsedTimeCondition, FileExistsCondition, GlobExistsCondition)


def _lasts(condition: Condition) -> bool:
    """True if a condition, once fulfilled, may be treated as fulfilled until the siblings have ended."""
    return isinstance(condition, _LASTING) or bool(_awaited_sibling(condition))


def may_be_overruled(job: JobSpec, plan_rules: Mapping[str, Any]) -> bool:
    """True if a job's success is not what the scheduler takes for one: a rule may replace it, or it is a chain.

    `plan_rules`: `Manifest.monitoring`.
    """
    return bool(_beyond_scheduler(job, plan_rules))


def _beyond_scheduler(job: JobSpec, plan_rules: Mapping[str, Any]) -> str:
    """Why the scheduler can't know whether a job has succeeded; '' if it can."""
    if job.chain is not None:
        return f"{job.name} is a chain, whose links end at their time limits"
    rules = plan_rules if job.monitoring is None else job.monitoring
    if any(event.get("overrules_success") for event in (rules.get("log_events") or {}).values()):
        return f"a rule of {job.name} has overrules_success, but SLURM looks only at the exit code"
    return ""


def needs_monitor(jobs: Sequence[JobSpec], plan_rules: Mapping[str, Any]) -> dict[str, str]:
    """The jobs that need a monitor in spite of native dependencies, by name, with the reason."""
    overruled = {job.name: why for job in jobs if (why := _beyond_scheduler(job, plan_rules))}
    found = {job.name: why for job in jobs if (why := _only_ours(job, overruled))}
    grown = True
    while grown:  # those that follow them wait, too
        behind = {
            job.name: f"follows {parents[0]}, which needs a monitor"
            for job in jobs
            if job.name not in found and (parents := [name for name in job.depends_on if name in found])
        }
        found |= behind
        grown = bool(behind)
    return {job.name: found[job.name] for job in jobs if job.name in found}


def _only_ours(job: JobSpec, overruled: Mapping[str, str]) -> str:
    """Why the scheduler alone can't start the job; '' if it can."""
    conditions = _CONDITIONS.validate_python(job.start_conditions)
    parents = [name for name in map(_awaited_sibling, conditions) if name] if conditions else list(job.depends_on)
    if job.start_condition_cmd:
        return "has a start_condition_cmd"
    if own := [condition for condition in conditions if not _awaited_sibling(condition)]:
        return f"waits for {own[0]}"
    if parents and (job.cancel_conditions or job.done_conditions):
        return f"has {'cancel' if job.cancel_conditions else 'done'} conditions"
    return next((overruled[name] for name in parents if name in overruled), "")


def cut_off(job: JobState, status: JobStatus | None, jobs: Mapping[str, JobState]) -> bool:
    """True if the scheduler has cancelled a job because its dependencies can no longer be satisfied.

    That is no end of the job: one of them may be on its way again, or count as a success to us. squeue tells the reason
    (squeue(1), JOB REASON CODES), accounts do not: there it is told from those others, which have gone.
    """
    ended = status is not None and status.scheduler_state == "CANCELLED"
    if status is None or not ended or not job.newest.after or job.state != PENDING or job.cancelled_by or job.restart:
        return False
    there = {other.newest.scheduler_id for other in jobs.values() if other.state in (*IN_QUEUE, SUCCESS)}
    has_reason = status.reason not in ("", NEVER_BEGAN)
    return status.reason == "DependencyNeverSatisfied" or not (has_reason or there.issuperset(job.newest.after))


def withdrawn(
    job: JobState, now: float, why: str = "a job that it waited for in the queue did not succeed"
) -> JobState:
    """The job back in state waiting, after the scheduler removed it from the queue; this was no attempt."""
    return replace(
        job.happened(now, WAITING, why),
        state=WAITING,
        reason="",
        attempt=job.attempt - 1,
        newest=replace(
            job.newest, token="", task=None, last_link=None, after=(), submitted_at=None, missing_since=None
        ),
        answer=replace(job.answer, scheduler_state=""),
    )


def _unanswered(conditions: Iterable[Condition]) -> Verdict:
    return Verdict("wait", f"waits for the result of: {', '.join(map(str, conditions))}", undecided=True)
