"""What a scheduler is: it submits, finds, polls and cancels jobs. States are SLURM's words everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from oellm_autoexp.core.errors import Problem, StateError
from oellm_autoexp.core.fields import Section
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import JobStatus, Manifest, Submission, Usage
from oellm_autoexp.core.registry import Registry, broken
from oellm_autoexp.core.states import MEANING, UNKNOWN
from oellm_autoexp.sbatch.launch import LAUNCHER_VARIABLE
from oellm_autoexp.sbatch.section import SlurmOptions
from oellm_autoexp.schedulers.site import ClusterNodes, Site

_LONGEST_WORD = 40


def understood(status: JobStatus) -> JobStatus:
    """The status; UNKNOWN if its state is not in the table of states: a later SLURM may have new ones."""
    word = status.scheduler_state
    if word in MEANING or word == UNKNOWN:
        return status
    return JobStatus(UNKNOWN, f"it reports the unknown state {word[:_LONGEST_WORD]}")


class Scheduler(Protocol):
    """A scheduler. Ids are texts: `123`, and `123_4` for task 4 of array 123.

    An id alone does not identify a job: a scheduler that has lost its state gives the same ids again. So each method
    takes the token of the job's submission with the id (id → token). A job of that id with another token is another
    job: it is not reported, not cancelled, not changed. An empty token is not compared; then the id alone decides.

    Each scheduler implements `submit`, `find`, `poll` and `cancel`. The other methods have a default here, for a
    scheduler that keeps no accounts, has one node, and does not check scripts before they are submitted.
    """

    poll_interval_seconds: float
    """Seconds between two polls."""
    longest_poll_interval_seconds: float
    """Seconds to which the pause between two polls may grow while no job changes."""
    settle_seconds: float
    """Seconds after which a submission with an unclear answer, if `find` did not find it, surely has failed."""
    log_lag_seconds: float
    """Seconds after the end of a job in which lines of its log may still appear here; 0 for jobs on this machine."""
    native_dependencies: bool = False
    """Whether the scheduler understands `Submission.dependency`."""

    def submit(self, submission: Submission) -> str:
        """Submit one script; returns the id of the job or of the array.

        Raises SubmitError if the scheduler refused the script; SchedulerError if it is not known whether the scheduler
        accepted it: then `find` must be called before the job is submitted again.
        """
        ...

    def check(self, scripts: Mapping[str, str], *, test: bool = False) -> list[Problem]:  # noqa: ARG002
        """What is wrong with scripts (path → text), by the scheduler's options and limits. Nothing is submitted.

        With `test`, the scheduler itself is also asked what it would say to each script. What can't be checked now is
        not reported as a problem.
        """
        return []

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        """The ids of those submissions that the scheduler accepted, by token. Raises SchedulerError."""
        ...

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """The status of each job (id → token); a job that the scheduler does not know is left out.

        Raises SchedulerError.
        """
        ...

    def listed(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:  # noqa: ARG002
        """The status of these jobs (id → token) in the answer to the last poll, which was for other jobs.

        The jobs have ended; with some schedulers a job can begin again under the same id (`scontrol requeue`). The
        scheduler is not asked again. Never raises.
        """
        return {}

    def cluster_nodes(self) -> ClusterNodes | None:
        """The nodes of the cluster; None: there is only this machine, or nodes can't be named in a submission.

        Raises SchedulerError.
        """
        return None

    def max_array_size(self) -> int:
        """The largest number of tasks in one array; SLURM's default if it can't be found out. Never raises."""
        return 1001

    def usage(self, jobs: Mapping[str, str]) -> Mapping[str, Sequence[Usage]]:  # noqa: ARG002
        """What each run of jobs (id → token) that have ended used; jobs without accounts are left out.

        Raises SchedulerError.
        """
        return {}

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """Cancel these jobs (id → token); those that have ended do not change.

        Raises SchedulerError.
        """
        ...

    def exclude(self, jobs: Mapping[str, str], nodes: Collection[str]) -> Mapping[str, str]:  # noqa: ARG002
        """Add `nodes` to the excluded nodes of those jobs (id → token) that wait in the queue.

        Returns those that the scheduler refuses to change, each with its words. Raises SchedulerError if it does not
        answer.
        """
        return {}

    def suits(self, script_path: str, without: Collection[str]) -> bool:  # noqa: ARG002
        """Whether a script could begin on other nodes than these; False if that is not known. Never raises.

        A job in the queue that is kept from nodes that it needs would wait there for ever.
        """
        return True

    def hold(self, jobs: Mapping[str, str]) -> None:  # noqa: ARG002
        """Keep those jobs (id → token) that wait in the queue from beginning; others do not change.

        Raises SchedulerError.
        """
        return

    def release(self, jobs: Mapping[str, str]) -> None:  # noqa: ARG002
        """Let jobs (id → token) begin that were held. Raises SchedulerError."""
        return


def job_name(submission: Submission) -> str:
    """The name of a job in the scheduler. It ends with the token, by which `find` finds the job.

    It is plain and short: `--name` splits at commas, and accounting cuts off long names (a TINYTEXT of 255 bytes).
    """
    return f"{re.sub(r'[^A-Za-z0-9_.=+-]', '_', submission.name)[:200]}.{submission.token}"


def job_variables(submission: Submission, job: str) -> dict[str, str]:
    """SLURM's variables for a job that another scheduler runs: its script, and programs such as submitit, read them.

    These are sbatch's OUTPUT ENVIRONMENT VARIABLES (sbatch(1)) of one task on one node. `job` is the id (`12`, `12_3`).
    """
    base, _, task = job.partition("_")
    variables = {
        "SLURM_JOB_ID": job,
        "SLURM_JOBID": job,
        "SLURM_JOB_NAME": job_name(submission),
        "SLURM_SUBMIT_DIR": submission.work_dir,
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS": "1",
        "SLURM_NPROCS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NODELIST": "localhost",
        "SLURMD_NODENAME": "localhost",
    }
    if task:
        variables |= {"SLURM_ARRAY_JOB_ID": base, "SLURM_ARRAY_TASK_ID": task}
    return variables


def outside_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables of the job that this program itself may run in.

    LAUNCHER_VARIABLE is left out, too: it is for a script that is run in a terminal.
    """
    inside = "SLURM_JOB_ID" in environment
    of_job = ("SLURM_", "SLURMD_", "SRUN_")
    return {
        name: value
        for name, value in environment.items()
        if name != LAUNCHER_VARIABLE and not (inside and name.startswith(of_job) and name != "SLURM_CONF")
    }


class SchedulerClient(Section):
    """The section `slurm.client` of a config; `class_name` chooses the scheduler."""

    runs_here: ClassVar[bool] = False
    """Whether jobs run on this machine, in a limited number of slots, and not on nodes of a cluster."""
    is_slurm: ClassVar[bool] = False
    """Whether the scheduler is SLURM, with its limits, reasons and accounts."""
    is_fake: ClassVar[bool] = False
    """Whether no job really runs: files and programs that scripts need are not checked."""

    def scheduler(self, section: SlurmOptions, state_dir: Path) -> Scheduler:
        """The scheduler, with the commands of `section`.

        A scheduler that needs files keeps them in a folder of `state_dir`, the folder of the sessions. The name of the
        folder begins with a dot, so that it can't be the id of a plan.
        """
        raise NotImplementedError

    def site(self, section: SlurmOptions) -> Site:  # noqa: ARG002
        """The limits of the cluster, as the scheduler reports them; empty if it does not answer."""
        return Site()


CLIENTS = Registry(SchedulerClient, "oellm_autoexp.schedulers", "oellm_autoexp.schedulers", inside="section")


def client_of(manifest: Manifest) -> SchedulerClient:
    """The section of a manifest's scheduler. Raises StateError if its `class_name` is not known on this machine."""
    recorded = manifest.slurm.get("client") or {}
    name = recorded.get("class_name")
    kind = CLIENTS.classes().get(str(name))
    if kind is None:
        hint = "; ".join(map(str, broken())) or f"known: {', '.join(sorted(CLIENTS.classes()))}"
        raise StateError(
            Problem(f"this plan's scheduler {name!r} is not known here", CONFIG / "slurm.client.class_name", hint)
        )
    return kind.model_validate(recorded)


def make_scheduler(manifest: Manifest) -> Scheduler:
    """The scheduler of a manifest's jobs. Raises StateError."""
    section = SlurmOptions.model_validate(manifest.slurm)
    return client_of(manifest).scheduler(section, Path(manifest.monitoring_state_dir))


def scheduler_key(manifest: Manifest) -> str:
    """A text that is equal for manifests whose jobs are in the queue of the same scheduler."""
    of_jobs = ("array", "array_task_limit")
    section = {key: value for key, value in manifest.slurm.items() if key not in of_jobs}
    state_dir = manifest.monitoring_state_dir if client_of(manifest).runs_here else ""
    return json.dumps([section, state_dir], sort_keys=True)
