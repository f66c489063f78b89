"""One job as the monitor knows it, in parts that are replaced one by one. Pure.

All of it is frozen: a change is a copy by `dataclasses.replace`, whose names and types mypy checks, and which shares
the parts that it does not name. What the session's files hold of it is in `session.records`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from oellm_autoexp.core.nouns import Resources
from oellm_autoexp.core.states import CANCELLED, FINAL, SUCCESS, WAITING
from oellm_autoexp.rules.events import Deadline, Event, Pending
from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.session.series import Point, Written
from oellm_autoexp.storage.log_tail import Cursor

BY_HAND = "by hand"
"""The cause of a new attempt that a person asked for."""
GONE_LOOKS = 3
"""A job that vanished is surely gone when the scheduler has said so at so many looks after it was cancelled."""
ENOUGH_SLOW = 3
"""Pieces of a job's log for which a rule's pattern may take too long before the rule is switched off for the job."""
MOST_EARLIER = 20
"""Earlier attempts that are kept with a job, the newest. SLURM can requeue a job for MinJobAge (slurm.conf(5))."""
MOST_HISTORY = 200
"""Entries of a job's history that are kept with it, the newest; all of them are in the session's events file."""


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One thing that happened to a job: seconds since 1970, the state it got, and a few words."""

    at: float
    event: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The highest number that a progress rule has read, and since when none has risen.

    A number that falls begins again, `since` then and from `start`; `latest` is how far it is on that way. What falls
    to `start` or below once more goes in circles, and only a number above `value` is progress.
    """

    value: float
    since: float
    start: float | None = None
    latest: float | None = None


@dataclass(frozen=True, kw_only=True)
class Still:
    """Since when something stands as `mark` says, by the session's clock (see session/silence.py)."""

    mark: str
    since: float


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How often an event came, and when last."""

    count: int
    last_at: float


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """A run that has ended, until it is known what it used: its id, its end, its seconds by our watch."""

    scheduler_id: str
    ended_at: float
    seconds: float
    token: str = ""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An attempt that has ended and has a newer one in its place: its id, its token, and how often it was requeued."""

    scheduler_id: str
    token: str = ""
    requeues: int | None = None
    alive: bool = False
    """Whether the scheduler lists it as not ended all the same: somebody had it begun again (`scontrol requeue`)."""
    vanished: bool = False
    """Whether its end was concluded from the scheduler's silence alone."""
    end_asked_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Restarting:
    """A new attempt that is to come, in the place of `attempt`: why, when at the earliest, and how it differs."""

    attempt: int
    cause: str
    reason: str = ""
    not_before: float = 0
    overrides: dict[str, Any] = field(default_factory=dict)
    exclude_nodes: tuple[str, ...] = ()

    @property
    def by_hand(self) -> bool:
        """Whether a person asked for it."""
        return self.cause == BY_HAND


@dataclass(frozen=True, kw_only=True)
class Before:
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


# ---------------------------------------------------------------------------------------------------------------------
# The parts of a job's state. A field has one name in all of them.


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the scheduler has said last of the newest attempt."""

    scheduler_state: str = ""
    nodes: str = ""
    failed_nodes: str = ""
    exit_code: int | None = None
    """None as long as it has not ended, or where the scheduler does not tell."""
    out_of_memory: bool = False
    """Whether a step of it ran out of memory."""
    requeues: int | None = None
    """How often it was begun again under its id."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The newest attempt: its names with the scheduler, and when what was done with it and seen of it."""

    token: str = ""
    task: int | None = None
    """Its task of the array that the token stands for."""
    after: tuple[str, ...] = ()
    """Ids of the jobs whose success it awaits in the scheduler's queue."""
    absent_since: float | None = None
    """Since when the scheduler, asked for the token of an unclear submission, has denied it."""
    scheduler_id: str = ""
    begun_again_at: float | None = None
    """When the scheduler was last seen to have begun it again: what its earlier runs called for is past."""
    runs: int = 0
    """How often the job has begun to run: a requeued one keeps its id."""
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    end_asked_at: float | None = None
    """When the scheduler was last asked to end it."""
    missing_since: float | None = None
    """Since when an answering scheduler does not know it and nothing shows that it runs, by the session's clock."""
    vanished: bool = False
    """Whether its end was concluded from that alone: it may still run."""
    gone_looks: int = 0
    """At how many looks since it was cancelled the scheduler said that it is gone."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of the present run alone, by its logs above all; a job that is requeued has several runs."""

    last_activity: float | None = None
    resumed_at: float | None = None
    """When it went on, if it was suspended: what stands still is not silent."""
    verdict: str = ""
    """What this run counts as, by its log, should it end badly; `error_type` is the event that said so."""
    error_type: str = ""
    overrules_success: bool = False
    """Whether that holds also if its exit code is 0."""
    complete: bool = False
    """Whether its log said that there is nothing left to do (`termination_string`)."""
    not_restarted: str = ""
    """Why the new attempt that was asked for last can't be made; empty where none failed."""
    readings: dict[str, Reading] = field(default_factory=dict)
    overdue: dict[str, int] = field(default_factory=dict)
    """Rules of inactivity and progress whose time is up: at how many looks in a row; -1: the event has been made."""
    slow: dict[str, int] = field(default_factory=dict)
    """Rules whose patterns took too long: for how many pieces of this run's log."""

    @property
    def switched_off(self) -> tuple[str, ...]:
        """The rules that are not looked for any more in this run's log, as their patterns take too long."""
        return tuple(name for name, pieces in self.slow.items() if pieces >= ENOUGH_SLOW)


@dataclass(frozen=True, kw_only=True)
class Logs:
    """Where the logs are, how far they were read, and since when nothing has changed in them."""

    resolved_log_path: str = ""
    cursor: Cursor = field(default_factory=Cursor)
    """How far the log was read."""
    cursors: dict[str, Cursor] = field(default_factory=dict)
    """How far the further files (`monitoring.output_paths`) were read."""
    late_until: float | None = None
    """Until when they are read on although the job has ended, by the session's clock; None: no more."""
    still: dict[str, Still] = field(default_factory=dict)
    """Since when the logs ('') and the number of each progress rule (its name) are as they are."""
    series: Written = field(default_factory=Written)
    """How much of the file of its metrics' series counts."""
    unwritten: Annotated[tuple[Point, ...], Field(exclude=True)] = ()
    """Points that were read and are to be written there before the session is saved."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Since when a job that is not in the queue waits, until when at the latest, and how often it was refused."""

    waiting_since: float | None = None
    deadline: Deadline | None = None
    """When its wait ends at the latest, or it is tried again."""
    files_missing_since: float | None = None
    """Since when it can't be submitted because its script or its working directory is not there."""
    retry_at: float = 0
    refusals: int = 0


@dataclass(frozen=True, kw_only=True)
class Actions:
    """The events that were seen of a job, and what they ask for."""

    events: dict[str, Tally] = field(default_factory=dict)
    unrecorded: tuple[Event, ...] = ()
    """Events that are not in the session's record yet."""
    pending: tuple[Pending, ...] = ()
    carried_out: dict[str, float] = field(default_factory=dict)
    """When each action (`rule/number`) was last carried out."""


@dataclass(frozen=True, kw_only=True)
class PastAttempts:
    """What is kept of the attempts before the newest one, and what all that have ended have used."""

    earlier: tuple[Earlier, ...] = ()
    """The last attempts before the present one (see MOST_EARLIER)."""
    before: Before | None = None
    """The last attempt, while the next one waits to be submitted: it is kept if it is begun again until then."""
    restarts: dict[str, int] = field(default_factory=dict)
    """How many new attempts it has had, by cause."""
    furthest: int = -1
    """The highest iteration of its earlier attempts."""
    fruitless: int = 0
    """How many of them in a row, the last ones, got no further than those before."""
    gpu_hours: float = 0
    """Really used, by all attempts that have ended but for those in `unsettled`."""
    unsettled: tuple[Unsettled, ...] = ()

    @property
    def begun_again(self) -> tuple[Earlier, ...]:
        """The earlier attempts that the scheduler has begun again: two of a job must never run at once."""
        return tuple(attempt for attempt in self.earlier if attempt.alive)


@dataclass(frozen=True, kw_only=True)
class SpecChanges:
    """How the next attempt differs from what was planned (JobSpec)."""

    overrides: dict[str, Any] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    """Nodes that the job must not use any more."""
    script_path: str = ""
    """The script of the next attempt, where that is not the plan's; `resources` are what that asks for."""
    script_digest: str = ""
    """SHA-256 of that script (text.digest); '' in a session of an older version."""
    resources: Resources | None = None


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What is known of one job. `state` is what we conclude of its parts; `attempt` counts its attempts."""

    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    name: str
    state: str = WAITING
    reason: str = ""
    attempt: int = 0
    newest: Attempt = Attempt()
    answer: Answer = Answer()
    run: Run = Run()
    logs: Logs = Logs()
    progress: Progress = field(default_factory=Progress)
    waiting: Waiting = Waiting()
    actions: Actions = Actions()
    past: PastAttempts = PastAttempts()
    changes: SpecChanges = SpecChanges()
    cancelled_by: str = ""
    """Why it is to end for good, if we say so."""
    restart: Restarting | None = None
    """The new attempt that is to come."""
    problem: str = ""
    """What keeps it from being watched in full, as of the last look; '' if nothing does."""
    secrets: dict[str, str] = field(default_factory=dict)
    """In a file: the places of this record whose values are in the session's secrets, with their ids there."""
    history: tuple[HistoryEntry, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it: it has ended, for good, and no action or line of it is left."""
        return (
            self.state in FINAL and not self.actions.pending and self.restart is None and self.logs.late_until is None
        )

    @property
    def may_still_run(self) -> bool:
        """Whether it vanished and a new attempt is to come: two of a job must never run at once."""
        return self.newest.vanished and self.restart is not None and self.state in FINAL

    @property
    def awaits_attempt(self) -> bool:
        """Whether it has surely ended and a new attempt is to come: somebody may have it begun again meanwhile."""
        return self.restart is not None and self.surely_ended

    @property
    def surely_ended(self) -> bool:
        """Whether the scheduler has said that its newest attempt has ended."""
        return self.state in FINAL and not self.newest.vanished and bool(self.answer.scheduler_state)

    @property
    def failed(self) -> bool:
        """Whether its newest attempt has ended badly; where somebody ended it, only if a rule had named its trouble."""
        at_fault = bool(self.run.error_type) or self.cancelled_by.startswith("given up")
        return self.state in FINAL and self.state != SUCCESS and (self.state != CANCELLED or at_fault)

    def ended(self, at: float, state: str, reason: str) -> JobState:
        """A copy that has ended in that state, for that reason, with that in its history."""
        newest = replace(self.newest, ended_at=at)
        return replace(self.happened(at, state, reason), state=state, reason=reason, newest=newest)

    def happened(self, at: float, event: str, message: str = "") -> JobState:
        """A copy with one more entry in its history."""
        entry = HistoryEntry(at=at, event=event, message=message)
        return replace(self, history=(*self.history, entry)[-MOST_HISTORY:])


def with_events(job: JobState, events: Iterable[Event]) -> JobState:
    """A job with events that are to be written into the session's event log."""
    added = tuple(events)
    return replace(job, actions=replace(job.actions, unrecorded=(*job.actions.unrecorded, *added))) if added else job


def by_id(jobs: Iterable[JobState]) -> dict[str, JobState]:
    """Jobs by their scheduler's ids. Where two have one, as it began its ids anew, it is the newest one's."""
    return {job.newest.scheduler_id: job for job in sorted(jobs, key=lambda job: job.newest.submitted_at or 0)}


def counts(jobs: Iterable[JobState]) -> dict[str, int]:
    """How many jobs are in each state."""
    result: dict[str, int] = {}
    for job in jobs:
        result[job.state] = result.get(job.state, 0) + 1
    return result
