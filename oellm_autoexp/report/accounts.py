"""GPU-hours of a plan and its session: planned at most, used by the attempts that ended, by state. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.states import OURS, RUNNING
from oellm_autoexp.session.job_state import JobState

_SECONDS = 3600


@dataclass(frozen=True)
class StateHours:
    """Of the jobs in one state: how many, GPU-hours planned at most (of one attempt each) and really used.

    `unlimited`: jobs with GPUs and no time limit, which `planned` leaves out. `unsettled`: what attempts use that still
    run, or whose accounts are not known yet, by our own watch.
    """

    state: str
    jobs: int
    planned: float
    unlimited: int
    used: float
    unsettled: float


def hours_by_state(jobs: Iterable[tuple[JobSpec, JobState | None]], unsubmitted: str, now: float) -> list[StateHours]:
    """The GPU-hours of each state that a job is in; a job without a state is in `unsubmitted`."""
    found: dict[str, StateHours] = {}
    for spec, job in jobs:
        state = unsubmitted if job is None else job.state
        so_far = found.get(state, StateHours(state, 0, 0, 0, 0, 0))
        found[state] = StateHours(
            state,
            so_far.jobs + 1,
            so_far.planned + (spec.gpu_hours or 0),
            so_far.unlimited + (spec.gpu_hours is None),
            so_far.used + (0 if job is None else job.past.gpu_hours),
            so_far.unsettled + (0 if job is None else _unsettled(spec, job, now)),
        )
    order = {state: number for number, state in enumerate(OURS)}
    return sorted(found.values(), key=lambda hours: order.get(hours.state, len(order)))


def _unsettled(spec: JobSpec, job: JobState, now: float) -> float:
    gpus = (job.changes.resources or spec.resources).gpus
    seconds = sum(run.seconds for run in job.past.unsettled)
    if job.state == RUNNING and job.newest.started_at is not None:
        seconds += max(0.0, now - job.newest.started_at)
    return gpus * seconds / _SECONDS
