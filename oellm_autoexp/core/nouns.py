"""The nouns that cross rooms: what a plan is, what is submitted, what is seen of it. Frozen, plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from oellm_autoexp import MANIFEST_VERSION

SESSION_VERSION = 1


class Record(BaseModel):
    """A frozen record that is kept in a file."""

    # "strings": JSON has no inf, and null would be another value
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Resources(Record):
    """What a job asks of the scheduler. `gpus` counts all nodes; `time_limit_seconds` None means no limit known."""

    nodes: int = 1
    gpus: int = 0
    time_limit_seconds: int | None = None

    @property
    def gpu_hours(self) -> float | None:
        """The most GPU-hours that the job can use; None if it has no time limit."""
        if self.gpus == 0:
            return 0.0
        return None if self.time_limit_seconds is None else self.gpus * self.time_limit_seconds / 3600


class JobSpec(Record):
    """One job, described once. Paths are absolute; `log_path` may hold SLURM's patterns (%j, %A, %a)."""

    index: int
    name: str
    stage: str | None
    parameters: dict[str, Any]
    coords: dict[str, Any] = {}
    """The part of `parameters` that came from a grid: the job's place in hyperparameter space."""
    argv: tuple[str, ...]
    env: dict[str, str]
    work_dir: str
    output_dir: str
    script_path: str
    script_digest: str = ""
    """SHA-256 of the script (text.digest); '' in a manifest of an older version, whose scripts are not compared."""
    log_path: str
    log_path_current: str
    depends_on: tuple[str, ...] = ()
    start_conditions: tuple[dict[str, Any], ...] = ()
    cancel_conditions: tuple[dict[str, Any], ...] = ()
    done_conditions: tuple[dict[str, Any], ...] = ()
    start_condition_cmd: tuple[str, ...] = ()
    """A command that must exit with 0 before the job is submitted, asked every `start_condition_interval_seconds`."""
    start_condition_interval_seconds: float = 60
    inactivity_threshold_seconds: float | None = None
    resources: Resources = Resources()
    gpu_hours: float | None = None
    output_paths: tuple[str, ...] = ()
    """More files whose growth counts as activity and whose lines the rules see."""
    streams: tuple[str, ...] = ()
    """Files beside the log that SLURM writes what the job prints to, in its notation (%j, %A, %a, %t, …)."""
    template_values: dict[str, Any] = {}
    """The values of the job's config that templates of its rules name, by dotted key."""
    monitoring: dict[str, Any] | None = None
    """Its rules, where they are not the plan's."""
    array_group: str | None = None
    """Jobs with the same word may be submitted as one array; None: singly."""

    @property
    def log_dirs(self) -> tuple[str, ...]:
        """The folders of the files that SLURM writes, and makes none of; that of the log first."""
        folders = (path.rpartition("/")[0].replace("%%", "%") for path in (self.log_path, *self.streams))
        return tuple(dict.fromkeys(folders))


class Manifest(Record):
    """A whole plan, written once. Submission and monitoring read this and no config."""

    version: int = MANIFEST_VERSION
    plan_id: str
    created_at: str
    project: str
    config_ref: str
    overrides: tuple[str, ...]
    base_output_dir: str
    monitoring_state_dir: str
    container: tuple[dict[str, Any], ...] | None
    """What the jobs run in, each kind once: its section (`container`), and the `programs` that it must have."""
    slurm: dict[str, Any]
    scheduler: dict[str, Any]
    monitoring: dict[str, Any]
    jobs: tuple[JobSpec, ...]
    provenance: dict[str, Any]
    secrets_path: str = ""
    """The file with the values in whose places `***` stands; '' where there are none, or they have been read."""


@dataclass(frozen=True)
class Submission:
    """What is handed to a scheduler once: one script, for one job or for the tasks of an array.

    `token` is unique to this submission and travels with it, so that it can be found again.
    `log_path` may hold %j, %A, %a; `array` holds task ids, `array_limit` how many of them may run at once; `dependency`
    is what it waits for in the queue, as in `--dependency` (`afterok:12:13_4`, `aftercorr:12`).
    """

    token: str
    name: str
    script_path: str
    work_dir: str
    log_path: str
    time_limit_seconds: float | None = None
    array: tuple[int, ...] = ()
    array_limit: int | None = None
    dependency: str = ""
    script_digest: str = ""
    """SHA-256 of the script, which is compared before it runs; '' where it is not known."""


@dataclass(frozen=True)
class Usage:
    """What one run of a job has used: seconds, and the GPUs that it held (None: the scheduler keeps no count)."""

    seconds: float
    gpus: int | None = None


@dataclass(frozen=True)
class JobStatus:
    """What a scheduler said of a job, in SLURM's words (`RUNNING`, `COMPLETED`, …). Exit codes as a shell sees them."""

    scheduler_state: str
    reason: str = ""
    exit_code: int | None = None
    nodes: str = ""
    log_path: str = ""
    failed_nodes: str = ""
    """Those of `nodes` whose failure ended the job (`NODE_FAIL`), as far as the scheduler tells; joined by commas."""
    out_of_memory: bool = False
    """Whether one of its steps (srun) ran out of memory, whatever its script made of that."""
    restarts: int | None = None
    """How often the scheduler has begun it again under the same id (squeue(1), restartcnt); None: not known."""


NEVER_BEGAN = "cancelled before it began"
"""The reason of a job that counts as CANCELLED though the scheduler names no user who cancelled it. What the job itself
has left (a log, an exit code) knows better: accounts end so, too, the jobs of a controller that has lost its state."""
