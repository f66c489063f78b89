"""The steps of watching that commands share: one session or all of a directory, to the end or for one poll."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, hints
from oellm_autoexp.cli.steps.session_steps import (
    Backoff,
    finish,
    load_manifest,
    outcome,
    resumable,
    session,
    started_by,
)

if TYPE_CHECKING:
    from oellm_autoexp.engine.loop import Monitor
    from oellm_autoexp.engine.watch import Watch
    from oellm_autoexp.session.session import Session


def poll_once(monitor: Monitor, *, on_stderr: bool = False) -> int:
    """One cycle, to the end of the programs that it starts. Returns 0, or 130 if it was interrupted."""

    def go() -> int:
        watched = _watch_of(monitor.session.path.parent, monitor, once=True)
        with _reported(lambda _: None) as shown:
            watched.poll_once(shown, Backoff(on_stderr=on_stderr).wait)
        return app.OK

    return resumable(hints.resume_command(monitor.manifest, anywhere=True), go, on_stderr=on_stderr)


def watch_until_ended(monitor: Monitor, *, quiet: bool = False) -> int:
    """Watch until every job has ended; `quiet` leaves stdout to the caller."""
    resume = hints.resume_command(monitor.manifest, anywhere=True)
    return resumable(resume, lambda: watch(monitor, quiet=quiet), on_stderr=quiet)


def watch(monitor: Monitor, *, quiet: bool = False) -> int:
    """Watch a session, and the runs that its actions start, until all have ended; the exit code speaks of all."""
    from oellm_autoexp.view.display import display
    from oellm_autoexp.view.session_table import headline

    watched = _watch_of(monitor.session.path.parent, monitor)
    try:
        with display(monitor.manifest.plan_id, quiet=quiet) as show, _reported(show) as shown:
            watched.run(shown)
    finally:
        watched.close()
    if quiet:
        return outcome(monitor.session) or _code(watched)
    for child in watched.finished:
        app.note(f"{child.plan_id} ({started_by(child)}): {headline(child)}")
    return finish(monitor) or _code(watched)


def watch_all(directory: Path, *, once: bool = False, quiet: bool = False) -> tuple[int, list[Session]]:
    """Watch every unfinished session of a state directory to its end, or for one round.

    Returns the exit code, and the sessions that were watched. `quiet` leaves stdout to the caller.
    """
    from oellm_autoexp.view.display import display

    watched = _watch_of(directory, once=once)

    def go() -> int:
        with display(quiet=quiet or once) as show, _reported(show) as shown:
            if once:
                watched.poll_once(shown, Backoff(on_stderr=quiet).wait)
            else:
                watched.run(shown)
        return _code(watched)

    try:
        resume = hints.command("monitor", "--all", "--monitoring-state-dir", str(directory))
        code = resumable(resume, go, on_stderr=quiet)
    finally:
        watched.close()
    return code, list(watched.sessions.values())


@contextmanager
def _reported(show: Callable[[Sequence[Monitor]], None]) -> Iterator[Callable[[Sequence[Monitor]], None]]:
    """Shows monitors, and keeps the reports and exports of those fresh whose plans ask for them."""
    from oellm_autoexp.engine.background import Background

    background = Background(partial(app.note, on_stderr=True))

    def shown(monitors: Sequence[Monitor]) -> None:
        background.look(monitors)
        show(monitors)

    try:
        yield shown
    finally:
        background.close()


def _watch_of(directory: Path, main: Monitor | None = None, *, once: bool = False) -> Watch:
    from oellm_autoexp.engine.watch import Outside, Watch

    outside = Outside(load_manifest, session, app.report, partial(app.note, on_stderr=True))
    return Watch(directory, outside, main=main, once=once)


def _code(watched: Watch) -> int:
    """The exit code: that of what keeps a session from being watched, else of the jobs that have ended."""
    ended = max(map(outcome, watched.finished), default=app.OK)
    return max((error.exit_code for error in watched.errors), default=ended)
