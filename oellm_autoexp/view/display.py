"""What a watch shows: on a terminal tables that stay up to date; else, and at a dumb one, a line for each change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oellm_autoexp.view.shown import Shown

_log = logging.getLogger(__name__)
Show = Callable[[Sequence["Shown"]], None]


@contextmanager
def display(main: str = "", *, quiet: bool = False) -> Iterator[Show]:
    """Shows monitors (`quiet`: does not); the plan `main` needs no name beside its own changes."""
    if quiet:
        yield lambda monitors: None
        return
    from oellm_autoexp.view.changes import Changes
    from oellm_autoexp.view.live import Screen
    from oellm_autoexp.view.tables import console

    screen = console()
    if screen.is_terminal and not screen.is_dumb_terminal:
        from rich.live import Live

        frame = Screen()
        with Live(console=screen, auto_refresh=False, transient=True) as shown:

            def draw(monitors: Sequence[Shown]) -> None:
                alone = len(monitors) == 1 and monitors[0].manifest.plan_id == main
                shown.update(frame.of(monitors, alone=alone), refresh=True)

            try:
                yield _harmless(draw)
            except BaseException:  # the last look stays on the screen where no final table follows
                shown.transient = False
                raise
        return
    changes: dict[str, Changes] = {}

    def show(monitors: Sequence[Shown]) -> None:
        for monitor in monitors:
            plan = monitor.manifest.plan_id
            name = "" if plan == main else f"{plan} "
            for line in changes.setdefault(plan, Changes()).lines(monitor):
                screen.print(f"{name}{line}", soft_wrap=True)

    yield _harmless(show)


def _harmless(show: Show) -> Show:
    """Shows; what can't be shown is logged once, and keeps no job from being watched."""
    logged = False

    def shown(monitors: Sequence[Shown]) -> None:
        nonlocal logged
        try:
            show(monitors)
        except (OSError, KeyboardInterrupt):  # whoever reads the output has closed it
            raise
        except Exception:  # whatever it is: what is shown is not what matters
            if not logged:
                _log.exception("the watch can't be shown")
            logged = True

    return shown
