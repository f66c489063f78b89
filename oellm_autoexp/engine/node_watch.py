"""Keeps the node logs up to date with what a session sees, and its jobs in the queue away from nodes at the limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.states import PENDING, RUNNING
from oellm_autoexp.nodes.blames import blames
from oellm_autoexp.nodes.judge import in_words
from oellm_autoexp.nodes.reputation import Reputation
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session

_MOST_AT_ONCE = 200
"""How many jobs in the queue are changed in one cycle: SLURM is asked twice for each."""


@dataclass
class NodeWatch:
    """The nodes of one session's jobs."""

    manifest: Manifest
    session: Session
    scheduler: Scheduler
    reputation: Reputation
    now: Callable[[], float]
    _specs: Mapping[str, JobSpec] = field(init=False)
    _refused: set[str] = field(default_factory=set, init=False)
    """The jobs that the scheduler refused to change: they come last."""

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}

    def blame(self) -> None:
        """Record which nodes the attempts blame; the session is saved before. A repetition records nothing new."""
        now, plan = self.now(), self.manifest.plan_id
        jobs = self.session.jobs.values()
        self.reputation.blame(
            entry for job in jobs for entry in blames(job, plan, now, self._spec(job).resources.nodes or 1)
        )

    def keep_away(self) -> None:
        """Exclude nodes at the limit from the jobs that wait in the scheduler's queue.

        A job that the scheduler refuses to change is reported once. Raises SchedulerError.
        """
        found: dict[tuple[str, ...], dict[str, JobState]] = {}
        changed = 0
        jobs = self.session.jobs.values() if self.reputation.leaves_out else ()
        for job in sorted(jobs, key=lambda job: job.name in self._refused):
            if not (waiting := _in_queue(job)):
                continue
            if new := self.reputation.left_out_of_queued(self._spec(job), job.newest.left_out):
                found.setdefault(tuple(new), {})[job.name] = _kept_from(job, new, self.now())
                changed += len(waiting)
            if changed >= _MOST_AT_ONCE:
                break
        for nodes, kept in found.items():
            ids = {one: token for job in kept.values() for one, token in _in_queue(job).items()}
            refused = self.scheduler.exclude(ids, nodes)
            for job in kept.values():
                if why := next((refused[one] for one in _in_queue(job) if one in refused), ""):
                    self._refused.add(job.name)
                    self.reputation.report_once(f"{job.name} may still get {', '.join(nodes)}, which was blamed: {why}")
                else:
                    self.session.put(job)
            self.session.journal()

    def _spec(self, job: JobState) -> JobSpec:
        """A job as its newest attempt was submitted."""
        spec, own = self._specs[job.name], job.changes
        if not own.script_path:
            return spec
        resources = own.resources or spec.resources
        changes = {"script_path": own.script_path, "script_digest": own.script_digest, "resources": resources}
        return spec.model_copy(update=changes)


def _in_queue(job: JobState) -> dict[str, str]:
    """The ids of what waits of a job in the queue, with tokens: its newest attempt, and the later links of its chain.

    Of a job that has ended, nothing: its links end with it, or the next one becomes its newest attempt.
    """
    if job.state == PENDING:
        return {job.newest.scheduler_id: job.newest.token, **job.later_links}
    return job.later_links if job.state == RUNNING else {}


def _kept_from(job: JobState, nodes: Mapping[str, str], now: float) -> JobState:
    words = in_words(nodes) if job.state == PENDING else f"later links: {in_words(nodes)}"
    newest = replace(job.newest, left_out={**job.newest.left_out, **nodes})
    return replace(job.happened(now, "nodes", words), newest=newest)
