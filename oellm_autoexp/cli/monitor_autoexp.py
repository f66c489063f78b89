"""monitor: watch a session, or look at sessions and act on them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor import (
    detach,
    end_jobs,
    queue_commands,
    restart_jobs,
    session_list,
    session_names,
    show_events,
    show_logs,
    show_status,
    try_rules,
    watch_session,
)
from oellm_autoexp.cli.monitor.session_names import manifest_and_session, manifest_of
from oellm_autoexp.cli.screens import browse, show_failures, show_nodes, show_plot
from oellm_autoexp.cli.steps import app, session_steps
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import ConfigError, Problem, raise_all
from oellm_autoexp.core.text import is_utf8

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session

EXAMPLES = """\
  python scripts/monitor_autoexp.py --session default-20260131-235959-3f9c2a1b    go on watching
  python scripts/monitor_autoexp.py --session default-2026 --cmd status           one look, from what is recorded
  python scripts/monitor_autoexp.py --session default-2026 --cmd plot loss        curves of its jobs
  python scripts/monitor_autoexp.py --session default-2026 --once                 one cycle, for cron
  python scripts/monitor_autoexp.py --session default-2026 --detach slurm         by a small SLURM job
  python scripts/monitor_autoexp.py --all                                         all that are not finished
  python scripts/monitor_autoexp.py --session default-2026 --cmd queue            the actions that wait for a worker
  python scripts/monitor_autoexp.py --session default-2026 --cmd actions          carry them out
  python scripts/monitor_autoexp.py --session default-2026 --cmd skip             abandon the actions that wait
  python scripts/monitor_autoexp.py --cmd list                                    which sessions are there
  python scripts/monitor_autoexp.py --cmd try --log train.log monitoring=megatron_production
                                                                                  what rules find in a log
  python scripts/monitor_autoexp.py --session default-2026 --cmd why              why its jobs failed
  python scripts/monitor_autoexp.py --cmd why --log train.log                     why a program failed, by its log
  python scripts/monitor_autoexp.py --cmd nodes                                   nodes that failed, over all plans
  python scripts/monitor_autoexp.py --cmd nodes --report n7 --reason "GPU 3 is gone"
                                                                                  no job gets it any more

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
        help="watch (default); status: what is recorded; plot: curves of metrics; "
        "browse: all of this in one window; tail: the logs' last lines; "
        "events: what was seen and done; "
        "restart, cancel: the jobs that --job names; release: jobs that are held as others failed in the same way; "
        "skip: abandon the actions that wait, also those in the queue; "
        "list: all sessions; remove: a finished session; queue: the actions that wait for a worker; "
        "actions: be that worker; try: what the rules find in --log; "
        "why: the failures of a session, or of all, by their causes; with --log: why the program of a log failed; "
        "nodes: those that failed, over all plans, and which are left out of jobs",
    )
    made.add_argument("--once", action="store_true", help="watch for one cycle only (for cron)")
    detach.add_option(made)
    show_status.add_options(made)
    _add_job_options(made)
    queue_commands.add_options(made)
    show_plot.add_options(made)
    show_nodes.add_options(made)
    try_rules.add_options(made)
    made.add_state_dir()
    made.add_json()
    return made


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    """The options of these commands."""
    group = parser.add_argument_group("one or some of the jobs (--cmd cancel, skip, restart, tail, events, why)")
    group.add_argument("--job", metavar="NAME", action="append", help="the job's name or index, or a pattern (lr_1e-*)")
    group.add_argument("--failed", action="store_true", help="--cmd tail, events, restart: of these, those that failed")
    group.add_argument(
        "--lines",
        metavar="N",
        type=app.whole_number(0, app.MANY),
        help="--cmd tail: lines of each log (default 20); --cmd try: of each rule (default 5); --cmd events: the "
        "newest N, --cmd why: the N most frequent kinds of failure (default of both: as many as the screen has room "
        "for, or all where the output is no terminal)",
    )
    group.add_argument(
        "--since", metavar="TIME", help="--cmd events: not older than this: 30min, 2h, 3d, 14:30 or 2026-01-31T14:30"
    )
    group.add_argument(
        "--override",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="--cmd restart: what is to differ, as in slurm.sbatch.time=04:00:00",
    )
    group.add_argument("--exclude", metavar="NODES", default="", help="--cmd restart: nodes that it must not use")
    group.add_argument(
        "--check", action="store_true", help="--cmd restart: let SLURM judge the new scripts first (sbatch --test-only)"
    )
    group.add_argument(
        "--reason",
        metavar="TEXT",
        default="",
        help="--cmd cancel, skip, restart: kept in the job's history; --cmd nodes: why it is reported or forgiven",
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="--cmd remove: also a cancelled session of which the scheduler can't say whether it has taken its jobs",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _act, argv)


def _act(options: argparse.Namespace) -> int:
    session_names.understand(options, _COMMANDS)
    _check_what_goes_with(options)
    detach.check(options)
    queue_commands.check(options)
    try_rules.check(options)
    show_nodes.check(options)
    with _as_its_owner(options):
        return _COMMANDS[options.cmd](options)


@contextmanager
def _as_its_owner(options: argparse.Namespace) -> Iterator[None]:
    """Let commands that only look read the session of another user, and say whose it is."""
    from oellm_autoexp.storage import trust

    owner = None
    if options.cmd in _LOOKS and not (options.queue_retry or options.report or options.forgive):
        if options.manifest is not None:
            owner = trust.stranger(options.manifest)
        elif options.session is not None:
            owner = with_backoff(lambda: trust.stranger(session_names.session_file(options)))
    if owner is not None:
        app.note(f"this session belongs to {owner}: you see it, and only they can act on it", on_stderr=True)
    with trust.reading_as(owner):
        yield


_LOOKS = ("status", "plot", "browse", "tail", "events", "queue", "try", "why", "nodes")
"""The commands that act on nothing; `list` and `--all` look at each session as its owner."""


def _check_what_goes_with(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that the command would ignore."""
    problems = [
        Problem(f"--{name.replace('_', '-')} goes with --cmd {' or '.join(commands)}", f"--cmd {options.cmd}")
        for name, commands in _GOES_WITH.items()
        if getattr(options, name) and options.cmd not in commands
    ]
    problems += [
        Problem("this is not UTF-8 text", f"--{name}", "the session keeps it as such")
        for name in ("exclude", "reason", "report", "forgive")
        if not is_utf8(getattr(options, name) or "")
    ]
    raise_all(ConfigError, problems)


_GOES_WITH = {
    "job": ("tail", "events", "plot", "restart", "cancel", "skip", "try", "why"),
    "failed": ("tail", "events", "restart"),
    "lines": ("tail", "try", "events", "why"),
    "since": ("events",),
    "override": ("restart",),
    "exclude": ("restart",),
    "reason": ("restart", "cancel", "skip", "nodes"),
    **dict.fromkeys(("report", "forgive"), ("nodes",)),
    "force": ("remove",),
    "check": ("restart",),
    "queue_event": ("queue", "events"),
    **dict.fromkeys(("queue_id", "queue_show", "queue_retry"), ("queue",)),
    **dict.fromkeys(("follow", "jobs"), ("actions",)),
    "once": ("watch", "actions"),
    "wide": ("status", "why"),
    **dict.fromkeys(("columns", "csv"), ("status",)),
    **dict.fromkeys(("sort", "filter"), ("status", "plot")),
    **dict.fromkeys(("log_scale", "x"), ("plot",)),
}
"""The options that only some of the commands use."""


def _manifest_if_any(options: argparse.Namespace) -> Manifest | None:
    """The manifest of a plan, submitted or not, or that of a session; None where the options name neither."""
    if options.session is None:
        return None if options.manifest is None else session_steps.load_manifest(options.manifest)
    return manifest_of(options)[0]


def _why(options: argparse.Namespace) -> int:
    if options.log is not None:
        return show_failures.of_logs(options, _manifest_if_any(options))
    if options.session is None and options.manifest is None:
        return show_failures.of_all(options)
    return show_failures.of_session(options, *manifest_and_session(options))


def _with_manifest(act: Callable[[argparse.Namespace, Manifest, Path], int]) -> Callable[[argparse.Namespace], int]:
    """A command for the session that the options name; it may hold the session."""
    return lambda options: act(options, *manifest_of(options))


def _with_record(act: Callable[[argparse.Namespace, Manifest, Session], int]) -> Callable[[argparse.Namespace], int]:
    """A command for what is recorded of the session that the options name."""
    return lambda options: act(options, *manifest_and_session(options))


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "watch": watch_session.watch,
    "actions": lambda options: queue_commands.work(options, manifest_of(options)[0]),
    "queue": lambda options: queue_commands.show_queue(options, manifest_of(options)[0]),
    "status": show_status.status,
    "cancel": _with_manifest(end_jobs.cancel),
    "events": _with_record(show_events.events),
    "remove": _with_record(session_list.remove),
    "restart": _with_manifest(restart_jobs.restart),
    "release": _with_manifest(restart_jobs.release),
    "skip": _with_manifest(end_jobs.skip),
    "tail": _with_record(show_logs.tail),
    "plot": _with_record(show_plot.plot),
    "browse": _with_manifest(browse.browse),
    "try": lambda options: try_rules.run(options, _manifest_if_any(options)),
    "why": _why,
    "nodes": lambda options: show_nodes.nodes(options, _manifest_if_any(options)),
    "list": session_list.list_sessions,
}
