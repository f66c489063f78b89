"""The nouns that all folders share: plans and jobs, submissions, and what a scheduler reports. Frozen, plain data."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from oellm_autoexp import MANIFEST_VERSION

SESSION_VERSION = 2


class Record(BaseModel):
    """A frozen record that is stored in a file."""

    # "strings": JSON has no inf, and null would be another value
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", defer_build=True)


class Resources(Record):
    """What a job requests. `gpus` is the number on all nodes; `time_limit_seconds` None: no limit is known."""

    nodes: int = 1
    gpus: int = 0
    time_limit_seconds: int | None = None

    @property
    def gpu_hours(self) -> float | None:
        """The GPU-hours of a job that runs until its time limit; None if it has none."""
        if self.gpus == 0:
            return 0.0
        return None if self.time_limit_seconds is None else self.gpus * self.time_limit_seconds / 3600


class Estimate(Record):
    """How long a job runs by what earlier runs took, in seconds; 8 of 10 runs are expected from `low` to `high`."""

    seconds: float
    low: float
    high: float
    runs: int
    """The number of earlier attempts that it is made from."""
    scaled: bool = False
    """True if none of them had the job's sizes: their times were scaled by the operations of an iteration."""
    per_link_seconds: float = 0
    """The part of `seconds` that each attempt spends beside its iterations: start-up and end."""
    memory_gib: float | None = None
    """The most memory that a GPU held in those attempts."""


class Workload(Record):
    """What decides how long a job runs. Jobs with one `shape` and equal `sizes` are equally fast."""

    shape: str
    """A digest of all that decides the speed of the job beside `sizes`."""
    sizes: dict[str, float] = {}
    """The numbers by which times may be scaled from one job to another: sizes of the model, nodes, GPUs."""
    flops: float | None = None
    """Floating-point operations of one iteration; None: not known."""
    iterations: int | None = None
    """The iteration at which the job is done; None: the program does not count in iterations."""
    save_interval: int | None = None
    """Iterations from one checkpoint to the next."""
    gpu_memory_gib: float | None = None
    """What one GPU has (`slurm.site.gpu_memory_gib`)."""
    estimate: Estimate | None = None
    limit: str = ""
    """Where the time limit comes from if it is automatic (`slurm.sbatch.time: auto`); else ''."""


class SweepPoint(Record):
    """The point of the sweep that a job runs: its number, its name, and the values that the sweep sets."""

    index: int
    name: str
    stage: str | None
    parameters: dict[str, Any]
    coords: dict[str, Any] = {}
    """The part of `parameters` that came from a grid: the job's place in hyperparameter space."""


class Chain(Record):
    """A job as a chain: as up to `links` jobs of the scheduler, one after the other, each with its own time limit.

    `until`: the number that must be reached, by the whole number that `progress_file` begins with; None: a link that
    ends with exit code 0 completes the chain. `max_fruitless`: after so many links in a row without a higher number it
    ends.
    `progress_file` '': no number is known. While `stop_file` exists, no link begins. Paths are absolute.
    """

    links: int
    until: int | None = None
    progress_file: str = ""
    max_fruitless: int = 2
    stop_file: str


class JobSpec(SweepPoint):
    """One job, described once. Paths are absolute; `log_path` may hold SLURM's patterns (%j, %A, %a)."""

    argv: tuple[str, ...]
    env: dict[str, str]
    work_dir: str
    output_dir: str
    script_path: str
    script_digest: str = ""
    """SHA-256 of the script (text.digest); '' in a manifest of an older version, whose scripts are not checked."""
    log_path: str
    log_path_current: str
    depends_on: tuple[str, ...] = ()
    start_conditions: tuple[dict[str, Any], ...] = ()
    cancel_conditions: tuple[dict[str, Any], ...] = ()
    done_conditions: tuple[dict[str, Any], ...] = ()
    start_condition_cmd: tuple[str, ...] = ()
    """A command that must exit with 0 before the job is submitted, run every `start_condition_interval_seconds`."""
    start_condition_interval_seconds: float = 60
    inactivity_threshold_seconds: float | None = None
    resources: Resources = Resources()
    gpu_hours: float | None = None
    output_paths: tuple[str, ...] = ()
    """Further files of the job: their growth counts as activity, and rules apply to their lines."""
    streams: tuple[str, ...] = ()
    """Further files to which SLURM writes output of the job, in its notation (%j, %A, %a, %t, …)."""
    template_values: dict[str, Any] = {}
    """The values of the job's config that templates of its rules use, by dotted key."""
    monitoring: dict[str, Any] | None = None
    """The rules of the job; None: those of the plan."""
    array_group: str | None = None
    """Jobs of one group may be submitted as one array; None: the job is submitted alone."""
    in_steps: bool = False
    """Whether its script runs the program in steps, as for restarts in the job (sbatch/in_job)."""
    chain: Chain | None = None
    """How it goes on after a time limit; None: it is one job of the scheduler. `resources` are those of one link."""
    workload: Workload | None = None
    """What decides how long it runs, and how long that is; None in a manifest of an older version."""

    def last_link(self, first: int) -> int | None:
        """The last task of the array that the chain is submitted as, from its task `first`; None if it is no chain."""
        return None if self.chain is None else max(self.chain.links, first)

    @property
    def log_dirs(self) -> tuple[str, ...]:
        """The folders of the files that SLURM writes, that of the log first. SLURM does not create them."""
        folders = (path.rpartition("/")[0].replace("%%", "%") for path in (self.log_path, *self.streams))
        return tuple(dict.fromkeys(folders))


class Manifest(Record):
    """A whole plan, written once. Submission and monitoring read it, and no config."""

    version: int = MANIFEST_VERSION
    plan_id: str
    created_at: str
    project: str
    config_ref: str
    overrides: tuple[str, ...]
    base_output_dir: str
    monitoring_state_dir: str
    container: tuple[dict[str, Any], ...] | None
    """The containers of the jobs, each once: its section (`container`), and the `programs` that it must have."""
    slurm: dict[str, Any]
    scheduler: dict[str, Any]
    monitoring: dict[str, Any]
    jobs: tuple[JobSpec, ...]
    provenance: dict[str, Any]
    secrets_path: str = ""
    """The file with the values that `***` replaces; '' if there are none, or if they were put back."""


@dataclass(frozen=True)
class Submission:
    """One submission to a scheduler: one script, for one job or for the tasks of an array.

    `token` is unique to this submission; the scheduler stores it, so that the job can be found by it.
    `log_path` may hold %j, %A, %a. `array` holds task ids; at most `array_limit` of them run at the same time.
    `dependency` is that of sbatch's `--dependency` (`afterok:12:13_4`, `aftercorr:12`).
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
    """SHA-256 of the script, which is checked before it runs; '' if it is not known."""
    exclude: tuple[str, ...] = ()
    """Nodes that the job must not get, beside those that its script excludes."""


class Hold(Record):
    """That the jobs of a plan that have not begun are held, and why. `fingerprint` '': nothing is held.

    `asked`: the scheduler was asked to hold those in its queue. `released`: fingerprints of failures for which a person
    has let them go, and how many jobs had each by then.
    """

    fingerprint: str = ""
    reason: str = ""
    asked: bool = False
    released: dict[str, int] = {}

    @field_validator("released", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        """Earlier versions kept fingerprints alone, and held for none of them again."""
        return dict.fromkeys(value, sys.maxsize) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Usage:
    """What one run of a job used: seconds, and GPUs (None: the scheduler does not count them)."""

    seconds: float
    gpus: int | None = None


@dataclass(frozen=True)
class JobStatus:
    """What a scheduler reports of a job, in SLURM's words (`RUNNING`, …). Exit codes are those of a shell."""

    scheduler_state: str
    reason: str = ""
    exit_code: int | None = None
    nodes: str = ""
    log_path: str = ""
    failed_nodes: str = ""
    """Those of `nodes` whose failure ended the job (`NODE_FAIL`), joined by commas; '' if they are not known."""
    out_of_memory: bool = False
    """Whether a step of the job (srun) ran out of memory, whatever the exit code of its script."""
    restarts: int | None = None
    """How often the scheduler has restarted the job under the same id (squeue(1), restartcnt); None: not known."""
    batch_host: str = ""
    """The node on which the script of a running job was begun, also where it is none of `nodes` any more (--no-kill);
    '' if that is not known."""


@dataclass(frozen=True)
class Series:
    """The points of one metric, in the order in which they were read; the columns are equally long.

    `headless`: the attempts whose first points are missing, as only a part of the series was read.
    """

    iterations: Sequence[int]
    times: Sequence[float]
    values: Sequence[float]
    attempts: Sequence[int]
    headless: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.values)

    def current(self) -> Series:
        """Without the points that newer ones replace, so that the iterations rise.

        A run that goes on from a checkpoint repeats iterations: a point replaces all before it of its iteration and of
        later ones.
        """
        if all(map(operator.lt, self.iterations, self.iterations[1:])):
            return self
        kept: list[int] = []
        for number, iteration in enumerate(self.iterations):
            while kept and self.iterations[kept[-1]] >= iteration:
                kept.pop()
            kept.append(number)
        return Series(
            [self.iterations[number] for number in kept],
            [self.times[number] for number in kept],
            [self.values[number] for number in kept],
            [self.attempts[number] for number in kept],
        )


NEVER_BEGAN = "cancelled before it began"
"""The reason of a job that is CANCELLED while the scheduler names no user who cancelled it. Files of the job itself (a
log, an exit code) count more: accounting reports the jobs of a controller that lost its state in the same way."""
