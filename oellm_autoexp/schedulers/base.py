"""The one door to a scheduler: submit, find, poll, cancel. States are SLURM's words everywhere."""

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
from oellm_autoexp.schedulers.site import Site

_LONGEST_WORD = 40


def understood(status: JobStatus) -> JobStatus:
    """The status, or UNKNOWN with the reason where its word is none of the above: a later SLURM may have others."""
    word = status.scheduler_state
    if word in MEANING or word == UNKNOWN:
        return status
    return JobStatus(UNKNOWN, f"it tells the state {word[:_LONGEST_WORD]}, which is not known here")


class Scheduler(Protocol):
    """A scheduler. Ids are texts: `123`, and `123_4` for task 4 of array 123.

    An id alone identifies no job: a scheduler that has lost its state gives the same ids once more. Who asks for jobs
    gives the token of each one's submission, too (id → token), and a job of that id with another token is another job:
    it is not told of, not cancelled, not changed. An empty token can't be compared; then the id must do.

    `submit`, `find`, `poll` and `cancel` are for each to write. A subclass has the others from here, as
    a scheduler has them that keeps no accounts, has one node, and judges no scripts before they are submitted.
    """

    poll_interval_seconds: float
    """How often asking is polite."""
    longest_poll_interval_seconds: float
    """How far the pause between two questions may grow while nothing changes."""
    settle_seconds: float
    """For how long `find` must have denied a submission whose answer was unclear, until it is surely not there."""
    log_lag_seconds: float
    """How long after a job's end lines of its log may still appear here; 0 where jobs run on this machine."""
    native_dependencies: bool = False
    """Whether it understands `Submission.dependency`."""

    def submit(self, submission: Submission) -> str:
        """Hand over one script; returns the id of the job or of the array.

        Raises SubmitError if the scheduler refused, SchedulerError if nobody knows whether it took it: then `find`
        must be asked before anything is submitted again.
        """
        ...

    def check(self, scripts: Mapping[str, str], *, test: bool = False) -> list[Problem]:  # noqa: ARG002
        """What is wrong with scripts (path → text), by the options and limits that the scheduler knows; nothing is run.

        With `test` it is also asked to judge each as if it were submitted. What it can't tell now is no problem.
        """
        return []

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        """The ids of those submissions that the scheduler has, or had, by token. Raises SchedulerError."""
        ...

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """What the scheduler says of each job (id → token); one that it does not know is left out.

        Raises SchedulerError.
        """
        ...

    def listed(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:  # noqa: ARG002
        """What the last poll told of these jobs (id → token), beside those it asked for. Asks nothing, never raises.

        These have ended; a scheduler by which some begin again under the same id (`scontrol requeue`) tells so here.
        """
        return {}

    def max_array_size(self) -> int:
        """The most tasks of one array, numbered from 0. Never raises: what can't be asked is taken to be usual."""
        return 1001

    def usage(self, jobs: Mapping[str, str]) -> Mapping[str, Sequence[Usage]]:  # noqa: ARG002
        """What jobs (id → token) that have ended used in each of their runs; those without accounts are left out.

        Raises SchedulerError.
        """
        return {}

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """Ask for these jobs (id → token) to be ended; those that have ended stay as they are.

        Raises SchedulerError.
        """
        ...

    def exclude(self, jobs: Mapping[str, str], nodes: Collection[str]) -> None:  # noqa: ARG002
        """Keep those of these jobs (id → token) that wait in the queue away from `nodes`, too.

        Raises SchedulerError.
        """
        return


def job_name(submission: Submission) -> str:
    """The name that a scheduler shows; it ends with the token, by which the job is found again.

    Plain and short: `--name` splits at commas, and accounting cuts names off (a TINYTEXT of 255 bytes).
    """
    return f"{re.sub(r'[^A-Za-z0-9_.=+-]', '_', submission.name)[:200]}.{submission.token}"


def job_variables(submission: Submission, job: str) -> dict[str, str]:
    """The variables that a job's script, and programs such as submitit, know their place by, where no SLURM sets them.

    What sbatch(1) lists under OUTPUT ENVIRONMENT VARIABLES, for one task on one node. `job` is its id (`12`, `12_3`).
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
    """The environment without what a scheduler has set for the job that this program may itself run in.

    Nor has it what takes a script's launcher away: that is for a job that is run in a terminal.
    """
    inside = "SLURM_JOB_ID" in environment
    of_job = ("SLURM_", "SLURMD_", "SRUN_")
    return {
        name: value
        for name, value in environment.items()
        if name != LAUNCHER_VARIABLE and not (inside and name.startswith(of_job) and name != "SLURM_CONF")
    }


class SchedulerClient(Section):
    """One kind of scheduler: the section `slurm.client` of a config, which `class_name` chooses."""

    runs_here: ClassVar[bool] = False
    """Whether its jobs run on this machine, one after another in its slots, and not on nodes of a cluster."""
    is_slurm: ClassVar[bool] = False
    """Whether it is SLURM, with SLURM's limits, reasons and accounts."""
    is_fake: ClassVar[bool] = False
    """Whether nothing runs: what scripts need is not looked at."""

    def scheduler(self, section: SlurmOptions, state_dir: Path) -> Scheduler:
        """The scheduler, with the commands of `section`.

        What it keeps in files is in a folder of `state_dir`, that of the sessions, whose name begins with a dot, as no
        plan's id does.
        """
        raise NotImplementedError

    def site(self, section: SlurmOptions) -> Site:  # noqa: ARG002
        """What the scheduler itself tells of the cluster; nothing where it does not answer."""
        return Site()


CLIENTS = Registry(SchedulerClient, "oellm_autoexp.schedulers", "oellm_autoexp.schedulers", inside="section")


def client_of(manifest: Manifest) -> SchedulerClient:
    """The section of the scheduler that a manifest's jobs go to. Raises StateError if this kind is not known here."""
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
    """The scheduler that a manifest's jobs go to. Raises StateError."""
    section = SlurmOptions.model_validate(manifest.slurm)
    return client_of(manifest).scheduler(section, Path(manifest.monitoring_state_dir))


def scheduler_key(manifest: Manifest) -> str:
    """A text that is the same for manifests whose jobs are in the queue of one scheduler."""
    of_jobs = ("array", "array_task_limit")
    section = {key: value for key, value in manifest.slurm.items() if key not in of_jobs}
    state_dir = manifest.monitoring_state_dir if client_of(manifest).runs_here else ""
    return json.dumps([section, state_dir], sort_keys=True)
