"""A job as a row: the same numbers for the Python API, the report and the exported tables. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oellm_autoexp.core.redaction import redact
from oellm_autoexp.view.jobs.cause import cause

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import JobSpec
    from oellm_autoexp.session.job_state import JobState

PLANNED = "planned"
"""The state of a job of a plan that was not submitted."""


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """What was planned of one job. `gpu_hours_planned`: at most, of one attempt, None without a time limit."""

    name: str
    stage: str | None
    parameters: dict[str, Any]
    output_dir: str
    gpu_hours_planned: float | None = None
    session: str = ""
    """The id of its plan and session."""


@dataclass(frozen=True, kw_only=True)
class Row(PlannedJob):
    """What is known of a job: what was planned of it, its state (`running`, `success`, …), what its log reported last.

    `iteration` to `seconds_per_iteration` and `saved_iteration` are None where the log has none. `gpu_hours`:
    what its ended attempts have used. Times are seconds since 1970, of the newest attempt.
    """

    state: str
    reason: str
    cause: str = ""
    """Why it is in its state, in one line: its rule, its exit code, what its log says, the reason."""
    category: str = ""
    """Of what kind the failure of its newest attempt is: a category of causes (docs/causes.md); '' without one."""
    fingerprint: str = ""
    """Equal for the same failure of other jobs; '' without one."""
    attempt: int
    exit_code: int | None
    scheduler_id: str
    log_path: str
    iteration: int | None
    total: int | None
    loss: float | None
    validation_loss: float | None
    grad_norm: float | None
    throughput: float | None
    seconds_per_iteration: float | None
    gpu_hours: float
    saved_iteration: int | None = None
    nodes: str = ""
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None


def row(spec: JobSpec, job: JobState, session: str, quoted: str = "") -> Row:
    """The row of a job of a session, without secrets. `quoted`: what its log says of a bad end (view.jobs.evidence)."""
    progress, newest, failure = job.progress, job.newest, job.run.cause
    return Row(
        name=redact(spec.name),
        stage=spec.stage,
        parameters=redact(spec.parameters),
        state=job.state,
        reason=redact(job.reason),
        attempt=job.attempt,
        exit_code=job.answer.exit_code,
        scheduler_id=newest.scheduler_id,
        output_dir=redact(spec.output_dir),
        log_path=redact(job.logs.resolved_log_path),
        iteration=progress.iteration,
        total=progress.total,
        loss=progress.loss,
        validation_loss=progress.validation_loss,
        grad_norm=progress.grad_norm,
        throughput=progress.throughput,
        seconds_per_iteration=progress.seconds,
        gpu_hours=job.past.gpu_hours,
        gpu_hours_planned=spec.gpu_hours,
        saved_iteration=progress.saved_iteration,
        nodes=job.answer.nodes,
        submitted_at=newest.submitted_at,
        started_at=newest.started_at,
        ended_at=newest.ended_at,
        session=session,
        cause=redact(cause(job, quoted)),
        category=failure.category if failure else "",
        fingerprint=failure.fingerprint if failure else "",
    )


def planned_row(spec: JobSpec, plan: str) -> Row:
    """The row of a job of a plan that was not submitted, without secrets."""
    return Row(
        name=redact(spec.name),
        stage=spec.stage,
        parameters=redact(spec.parameters),
        state=PLANNED,
        reason="",
        attempt=0,
        exit_code=None,
        scheduler_id="",
        output_dir=redact(spec.output_dir),
        log_path="",
        iteration=None,
        total=None,
        loss=None,
        validation_loss=None,
        grad_norm=None,
        throughput=None,
        seconds_per_iteration=None,
        gpu_hours=0.0,
        gpu_hours_planned=spec.gpu_hours,
        session=plan,
    )
