"""Events on a screen: a line each where there is room, else one below another."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from oellm_autoexp.view.events import lines_each, print_events


def row(number: int) -> dict[str, Any]:
    done = {"action": "RestartAction", "status": "done", "message": f"attempt {number} of 3 is planned"}
    line = f"CUDA out of memory. Tried to allocate {number}.00 GiB"
    return {
        "at": 1_800_000_000.0,
        "id": f"crash-{number:012x}",
        "job": f"dense_300M_lr{number}e-4",
        "attempt": number,
        "metadata": {"line": line},
        "actions": [done] if number > 1 else [],
    }


def printed(width: int, *, terminal: bool = True) -> list[str]:
    screen = Console(file=(file := io.StringIO()), width=width, force_terminal=terminal, color_system=None)
    assert print_events(screen, map(row, (1, 2))) == 2
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 60, 80, 99])
def test_on_a_narrow_screen_an_event_has_a_line_for_each_thing_that_is_known_of_it(width: int) -> None:
    lines = printed(width)
    assert len(lines) == 2 + 3
    assert max(map(len, lines)) <= width
    assert [line[:4] for line in (lines[1], lines[3], lines[4])] == ["  CU", "  CU", "  Re"]
    assert width < 80 or ("crash-000000000002" in lines[2] and "attempt 2 of 3 is planned" in lines[4])


def test_with_room_or_without_a_terminal_an_event_has_one_line() -> None:
    for lines in (printed(100), printed(200), printed(80, terminal=False)):
        assert len(lines) == 3
        assert lines[0].split() == ["time", "event", "job", "actions", "what"]


def test_what_is_counted_with_is_what_is_printed() -> None:
    narrow, wide = (Console(file=io.StringIO(), width=width, force_terminal=True) for width in (80, 120))
    assert (lines_each(narrow), lines_each(wide)) == (3, 1)
