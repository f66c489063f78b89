"""Turns log lines, state changes and silence into a job's events, its verdict, and stalls. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.redacted_text import REDACTED
from oellm_autoexp.core.secret_names import is_secret_value
from oellm_autoexp.core.states import (
    BAD_ENDS,
    BLOCKED,
    FINAL,
    NODE_FAIL,
    RUNNING,
    STALL,
    STOPPED,
    SUCCESS,
)
from oellm_autoexp.decisions.measured import measured
from oellm_autoexp.decisions.template_values import of_cause
from oellm_autoexp.rules.events import Event, Pending, event_id
from oellm_autoexp.rules.metrics import MetricReader
from oellm_autoexp.rules.rules import LogEvent, Rules
from oellm_autoexp.search.escapes import without_escapes
from oellm_autoexp.search.patterns import Match, Pattern, scan
from oellm_autoexp.session import silence
from oellm_autoexp.session.job_state import ENOUGH_SLOW, JobState, Reading, Run, Tally
from oellm_autoexp.storage.log_tail import Cursor


def see_log(job: JobState, data: bytes, cursor: Cursor, now: float) -> JobState:
    """The job after more complete lines of its log, which end at `cursor`."""
    if not data and cursor == job.logs.cursor:
        return job
    active = data or cursor.grew(job.logs.cursor)
    return replace(
        job,
        logs=replace(job.logs, cursor=cursor),
        run=replace(job.run, last_activity=now) if active else job.run,
    )


_SILENT_LOOKS = 3
"""A job counts as silent after so many polls in a row: after a pause of the monitor, one poll proves nothing."""
_STARTUP_FACTOR = 3
LONGEST_LINE = 500
"""Characters of a line that an event keeps."""


class Detector:
    """The compiled rules of a job. Each method returns the job after an observation, and the new events.

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
        self._metrics = MetricReader(rules.metrics)
        self._ending = (rules.termination_string or "").encode()

    # ---- the log

    def lines(self, job: JobState, data: bytes, cursor: Cursor, now: float) -> tuple[JobState, list[Event]]:
        """The job after complete lines of a log (its own, or a further file) that end at `cursor`."""
        start = cursor.offset - len(data)
        patterns = {name: p for name, p in self._patterns.items() if name not in job.run.switched_off}
        found = scan(data, patterns, newest_only=self._newest_only)
        events: list[Event] = []
        for match in found.matches:
            rule = self.rules.log_events[match.rule]
            if match.rule in self._progress:
                job = self._read_number(job, rule, match, now)
                continue
            metadata = {
                **rule.metadata,
                **rule.extracted(match.groups, match.whole),
                "line": line_of(match)[:LONGEST_LINE],
            }
            event = _event("log", match.rule, job, now, metadata, cursor.identity, start + match.offset)
            events += [event, *self._by_state(rule, job, event, now)]
            decided = job.run.error_type or _ended_by_us(job)  # the first one; not what we caused
            if rule.state in BAD_ENDS and (not decided or _overrules(job, rule)):
                job = replace(job, run=_with_verdict(job.run, rule))
        if self._ending and not job.run.complete and self._ending in without_escapes(data):
            job = replace(job, run=replace(job.run, complete=True))
        return self._with(_with_slow(job, found.too_slow, now), events, now), events

    def measured(self, job: JobState, data: bytes, now: float, *, own: bool) -> JobState:
        """A job after the numbers in whole lines: of its own log, or of one of the further files.

        Of further files, only what `monitoring.metrics` names is read.
        """
        seen, too_slow = measured(job, self._metrics, data, now, own=own)
        return _with_slow(seen, too_slow, now)

    def _read_number(self, job: JobState, rule: LogEvent, match: Match, now: float) -> JobState:
        try:
            value = float(match.groups.get(rule.counter or "1", ""))
        except ValueError:
            return job
        if not math.isfinite(value):
            return job
        known = job.run.readings.get(rule.name)
        reading = _read_on(known, value, now)
        if reading == known:
            return job
        risen = known is None or reading.since != known.since
        overdue = _without(job.run.overdue, rule.name) if risen else job.run.overdue
        return replace(job, run=replace(job.run, readings={**job.run.readings, rule.name: reading}, overdue=overdue))

    def _by_state(self, rule: LogEvent, job: JobState, event: Event, now: float) -> Iterable[Event]:
        """A log rule with `state: stall` takes effect immediately; other states apply when the job ends."""
        declared = self.rules.for_state(STALL) if rule.state == STALL else None
        if declared is not None:
            metadata = {**declared.metadata, **event.metadata, "error_type": rule.name}
            yield _event("state", declared.name, job, now, metadata, event.id)

    # ---- silence

    def quiet(
        self, job: JobState, now: float, clock: float | None = None, *, known: bool = True
    ) -> tuple[JobState, list[Event]]:
        """The job after a poll: detects a log that is silent, or a number that does not rise, for too long.

        `clock` is the session's (see session/silence.py; None: that is `now`). It is not used while the scheduler
        has not said that the job runs (`known`), nor while the job is suspended; three looks are then needed again.
        """
        if job.state != RUNNING or job.newest.started_at is None or not (self._silence or self._progress):
            return job, []
        clock = now if clock is None else clock
        still = silence.since(job.logs.still, silence.marks(job, list(self._progress)), clock)
        if still != job.logs.still:
            job = replace(job, logs=replace(job.logs, still=still))
        if not known or job.answer.scheduler_state in STOPPED:
            left = {name: looks for name, looks in job.run.overdue.items() if looks < 0}
            return (job if left == job.run.overdue else replace(job, run=replace(job.run, overdue=left))), []
        late = {
            **{name: self._silent_for(job, limits, clock) for name, limits in self._silence.items()},
            **{name: self._still_for(job, rule, clock) for name, rule in self._progress.items()},
        }
        if not job.run.overdue and not any(late.values()):
            return job, []
        overdue = {name: job.run.overdue.get(name, 0) for name, seconds in late.items() if seconds}
        for name, looks in overdue.items():
            overdue[name] = looks if looks < 0 else looks + 1
        ready = {name: late[name] for name, looks in overdue.items() if looks >= _SILENT_LOOKS}
        overdue.update(dict.fromkeys(ready, -1))
        events = [event for name, seconds in ready.items() for event in self._silence_events(job, name, seconds, now)]
        if overdue != job.run.overdue:
            job = replace(job, run=replace(self._judged(job, ready), overdue=overdue))
        return self._with(job, events, now), events

    def _judged(self, job: JobState, names: Iterable[str]) -> Run:
        """The run with the state of the first of these rules that has one."""
        for name in names:
            rule = self.rules.log_events.get(name)
            if rule and rule.state in BAD_ENDS and not (job.run.error_type or job.cancelled_by or job.restart):
                return _with_verdict(job.run, rule)
        return job.run

    def _silent_for(self, job: JobState, limits: tuple[float, float], clock: float) -> float:
        """Seconds of silence of a log if they exceed its limit, or if nothing is there that could write; else 0."""
        silent = clock - job.logs.still[silence.LOG].since
        if job.answer.script_lost:
            return max(silent, 1.0)
        return silent if silent >= limits[job.run.last_activity is None] else 0.0

    def _still_for(self, job: JobState, rule: LogEvent, clock: float) -> float:
        """Seconds without a rise of a rule's number if they exceed its limit, else 0."""
        limit = rule.stall_seconds or 0.0
        if rule.name not in job.run.readings:
            limit = rule.startup_seconds or _STARTUP_FACTOR * limit
        still = clock - job.logs.still[rule.name].since
        return still if still >= limit else 0.0

    def cause(self, job: JobState, name: str, metadata: Mapping[str, Any], *, for_good: bool = False) -> Run:
        """The run with the state to report if the job is ended because of this event and its log gave no state.

        `for_good`: an action ends the job and nothing follows, so that it may count as a success.
        """
        if job.run.verdict or job.state in FINAL:
            return job.run
        rule = self.rules.named(name)
        state = rule.state if rule else None
        if isinstance(rule, LogEvent) and state is None and rule.pattern_type in ("inactivity", "progress"):
            state = STALL
        if state == SUCCESS and for_good:
            return replace(job.run, verdict=SUCCESS)
        if state is None or state not in BAD_ENDS:
            return job.run
        named = job.run.error_type or str(metadata.get("error_type") or name)
        return replace(job.run, verdict=state, error_type=named)

    def _silence_events(self, job: JobState, name: str, seconds: float, now: float) -> Iterable[Event]:
        place: tuple[object, ...] = (
            job.logs.cursor.identity,
            job.logs.cursor.offset,
            job.run.last_activity,
            job.newest.runs,
        )
        rule = self.rules.log_events.get(name)
        if rule is None:
            declared = self.rules.for_state(STALL)
            metadata = {
                **(declared.metadata if declared else {}),
                "silent_seconds": round(seconds),
                "error_type": STALL,
            }
            yield _event("state", declared.name if declared else STALL, job, now, metadata, *place)
            return
        reading = job.run.readings.get(name)
        metadata = {**rule.metadata, "silent_seconds": round(seconds)}
        if reading is not None:
            metadata["counter"] = reading.value
            place = ("counter", reading.value, reading.since, job.newest.runs)
        event = _event("log", name, job, now, metadata, *place)
        yield event
        yield from self._by_state(rule, job, event, now)

    # ---- states

    def state(self, before: JobState, job: JobState, now: float) -> tuple[JobState, list[Event]]:
        """The job after its state has changed from `before`."""
        restarting = job.restart is not None and job.state != SUCCESS  # one that we end to begin it anew: no event
        if job.state == before.state or restarting:
            return job, []
        declared = self.rules.for_state(job.state)
        if declared is None or (job.cancelled_by and declared.state != job.state) or self._stall_was_reported(job):
            return job, []  # what was ended on purpose is no crash
        metadata: dict[str, Any] = {
            **declared.metadata,
            "state": job.state,
            "reason": job.reason,
            "nodes": job.answer.nodes,
        }
        if job.state in FINAL:
            metadata["exit_code"] = "unknown" if job.answer.exit_code is None else job.answer.exit_code
        if job.state in FINAL and job.state != SUCCESS:
            metadata["error_type"] = job.run.error_type or job.state
            metadata |= of_cause(job.run.cause)
        if job.state == NODE_FAIL:
            metadata["nodes_at_fault"] = job.answer.failed_nodes or metadata["nodes_at_fault"]
        place: tuple[object, ...] = (job.state, job.newest.scheduler_id, job.newest.runs)
        if job.state == BLOCKED and (known := job.actions.events.get(declared.name)):
            place = (*place, known.count)  # it may be blocked several times before its next attempt
        event = _event("state", declared.name, job, now, metadata, *place)
        return self._with(job, [event], now), [event]

    def _stall_was_reported(self, job: JobState) -> bool:
        """True if a job ended as a stall whose event was emitted when the stall was detected."""
        rule = self.rules.log_events.get(job.run.error_type)
        return job.state == STALL and (rule is None or rule.state == STALL)

    def published(self, job: JobState, event: Event, now: float) -> JobState:
        """The job after an event that an action has published."""
        return self._with(job, [event], now)

    def _with(self, job: JobState, events: list[Event], now: float) -> JobState:
        """The job with the consequences of events."""
        if not events:
            return job
        tallies = dict(job.actions.events)
        pending: list[Pending] = []
        for event in events:
            known = tallies.get(event.name)
            tallies[event.name] = Tally(count=(known.count if known else 0) + 1, last_at=event.at)
            rule = self.rules.named(event.name)
            pending += [
                Pending(event=event, rule=event.name, binding=number, since=now)
                for number in range(len(rule.actions) if rule else 0)
            ]
        actions = replace(job.actions, events=tallies, pending=(*job.actions.pending, *pending))
        return replace(job, actions=actions)


def detectors(manifest: Manifest) -> dict[str, Detector]:
    """The detector of each job, by name; jobs with the same rules share one."""
    made: dict[str, Detector] = {}
    found = {}
    for job in manifest.jobs:
        key = json.dumps([job.monitoring, job.inactivity_threshold_seconds])
        if key not in made:
            section = manifest.monitoring if job.monitoring is None else job.monitoring
            made[key] = Detector(Rules.of_section(section), job.inactivity_threshold_seconds)
        found[job.name] = made[key]
    return found


def line_of(match: Match) -> str:
    """The line of a match without the values of groups whose names say that they are secrets."""
    line = match.line
    for name, value in match.groups.items():
        if is_secret_value(name, value):
            line = line.replace(value, REDACTED)
    return line


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
        job_id=job.newest.scheduler_id,
        log_path=job.logs.resolved_log_path,
        at=now,
        metadata=dict(metadata),
    )


def _with_slow(job: JobState, names: Iterable[str], now: float) -> JobState:
    """A job after rules whose patterns took too long; one that did so several times is switched off."""
    for name in names:
        slow = {**job.run.slow, name: job.run.slow.get(name, 0) + 1}
        off = "; it is switched off for this job" if slow[name] >= ENOUGH_SLOW else ""
        message = f"the pattern of {name} took too long; a part of the log was not searched for it{off}"
        job = replace(job.happened(now, "warning", message), run=replace(job.run, slow=slow))
    return job


def _ended_by_us(job: JobState) -> bool:
    """True if the tool ends or has ended the job; False if it ended by itself and got a new attempt."""
    ended_itself = job.state in FINAL and job.newest.end_asked_at is None
    return bool(job.cancelled_by) or (job.restart is not None and not ended_itself)


def _with_verdict(run: Run, rule: LogEvent) -> Run:
    """The run with the state that a rule gives it."""
    verdict = rule.state or ""
    return replace(run, verdict=verdict, error_type=rule.name, overrules_success=rule.overrules_success)


def _overrules(job: JobState, rule: LogEvent) -> bool:
    """Whether this rule, with `overrules_success`, replaces an earlier verdict whose rule was without it."""
    return rule.overrules_success and not _ended_by_us(job) and not job.run.overrules_success


def _read_on(known: Reading | None, value: float, now: float) -> Reading:
    """A progress rule's reading after one more number.

    A number may fall once: a training that starts again within its job goes on from a checkpoint, and needs a while to
    where it was. One that falls as low again gets nowhere.
    """
    if known is None or value > known.value:
        return Reading(value=value, since=now)
    latest = known.value if known.latest is None else known.latest
    if value > latest:
        return replace(known, latest=value, since=now)
    if value == latest:
        return known
    if known.start is None or value > known.start:
        return replace(known, start=value, latest=value, since=now)
    return replace(known, start=known.value, latest=known.value)


def _without(counts: Mapping[str, int], name: str) -> dict[str, int]:
    return {key: count for key, count in counts.items() if key != name}
