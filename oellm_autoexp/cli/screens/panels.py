"""What stands in the panels of a session's window: the log of a job, its events, its curves, the queue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from oellm_autoexp.cli.monitor.show_events import rows
from oellm_autoexp.cli.monitor.show_logs import last_lines
from oellm_autoexp.cli.screens.show_plot import COLOURS
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.text import printable
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.view.curves.plot import Curve, Frame, draw
from oellm_autoexp.view.events import event_cells
from oellm_autoexp.view.jobs.cause import cause
from oellm_autoexp.view.metrics import metrics_of, series_of
from oellm_autoexp.view.queue import few_words, status

if TYPE_CHECKING:
    from oellm_autoexp.session.job_state import JobState
    from oellm_autoexp.session.session import Session

_LOG_LINES, _EVENTS, _ENTRIES = 500, 200, 200


def about(job: JobState, quoted: str) -> str:
    """A job's state, why it ended, and where its log is."""
    path, why = job.logs.resolved_log_path, cause(job, quoted)
    return printable(f"{job.name}: {job.state}{f': {why}' if why else ''}{f'  ({path})' if path else ''}")


def log_lines(job: JobState) -> list[str]:
    """The last lines of a job's log, without secrets."""
    path = job.logs.resolved_log_path
    return last_lines(Path(path), _LOG_LINES) if path else ["no log yet"]


def event_lines(session: Session, job: JobState) -> list[str]:
    """A job's newest events, and what became of their actions."""
    try:
        log = EventLog(session.path)
        found = log.histories(lambda event: event["job"] == job.name, newest_first=True, most=_EVENTS)
        lines = ["  ".join(filter(None, event_cells(row))) for row in rows(session, found.shown)]
    except AutoexpError as error:
        lines = [problem.sentence for problem in error.problems]
    return [printable(line) for line in lines] or ["no events"]


def queue_lines(session: Session) -> list[str]:
    """The entries of the session's queue that wait or run."""
    problems: list[str] = []
    queue = Queue(session.path)
    entries = queue.entries(report=lambda error: problems.append(error.problems[0].sentence))
    lines = [
        f"{status(one, queue.worker_of(one)):<10} {one.event.job}: {few_words(one.action)} of {one.event.name}"
        for one in entries[:_ENTRIES]
    ]
    return [printable(line) for line in [*problems, *lines]] or ["nothing waits in the queue"]


def curves(session: Session, job: JobState, metric: str, width: int, height: int) -> Text:
    """One metric of a job as a picture, with the names of the others."""
    known = metrics_of([job])
    if not known:
        return Text("no log line has reported a number yet")
    try:
        series = series_of(session, job, metric)
    except (OSError, AutoexpError) as error:
        return Text(str(error))
    if series is None:
        return Text(f"no points of {metric}; there are: {', '.join(known)} (m: the next one)")
    picture = draw([Curve(job.name, series.iterations, series.values)], Frame(width, height - 1))
    text = Text(f"{metric} over iterations (m: the next of {len(known)})\n", no_wrap=True)
    for line in picture:
        for part, curve in line:
            text.append(part, style="" if curve is None else COLOURS[curve % len(COLOURS)])
        text.append("\n")
    return text
