"""report: one page of a session or several, or their numbers as tables and pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import ConfigError, Problem, raise_all
from oellm_autoexp.core.text import did_you_mean

if TYPE_CHECKING:
    from oellm_autoexp.report.document import Source

EXAMPLES = """\
  python scripts/report_autoexp.py --session default-2026                          report.html
  python scripts/report_autoexp.py --session default-2026 --session default-2025   both on one page
  python scripts/report_autoexp.py --session default-2026 --plot loss -o loss.svg  the curves as a picture
  python scripts/report_autoexp.py --session default-2026 --csv tables             tables/jobs.csv, tables/points.csv
  python scripts/report_autoexp.py --session default-2026 --export tensorboard=runs     for tensorboard --logdir runs

A session may be named by the beginning of its id, or by its file."""


def parser() -> app.Parser:
    """The command's options."""
    what = "Make one self-contained page of a session or several: table, curves, time line, GPU-hours, events."
    made = app.Parser(what, EXAMPLES, app.PLAN_EXIT_CODES)
    made.add_argument(
        "--session",
        metavar="ID",
        action="append",
        required=True,
        help="the plan's id, or its beginning; may be repeated",
    )
    made.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the page (default: report.html), or the picture"
    )
    made.add_argument("--plot", metavar="METRIC", help="instead of a page, the curves of a metric: .svg, or .png")
    made.add_argument(
        "--x", choices=("iteration", "time", "tokens"), default="iteration", help="--plot: what the curves are over"
    )
    made.add_argument("--log", action="store_true", help="--plot: a logarithmic scale")
    made.add_argument("--csv", metavar="DIR", type=Path, help="write DIR/jobs.csv and DIR/points.csv")
    made.add_argument("--parquet", metavar="DIR", type=Path, help="write DIR/jobs.parquet and DIR/points.parquet")
    made.add_argument(
        "--export",
        metavar="NAME[=PLACE]",
        action="append",
        default=[],
        help="hand the results to another program: tensorboard, wandb, mlflow, openmetrics, or a kind of your own; may "
        "be repeated. PLACE: a folder, or MLflow's tracking URI (default: as monitoring.exporters of the plan says)",
    )
    made.add_state_dir()
    made.add_json()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _report, argv)


def _report(options: argparse.Namespace) -> int:
    from oellm_autoexp.cli.reporting import exporting, exports
    from oellm_autoexp.cli.reporting.sources import sources

    _check(options)
    asked = exporting.wanted(options.export)
    page = options.output is not None or not (options.csv or options.parquet or options.plot or asked)
    found = sources(options, with_events=page)
    written: list[Path] = []
    if options.csv is not None:
        written += exports.write_csv(options.csv, found)
    if options.parquet is not None:
        written += exports.write_parquet(options.parquet, found)
    if options.plot is not None:
        written.append(_plot(options, found))
    elif page:
        written.append(exports.write(options.output or Path("report.html"), exports.html(found), "--output"))
    exported = exporting.export(asked, found)
    if options.json:
        print(json.dumps({"written": [str(path.absolute()) for path in written], "exported": exported}))
    else:
        for path in written:
            app.note(f"wrote {path}")
        for each in exported:
            app.note(f"exported {each['session']} to {each['place']} ({each['exporter']})")
    return app.OK


def _check(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together."""
    from oellm_autoexp.cli.reporting.exports import PICTURES

    problems = []
    output = options.output
    if options.plot is None:
        if options.log or options.x != "iteration":
            problems.append(
                Problem("this option goes with --plot METRIC", "--log" if options.log else f"--x {options.x}")
            )
        if output is not None and output.suffix.lower() in PICTURES:
            problems.append(Problem("a picture is of one metric", f"--output {output}", "name it: --plot loss"))
    elif output is not None and output.suffix.lower() not in PICTURES:
        problems.append(Problem("a picture is an .svg or .png file", f"--output {output}"))
    raise_all(ConfigError, problems)


def _plot(options: argparse.Namespace, found: Sequence[Source]) -> Path:
    """Write the picture. Raises ConfigError where no job has such a metric, or it can't be drawn over `--x`."""
    from oellm_autoexp.cli.reporting import exports
    from oellm_autoexp.report.plot import plot_of

    plot = plot_of(found, options.plot, options.x, log_y=options.log)
    if not plot.lines:
        known = {
            name
            for source in found
            if source.session is not None
            for job in source.session.jobs.values()
            for name in job.logs.series.points
        }
        if options.plot in known:
            raise ConfigError(Problem(f"of no job it is known where iterations are in {options.x}", f"--x {options.x}"))
        hint = did_you_mean(options.plot, known) if known else "no log line of these jobs has reported a metric"
        raise ConfigError(Problem(f"no job has a metric '{options.plot}'", "--plot", hint))
    path = options.output or Path(f"{options.plot.replace('/', '_')}.svg")
    return exports.write(path, exports.picture(plot, path), "--output")
