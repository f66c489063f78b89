"""Tables for pandas and other programs: a row for each job, and one for each point of each metric. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oellm_autoexp.core.redaction import redact
from oellm_autoexp.report.document import Source
from oellm_autoexp.report.rows import Row, planned_row, row

Cells = dict[str, Any]
POINT_COLUMNS = ("session", "job", "metric", "iteration", "time", "value", "attempt")


def rows_of(source: Source) -> list[Row]:
    """A row for each job of a session (or of a plan that was not submitted), in the order of the plan."""
    plan, session = source.manifest.plan_id, source.session
    if session is None:
        return [planned_row(spec, plan) for spec in source.manifest.jobs]
    quotes = source.quotes
    return [row(spec, session.jobs[spec.name], plan, quotes.get(spec.name, "")) for spec in source.manifest.jobs]


def job_cells(rows: Sequence[Row]) -> list[Cells]:
    """Rows with a column for each swept key, by its dotted name, behind `stage`; every row has every column."""
    keys = list(dict.fromkeys(key for row in rows for key in row.parameters))
    made = []
    for each in rows:
        fields = {name: getattr(each, name) for name in Row.__dataclass_fields__ if name != "parameters"}
        swept = {key: _cell(each.parameters.get(key)) for key in keys}
        first = {name: fields.pop(name) for name in ("session", "name", "stage")}
        made.append({**first, **swept, **fields})
    return made


def _cell(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, dict | list | tuple) else value


def point_cells(source: Source) -> Iterator[tuple[Any, ...]]:
    """The points of every job and metric (POINT_COLUMNS), without those that a later attempt replaced."""
    if source.session is None:
        return
    plan = source.manifest.plan_id
    for spec in source.manifest.jobs:
        name = redact(spec.name)
        for metric, series in source.series(source.session.jobs[spec.name]).items():
            points = series.current()
            for point in zip(points.iterations, points.times, points.values, points.attempts, strict=True):
                iteration, time, value, attempt = point
                yield plan, name, metric, iteration, time, value, attempt


def as_csv(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> str:
    """CSV with a header; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def cells_as_csv(cells: Sequence[Mapping[str, Any]]) -> str:
    """The same, of rows that have the same columns."""
    return as_csv(list(cells[0]) if cells else [], (list(row.values()) for row in cells))
