"""Applies rules to an existing log, to test them before a run. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.redaction import redact
from oellm_autoexp.core.states import RUNNING
from oellm_autoexp.decisions import detect
from oellm_autoexp.decisions.detect import LONGEST_LINE, Detector, line_of
from oellm_autoexp.rules import progress
from oellm_autoexp.rules.rules import LogEvent, Rules
from oellm_autoexp.search.patterns import Pattern, scan
from oellm_autoexp.session.job_state import Actions, Attempt, JobState
from oellm_autoexp.session.series import Rows
from oellm_autoexp.storage.log_tail import Cursor


@dataclass(frozen=True)
class Found:
    """A line that a rule matched: its number from 1, its text (a part of a long one), the values for templates."""

    number: int
    line: str
    values: Mapping[str, Any]


@dataclass
class RuleTrial:
    """The result of one log event: the number of matching lines, and the first of them."""

    rule: LogEvent
    count: int = 0
    shown: list[Found] = field(default_factory=list)
    first_number: float | None = None
    last_number: float | None = None
    """Numbers that a progress rule read."""
    not_numbers: int = 0
    """Lines in which the group of a progress rule held no number."""
    too_slow: bool = False


@dataclass
class Trial:
    """The whole result. `job` is a job that ran with this log: its progress, and the state that its lines ask for."""

    rules: dict[str, RuleTrial]
    job: JobState
    lines: int = 0
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """By name, the values of each metric in the lines."""


def try_rules(rules: Rules, pieces: Iterable[bytes], most: int) -> Trial:
    """Search pieces of a log, each of whole lines. Of each rule the first `most` lines are kept, all are counted."""
    detector = Detector(rules)
    found = {name: RuleTrial(rule) for name, rule in rules.log_events.items()}
    compiled = {
        name: Pattern.of(rule.pattern, substring=rule.pattern_type == "substring")
        for name, rule in rules.log_events.items()
        if rule.pattern is not None
    }
    trial = Trial(found, JobState(name="trial", state=RUNNING, newest=Attempt(started_at=0.0)))
    offset = 0
    for data in pieces:
        offset += len(data)
        cursor = Cursor("trial", offset)
        job = detect.see_log(trial.job, data, cursor, 0.0)
        job = detector.measured(job, data, 0.0, own=True)
        for each in job.logs.unwritten:
            rows = each if isinstance(each, Rows) else Rows((each.metric,), (), (), ((each.value,),))
            for name, column in zip(rows.metrics, rows.columns, strict=True):
                trial.metrics.setdefault(name, []).extend(column)
        job, _ = detector.lines(job, data, cursor, 0.0)
        trial.job = replace(job, actions=Actions(), history=(), logs=replace(job.logs, unwritten=()))
        result = scan(data, compiled)
        for name in result.too_slow:
            found[name].too_slow = True
        seen = before = 0
        for match in result.matches:
            before += len(data[seen : match.offset].splitlines())
            seen = match.offset
            one = found[match.rule]
            one.count += 1
            values = {**one.rule.metadata, **one.rule.extracted(match.groups, match.whole)}
            if one.rule.pattern_type == "progress":
                values |= _number(one, match.groups.get(one.rule.counter or "1", ""))
            if len(one.shown) < most:
                line = redact_text(line_of(match))[:LONGEST_LINE]
                one.shown.append(Found(trial.lines + before + 1, line, redact(values)))
        trial.lines += before + len(data[seen:].splitlines())
    return trial


def _plain(value: float) -> float | str:
    """A number as JSON can have it: one that is not finite is a text."""
    return value if math.isfinite(value) else str(value)


def _number(found: RuleTrial, text: str) -> dict[str, Any]:
    """The value of a progress rule, which is counted."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found.not_numbers += 1
        return {"counter": text}
    if found.first_number is None:
        found.first_number = value
    found.last_number = value
    return {"counter": value}


def explained(found: RuleTrial, rules: Rules) -> str:
    """A sentence about what a log can't show of a rule; '' if nothing."""
    rule = found.rule
    if found.too_slow:
        return "its pattern took too long: a part of the log was not searched for it"
    if rule.pattern_type == "inactivity":
        limit = rule.inactivity_threshold_seconds or rules.inactivity_threshold_seconds
        return f"comes when the log has been silent for {limit or 0:g} s, which a finished log does not show"
    if rule.pattern_type == "progress":
        limits = f"comes when the number has not risen for {rule.stall_seconds or 0:g} s"
        if found.not_numbers:
            return f"{limits}; {found.not_numbers} of the lines hold no number in that group, and are passed over"
        if found.last_number is None:
            return f"{limits}; no line of this log holds one: in a run like this it would come"
        return f"{limits}; read here: {found.first_number:g} to {found.last_number:g}"
    if rule.pattern is None:
        return "has no pattern: a PublishEventAction makes it"
    return ""


def facts(trial: Trial, rules: Rules) -> dict[str, Any]:
    """A trial, for programs."""
    job = trial.job
    return {
        "lines": trial.lines,
        "rules": [
            {
                "name": name,
                "pattern_type": one.rule.pattern_type,
                "pattern": one.rule.pattern,
                "state": one.rule.state,
                "overrules_success": one.rule.overrules_success,
                "matches": one.count,
                "shown": [{"line": each.number, "text": each.line, "values": dict(each.values)} for each in one.shown],
                "too_slow": one.too_slow,
                "note": explained(one, rules),
            }
            for name, one in trial.rules.items()
        ],
        "progress": {key: _plain(value) for key, value in progress.reported(job.progress).items()},
        "metrics": {
            name: {"points": len(values), "last": _plain(values[-1])} for name, values in trial.metrics.items()
        },
        "state": job.run.verdict or None,
        "state_by": job.run.error_type or None,
        "overrules_success": job.run.overrules_success,
        "complete": job.run.complete,
    }
