"""monitor --cmd plot: curves of metrics in the terminal."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.monitor.ask_holder import named
from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem
from oellm_autoexp.core.text import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from oellm_autoexp.core.nouns import Manifest, Series
    from oellm_autoexp.session.job_state import JobState
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.view.curves.plot import Piece

_PLAIN_HEIGHT = 24
COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue", "bright_cyan", "bright_yellow", "bright_magenta")


def add_options(parser: app.Parser) -> None:
    """The options of the command."""
    group = parser.add_argument_group("curves (--cmd plot METRIC …)")
    group.add_argument("--log-scale", action="store_true", help="a logarithmic vertical axis")
    group.add_argument(
        "--x", choices=("iteration", "time"), default="", help="what is across: iterations (default) or hours"
    )


def plot(options: argparse.Namespace, manifest: Manifest, session: Session) -> int:
    """Draw each metric that is asked for: a curve for each job that has points of it."""
    jobs = [session.jobs[name] for name in _jobs(options, manifest, session)]
    metrics = options.metrics or ["loss"]
    _check(metrics, jobs)
    found = {metric: _series(session, jobs, metric) for metric in metrics}
    if options.json:
        facts = {metric: {name: _facts(series) for name, series in by_job.items()} for metric, by_job in found.items()}
        print(json.dumps({"plan_id": session.plan_id, "metrics": facts}))
        return app.OK
    for metric, by_job in found.items():
        _draw(options, metric, by_job, alone=len(found) == 1)
    return app.OK


def _jobs(options: argparse.Namespace, manifest: Manifest, session: Session) -> list[str]:
    """The jobs that --job and --filter mean. Raises ConfigError."""
    from oellm_autoexp.view.jobs.selection import chosen, selection
    from oellm_autoexp.view.jobs.table import subjects_of
    from oellm_autoexp.view.metrics import SeriesReader

    names = set(named(options, manifest))
    asked = selection(None, options.sort, options.filter)
    series = SeriesReader().of(session)
    subjects = chosen(asked, subjects_of(session.jobs.values(), manifest.jobs, time.time(), series=series))
    return [subject.job.name for subject in subjects if subject.job.name in names]


def _check(metrics: Sequence[str], jobs: Sequence[JobState]) -> None:
    """Return if some job has points of each metric. Raises ConfigError."""
    from oellm_autoexp.view.metrics import metrics_of

    known = metrics_of(jobs)
    for metric in metrics:
        if metric not in known:
            near = did_you_mean(metric, known)
            hint = near if near.startswith("did") or not known else f"known: {', '.join(known)}"
            nothing = "no log line has reported a number yet; monitoring.metrics names what to read of other lines"
            raise ConfigError(Problem(f"no job has points of '{metric}'", "--cmd plot", hint or nothing))


def _series(session: Session, jobs: Sequence[JobState], metric: str) -> dict[str, Series]:
    """The points of each job that has some; a file that can't be read is reported, and hides no other."""
    from oellm_autoexp.view.metrics import series_of

    found = {}
    for job in jobs:
        try:
            series = series_of(session, job, metric)
        except AutoexpError as error:
            app.report(error)
            continue
        if series is not None:
            found[job.name] = series
    return found


def _facts(series: Series) -> dict[str, Any]:
    """A series for programs; a value that is no finite number is null, as JSON has none."""
    import math

    values = [value if math.isfinite(value) else None for value in series.values]
    return {
        "iterations": list(series.iterations),
        "times": list(series.times),
        "values": values,
        "attempts": list(series.attempts),
    }


def _draw(options: argparse.Namespace, metric: str, by_job: dict[str, Series], *, alone: bool) -> None:
    from oellm_autoexp.view.curves.plot import Curve, Frame, draw
    from oellm_autoexp.view.curves.sparkline import can_encode
    from oellm_autoexp.view.tables import console, table_width

    screen = console()
    over_time = options.x == "time"
    curves = [
        Curve(name, _hours(series) if over_time else series.iterations, series.values)
        for name, series in by_job.items()
    ]
    height = (screen.size.height - 2 if screen.is_terminal else _PLAIN_HEIGHT) // (1 if alone else 2)
    colours = screen.is_terminal and not screen.no_color
    letters = not can_encode(screen.encoding) or (not colours and len(curves) > 1)
    frame = Frame(table_width(screen), height, log_y=options.log_scale, letters=letters)
    scale = ", logarithmic" if options.log_scale else ""
    screen.print(f"{metric} over {'hours' if over_time else 'iterations'}{scale}", style="bold")
    for line in draw(curves, frame):
        _print(screen, line)


def _hours(series: Series) -> list[float]:
    """The hours since the first point."""
    return [(at - series.times[0]) / 3600 for at in series.times]


def _print(screen: Console, line: Sequence[Piece]) -> None:
    from rich.text import Text

    coloured = [(text, "" if curve is None else COLOURS[curve % len(COLOURS)]) for text, curve in line]
    shown = Text.assemble(*coloured, no_wrap=True, overflow="ignore")
    shown.rstrip()
    screen.print(shown, crop=False)
