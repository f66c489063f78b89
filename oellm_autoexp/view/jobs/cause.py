"""Why a job is in its state, in words: its rule, its exit code, the scheduler's reason, a line of its log. Pure."""

from __future__ import annotations

from oellm_autoexp.core.states import (
    BAD_ENDS,
    HELD_BY_PLAN,
    IN_QUEUE,
    PENDING,
    RUNNING,
    SUBMITTING,
    SUCCESS,
    UNSUBMITTED,
)
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.waits import waits
from oellm_autoexp.view.jobs.waiting import action_count, until

_SAID_BY_THE_CODE = "NonZeroExitCode"
_UNKNOWN = "the scheduler does not know it now; lost if that lasts for minutes without a sign of it"
_HELD_BY_ADMIN = "JobHeldAdmin"
"""A user's own `scontrol release` is denied then (scontrol(1), hold)."""
_LAUNCH_FAILED = "a node could not start it (its prolog, or its slurmd's log, says why)"
_LONGEST_QUOTE = 160
"""Characters of a line of the log, where more is said behind it."""


def cause(job: JobState, quoted: str = "", now: float | None = None) -> str:
    """All that is known of why a job is in its state, in one line; '' for nothing.

    `quoted` is what its log, or the event that named its trouble, says (`view.jobs.evidence`): it stands behind the
    rule and the exit code. A new attempt that is not made, and what else there is, comes last.
    """
    notes = [*filter(None, [action_count(waits([job]))]), *_switched_off(job)]
    if job.state not in BAD_ENDS:
        return "; ".join([*(_why(job, now) if job.state != SUCCESS else []), *notes])
    rule, behind = _rule(job), [*_reason(job), *_consequences(job), *notes]
    named = ", ".join(filter(None, [rule, _code(job)]))
    line = " ".join(quoted.split())
    if behind and len(line) > _LONGEST_QUOTE:
        line = f"{line[: _LONGEST_QUOTE - 1]}…"
    return "; ".join(filter(None, [": ".join(filter(None, [named, line])), *behind]))


def causes(job: JobState) -> list[str]:
    """Why a job is in its state, in few words: its exit code, the rule that named its trouble, the reason, how long."""
    return [word for word in (_code(job), *_why(job)) if word]


def _why(job: JobState, now: float | None = None) -> list[str]:
    if is_held(job) and job.reason != HELD_BY_PLAN:
        release = f"`scontrol release {job.newest.scheduler_id}`"
        whose = " of an administrator" if _HELD_BY_ADMIN in job.reason else ""
        why = f"; {_LAUNCH_FAILED}" if "launch" in job.reason.lower() else ""
        return [f"{job.reason}: it waits until {release}{whose}{why}"]
    deadline = job.waiting.deadline
    limit = until(deadline, now) if deadline and job.state in (*UNSUBMITTED, SUBMITTING) else ""
    return [word for word in (_rule(job), *_reason(job), _failed_before(job), *_consequences(job), limit) if word]


def _failed_before(job: JobState) -> str:
    """Why the attempt failed in whose place a job waits for a new one; '' if that is not known, or it does not wait."""
    if job.state not in (*UNSUBMITTED, SUBMITTING, PENDING) or not job.past.failures:
        return ""
    last = job.past.failures[-1]
    return last.cause.text if last.attempt >= job.attempt - 1 and last.cause.category != "unknown" else ""


def _code(job: JobState) -> str:
    """The exit code, where it says something: that of a job which we have ended (143) is our own doing."""
    code = job.answer.exit_code
    return f"exit {code}" if code and job.state != SUCCESS and not job.cancelled_by else ""


def _rule(job: JobState) -> str:
    """The rule that named the trouble, unless the state says it."""
    return job.run.error_type if job.state not in (SUCCESS, job.run.error_type) else ""


def _reason(job: JobState) -> list[str]:
    reason = "" if job.state == RUNNING or (job.answer.exit_code and job.reason == _SAID_BY_THE_CODE) else job.reason
    unknown = job.state in IN_QUEUE and job.newest.missing_since is not None
    reason = f"{_UNKNOWN} ({reason})" if unknown and reason else _UNKNOWN if unknown else reason
    return [reason.removeprefix(f"{job.state}: ")] if reason else []


def _consequences(job: JobState) -> list[str]:
    hindered = f"can't be watched in full: {job.problem}" if job.problem else ""
    return [word for word in (job.run.not_restarted, hindered) if word]


def _switched_off(job: JobState) -> list[str]:
    off = ", ".join(job.run.switched_off)
    return [f"rule switched off, its pattern takes too long: {off}"] if off else []


def is_held(job: JobState) -> bool:
    """Whether a job is kept from starting until somebody lets it go.

    SLURM's reasons are JobHeldUser, JobHeldAdmin, `launch failed requeued held` and `job requeued in held state`; newer
    ones have `_` for the blanks (slurm_protocol_defs.c, slurm.conf(5)).
    """
    return job.state == PENDING and "held" in job.reason.lower()
