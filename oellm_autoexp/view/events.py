"""What people see of events, printed as they come: one line each, in columns, or on a narrow screen several."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from rich.console import Console
from rich.text import Text

from oellm_autoexp.view.jobs.waiting import local_time

_COLUMNS = ("time", "event", "job", "actions", "what")
_AT_ONCE = 100
_NARROW = 100  # cells
_LONGEST_LINE = 200
"""Characters of a row where no terminal has a width."""


def print_events(screen: Console, rows: Iterable[Mapping[str, Any]]) -> int:
    """Print events, each in a line of the screen's width; returns how many. Columns grow as wider values come."""
    rows = iter(rows)
    width = screen.width if screen.is_terminal else _LONGEST_LINE
    if lines_each(screen) > 1:
        return _print_below_each_other(screen, rows, width)
    widths = [0] * (len(_COLUMNS) - 1)
    count = 0
    while found := [event_cells(row) for row in islice(rows, _AT_ONCE)]:
        if not count:
            found.insert(0, _COLUMNS)
        widths = [max(wide, *(len(cells[column]) for cells in found)) for column, wide in enumerate(widths)]
        fitted = _fitted(widths, width)
        for number, cells in enumerate(found):
            line = "  ".join(
                [*(_cut(cell, wide).ljust(wide) for cell, wide in zip(cells, fitted, strict=False)), cells[-1]]
            )
            style = "bold" if number == count == 0 else ""
            screen.print(Text(_cut(line.rstrip(), width), style=style), soft_wrap=True)
        count += len(found) - (not count)
    return count


def _print_below_each_other(screen: Console, rows: Iterator[Mapping[str, Any]], width: int) -> int:
    """Print events where columns would cut off most of what they say."""
    count = 0
    for row in rows:
        clock, name, job, actions, what = event_cells(row)
        screen.print(Text(_cut(f"{clock}  {job}  {name}", width), style="bold"), soft_wrap=True)
        for text in filter(None, (what, actions)):
            screen.print(Text(_cut(f"  {text}", width)), soft_wrap=True)
        count += 1
    return count


def _fitted(widths: list[int], width: int) -> list[int]:
    """Widths of columns of which no one but the time takes more than its share of the screen, where all need more."""
    if sum(widths) + 2 * len(widths) < width * 3 // 4:
        return widths
    share = max(8, (width - widths[0]) // 4)
    return [widths[0], *(min(wide, share) for wide in widths[1:])]


def lines_each(screen: Console) -> int:
    """How many lines an event takes at most."""
    return 3 if screen.is_terminal and screen.width < _NARROW else 1


def event_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """An event as texts: when, its id, its job, its actions and what came of them, the line of the log."""
    metadata = row["metadata"]
    what = metadata.get("line") or ", ".join(
        f"{key}={value}" for key, value in metadata.items() if value not in ("", None)
    )
    actions = "; ".join(
        f"{action['action']}: {action['status']}" + (f" ({action['message']})" if action["message"] else "")
        for action in row["actions"]
    )
    clock = time.strftime("%m-%d %H:%M:%S", local_time(row["at"]))
    job = row["job"] + (f" (attempt {row['attempt']})" if row["attempt"] > 1 else "")
    return clock, row["id"], job, _one_line(actions), _one_line(str(what))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
