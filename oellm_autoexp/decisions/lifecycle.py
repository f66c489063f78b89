"""From the scheduler's answers to a job's state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from oellm_autoexp.causes.hosts import expand
from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.core.states import (
    CANCELLED,
    CRASH,
    ENDED,
    FINAL,
    OOM,
    PENDING,
    RUNNING,
    STALL,
    STOPPED,
    SUCCESS,
    TIMEOUT,
    UNKNOWN,
    conclude,
)
from oellm_autoexp.session.job_state import GONE_LOOKS, Answer, Earlier, JobState, Unsettled

VANISHED_AFTER_SECONDS = 60.0
"""A job that an answering scheduler does not list for this long counts as failed (sacct lags by some seconds)."""
BEGUN_VANISHED_AFTER_SECONDS = 600.0
"""The same for a job that wrote its start and not its end: it may still run, unknown to the scheduler."""
GONE_AFTER_SECONDS = 60.0
"""Longer than a cancelled job gets to end by itself (slurm.conf(5): KillWait, by default 30 s)."""


def see_status(
    job: JobState,
    status: JobStatus | None,
    now: float,
    clock: float | None = None,
    *,
    begun: bool = False,
    lost: JobStatus | None = None,
) -> JobState:
    """The job after the scheduler's answer; None: the scheduler answered, and does not list the job.

    `clock` is the session's (see session/silence.py; None: that is `now`); `begun`: the job has said that it began, and
    not that it ended; `lost`: how it has ended, if that is known of a job that the scheduler does not list.
    """
    if job.state in FINAL:
        return job
    if status is None:
        clock = now if clock is None else clock
        patience = BEGUN_VANISHED_AFTER_SECONDS if begun else VANISHED_AFTER_SECONDS
        if lost is None or not _missed(job, clock, patience):
            return _missing(job, now, clock, patience)
        status = lost
    if status.scheduler_state == UNKNOWN:  # no answer is no news
        known = job.newest.missing_since is None
        return job if known else replace(job, newest=replace(job.newest, missing_since=None))
    requeued = _requeued(job, status)
    if requeued:  # between two looks: nothing that was seen of the earlier run is true of this one
        job = replace(job, newest=replace(job.newest, runs=job.newest.runs + 1), run=job.next_run)
    state = _settled(job, status.scheduler_state, out_of_memory=status.out_of_memory)
    reason = job.cancelled_by if state in FINAL and job.cancelled_by else status.reason
    answer = _answer(job.answer, status, ended=state in FINAL)
    newest, run = job.newest, job.run
    if (state, reason, answer, newest.missing_since) == (job.state, job.reason, job.answer, None) and not requeued:
        return job
    newest = replace(newest, missing_since=None)
    if requeued and state not in FINAL:
        newest = replace(newest, begun_again_at=now)
    if requeued and state == RUNNING:
        newest = replace(newest, started_at=now)
        return replace(job.happened(now, RUNNING, _AGAIN), reason=reason, newest=newest, answer=answer)
    if job.answer.scheduler_state in STOPPED and status.scheduler_state not in STOPPED:
        run = replace(run, resumed_at=now)
    if state == job.state:
        return replace(job, reason=reason, newest=newest, answer=answer, run=run)
    if state == PENDING:  # it was requeued: nothing that was seen of its run is true of the next one
        newest, run = replace(newest, begun_again_at=now), job.next_run
    if state == RUNNING:
        newest = replace(newest, started_at=now, runs=newest.runs + 1)
    if state in FINAL:
        newest = replace(newest, ended_at=now)
    noted = job.happened(now, state, _words(status))
    return replace(noted, state=state, reason=reason, newest=newest, answer=answer, run=run)


def _answer(last: Answer, status: JobStatus, *, ended: bool) -> Answer:
    """The scheduler's answer, completed by values of earlier answers."""
    count = _restarts(status)
    return Answer(
        scheduler_state=status.scheduler_state,
        nodes=status.nodes or last.nodes,
        failed_nodes=status.failed_nodes or last.failed_nodes,
        exit_code=status.exit_code if ended else None,  # SLURM reports one while it is COMPLETING
        out_of_memory=status.out_of_memory,
        requeues=last.requeues if count is None else count,
        script_lost=_script_lost(last, status),
    )


def _script_lost(last: Answer, status: JobStatus) -> bool:
    """Whether the node of the script has left the allocation of a job that runs."""
    if status.scheduler_state != "RUNNING" or not (status.batch_host and status.nodes):
        return False
    if status.nodes == last.nodes:  # as at nearly every look
        return last.script_lost
    return status.batch_host not in expand(status.nodes)


_AGAIN = "the scheduler has restarted it"


def _requeued(job: JobState, status: JobStatus) -> bool:
    """True if a running job was requeued under its id since the last poll."""
    return job.state == RUNNING and _counted_on(job, status)


def _counted_on(job: JobState, status: JobStatus) -> bool:
    """True if the scheduler counts more restarts than at the last poll; False if it does not count them."""
    count = _restarts(status)
    return job.answer.requeues is not None and count is not None and count > job.answer.requeues


def _restarts(status: JobStatus) -> int | None:
    """How often the scheduler has restarted the job; None if it does not report it.

    SLURM counts a restart as soon as the run before it is asked to end, so that a job that is COMPLETING may be either.
    """
    return None if status.scheduler_state == "COMPLETING" else status.restarts


def runs_again(job: JobState, status: JobStatus, now: float) -> JobState:
    """An ended job after an answer that lists it as not ended; other answers change nothing.

    `scontrol requeue` begins a job again that has ended; one that had vanished may come back.
    """
    state = conclude(status.scheduler_state)
    counted = _restarts(status) is not None and job.answer.requeues is not None and not job.newest.vanished
    if status.scheduler_state == UNKNOWN or state in FINAL or (counted and not _counted_on(job, status)):
        return job
    vanished = job.newest.vanished
    newest = replace(job.newest, ended_at=None, vanished=False)
    unsettled = tuple(run for run in job.past.unsettled if run.scheduler_id != newest.scheduler_id)
    if job.restart is not None:
        job = replace(job.happened(now, "restart", no_new_attempt(job)), restart=None)
    job = replace(
        job,
        state=RUNNING if vanished and newest.runs else PENDING,
        newest=newest,
        answer=replace(job.answer, exit_code=None),
        logs=replace(job.logs, late_until=None),
        past=replace(job.past, unsettled=unsettled),
    )
    if not vanished:
        newest = replace(newest, end_asked_at=None, begun_again_at=now)
        job = replace(job, newest=newest, run=job.next_run, cancelled_by="")
    return see_status(job, status, now).happened(now, state, "the scheduler lists it again" if vanished else _AGAIN)


def no_new_attempt(job: JobState) -> str:
    """The message for a job that was restarted by the scheduler before its planned new attempt."""
    return f"no new attempt: the scheduler has restarted job {job.newest.scheduler_id}"


def revised(job: JobState, now: float) -> JobState:
    """An ended job after late lines of its log, which may change its final state."""
    if job.answer.scheduler_state not in ENDED or job.newest.vanished:
        return job
    state = _settled(job, job.answer.scheduler_state, out_of_memory=job.answer.out_of_memory)
    return (
        job
        if state == job.state
        else replace(job.happened(now, state, "by lines that its log received late"), state=state)
    )


def _settled(job: JobState, scheduler_state: str, *, out_of_memory: bool = False) -> str:
    """The final state of a job, from the scheduler's state and the log. The scheduler's causes are kept.

    A crash counts as out of memory if one of the job's steps ran out of memory, as its script knows only that a step
    failed. Of all lines of a log, only the one that says that the job is complete turns a bad end into a success.
    A job that the tool has ended gets the state that it was ended for. A stall without an action does not count,
    because the job went on.
    """
    state = conclude(scheduler_state)
    if state in (CRASH, CANCELLED, TIMEOUT) and job.run.complete:
        return SUCCESS
    by_us = bool(job.cancelled_by or job.restart)
    overruled = state == SUCCESS and job.run.overrules_success and not job.run.complete
    verdict = CRASH if job.run.verdict == STALL and not by_us else job.run.verdict
    if verdict == SUCCESS and not (state == CANCELLED and by_us):
        verdict = ""
    ends = state == CRASH or (state == CANCELLED and by_us) or overruled
    state = verdict if verdict in FINAL and ends else state
    return OOM if state == CRASH and out_of_memory and job.run.verdict != STALL else state


def _missed(job: JobState, clock: float, seconds: float) -> bool:
    """True if the scheduler has answered for so long without listing the job."""
    return job.newest.missing_since is not None and job.newest.missing_since <= clock - seconds


def _missing(job: JobState, now: float, clock: float, patience_seconds: float) -> JobState:
    """The job while the scheduler answers but does not list it; for some time the list may only be late."""
    if job.newest.missing_since is None or job.newest.missing_since > clock:
        return replace(job, newest=replace(job.newest, missing_since=clock))
    if not _missed(job, clock, patience_seconds):
        return job
    reason = "left the queue; neither accounting nor the job's own files show how it ended"
    if job.cancelled_by and job.newest.end_asked_at is not None:
        return job.ended(now, _settled(job, "CANCELLED"), job.cancelled_by)
    return replace(job, newest=replace(job.newest, vanished=True)).ended(now, CRASH, reason)


def _words(status: JobStatus) -> str:
    code = f"exit code {status.exit_code}" if status.exit_code else ""
    step_only = status.out_of_memory and status.scheduler_state != "OUT_OF_MEMORY"
    memory = "a step of it ran out of memory" if step_only else ""
    return ", ".join(word for word in (status.scheduler_state, status.reason, code, memory) if word)


def see_end(
    job: JobState, read: JobState, status: JobStatus | None, clock: float, *, answered: bool, exited: bool
) -> JobState:
    """Checks whether a job that vanished, and was cancelled before its new attempt, has certainly ended.

    It is by its own word (`exited`), or when the scheduler has said so at GONE_LOOKS looks in a row and for
    GONE_AFTER_SECONDS in which nothing was written. `read` is the job after a look at its logs; `status` counts if the
    scheduler has `answered`.
    """
    looks, since = read.newest.gone_looks, read.newest.missing_since
    if exited:
        looks = GONE_LOOKS
    elif answered and job.newest.end_asked_at is not None:
        gone = status is None or status.scheduler_state in ENDED
        is_there = status is not None and not gone and status.scheduler_state != UNKNOWN
        if is_there or read.run.last_activity != job.run.last_activity:
            looks = 0
        elif gone:
            since = clock if looks == 0 or since is None else since
            looks += 1
            if clock - since < GONE_AFTER_SECONDS:
                looks = min(looks, GONE_LOOKS - 1)
    if looks == job.newest.gone_looks and read.reason == job.reason and read is job:
        return job
    which = f"its new attempt waits until job {job.newest.scheduler_id} has surely ended"
    newest = replace(read.newest, gone_looks=looks, missing_since=since)
    return replace(read, reason=f"{which}: confirmed by {looks} of {GONE_LOOKS} polls", newest=newest)


def to_be_settled(job: JobState) -> JobState:
    """The job with its run, which has just ended, added to the runs of unknown usage."""
    last = job.newest
    ended = last.ended_at or 0.0
    seconds = max(0.0, ended - last.started_at) if last.started_at else 0.0
    run = Unsettled(scheduler_id=last.scheduler_id, ended_at=ended, seconds=seconds, token=last.token)
    return replace(job, past=replace(job.past, unsettled=(*job.past.unsettled, run)))


def see_earlier(job: JobState, answers: Mapping[str, JobStatus], now: float) -> JobState:
    """The job after the scheduler's answers about its earlier attempts (by id), which may run again."""
    seen = tuple(_seen_again(attempt, answers.get(attempt.scheduler_id)) for attempt in job.past.earlier)
    if seen == job.past.earlier:
        return job
    known = {(attempt.scheduler_id, attempt.token) for attempt in job.past.begun_again}
    new = [a.scheduler_id for a in seen if a.alive and (a.scheduler_id, a.token) not in known]
    if not new:
        return replace(job, past=replace(job.past, earlier=seen))
    words = (
        f"job {', '.join(new)}, an earlier attempt, was restarted: it is cancelled, as a newer attempt has replaced it"
    )
    return replace(job.happened(now, "warning", words), past=replace(job.past, earlier=seen))


def _seen_again(attempt: Earlier, status: JobStatus | None) -> Earlier:
    """An earlier attempt after the scheduler's answer, which shows whether it runs again."""
    if status is not None and status.scheduler_state == UNKNOWN:
        return attempt
    counts = (attempt.requeues, None if status is None else status.restarts)
    same_run = None not in counts and counts[0] == counts[1] and not attempt.vanished
    if status is None or status.scheduler_state in ENDED or (same_run and not attempt.alive):
        return replace(attempt, alive=False, end_asked_at=None)
    return replace(attempt, alive=True)
