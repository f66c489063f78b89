"""One job as the monitor knows it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oellm_autoexp.core.nouns import Record, Resources
from oellm_autoexp.core.states import CANCELLED, FINAL, SUCCESS, WAITING
from oellm_autoexp.rules.events import Deadline, Event, Pending
from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.storage.log_tail import Cursor

BY_HAND = "by hand"
"""The cause of a new attempt that a person asked for."""


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


class Still(Record):
    """Since when something stands as `mark` says, by the session's clock (see session/silence.py)."""

    mark: str
    since: float


class Tally(Record):
    """How often an event came, and when last."""

    count: int
    last_at: float


class Run(Record):
    """An attempt that has ended, until it is known what it used: its id, its end, its seconds by our watch."""

    scheduler_id: str
    ended_at: float
    seconds: float
    token: str = ""


class Earlier(Record):
    """An attempt that has ended and has a newer one in its place: its id, its token, and how often it was requeued."""

    scheduler_id: str
    token: str = ""
    requeues: int | None = None
    alive: bool = False
    """Whether the scheduler lists it as not ended all the same: somebody had it begun again (`scontrol requeue`)."""
    vanished: bool = False
    """Whether its end was concluded from the scheduler's silence alone."""
    end_asked_at: float | None = None


class Restarting(Record):
    """A new attempt that is to come, in the place of `attempt`: why, when at the earliest, and how it differs."""

    attempt: int
    cause: str
    reason: str = ""
    not_before: float = 0
    overrides: dict[str, Any] = {}
    exclude_nodes: tuple[str, ...] = ()

    @property
    def by_hand(self) -> bool:
        """Whether a person asked for it."""
        return self.cause == BY_HAND


class Before(Record):
    """What a job was when its last attempt had ended, while the next one is not submitted: `restart` was to come."""

    state: str
    attempt: int
    scheduler_id: str
    token: str
    task: int | None
    requeues: int | None
    restart: Restarting
    overrides: dict[str, Any]
    excluded: tuple[str, ...]
    furthest: int
    fruitless: int


NEW_RUN: dict[str, Any] = {
    "verdict": "",
    "error_type": "",
    "overrules_success": False,
    "complete": False,
    "not_restarted": "",
    "readings": {},
    "overdue": {},
    "resumed_at": None,
    "last_activity": None,
    "slow": {},
}
"""What is known of one run of a job alone, as it is before the next one; a job that was requeued has several."""

GONE_LOOKS = 3
"""A job that vanished is surely gone when the scheduler has said so at so many looks after it was cancelled."""
ENOUGH_SLOW = 3
"""Pieces of a job's log for which a rule's pattern may take too long before the rule is switched off for the job."""
MOST_EARLIER = 20
"""Earlier attempts that are kept with a job, the newest. SLURM can requeue a job for MinJobAge (slurm.conf(5))."""
MOST_HISTORY = 200
"""Entries of a job's history that are kept with it, the newest; all of them are in the session's events file."""


class JobState(Record):
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
    deadline: Deadline | None = None
    """Of a job that is not in the queue: when its wait ends at the latest, or it is tried again."""
    files_missing_since: float | None = None
    """Since when it can't be submitted because its script or its working directory is not there."""
    after: tuple[str, ...] = ()
    """Ids of the jobs whose success it awaits in the scheduler's queue."""
    scheduler_id: str = ""
    scheduler_state: str = ""
    attempt: int = 0
    runs: int = 0
    """How often it has begun to run: a requeued job keeps its id."""
    exit_code: int | None = None
    out_of_memory: bool = False
    """Whether the scheduler said that a step of it ran out of memory."""
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
    """Since when an answering scheduler does not know it and nothing shows that it runs, by the session's clock."""
    vanished: bool = False
    """Whether its end was concluded from that alone: it may still run."""
    gone_looks: int = 0
    """At how many looks since it was cancelled the scheduler said that it is gone."""
    requeues: int | None = None
    """The scheduler's count of its restarts under this id, as it was told last."""
    late_until: float | None = None
    """Until when its logs are read on although it has ended, by the session's clock; None: no more."""
    problem: str = ""
    """What keeps it from being watched in full, as of the last look; '' if nothing does."""
    retry_at: float = 0
    refusals: int = 0
    gpu_hours: float = 0
    """Really used, by all attempts that have ended but for those in `unsettled`."""
    unsettled: tuple[Run, ...] = ()
    earlier: tuple[Earlier, ...] = ()
    """Its last attempts before the present one (see MOST_EARLIER)."""
    before: Before | None = None
    """Its last attempt, while the next one waits to be submitted: it is kept if it is begun again until then."""
    begun_again_at: float | None = None
    """When the scheduler was last seen to have begun it again: what its earlier runs called for is past."""
    progress: Progress = Progress()
    cursors: dict[str, Cursor] = {}
    """How far the further files (`monitoring.output_paths`) were read."""
    readings: dict[str, Reading] = {}
    still: dict[str, Still] = {}
    """Since when its logs ('') and the number of each progress rule (its name) are as they are."""
    overdue: dict[str, int] = {}
    """Rules of inactivity and progress whose time is up: at how many looks in a row; -1: the event has been made."""
    slow: dict[str, int] = {}
    """Rules whose patterns took too long: for how many pieces of this run's log."""
    events: dict[str, Tally] = {}
    verdict: str = ""
    """What this run counts as, by its log, should it end badly; `error_type` is the event that said so."""
    overrules_success: bool = False
    """Whether that holds also if its exit code is 0."""
    error_type: str = ""
    complete: bool = False
    """Whether its log said that there is nothing left to do (`termination_string`)."""
    not_restarted: str = ""
    """Why the new attempt that was asked for last can't be made; empty where none failed."""
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
    secrets: dict[str, str] = {}
    """In a file: the places of this record whose values are in the session's secrets, with their ids there."""
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
        """Whether nothing more becomes of it: it has ended, for good, and no action or line of it is left."""
        return self.state in FINAL and not self.pending and self.restart is None and self.late_until is None

    @property
    def may_still_run(self) -> bool:
        """Whether it vanished and a new attempt is to come: two of a job must never run at once."""
        return self.vanished and self.restart is not None and self.state in FINAL

    @property
    def awaits_attempt(self) -> bool:
        """Whether it has surely ended and a new attempt is to come: somebody may have it begun again meanwhile."""
        return self.restart is not None and self.surely_ended

    @property
    def surely_ended(self) -> bool:
        """Whether the scheduler has said that its newest attempt has ended."""
        return self.state in FINAL and not self.vanished and bool(self.scheduler_state)

    @property
    def begun_again(self) -> tuple[Earlier, ...]:
        """Its earlier attempts that the scheduler has begun again: two of a job must never run at once."""
        return tuple(attempt for attempt in self.earlier if attempt.alive)

    @property
    def switched_off(self) -> tuple[str, ...]:
        """The rules that are not looked for any more in this run's log, as their patterns take too long."""
        return tuple(name for name, pieces in self.slow.items() if pieces >= ENOUGH_SLOW)

    @property
    def failed(self) -> bool:
        """Whether its newest attempt has ended badly; where somebody ended it, only if a rule had named its trouble."""
        at_fault = bool(self.error_type) or self.cancelled_by.startswith("given up")
        return self.state in FINAL and self.state != SUCCESS and (self.state != CANCELLED or at_fault)

    def happened(self, at: float, event: str, message: str = "", **update: Any) -> JobState:
        """A copy with `update`, and one more entry in its history."""
        entry = HistoryEntry(at=at, event=event, message=message)
        return self.model_copy(update={**update, "history": (*self.history, entry)[-MOST_HISTORY:]})


def by_id(jobs: Iterable[JobState]) -> dict[str, JobState]:
    """Jobs by their scheduler's ids. Where two have one, as it began its ids anew, it is the newest one's."""
    return {job.scheduler_id: job for job in sorted(jobs, key=lambda job: job.submitted_at or 0)}


def counts(jobs: Iterable[JobState]) -> dict[str, int]:
    """How many jobs are in each state."""
    result: dict[str, int] = {}
    for job in jobs:
        result[job.state] = result.get(job.state, 0) + 1
    return result
