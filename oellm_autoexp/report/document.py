"""What a report says, as plain data without secrets: sessions, their jobs as columns, curves, what happened. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from oellm_autoexp.core.nouns import JobSpec, Manifest, Series
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.redaction import redact, redact_words
from oellm_autoexp.report.accounts import StateHours, hours_by_state
from oellm_autoexp.report.curves import Curves
from oellm_autoexp.report.differences import Difference, differences
from oellm_autoexp.report.numbers import short
from oellm_autoexp.report.rows import PLANNED, Row, planned_row, row
from oellm_autoexp.report.timeline import first_seen, spans
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.view.graph import Stage, graph

VERSION = 1
_MOST_HISTORY, _FEWEST_HISTORY = 40_000, 4
_LONGEST_LINE = 300


@dataclass(frozen=True)
class Event:
    """An event that rules have seen, and what became of its actions, in words."""

    at: float
    job: str
    attempt: int
    name: str
    text: str
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A plan to report, with its session if it was submitted. `series` gives a job's series by metric.

    `events` are the newest of `events_total`, the newest first; `quotes`, by job, is what logs say of bad ends.
    """

    manifest: Manifest
    session: Session | None = None
    series: Callable[[JobState], Mapping[str, Series]] = lambda job: {}
    events: Sequence[Event] = ()
    events_total: int = 0
    quotes: Mapping[str, str] = field(default_factory=dict)


class Member(NamedTuple):
    """A job of a source: its number in the document, the number of its source, what was planned, what is known."""

    number: int
    source: int
    spec: JobSpec
    job: JobState | None


@dataclass(frozen=True)
class SessionPart:
    """What is reported of one session (or plan) beside its jobs."""

    id: str
    project: str
    config_ref: str
    created_at: str
    overrides: list[str]
    output_dir: str
    submitted: bool
    finished: bool
    jobs: int
    combinations: int
    hours: list[StateHours]
    allowed_gpu_hours: float | None
    stages: list[Stage]
    events: list[list[Any]]
    events_total: int


@dataclass(frozen=True)
class Parameter:
    """A swept key: its name in short, whether it is an axis of a grid, its value in each job (null: it has none)."""

    key: str
    label: str
    axis: bool
    values: list[Any]


@dataclass(frozen=True)
class Document:
    """A whole report. Every list below `jobs` has an entry for each job; numbers of jobs are places in them.

    `curves`: see report.curves. `spans` of a job: from, to (seconds since `began`), number of a state, attempt, cause.
    `history`: number of the job, seconds since 1970, event, message.
    """

    version: int
    made_at: float
    began: float
    title: str
    sessions: list[SessionPart]
    states: list[str]
    jobs: dict[str, list[Any]]
    parameters: list[Parameter]
    differences: list[Difference]
    depends_on: list[list[int]]
    spans: list[list[list[Any]]]
    history: list[list[Any]]
    history_left_out: int
    metrics: list[str] = field(default_factory=list)
    curves: list[list[Any]] = field(default_factory=list)
    most_points: int = 0
    exact: bool = True
    packed: str = ""

    def as_json(self) -> str:
        """The document as JSON that can stand in a script element of HTML: there is no `<` in it."""
        text = json.dumps(vars(self), default=vars, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def document(sources: Sequence[Source], now: float) -> Document:
    """The report of some sessions (or plans), as of `now` (seconds since 1970)."""
    members = list(_members(sources))
    rows = [_row(member, sources[member.source]) for member in members]
    seen = [first_seen(() if source.session is None else source.session.jobs.values()) for source in sources]
    timelines = [[] if member.job is None else spans(member.job, seen[member.source] or now, now) for member in members]
    began = min((span.start for each in timelines for span in each), default=now)
    states = list(dict.fromkeys([*(row.state for row in rows), *(span.state for each in timelines for span in each)]))
    numbers = {state: number for number, state in enumerate(states)}
    history, left_out = _history(members)
    curves = Curves.of((member.number, member.spec, member.job, sources[member.source].series) for member in members)
    return Document(
        version=VERSION,
        made_at=now,
        began=began,
        title=", ".join(dict.fromkeys(source.manifest.project for source in sources)),
        sessions=[_part(source, [m for m in members if m.source == n], now) for n, source in enumerate(sources)],
        states=states,
        jobs=_columns(rows, members),
        parameters=_parameters(rows, members),
        differences=differences([(member.spec, member.job) for member in members]),
        depends_on=_dependencies(members),
        spans=[
            [
                [
                    round(span.start - began, 1),
                    round(span.end - began, 1),
                    numbers[span.state],
                    span.attempt,
                    span.cause,
                ]
                for span in each
            ]
            for each in timelines
        ],
        history=history,
        history_left_out=left_out,
        metrics=curves.metrics,
        curves=curves.entries,
        most_points=curves.most_points,
        exact=curves.exact,
        packed=curves.packed,
    )


def _members(sources: Sequence[Source]) -> Iterator[Member]:
    number = 0
    for place, source in enumerate(sources):
        known = {} if source.session is None else source.session.jobs
        for spec in source.manifest.jobs:
            yield Member(number, place, spec, known.get(spec.name))
            number += 1


def _row(member: Member, source: Source) -> Row:
    if member.job is None:
        return planned_row(member.spec, source.manifest.plan_id)
    return row(member.spec, member.job, source.manifest.plan_id, source.quotes.get(member.spec.name, ""))


_NUMBERS = ("loss", "validation_loss", "grad_norm", "throughput", "seconds_per_iteration", "gpu_hours")


def _columns(rows: Sequence[Row], members: Sequence[Member]) -> dict[str, list[Any]]:
    """The rows as columns; the session by its number, and the swept values apart (`Document.parameters`)."""
    names = [name for name in Row.__dataclass_fields__ if name not in ("parameters", "session")]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    for name in _NUMBERS:
        columns[name] = [short(value) for value in columns[name]]
    columns["session"] = [member.source for member in members]
    columns["problem"] = [redact_message(m.job.problem) if m.job is not None and m.job.problem else "" for m in members]
    columns["gpus"] = [
        (member.spec if member.job is None else member.job.changes).resources or member.spec.resources
        for member in members
    ]
    columns["gpus"] = [resources.gpus for resources in columns["gpus"]]
    return columns


def _parameters(rows: Sequence[Row], members: Sequence[Member]) -> list[Parameter]:
    known = ("stage", "project.name")  # which have columns of their own
    keys = list(dict.fromkeys(key for row in rows for key in row.parameters if key.lstrip("+") not in known))
    labels = short_keys(keys)
    axes = set(chain.from_iterable(member.spec.coords for member in members))
    return [Parameter(key, labels[key], key in axes, [_plain(row.parameters.get(key)) for row in rows]) for key in keys]


def _plain(value: Any) -> Any:
    """A swept value as a page can sort it: a text, a number, true or false; anything else as its JSON."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < 1e300 else str(value)  # JSON has no infinity
    return json.dumps(value, default=str)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Dotted keys by as many of their last words as distinguish them."""
    made: dict[str, str] = {}
    for key in keys:
        words = key.split(".")
        for count in range(1, len(words) + 1):
            label = ".".join(words[-count:])
            if not any(other != key and f".{other}".endswith(f".{label}") for other in keys):
                break
        made[key] = label
    return made


def _dependencies(members: Sequence[Member]) -> list[list[int]]:
    places = {(member.source, member.spec.name): member.number for member in members}
    return [
        [places[member.source, name] for name in member.spec.depends_on if (member.source, name) in places]
        for member in members
    ]


def _history(members: Sequence[Member]) -> tuple[list[list[Any]], int]:
    """What happened to the jobs, the newest entries of each; and how many are left out."""
    most = max(_FEWEST_HISTORY, _MOST_HISTORY // max(1, len(members)))
    entries, total = [], 0
    for member in members:
        if member.job is not None:
            total += len(member.job.history)
            entries += [
                [member.number, round(entry.at, 1), entry.event, redact_message(entry.message)]
                for entry in member.job.history[-most:]
            ]
    return entries, total - len(entries)


def _part(source: Source, members: Sequence[Member], now: float) -> SessionPart:
    manifest, session = source.manifest, source.session
    drawn = graph(manifest)
    numbers = {member.spec.name: member.number for member in members}
    return SessionPart(
        id=manifest.plan_id,
        project=manifest.project,
        config_ref=manifest.config_ref,
        created_at=manifest.created_at,
        overrides=redact_words(manifest.overrides),
        output_dir=redact(manifest.base_output_dir),
        submitted=session is not None,
        finished=session is not None and session.finished,
        jobs=len(members),
        combinations=drawn.combinations,
        hours=hours_by_state(((member.spec, member.job) for member in members), PLANNED, now),
        allowed_gpu_hours=manifest.scheduler.get("max_gpu_hours"),
        stages=[_without_secrets(stage) for stage in drawn.stages],
        events=[
            [
                round(event.at, 1),
                numbers.get(event.job),
                event.attempt,
                event.name,
                redact_message(event.text[:_LONGEST_LINE]),
                list(map(redact_message, event.actions)),
            ]
            for event in source.events
        ],
        events_total=source.events_total,
    )


def _without_secrets(stage: Stage) -> Stage:
    start, cancel, done = (tuple(map(redact_message, texts)) for texts in (stage.start, stage.cancel, stage.done))
    return Stage(stage.name, stage.count, (), start, cancel, done, stage.after)
