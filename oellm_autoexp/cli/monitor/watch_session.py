"""monitor --cmd watch: a session or all of them; read-only where another process watches the session."""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor import detach
from oellm_autoexp.cli.monitor.session_list import report_none, sessions_in
from oellm_autoexp.cli.monitor.session_names import directory_of, manifest_of, recorded, stamps_of
from oellm_autoexp.cli.monitor.show_status import show_sessions
from oellm_autoexp.cli.steps import app, facts, hints, session_steps, watch_steps, watchers
from oellm_autoexp.core.errors import LockedError
from oellm_autoexp.view.display import display

if TYPE_CHECKING:
    from oellm_autoexp.cli.steps.watchers import Watcher
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session

_PAUSE_SECONDS = 1.0
_TRIES, _TRY_AGAIN_SECONDS = 10, 0.2


@dataclass
class Recorded:
    """A session as it is recorded, in the form in which a monitor is shown; what its scheduler says is not known."""

    manifest: Manifest
    session: Session
    scheduler_error: str = ""
    storage_error: str = ""
    messages: deque[str] = field(default_factory=deque)


def watch(options: argparse.Namespace) -> int:
    if options.detach and options.all:
        return detach.hand_over_all(options, directory_of(options), sessions_in(directory_of(options), own=True))
    if options.all:
        code, sessions = watch_steps.watch_all(directory_of(options), once=options.once, quiet=options.json)
        if options.once or options.json:
            show_sessions(sessions, as_json=options.json)
        if not sessions and code == app.OK and not options.json:
            report_none(options, unfinished=True)
        return code
    manifest, path = manifest_of(options)
    if options.detach:
        return detach.hand_over(options, manifest, path)
    tries = 0
    while True:
        with ExitStack() as held:
            try:
                monitor = held.enter_context(session_steps.session(manifest, path, patient=options.once))
            except LockedError:
                watcher = watchers.find(manifest)
                if watcher is None and not options.once and tries < _TRIES:  # it has ended at this very moment
                    tries += 1
                    time.sleep(_TRY_AGAIN_SECONDS)
                    continue
                if watcher is None or options.once:
                    raise
                session = recorded(manifest)
                looked = look_on(manifest, session, watcher, quiet=options.json)
                if looked is None:
                    continue
                code = looked
                session = recorded(manifest)
            else:
                session = monitor.session
                if options.once:
                    code = watch_steps.poll_once(monitor, on_stderr=options.json)
                    if code == app.OK:
                        return _shown_once(session, manifest, as_json=options.json)
                else:
                    code = watch_steps.watch_until_ended(monitor, quiet=options.json)
            if options.json:
                print(json.dumps(facts.session_facts(session)))
            return code


def _shown_once(session: Session, manifest: Manifest, *, as_json: bool) -> int:
    """Show what one look has left behind; returns the exit code."""
    if as_json:
        print(json.dumps(facts.session_facts(session)))
    else:
        session_steps.leave(session, manifest)
    return session_steps.outcome(session) if session.finished else app.OK


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
    stamps = stamps_of(path)
    absent = False
    with display(shown.manifest.plan_id, quiet=quiet) as draw:
        while True:
            draw([shown])
            if shown.session.finished:
                break
            if (nobody := watchers.find(shown.manifest) is None) and not watcher.detached:
                app.note("nobody watches the session any more: this process does from now on", on_stderr=quiet)
                return None
            if nobody and not absent:
                app.note(f"{watcher.name} does not watch just now: it may come back by itself", on_stderr=quiet)
            absent = nobody
            time.sleep(_PAUSE_SECONDS)
            if (now := stamps_of(path)) != stamps:
                stamps = now
                shown.session = Session.load(path)
    return session_steps.outcome(shown.session) if quiet else session_steps.finish(shown)
