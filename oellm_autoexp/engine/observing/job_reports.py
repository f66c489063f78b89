"""What a job reports about itself: when it began and how it ended, by its status files and by its log.

The scheduler's answer is completed by that: sacct loses jobs, and distorts exit codes.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from oellm_autoexp.core.nouns import NEVER_BEGAN, JobSpec, JobStatus
from oellm_autoexp.core.states import ENDED, FINAL, RUNNING, UNKNOWN
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.session import status_files
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.storage.log_tail import Cursor, read_added

_PROLOG_FAILED = b"Error running slurm prolog:"
"""The beginning of the line that slurmd adds to a job's output (_prolog_error, src/slurmd/slurmd/req.c)."""

_CANCELLED_LINK = "this link was cancelled, and the chain goes on"
_GOES_ON = JobStatus("TIMEOUT", _CANCELLED_LINK)
"""It has ended as one does at its time limit: no failure, and no use of a budget, as that is what a person wants."""
_LOST_LINK = "killed, or its node was lost: it left no exit code, and a later link has begun"


@dataclass
class JobReports:
    """Reads the status files of jobs. `warnings`: by job, why a status file was ignored; whoever shows them pops."""

    specs: Mapping[str, JobSpec]
    now: Callable[[], float]
    warnings: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list), init=False)

    def says_it_runs(self, job: JobState) -> bool:
        """True if the job's script has reported its beginning and no end."""
        return self.number(job, "start") is not None and not self.has_exited(job)

    def has_exited(self, job: JobState) -> bool:
        """True if the job's script has left an exit code."""
        return self.number(job, "exit") is not None

    def refused_for(self, job: JobState) -> str:
        """The id of the running job because of which a job's script did not start its program; '' if it did."""
        return status_files.refused(self._folder(job), job.newest.scheduler_id, job.newest.token)

    def new_steps(self, job: JobState) -> list[status_files.Step]:
        """The steps of a job that runs its program in steps and that were not seen yet, in order."""
        if not self.specs[job.name].in_steps or self.number(job, "start") is None:
            return []
        return status_files.steps_after(self._folder(job), job.newest.scheduler_id, job.run.steps)

    def left_out(self, job: JobState) -> dict[str, str]:
        """The nodes that the script of a job has left out so far, each with the check that it failed, and why."""
        if not self.specs[job.name].in_steps:
            return {}
        sick = status_files.sick_nodes(self._folder(job), job.newest.scheduler_id)
        return {each.node: f"{each.check}: {each.reason}" for each in sick}

    def completed(self, job: JobState, status: JobStatus | None) -> JobStatus | None:
        """The scheduler's answer, completed by what the job left itself: how its chain has ended, and its exit code.

        The latter is used where the scheduler has lost the job or has no code, and for failures, whose code sacct
        distorts (130 shows as 2).
        """
        status = self._with_exit_code(job, status)
        chain = self.specs[job.name].chain
        if chain is None or status is None or status.scheduler_state not in ENDED:
            return status
        match self.chain_end(job):
            case status_files.ChainEnd("complete"):
                return replace(status, scheduler_state="COMPLETED", reason="", exit_code=0)
            case status_files.ChainEnd("stopped", why):
                return replace(status, scheduler_state="CANCELLED", reason=why)
            case status_files.ChainEnd("failed", why):
                return replace(status, scheduler_state="FAILED", reason=why)
        link = f"link {job.newest.task} of {chain.links}"
        if status.scheduler_state == "COMPLETED" and chain.until is not None:
            why = f"{link} has ended before {chain.until} was reached"
            status = replace(status, scheduler_state="TIMEOUT", reason=why)
        elif status.scheduler_state == "COMPLETED" and self.number(job, "exit") == 0:  # it would have ended the chain
            status = replace(status, scheduler_state="TIMEOUT", reason=f"{link} has ended at its signal")
        if status.scheduler_state == "TIMEOUT" and job.cancelled_by and (job.newest.task or 0) < chain.links:
            return replace(status, scheduler_state="CANCELLED")  # this link had ended, and its chain would have gone on
        return status

    def of_link(self, job: JobState, status: JobStatus, answers: Mapping[str, JobStatus]) -> JobStatus:
        """The answer about a link that a person has cancelled alone: its chain goes on, as after a time limit.

        `answers`: those about its later links, too.
        """
        if status.scheduler_state != "CANCELLED" or job.cancelled_by or job.restart:
            return status
        found = [answers[link] for link in job.later_links if link in answers]
        alive = any(each.scheduler_state not in (*ENDED, UNKNOWN) for each in found)
        if alive or self._later_has_begun(job):
            return replace(status, scheduler_state=_GOES_ON.scheduler_state, reason=_GOES_ON.reason)
        return status

    def overtaken(self, job: JobState) -> JobStatus | None:
        """How a link that the scheduler does not list has ended, as a later one has begun; None if none has."""
        if job.cancelled_by or job.restart or not self._later_has_begun(job):
            return None
        return JobStatus("FAILED", _LOST_LINK) if self._has_begun(job) else _GOES_ON

    def _later_has_begun(self, job: JobState) -> bool:
        paths = (self._folder(job) / f"{link}.start" for link in job.later_links)
        return any(status_files.read(path, "start", self.now()).number is not None for path in paths)

    def chain_end(self, job: JobState) -> status_files.ChainEnd | None:
        """How the job's newest link, or one before, has ended its chain; None if none has, or if it is no chain."""
        if self.specs[job.name].chain is None:
            return None
        return status_files.chain_end(self._folder(job), job.newest.token, job.newest.scheduler_id)

    def _with_exit_code(self, job: JobState, status: JobStatus | None) -> JobStatus | None:
        if status is not None and self._prolog_failed(job, status):
            reason = "the prolog of its node failed (`sinfo -R` lists drained nodes)"
            return replace(status, scheduler_state="NODE_FAIL", reason=reason, failed_nodes=status.nodes)
        lost = status is None or status.scheduler_state == UNKNOWN
        known = status is not None and (status.scheduler_state not in ENDED or status.exit_code is not None)
        if not lost and known and status is not None and status.scheduler_state != "FAILED":
            return status
        never_began = status is not None and status.reason == NEVER_BEGAN
        lost = lost or never_began
        code = self.number(job, "exit")
        if code is None:
            return None if never_began and self._has_begun(job) else status
        if lost or status is None:
            return JobStatus("COMPLETED" if code == 0 else "FAILED", "reported by the job itself", code)
        return replace(status, exit_code=code)

    def _prolog_failed(self, job: JobState, status: JobStatus) -> bool:
        """True if SLURM shows a job as cancelled that a node could not start, by what slurmd wrote to its log.

        That is so for a job that may not be requeued; sacct names the user of slurmd (22.05). A job that is held after
        a failed prolog, and then cancelled by a person, has no nodes.
        """
        unexplained = status.scheduler_state == "CANCELLED" and not status.reason and not job.cancelled_by
        if not (unexplained and status.nodes and job.logs.resolved_log_path) or self.number(job, "start") is not None:
            return False
        written, _ = read_added(job.logs.resolved_log_path, Cursor(), final=True)
        return any(line.startswith(_PROLOG_FAILED) for line in written.splitlines())

    def with_own_times(self, job: JobState, now: float) -> JobState:
        """The job with the times of its own status files, which are more precise than the times of polls."""
        start = self.number(job, "start")
        if start is None:
            return job
        newest = replace(job.newest, started_at=float(start))
        if job.state in FINAL:
            with contextlib.suppress(OSError):
                ended = min(self._path(job, "exit").stat().st_mtime, max(now, time.time()))
                newest = replace(newest, ended_at=max(float(start), ended))
        return replace(job, newest=newest)

    def _has_begun(self, job: JobState) -> bool:
        """True if a job has left traces of its beginning: a status file, or a part of its log that is not read yet."""
        if job.state == RUNNING or self.number(job, "start") is not None:
            return True
        if not job.logs.resolved_log_path:
            return False
        with contextlib.suppress(OSError):
            return Path(job.logs.resolved_log_path).stat().st_size != job.logs.cursor.offset
        return False

    def number(self, job: JobState, kind: status_files.Kind) -> int | None:
        """A number that the job's script left: when it started (seconds since 1970), or its exit code.

        What an earlier attempt left under the same id, as the scheduler began its ids anew, is not the job's.
        """
        start = status_files.read(self._path(job, "start"), "start", self.now())
        token = job.newest.token
        if token and status_files.TOKEN_AT_END.search(start.name) and not start.name.endswith(f".{token}"):
            return None
        found = start if kind == "start" else status_files.read(self._path(job, kind), kind, self.now())
        if found.wrong and found.wrong not in self.warnings[job.name]:
            self.warnings[job.name].append(found.wrong)
        return found.number

    def _folder(self, job: JobState) -> Path:
        return Path(self.specs[job.name].output_dir, MARKS)

    def _path(self, job: JobState, kind: status_files.Kind) -> Path:
        return self._folder(job) / f"{job.newest.scheduler_id}.{kind}"
