"""What an observation means for a job: pure, so that every case is a table row in a test."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from oellm_autoexp.logs import Cursor
from oellm_autoexp.model import JobStatus
from oellm_autoexp.monitor import progress
from oellm_autoexp.monitor.events import Event, Pending, event_id
from oellm_autoexp.monitor.patterns import Match, Pattern, scan
from oellm_autoexp.monitor.rules import LogEvent, Rules
from oellm_autoexp.monitor.tracked import (
    CANCELLED,
    CRASH,
    ENOUGH_SLOW,
    FINAL,
    NEW_RUN,
    NODE_FAIL,
    OOM,
    PENDING,
    PREEMPTED,
    RUNNING,
    SUCCESS,
    TIMEOUT,
    Reading,
    Tally,
    TrackedJob,
)
from oellm_autoexp.scheduler.base import ENDED, STOPPED, UNKNOWN
from oellm_autoexp.scheduler.base import RUNNING as RUNNING_WORDS

_STALL = "stall"
_ENDS = {
    "COMPLETED": SUCCESS,
    "TIMEOUT": TIMEOUT,
    "DEADLINE": TIMEOUT,
    "CANCELLED": CANCELLED,
    "REVOKED": CANCELLED,
    "PREEMPTED": PREEMPTED,
    "NODE_FAIL": NODE_FAIL,
    "BOOT_FAIL": NODE_FAIL,
    "OUT_OF_MEMORY": OOM,
}
VANISHED_AFTER_SECONDS = 60.0
"""A job that a scheduler which answers has not known for this long is given up (sacct lags by a few seconds)."""


def conclude(scheduler_state: str) -> str:
    """Our word for a scheduler's word; any ended state without one of its own is a crash."""
    if scheduler_state in ENDED:
        return _ENDS.get(scheduler_state, CRASH)
    return RUNNING if scheduler_state in RUNNING_WORDS else PENDING


def see_log(job: TrackedJob, data: bytes, cursor: Cursor, now: float) -> TrackedJob:
    """A job after some more of its log: whole lines, which end at `cursor`."""
    if not data and cursor == job.cursor:
        return job
    update: dict[str, object] = {"cursor": cursor}
    if data:
        update |= {"last_activity": now, "progress": progress.read(job.progress, data)}
    return job.model_copy(update=update)


def see_status(job: TrackedJob, status: JobStatus | None, now: float) -> TrackedJob:
    """A job after the scheduler's answer; None: the scheduler answered, and does not know the job."""
    if job.state in FINAL:
        return job
    if status is None:
        return _missing(job, now)
    if status.scheduler_state == UNKNOWN:  # no answer is no news
        return job if job.missing_since is None else job.model_copy(update={"missing_since": None})
    state = _settled(job, conclude(status.scheduler_state))
    update: dict[str, object] = {
        "scheduler_state": status.scheduler_state,
        "reason": job.cancelled_by if state in FINAL and job.cancelled_by else status.reason,
        "nodes": status.nodes or job.nodes,
        "failed_nodes": status.failed_nodes or job.failed_nodes,
        "exit_code": status.exit_code,
        "missing_since": None,
        "state": state,
    }
    if all(getattr(job, key) == value for key, value in update.items()):
        return job
    if job.scheduler_state in STOPPED and status.scheduler_state not in STOPPED:
        update["resumed_at"] = now
    if state == job.state:
        return job.model_copy(update=update)
    if state == PENDING:  # it was requeued: nothing that its run told is true of the next one
        update |= NEW_RUN
    if state == RUNNING:
        update |= {"started_at": now, "runs": job.runs + 1}
    if state in FINAL:
        update["ended_at"] = now
    return job.happened(now, state, _words(status), **update)


def _settled(job: TrackedJob, state: str) -> str:
    """What an end counts as, by what the log has said before it. The scheduler's own reasons stand."""
    if state in (CRASH, CANCELLED, TIMEOUT) and job.complete:
        return SUCCESS
    by_us = state == CANCELLED and job.cancelled_by
    told = state == SUCCESS and job.overrules_success and not job.complete
    stall_or_final = CRASH if job.verdict == _STALL else job.verdict
    return stall_or_final if stall_or_final in FINAL and (state == CRASH or by_us or told) else state


def _missing(job: TrackedJob, now: float) -> TrackedJob:
    if job.missing_since is None:
        return job.model_copy(update={"missing_since": now})
    if now - job.missing_since < VANISHED_AFTER_SECONDS:
        return job
    reason = "left the queue, and neither accounting nor the job itself says how it ended"
    return job.happened(now, CRASH, reason, state=CRASH, reason=reason, ended_at=now)


def _words(status: JobStatus) -> str:
    code = f"exit code {status.exit_code}" if status.exit_code else ""
    return ", ".join(word for word in (status.scheduler_state, status.reason, code) if word)


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
            self._silence[_STALL] = (usual, rules.startup_seconds or _STARTUP_FACTOR * usual)
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

    def lines(self, job: TrackedJob, data: bytes, cursor: Cursor, now: float) -> tuple[TrackedJob, list[Event]]:
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
            told = {**rule.metadata, **rule.extracted(match.groups), "line": match.line[:LONGEST_LINE]}
            event = _event("log", match.rule, job, now, told, cursor.identity, start + match.offset)
            events += [event, *self._by_state(rule, job, event, now)]
            decided = update or job.error_type or job.cancelled_by or job.restart  # the first one; not what we caused
            if rule.state and (not decided or self._overrules(job, rule, update)):
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

    def _overrules(self, job: TrackedJob, rule: LogEvent, update: Mapping[str, Any]) -> bool:
        """Whether a rule that speaks of good exit codes, too, comes after one that does not."""
        by_us = job.cancelled_by or job.restart is not None
        return rule.overrules_success and not by_us and not update.get("overrules_success", job.overrules_success)

    def _read_number(self, job: TrackedJob, rule: LogEvent, match: Match, now: float) -> TrackedJob:
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

    def _by_state(self, rule: LogEvent, job: TrackedJob, event: Event, now: float) -> Iterable[Event]:
        """A stall that a log event tells of happens at once; other states come with the job's end."""
        declared = self.rules.for_state(_STALL) if rule.state == _STALL else None
        if declared is not None:
            told = {**declared.metadata, **event.metadata, "error_type": rule.name}
            yield _event("state", declared.name, job, now, told, event.id)

    # ---- silence

    def quiet(self, job: TrackedJob, now: float, *, known: bool = True) -> tuple[TrackedJob, list[Event]]:
        """A job after a look: whether its log is silent, or its numbers stand still, for too long.

        That is not asked where the scheduler has not said that it runs (`known`), nor while it is suspended; three
        looks are then needed anew.
        """
        if job.state != RUNNING or job.started_at is None:
            return job, []
        if not known or job.scheduler_state in STOPPED:
            told = {name: looks for name, looks in job.overdue.items() if looks < 0}
            return (job if told == job.overdue else job.model_copy(update={"overdue": told})), []
        late = {
            **{name: self._silent_for(job, limits, now) for name, limits in self._silence.items()},
            **{name: self._still_for(job, rule, now) for name, rule in self._progress.items()},
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

    def _verdict_of(self, job: TrackedJob, names: Iterable[str]) -> dict[str, Any]:
        """What a job counts as from now on, by the first of these rules that says so."""
        for name in names:
            rule = self.rules.log_events.get(name)
            if rule and rule.state and not (job.error_type or job.cancelled_by or job.restart):
                return {"verdict": rule.state, "error_type": name, "overrules_success": rule.overrules_success}
        return {}

    def _silent_for(self, job: TrackedJob, limits: tuple[float, float], now: float) -> float:
        """For how many seconds a log has been silent, if that is too long; else 0."""
        started = job.started_at or now
        first = job.last_activity is None or job.last_activity < started
        silent = now - max(_runs_since(job, now), job.last_activity or started)
        return silent if silent >= limits[first] else 0.0

    def _still_for(self, job: TrackedJob, rule: LogEvent, now: float) -> float:
        """For how many seconds a rule's number has not risen, if that is too long; else 0."""
        limit = rule.stall_seconds or 0.0
        reading = job.readings.get(rule.name)
        if reading is None:
            still = now - _runs_since(job, now)
            return still if still >= (rule.startup_seconds or _STARTUP_FACTOR * limit) else 0.0
        still = now - max(reading.since, _runs_since(job, now))
        return still if still >= limit else 0.0

    def _silence_events(self, job: TrackedJob, name: str, seconds: float, now: float) -> Iterable[Event]:
        place: tuple[object, ...] = (job.cursor.identity, job.cursor.offset, job.last_activity, job.runs)
        rule = self.rules.log_events.get(name)
        if rule is None:
            declared = self.rules.for_state(_STALL)
            told = {**(declared.metadata if declared else {}), "silent_seconds": round(seconds), "error_type": _STALL}
            yield _event("state", declared.name if declared else _STALL, job, now, told, *place)
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

    def state(self, before: TrackedJob, job: TrackedJob, now: float) -> tuple[TrackedJob, list[Event]]:
        """A job whose state has become another one than `before`."""
        restarting = job.restart is not None and job.state != SUCCESS  # one that we end to begin it anew: no event
        if job.state == before.state or restarting:
            return job, []
        declared = self.rules.for_state(job.state)
        if declared is None or (job.cancelled_by and declared.state != job.state):
            return job, []  # what was ended on purpose is no crash
        told: dict[str, Any] = {**declared.metadata, "state": job.state, "reason": job.reason, "nodes": job.nodes}
        if job.state in FINAL:
            told["exit_code"] = "" if job.exit_code is None else job.exit_code
        if job.state in FINAL and job.state != SUCCESS:
            told["error_type"] = job.error_type or job.state
        if job.state == NODE_FAIL:
            told["nodes_at_fault"] = job.failed_nodes
        event = _event("state", declared.name, job, now, told, job.state, job.scheduler_id, job.runs)
        return self._with(job, [event], now), [event]

    def published(self, job: TrackedJob, event: Event, now: float) -> TrackedJob:
        """A job after an event that an action has made."""
        return self._with(job, [event], now)

    def _with(self, job: TrackedJob, events: list[Event], now: float) -> TrackedJob:
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
    kind: Literal["log", "state"], name: str, job: TrackedJob, now: float, metadata: Mapping[str, Any], *place: object
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


def _runs_since(job: TrackedJob, now: float) -> float:
    """Since when a job has run without standing still."""
    return max(job.started_at or now, job.resumed_at or 0.0)


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
