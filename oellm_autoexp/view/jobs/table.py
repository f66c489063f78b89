"""A table of jobs that fits a width and a height: columns are left out and shortened, why a job ended stands below it.

All rows with all columns are written by `rows_in_full`, for files and programs that read lines.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.states import BAD_ENDS, BLOCKED, CANCELLED, FINAL, RUNNING, SUCCESS, WAITING
from oellm_autoexp.core.text import printable
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.view.jobs.cause import is_held
from oellm_autoexp.view.jobs.columns import Column, JobSeries, Subject, columns_of, metrics, parameters, swept
from oellm_autoexp.view.jobs.names import short_names

COLOURS = {SUCCESS: "green", RUNNING: "cyan", CANCELLED: "yellow", BLOCKED: "yellow", WAITING: "dim"}
_PLAIN = (
    "job",
    "state",
    "progress",
    "iterations",
    "loss",
    "trend",
    "grad_norm",
    "tflops_per_gpu",
    "time",
    "left",
    "log",
)
_FIRST_DROPPED = ("log", "tflops_per_gpu", "grad_norm")
_MOST_SWEPT = 4
_GAP, _SHORTEST_NAME, _NAME_BESIDE_NOTE, _SHORT_NAME, _LOGS_BELOW = 2, 12, 16, 24, 4
_INDENT = 4
_SHORT_NOTE = 24
"""Cells of a note for which names are shortened, so that it stands behind its row, and not below."""
_LEAST_ROOM = 24
"""Cells behind a row in which the beginning of a note is worth telling."""


def subjects_of(
    jobs: Iterable[JobState],
    specs: Iterable[JobSpec],
    now: float,
    quotes: Mapping[str, str] | None = None,
    series: JobSeries | None = None,
) -> list[Subject]:
    """Jobs with what their plan, their logs (`quotes`, by job) and their series say of them."""
    planned = {spec.name: spec for spec in specs}
    return [Subject(job, now, planned.get(job.name), (quotes or {}).get(job.name, ""), series) for job in jobs]


def colour(state: str) -> str:
    """The style of a state."""
    return COLOURS.get(state, "red" if state in BAD_ENDS else "")


def by_interest(subjects: Sequence[Subject]) -> list[Subject]:
    """Those that failed first, the newest of them before; then those that are blocked, run, wait, were cancelled, and
    succeeded.
    """

    def rank(subject: Subject) -> tuple[int, float]:
        job = subject.job
        if job.failed:
            return 0, -(job.newest.ended_at or 0)
        if job.state in FINAL:
            return (5 if job.state == SUCCESS else 4), 0
        return {BLOCKED: 1, RUNNING: 2}.get(job.state, 3), 0

    return sorted(subjects, key=rank)


@dataclass(frozen=True, kw_only=True)
class JobTable:
    """Jobs, a row each. `columns` None: those that have a value and fit.

    `height`: at most so many lines; which jobs are shown is then by interest, unless they are `in_order`, and `more`
    is said behind the number of those that are left out. `note_lines`: how many lines the cause of one job may take;
    one where jobs are left out.
    `logs`: a few logs stand below where there is no room for their column.
    """

    subjects: Sequence[Subject]
    columns: Sequence[Column] | None = None
    height: int | None = None
    more: str = ""
    note_lines: int = 3
    logs: bool = True
    in_order: bool = False
    hidden: Sequence[str] = ("progress",)
    """Columns that are not shown unless they are asked for."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(console, options.max_width)

    def lines(self, console: Console, width: int) -> list[Text]:
        """The table in lines of at most `width` cells."""
        if (
            self.height is not None and len(self.subjects) >= self.height
        ):  # none of the rest need be asked for its cells
            return self._cut(console, width, self.height)
        whole = _Grid(console, self.subjects, self._columns(), width, self.note_lines, fixed=self.columns is not None)
        lines = [whole.header(), *(line for group in whole.groups() for line in group)]
        if self.height is None or len(lines) <= self.height:
            spare = None if self.height is None else self.height - len(lines)
            return [*lines, *self._logs_below(whole, spare)]
        return self._cut(console, width, self.height)

    def _cut(self, console: Console, width: int, height: int) -> list[Text]:
        """The header, the jobs that have room, and how many more there are."""
        order = list(self.subjects) if self.in_order else by_interest(self.subjects)
        failed = [] if self.in_order else [subject for subject in order if subject.job.failed]
        first = [*failed[:height], *order[len(failed) : len(failed) + height]]
        grid = _Grid(console, first, self._columns(), width, 1, fixed=self.columns is not None)
        groups = list(grid.groups())
        ended = sum(subject.job.state in FINAL for subject in first[len(failed) :])
        counts = min(len(failed), height), len(groups) - ended
        shown = _with_room(groups, *counts, max(1, height - 2))
        lines = [grid.header(), *(line for number in shown for line in groups[number])][: max(2, height - 1)]
        if left_out := len(self.subjects) - len(shown):
            bad = sum(subject.job.failed for subject in order) - sum(first[number].job.failed for number in shown)
            of_these = f" ({bad} failed)" if bad else ""
            more = f": {self.more}" if self.more else ""
            lines.append(Text(f"… and {left_out} more{of_these}{more}", no_wrap=True, overflow="ignore"))
        return lines

    def _columns(self) -> list[Column]:
        if self.columns is not None:
            return list(self.columns)
        return default_columns(self.subjects, self.hidden)

    def _logs_below(self, grid: _Grid, spare: int | None) -> Iterator[Text]:
        paths = [subject.job.logs.resolved_log_path for subject in by_interest(self.subjects)]
        paths = [path for path in paths if path] if self.logs and not grid.has("log") and self.columns is None else []
        if spare is not None and spare < min(len(paths), _LOGS_BELOW + 1):
            return
        for path in paths[:_LOGS_BELOW]:
            yield Text(f"log  {path}", style="dim", no_wrap=True, overflow="ignore")
        if (left_out := len(paths) - _LOGS_BELOW) > 0:
            yield Text(f"… and {left_out} more logs (--wide shows all)", style="dim")


def _with_room(groups: Sequence[Sequence[Text]], failed: int, before_ended: int, room: int) -> list[int]:
    """The jobs whose lines fit, by their numbers.

    The first ones `failed`, and those up to `before_ended` have not ended: these get half of the room if they need it.
    """
    found: set[int] = set()
    left = room

    def take(numbers: Iterable[int], most: int) -> None:
        nonlocal left
        for number in numbers:
            most -= len(groups[number])
            if most < 0 and found:
                return
            found.add(number)
            left -= len(groups[number])

    needed = sum(map(len, groups[failed:before_ended]))
    take(range(failed), room - min(needed, room // 2))
    take(range(failed, len(groups)), left)
    take((number for number in range(failed) if number not in found), left)
    return sorted(found)


def default_columns(subjects: Sequence[Subject], hidden: Sequence[str] = ("progress",)) -> list[Column]:
    """The columns that have a value for these jobs, with what the sweep varies where that is little."""
    known = columns_of(subjects)
    varied = swept(subjects)
    names = list(_PLAIN)
    names[3:3] = [column.name for column in varied if len(varied) <= _MOST_SWEPT]
    wanted = [known[name] for name in names if name not in hidden]
    filled = [column for column in wanted if any(column.shown(subject) for subject in subjects)]
    return filled or [known["job"], known["state"]]


class _Grid:
    """Rows in columns of one width; a job's cause stands behind its row where there is room, else below."""

    def __init__(
        self,
        console: Console,
        subjects: Sequence[Subject],
        columns: Sequence[Column],
        width: int,
        note_lines: int,
        *,
        fixed: bool = False,
    ) -> None:
        self._console, self._subjects, self._width, self._note_lines = console, subjects, width, note_lines
        self._cells = {column.name: self._texts(column) for column in columns if not column.cells}
        self._known = {column.name: column.cells for column in columns if column.cells}
        self._columns = list(columns)
        causes = columns_of(())["cause"]
        self._notes = ["" if fixed else _one_line(causes.shown(subject)) for subject in subjects]
        if not fixed:
            if self._total() + self._note_room() > width:
                self._columns = [column for column in self._columns if column.name != "log"]
            self._drop(_FIRST_DROPPED, self._widest("job"))
            given = ("left", "trend", "progress", *(column.name for column in reversed(columns) if column.key), "stage")
            self._drop(given, _SHORT_NAME)
        self._cells |= {column.name: self._texts(column) for column in self._columns if column.cells}
        if self.has("job"):
            self._cells["job"] = short_names(self._cells["job"], self._longest_name())
            del self._known["job"]
        self._widths = {column.name: self._widest(column.name) for column in self._columns}
        if fixed:
            self._shrink()

    def _texts(self, column: Column) -> list[str]:
        return [_one_line(column.shown(subject)) for subject in self._subjects]

    def has(self, name: str) -> bool:
        """Whether a column is shown."""
        return any(column.name == name for column in self._columns)

    def header(self) -> Text:
        """The names of the columns."""
        return Text(self._row({column.name: column.name for column in self._columns}).plain.rstrip(), style="bold")

    def groups(self) -> Iterator[list[Text]]:
        """The lines of each job: its row, and its cause."""
        room = self._width - sum(self._widths.values()) - _GAP * len(self._widths)
        for number, (subject, note) in enumerate(zip(self._subjects, self._notes, strict=True)):
            row = self._row({name: cells[number] for name, cells in self._cells.items()}, subject.job.state)
            style = _note_style(subject.job)
            if note and (cell_len(note) <= room or (room >= _LEAST_ROOM and not _in_full(subject.job))):
                yield [Text.assemble(row, " " * _GAP, (_cut(note, room), style))]
                continue
            row.rstrip()
            yield [row, *(self._below(note, style) if note else ())]

    def _below(self, note: str, style: str) -> list[Text]:
        room = max(20, self._width - _INDENT)
        lines = list(Text(note, style=style).wrap(self._console, room))
        kept = lines[: self._note_lines]
        if len(lines) > len(kept):
            kept[-1] = Text(f"{kept[-1].plain.rstrip()[: room - 2]} …", style=style)
        for line in kept:
            line.rstrip()
        return [Text.assemble(" " * _INDENT, line) for line in kept]

    def _note_room(self) -> int:
        """The cells that short notes need behind their rows."""
        lengths = [cell_len(note) for note in self._notes]
        kept = [_in_full(subject.job) for subject in self._subjects]
        wanted = [length if whole else min(length, _SHORT_NOTE) for length, whole in zip(lengths, kept, strict=True)]
        short = max((length for length in wanted if length <= _SHORT_NOTE), default=0)
        return short + _GAP if short else 0

    def _longest_name(self) -> int:
        """The cells that a name may take: whole if there is room, shortened for other columns and for short notes."""
        widest, total = self._widest("job"), self._total()
        with_note = widest - max(0, total + self._note_room() - self._width)
        alone = widest - max(0, total - self._width)
        return max(_SHORTEST_NAME, min(alone, max(with_note, _NAME_BESIDE_NOTE)))

    def _row(self, cells: Mapping[str, str], state: str = "") -> Text:
        row = Text(no_wrap=True, overflow="ignore")
        for number, column in enumerate(self._columns):
            cell, width = _cut(cells.get(column.name, ""), self._widths[column.name]), self._widths[column.name]
            blanks = " " * (width - cell_len(cell))
            style = colour(state) if column.name == "state" else "dim" if column.name == "log" and state else ""
            row.append(" " * _GAP * bool(number))
            row.append(cell + blanks if column.left else blanks + cell, style=style)
        return row

    def _widest(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = max(map(cell_len, [name, *self._cells.get(name, ())]))
        return self._known[name]

    def _total(self, job: int | None = None) -> int:
        """The cells that the columns need, with names of at most `job`."""
        widths = [
            min(self._widest(column.name), job) if column.name == "job" and job else self._widest(column.name)
            for column in self._columns
        ]
        return sum(widths) + _GAP * (len(widths) - 1)

    def _drop(self, names: Sequence[str], longest_name: int) -> None:
        """Leave out columns, the first ones first, until the others fit with names of that length."""
        for name in names:
            if self._total(longest_name) <= self._width:
                return
            self._columns = [column for column in self._columns if column.name != name]

    def _shrink(self) -> None:
        """Make the widest columns narrower until all of them fit."""
        least = {name: min(width, max(cell_len(name), 6)) for name, width in self._widths.items()}
        while sum(self._widths.values()) + _GAP * (len(self._widths) - 1) > self._width:
            name = max(self._widths, key=lambda name: self._widths[name] - least[name])
            if self._widths[name] <= least[name]:
                return
            self._widths[name] -= 1


def _in_full(job: JobState) -> bool:
    """Whether a person needs all of what is shown of a job: to find what is wrong, or the command that lets it go."""
    return job.failed or job.state == BLOCKED or is_held(job) or bool(job.problem or job.run.switched_off)


def _note_style(job: JobState) -> str:
    return "yellow" if job.problem or job.run.switched_off else "dim"


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _cut(text: str, width: int) -> str:
    """A text of at most so many cells."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


# ---------------------------------------------------------------------------------------------------------------------
# All of it.


def rows_in_full(subjects: Sequence[Subject], columns: Sequence[Column] | None = None) -> Iterator[str]:
    """The header and a line for each job, as long as it is, with its log and its cause at the end."""
    cause = columns_of(subjects)["cause"]
    shown = [*default_columns(subjects), *([cause] if any(map(cause.shown, subjects)) else [])]
    picked = list(columns) if columns is not None else shown
    table = [[column.name for column in picked]]
    table += [[_one_line(column.shown(subject)) for column in picked] for subject in subjects]
    widths = [max(map(cell_len, cells)) for cells in zip(*table, strict=True)]
    for row in table:
        padded = (
            f"{cell}{' ' * (width - cell_len(cell))}" if column.left else f"{' ' * (width - cell_len(cell))}{cell}"
            for cell, width, column in zip(row, widths, picked, strict=True)
        )
        yield (" " * _GAP).join(padded).rstrip()


def as_csv(sessions: Sequence[tuple[str, Sequence[Subject]]], columns: Sequence[str] | None = None) -> str:
    """The jobs of sessions (each with its plan's id), a row each; numbers are not rounded.

    `columns` None: all but those of metrics whose series would have to be read.

    Times are in seconds, moments in ISO 8601; what is not known is empty.
    """
    everyone = [subject for _, subjects in sessions for subject in subjects]
    known = columns_of(everyone)
    of_sweep = parameters(subject.spec for subject in everyone)
    everything = [name for name in known if name not in (*of_sweep, *metrics(everyone), "trend")]
    names = list(columns) if columns is not None else [*everything, *of_sweep]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["session", *names])
    for plan_id, subjects in sessions:
        for subject in subjects:
            values = [known[name].value(subject) for name in names]
            writer.writerow([plan_id, *("" if value is None else value for value in values)])
    return out.getvalue()
