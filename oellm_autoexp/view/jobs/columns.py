"""What a table of jobs can show: one column each, with its value for programs and its text for people. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from oellm_autoexp.causes.cause import CATEGORIES
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.redaction import redact
from oellm_autoexp.core.states import OURS, RUNNING
from oellm_autoexp.core.text import scalar
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.view.jobs.cause import cause
from oellm_autoexp.view.jobs.links import links
from oellm_autoexp.view.jobs.progress import bar, share

Value = str | int | float | None
"""What a column holds for one job; None: nothing is known."""
_LATEST = 1e11
TREND_CELLS = 10
_BAR = 8
_LEFT = ("job", "state", "trend", "cause", "category", "fingerprint", "stage", "nodes", "left_out", "id", "log")


@dataclass(frozen=True)
class JobSeries:
    """What the series of a session's jobs tell, read when it is asked for."""

    trend: Callable[[JobState], str]
    """How the loss of a job goes, in one line; '' for none."""
    last: Callable[[JobState, str], float | None]
    """The last value of a job's metric; None for none."""


@dataclass(frozen=True)
class Subject:
    """A job with what a table shows of it. `quoted`: what its log says of its end; `now`: seconds since 1970."""

    job: JobState
    now: float
    spec: JobSpec | None = None
    quoted: str = ""
    series: JobSeries | None = None


@dataclass(frozen=True)
class Column:
    """A column: its name, which heads it and is what options call it, and how it is filled."""

    name: str
    value: Callable[[Subject], Value]
    shown: Callable[[Subject], str]
    is_number: bool = True
    seconds: bool = False
    """Whether its numbers are lengths of time."""
    cells: int = 0
    """The width of its texts, where these take long to make; 0: they are measured."""
    is_time: bool = False
    """Whether its texts are times, as ISO 8601 in UTC."""
    key: str = ""
    """The key of the sweep whose values it shows."""
    words: frozenset[str] = frozenset()
    """The only texts that it can have; empty: any."""

    @property
    def left(self) -> bool:
        """Whether its texts begin at one edge, as words do; numbers end at one."""
        return self.name in _LEFT


def columns_of(subjects: Sequence[Subject]) -> dict[str, Column]:
    """Every column that a table of these jobs can have, by name.

    These are what is known of all jobs, the last values of further metrics, and what the sweep sets.
    """
    return {**_COLUMNS, **metrics(subjects), **parameters(subject.spec for subject in subjects)}


def metrics(subjects: Iterable[Subject]) -> dict[str, Column]:
    """A column for each metric that has none of its name yet, with its last value."""
    names = dict.fromkeys(name for subject in subjects for name in subject.job.logs.series.points)
    return {name: _last(name) for name in names if name not in _COLUMNS}


def _last(metric: str) -> Column:
    def value(subject: Subject) -> float | None:
        return subject.series.last(subject.job, metric) if subject.series else None

    return Column(metric, value, lambda subject: "" if (found := value(subject)) is None else f"{found:.6g}")


def parameters(specs: Iterable[JobSpec | None]) -> dict[str, Column]:
    """A column for each key that the sweep sets, by as many last parts of its name as distinguish it."""
    keys = list(dict.fromkeys(key for spec in specs if spec for key in spec.parameters if key != "stage"))
    found = dict[str, Column]()
    for key in keys:
        ends = [".".join(key.split(".")[-parts:]) for parts in range(1, key.count(".") + 2)]
        own = (end for end in ends if end not in _COLUMNS and sum(f".{k}".endswith(f".{end}") for k in keys) == 1)
        name = next(own, f"{key} (swept)")
        found[name] = _parameter(name, key)
    return found


def swept(subjects: Sequence[Subject]) -> list[Column]:
    """The columns of what differs from job to job, but for names and places; those of the grids first."""
    specs = [subject.spec for subject in subjects if subject.spec]
    found = [column for column in parameters(specs).values() if _varies(column.key, specs)]
    return sorted(found, key=lambda column: not any(column.key in spec.coords for spec in specs))


def _varies(key: str, specs: Sequence[JobSpec]) -> bool:
    values = [spec.parameters.get(key) for spec in specs]
    plain = all(isinstance(value, str | int | float | None) for value in values)
    words = [(value, spec.name) for value, spec in zip(values, specs, strict=True) if isinstance(value, str)]
    places = any(name in value or "${" in value or value.startswith("/") for value, name in words)
    return plain and not places and len({json.dumps(value) for value in values}) > 1


def _parameter(name: str, key: str) -> Column:
    def value(subject: Subject) -> Value:
        found: Any = redact({key: subject.spec.parameters.get(key)})[key] if subject.spec else None
        return found if isinstance(found, str | int | float | None) else json.dumps(found)

    def shown(subject: Subject) -> str:
        found = value(subject)
        return "" if found is None else " ".join(scalar(found).split())

    return Column(name, value, shown, is_number=False, key=key)


# ---------------------------------------------------------------------------------------------------------------------
# What is known of every job.


def _loss(subject: Subject) -> float | None:
    progress = subject.job.progress
    return progress.loss if progress.loss is not None else progress.validation_loss


def _loss_text(subject: Subject) -> str:
    loss = _loss(subject)
    return "" if loss is None else f"{rounded(loss, 4)}{' (val)' if subject.job.progress.loss is None else ''}"


def _iterations(subject: Subject) -> str:
    progress = subject.job.progress
    return "" if progress.iteration is None else f"{progress.iteration}/{progress.total or '?'}"


def _progress(subject: Subject) -> str:
    part = share(subject.job)
    return "" if part is None else f"{bar(part, _BAR)} {int(100 * part):3} %"


def _elapsed(subject: Subject) -> Value:
    start, end = subject.job.newest.started_at, subject.job.newest.ended_at
    return None if start is None else round(max(0.0, (end or subject.now) - start), 3)


def _left(subject: Subject) -> Value:
    return subject.job.progress.seconds_left if subject.job.state == RUNNING else None


def duration(seconds: float) -> str:
    """`0:07`, `1:02:03`: minutes and seconds, with the hours where there are some."""
    hours, rest = divmod(max(0, int(seconds)), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _text(name: str, value: Callable[[Subject], Value], words: Iterable[str] = ()) -> Column:
    return Column(name, value, lambda subject: str(value(subject) or ""), is_number=False, words=frozenset(words))


def _number(name: str, value: Callable[[Subject], Value], form: str = "") -> Column:
    def shown(subject: Subject) -> str:
        found = value(subject)
        return "" if found is None else format(found, form)

    return Column(name, value, shown)


def _measured(name: str, value: Callable[[Subject], float | None], digits: int) -> Column:
    def shown(subject: Subject) -> str:
        found = value(subject)
        return "" if found is None else rounded(found, digits)

    return Column(name, value, shown)


_PLAIN_BELOW = 1e7


def rounded(value: float, digits: int) -> str:
    """A measured number with so many digits behind the point, or with an exponent: `0.0000` would hide 5e-09."""
    least = min(0.1, 10.0 ** (1 - digits))
    if value == 0 or not math.isfinite(value) or least <= abs(value) < _PLAIN_BELOW:
        return f"{value:.{digits}f}"
    return f"{value:.2e}"


def _length(name: str, value: Callable[[Subject], Value]) -> Column:
    def shown(subject: Subject) -> str:
        found = value(subject)
        return "" if found is None else duration(float(found))

    return Column(name, value, shown, seconds=True)


def _moment(name: str, at: Callable[[JobState], float | None]) -> Column:
    """A time as ISO 8601 in UTC."""

    def value(subject: Subject) -> Value:
        seconds = at(subject.job)
        return None if seconds is None else in_utc(seconds)

    return replace(_text(name, value), is_time=True)


def in_utc(seconds: float) -> str:
    """A time, in seconds since 1970, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(max(0.0, min(seconds, _LATEST)), UTC).isoformat(timespec="seconds")


_ALL = (
    _text("job", lambda s: s.job.name),
    _text("state", lambda s: s.job.state, OURS),
    _text("stage", lambda s: s.spec.stage if s.spec else None),
    _number("index", lambda s: s.spec.index if s.spec else None),
    Column("iterations", lambda s: s.job.progress.iteration, _iterations),
    Column("progress", lambda s: share(s.job), _progress),
    _number("total", lambda s: s.job.progress.total),
    Column("loss", _loss, _loss_text),
    Column(
        "trend", lambda _: None, lambda s: s.series.trend(s.job) if s.series else "", is_number=False, cells=TREND_CELLS
    ),
    _measured("val_loss", lambda s: s.job.progress.validation_loss, 4),
    _measured("grad_norm", lambda s: s.job.progress.grad_norm, 3),
    _measured("tflops_per_gpu", lambda s: s.job.progress.throughput, 1),
    _length("time", _elapsed),
    _length("left", _left),
    _number("attempt", lambda s: s.job.attempt),
    _number("exit_code", lambda s: s.job.answer.exit_code),
    _number("gpu_hours", lambda s: round(s.job.past.gpu_hours, 4), ",.1f"),
    _number("saved", lambda s: s.job.progress.saved_iteration),
    _text("id", lambda s: s.job.newest.scheduler_id),
    _text("nodes", lambda s: s.job.answer.nodes),
    _text("left_out", lambda s: ",".join(s.job.newest.left_out)),
    _moment("submitted", lambda job: job.newest.submitted_at),
    _moment("started", lambda job: job.newest.started_at),
    _moment("ended", lambda job: job.newest.ended_at),
    _text("log", lambda s: s.job.logs.resolved_log_path),
    _text("category", lambda s: s.job.run.cause.category if s.job.run.cause else None, CATEGORIES),
    _text("fingerprint", lambda s: s.job.run.cause.fingerprint if s.job.run.cause else None),
    _text("cause", lambda s: "; ".join(filter(None, [*links(s.job, s.spec), cause(s.job, s.quoted, s.now)]))),
)
_COLUMNS: Mapping[str, Column] = {column.name: column for column in _ALL}
