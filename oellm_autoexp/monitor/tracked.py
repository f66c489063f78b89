"""One job as the monitor knows it, and the words for its state. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oellm_autoexp.logs import Cursor
from oellm_autoexp.model import Record, Resources
from oellm_autoexp.monitor.events import Event, Pending
from oellm_autoexp.monitor.progress import Progress

WAITING, SUBMITTING, PENDING, RUNNING = "waiting", "submitting", "pending", "running"
SUCCESS, CRASH, TIMEOUT, CANCELLED = "success", "crash", "timeout", "cancelled"
PREEMPTED, NODE_FAIL, OOM = "preempted", "node_fail", "oom"
FINAL = frozenset({SUCCESS, CRASH, TIMEOUT, CANCELLED, PREEMPTED, NODE_FAIL, OOM})
"""States that a job does not leave by itself."""
IN_QUEUE = frozenset({PENDING, RUNNING})


class HistoryEntry(Record):
    """One thing that happened to a job: seconds since 1970, the state it got, and a few words."""

    at: float
    event: str
    message: str = ""


class Reading(Record):
    """The highest number that a progress rule has read, and since when none has risen.

    A number that falls begins again, `since` then and from `start`; `latest` is how far it is on that way. What falls
    to `start` or below once more goes in circles, and only a number above `value` is progress.
    """

    value: float
    since: float
    start: float | None = None
    latest: float | None = None


class Tally(Record):
    """How often an event came, and when last."""

    count: int
    last_at: float


class Run(Record):
    """An attempt that has ended, until it is known what it used: its id, its end, its seconds by our watch."""

    scheduler_id: str
    ended_at: float
    seconds: float


class Restarting(Record):
    """A new attempt that is to come, in the place of `attempt`: why, when at the earliest, and how it differs."""

    attempt: int
    cause: str
    reason: str = ""
    not_before: float = 0
    overrides: dict[str, Any] = {}
    exclude_nodes: tuple[str, ...] = ()


NEW_RUN: dict[str, Any] = {
    "verdict": "",
    "error_type": "",
    "overrules_success": False,
    "complete": False,
    "readings": {},
    "overdue": {},
    "resumed_at": None,
}
"""What is known of one run of a job alone, as it is before the next one; a job that was requeued has several."""

MOST_HISTORY = 200
"""Entries of a job's history that are kept with it, the newest; all of them are in the session's events file."""


class TrackedJob(Record):
    """What is known of one job. `scheduler_state` is the scheduler's last word, `state` what we conclude."""

    name: str
    state: str = WAITING
    reason: str = ""
    token: str = ""
    task: int | None = None
    """Its task of the array that the token stands for."""
    absent_since: float | None = None
    """Since when the scheduler, asked for the token of an unclear submission, has denied it."""
    waiting_since: float | None = None
    after: tuple[str, ...] = ()
    """Ids of the jobs whose success it awaits in the scheduler's queue."""
    scheduler_id: str = ""
    scheduler_state: str = ""
    attempt: int = 0
    runs: int = 0
    """How often it has begun to run: a requeued job keeps its id."""
    exit_code: int | None = None
    nodes: str = ""
    failed_nodes: str = ""
    resolved_log_path: str = ""
    cursor: Cursor = Cursor()
    """How far the log was read."""
    last_activity: float | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    resumed_at: float | None = None
    """When it went on, if it was suspended: what stands still is not silent."""
    ended_at: float | None = None
    missing_since: float | None = None
    retry_at: float = 0
    refusals: int = 0
    gpu_hours: float = 0
    """Really used, by all attempts that have ended but for those in `unsettled`."""
    unsettled: tuple[Run, ...] = ()
    progress: Progress = Progress()
    cursors: dict[str, Cursor] = {}
    """How far the further files (`monitoring.output_paths`) were read."""
    readings: dict[str, Reading] = {}
    overdue: dict[str, int] = {}
    """Rules of inactivity and progress whose time is up: at how many looks in a row; -1: the event has been made."""
    events: dict[str, Tally] = {}
    verdict: str = ""
    """What this run counts as, by its log, should it end badly; `error_type` is the event that said so."""
    overrules_success: bool = False
    """Whether that holds also if its exit code is 0."""
    error_type: str = ""
    complete: bool = False
    """Whether its log said that there is nothing left to do (`termination_string`)."""
    pending: tuple[Pending, ...] = ()
    unrecorded: tuple[Event, ...] = ()
    """Events that are not in the session's record yet."""
    carried_out: dict[str, float] = {}
    """When each action (`rule/number`) was last carried out."""
    cancelled_by: str = ""
    """Why it is to end for good, if we say so."""
    end_asked_at: float | None = None
    restart: Restarting | None = None
    """The new attempt that is to come."""
    restarts: dict[str, int] = {}
    """How many new attempts it has had, by cause."""
    furthest: int = -1
    """The highest iteration of its earlier attempts."""
    fruitless: int = 0
    """How many of them in a row, the last ones, got no further than those before."""
    overrides: dict[str, Any] = {}
    excluded: tuple[str, ...] = ()
    """Nodes that it must not use any more."""
    script_path: str = ""
    """The script of its next attempt, where that is not the plan's; `resources` are what that asks for."""
    script_digest: str = ""
    """SHA-256 of that script (text.digest); '' in a session of an older version."""
    resources: Resources | None = None
    history: tuple[HistoryEntry, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it: it has ended, for good, and no action of it is left."""
        return self.state in FINAL and not self.pending and self.restart is None

    @property
    def failed(self) -> bool:
        """Whether its newest attempt has ended badly; where somebody ended it, only if a rule had named its trouble."""
        at_fault = bool(self.error_type) or self.cancelled_by.startswith("given up")
        return self.state in FINAL and self.state != SUCCESS and (self.state != CANCELLED or at_fault)

    def happened(self, at: float, event: str, message: str = "", **update: Any) -> TrackedJob:
        """A copy with `update`, and one more entry in its history."""
        entry = HistoryEntry(at=at, event=event, message=message)
        return self.model_copy(update={**update, "history": (*self.history, entry)[-MOST_HISTORY:]})


def counts(jobs: Iterable[TrackedJob]) -> dict[str, int]:
    """How many jobs are in each state."""
    result: dict[str, int] = {}
    for job in jobs:
        result[job.state] = result.get(job.state, 0) + 1
    return result
