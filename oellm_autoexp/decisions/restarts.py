"""New attempts of a job: whether a job may have one, and the job's state until that begins. Pure.

The script of an attempt is made in `submission/attempts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from oellm_autoexp.causes.cause import LASTING
from oellm_autoexp.core.nouns import Chain
from oellm_autoexp.core.states import (
    BLOCKED,
    CANCELLED,
    DO_NOT_REQUEUE,
    FINAL,
    IN_QUEUE,
    RUNNING,
    SUCCESS,
    TIMEOUT,
    UNSUBMITTED,
    WAITING,
)
from oellm_autoexp.rules.actions import RestartAction
from oellm_autoexp.rules.events import Deadline, Event
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.sbatch.options import node_names
from oellm_autoexp.session.job_state import (
    BY_HAND,
    MOST_EARLIER,
    MOST_FAILURES,
    Answer,
    Attempt,
    Before,
    Earlier,
    Failure,
    JobState,
    Restarting,
    SpecChanges,
    Waiting,
)
from oellm_autoexp.session.status_files import Step

IN_JOB = "in job"
"""The cause of restarts that a job's script makes itself within its allocation (sbatch/in_job), and their event."""


class Kind(Enum):
    """What a refusal means for the job."""

    NO_NEED = auto()
    """Another attempt exists or may exist, or none is needed."""
    UNWANTED = auto()
    """The job itself asked not to be run again."""
    GIVEN_UP = auto()
    """A budget is used up."""


@dataclass(frozen=True)
class Refusal:
    """Why a job gets no new attempt."""

    kind: Kind
    why: str


def refusal(
    job: JobState, request: RestartAction, cause: str, attempt: int, *, by_hand: bool = False
) -> Refusal | None:
    """Why no new attempt follows `attempt`; None if one may. A person's request has no limits."""
    if job.attempt != attempt:
        return Refusal(Kind.NO_NEED, f"attempt {attempt} is not the current one")
    if job.restart is not None and not (by_hand and (request.overrides or request.exclude_nodes)):
        return Refusal(Kind.NO_NEED, "a new attempt is already planned")
    if job.cancelled_by:
        return Refusal(Kind.NO_NEED, f"no new attempt: it was ended on purpose ({job.cancelled_by})")
    to_be_tried = job.state == BLOCKED or (job.state == WAITING and job.waiting.refusals)
    if job.state not in (*IN_QUEUE, *FINAL) and not (by_hand and to_be_tried):
        return Refusal(Kind.NO_NEED, "it waits to be submitted")
    if by_hand:
        return None
    if job.state == CANCELLED:
        return Refusal(Kind.NO_NEED, "no new attempt: it was cancelled by hand")
    if job.state == SUCCESS:
        return Refusal(Kind.NO_NEED, "no new attempt: it has succeeded")
    if job.state in FINAL and job.waiting.refusals:
        return Refusal(Kind.UNWANTED, f"no new attempt: the last one was finally refused: {job.reason}")
    if job.answer.exit_code == DO_NOT_REQUEUE and job.state in FINAL:
        return Refusal(Kind.UNWANTED, f"no new attempt: exit code {DO_NOT_REQUEUE} asks for none")
    if why := hopeless(job, request.max_same_failures):
        return Refusal(Kind.GIVEN_UP, f"no new attempt: {why}")
    had = _had(job, cause)
    if request.max_attempts is not None and had >= request.max_attempts:
        return Refusal(
            Kind.GIVEN_UP, f"no new attempt: the limit for '{cause}' is reached ({had} of {request.max_attempts})"
        )
    counts = job.progress.iteration is not None or request.max_attempts is None
    if counts and request.max_fruitless is not None and (number := fruitless(job)) >= request.max_fruitless:
        got = (
            f"got no further than iteration {job.past.furthest}" if job.past.furthest >= 0 else "reported no iteration"
        )
        return Refusal(Kind.GIVEN_UP, f"no new attempt: {number} attempts in a row {got}")
    return None


def _had(job: JobState, cause: str) -> int:
    """How many new attempts a job had for a cause; restarts in the job count for every cause."""
    return job.past.restarts.get(cause, 0) + job.past.restarts.get(IN_JOB, 0)


def step_begun(job: JobState, step: Step, left_out: dict[str, str], now: float) -> JobState:
    """The job after its script has begun a step, and has left out these nodes.

    The first step belongs to the run that begins. A later one is a restart: nothing that was seen of the step before is
    true of it, and it counts as an attempt (`IN_JOB`).
    """
    without = f"; {', '.join(left_out)} left out" if left_out else ""
    if step.number == 1:
        first = replace(job, run=replace(job.run, steps=1, steps_left=step.most - 1, sick_nodes=left_out))
        if not left_out:
            return first
        # Why nodes were left out is no cause of what becomes of the others.
        first = replace(first, run=replace(first.run, log_starts=job.next_run.log_starts))
        return first.happened(now, IN_JOB, f"step 1 of {step.most} on {step.nodes}{without}")
    text = f"restarted in the job: step {step.number} of {step.most} on {step.nodes}{without}"
    again = job.happened(now, IN_JOB, f"{text}: {step.why}" if step.why else text)
    return replace(
        again,
        newest=replace(job.newest, begun_again_at=now),
        run=replace(job.next_run, steps=step.number, steps_left=step.most - step.number, sick_nodes=left_out),
        past=replace(job.past, restarts={**job.past.restarts, IN_JOB: job.past.restarts.get(IN_JOB, 0) + 1}),
    )


_SCRIPT_SECONDS = 180.0
"""How long a job's script gets to begin a step after a line of its log: to end the last one, and to ask all nodes."""


def script_may_restart(job: JobState, event: Event | None, seen_at: float | None, now: float) -> bool:
    """True while a new attempt that a line of the log, or a queued action, asks for waits for the job's script."""
    early = seen_at is not None and now < seen_at + _SCRIPT_SECONDS and (event is None or event.kind == "log")
    return early and job.state == RUNNING and job.run.steps_left > 0


def hopeless(job: JobState, most: int | None) -> str:
    """Why a new attempt of a job that has ended would fail as the last ones did; '' if it may do better.

    `most`: see RestartAction.max_same_failures. Only causes that a new attempt does not remove count.
    """
    cause = job.run.cause
    if job.state not in FINAL or cause is None:
        return ""
    again = [node for node in cause.blamed_nodes if node in job.changes.excluded]
    if again:
        return f"it ran on {', '.join(again)} again, which was to be excluded; no other node can be had"
    if most is None or cause.category not in LASTING or not cause.rule:
        return ""
    number = 1 + same_failures(job) + cause.repeated
    return "" if number < most else f"{number} attempts in a row failed in the same way"


def same_failures(job: JobState) -> int:
    """How many attempts just before the present one failed in the same way, with no progress since."""
    count, now = 0, _iteration(job)
    for failure in reversed(job.past.failures):
        same = job.run.cause is not None and failure.cause.fingerprint == job.run.cause.fingerprint
        if not same or now > failure.furthest:
            break
        count += 1
    return count


NEXT_LINK = "next link"
"""The cause of an attempt that is the next link of a chain, and that nothing else asked for."""


def next_link(job: JobState, chain: Chain, now: float, *, complete: bool = False) -> JobState:
    """A job with links in the queue that has ended: with its next link planned, or with why none follows (chain_end).

    A job that nothing follows, or whose next attempt is planned already, is not changed. `complete`: whether a later
    link is known to have completed the chain, so that nothing is to be given up.
    """
    if job.state not in FINAL or job.restart is not None or job.run.chain_end or not job.later_links:
        return job
    request = RestartAction(class_name="RestartAction", max_attempts=None, max_fruitless=chain.max_fruitless)
    known = job.progress.iteration is not None
    if chain.progress_file or not known:  # by the file, the links themselves judge it (sbatch/chains/links.py)
        request = request.model_copy(update={"max_fruitless": None})
    if chain.progress_file and not known:
        request = request.model_copy(update={"max_same_failures": None})
    refused = refusal(job, request, NEXT_LINK, job.attempt)
    if refused is not None and not (complete and refused.kind is not Kind.NO_NEED):
        run = replace(job.run, chain_end=refused.why)
        if refused.kind is Kind.NO_NEED:
            return replace(job, run=run)
        return replace(job.happened(now, "given up", refused.why), run=run, reason=refused.why)
    reason = f"goes on with link {job.attempt + 1} of {job.newest.last_link}"
    return replace(job, restart=replace(planned(job, request, NEXT_LINK, now), reason=reason))


def goes_on_by_itself(job: JobState, request: RestartAction) -> bool:
    """True if a link has ended at its time limit, and the one that follows is all that a rule asks for.

    Chains are for time limits: that of a link uses up no budget for new attempts.
    """
    changes = request.overrides or request.exclude_nodes or job.run.sick_nodes
    return job.state == TIMEOUT and bool(job.later_links) and not changes


def may_come(job: JobState, rules: Rules) -> bool:
    """True if a waiting action of a job would restart it."""
    found = (rules.binding(pending.rule, pending.binding) for pending in job.actions.pending)
    return any(binding is not None and isinstance(binding.action, RestartAction) for binding in found)


def is_past(job: JobState, seen_at: float | None) -> bool:
    """True if the scheduler has restarted a job since the event that requests a new attempt.

    An event of the same poll most likely comes from the run before.
    """
    return seen_at is not None and job.newest.begun_again_at is not None and seen_at <= job.newest.begun_again_at


def fruitless(job: JobState) -> int:
    """How many attempts in a row, with the current one, reached no higher iteration than the attempts before.

    An attempt without an iteration got no further, unless the job has never printed any and `max_attempts` limits it:
    its program may print none.
    """
    if job.attempt < 2:
        return 0
    return job.past.fruitless + 1 if _iteration(job) <= job.past.furthest else 0


def _iteration(job: JobState) -> int:
    """The newest reported iteration of any attempt, -1 before the first."""
    return -1 if job.progress.iteration is None else job.progress.iteration


def planned(job: JobState, request: RestartAction, cause: str, now: float) -> Restarting:
    """The planned new attempt of a job; it starts when the current one has ended. It adds to one that was planned."""
    of = "" if request.max_attempts is None else f" of {request.max_attempts}"
    counted = f"new attempt {_had(job, cause) + 1}{of} for '{cause}'"
    what = f"attempt {job.attempt + 1}, asked for {BY_HAND}" if cause == BY_HAND else counted  # no budget counts it
    asked_before = job.restart or Restarting(attempt=job.attempt, cause=cause)
    nodes = (*asked_before.exclude_nodes, *node_names(request.exclude_nodes))
    why = f": {request.reason}" if request.reason else ""
    return Restarting(
        attempt=job.attempt,
        cause=cause,
        reason=f"{what}{why}",
        not_before=now + request.cooldown_seconds,
        overrides={**asked_before.overrides, **request.overrides},
        exclude_nodes=tuple(dict.fromkeys(nodes)),
        max_same_failures=request.max_same_failures,
    )


def begins_new_chain(job: JobState) -> bool:
    """Whether a job's planned attempt has other values than the links in the queue, or these belong to an ended chain.

    They must have gone before another chain is submitted.
    """
    return job.restart is not None and bool(job.restart.overrides or job.run.chain_end)


def begun(job: JobState, now: float) -> JobState:
    """The job in state waiting for its planned attempt, after the last one ended or was refused."""
    restart = job.restart
    if restart is None:
        return job
    waiting = Waiting(
        waiting_since=job.waiting.waiting_since if job.state in UNSUBMITTED else now,
        deadline=Deadline(at=restart.not_before, then="submitted") if restart.not_before > now else None,
        retry_at=restart.not_before,
        by_hand=restart.by_hand,
    )
    had = job.past.restarts.get(restart.cause, 0)
    past = replace(job.past, restarts={**job.past.restarts, restart.cause: had + 1})
    changes = replace(
        job.changes,
        overrides={**job.changes.overrides, **restart.overrides},
        excluded=tuple(dict.fromkeys((*job.changes.excluded, *restart.exclude_nodes))),
    )
    asked = replace(job, reason=restart.reason, restart=None, waiting=waiting, past=past, changes=changes)
    if job.state in UNSUBMITTED:
        return replace(asked, state=WAITING)
    last, links = job.newest, job.later_links
    new_chain = begins_new_chain(job)
    past = replace(past, furthest=max(past.furthest, _iteration(job)), fruitless=fruitless(job))
    if job.run.cause is not None:
        failure = Failure(attempt=job.attempt, cause=job.run.cause, furthest=past.furthest)
        past = replace(past, failures=(*past.failures, failure)[-MOST_FAILURES:])
    if last.scheduler_id:  # a submission that was refused has none, so that there is nothing that could be requeued
        ended = Earlier(
            scheduler_id=last.scheduler_id, token=last.token, requeues=job.answer.requeues, vanished=last.vanished
        )
        unusable = [Earlier(scheduler_id=link, token=token, alive=True) for link, token in links.items()]
        earlier = (*past.earlier, *(unusable if new_chain else ()), ended)
        past = replace(past, earlier=_newest_earlier(earlier), before=_before(job, restart))
    newest = Attempt(
        scheduler_id=last.scheduler_id,
        last_link=None if new_chain else last.last_link,
        left_out=last.left_out if links and not new_chain else {},
        after=last.after,
        submitted_at=last.submitted_at,
        runs=last.runs,
        begun_again_at=last.begun_again_at,
    )
    logs, run = replace(job.logs, late_until=None), job.next_run
    return replace(asked, state=WAITING, newest=newest, answer=Answer(), run=run, logs=logs, past=past, problem="")


def _newest_earlier(earlier: tuple[Earlier, ...]) -> tuple[Earlier, ...]:
    """The earlier attempts that are kept: those that run, and the newest others."""
    return tuple(each for place, each in enumerate(earlier, MOST_EARLIER - len(earlier)) if place >= 0 or each.alive)


def _before(job: JobState, restart: Restarting) -> Before | None:
    """What is needed to return to an ended attempt; None for one that was cancelled because it had vanished."""
    if job.newest.vanished:
        return None
    return Before(
        state=job.state,
        attempt=job.attempt,
        scheduler_id=job.newest.scheduler_id,
        token=job.newest.token,
        task=job.newest.task,
        requeues=job.answer.requeues,
        restart=restart,
        overrides=job.changes.overrides,
        excluded=job.changes.excluded,
        furthest=job.past.furthest,
        fruitless=job.past.fruitless,
    )


def as_before(job: JobState) -> JobState:
    """The job as it was at the end of its last attempt; its next attempt is not submitted."""
    before = job.past.before
    if before is None:
        return job
    cause = before.restart.cause
    newest = replace(job.newest, scheduler_id=before.scheduler_id, token=before.token, task=before.task)
    past = replace(
        job.past,
        before=None,
        restarts={**job.past.restarts, cause: job.past.restarts.get(cause, 0) - 1},
        earlier=tuple(each for each in job.past.earlier if each.token != before.token),
        furthest=before.furthest,
        fruitless=before.fruitless,
        failures=tuple(failure for failure in job.past.failures if failure.attempt != before.attempt),
    )
    return replace(
        job,
        state=before.state,
        reason="",
        attempt=before.attempt,
        restart=before.restart,
        newest=newest,
        answer=replace(job.answer, requeues=before.requeues),
        waiting=Waiting(),
        past=past,
        changes=SpecChanges(overrides=before.overrides, excluded=before.excluded),
    )


def without_refused(job: JobState) -> SpecChanges:
    """The changes of a job after its next attempt was finally refused: those of the last accepted attempt.

    What the scheduler did not take would otherwise be part of all later attempts, also of those that a person begins.
    """
    before = job.past.before
    if before is not None:
        return replace(job.changes, overrides=before.overrides, excluded=before.excluded)
    # of one that vanished, that is not known any more
    return job.changes if job.past.earlier else replace(job.changes, overrides={}, excluded=())
