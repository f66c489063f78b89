"""SLURM, by its own commands. One squeue per poll; sacct only for jobs that squeue no longer lists."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from oellm_autoexp.core.errors import InvalidSubmissionError, Problem, SchedulerError, SubmitError, UnreachableError
from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Submission, Usage
from oellm_autoexp.core.states import UNKNOWN
from oellm_autoexp.sbatch.options import node_union
from oellm_autoexp.schedulers.base import job_name, understood
from oellm_autoexp.schedulers.site import ClusterNodes, Site
from oellm_autoexp.schedulers.slurm import error_messages, parse, sbatch_call, site_answers
from oellm_autoexp.schedulers.slurm.commands import Commands, chunks, unreachable_hint
from oellm_autoexp.schedulers.slurm.failed_nodes import FailedNodes
from oellm_autoexp.schedulers.slurm.script_checks import path_problems, script_problems, suits

_ALL_OF_MINE = ("--me", "-h", "-a", "-t", "all")  # -a: also in hidden partitions; -t all: also jobs that ended lately
_SACCT_WINDOW = "now-30days"
_RETRYING_SECONDS = 120.0  # for so long sbatch repeats its request where the queue is full (MAX_RETRIES in sbatch.c)
_USUAL_ARRAY_SIZE = 1001  # slurm.conf(5): MaxArraySize


class SlurmScheduler:
    """The real commands. `*_cmd` are words, so that a wrapper (`ssh login1 sbatch`) works as well."""

    poll_interval_seconds = 60.0
    longest_poll_interval_seconds = 180.0
    log_lag_seconds = 5.0  # nodes write to shared file systems, which show it here a few seconds later
    native_dependencies = True

    def __init__(
        self,
        submit_cmd: Sequence[str] = ("sbatch",),
        squeue_cmd: Sequence[str] = ("squeue",),
        sacct_cmd: Sequence[str] = ("sacct",),
        cancel_cmd: Sequence[str] = ("scancel",),
        timeout_seconds: float = 60,
        settle_seconds: float = 30,
    ) -> None:
        self._commands = Commands(submit_cmd, squeue_cmd, sacct_cmd, cancel_cmd, timeout_seconds)
        # An sbatch behind a wrapper (ssh) can't be ended from here: it may submit as long as it repeats its request.
        wrapped = self._commands.sbatch_is_wrapped
        self.settle_seconds = max(settle_seconds, _RETRYING_SECONDS) if wrapped else settle_seconds
        self._failed_nodes = FailedNodes(self._commands)
        self._listed: Mapping[str, parse.JobReport] = {}
        self._array_size: int | None = None

    def submit(self, submission: Submission) -> str:
        """See Scheduler.submit."""
        if not os.access(submission.work_dir, os.X_OK):
            raise SubmitError(Problem(f"the working directory {submission.work_dir} no longer exists", submission.name))
        if problems := path_problems(self._commands, submission.script_path):
            raise InvalidSubmissionError(*problems)
        result = self._commands.run(
            [*self._commands.sbatch, *sbatch_call.sbatch_arguments(submission)],
            sbatch_call.submission_environment(submission.script_path),
            submission.work_dir,
            retries=_never if self._commands.sbatch_is_wrapped else error_messages.sleeps,
        )
        job = parse.submitted_id(result.stdout)
        if result.returncode != 0:
            kind, message = error_messages.refusal(result.returncode, result.stderr)
            if job:  # the failure came after the submission
                kind = SchedulerError
            hint = unreachable_hint() if kind is UnreachableError else error_messages.advice(message)
            raise kind(Problem(f"sbatch: {message}", submission.name, hint))
        if not job:
            raise SchedulerError(Problem(f"sbatch answered {result.stdout.strip()!r}, not a job id", submission.name))
        return job

    def check(self, scripts: Mapping[str, str], *, test: bool = False) -> list[Problem]:
        """See Scheduler.check: options by `sbatch --help`, limits by `scontrol`, and `sbatch --test-only`."""
        return script_problems(self._commands, scripts, self.site(), test=test)

    def site(self) -> Site:
        """The limits of the cluster and of this user's accounts; what SLURM does not answer now is left out."""
        commands = self._commands
        programs = {"scontrol": commands.scontrol, "sacctmgr": commands.sacctmgr, "sinfo": commands.sinfo}
        try:
            user = pwd.getpwuid(os.getuid()).pw_name  # $USER may be anything
        except KeyError:
            user = str(os.getuid())
        return site_answers.read(
            lambda name, words: commands.output_or_nothing([*programs[name], *words]), user, _own_groups()
        )

    def cluster_nodes(self) -> ClusterNodes:
        """See Scheduler.cluster_nodes: by sinfo; the cluster's name is that of slurm.conf(5)."""
        commands = self._commands
        settings = commands.output([*commands.scontrol, "show", "config"])
        lines = commands.output([*commands.sinfo, "-h", "-a", "-N", "-o", site_answers.NODE_FIELDS])
        return site_answers.cluster_nodes(settings, lines)

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        """See Scheduler.find: squeue knows every live job and those that ended lately, sacct the older ones."""
        names = {submission.token: job_name(submission) for submission in submissions}
        if not names:
            return {}
        if sbatch_call.sbatch_runs(names):
            raise SchedulerError(Problem("the sbatch of an earlier submission is still running"))
        lines = self._commands.output([*self._commands.squeue, *_ALL_OF_MINE, "-o", parse.SQUEUE_TOKEN_FORMAT])
        found = parse.tokens(lines, "@", names)
        # sacct lists a job that ended before it could begin only if its state is asked for.
        for states in ((), ("-s", "PD,CA")):
            for some in chunks([name for token, name in names.items() if token not in found]):
                window = ("-S", _SACCT_WINDOW, "-E", "now", *states)
                lines = self._commands.accounts("--name", ",".join(some), *window, "-o", parse.SACCT_TOKEN_FIELDS)
                found |= parse.tokens(lines, "|", names)
        return found

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.poll. Jobs that squeue does not list are UNKNOWN while sacct does not answer."""
        if not jobs:
            return {}
        self._listed = listed = self._squeue()
        seen = {job: listed[job].status for job, token in jobs.items() if job in listed and listed[job].of(token)}
        missing = {job: token for job, token in jobs.items() if job not in seen}
        present = parse.known(listed.items())
        ever = set(present)
        try:
            # sacct lists tasks that never began under the id of their array alone, and it is late. So while squeue
            # lists a part of an array, sacct counts only for those of its tasks that have a line of their own.
            for some in chunks(sorted({parse.array_of(job) for job in missing})):
                lines = self._commands.accounts("-j", ",".join(some), "-o", parse.SACCT_FIELDS, steps=True)
                accounts = parse.sacct(lines)
                for job, token in missing.items():
                    counts = job in accounts.own or (parse.array_of(job), token) not in present
                    if counts and (status := accounts.status(job, token)) is not None:
                        seen[job] = understood(status)
                ever |= parse.known(accounts.arrays())
        except SchedulerError as error:
            seen |= dict.fromkeys(jobs.keys() - seen.keys(), JobStatus(UNKNOWN, error.problems[0].what))
        for job, token in missing.items():
            if "_" in job and job not in seen and (parse.array_of(job), token) in ever:
                seen[job] = JobStatus("CANCELLED", NEVER_BEGAN)
        for job, status in seen.items():
            if status.scheduler_state == "NODE_FAIL":
                seen[job] = replace(status, failed_nodes=self._failed_nodes.of(job, jobs[job], status.nodes))
        return seen

    def listed(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.listed: squeue lists all jobs of this user."""
        found = ((job, self._listed.get(job), token) for job, token in jobs.items())
        return {job: report.status for job, report, token in found if report is not None and report.of(token)}

    def _squeue(self) -> dict[str, parse.JobReport]:
        """The jobs and array tasks that squeue lists, by id: those in the queue, and those that ended lately."""
        text = self._commands.output([*self._commands.squeue, *_ALL_OF_MINE, "-r", "-O", parse.SQUEUE_FIELDS])
        try:
            listed = parse.squeue(text)
            return {job: replace(report, status=understood(report.status)) for job, report in listed.items()}
        except ValueError as error:
            raise SchedulerError(Problem(f"squeue: can't understand {error}")) from None

    def max_array_size(self) -> int:
        """See Scheduler.max_array_size: by slurm.conf(5), as the controller reports it."""
        if self._array_size is None:
            with contextlib.suppress(SchedulerError):
                settings = self._commands.output([*self._commands.scontrol, "show", "config"])
                self._array_size = site_answers.max_array_size(settings)
        return _USUAL_ARRAY_SIZE if self._array_size is None else self._array_size

    def usage(self, jobs: Mapping[str, str]) -> Mapping[str, Sequence[Usage]]:
        """See Scheduler.usage: by accounting, with the runs that a job was requeued from (`-D`)."""
        found: dict[str, list[Usage]] = {}
        for some in chunks(sorted({parse.array_of(job) for job in jobs})):
            lines = self._commands.accounts("-D", "-j", ",".join(some), "-o", parse.SACCT_USAGE_FIELDS)
            found |= parse.usage(lines, jobs)
        return found

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.cancel. An id that squeue lists with another token belongs to another job.

        An id that squeue does not list is cancelled, too: the list may be incomplete, and a job that still ran unseen
        would run at the same time as its next attempt.
        """
        ours = [*jobs]
        if any(jobs.values()):
            present = parse.known(self._squeue().items())
            ours = [job for job, token in jobs.items() if (job, token) in present or (job, "") not in present]
        for some in chunks(sorted(ours)):
            result = self._commands.run([*self._commands.scancel, *some])
            if result.returncode != 0 and not error_messages.only_ended_jobs(result.stderr):
                raise SchedulerError(Problem(f"scancel: {error_messages.message(result.stderr)}"))

    def exclude(self, jobs: Mapping[str, str], nodes: Collection[str]) -> Mapping[str, str]:
        """See Scheduler.exclude: sets ExcNodeList (scontrol(1)) to the nodes excluded so far and the new ones."""
        refused: dict[str, str] = {}
        for job, token in sorted(jobs.items()) if nodes else ():
            shown = self._shown_waiting(job, token)
            if not shown:
                continue
            present = parse.job_field(shown, "ExcNodeList")
            union = node_union(present, nodes)
            if union == present:
                continue
            words = [*self._commands.scontrol, "update", f"jobid={job}", f"ExcNodeList={union}"]
            result = self._commands.run(words)
            if result.returncode != 0 and self._shown_waiting(job, token):  # else it has begun just now
                refused[job] = f"scontrol: {error_messages.message(result.stderr)}"
        return refused

    def suits(self, script_path: str, without: Collection[str]) -> bool:
        """See Scheduler.suits: by `sbatch --test-only`, for which a node that is down or drained is none."""
        return suits(self._commands, script_path, without)

    def hold(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.hold: `scontrol hold` (scontrol(1)), which has no effect on jobs that run."""
        self._held("hold", jobs)

    def release(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.release."""
        self._held("release", jobs)

    def _held(self, verb: str, jobs: Mapping[str, str]) -> None:
        listed = self._squeue() if jobs else {}
        waiting = [
            job
            for job, token in jobs.items()
            if job in listed and listed[job].of(token) and listed[job].status.scheduler_state == "PENDING"
        ]
        for some in chunks(sorted(waiting)):
            result = self._commands.run([*self._commands.scontrol, verb, ",".join(some)])
            if result.returncode != 0 and not error_messages.only_begun_jobs(result.stderr):
                raise SchedulerError(Problem(f"scontrol: {error_messages.message(result.stderr)}"))

    def _shown_waiting(self, job: str, token: str) -> str:
        """What scontrol shows of a job that waits in the queue, '' of any other. Raises SchedulerError."""
        result = self._commands.run([*self._commands.scontrol, "show", "job", job])
        if result.returncode != 0 and not error_messages.only_ended_jobs(result.stderr):
            raise SchedulerError(Problem(f"scontrol: {error_messages.message(result.stderr)}", f"job {job}"))
        comment, name = parse.job_field(result.stdout, "Comment"), parse.job_field(result.stdout, "JobName")
        own = parse.JobReport(JobStatus(""), comment, name).of(token)
        return result.stdout if own and parse.job_field(result.stdout, "JobState") == "PENDING" else ""


def _never(_errors: str) -> None:
    """For a command that a wrapper (ssh) starts elsewhere: killing the wrapper would not end the command."""


def _own_groups() -> frozenset[str] | None:
    """The names of this user's groups; None for root, who may use every partition (AllowGroups of slurm.conf)."""
    if os.getuid() == 0:
        return None
    names = set()
    for number in {os.getgid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(number).gr_name)
    return frozenset(names)
