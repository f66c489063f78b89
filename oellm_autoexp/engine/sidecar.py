"""Actions as jobs of their own, through submitit: handed over once, asked after, never waited for.

submitit writes the script, the pickled call and its result, all in `<queue id>.submitit/` beside the entry; a scheduler
of ours takes the script, so that a job is found again by its token.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submitit import DebugExecutor, Job, SlurmExecutor, SlurmJob
from submitit.core.utils import JobPaths

from oellm_autoexp.core.errors import ConfigError, CorruptError, Problem, SchedulerError
from oellm_autoexp.core.nouns import Manifest, Submission
from oellm_autoexp.core.states import ENDED, UNKNOWN
from oellm_autoexp.core.text import scalar
from oellm_autoexp.engine import pickled
from oellm_autoexp.rules.actions import Executor, Program
from oellm_autoexp.sbatch.directives import SECTION, directives
from oellm_autoexp.sbatch.times import parse_time
from oellm_autoexp.schedulers.base import Scheduler, client_of, make_scheduler
from oellm_autoexp.schedulers.local.scheduler import LocalScheduler
from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler
from oellm_autoexp.session.queue_entry import Sidecar
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic
from oellm_autoexp.storage.world import Outcome, Subprocess

_POLL_SECONDS = 0.2
_RESULT_LAG_SECONDS = 20.0
"""So long the result of a job that has ended may take to show up, on a file system that is shared."""
_HEX_OF_UUID = 32  # so submitit names the file of a call until the job has its id
_SPARE_MINUTES = 5
_USUAL_MINUTES = 60
_SUBMITITS_OWN = frozenset({"array", "error", "job_name", "output", "open_mode", "signal", "wckey"})


class Call:
    """What the job runs: a program, to its end. Pickled by submitit; returns exit code and message of an Outcome."""

    def __init__(self, launch: Program, log_path: Path) -> None:
        self._launch = launch
        self._log_path = log_path
        self._python_path = os.environ.get("PYTHONPATH")

    def __call__(self) -> tuple[int | None, str]:
        """Run it."""
        os.environ.pop("PYTHONPATH", None)  # ours, by which this class was found
        if self._python_path is not None:
            os.environ["PYTHONPATH"] = self._python_path
        program = _started(self._launch, self._log_path)
        try:
            while (outcome := program.poll()) is None:
                time.sleep(_POLL_SECONDS)
        finally:
            program.give_up()
        return outcome.code, outcome.message


def _started(launch: Program, log_path: Path) -> Subprocess:
    """A program, started, whose output is appended to a log."""
    return Subprocess(
        launch.words,
        cwd=launch.cwd or Path.cwd(),
        env=launch.env,
        log_path=log_path,
        timeout_seconds=launch.timeout_seconds,
        text=launch.text,
    )


class SidecarJob:
    """The job of one entry, under `folder`."""

    def __init__(self, folder: Path, name: str, executor: Executor, manifest: Manifest) -> None:
        self._folder = folder
        self._name = name
        self._executor = executor
        self._work_dir = str(manifest.provenance.get("work_dir") or manifest.base_output_dir)
        self._client = self._make_client(manifest)
        self._ended_at: float | None = None

    def _make_client(self, manifest: Manifest) -> Scheduler:
        if self._executor.cluster == "local":
            return LocalScheduler(self._folder / "local", 1)
        on_slurm = client_of(manifest).is_slurm
        return make_scheduler(manifest) if on_slurm else SlurmScheduler()

    @property
    def poll_seconds(self) -> float:
        """How often to ask after it."""
        return min(self._client.poll_interval_seconds, 10.0)

    def run_inside(self, call: Call) -> Outcome:
        """The call made in this process, through submitit's executor for that."""
        job = DebugExecutor(self._made_folder()).submit(call)
        # Asked for its result, the job itself would open a debugger at the terminal if the call fails.
        return Outcome(*job.submission().result())

    def submit(self, call: Call, token: str, timeout_seconds: float | None) -> str:
        """Hand it to the scheduler; returns the job's id.

        Raises ConfigError for options that can't be, SubmitError if it was refused, SchedulerError if nothing is known.
        """
        submitter = _Submitter(self._made_folder(), self._client, self._submission(token), self._executor)
        submitter.ask_for(timeout_seconds)
        return submitter.submit(call).job_id

    def find(self, sidecar: Sidecar) -> str | None:
        """The id of a job that may have been submitted: '' if it surely was not, None if that is not clear yet.

        Raises SchedulerError.
        """
        found = self._client.find([self._submission(sidecar.token)]).get(sidecar.token)
        if found:
            self._hand_call_to(found)
            return found
        return None if time.time() < sidecar.at + self._client.settle_seconds else ""

    def _hand_call_to(self, job_id: str) -> None:
        """Write the call of a job whose submitter died between `sbatch` and writing it; submitit writes it last."""
        wanted = JobPaths(self._folder, job_id=job_id).submitted_pickle
        calls = [path for path in self._folder.glob("*.pkl") if len(path.stem) == _HEX_OF_UUID]
        if calls and not wanted.exists():
            os.replace(max(calls, key=lambda path: path.stat().st_mtime), wanted)

    def outcome(self, job_id: str, token: str) -> Outcome | None:
        """How the job's program ended; None while it goes on. Raises SchedulerError."""
        result = JobPaths(self._folder, job_id=job_id, task_id=0).result_pickle
        if result.exists():
            return _outcome(result)
        status = self._client.poll({job_id: token}).get(job_id)
        if status is not None and status.scheduler_state == UNKNOWN:
            raise SchedulerError(Problem(f"can't determine the state of job {job_id}: {status.reason}"))
        if status is not None and status.scheduler_state not in ENDED:
            self._ended_at = None
            return None
        now = time.monotonic()
        self._ended_at = self._ended_at or now
        os.listdir(self._folder)  # lets a network file system look again
        if now - self._ended_at < _RESULT_LAG_SECONDS:
            return _outcome(result) if result.exists() else None
        how = "is not known to the scheduler any more" if status is None else f"ended ({status.scheduler_state})"
        return Outcome(None, f"job {job_id} {how} and left no result; see {self._folder}")

    def _submission(self, token: str) -> Submission:
        script = self._folder / f"{token}.sh"
        log = str(self._folder / "%j_0_log.out")
        return Submission(token, f"action-{self._name}", str(script), self._work_dir, log)

    def _made_folder(self) -> Path:
        if "%" in str(self._folder):
            hint = "choose a project.monitoring_state_dir without it"
            raise ConfigError(Problem("submitit would read the % in this path as a pattern", str(self._folder), hint))
        trust.private_folder(self._folder)
        return self._folder


def _outcome(result: Path) -> Outcome:
    """What submitit's result file says. Raises StateError, CorruptError."""
    try:
        kind, value = pickled.load(result)
        if kind == "success":
            code, message = value
            return Outcome(code if code is None else int(code), str(message))
    except (TypeError, ValueError):
        raise CorruptError(Problem("this is not the result of a job", str(result))) from None
    lines = str(value).strip().splitlines()
    return Outcome(None, lines[-1] if lines else "the job failed")


class _Submitter(SlurmExecutor):
    """submitit's executor, with a scheduler of ours as the one that takes the script (SLURM's, or the embedded one)."""

    def __init__(self, folder: Path, client: Scheduler, submission: Submission, executor: Executor) -> None:
        super().__init__(folder)
        self._client = client
        self._submission = submission
        self._asked = executor

    @property
    def _submitit_command_str(self) -> str:
        return pickled.command(self.folder)

    @classmethod
    def affinity(cls) -> int:
        """The scheduler has been chosen: its commands may be reached otherwise than by the PATH of this machine."""
        return 2

    def ask_for(self, timeout_seconds: float | None) -> None:
        """Set the job's options: submitit's parameters where it has them, else as they are. Raises ConfigError."""
        options = {str(key).replace("-", "_"): value for key, value in self._asked.sbatch.items()}
        _check(options, self._submission)
        wanted = {key: _value(value) for key, value in options.items() if value is not None and value is not False}
        known = {key: value for key, value in wanted.items() if key in self._valid_parameters() and key != "time"}
        more = {key.replace("_", "-"): value for key, value in wanted.items() if key not in known and key != "time"}
        if not {"requeue", "no-requeue"} & more.keys():
            more["no-requeue"] = True  # what an action has done may be done already
        self.update_parameters(
            **known,
            job_name=self._submission.name,
            time=_minutes(options.get("time"), timeout_seconds),
            wckey=None,  # submitit's own would be refused where sites keep a list
            stderr_to_stdout=True,
            use_srun=False,  # one program, run once, which may submit and start steps itself
            additional_parameters={**more, "chdir": self._submission.work_dir},
        )

    def _submit_command(self, command: str) -> Job[Any]:
        script = Path(self._submission.script_path)
        write_atomic(script, self._make_submission_file_text(command, self._submission.token), 0o600)
        return SlurmJob(folder=self.folder, job_id=self._client.submit(self._submission), tasks=[0])


def _check(options: Mapping[str, Any], submission: Submission) -> None:
    """Raise ConfigError for options that no directive can hold, or that are submitit's own."""
    problems = [
        Problem(f"'{key}' is set by the program", f"executor.sbatch.{key}") for key in _SUBMITITS_OWN & {*options}
    ]
    if problems:
        raise ConfigError(*problems)
    try:
        directives(options, (), name=submission.name, log_path=submission.log_path, work_dir=submission.work_dir)
    except ConfigError as error:
        own = {SECTION / key: f"executor.sbatch.{key}" for key in options}
        raise ConfigError(*(Problem(p.what, own.get(p.where, p.where), p.hint) for p in error.problems)) from None


def _value(value: Any) -> Any:
    """An option's value for submitit: numbers and true as they are, a list joined by commas."""
    return ",".join(map(scalar, value)) if isinstance(value, list | tuple) else value


def _minutes(time_limit: Any, timeout_seconds: float | None) -> int:
    """The job's time limit: as asked for, else a little more than its program may take."""
    if time_limit is not None:
        seconds = parse_time(time_limit if isinstance(time_limit, str | int) else str(time_limit))
        if seconds is not None:
            return max(1, math.ceil(seconds / 60))
    return _USUAL_MINUTES if timeout_seconds is None else math.ceil(timeout_seconds / 60) + _SPARE_MINUTES
