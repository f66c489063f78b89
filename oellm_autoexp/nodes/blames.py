"""What an ended attempt blames nodes for: its cause, as concluded from its logs, or the scheduler's answer. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from oellm_autoexp.causes.cause import INFRASTRUCTURE
from oellm_autoexp.causes.hosts import expand
from oellm_autoexp.core.states import FINAL, NODE_FAIL
from oellm_autoexp.nodes.entry import PREFLIGHT, Entry, is_node
from oellm_autoexp.sbatch.section import OF_THE_SCRIPT
from oellm_autoexp.session.job_state import JobState


def blames(job: JobState, plan: str, now: float, asked: int = 1) -> list[Entry]:
    """The blamed nodes of a job's newest attempt; only nodes that the attempt had.

    Those that its script has left out are blamed at once, the others when it has ended; as of `now` until then.

    A preflight check that none of several nodes has passed says more of the check: it blames none of them. `asked`: how
    many nodes the job asks for.

    A cause counts once the log's late lines are read: they may change it. What SLURM itself says of failed nodes counts
    at once, as SLURM may requeue the job meanwhile.
    """
    found = _sick(job, plan, now, asked) if job.run.sick_nodes else []
    if job.state not in FINAL:
        return found
    cause, at = job.run.cause, job.newest.ended_at or now
    if cause is not None and cause.category in INFRASTRUCTURE and job.logs.late_until is None:
        nodes = sorted({*cause.blamed_nodes} & {*expand(job.answer.nodes)} - {*job.run.sick_nodes})
        found += attempt_blames(job, plan, at, nodes, cause.category, cause.text, cause.fingerprint)
    if job.state == NODE_FAIL:
        nodes = [node for node in expand(job.answer.failed_nodes) if node not in {entry.node for entry in found}]
        found += attempt_blames(job, plan, at, nodes, "node", "SLURM ended the job, as the node failed")
    return found


def _sick(job: JobState, plan: str, now: float, asked: int) -> list[Entry]:
    """The nodes that a job's script has left out."""
    found: list[Entry] = []
    checks = {node: why.partition(":")[0] for node, why in job.run.sick_nodes.items()}
    failed = Counter(checks.values())
    some_passed = not {*expand(job.answer.nodes)} <= checks.keys()
    for node, why in job.run.sick_nodes.items():
        category = "node" if checks[node] in OF_THE_SCRIPT else PREFLIGHT
        if category == PREFLIGHT and 1 < asked <= failed[checks[node]] and not some_passed:
            continue
        found += attempt_blames(job, plan, job.newest.ended_at or now, [node], category, why)
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
