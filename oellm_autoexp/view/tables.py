"""What people see of plans and sessions: plain data in, rich renderables out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.states import CANCELLED, FINAL, IN_QUEUE, PENDING, RUNNING, SUBMITTING, SUCCESS, WAITING
from oellm_autoexp.core.text import plural, printable
from oellm_autoexp.planning.budget import Budget
from oellm_autoexp.session.job_state import JobState, counts
from oellm_autoexp.session.session import Session
from oellm_autoexp.session.waits import Wait, only_actions_wait, waits
from oellm_autoexp.view.names import short_names
from oellm_autoexp.view.shown import Shown
from oellm_autoexp.view.waiting import action_count, until, waiting_lines

_COLOURS = {SUCCESS: "green", RUNNING: "cyan", CANCELLED: "yellow", WAITING: "dim"}
_MOST_ROWS = 40
"""What a watch leaves behind where no terminal has a height."""
_SAID_BELOW = 14
"""Lines that stand below the table at the end of a watch: logs, the headline, what waits, what to do next."""
_LIVE_MESSAGES = 5
_LIVE_WAITS = 3
ONLY_ACTIONS_WAIT = "every job has ended: this waits for actions alone (--cmd skip gives up those that wait)"


def session_table(
    session: Session, *, limit: int | None = None, logs: bool = True, more: str = "", now: float | None = None
) -> RenderableType:
    """Every job: state, iterations, loss, time, log; with a `limit`, those that run or failed first.

    Columns for what only some programs tell are there when a job told it. What does not fit the screen is left out or
    shortened: first those columns, then the logs, of which a few follow below the table (`logs`), then what the names
    have in common. `more` is said behind the number of jobs that are left out.
    """
    jobs = list(session.jobs.values())
    shown = jobs if limit is None or len(jobs) <= limit else sorted(jobs, key=_interest)[:limit]
    rows = [_cells(job, now) for job in shown]
    left_out = len(jobs) - len(shown)
    rest = f"… and {left_out} more{f' ({more})' if more else ''}" if left_out else ""
    paths = [job.logs.resolved_log_path for job in sorted(jobs, key=_interest)] if logs else []
    return _JobTable(rows, rest, list(filter(None, paths)))


class _JobTable:
    """Rows of cells by column, in as many columns as the screen has room for."""

    def __init__(self, rows: Sequence[Mapping[str, str | Text]], more: str, logs: Sequence[str]) -> None:
        self._rows = rows
        self._more = more
        self._logs = logs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = [name for name in _COLUMNS if name not in _OPTIONAL or any(row[name] for row in self._rows)]
        dropped = iter((*_OPTIONAL, "log"))
        while (room := options.max_width - self._width(names)) < 0 and (name := next(dropped, None)):
            names = [other for other in names if other != name]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in names:
            left = name in ("job", "state", "log")
            table.add_column(name, justify="left" if left else "right", no_wrap=name not in ("state", "log"))
        longest = max(_SHORTEST_NAME, self._column("job") + min(room, 0))
        short = dict(enumerate(short_names([str(row["job"]) for row in self._rows], longest)))
        for number, row in enumerate(self._rows):
            table.add_row(*(short[number] if name == "job" else row[name] for name in names))
        yield table
        if self._more:
            yield Text(self._more, no_wrap=True, overflow="ignore")
        if "log" not in names:
            for path in self._logs[:_LOGS_BELOW]:
                yield Text(f"log  {path}", style="dim", no_wrap=True, overflow="ignore")
            if (left_out := len(self._logs) - _LOGS_BELOW) > 0:
                yield Text(f"… and {left_out} more logs (--cmd status --json names all)", style="dim")

    def _width(self, names: Sequence[str]) -> int:
        return sum(map(self._column, names)) + _GAP * (len(names) - 1)

    def _column(self, name: str) -> int:
        """The cells that a column needs; a state may be told in several lines."""
        width = max(map(cell_len, [name, *(str(row[name]) for row in self._rows)]))
        return min(width, _WIDEST_STATE) if name == "state" else width


_COLUMNS = ("job", "state", "iterations", "loss", "grad norm", "TFLOP/s/GPU", "time", "left", "log")
_OPTIONAL = ("grad norm", "TFLOP/s/GPU", "left")
_GAP, _SHORTEST_NAME, _WIDEST_STATE, _LOGS_BELOW = 2, 12, 28, 4


def _interest(job: JobState) -> int:
    if job.state in FINAL:
        return 3 if job.state == SUCCESS else 1
    return 0 if job.state == RUNNING else 2


def _cells(job: JobState, now: float | None) -> dict[str, str | Text]:
    """One job's cells, by column; those of optional columns are empty where there is nothing to tell."""
    state = Text(job.state, style=_COLOURS.get(job.state, "red" if job.state in FINAL else ""))
    if code := _code(job):
        state.append(f" ({code})")
    notes = [*(_why(job, now) if job.state != SUCCESS else []), *filter(None, [action_count(waits([job]))])]
    if notes:
        state.append(f" {', '.join(notes)}", style="dim")
    if off := ", ".join(job.run.switched_off):
        state.append(f" rule switched off, its pattern takes too long: {off}", style="yellow")
    progress = job.progress
    loss = progress.loss if progress.loss is not None else progress.validation_loss
    whose = " (val)" if progress.loss is None else ""
    left = progress.seconds_left if job.state == RUNNING else None
    return {
        "job": job.name,
        "state": state,
        "iterations": "" if progress.iteration is None else f"{progress.iteration}/{progress.total or '?'}",
        "loss": "" if loss is None else f"{loss:.4f}{whose}",
        "grad norm": "" if progress.grad_norm is None else f"{progress.grad_norm:.3f}",
        "TFLOP/s/GPU": "" if progress.throughput is None else f"{progress.throughput:.1f}",
        "time": _elapsed(job, now),
        "left": "" if left is None else _duration(left),
        "log": Text(job.logs.resolved_log_path, style="dim", overflow="fold"),
    }


_SAID_BY_THE_CODE = "NonZeroExitCode"


def causes(job: JobState) -> list[str]:
    """Why a job is in its state, in few words: its exit code, the rule that named its trouble, the reason, how long."""
    return [word for word in (_code(job), *_why(job)) if word]


def _code(job: JobState) -> str:
    """The exit code, where it tells something: that of a job which we have ended (143) is our own doing."""
    code = job.answer.exit_code
    return f"exit {code}" if code and job.state != SUCCESS and not job.cancelled_by else ""


def _why(job: JobState, now: float | None = None) -> list[str]:
    rule = job.run.error_type if job.state != SUCCESS else ""
    if is_held(job):
        release = f"`scontrol release {job.newest.scheduler_id}`"
        whose = " of an administrator" if _HELD_BY_ADMIN in job.reason else ""
        why = f"; {_LAUNCH_FAILED}" if "launch" in job.reason.lower() else ""
        return [f"{job.reason}: it waits until {release}{whose}{why}"]
    reason = "" if job.state == RUNNING or (job.answer.exit_code and job.reason == _SAID_BY_THE_CODE) else job.reason
    unknown = job.state in IN_QUEUE and job.newest.missing_since is not None
    reason = f"{_UNKNOWN} ({reason})" if unknown and reason else _UNKNOWN if unknown else reason
    hindered = f"can't be watched in full: {job.problem}" if job.problem else ""
    deadline = job.waiting.deadline
    limit = until(deadline, now) if deadline and job.state in (WAITING, SUBMITTING) else ""
    words = (rule if rule != job.state else "", reason, job.run.not_restarted, hindered, limit)
    return [word for word in words if word]


_UNKNOWN = "the scheduler does not know it now; lost if that lasts for minutes without a sign of it"
_HELD_BY_ADMIN = "JobHeldAdmin"
"""A user's own `scontrol release` is denied then (scontrol(1), hold)."""
_LAUNCH_FAILED = "a node could not start it (its prolog, or its slurmd's log, tells why)"


def is_held(job: JobState) -> bool:
    """Whether SLURM keeps a job from starting until somebody lets it go.

    Its reasons are JobHeldUser, JobHeldAdmin, `launch failed requeued held` and `job requeued in held state`; newer
    ones have `_` for the blanks (slurm_protocol_defs.c, slurm.conf(5)).
    """
    return job.state == PENDING and "held" in job.reason.lower()


def _elapsed(job: JobState, now: float | None) -> str:
    start, end = job.newest.started_at, job.newest.ended_at
    return "" if start is None else _duration((end or now or time.time()) - start)


def _duration(seconds: float) -> str:
    hours, rest = divmod(max(0, int(seconds)), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def headline(session: Session) -> str:
    """`4 jobs: 2 running, 2 pending`."""
    parts = (f"{count} {state}" for state, count in counts(session.jobs.values()).items())
    used = sum(job.past.gpu_hours for job in session.jobs.values())
    ledger = f"; {used:,.1f} GPU-hours used by those that ended" if used else ""
    waiting = f"; {count}" if (count := action_count(waits(session.jobs.values()))) else ""
    return f"{plural(len(session.jobs), 'job')}: {', '.join(parts)}{ledger}{waiting}"


def waiting_text(found: Sequence[Wait], now: float | None = None) -> Text | None:
    """What waits, in lines below a table; None for nothing."""
    lines = waiting_lines(found, now=now)
    return Text("\n".join(["waiting:", *(f"  {line}" for line in lines)]), style="dim") if lines else None


def last_look(session: Session, everything: str) -> RenderableType:
    """A session's table as it is left behind: one screen of jobs; `everything` is the command that shows all."""
    screen = console()
    rows = max(_FEWEST_LINES, screen.size.height - _SAID_BELOW) if screen.is_terminal else _MOST_ROWS
    return session_table(session, limit=rows, more=f"all: {everything}")


def live(monitor: Shown) -> _Screenful:
    """What a running monitor shows."""
    parts: list[RenderableType] = [Text(headline(monitor.session))]
    actions = [wait for wait in waits(monitor.session.jobs.values()) if wait.kind == "action"]
    parts += [Text(line, style="dim") for line in waiting_lines(actions, most=_LIVE_WAITS)]
    if only_actions_wait(monitor.session.jobs.values()):
        parts.append(Text(ONLY_ACTIONS_WAIT, style="yellow"))
    parts += [Text(line, style="dim") for line in deque(monitor.messages, maxlen=_LIVE_MESSAGES)]
    if monitor.scheduler_error:
        parts.append(Text(f"the scheduler does not answer, waiting for it: {monitor.scheduler_error}", style="yellow"))
    if monitor.storage_error:
        parts.append(Text(f"can't go on, trying again: {monitor.storage_error}", style="yellow"))
    return _Screenful([(monitor.session, parts)])


def live_all(monitors: Iterable[Shown]) -> RenderableType:
    """What a monitor of several sessions shows."""
    screens = {monitor.manifest.plan_id: live(monitor) for monitor in monitors}
    titles = [Text(name, style="bold underline") for name in screens]
    return _Screenful([section for screen in screens.values() for section in screen.sections], titles)


class _Screenful:
    """Sessions' tables with what is said below each, cut to the height of the screen: rows go, the rest is told."""

    def __init__(
        self, sections: Sequence[tuple[Session, Sequence[RenderableType]]], titles: Sequence[RenderableType] = ()
    ) -> None:
        self.sections = sections
        self._titles = titles

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = len(self.sections)
        titles: list[RenderableType | None] = [*self._titles] or [None] * count
        fixed = [_lines(console, options, Group(*below)) for _, below in self.sections]
        room = console.size.height - 1 - sum(fixed) - 2 * len(self._titles)
        for number, (session, below) in enumerate(self.sections):
            share = max(_FEWEST_LINES, room // (count - number))
            table = _fitting(console, options, session, share)
            room -= _lines(console, options, table)
            if (title := titles[number]) is not None:
                yield title
            yield table
            yield Group(*below)
            if title is not None:
                yield Text()


_FEWEST_LINES = 3
"""Of a session that is shown: the header, one job, and how many more there are."""


def _fitting(console: Console, options: ConsoleOptions, session: Session, height: int) -> RenderableType:
    """A session's table of at most so many lines, where its first row lets it."""
    limit = max(1, min(len(session.jobs), height - 1))
    while True:
        table = session_table(session, limit=limit, logs=False)
        over = _lines(console, options, table) - height
        if over <= 0 or limit == 1:
            return table
        limit = max(1, limit - over)


def _lines(console: Console, options: ConsoleOptions, what: RenderableType) -> int:
    return len(console.render_lines(what, options.update(height=None), pad=False))


def plan_summary(manifest: Manifest) -> Table:
    """Stages of a plan: jobs, nodes, GPU-hours at most."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "jobs", "nodes", "GPUs", "GPU-hours"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    stages: dict[str, list[int]] = {}
    for number, job in enumerate(manifest.jobs):
        stages.setdefault(job.stage or "-", []).append(number)
    for stage, numbers in stages.items():
        jobs = [manifest.jobs[number] for number in numbers]
        hours = [job.gpu_hours for job in jobs]
        known = sum(hour for hour in hours if hour is not None)
        table.add_row(
            stage,
            str(len(jobs)),
            _span(job.resources.nodes for job in jobs),
            _span(job.resources.gpus for job in jobs),
            "no limit" if None in hours else f"{known:,.1f}",
        )
    if len(stages) > 1:
        whole = Budget.of(manifest)
        hours_text = "no limit" if whole.unlimited else f"{whole.gpu_hours:,.1f}"
        table.add_row("total", str(len(manifest.jobs)), "", "", hours_text, style="bold")
    return table


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


class _Screen(Console):
    """A console whose terminal obeys nothing that stands in what is shown: it may come from a log.

    A reader who has gone is the command's to handle, as with any other output.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """See Console.render."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """See Console.on_broken_pipe."""
        raise  # the BrokenPipeError during which rich calls this


def console(*, stderr: bool = False) -> Console:
    """The one place where consoles are made: into files and pipes no colours, and lines as long as they are."""
    made = _Screen(stderr=stderr, highlight=False, markup=False)
    return made if made.is_terminal else _Screen(stderr=stderr, highlight=False, markup=False, width=10_000)
