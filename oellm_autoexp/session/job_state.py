"""One job as the monitor knows it, in parts that are replaced one by one. Pure.

All of it is frozen: a change is a copy by `dataclasses.replace`, which shares the parts that it does not name. What the
session's files hold of it is in `session.records`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.core.nouns import Resources
from oellm_autoexp.core.states import BLOCKED, CANCELLED, FINAL, SUCCESS, WAITING
from oellm_autoexp.rules.events import Deadline, Event, Pending
from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.session.series import Point, Rows, Written
from oellm_autoexp.storage.log_tail import Cursor

BY_HAND = "by hand"
"""The cause of a new attempt that a person asked for."""
GONE_LOOKS = 3
"""A job that vanished counts as ended after so many polls since its cancellation that do not list it."""
ENOUGH_SLOW = 3
"""A rule is switched off for a job after its pattern took too long for this many parts of the log."""
MOST_EARLIER = MOST_FAILURES = 20
"""Earlier attempts, which SLURM can requeue for MinJobAge (slurm.conf(5)), and their causes: the newest are kept."""
MOST_HISTORY = 200
"""Entries of a job's history that are kept with it, the newest; all of them are in the session's events file."""


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that happened to a job: seconds since 1970, the state it got, a few words; the rule, of its action."""

    at: float
    event: str
    message: str = ""
    rule: str = ""


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
    """Since when `mark` has not changed, by the session's clock (see session/silence.py)."""

    mark: str
    since: float


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How often an event came, and when last."""

    count: int
    last_at: float


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """An ended run whose usage is not known yet: its id, its end, its seconds as measured by the monitor."""

    scheduler_id: str
    ended_at: float
    seconds: float
    token: str = ""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An ended attempt that a newer one has replaced: its id, its token, and how often it was requeued."""

    scheduler_id: str
    token: str = ""
    requeues: int | None = None
    alive: bool = False
    """True if the scheduler lists it as not ended although it had ended: somebody requeued it (`scontrol requeue`)."""
    vanished: bool = False
    """True if its end was concluded only because the scheduler no longer listed it."""
    end_asked_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an earlier attempt failed, and how far it had got: the highest iteration until then, -1 without any."""

    attempt: int
    cause: Cause
    furthest: int = -1


@dataclass(frozen=True, kw_only=True)
class Restarting:
    """A planned new attempt that replaces `attempt`: why, the earliest time, and how it differs."""

    attempt: int
    cause: str
    reason: str = ""
    not_before: float = 0
    overrides: dict[str, Any] = field(default_factory=dict)
    exclude_nodes: tuple[str, ...] = ()
    max_same_failures: int | None = None
    """See RestartAction."""

    @property
    def by_hand(self) -> bool:
        """Whether a person asked for it."""
        return self.cause == BY_HAND


@dataclass(frozen=True, kw_only=True)
class Before:
    """A job's state at the end of its last attempt, kept until the next one (`restart`) is submitted."""

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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The scheduler's last answer about the newest attempt."""

    scheduler_state: str = ""
    nodes: str = ""
    failed_nodes: str = ""
    exit_code: int | None = None
    """None until it has ended, or if the scheduler does not report it."""
    out_of_memory: bool = False
    """Whether a step of it ran out of memory."""
    requeues: int | None = None  # how often it was requeued under its id
    script_lost: bool = False
    """Whether it is shown as running, though the node of its script has left its allocation: nothing of it runs."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The newest attempt: its id and token at the scheduler, and the times of what happened to it."""

    token: str = ""
    task: int | None = None
    """Its task id, if the token belongs to an array."""
    last_link: int | None = None
    """The last task of the array that is its chain, of which the later ones follow it; None: nothing follows."""
    after: tuple[str, ...] = ()
    """Ids of the jobs that it depends on in the scheduler's queue."""
    absent_since: float | None = None
    """Since when the scheduler reports that it has no job with the token of an unclear submission."""
    scheduler_id: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    """The blamed nodes that it is kept from, each with why; of a chain that runs, also those of its later links."""
    begun_again_at: float | None = None
    """When it was last seen to be requeued; requests from earlier runs are then outdated."""
    runs: int = 0
    """How often the job has started to run; a requeued job keeps its id."""
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    end_asked_at: float | None = None
    """When its cancellation was last requested from the scheduler."""
    missing_since: float | None = None
    """Since when the scheduler answers but does not list it, and nothing shows that it runs (session's clock)."""
    vanished: bool = False
    """True if its end was concluded from that alone; it may still run."""
    gone_looks: int = 0
    """Number of polls since its cancellation in which the scheduler did not list it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of the current run, mostly from its logs; a requeued job has several runs."""

    last_activity: float | None = None
    resumed_at: float | None = None
    """When it was resumed after a suspension; a suspended job does not count as silent."""
    verdict: str = ""
    """State to report if this run fails, as determined by log rules; `error_type` names the rule."""
    error_type: str = ""
    overrules_success: bool = False
    """True if this state replaces a success (exit code 0), too."""
    complete: bool = False
    """True if its log has the line that says that the work is done (`termination_string`)."""
    not_restarted: str = ""  # why the last requested new attempt can't be made; empty if none failed
    readings: dict[str, Reading] = field(default_factory=dict)
    overdue: dict[str, int] = field(default_factory=dict)
    """By inactivity or progress rule whose limit is exceeded: polls in a row that found it so; -1: event emitted."""
    slow: dict[str, int] = field(default_factory=dict)
    """By rule whose pattern took too long: the number of log parts for which it did."""
    cause: Cause | None = None
    """Why it failed, as concluded from its logs at its end."""
    chain_end: str = ""
    """Why no other link of its chain follows this run; '' if one may."""
    steps: int = 0
    steps_left: int = 0
    """The number of its newest step (sbatch/in_job), and how many its script may still begin."""
    sick_nodes: dict[str, str] = field(default_factory=dict)
    """The nodes that its script left out, with `check: reason`."""
    log_starts: dict[str, str] = field(default_factory=dict)
    """Where its lines begin in logs that hold those of earlier runs: by path, the file's inode, `:` and the offset."""

    @property
    def switched_off(self) -> tuple[str, ...]:
        """The rules that are switched off for this run, as their patterns take too long."""
        return tuple(name for name, pieces in self.slow.items() if pieces >= ENOUGH_SLOW)


@dataclass(frozen=True, kw_only=True)
class Logs:
    """The paths of the logs, how far they were read, and since when they have not changed."""

    resolved_log_path: str = ""
    cursor: Cursor = field(default_factory=Cursor)
    """Position up to which the log was read."""
    cursors: dict[str, Cursor] = field(default_factory=dict)
    """Positions up to which the further files (`monitoring.output_paths`) were read."""
    late_until: float | None = None
    """Until when they are still read after the job's end (session's clock); None: no longer."""
    still: dict[str, Still] = field(default_factory=dict)
    """Since when the logs (key '') and the number of each progress rule (key: its name) have not changed."""
    series: Written = field(default_factory=Written)
    """How much of the file of its metrics' series counts."""
    unwritten: Annotated[tuple[Point | Rows, ...], Field(exclude=True)] = ()
    """Points that were read and are to be written there before the session is saved."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Since when a job that is not in the queue waits, until when at the latest, and how often it was refused."""

    waiting_since: float | None = None
    deadline: Deadline | None = None
    """Deadline of the wait, or time of the next try."""
    files_missing_since: float | None = None
    """Since when its script or working directory is missing."""
    retry_at: float = 0
    refusals: int = 0
    by_hand: bool = False  # a person has asked for the attempt


@dataclass(frozen=True, kw_only=True)
class Actions:
    """The events of a job, and the actions that they started."""

    events: dict[str, Tally] = field(default_factory=dict)
    unrecorded: tuple[Event, ...] = ()
    """Events that are not yet in the event log."""
    pending: tuple[Pending, ...] = ()
    carried_out: dict[str, float] = field(default_factory=dict)
    """Time of the last execution of each action (`rule/number`)."""


@dataclass(frozen=True, kw_only=True)
class PastAttempts:
    """The earlier attempts, and the usage of all ended ones."""

    earlier: tuple[Earlier, ...] = ()
    """The last attempts before the present one (see MOST_EARLIER)."""
    before: Before | None = None
    """The last attempt, while the next one is not submitted; if it is requeued meanwhile, it continues."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Number of new attempts, by cause."""
    furthest: int = -1
    """The highest iteration of its earlier attempts."""
    fruitless: int = 0
    """Number of latest attempts in a row that got no further than the ones before."""
    gpu_hours: float = 0
    """Measured usage of all ended attempts, without those in `unsettled`."""
    unsettled: tuple[Unsettled, ...] = ()
    failures: tuple[Failure, ...] = ()
    """Why the last attempts failed, without the present one."""

    @property
    def begun_again(self) -> tuple[Earlier, ...]:
        """The earlier attempts that were requeued and run again: two attempts of a job must never run at once."""
        return tuple(attempt for attempt in self.earlier if attempt.alive)


@dataclass(frozen=True, kw_only=True)
class SpecChanges:
    """How the next attempt differs from what was planned (JobSpec)."""

    overrides: dict[str, Any] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    """Nodes excluded for later attempts."""
    script_path: str = ""
    """The script of the next attempt if it differs from the plan's; `resources` are those of this script."""
    script_digest: str = ""
    """SHA-256 of that script (text.digest); '' in a session of an older version."""
    resources: Resources | None = None


@dataclass(frozen=True, kw_only=True)
class JobState:
    """Everything known about one job. `state` is concluded from its parts; `attempt` counts its attempts."""

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
    """Why the tool cancels it for good; empty if it does not."""
    restart: Restarting | None = None
    """The planned new attempt."""
    problem: str = ""
    """What the last poll could not check, and why; '' if nothing."""
    secrets: dict[str, str] = field(default_factory=dict)
    """In files: the places of this record whose values are secrets, with their ids in the secrets file."""
    history: tuple[HistoryEntry, ...] = ()

    @property
    def over(self) -> bool:
        """True if the job has ended for good, and no action, link or log line of it is left to handle."""
        left = self.actions.pending or self.later_links or self.restart is not None
        return self.state in FINAL and not left and self.logs.late_until is None

    @property
    def later_links(self) -> dict[str, str]:
        """The ids of the links of its chain that follow the newest attempt in the queue, with their token."""
        if self.newest.last_link is None or "_" not in self.newest.scheduler_id:
            return {}
        array, _, task = self.newest.scheduler_id.partition("_")
        token = self.newest.token or self.past.earlier[-1].token  # the latter: its next attempt is to come
        return {f"{array}_{link}": token for link in range(int(task) + 1, self.newest.last_link + 1)}

    @property
    def at_rest(self) -> bool:
        """True if nothing is left to do for the job unless another one gets a new attempt: it is over, or blocked."""
        return self.over or (self.state == BLOCKED and not (self.actions.pending or self.actions.unrecorded))

    @property
    def may_still_run(self) -> bool:
        """True if it vanished and a new attempt is planned: two attempts of a job must never run at once."""
        return self.newest.vanished and self.restart is not None and self.state in FINAL

    @property
    def surely_ended(self) -> bool:
        """True if the scheduler has reported the end of its newest attempt."""
        return self.state in FINAL and not self.newest.vanished and bool(self.answer.scheduler_state)

    @property
    def failed(self) -> bool:
        """True if its newest attempt failed; a cancelled one counts only if a rule had reported an error before."""
        at_fault = bool(self.run.error_type) or self.cancelled_by.startswith("given up")
        return self.state in FINAL and self.state != SUCCESS and (self.state != CANCELLED or at_fault)

    @property
    def next_run(self) -> Run:
        """What is known of a run that begins now: its lines come after those that its logs hold."""
        cursors = {self.logs.resolved_log_path: self.logs.cursor, **self.logs.cursors}
        return Run(log_starts={path: f"{c.inode}:{c.offset}" for path, c in cursors.items() if path and c.offset})

    def ended(self, at: float, state: str, reason: str) -> JobState:
        """A copy in that final state, with the reason, also in its history."""
        job = self.happened(at, state, reason)
        return replace(job, state=state, reason=reason, newest=replace(self.newest, ended_at=at))

    def happened(self, at: float, event: str, message: str = "", rule: str = "") -> JobState:
        """A copy with one more entry in its history; `rule`: the one whose action says it."""
        return replace(self, history=(*self.history, HistoryEntry(at, event, message, rule))[-MOST_HISTORY:])


def with_events(job: JobState, events: Iterable[Event]) -> JobState:
    """A job with events that are to be written into the session's event log."""
    added = tuple(events)
    return replace(job, actions=replace(job.actions, unrecorded=(*job.actions.unrecorded, *added))) if added else job
