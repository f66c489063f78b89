"""monitor --cmd list, remove: the sessions of a state directory."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.monitor.ask_holder import say
from oellm_autoexp.cli.monitor.session_names import directory_of
from oellm_autoexp.cli.steps import app, hints, session_steps
from oellm_autoexp.core.errors import AutoexpError, Problem, StateError

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session


def list_sessions(options: argparse.Namespace) -> int:
    from rich.table import Table

    from oellm_autoexp.storage import trust
    from oellm_autoexp.view.session_table import headline
    from oellm_autoexp.view.tables import console

    directory = directory_of(options)
    unread: dict[Path, AutoexpError] = {}
    sessions = sessions_in(directory, unread=unread)
    unread |= _journals_alone(directory)
    if options.json:
        rows: list[dict[str, Any]] = [
            {
                "plan_id": s.plan_id,
                "finished": s.finished,
                "parent": s.parent,
                "manifest": str(s.manifest_path),
                "owner": str(owner) if (owner := trust.stranger(s.path)) else None,
            }
            for s in sessions
        ]
        not_read = [{"plan_id": path.stem, "problems": app.problem_facts(e.problems)} for path, e in unread.items()]
        print(json.dumps({"directory": str(directory), "sessions": rows, "unread": not_read}))
        return app.OK
    if not sessions and not unread:
        report_none(options)
        return app.OK
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("session", no_wrap=True)
    table.add_column("jobs")
    for session in sessions:
        table.add_row(titled(session), headline(session))
    for path, error in unread.items():
        table.add_row(path.stem.replace("\n", "\\n"), f"not read: {error.problems[0].sentence}")
    console().print(table)
    return app.OK


def _journals_alone(directory: Path) -> dict[Path, AutoexpError]:
    """The journals of a directory beside which there is no session, and what to do about each, which is printed."""
    from oellm_autoexp.storage import trust

    found: dict[Path, AutoexpError] = {}
    for path in sorted(directory.glob("*.journal")):
        if os.path.lexists(path.with_suffix(".json")):
            continue
        try:
            trust.check_owner(path)
            hint = "restore the session's file from a copy, or remove this one"
            found[path] = StateError(Problem("there is no session of this name beside the journal", str(path), hint))
        except StateError as error:
            found[path] = error
        app.report(found[path])
    return found


def sessions_in(directory: Path, *, own: bool = False, unread: dict[Path, AutoexpError] | None = None) -> list[Session]:
    """The sessions of a directory that can be read, newest first; of the others is reported why not.

    `own`: without those of other users. `unread` gets those that can't be read, and why.
    """
    from oellm_autoexp.session.session import Session, all_sessions
    from oellm_autoexp.storage import trust

    sessions: list[Session] = []
    for path in all_sessions(directory):
        owner = trust.stranger(path)
        if own and owner is not None:
            continue
        try:
            with trust.reading_as(owner):
                sessions.append(Session.load(path))
        except AutoexpError as error:  # one that can't be read hides no other
            app.report(error)
            if unread is not None:
                unread[path] = error
    return sessions


def titled(session: Session) -> str:
    """A session's id, what started it if an action did, and whose it is if it is another user's."""
    from oellm_autoexp.storage import trust

    owner = trust.stranger(session.path)
    words = [session_steps.started_by(session), "" if owner is None else f"of {owner}"]
    more = ", ".join(filter(None, words))
    return f"{session.plan_id} ({more})" if more else session.plan_id


def report_none(options: argparse.Namespace, *, unfinished: bool = False) -> None:
    """Say that there are no sessions, and where else to look if no option names the folder."""
    directory = directory_of(options)
    app.note(hints.no_sessions(directory, unfinished=unfinished))
    if options.monitoring_state_dir is None and not any(directory.glob("*.json")):
        app.note(f"    {hints.other_folder()}")


def remove(options: argparse.Namespace, manifest: Manifest, session: Session) -> int:
    """Remove a finished session: its state, queue and record. Manifests, scripts and logs stay."""
    from oellm_autoexp.session.queue import Queue
    from oellm_autoexp.session.session import writing
    from oellm_autoexp.session.waits import only_unclear
    from oellm_autoexp.storage.session_files import SessionFiles
    from oellm_autoexp.storage.trust import check_owner

    resume = hints.resume_command(manifest)
    unclear = [job for job in session.jobs.values() if not job.over] if only_unclear(session.jobs.values()) else []
    if not session.finished and not (options.force and unclear):
        raise StateError(_why_unfinished(session, resume))
    with writing(session.path):
        queue = Queue(session.path)
        if waits := queue.unfinished():
            what = "1 action waits" if waits == 1 else f"{waits} actions wait"
            them = "it" if waits == 1 else "them"
            hint = f"carry {them} out first: {resume} --cmd actions; or abandon {them}: {resume} --cmd skip"
            raise StateError(Problem(f"{what} in its queue", str(queue.folder), hint))
        beside = SessionFiles(session.path).beside
        for path in beside:
            check_owner(path)
        for path in beside:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        session.path.unlink()  # last: until then it is there to be removed
    text = f"removed the session {session.plan_id}; its manifest, scripts and logs are where they were"
    for name, token in [(job.name, job.newest.token) for job in unclear]:
        text += f"\n{name} may be in the scheduler's queue, under a name that ends in .{token}: cancel it there"
    say(options, [], text)
    return app.OK


def _why_unfinished(session: Session, resume: str) -> Problem:
    """Why a session is not finished, and the command that makes it so."""
    from oellm_autoexp.session.waits import only_actions_wait, only_unclear, waits
    from oellm_autoexp.view.jobs.waiting import waiting_lines

    if only_actions_wait(session.jobs.values()):
        lines = waiting_lines(waits(session.jobs.values()))
        hint = "\n    ".join([*lines, f"abandon them: {resume} --cmd skip"])
        return Problem("its jobs have ended, and actions wait", str(session.path), hint)
    if only_unclear(session.jobs.values()):
        hint = f"ask it: {resume} --cmd cancel; or remove the session without an answer: {resume} --cmd remove --force"
        return Problem("the scheduler has not said whether it took jobs that are cancelled", str(session.path), hint)
    if all(job.at_rest for job in session.jobs.values()):
        return Problem("a request waits for a monitor", str(session.path), f"let one look: {resume} --once")
    return Problem("its jobs have not all ended", str(session.path), f"end it first: {resume} --cmd cancel")
