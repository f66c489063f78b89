"""monitor: watch a session, or look at sessions and act on them."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.monitor import (
    detach,
    queue_commands,
    read_only,
    session_commands,
    session_names,
    show_events,
    try_rules,
)
from oellm_autoexp.cli.steps import app, facts, hints, session_steps, watch_steps, watchers
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core import commands
from oellm_autoexp.core.errors import AutoexpError, ConfigError, LockedError, Problem, StateError, raise_all
from oellm_autoexp.core.text import is_utf8

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session

EXAMPLES = """\
  python scripts/monitor_autoexp.py --session default-20260131-235959-3f9c2a1b    go on watching
  python scripts/monitor_autoexp.py --session default-2026 --cmd status           one look, from what is recorded
  python scripts/monitor_autoexp.py --session default-2026 --once                 one cycle, for cron
  python scripts/monitor_autoexp.py --session default-2026 --detach slurm         by a small SLURM job
  python scripts/monitor_autoexp.py --all                                         all that are not finished
  python scripts/monitor_autoexp.py --session default-2026 --cmd queue            the actions that wait for a worker
  python scripts/monitor_autoexp.py --session default-2026 --cmd actions          carry them out
  python scripts/monitor_autoexp.py --session default-2026 --cmd skip             give up the actions that wait
  python scripts/monitor_autoexp.py --cmd list                                    which sessions are there
  python scripts/monitor_autoexp.py --cmd try --log train.log monitoring=megatron_production
                                                                                  what rules find in a log

A session may be named by the beginning of its id."""


def parser() -> app.Parser:
    """The command's options."""
    made = app.Parser("Watch the jobs of a session until they have ended; resume after any interruption.", EXAMPLES)
    which = made.add_mutually_exclusive_group()
    which.add_argument("--session", metavar="ID", help="the plan's id, or its beginning")
    which.add_argument("--manifest", metavar="PATH", type=Path, help="the plan's manifest")
    which.add_argument("--all", action="store_true", help="every unfinished session, also those that turn up later")
    made.add_argument(
        "--cmd",
        choices=sorted(_COMMANDS),
        default="watch",
        help="watch (default); status: what is recorded; tail: the logs' last lines; events: what was seen and done; "
        "restart, cancel: the jobs that --job names; skip: give up the actions that wait, also those in the queue; "
        "list: all sessions; remove: a finished session; queue: the actions that wait for a worker; "
        "actions: be that worker; try: what the rules find in --log",
    )
    made.add_argument("--once", action="store_true", help="watch for one cycle only (for cron)")
    detach.add_option(made)
    session_commands.add_options(made)
    queue_commands.add_options(made)
    try_rules.add_options(made)
    made.add_argument(
        "--monitoring-state-dir",
        metavar="DIR",
        type=Path,
        help="where sessions are (default: $OELLM_MONITORING_STATE_DIR, else below $OUTPUT_DIR or ./outputs)",
    )
    made.add_json()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _act, argv)


def _act(options: argparse.Namespace) -> int:
    session_names.understand(options, _COMMANDS)
    _check_what_goes_with(options)
    detach.check(options)
    queue_commands.check(options)
    try_rules.check(options)
    with _as_its_owner(options):
        return _COMMANDS[options.cmd](options)


@contextmanager
def _as_its_owner(options: argparse.Namespace) -> Iterator[None]:
    """Let commands that only look read the session of another user, and say whose it is."""
    from oellm_autoexp.storage import trust

    owner = None
    if options.cmd in _LOOKS and not options.queue_retry:
        if options.manifest is not None:
            owner = trust.stranger(options.manifest)
        elif options.session is not None:
            owner = with_backoff(lambda: trust.stranger(_found(options)))
    if owner is not None:
        app.note(f"this session belongs to {owner}: you see it, and only they can act on it", on_stderr=True)
    with trust.reading_as(owner):
        yield


_LOOKS = ("status", "tail", "events", "queue", "try")
"""The commands that act on nothing; `list` and `--all` look at each session as its owner."""


def _check_what_goes_with(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that the command would not heed."""
    problems = [
        Problem(f"--{name.replace('_', '-')} goes with --cmd {' or '.join(commands)}", f"--cmd {options.cmd}")
        for name, commands in _GOES_WITH.items()
        if getattr(options, name) and options.cmd not in commands
    ]
    problems += [
        Problem("this is not UTF-8 text", f"--{name}", "the session keeps it as such")
        for name in ("exclude", "reason")
        if not is_utf8(getattr(options, name))
    ]
    raise_all(ConfigError, problems)


_TRIES, _PAUSE_SECONDS = 10, 0.2
_GOES_WITH = {
    "job": ("tail", "events", "restart", "cancel", "skip", "try"),
    "failed": ("tail", "events", "restart"),
    "lines": ("tail", "try", "events"),
    "since": ("events",),
    "override": ("restart",),
    "exclude": ("restart",),
    "reason": ("restart", "cancel", "skip"),
    "force": ("remove",),
    "check": ("restart",),
    "queue_event": ("queue", "events"),
    **dict.fromkeys(("queue_id", "queue_show", "queue_retry"), ("queue",)),
    **dict.fromkeys(("follow", "jobs"), ("actions",)),
    "once": ("watch", "actions"),
}
"""The options that only some of the commands heed."""


def _watch(options: argparse.Namespace) -> int:
    if options.detach and options.all:
        return detach.hand_over_all(options, _directory(options), _sessions(_directory(options), own=True))
    if options.all:
        code, sessions = watch_steps.watch_all(_directory(options), once=options.once, quiet=options.json)
        if options.once or options.json:
            _show_sessions(sessions, as_json=options.json)
        if not sessions and code == app.OK and not options.json:
            _tell_none(options, unfinished=True)
        return code
    manifest, path = _manifest(options)
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
                    time.sleep(_PAUSE_SECONDS)
                    continue
                if watcher is None or options.once:
                    raise
                session = session_commands.recorded(manifest)
                looked = read_only.look_on(manifest, session, watcher, quiet=options.json)
                if looked is None:
                    continue
                code = looked
                session = session_commands.recorded(manifest)
            else:
                session = monitor.session
                if options.once:
                    code = watch_steps.look_once(monitor, on_stderr=options.json)
                    if code == app.OK:
                        return _show(session, manifest, options.json, whole=False)
                else:
                    code = watch_steps.watch_until_ended(monitor, quiet=options.json)
            if options.json:
                print(json.dumps(facts.session_facts(session)))
            return code


def _status(options: argparse.Namespace) -> int:
    if options.all:
        return _status_of_all(options)
    manifest, session = _recorded(options)
    return _show(session, manifest, options.json)


def _status_of_all(options: argparse.Namespace) -> int:
    sessions = [session for session in _sessions(_directory(options)) if not session.finished]
    _show_sessions(sessions, as_json=options.json)
    if not sessions and not options.json:
        _tell_none(options, unfinished=True)
    return app.OK


def _tell_none(options: argparse.Namespace, *, unfinished: bool = False) -> None:
    """Say that there are no sessions, and where else to look if no option names the folder."""
    directory = _directory(options)
    app.note(hints.no_sessions(directory, unfinished=unfinished))
    if options.monitoring_state_dir is None and not any(directory.glob("*.json")):
        app.note(f"    {hints.other_folder()}")


def _show_sessions(sessions: Sequence[Session], *, as_json: bool) -> None:
    from oellm_autoexp.view.tables import console, headline, last_look

    if as_json:
        print(json.dumps({"sessions": [facts.session_facts(session) for session in sessions]}))
        return
    screen = console()
    for session in sessions:
        screen.print(f"{_titled(session)}: {headline(session)}")
        everything = commands.monitor(session.path, "--cmd", "status")
        screen.print(last_look(session, everything), crop=False)


def _show(session: Session, manifest: Manifest, as_json: bool, *, whole: bool = True) -> int:
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


def _cancel(options: argparse.Namespace) -> int:
    return session_commands.cancel(options, *_manifest(options))


def _skip(options: argparse.Namespace) -> int:
    return session_commands.skip(options, *_manifest(options))


def _restart(options: argparse.Namespace) -> int:
    return session_commands.restart(options, *_manifest(options))


def _tail(options: argparse.Namespace) -> int:
    return session_commands.tail(options, *_recorded(options))


def _events(options: argparse.Namespace) -> int:
    return show_events.events(options, *_recorded(options))


def _try(options: argparse.Namespace) -> int:
    if options.session is None:
        return try_rules.run(
            options, None if options.manifest is None else session_steps.load_manifest(options.manifest)
        )
    return try_rules.run(options, _manifest(options)[0])


def _remove(options: argparse.Namespace) -> int:
    return session_commands.remove(options, *_recorded(options))


def _queue(options: argparse.Namespace) -> int:
    return queue_commands.show_queue(options, _manifest(options)[0])


def _actions(options: argparse.Namespace) -> int:
    return queue_commands.work(options, _manifest(options)[0])


def _found(options: argparse.Namespace) -> Path:
    """The file of the session that --session names. Raises ConfigError."""
    from oellm_autoexp.session.session import all_sessions, find_session

    directory = _directory(options)
    if options.monitoring_state_dir is None and not all_sessions(directory):
        what = f"no session '{options.session}', as there are none here"
        raise ConfigError(Problem(what, str(directory.absolute()), hints.other_folder()))
    return find_session(directory, options.session)


def _recorded(options: argparse.Namespace) -> tuple[Manifest, Session]:
    """The manifest and the session as it is on disk. Raises ConfigError, CorruptError."""
    manifest, _ = _manifest(options)
    return manifest, session_commands.recorded(manifest)


def _list(options: argparse.Namespace) -> int:
    from rich.table import Table

    from oellm_autoexp.storage import trust
    from oellm_autoexp.view.tables import console, headline

    directory = _directory(options)
    unread: dict[Path, AutoexpError] = {}
    sessions = _sessions(directory, unread=unread)
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
        _tell_none(options)
        return app.OK
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("session", no_wrap=True)
    table.add_column("jobs")
    for session in sessions:
        table.add_row(_titled(session), headline(session))
    for path, error in unread.items():
        table.add_row(path.stem.replace("\n", "\\n"), f"not read: {error.problems[0].sentence}")
    console().print(table)
    return app.OK


def _journals_alone(directory: Path) -> dict[Path, AutoexpError]:
    """The journals of a directory beside which there is no session, and what to do about each; that is told."""
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
        app.tell(found[path])
    return found


def _directory(options: argparse.Namespace) -> Path:
    directory: Path | None = options.monitoring_state_dir
    return directory or hints.default_state_dir()


def _titled(session: Session) -> str:
    """A session's id, what started it if an action did, and whose it is if it is another user's."""
    from oellm_autoexp.storage import trust

    owner = trust.stranger(session.path)
    told = [session_steps.started_by(session), "" if owner is None else f"of {owner}"]
    more = ", ".join(filter(None, told))
    return f"{session.plan_id} ({more})" if more else session.plan_id


def _sessions(directory: Path, *, own: bool = False, unread: dict[Path, AutoexpError] | None = None) -> list[Session]:
    """The sessions of a directory that can be read, newest first; of the others it is told why not.

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
            app.tell(error)
            if unread is not None:
                unread[path] = error
    return sessions


def _manifest(options: argparse.Namespace) -> tuple[Manifest, Path]:
    """The manifest that --session or --manifest means. Raises ConfigError."""
    from oellm_autoexp.session.session import Session, session_path

    if options.manifest is not None:
        manifest = session_steps.load_manifest(options.manifest)
        if not session_path(Path(manifest.monitoring_state_dir), manifest.plan_id).exists():
            hint = f"submit it: {hints.command('submit', '--manifest', str(options.manifest))}"
            raise ConfigError(Problem("this plan was not submitted yet", str(options.manifest), hint))
        return manifest, options.manifest
    if options.session is None and options.all:
        raise ConfigError(
            Problem(f"--cmd {options.cmd} is for one session", "--all", "give --session ID; --cmd list shows them")
        )
    if options.session is None:
        raise ConfigError(
            Problem("no session is given", hint="give --session ID, --manifest PATH or --all; --cmd list shows them")
        )
    path = with_backoff(lambda: Session.load(_found(options)).manifest_path)
    return session_steps.load_manifest(path), path


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "watch": _watch,
    "actions": _actions,
    "queue": _queue,
    "status": _status,
    "cancel": _cancel,
    "events": _events,
    "remove": _remove,
    "restart": _restart,
    "skip": _skip,
    "tail": _tail,
    "try": _try,
    "list": _list,
}
