"""A scheduler in memory that plays a script, for tests of plans, orders and conditions. Nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from oellm_autoexp.core.errors import Problem, SubmitError
from oellm_autoexp.core.fields import Text
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.core.states import ENDED
from oellm_autoexp.sbatch.section import SlurmOptions
from oellm_autoexp.schedulers.base import Scheduler, SchedulerClient
from oellm_autoexp.schedulers.site import ClusterNodes

Script = Sequence[str | JobStatus]
"""The states of a job, one per poll; the last one stays."""


class FakeScheduler(Scheduler):
    """Every submission goes through a script of states: `states`, or what `behave(submission, task)` returns for it.

    `refuse` names jobs whose submission is refused; `submissions` lists what was taken, in order. `nodes`: those of a
    cluster `fake` with one partition; `excluded`: those that `exclude` was called with, by job.
    """

    poll_interval_seconds = longest_poll_interval_seconds = 0.01
    settle_seconds = log_lag_seconds = 0.0

    def __init__(
        self,
        states: Script = ("PENDING", "RUNNING", "COMPLETED"),
        behave: Callable[[Submission, int | None], Script | None] = lambda submission, task: None,
        refuse: Collection[str] = (),
        max_array_size: int = 1001,
        nodes: Sequence[str] = (),
    ) -> None:
        self._max_array_size = max_array_size
        self._nodes = tuple(nodes)
        self._states = tuple(states)
        self._behave = behave
        self._refuse = set(refuse)
        self._scripts: dict[str, list[JobStatus]] = {}
        self._shown: dict[str, JobStatus] = {}
        self.submissions: list[Submission] = []
        self.excluded: dict[str, tuple[str, ...]] = {}

    def submit(self, submission: Submission) -> str:
        """See Scheduler.submit."""
        if submission.name in self._refuse:
            raise SubmitError(Problem("refused, as the script says", submission.name))
        self.submissions.append(submission)
        job = str(len(self.submissions))
        for task in submission.array or (None,):
            script = self._behave(submission, task) or self._states
            self._scripts[job if task is None else f"{job}_{task}"] = [_status(state) for state in script]
        return job

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        """See Scheduler.find."""
        tokens = {submission.token for submission in submissions}
        taken = enumerate(self.submissions, 1)
        return {submission.token: str(job) for job, submission in taken if submission.token in tokens}

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.poll: each call moves each asked job one state on."""
        mine = [job for job, token in jobs.items() if self._has(job, token)]
        for job in mine:
            script = self._scripts.get(job)
            if script:
                self._shown[job] = script.pop(0) if len(script) > 1 else script[0]
        return {job: self._shown[job] for job in mine if job in self._shown}

    def _has(self, job: str, token: str) -> bool:
        """Whether the job, or array, of this id is the one of that token."""
        number = job.partition("_")[0]
        known = number.isdecimal() and 0 < int(number) <= len(self.submissions)
        return known and token in ("", self.submissions[int(number) - 1].token)

    def listed(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.listed: a script may go on after an end, as by `scontrol requeue`."""
        return self.poll(jobs)

    def max_array_size(self) -> int:
        """See Scheduler.max_array_size."""
        return self._max_array_size

    def cluster_nodes(self) -> ClusterNodes | None:
        """See Scheduler.cluster_nodes."""
        return ClusterNodes("fake", {"fake": frozenset(self._nodes)}, "fake") if self._nodes else None

    def exclude(self, jobs: Mapping[str, str], nodes: Collection[str]) -> Mapping[str, str]:
        """See Scheduler.exclude."""
        for job, token in jobs.items():
            if self._has(job, token):
                self.excluded[job] = tuple(dict.fromkeys((*self.excluded.get(job, ()), *nodes)))
        return {}

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.cancel: a job that was last shown alive is shown as cancelled from now on."""
        mine = {job for job, token in jobs.items() if self._has(job, token)}
        for job, script in self._scripts.items():
            asked = job in mine or job.partition("_")[0] in mine
            if asked and not (job in self._shown and self._shown[job].scheduler_state in ENDED):
                script[:] = [JobStatus("CANCELLED")]


def _status(state: str | JobStatus) -> JobStatus:
    """A state as a status; a bare word that says how the script itself ended gets an exit code to match."""
    if isinstance(state, JobStatus):
        return state
    return JobStatus(state, exit_code={"COMPLETED": 0, "FAILED": 1}.get(state))


class FakeSlurmClient(SchedulerClient):
    """A scripted scheduler in memory, for tests: every job goes through `states`, one per poll."""

    is_fake = True
    class_name: Literal["FakeSlurmClient"]
    states: list[str] = ["PENDING", "RUNNING", "COMPLETED"]
    nodes: list[Text] = []
    """The names of its nodes; without any it is one machine, of which none can be left out."""

    def scheduler(self, section: SlurmOptions, state_dir: Path) -> Scheduler:  # noqa: ARG002
        """See SchedulerClient.scheduler."""
        return FakeScheduler(self.states, nodes=self.nodes)
