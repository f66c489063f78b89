"""A monitor as a job of its own: handed over through submitit, once, and remembered in its folder.

The folder `<name>.detached` in a state directory holds `monitor.json` (which job it is) and submitit's files: the
script, the pickled call, its result, and one log per job. It has no place among the directory's `*.json`: those are
sessions.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, ValidationError
from submitit import Job, SlurmExecutor, SlurmJob

from oellm_autoexp.core.errors import ConfigError, CorruptError, Problem, SchedulerError, SubmitError, UnreachableError
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import Record, Submission
from oellm_autoexp.core.states import ENDED, UNKNOWN
from oellm_autoexp.core.text import did_you_mean, scalar
from oellm_autoexp.engine import pickled
from oellm_autoexp.sbatch.times import parse_time
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.schedulers.local.scheduler import LocalScheduler
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import read_json, write_atomic
from oellm_autoexp.storage.lock import Holder, locked
from oellm_autoexp.storage.session_files import SessionFiles

Executor = Literal["slurm", "local"]
RECORD_VERSION = 1
WHERE = CONFIG / "monitoring.detach"
LEAD = "requeue_seconds_before_end"
OPTIONS = (
    "account",
    "constraint",
    "cpus_per_task",
    "exclude",
    "licenses",
    "mail_type",
    "mail_user",
    "mem",
    "mem_per_cpu",
    "nice",
    "nodelist",
    "partition",
    "qos",
    "reservation",
    "time",
)
"""The options of sbatch that a monitor's job may be given."""
DEFAULTS: Mapping[str, Any] = {"time": "12:00:00", "cpus_per_task": 1, LEAD: 120}
_OF_THE_PLAN = ("account", "partition", "qos")
_EARLY_SECONDS = 60  # sbatch(1), --signal: it may come up to 60 seconds earlier than asked for
_MOST_DIGITS = 10  # of a process's number
_REQUEUES = 1_000_000  # submitit counts them; the session's end is what ends it


@dataclass(frozen=True)
class Wishes:
    """What a monitor's job asks of SLURM: options by the long names of sbatch, and times in seconds."""

    options: Mapping[str, str]
    limit_seconds: int
    lead_seconds: int
    """How long before the limit it requeues itself."""

    @classmethod
    def of(cls, section: Mapping[str, Any], asked_by_jobs: Mapping[str, str]) -> Wishes:
        """By the section `monitoring.detach`, over what the plan's jobs ask for and the defaults.

        null leaves an option out. Raises ConfigError for keys that are none, and for times that can't be.
        """
        own = {str(key).replace("-", "_"): value for key, value in section.items()}
        problems = [Problem(f"'{key}' is not an option here", WHERE / key, _valid(key)) for key in _unknown(own)]
        problems += [
            Problem("must be one value, or a list of values", WHERE / key)
            for key, value in own.items()
            if isinstance(value, Mapping | bool)
        ]
        if problems:
            raise ConfigError(*problems)
        of_the_plan = {key: asked_by_jobs[key] for key in _OF_THE_PLAN if asked_by_jobs.get(key)}
        wanted = {**DEFAULTS, **of_the_plan, **own}
        lead = wanted.pop(LEAD)
        limit = _limit_seconds(wanted.pop("time"))
        if not isinstance(lead, int) or not 1 <= lead <= limit - _EARLY_SECONDS:
            hint = (
                f"1 to {limit - _EARLY_SECONDS}: SLURM may be {_EARLY_SECONDS} s early, and the time limit is {limit} s"
            )
            raise ConfigError(Problem(f"{lead!r} can't be", WHERE / LEAD, hint))
        options = {key.replace("_", "-"): _text(value) for key, value in wanted.items() if value is not None}
        return cls(options, limit, lead)


def _unknown(section: Mapping[str, Any]) -> list[str]:
    return [key for key in section if key not in (*OPTIONS, LEAD)]


def _valid(key: str) -> str:
    known = (*OPTIONS, LEAD)
    near = did_you_mean(key, known)
    return f"{near}; valid: {', '.join(known)}" if near else f"valid: {', '.join(known)}"


def _limit_seconds(value: Any) -> int:
    where = WHERE / "time"
    try:
        seconds = parse_time(value) if isinstance(value, str | int) else None
    except ConfigError as error:
        raise ConfigError(*(Problem(p.what, where, p.hint) for p in error.problems)) from None
    if seconds is None or seconds <= _EARLY_SECONDS:
        hint = f"over {_EARLY_SECONDS} s, e.g. {DEFAULTS['time']}: before it the job requeues itself"
        raise ConfigError(Problem(f"{value!r}: a monitor's job needs a time limit", where, hint))
    return seconds


def _text(value: Any) -> str:
    return ",".join(map(scalar, value)) if isinstance(value, list | tuple) else scalar(value)


class Handed(Record):
    """What `monitor.json` says: which job the monitor is. `job_id` is '' until the scheduler has answered."""

    version: int = RECORD_VERSION
    executor: Executor
    token: str
    job_id: str = ""
    at: FiniteFloat
    """When it was handed over, in seconds since 1970."""


@dataclass(frozen=True)
class Standing:
    """A detached monitor: its job, the scheduler's word for the job's state, and whether it was submitted just now."""

    executor: Executor
    job_id: str
    state: str
    log: Path
    fresh: bool


class Detached:
    """The detached monitor `name` (a plan's id) of a state directory. `slurm` None: there is none to ask."""

    def __init__(self, directory: Path, name: str, slurm: Scheduler | None) -> None:
        self.directory = directory
        self.name = name
        self.folder = folder(directory, name)
        self._slurm = slurm

    def standing(self) -> Standing | None:
        """The monitor that is queued or runs; None if there is none.

        Raises SchedulerError if that can't be determined, CorruptError if the record can't be read.
        """
        handed = self.recorded()
        if handed is None:
            return None
        client = self._client(handed.executor)
        job = handed.job_id or client.find([self._submission(handed.token)]).get(handed.token, "")
        if not job:
            left = handed.at + client.settle_seconds - time.time()
            if left <= 0:
                return None
            what = "it is not clear yet whether a monitor was submitted"
            raise SchedulerError(Problem(what, str(self._record), f"ask again in {math.ceil(left)} s"))
        status = client.poll({job: handed.token}).get(job)
        if status is None or status.scheduler_state in ENDED:
            return None
        if handed.executor == "local" and (self.folder / f"{job}_0_result.pkl").exists():
            return None  # it has done its work, and its process is about to end
        if status.scheduler_state == UNKNOWN:
            raise SchedulerError(Problem(f"can't determine the state of monitor job {job}: {status.reason}"))
        return Standing(handed.executor, job, status.scheduler_state, self.log(job), fresh=False)

    def hand_over(
        self,
        executor: Executor,
        call: Callable[[], Any],
        wishes: Wishes | None,
        work_dir: str,
        free: Callable[[], None],
    ) -> Standing:
        """The monitor that stands, or a new one: a job that makes `call`, which has submitit's `checkpoint`.

        `wishes` are for SLURM. `free` raises LockedError if somebody watches already.
        Raises what it raises, SubmitError if the job was refused, SchedulerError if that is not clear.
        """
        check_directory(self.directory)
        trust.private_folder(self.folder)
        with locked(self.folder / "lease", f"the monitor of {self.name}", waiting=logging.getLogger(__name__).warning):
            if (standing := self.standing()) is not None:
                return standing
            free()
            handed = Handed(executor=executor, token=secrets.token_hex(8), at=time.time())
            self._write(handed)
            submission = self._submission(handed.token, work_dir)
            submitter = _Submitter(self.folder, self._client(executor), submission, wishes)
            try:
                job = submitter.submit(call)
            except (SubmitError, UnreachableError):
                self._record.unlink()
                raise
            self._write(handed.model_copy(update={"job_id": job.job_id}))
            return Standing(executor, job.job_id, "PENDING", self.log(job.job_id), fresh=True)

    def await_process(self, job: str, patience_seconds: float) -> tuple[int, str] | None:
        """Process and host of a local monitor, as soon as it has begun (`leave_process`); None if it does not begin."""
        until = time.monotonic() + patience_seconds
        while True:
            if (process := self.process(job)) is not None:
                return process
            status = self._client("local").poll({job: ""}).get(job)
            if status is None or status.scheduler_state in ENDED or time.monotonic() >= until:
                return None
            time.sleep(0.1)

    def process(self, job: str) -> tuple[int, str] | None:
        """Process and host of a monitor's job, from when it has begun (`leave_process`). Raises StateError."""
        try:
            return _process(self.folder / f"{job}.pid")
        except OSError:
            return None

    def _client(self, executor: Executor) -> Scheduler:
        if executor == "local":
            return LocalScheduler(self.folder / "local", 1)
        if self._slurm is None:
            raise UnreachableError(Problem("the sessions here use no SLURM: its monitor job can't be asked about"))
        return self._slurm

    def _submission(self, token: str, work_dir: str = "") -> Submission:
        script = self.folder / f"{token}.sh"
        return Submission(token, f"monitor-{self.name}", str(script), work_dir, str(self.log("%j")))

    def log(self, job: str) -> Path:
        """The log of a monitor's job."""
        return self.folder / f"{job}_0_log.out"

    @property
    def _record(self) -> Path:
        return self.folder / "monitor.json"

    def recorded(self) -> Handed | None:
        """What `monitor.json` says; None if there is none. Raises CorruptError."""
        if not self._record.exists():
            return None
        data = read_json(self._record, "detached monitor", RECORD_VERSION, most=trust.LINE, root=self.directory)
        try:
            return Handed.model_validate(data)
        except ValidationError as error:
            what = f"not a whole record: {str(error).splitlines()[0]}"
            raise CorruptError(Problem(what, str(self._record), "remove it, if no monitor runs")) from None

    def _write(self, handed: Handed) -> None:
        write_atomic(self._record, handed.model_dump_json(indent=1, by_alias=True) + "\n")


def of_process(directory: Path, name: str, process: Holder) -> Standing | None:
    """The detached monitor `name`, if this process is it; by its files alone. Raises CorruptError."""
    monitor = Detached(directory, name, None)
    handed = monitor.recorded()
    if handed is None or not handed.job_id or monitor.process(handed.job_id) != (process.pid, process.host):
        return None
    return Standing(handed.executor, handed.job_id, "RUNNING", monitor.log(handed.job_id), fresh=False)


def _process(path: Path) -> tuple[int, str]:
    """What `leave_process` left. Raises CorruptError, StateError."""
    pid, _, host = trust.read(path, most=trust.SMALL).decode(errors="replace").strip().partition(" ")
    if not (pid.isascii() and pid.isdecimal() and len(pid) <= _MOST_DIGITS):
        raise CorruptError(Problem("this is not a process and its host", str(path), "remove it, if no monitor runs"))
    return int(pid), host


def folder(directory: Path, name: str) -> Path:
    """`<monitoring_state_dir>/<name>.detached`."""
    return SessionFiles.named(directory, name).detached


def check_directory(directory: Path) -> None:
    """Raise ConfigError if submitit's files could not be in a folder of this state directory."""
    if "%" in str(directory.absolute()):
        hint = "choose a project.monitoring_state_dir without it"
        raise ConfigError(Problem("submitit would read the % in this path as a pattern", str(directory), hint))


def leave_process(path: Path, host: str) -> None:
    """In the monitor's job: leave this process's number, and its host, for `await_process`."""
    write_atomic(path / f"{os.environ['SLURM_JOB_ID']}.pid", f"{os.getpid()} {host}\n", sync=False)


def check_command(words: Sequence[str]) -> None:
    """Raise UnreachableError if the command that submits to SLURM is not on this machine."""
    if shutil.which(words[0]) is None:
        hint = "log in where it is, or choose --detach local"
        raise UnreachableError(Problem(f"there is no {words[0]} here, so no monitor can be detached", "--detach", hint))


class _Submitter(SlurmExecutor):
    """submitit's executor, with a scheduler of ours as the one that takes the script.

    It cleans the environment of the surrounding job's variables, has a time limit, says clearly whether it was refused,
    and finds the job again by its token. With the embedded scheduler it serves for `local`, too: the processes of
    submitit's LocalExecutor stay in the terminal's session (its hang-up or Ctrl-C would end them), and its timer needs
    a time limit.
    """

    def __init__(self, directory: Path, client: Scheduler, submission: Submission, wishes: Wishes | None) -> None:
        super().__init__(directory, max_num_timeout=_REQUEUES)
        self._client = client
        self._submission = submission
        options = dict(wishes.options) if wishes else {}
        self.update_parameters(
            job_name=submission.name,
            nodes=1,
            ntasks_per_node=1,
            time=math.ceil(wishes.limit_seconds / 60) if wishes else 1,  # minutes; the embedded scheduler has no limit
            signal_delay_s=wishes.lead_seconds if wishes else 0,
            wckey=None,  # submitit's own would be refused where sites keep a list
            stderr_to_stdout=True,
            use_srun=wishes is not None,  # --signal goes to job steps
            additional_parameters={**options, "requeue": True, "chdir": submission.work_dir},
        )

    @property
    def _submitit_command_str(self) -> str:
        return pickled.command(self.folder)

    @classmethod
    def affinity(cls) -> int:
        """The scheduler has been chosen: its commands may be reached otherwise than by the PATH of this machine."""
        return 2

    def _submit_command(self, command: str) -> Job[Any]:
        script = Path(self._submission.script_path)
        write_atomic(script, self._make_submission_file_text(command, self._submission.token), 0o600)
        return SlurmJob(folder=self.folder, job_id=self._client.submit(self._submission), tasks=[0])
