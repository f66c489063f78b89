"""The values of a job and its event, under the names that templates and conditions use. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.rules.events import Event

if TYPE_CHECKING:  # plans are made without sessions
    from oellm_autoexp.session.job_state import JobState

_OF_PROGRESS = ("iteration", "loss", "validation_loss", "grad_norm", "throughput", "saved_iteration")
JOB_KEYS = frozenset(
    [
        *("job_id", "job_name", "name", "stage", "index", "attempt", "state", "scheduler_state", "exit_code", "nodes"),
        *("nodes_at_fault", "log_path", "log_path_current", "output_dir", "work_dir", "plan_id", "event_id"),
        *("cause", "category", "fingerprint", "blamed_nodes", "rank", "node"),
        *("event_name", "error_type", "reason", "line", "silent_seconds", "counter", *_OF_PROGRESS),
    ]
)
"""The names that every event has a value for, if only an empty one."""


def of_cause(cause: Cause | None) -> dict[str, Any]:
    """What is known of why an attempt failed; nodes are joined by commas."""
    known = cause or Cause(category="", text="", fingerprint="")
    blamed = ",".join(known.blamed_nodes)
    return {
        "cause": known.text,
        "category": known.category,
        "fingerprint": known.fingerprint,
        "blamed_nodes": blamed,
        "nodes_at_fault": blamed,
        "rank": "" if known.rank is None else known.rank,
        "node": known.node,
    }


def values(spec: JobSpec, job: JobState, event: Event | None, plan_id: str) -> dict[str, Any]:
    """All template values: of the config, of the job and of the event; later ones replace earlier ones."""
    return {
        **spec.template_values,
        "job_id": event.job_id if event else job.newest.scheduler_id,
        "job_name": spec.name,
        "name": spec.name,
        "stage": spec.stage or "",
        "index": spec.index,
        "attempt": event.attempt if event else job.attempt,
        "state": job.state,
        "scheduler_state": job.answer.scheduler_state,
        "exit_code": "unknown" if job.answer.exit_code is None else job.answer.exit_code,
        "nodes": job.answer.nodes,
        "nodes_at_fault": "",
        **of_cause(job.run.cause),
        "log_path": event.log_path if event else job.logs.resolved_log_path,
        "log_path_current": spec.log_path_current,
        "output_dir": spec.output_dir,
        "work_dir": spec.work_dir,
        "plan_id": plan_id,
        "event_id": event.id if event else "",
        "event_name": event.name if event else "",
        "error_type": job.run.error_type,
        "reason": job.reason,
        "line": "",
        "silent_seconds": "",
        "counter": "",
        **{key: "" if (value := getattr(job.progress, key)) is None else value for key in _OF_PROGRESS},
        **(event.metadata if event else {}),
    }
