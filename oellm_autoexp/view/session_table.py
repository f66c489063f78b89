"""A session as it is printed: its table of jobs in the room that a screen has, its summary, and what waits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.text import plural
from oellm_autoexp.decisions.holding import waits_for_release
from oellm_autoexp.session.session import Session
from oellm_autoexp.session.waits import Wait, waits
from oellm_autoexp.view.jobs.evidence import quotes
from oellm_autoexp.view.jobs.table import JobTable, subjects_of
from oellm_autoexp.view.jobs.waiting import action_count, waiting_lines
from oellm_autoexp.view.metrics import SeriesReader
from oellm_autoexp.view.tables import console, shown, table_width

_MOST_LINES = 80
"""Of a table that a watch leaves behind where no terminal has a height."""
_FEWEST_LINES = 3
"""Of a session that is shown: the header, one job, and how many more there are."""


def headline(session: Session) -> str:
    """`4 jobs: 2 running, 2 pending`."""
    parts = (f"{count} {state}" for state, count in Counter(job.state for job in session.jobs.values()).items())
    used = sum(job.past.gpu_hours for job in session.jobs.values())
    ledger = f"; {used:,.1f} GPU-hours used by those that ended" if used else ""
    waiting = f"; {count}" if (count := action_count(waits(session.jobs.values()))) else ""
    kept = sum(waits_for_release(job, session.hold) for job in session.jobs.values())
    held = f"; {kept} held, until --cmd release: {session.hold.reason}" if kept else ""
    nodes = sorted({node for job in session.jobs.values() for node in job.newest.left_out})
    left_out = f"; left out: {', '.join(nodes)} (--cmd nodes)" if nodes else ""
    return f"{plural(len(session.jobs), 'job')}: {', '.join(parts)}{ledger}{waiting}{held}{left_out}"


def jobs_table(
    session: Session, specs: Iterable[JobSpec] = (), *, height: int | None = None, more: str = "", logs: bool = True
) -> JobTable:
    """A session's jobs, with why those that ended badly did, in at most so many lines (see JobTable)."""
    subjects = subjects_of(session.jobs.values(), specs, time.time(), quotes(session), SeriesReader().of(session))
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
        screen.file.write(f"{shown(screen, line.plain)}\n")


def waiting_text(found: Sequence[Wait], now: float | None = None) -> Text | None:
    """What waits, in lines below a table; None for nothing."""
    lines = waiting_lines(found, now=now)
    return Text("\n".join(["waiting:", *(f"  {line}" for line in lines)]), style="dim") if lines else None
