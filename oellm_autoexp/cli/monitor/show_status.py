"""monitor --cmd status: what is recorded of one session, or of all unfinished ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor.session_list import report_none, sessions_in, titled
from oellm_autoexp.cli.monitor.session_names import directory_of, manifest_and_session
from oellm_autoexp.cli.steps import app, facts, hints, session_steps
from oellm_autoexp.core import commands

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session


def status(options: argparse.Namespace) -> int:
    if options.all:
        return _of_all(options)
    manifest, session = manifest_and_session(options)
    return show(session, manifest, options.json)


def _of_all(options: argparse.Namespace) -> int:
    sessions = [session for session in sessions_in(directory_of(options)) if not session.finished]
    show_sessions(sessions, as_json=options.json)
    if not sessions and not options.json:
        report_none(options, unfinished=True)
    return app.OK


def show_sessions(sessions: Sequence[Session], *, as_json: bool) -> None:
    from oellm_autoexp.view.tables import console, headline, last_look

    if as_json:
        print(json.dumps({"sessions": [facts.session_facts(session) for session in sessions]}))
        return
    screen = console()
    for session in sessions:
        screen.print(f"{titled(session)}: {headline(session)}")
        everything = commands.monitor(session.path, "--cmd", "status")
        screen.print(last_look(session, everything), crop=False)


def show(session: Session, manifest: Manifest, as_json: bool, *, whole: bool = True) -> int:
    from oellm_autoexp.core.states import SUBMITTING
    from oellm_autoexp.planning.resolving.provenance import changed_code
    from oellm_autoexp.storage.trust import reading_of_others
    from oellm_autoexp.view.tables import console, headline, last_look, session_table, waiting_text

    if as_json:
        print(json.dumps(facts.session_facts(session)))
    elif reading_of_others():
        screen = console()
        screen.print(session_table(session), crop=False)
        screen.print(headline(session))
    else:
        screen = console()
        everything = f"{hints.resume_command(manifest)} --cmd status"
        screen.print(session_table(session) if whole else last_look(session, everything), crop=False)
        screen.print(headline(session))
        if not session.finished and (changed := changed_code(manifest)):
            app.note(f"note: {changed}")
        if (waits := waiting_text(facts.waiting(session))) is not None:
            screen.print(waits, soft_wrap=True)
        watch = [f"go on watching    {hints.resume_command(manifest)}", *hints.of_queue(manifest, session)]
        if any(job.state == SUBMITTING for job in session.jobs.values()):
            watch.append(f"end it            {hints.resume_command(manifest)} --cmd cancel")
        hints.show(hints.next_steps(manifest, session) if session.finished else watch)
    return session_steps.outcome(session) if session.finished else app.OK
