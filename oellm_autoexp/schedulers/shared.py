"""One scheduler for several sessions: polled once for the jobs of all of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from oellm_autoexp.core.errors import Problem, SchedulerError
from oellm_autoexp.core.nouns import JobStatus, Submission, Usage
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.schedulers.site import ClusterNodes

_FRESH_SECONDS = 10.0


class SharedScheduler:
    """A scheduler whose `poll` answers from the last `ask`; all other calls go to the real scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.poll_interval_seconds = scheduler.poll_interval_seconds
        self.longest_poll_interval_seconds = scheduler.longest_poll_interval_seconds
        self.settle_seconds = scheduler.settle_seconds
        self.log_lag_seconds = scheduler.log_lag_seconds
        self.native_dependencies = scheduler.native_dependencies
        self._asked_at = 0.0
        self._asked: Mapping[str, str] = {}
        self._answer: Mapping[str, JobStatus] | SchedulerError = {}

    @classmethod
    def of(cls, scheduler: Scheduler) -> SharedScheduler:
        """A scheduler that can be shared: itself, if it is one."""
        return scheduler if isinstance(scheduler, cls) else cls(scheduler)

    @property
    def answers(self) -> bool:
        """Whether the scheduler has answered when it was asked last."""
        return not isinstance(self._answer, SchedulerError)

    def ask(self, jobs: Mapping[str, str]) -> None:
        """Poll these jobs (id → token), once; if that fails, each later `poll` of some of them raises the error."""
        self._asked = dict(jobs)
        self._asked_at = time.monotonic()
        try:
            self._answer = self._scheduler.poll(jobs)
        except SchedulerError as error:
            self._answer = error

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.poll. Jobs that were not asked for (they are new), or long ago, are asked for now."""
        if not jobs:
            return {}
        old = time.monotonic() - self._asked_at > _FRESH_SECONDS
        if old or not jobs.items() <= self._asked.items():
            return self._scheduler.poll(jobs)
        if isinstance(self._answer, SchedulerError):
            raise SchedulerError(*self._answer.problems)
        return {job: self._answer[job] for job in jobs if job in self._answer}

    def submit(self, submission: Submission) -> str:
        """See Scheduler.submit."""
        return self._scheduler.submit(submission)

    def check(self, scripts: Mapping[str, str], *, test: bool = False) -> list[Problem]:
        """See Scheduler.check."""
        return self._scheduler.check(scripts, test=test)

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        """See Scheduler.find."""
        return self._scheduler.find(submissions)

    def listed(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.listed."""
        return self._scheduler.listed(jobs)

    def cluster_nodes(self) -> ClusterNodes | None:
        """See Scheduler.cluster_nodes."""
        return self._scheduler.cluster_nodes()

    def max_array_size(self) -> int:
        """See Scheduler.max_array_size."""
        return self._scheduler.max_array_size()

    def usage(self, jobs: Mapping[str, str]) -> Mapping[str, Sequence[Usage]]:
        """See Scheduler.usage."""
        return self._scheduler.usage(jobs)

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.cancel."""
        self._scheduler.cancel(jobs)

    def hold(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.hold."""
        self._scheduler.hold(jobs)

    def release(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.release."""
        self._scheduler.release(jobs)

    def suits(self, script_path: str, without: Collection[str]) -> bool:
        """See Scheduler.suits."""
        return self._scheduler.suits(script_path, without)

    def exclude(self, jobs: Mapping[str, str], nodes: Collection[str]) -> Mapping[str, str]:
        """See Scheduler.exclude."""
        return self._scheduler.exclude(jobs, nodes)
