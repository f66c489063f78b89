"""What people see of plans and sessions: plain data in, rich renderables out."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.text import plural, printable
from oellm_autoexp.planning.budget import Budget
from oellm_autoexp.session.session import Session
from oellm_autoexp.session.waits import Wait, waits
from oellm_autoexp.view.curves.sparkline import ASCII, BLOCKS, can_encode
from oellm_autoexp.view.evidence import quotes
from oellm_autoexp.view.jobs.table import JobTable, subjects_of
from oellm_autoexp.view.jobs.waiting import action_count, waiting_lines
from oellm_autoexp.view.metrics import Trends

_MOST_LINES = 80
"""Of a table that a watch leaves behind where no terminal has a height."""
_FEWEST_LINES = 3
"""Of a session that is shown: the header, one job, and how many more there are."""
_PLAIN_WIDTH = 80
"""Cells of a table where no terminal has a width."""


def headline(session: Session) -> str:
    """`4 jobs: 2 running, 2 pending`."""
    parts = (f"{count} {state}" for state, count in Counter(job.state for job in session.jobs.values()).items())
    used = sum(job.past.gpu_hours for job in session.jobs.values())
    ledger = f"; {used:,.1f} GPU-hours used by those that ended" if used else ""
    waiting = f"; {count}" if (count := action_count(waits(session.jobs.values()))) else ""
    held = f"; jobs that have not begun are held: {session.hold.reason}" if session.hold.fingerprint else ""
    nodes = sorted({node for job in session.jobs.values() for node in job.newest.left_out})
    left_out = f"; left out: {', '.join(nodes)} (--cmd nodes)" if nodes else ""
    return f"{plural(len(session.jobs), 'job')}: {', '.join(parts)}{ledger}{waiting}{held}{left_out}"


def jobs_table(
    session: Session, specs: Iterable[JobSpec] = (), *, height: int | None = None, more: str = "", logs: bool = True
) -> JobTable:
    """A session's jobs, with why those that ended badly did, in at most so many lines (see JobTable)."""
    subjects = subjects_of(session.jobs.values(), specs, time.time(), quotes(session), Trends().of(session))
    return JobTable(subjects=subjects, height=height, more=more, logs=logs)


def print_session(
    session: Session, specs: Iterable[JobSpec], below: Sequence[str | Text], everything: str, *, whole: bool = False
) -> None:
    """Print a session as it is left behind: one screen of jobs, its summary, and what is said `below`.

    `everything` is the option that shows all of it; `whole`: into a pipe all jobs go.
    """
    screen = console()
    said = [headline(session), *below]
    height = room_for_table(screen, said)
    height = _MOST_LINES if height is None and not whole else height
    print_table(screen, jobs_table(session, specs, height=height, more=everything))
    for line in said:
        screen.print(line, soft_wrap=True)


def room_for_table(screen: Console, below: Iterable[str | Text]) -> int | None:
    """The lines that a terminal has for a table above what else is said; None where there is no terminal."""
    if not screen.is_terminal:
        return None
    lines = sum(len(screen.render_lines(line, pad=False)) for line in below)
    return max(_FEWEST_LINES, screen.size.height - lines - 1)


def print_table(screen: Console, table: JobTable) -> None:
    """Print a table of jobs in the width of the terminal; without one, in that of $COLUMNS, else 80."""
    if screen.is_terminal:
        screen.print(table, width=table_width(screen), crop=False)
        return
    for line in table.lines(screen, table_width(screen)):  # without styles, which rich takes long to leave out
        screen.file.write(f"{_shown(screen, line.plain)}\n")


def _shown(screen: Console, text: str) -> str:
    """A text as a console shows it."""
    return screen.sign(printable(text)) if isinstance(screen, _Screen) else printable(text)


def table_width(screen: Console) -> int:
    """The cells that a table may take."""
    if screen.is_terminal:
        return screen.width
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) >= 20 else _PLAIN_WIDTH


def waiting_text(found: Sequence[Wait], now: float | None = None) -> Text | None:
    """What waits, in lines below a table; None for nothing."""
    lines = waiting_lines(found, now=now)
    return Text("\n".join(["waiting:", *(f"  {line}" for line in lines)]), style="dim") if lines else None


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


_SIGNS = str.maketrans({**dict(zip(BLOCKS, ASCII, strict=True)), "░": ".", "…": "~", "–": "-", "�": "?"})


class _Screen(Console):
    """A console whose terminal obeys nothing that stands in what is shown: it may come from a log.

    A reader who has gone is the command's to handle, as with any other output.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """See Console.render."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(self.sign(printable(segment.text)), segment.style)

    def sign(self, text: str) -> str:
        """A text in which blocks and boxes are letters, where the terminal's encoding has none."""
        return text if text.isascii() or can_encode(self.encoding) else text.translate(_SIGNS)

    def on_broken_pipe(self) -> None:
        """See Console.on_broken_pipe."""
        raise  # the BrokenPipeError during which rich calls this


def console(*, stderr: bool = False) -> Console:
    """The one place where consoles are made: into files and pipes no colours, and lines as long as they are."""
    made = _Screen(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal:
        return _Screen(stderr=stderr, highlight=False, markup=False, width=10_000)
    if made.is_dumb_terminal:  # which has a size, too, and not always 80 x 25
        made.size = ConsoleDimensions(*shutil.get_terminal_size())
    return made
