"""New attempts of a job: whether it may have one, and what it is before it. Pure."""

from __future__ import annotations

import re

from oellm_autoexp.monitor.actions import Restart
from oellm_autoexp.monitor.tracked import FINAL, IN_QUEUE, NEW_RUN, SUCCESS, WAITING, Restarting, TrackedJob

DO_NOT_REQUEUE = 93
"""The exit code by which NVIDIA's resiliency launcher asks not to be run again."""


def refusal(job: TrackedJob, request: Restart, cause: str, attempt: int, *, by_hand: bool = False) -> str:
    """Why a job gets no new attempt in the place of `attempt`; '' if it may have one. People get what they want."""
    if job.attempt != attempt:
        return f"attempt {attempt} is past"
    if job.restart is not None:
        return "a new attempt is on its way already"
    if job.cancelled_by:
        return f"no new attempt: it was ended on purpose ({job.cancelled_by})"
    if job.state not in (*IN_QUEUE, *FINAL):
        return "it waits to be submitted"
    if by_hand:
        return ""
    if job.state == SUCCESS:
        return "no new attempt: it has succeeded"
    if job.exit_code == DO_NOT_REQUEUE and job.state in FINAL:
        return f"no new attempt: exit code {DO_NOT_REQUEUE} asks for none"
    had = job.restarts.get(cause, 0)
    if request.max_attempts is not None and had >= request.max_attempts:
        return f"given up: '{cause}' has had {had} of {request.max_attempts} new attempts"
    if request.max_fruitless is not None and fruitless(job) >= request.max_fruitless:
        return f"given up: {fruitless(job)} attempts in a row got no further than iteration {job.furthest}"
    return ""


def fruitless(job: TrackedJob) -> int:
    """How many attempts in a row, the present one included, got no further than those before; by their iterations."""
    if job.progress.iteration is None or job.attempt < 2:
        return 0
    return job.fruitless + 1 if job.progress.iteration <= job.furthest else 0


def planned(job: TrackedJob, request: Restart, cause: str, now: float) -> Restarting:
    """The new attempt of a job; it begins when the present one has ended."""
    last = job.restarts.get(cause, 0)
    of = "" if request.max_attempts is None else f" of {request.max_attempts}"
    why = f": {request.reason}" if request.reason else ""
    nodes = tuple(node for node in re.split(r"[,\s]+", request.exclude_nodes) if node)
    return Restarting(
        attempt=job.attempt,
        cause=cause,
        reason=f"new attempt {last + 1}{of} for '{cause}'{why}",
        not_before=now + request.cooldown_seconds,
        overrides=dict(request.overrides),
        exclude_nodes=nodes,
    )


def begun(job: TrackedJob, now: float) -> TrackedJob:
    """The job, whose attempt has ended, as it waits for the one that was planned."""
    restart = job.restart
    if restart is None:
        return job
    return job.model_copy(
        update={
            **NEW_RUN,
            "state": WAITING,
            "reason": restart.reason,
            "token": "",
            "task": None,
            "scheduler_state": "",
            "exit_code": None,
            "nodes": "",
            "failed_nodes": "",
            "last_activity": None,
            "started_at": None,
            "ended_at": None,
            "missing_since": None,
            "waiting_since": now,
            "retry_at": restart.not_before,
            "refusals": 0,
            "furthest": max(job.furthest, -1 if job.progress.iteration is None else job.progress.iteration),
            "fruitless": fruitless(job),
            "end_asked_at": None,
            "restart": None,
            "restarts": {**job.restarts, restart.cause: job.restarts.get(restart.cause, 0) + 1},
            "overrides": {**job.overrides, **restart.overrides},
            "excluded": tuple(dict.fromkeys((*job.excluded, *restart.exclude_nodes))),
        }
    )
