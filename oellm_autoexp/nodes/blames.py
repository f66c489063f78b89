"""What an ended attempt blames nodes for: its cause, as concluded from its logs, or the scheduler's answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from oellm_autoexp.causes.cause import INFRASTRUCTURE
from oellm_autoexp.causes.places import expand
from oellm_autoexp.core.states import FINAL, NODE_FAIL
from oellm_autoexp.nodes.entry import Entry, is_node
from oellm_autoexp.session.job_state import JobState


def blames(job: JobState, plan: str, now: float) -> list[Entry]:
    """The blamed nodes of a job's newest attempt, once it has ended; only nodes that the attempt had.

    A cause counts once the log's late lines are read: they may change it. What SLURM itself says of failed nodes counts
    at once, as SLURM may requeue the job meanwhile.
    """
    if job.state not in FINAL:
        return []
    found: list[Entry] = []
    cause, at = job.run.cause, job.newest.ended_at or now
    if cause is not None and cause.category in INFRASTRUCTURE and job.logs.late_until is None:
        nodes = sorted({*cause.blamed_nodes} & {*expand(job.answer.nodes)})
        found += attempt_blames(job, plan, at, nodes, cause.category, cause.text, cause.fingerprint)
    if job.state == NODE_FAIL:
        nodes = [node for node in expand(job.answer.failed_nodes) if node not in {entry.node for entry in found}]
        found += attempt_blames(job, plan, at, nodes, "node", "SLURM ended the job, as the node failed")
    return found


def attempt_blames(
    job: JobState, plan: str, at: float, nodes: Iterable[str], category: str, reason: str, fingerprint: str = ""
) -> list[Entry]:
    """Entries that blame nodes for what happened in a job's newest attempt; what can't be a node's name is left out."""
    return [
        Entry(
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
        for node in nodes
        if is_node(node)
    ]
