"""monitor --cmd status: what is recorded of one session, or of all unfinished ones."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor.session_list import report_none, sessions_in, titled
from oellm_autoexp.cli.monitor.session_names import directory_of, manifest_and_session
from oellm_autoexp.cli.steps import app, facts, session_steps
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import JobSpec, Manifest
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.view.jobs.columns import Subject
    from oellm_autoexp.view.jobs.selection import Selection


def add_options(parser: app.Parser) -> None:
    """The options of the command."""
    group = parser.add_argument_group("the table of jobs (--cmd status)")
    group.add_argument(
        "--columns", metavar="NAME,…", help="only these columns, also keys of the sweep; a wrong one lists them all"
    )
    group.add_argument(
        "--sort", metavar="[-]NAME", action="append", default=[], help="by this column; with - the highest first"
    )
    group.add_argument(
        "--filter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="only jobs of which this holds: state=crash,oom  job=lr_1e-*  loss<3.5  time>=2h  state!=success; "
        "several: of which all hold",
    )
    parser.dashed = (*parser.dashed, "--sort")
    group.add_argument("--wide", action="store_true", help="every job and all of each text, however long the lines are")
    group.add_argument("--csv", action="store_true", help="every column of every job as CSV, for spreadsheets")


def status(options: argparse.Namespace) -> int:
    """Show one session, or every unfinished one."""
    _check(options)
    if options.all:
        return _of_all(options)
    manifest, session = manifest_and_session(options)
    if not _asks(options) and not options.csv:
        return show(session, manifest, options.json)
    _print_chosen(options, [(session, manifest.jobs)])
    return session_steps.outcome(session) if session.finished else app.OK


def _asks(options: argparse.Namespace) -> bool:
    """Whether jobs or columns are chosen, or everything is wanted."""
    return bool(options.columns or options.sort or options.filter or options.wide)


def _check(options: argparse.Namespace) -> None:
    """Return if the options go together. Raises ConfigError."""
    given = [name for name in ("json", "csv", "wide") if getattr(options, name)]
    if len(given) > 1:
        raise ConfigError(Problem("one form at a time", " ".join(f"--{name}" for name in given)))
    if options.json and _asks(options):
        what = "the JSON document holds all that is known of every job, in the order of the plan"
        raise ConfigError(Problem(what, "--json", "choose with --csv, or in the program that reads it"))


def _of_all(options: argparse.Namespace) -> int:
    sessions = [session for session in sessions_in(directory_of(options)) if not session.finished]
    if options.csv or (sessions and _asks(options)):
        _print_chosen(options, [(session, _specs(session)) for session in sessions])
        return app.OK
    show_sessions(sessions, as_json=options.json)
    if not sessions and not options.json:
        report_none(options, unfinished=True)
    return app.OK


def _specs(session: Session) -> Sequence[JobSpec]:
    """The jobs of a session's plan; none where that can't be read, which keeps nobody from seeing the others."""
    try:
        return session_steps.load_manifest(session.manifest_path).jobs
    except AutoexpError as error:
        app.report(error)
        return ()


def show_sessions(sessions: Sequence[Session], *, as_json: bool) -> None:
    """Show sessions, one screen of jobs of each."""
    from oellm_autoexp.view.session_table import print_session
    from oellm_autoexp.view.tables import console

    if as_json:
        print(json.dumps({"sessions": [facts.session_facts(session) for session in sessions]}))
        return
    screen = console()
    for session in sessions:
        screen.print(titled(session), style="bold underline")
        print_session(session, _specs(session), [], "--wide")


def show(session: Session, manifest: Manifest, as_json: bool) -> int:
    """Show a session; returns the exit code. Into a pipe all its jobs go, to a terminal one screen of them."""
    from oellm_autoexp.planning.resolving.provenance import changed_code
    from oellm_autoexp.storage.trust import reading_of_others
    from oellm_autoexp.view.session_table import print_session

    if as_json:
        print(json.dumps(facts.session_facts(session)))
    elif reading_of_others():
        print_session(session, manifest.jobs, [], "--wide", whole=True)
    else:
        changed = "" if session.finished else changed_code(manifest)
        notes = [f"note: {changed}"] if changed else []
        below = session_steps.said_below(session, manifest, notes)
        print_session(session, manifest.jobs, below, "--wide", whole=True)
    return session_steps.outcome(session) if session.finished else app.OK


def _print_chosen(options: argparse.Namespace, sessions: Sequence[tuple[Session, Sequence[JobSpec]]]) -> None:
    """Print the jobs and columns that are asked for, of each session."""
    from oellm_autoexp.view.jobs.selection import chosen, selection
    from oellm_autoexp.view.jobs.table import as_csv

    asked = selection(options.columns, options.sort, options.filter)
    everything = [(session, _subjects(session, specs)) for session, specs in sessions]
    if options.csv:
        found = [(session.plan_id, chosen(asked, subjects)) for session, subjects in everything]
        print(as_csv(found, asked.columns), end="")
        return
    for session, subjects in everything:
        _print_table(options, asked, session, subjects, titled=len(sessions) > 1)


def _subjects(session: Session, specs: Sequence[JobSpec]) -> list[Subject]:
    from oellm_autoexp.view.jobs.evidence import quotes
    from oellm_autoexp.view.jobs.table import subjects_of
    from oellm_autoexp.view.metrics import SeriesReader

    return subjects_of(session.jobs.values(), specs, time.time(), quotes(session), SeriesReader().of(session))


def _print_table(
    options: argparse.Namespace, asked: Selection, session: Session, subjects: Sequence[Subject], *, titled: bool
) -> None:
    from oellm_autoexp.view.jobs.selection import chosen, chosen_columns
    from oellm_autoexp.view.jobs.table import JobTable, rows_in_full
    from oellm_autoexp.view.session_table import headline, print_table, room_for_table
    from oellm_autoexp.view.tables import console, shown

    screen = console()
    if titled:
        screen.print(session.plan_id, style="bold underline")
    found = chosen(asked, subjects)
    columns = chosen_columns(asked, subjects) if asked.columns else None
    if not found:
        screen.print("no job is like that")
    elif options.wide:
        for line in rows_in_full(found, columns):
            screen.file.write(f"{shown(screen, line)}\n")  # which rich takes long for
    else:
        height = room_for_table(screen, [headline(session)])
        table = JobTable(subjects=found, columns=columns, height=height, more="--wide", in_order=bool(asked.sort))
        print_table(screen, table)
    left_out = f" ({len(found)} shown)" if len(found) < len(subjects) else ""
    screen.print(f"{headline(session)}{left_out}", soft_wrap=True)
