"""What a report is written as: a page, tables, a picture. Each file appears whole or not at all."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from oellm_autoexp.cli.reporting.sources import assets
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.report import tidy
from oellm_autoexp.report.document import Source, document
from oellm_autoexp.report.page import page
from oellm_autoexp.report.plot import COLOURS, Plot, as_svg
from oellm_autoexp.storage.files import room_hint, write_atomic

PICTURES = (".svg", ".png")


def html(sources: Sequence[Source]) -> str:
    """The page of sessions or plans as of now."""
    from oellm_autoexp.planning.plan import for_others

    shown = [replace(source, manifest=for_others(source.manifest)) for source in sources]
    return page(document(shown, time.time()), assets())


def write(path: Path, data: str | bytes, option: str) -> Path:
    """Write a file that an option names. Raises ConfigError."""
    if not path.name or path.is_dir():
        raise ConfigError(Problem("this is a folder", f"{option} {path}", f"name a file in it: {path / 'NAME'}"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data if isinstance(data, bytes) else data.encode(errors="replace"), sync=False)
    except OSError as error:
        what = f"can't write there: {error.strerror}"
        raise ConfigError(Problem(what, f"{option} {path}", room_hint(error, path))) from None
    return path


def write_csv(folder: Path, sources: Sequence[Source]) -> list[Path]:
    """`jobs.csv` and `points.csv`. Raises ConfigError."""
    rows = [row for source in sources for row in tidy.rows_of(source)]
    points = (point for source in sources for point in tidy.point_cells(source))
    return [
        write(folder / "jobs.csv", tidy.cells_as_csv(tidy.job_cells(rows)), "--csv"),
        write(folder / "points.csv", tidy.as_csv(tidy.POINT_COLUMNS, points), "--csv"),
    ]


def write_parquet(folder: Path, sources: Sequence[Source]) -> list[Path]:
    """`jobs.parquet` and `points.parquet`. Raises ConfigError, also without pyarrow."""
    arrow = optional("pyarrow", "parquet", "--parquet")
    parquet = optional("pyarrow.parquet", "parquet", "--parquet")
    cells = tidy.job_cells([row for source in sources for row in tidy.rows_of(source)])
    columns: dict[str, Sequence[Any]] = {
        name: _column([row[name] for row in cells]) for name in (cells[0] if cells else ())
    }
    points = list(zip(*(point for source in sources for point in tidy.point_cells(source)), strict=True))
    empty: Sequence[Sequence[Any]] = [()] * len(tidy.POINT_COLUMNS)
    tables: dict[str, dict[str, Sequence[Any]]] = {
        "jobs": columns,
        "points": dict(zip(tidy.POINT_COLUMNS, points or empty, strict=True)),
    }
    made = []
    for name, table in tables.items():
        data = io.BytesIO()
        parquet.write_table(arrow.table({key: list(values) for key, values in table.items()}), data)
        made.append(write(folder / f"{name}.parquet", data.getvalue(), "--parquet"))
    return made


def _column(values: list[Any]) -> list[Any]:
    """A column of one type: numbers, or texts where a key was swept over several types."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def picture(plot: Plot, path: Path) -> str | bytes:
    """A plot as the ending of a file's name says. Raises ConfigError, also without matplotlib for a PNG."""
    draw: dict[str, Callable[[Plot], str | bytes]] = {".svg": as_svg, ".png": _as_png}
    return draw[path.suffix.lower()](plot)


def _as_png(plot: Plot) -> bytes:
    optional("matplotlib", "plot", "--plot", "or name a file that ends in .svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, line in enumerate(plot.lines):
        axes.plot(line.xs, line.ys, color=COLOURS[number % len(COLOURS)], linewidth=1.2, label=_literal(line.name))
    axes.set_title(_literal(plot.title), fontsize=10, loc="left")
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(_literal(plot.y_label))
    axes.grid(color="#e3e8ee")
    if plot.log_y:
        axes.set_yscale("log")
    if 0 < len(plot.lines) <= 20:
        axes.legend(fontsize=7)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _literal(text: str) -> str:
    """A text that matplotlib takes as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def optional(module: str, extra: str, option: str, instead: str = "") -> Any:
    """A module of an extra. Raises ConfigError that says how to install it."""
    try:
        return import_module(module)
    except ModuleNotFoundError:
        hint = f'pip install "oellm-autoexp[{extra}]"' + (f", {instead}" if instead else "")
        raise ConfigError(
            Problem(f"this needs {module.partition('.')[0]}, which is not installed", option, hint)
        ) from None
