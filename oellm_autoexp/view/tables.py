"""The screen that everything is printed on, and the table of a plan."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.text import printable
from oellm_autoexp.planning.budget import Budget
from oellm_autoexp.view.curves.sparkline import ASCII, BLOCKS, can_encode

_PLAIN_WIDTH = 80
"""Cells of a table where no terminal has a width."""


def shown(screen: Console, text: str) -> str:
    """A text as a console shows it."""
    return screen.sign(printable(text)) if isinstance(screen, _Screen) else printable(text)


def table_width(screen: Console) -> int:
    """The cells that a table may take."""
    if screen.is_terminal:
        return screen.width
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) >= 20 else _PLAIN_WIDTH


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
