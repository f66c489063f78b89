"""GPU hours: what ended runs of a job have used, by the accounts of the scheduler if it keeps any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from oellm_autoexp.core.errors import SchedulerError
from oellm_autoexp.core.nouns import JobSpec, Usage
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session.session import Session

_ACCOUNTS_LAG_SECONDS = 10.0
"""How long after a run's end its accounts are asked for; at once if the session has finished."""


def settle_accounts(session: Session, specs: Mapping[str, JobSpec], scheduler: Scheduler, now: float) -> None:
    """Add what ended runs have used to `gpu_hours`: by the scheduler's accounts, else by the times of the run."""
    lag = 0.0 if session.finished else _ACCOUNTS_LAG_SECONDS
    due = [(job.name, run) for job in session.jobs.values() for run in job.past.unsettled if run.ended_at <= now - lag]
    with_gpus = {run.scheduler_id: run.token for name, run in due if specs[name].resources.gpus}
    usage: Mapping[str, Sequence[Usage]] = {}
    if with_gpus:
        with suppress(SchedulerError):
            usage = scheduler.usage(with_gpus)
    for name, run in due:
        planned = specs[name].resources.gpus
        used = usage.get(run.scheduler_id, [Usage(run.seconds)])
        seconds = sum(each.seconds * (planned if each.gpus is None else each.gpus) for each in used)
        past = session.jobs[name].past
        left = tuple(other for other in past.unsettled if other != run)
        past = replace(past, gpu_hours=past.gpu_hours + seconds / 3600, unsettled=left)
        session.put(replace(session.jobs[name], past=past))
