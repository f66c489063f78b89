"""What an ended attempt blames nodes for: its cause, as concluded from its logs, or the scheduler's answer. Pure."""

from __future__ import annotations

from oellm_autoexp.causes.cause import INFRASTRUCTURE
from oellm_autoexp.causes.places import expand
from oellm_autoexp.core.states import FINAL, NODE_FAIL
from oellm_autoexp.nodes.entry import Entry
from oellm_autoexp.session.job_state import JobState


def blames(job: JobState, plan: str, now: float) -> list[Entry]:
    """The blamed nodes of a job's newest attempt, once it has ended; only nodes that the attempt had.

    A cause counts once the log's late lines are read: they may change it. What SLURM itself says of failed nodes counts
    at once, as SLURM may requeue the job meanwhile.
    """
    if job.state not in FINAL:
        return []
    found: dict[str, Entry] = {}
    cause, at = job.run.cause, job.newest.ended_at or now
    if cause is not None and cause.category in INFRASTRUCTURE and job.logs.late_until is None:
        for node in set(cause.blamed_nodes) & set(expand(job.answer.nodes)):
            found[node] = _entry(job, plan, at, node, cause.category, cause.text, cause.fingerprint)
    if job.state == NODE_FAIL:
        for node in expand(job.answer.failed_nodes):
            found.setdefault(node, _entry(job, plan, at, node, "node", "SLURM ended the job, as the node failed"))
    return [found[node] for node in sorted(found)]


def _entry(job: JobState, plan: str, at: float, node: str, category: str, reason: str, fingerprint: str = "") -> Entry:
    return Entry(
        at=at,
        kind="blamed",
        node=node,
        category=category,
        reason=reason,
        plan=plan,
        job=job.name,
        attempt=job.attempt,
        fingerprint=fingerprint,
    )
