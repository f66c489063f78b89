"""A second look at a session that another process watches: what that records, shown as it comes; nothing is written."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, hints, session_steps, watchers
from oellm_autoexp.view.display import display

if TYPE_CHECKING:
    from oellm_autoexp.cli.steps.watchers import Watcher
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session, Stamp

_PAUSE_SECONDS = 1.0


@dataclass
class _News:
    news: deque[str] = field(default_factory=deque)


@dataclass
class Recorded:
    """A session as it is recorded, in the form in which a monitor is shown; what its scheduler says is not known."""

    manifest: Manifest
    session: Session
    trouble: str = ""
    obstacle: str = ""
    reactions: _News = field(default_factory=_News)


def look_on(manifest: Manifest, session: Session, watcher: Watcher, *, quiet: bool = False) -> int | None:
    """Show a session that `watcher` holds until every job has ended; returns the exit code.

    None: whoever held it has gone before that, and is no detached monitor (which may be about to requeue itself).
    """
    shown = Recorded(manifest, session)
    found: int | None = None

    def go() -> int:
        nonlocal found
        found = _follow(shown, watcher, quiet=quiet)
        return found or app.OK

    code = session_steps.resumable(hints.resume_command(manifest, anywhere=True), go, on_stderr=quiet)
    return code if code == app.INTERRUPTED else found


def _follow(shown: Recorded, watcher: Watcher, *, quiet: bool) -> int | None:
    from oellm_autoexp.session.session import Session

    path = shown.session.path
    end = f" To end that (the jobs go on): {watcher.end}" if watcher.end else ""
    app.note(f"read-only: {watcher.name} watches this session, this shows what it records.{end}", on_stderr=quiet)
    stamps = _stamps(path)
    absent = False
    with display(shown.manifest.plan_id, quiet=quiet) as show:
        while True:
            show([shown])
            if shown.session.finished:
                break
            if (nobody := watchers.find(shown.manifest) is None) and not watcher.detached:
                app.note("nobody watches the session any more: this process does from now on", on_stderr=quiet)
                return None
            if nobody and not absent:
                app.note(f"{watcher.name} does not watch just now: it may come back by itself", on_stderr=quiet)
            absent = nobody
            time.sleep(_PAUSE_SECONDS)
            if (now := _stamps(path)) != stamps:
                stamps = now
                shown.session = Session.load(path)
    return session_steps.outcome(shown.session) if quiet else session_steps.finish(shown)


def _stamps(path: Path) -> tuple[Stamp | None, Stamp | None]:
    from oellm_autoexp.session.session import stamp_of

    return stamp_of(path), stamp_of(path.with_suffix(".journal"))
