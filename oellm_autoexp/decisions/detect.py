"""From observations (log lines, SLURM's states, time) to a job's state, its events, and whether it stalls. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.core.states import (
    BAD_ENDS,
    CANCELLED,
    CRASH,
    ENDED,
    FINAL,
    NODE_FAIL,
    OOM,
    PENDING,
    RUNNING,
    STALL,
    STOPPED,
    SUCCESS,
    TIMEOUT,
    UNKNOWN,
    conclude,
)
from oellm_autoexp.rules import progress
from oellm_autoexp.rules.events import Event, Pending, event_id
from oellm_autoexp.rules.patterns import Match, Pattern, scan
from oellm_autoexp.rules.rules import LogEvent, Rules
from oellm_autoexp.session import silence
from oellm_autoexp.session.job_state import ENOUGH_SLOW, NEW_RUN, JobState, Reading, Tally
from oellm_autoexp.storage.log_tail import Cursor

VANISHED_AFTER_SECONDS = 60.0
"""A job that a scheduler which answers has not known for this long is given up (sacct lags by a few seconds)."""
BEGUN_VANISHED_AFTER_SECONDS = 600.0
"""The same for one that has said that it began, and not that it ended: it may run on, unknown to the scheduler."""


def see_log(job: JobState, data: bytes, cursor: Cursor, now: float) -> JobState:
    """A job after some more of its log: whole lines, which end at `cursor`."""
    if not data and cursor == job.cursor:
        return job
    update: dict[str, object] = {"cursor": cursor}
    if data or cursor.grew(job.cursor):
        update["last_activity"] = now
    if data:
        update["progress"] = progress.read(job.progress, data)
    return job.model_copy(update=update)


def see_status(
    job: JobState, status: JobStatus | None, now: float, clock: float | None = None, *, begun: bool = False
) -> JobState:
    """A job after the scheduler's answer; None: the scheduler answered, and does not know the job.

    `clock` is the session's (see session/silence.py; None: that is `now`); `begun`: the job has said that it began, and
    not that it ended.
    """
    if job.state in FINAL:
        return job
    if status is None:
        patience = BEGUN_VANISHED_AFTER_SECONDS if begun else VANISHED_AFTER_SECONDS
        return _missing(job, now, now if clock is None else clock, patience)
    if status.scheduler_state == UNKNOWN:  # no answer is no news
        return job if job.missing_since is None else job.model_copy(update={"missing_since": None})
    requeued = _requeued(job, status)
    if requeued:  # between two looks: nothing that the earlier run told is true of this one
        job = job.model_copy(update={**NEW_RUN, "runs": job.runs + 1})
    state = _settled(job, status.scheduler_state, out_of_memory=status.out_of_memory)
    update: dict[str, object] = {
        "scheduler_state": status.scheduler_state,
        "reason": job.cancelled_by if state in FINAL and job.cancelled_by else status.reason,
        "nodes": status.nodes or job.nodes,
        "failed_nodes": status.failed_nodes or job.failed_nodes,
        "exit_code": status.exit_code if state in FINAL else None,  # SLURM tells one while it is COMPLETING
        "out_of_memory": status.out_of_memory,
        "missing_since": None,
        "requeues": job.requeues if (count := _restarts(status)) is None else count,
        "state": state,
        "begun_again_at": now if requeued and state not in FINAL else job.begun_again_at,
    }
    if requeued and state == RUNNING:
        return job.happened(now, RUNNING, _AGAIN, **update, started_at=now)
    if all(getattr(job, key) == value for key, value in update.items()):
        return job
    if job.scheduler_state in STOPPED and status.scheduler_state not in STOPPED:
        update["resumed_at"] = now
    if state == job.state:
        return job.model_copy(update=update)
    if state == PENDING:  # it was requeued: nothing that its run told is true of the next one
        update |= {**NEW_RUN, "begun_again_at": now}
    if state == RUNNING:
        update |= {"started_at": now, "runs": job.runs + 1}
    if state in FINAL:
        update["ended_at"] = now
    return job.happened(now, state, _words(status), **update)


_AGAIN = "the scheduler has begun it again"


def _requeued(job: JobState, status: JobStatus) -> bool:
    """Whether a job that ran has begun anew under its id since the last look."""
    return job.state == RUNNING and _counted_on(job, status)


def _counted_on(job: JobState, status: JobStatus) -> bool:
    """Whether the scheduler counts more restarts than at the last look; not where it does not count them."""
    count = _restarts(status)
    return job.requeues is not None and count is not None and count > job.requeues


def _restarts(status: JobStatus) -> int | None:
    """How often the scheduler has begun the job again; None where it does not tell.

    SLURM counts a restart as soon as the run before it is told to end, so that a job that is COMPLETING may be either.
    """
    return None if status.scheduler_state == "COMPLETING" else status.restarts


def runs_again(job: JobState, status: JobStatus, now: float) -> JobState:
    """A job that has ended, after an answer by which the scheduler lists it as not ended; nothing else is news.

    `scontrol requeue` begins a job again that has ended; one that had vanished may come back.
    """
    state = conclude(status.scheduler_state)
    counted = _restarts(status) is not None and job.requeues is not None and not job.vanished
    if status.scheduler_state == UNKNOWN or state in FINAL or (counted and not _counted_on(job, status)):
        return job
    back: dict[str, object] = {"ended_at": None, "exit_code": None, "late_until": None, "state": PENDING}
    back["unsettled"] = tuple(run for run in job.unsettled if run.scheduler_id != job.scheduler_id)
    if job.vanished:
        back |= {"vanished": False, "state": RUNNING if job.runs else PENDING}
    else:
        back |= {**NEW_RUN, "cancelled_by": "", "end_asked_at": None, "begun_again_at": now}
    if job.restart is not None:
        job = job.happened(now, "restart", no_new_attempt(job), restart=None)
    listed = see_status(job.model_copy(update=back), status, now)
    return listed.happened(now, state, "the scheduler lists it again" if job.vanished else _AGAIN)


def no_new_attempt(job: JobState) -> str:
    """What people are told where a new attempt was to come of a job that has been begun again."""
    return f"no new attempt: the scheduler has begun job {job.scheduler_id} again"


def revised(job: JobState, now: float) -> JobState:
    """A job that has ended, after lines of its log that came late: they may change what the end counts as."""
    if job.scheduler_state not in ENDED or job.vanished:
        return job
    state = _settled(job, job.scheduler_state, out_of_memory=job.out_of_memory)
    return job if state == job.state else job.happened(now, state, "by what its log got late", state=state)


def _settled(job: JobState, scheduler_state: str, *, out_of_memory: bool = False) -> str:
    """What the scheduler's word counts as, by what the log has said before it. The scheduler's own reasons stand.

    A crash counts as out of memory if one of the job's steps ran out of memory, as its script knows only that a step
    failed. Of all lines of a log, only the one that says that the job is complete turns a bad end into a success.
    A job that we have ended counts as what it was ended for. A stall on which no action was taken does not count,
    because the job went on.
    """
    state = conclude(scheduler_state)
    if state in (CRASH, CANCELLED, TIMEOUT) and job.complete:
        return SUCCESS
    by_us = bool(job.cancelled_by or job.restart)
    told = state == SUCCESS and job.overrules_success and not job.complete
    verdict = CRASH if job.verdict == STALL and not by_us else job.verdict
    if verdict == SUCCESS and not (state == CANCELLED and by_us):
        verdict = ""
    ends = state == CRASH or (state == CANCELLED and by_us) or told
    state = verdict if verdict in FINAL and ends else state
    return OOM if state == CRASH and out_of_memory and job.verdict != STALL else state


def _missing(job: JobState, now: float, clock: float, patience_seconds: float) -> JobState:
    """A job that a scheduler which answers does not know: for a while it may be late."""
    if job.missing_since is None or job.missing_since > clock:
        return job.model_copy(update={"missing_since": clock})
    if clock - job.missing_since < patience_seconds:
        return job
    reason = "left the queue, and neither accounting nor the job itself says how it ended"
    state, vanished = CRASH, True
    if job.cancelled_by and job.end_asked_at is not None:
        state, reason, vanished = _settled(job, "CANCELLED"), job.cancelled_by, False
    return job.happened(now, state, reason, state=state, reason=reason, ended_at=now, vanished=vanished)


def _words(status: JobStatus) -> str:
    code = f"exit code {status.exit_code}" if status.exit_code else ""
    told = status.out_of_memory and status.scheduler_state != "OUT_OF_MEMORY"
    memory = "a step of it ran out of memory" if told else ""
    return ", ".join(word for word in (status.scheduler_state, status.reason, code, memory) if word)


# ---------------------------------------------------------------------------------------------------------------------
# Events

_SILENT_LOOKS = 3
"""A job counts as silent only when so many looks in a row have found it so: a monitor that was away knows nothing."""
_STARTUP_FACTOR = 3
LONGEST_LINE = 500
"""Characters of a line that an event keeps."""


class Detector:
    """The rules of a job, compiled. Each method gives the job after what it has seen, and the events that this makes.

    The actions of the events are in the job, as `pending`: they are saved with what was seen, in one record.
    """

    def __init__(self, rules: Rules, inactivity_threshold_seconds: float | None = None) -> None:
        self.rules = rules
        self._patterns: dict[str, Pattern] = {}
        self._progress: dict[str, LogEvent] = {}
        self._silence: dict[str, tuple[float, float]] = {}
        usual = inactivity_threshold_seconds or rules.inactivity_threshold_seconds
        if usual is not None:
            self._silence[STALL] = (usual, rules.startup_seconds or _STARTUP_FACTOR * usual)
        for name, event in rules.log_events.items():
            if event.pattern is not None:
                self._patterns[name] = Pattern.of(event.pattern, substring=event.pattern_type == "substring")
            if event.pattern_type == "progress":
                self._progress[name] = event
            if event.pattern_type == "inactivity" and (limit := event.inactivity_threshold_seconds or usual):
                self._silence[name] = (limit, event.startup_seconds or rules.startup_seconds or _STARTUP_FACTOR * limit)
        self._newest_only = frozenset(self._progress)
        self._ending = (rules.termination_string or "").encode()

    # ---- the log

    def lines(self, job: JobState, data: bytes, cursor: Cursor, now: float) -> tuple[JobState, list[Event]]:
        """A job after whole lines of a log that end at `cursor`: its own, or one of the further files."""
        start = cursor.offset - len(data)
        patterns = {name: p for name, p in self._patterns.items() if name not in job.switched_off}
        found = scan(data, patterns, newest_only=self._newest_only)
        events: list[Event] = []
        update: dict[str, Any] = {}
        for match in found.matches:
            rule = self.rules.log_events[match.rule]
            if match.rule in self._progress:
                job = self._read_number(job, rule, match, now)
                continue
            told = {**rule.metadata, **rule.extracted(match.groups, match.whole), "line": match.line[:LONGEST_LINE]}
            event = _event("log", match.rule, job, now, told, cursor.identity, start + match.offset)
            events += [event, *self._by_state(rule, job, event, now)]
            decided = update or job.error_type or _ended_by_us(job)  # the first one; not what we caused
            if rule.state in BAD_ENDS and (not decided or self._overrules(job, rule, update)):
                update = {
                    "verdict": rule.state,
                    "error_type": match.rule,
                    "overrules_success": rule.overrules_success,
                }
        if self._ending and not job.complete and self._ending in data:
            update["complete"] = True
        for name in found.too_slow:
            slow = {**job.slow, name: job.slow.get(name, 0) + 1}
            off = "; it is switched off for this job" if slow[name] >= ENOUGH_SLOW else ""
            message = f"the pattern of {name} took too long; a part of the log was not looked at for it{off}"
            job = job.happened(now, "warning", message, slow=slow)
        return self._with(job.model_copy(update=update) if update else job, events, now), events

    def _overrules(self, job: JobState, rule: LogEvent, update: Mapping[str, Any]) -> bool:
        """Whether this rule, with `overrules_success`, replaces an earlier verdict whose rule was without it."""
        return (
            rule.overrules_success
            and not _ended_by_us(job)
            and not update.get("overrules_success", job.overrules_success)
        )

    def _read_number(self, job: JobState, rule: LogEvent, match: Match, now: float) -> JobState:
        try:
            value = float(match.groups.get(rule.counter or "1", ""))
        except ValueError:
            return job
        if not math.isfinite(value):
            return job
        known = job.readings.get(rule.name)
        reading = _read_on(known, value, now)
        if reading == known:
            return job
        update: dict[str, Any] = {"readings": {**job.readings, rule.name: reading}}
        if known is None or reading.since != known.since:
            update["overdue"] = _without(job.overdue, rule.name)
        return job.model_copy(update=update)

    def _by_state(self, rule: LogEvent, job: JobState, event: Event, now: float) -> Iterable[Event]:
        """A stall that a log event tells of happens at once; other states come with the job's end."""
        declared = self.rules.for_state(STALL) if rule.state == STALL else None
        if declared is not None:
            told = {**declared.metadata, **event.metadata, "error_type": rule.name}
            yield _event("state", declared.name, job, now, told, event.id)

    # ---- silence

    def quiet(
        self, job: JobState, now: float, clock: float | None = None, *, known: bool = True
    ) -> tuple[JobState, list[Event]]:
        """A job after a look: whether its log is silent, or its numbers stand still, for too long.

        `clock` is the session's (see session/silence.py; None: that is `now`). It is not used while the scheduler
        has not said that the job runs (`known`), nor while the job is suspended; three looks are then needed again.
        """
        if job.state != RUNNING or job.started_at is None or not (self._silence or self._progress):
            return job, []
        clock = now if clock is None else clock
        still = silence.since(job.still, silence.marks(job, list(self._progress)), clock)
        if still != job.still:
            job = job.model_copy(update={"still": still})
        if not known or job.scheduler_state in STOPPED:
            told = {name: looks for name, looks in job.overdue.items() if looks < 0}
            return (job if told == job.overdue else job.model_copy(update={"overdue": told})), []
        late = {
            **{name: self._silent_for(job, limits, clock) for name, limits in self._silence.items()},
            **{name: self._still_for(job, rule, clock) for name, rule in self._progress.items()},
        }
        if not job.overdue and not any(late.values()):
            return job, []
        overdue = {name: job.overdue.get(name, 0) for name, seconds in late.items() if seconds}
        for name, looks in overdue.items():
            overdue[name] = looks if looks < 0 else looks + 1
        ready = {name: late[name] for name, looks in overdue.items() if looks >= _SILENT_LOOKS}
        overdue.update(dict.fromkeys(ready, -1))
        events = [event for name, seconds in ready.items() for event in self._silence_events(job, name, seconds, now)]
        if overdue != job.overdue:
            job = job.model_copy(update={"overdue": overdue, **self._verdict_of(job, ready)})
        return self._with(job, events, now), events

    def _verdict_of(self, job: JobState, names: Iterable[str]) -> dict[str, Any]:
        """What a job counts as from now on, by the first of these rules that says so."""
        for name in names:
            rule = self.rules.log_events.get(name)
            if rule and rule.state in BAD_ENDS and not (job.error_type or job.cancelled_by or job.restart):
                return {"verdict": rule.state, "error_type": name, "overrules_success": rule.overrules_success}
        return {}

    def _silent_for(self, job: JobState, limits: tuple[float, float], clock: float) -> float:
        """For how many seconds a log has been silent, if that is too long; else 0."""
        silent = clock - job.still[silence.LOG].since
        return silent if silent >= limits[job.last_activity is None] else 0.0

    def _still_for(self, job: JobState, rule: LogEvent, clock: float) -> float:
        """For how many seconds a rule's number has not risen, if that is too long; else 0."""
        limit = rule.stall_seconds or 0.0
        if rule.name not in job.readings:
            limit = rule.startup_seconds or _STARTUP_FACTOR * limit
        still = clock - job.still[rule.name].since
        return still if still >= limit else 0.0

    def cause(self, job: JobState, name: str, metadata: Mapping[str, Any], *, for_good: bool = False) -> dict[str, Any]:
        """What a job counts as if we end it for the event of that name, where its log has not said so yet.

        `for_good`: an action ends the job and nothing follows, so that it may count as a success.
        """
        if job.verdict or job.state in FINAL:
            return {}
        rule = self.rules.named(name)
        state = rule.state if rule else None
        if isinstance(rule, LogEvent) and state is None and rule.pattern_type in ("inactivity", "progress"):
            state = STALL
        if state == SUCCESS and for_good:
            return {"verdict": SUCCESS}
        if state not in BAD_ENDS:
            return {}
        return {"verdict": state, "error_type": job.error_type or str(metadata.get("error_type") or name)}

    def _silence_events(self, job: JobState, name: str, seconds: float, now: float) -> Iterable[Event]:
        place: tuple[object, ...] = (job.cursor.identity, job.cursor.offset, job.last_activity, job.runs)
        rule = self.rules.log_events.get(name)
        if rule is None:
            declared = self.rules.for_state(STALL)
            told = {**(declared.metadata if declared else {}), "silent_seconds": round(seconds), "error_type": STALL}
            yield _event("state", declared.name if declared else STALL, job, now, told, *place)
            return
        reading = job.readings.get(name)
        told = {**rule.metadata, "silent_seconds": round(seconds)}
        if reading is not None:
            told["counter"] = reading.value
            place = ("counter", reading.value, reading.since, job.runs)
        event = _event("log", name, job, now, told, *place)
        yield event
        yield from self._by_state(rule, job, event, now)

    # ---- states

    def state(self, before: JobState, job: JobState, now: float) -> tuple[JobState, list[Event]]:
        """A job whose state has become another one than `before`."""
        restarting = job.restart is not None and job.state != SUCCESS  # one that we end to begin it anew: no event
        if job.state == before.state or restarting:
            return job, []
        declared = self.rules.for_state(job.state)
        if declared is None or (job.cancelled_by and declared.state != job.state) or self._stall_was_told(job):
            return job, []  # what was ended on purpose is no crash
        told: dict[str, Any] = {**declared.metadata, "state": job.state, "reason": job.reason, "nodes": job.nodes}
        if job.state in FINAL:
            told["exit_code"] = "unknown" if job.exit_code is None else job.exit_code
        if job.state in FINAL and job.state != SUCCESS:
            told["error_type"] = job.error_type or job.state
        if job.state == NODE_FAIL:
            told["nodes_at_fault"] = job.failed_nodes
        event = _event("state", declared.name, job, now, told, job.state, job.scheduler_id, job.runs)
        return self._with(job, [event], now), [event]

    def _stall_was_told(self, job: JobState) -> bool:
        """Whether a job has ended as a stall whose event was made when it was seen."""
        rule = self.rules.log_events.get(job.error_type)
        return job.state == STALL and (rule is None or rule.state == STALL)

    def published(self, job: JobState, event: Event, now: float) -> JobState:
        """A job after an event that an action has made."""
        return self._with(job, [event], now)

    def _with(self, job: JobState, events: list[Event], now: float) -> JobState:
        """The job with what follows from events."""
        if not events:
            return job
        tallies = dict(job.events)
        pending: list[Pending] = []
        for event in events:
            known = tallies.get(event.name)
            tallies[event.name] = Tally(count=(known.count if known else 0) + 1, last_at=event.at)
            rule = self.rules.named(event.name)
            pending += [
                Pending(event=event, rule=event.name, binding=number, since=now)
                for number in range(len(rule.actions) if rule else 0)
            ]
        return job.model_copy(update={"events": tallies, "pending": (*job.pending, *pending)})


def _event(
    kind: Literal["log", "state"], name: str, job: JobState, now: float, metadata: Mapping[str, Any], *place: object
) -> Event:
    identity = event_id(name, job.name, job.attempt, *place)
    return Event(
        id=identity,
        kind=kind,
        name=name,
        job=job.name,
        attempt=job.attempt,
        job_id=job.scheduler_id,
        log_path=job.resolved_log_path,
        at=now,
        metadata=dict(metadata),
    )


def _ended_by_us(job: JobState) -> bool:
    """Whether we are ending a job, or have: not where it ended by itself and a new attempt followed from that."""
    ended_itself = job.state in FINAL and job.end_asked_at is None
    return bool(job.cancelled_by) or (job.restart is not None and not ended_itself)


def _read_on(known: Reading | None, value: float, now: float) -> Reading:
    """A progress rule's reading after one more number.

    A number may fall once: a training that starts again within its job goes on from a checkpoint, and needs a while to
    where it was. One that falls as low again gets nowhere.
    """
    if known is None or value > known.value:
        return Reading(value=value, since=now)
    latest = known.value if known.latest is None else known.latest
    if value > latest:
        return known.model_copy(update={"latest": value, "since": now})
    if value == latest:
        return known
    if known.start is None or value > known.start:
        return known.model_copy(update={"start": value, "latest": value, "since": now})
    return known.model_copy(update={"start": known.value, "latest": known.value})


def _without(counts: Mapping[str, int], name: str) -> dict[str, int]:
    return {key: count for key, count in counts.items() if key != name}
