"""The state of a job before, during and after a submission: in progress, accepted, refused, or unclear. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from oellm_autoexp.core.states import BLOCKED, CANCELLED, CRASH, PENDING, SUBMITTING, WAITING
from oellm_autoexp.decisions import restarts
from oellm_autoexp.nodes.judge import in_words
from oellm_autoexp.rules.events import Deadline
from oellm_autoexp.session.job_state import Attempt, JobState, Waiting
from oellm_autoexp.storage.log_tail import Cursor

FILES_PATIENCE_SECONDS = 86400.0
"""How long a script or a working directory may be missing: a file system may be down for a night."""


def on_its_way(
    job: JobState, token: str, task: int | None, after: tuple[str, ...], left_out: Mapping[str, str]
) -> JobState:
    """The job while it is submitted, with its token, the ids of the jobs that it depends on, and the nodes left out."""
    newest = replace(job.newest, token=token, task=task, absent_since=None, after=after, left_out=dict(left_out))
    return replace(job, state=SUBMITTING, newest=newest)


def unclear(job: JobState, reason: str, absent_since: float | None, until: float | None) -> JobState:
    """A job whose submission has an unknown outcome; `until`: when it counts as not submitted."""
    then = CANCELLED if job.cancelled_by else "submitted again"
    return replace(
        job,
        reason=f"to end ({job.cancelled_by}): {reason}" if job.cancelled_by else reason,
        newest=replace(job.newest, absent_since=absent_since),
        waiting=replace(job.waiting, deadline=None if until is None else Deadline(at=until, then=then)),
    )


def accepted(
    job: JobState,
    token: str,
    task: int | None,
    scheduler_id: str,
    log_path: str,
    now: float,
    last_link: int | None = None,
) -> JobState:
    """The job after the scheduler accepted it; a log with the same path as before is read on from its position."""
    same_log = log_path == job.logs.resolved_log_path
    of = "" if last_link is None else f", link {task} of {last_link}"
    is_new = not job.past.earlier or job.past.earlier[-1].token != token  # else the next link of one submission
    if job.newest.left_out and is_new:
        job = job.happened(now, "nodes", in_words(job.newest.left_out))
    return replace(
        job.happened(now, "submitted", f"as {scheduler_id}{of}"),
        state=PENDING,
        reason="",
        attempt=job.attempt + 1,
        newest=replace(
            job.newest,
            token=token,
            task=task,
            last_link=last_link,
            absent_since=None,
            scheduler_id=scheduler_id,
            submitted_at=now,
        ),
        logs=replace(job.logs, resolved_log_path=log_path, cursor=job.logs.cursor if same_log else Cursor()),
        waiting=Waiting(),
        past=replace(job.past, before=None),
    )


def not_submitted(job: JobState) -> JobState:
    """The job back in state waiting, after a submission that did not take place."""
    waiting = replace(job.waiting, deadline=None)
    return replace(job, state=WAITING, reason="", newest=_without_token(job), waiting=waiting)


def waits(job: JobState, reason: str, since: float, deadline: Deadline | None, now: float) -> JobState:
    """The waiting job with its reason, start and deadline; one that was blocked waits again."""
    if job.state == BLOCKED:
        job = replace(job.happened(now, WAITING, reason or "no longer blocked"), state=WAITING)
    return _with_reason(job, reason, since, deadline)


def blocked(job: JobState, reason: str, since: float, deadline: Deadline | None, now: float) -> JobState:
    """The job that waits for what can't come true, with its reason, start and deadline."""
    if job.state != BLOCKED:
        job = replace(job.happened(now, BLOCKED, reason), state=BLOCKED)
    return _with_reason(job, reason, since, deadline)


def _with_reason(job: JobState, reason: str, since: float, deadline: Deadline | None) -> JobState:
    if (job.reason, job.waiting.waiting_since, job.waiting.deadline) == (reason, since, deadline):
        return job
    return replace(job, reason=reason, waiting=replace(job.waiting, waiting_since=since, deadline=deadline))


def refused(job: JobState, words: str, retry_at: float, now: float) -> JobState:
    """The job after a refusal, waiting for its next try."""
    deadline = Deadline(at=retry_at, then="tried again")
    return _to_be_tried_at(replace(job, newest=_without_token(job)), words, retry_at, now, deadline, None)


def without_files(job: JobState, words: str, retry_at: float, now: float, missing_since: float) -> JobState:
    """A job that waits for its script or its working directory, for FILES_PATIENCE_SECONDS in all."""
    deadline = Deadline(at=missing_since + FILES_PATIENCE_SECONDS, then="given up")
    return _to_be_tried_at(job, words, retry_at, now, deadline, missing_since)


def _to_be_tried_at(
    job: JobState, words: str, retry_at: float, now: float, deadline: Deadline, files_missing_since: float | None
) -> JobState:
    waiting = Waiting(
        waiting_since=now if job.waiting.waiting_since is None else job.waiting.waiting_since,
        deadline=deadline,
        files_missing_since=files_missing_since,
        retry_at=retry_at,
        refusals=job.waiting.refusals + 1,
    )
    noted = job if job.reason == words else job.happened(now, "refused", words)
    return replace(noted, state=WAITING, reason=words, waiting=waiting)


def tried_at_once(job: JobState) -> JobState:
    """The job with its next try due now."""
    return replace(job, waiting=replace(job.waiting, retry_at=0, deadline=None))


def refused_for_good(job: JobState, words: str, now: float) -> JobState:
    """The job after its next attempt was finally refused: it counts as an attempt that failed."""
    kept = restarts.without_refused(job)
    dropped = [key for key, value in job.changes.overrides.items() if kept.overrides.get(key) != value]
    if kept.excluded != job.changes.excluded:
        dropped.append("exclude")
    more = f" (dropped for later attempts: {', '.join(dropped)})" if dropped else ""
    return replace(
        job.happened(now, CRASH, f"{words}{more}"),
        state=CRASH,
        reason=words,
        attempt=job.attempt + 1,
        newest=replace(_without_token(job), scheduler_id="", ended_at=now),
        waiting=replace(job.waiting, refusals=job.waiting.refusals + 1, deadline=None, files_missing_since=None),
        changes=kept,
    )


def _without_token(job: JobState) -> Attempt:
    return replace(job.newest, token="", task=None, last_link=None, absent_since=None)
