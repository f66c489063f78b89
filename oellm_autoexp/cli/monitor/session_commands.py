"""monitor --cmd cancel, skip, restart, tail, events, remove: what a person does with the jobs of one session."""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.steps import app, hints, session_steps, watch_steps, watchers
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import (
    ConfigError,
    CorruptError,
    LockedError,
    Problem,
    SchedulerError,
    StateError,
    raise_all,
)
from oellm_autoexp.core.text import did_you_mean, plural, printable

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.rules.actions import RestartAction
    from oellm_autoexp.session.job_state import JobState
    from oellm_autoexp.session.session import Session

_LINES, _NAMES = 20, 5
_TAIL_BYTES = 256 << 10
_HEED_SECONDS = 5.0
_PAUSE_SECONDS = 0.2
_STATE = (".journal", ".secrets", ".events.jsonl", ".actions", ".requests", ".detached")
"""What lies beside a session's file."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of these commands."""
    group = parser.add_argument_group("one or some of the jobs (--cmd cancel, skip, restart, tail, events)")
    group.add_argument("--job", metavar="NAME", action="append", help="the job's name or index, or a pattern (lr_1e-*)")
    group.add_argument("--failed", action="store_true", help="--cmd tail, events, restart: of these, those that failed")
    group.add_argument(
        "--lines",
        metavar="N",
        type=app.whole_number(0, app.MANY),
        help="--cmd tail: lines of each log (default 20); --cmd try: of each rule (default 5); --cmd events: the "
        "newest N (default: as many as the screen has room for, or all where the output is no terminal)",
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
        "--reason", metavar="TEXT", default="", help="--cmd cancel, skip, restart: kept in the job's history"
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="--cmd remove: also a cancelled session of which the scheduler can't say whether it has taken its jobs",
    )


def chosen(options: argparse.Namespace, manifest: Manifest, session: Session) -> list[str]:
    """The names of the jobs that --job and --failed mean; every job where neither is given. Raises ConfigError."""
    names = named(options, manifest)
    return [name for name in names if session.jobs[name].failed] if options.failed else names


def named(options: argparse.Namespace, manifest: Manifest) -> list[str]:
    """The names of the jobs that --job means; every job where it is not given. Raises ConfigError."""
    names = [job.name for job in manifest.jobs]
    if not options.job:
        return names
    by_index = {str(job.index): job.name for job in manifest.jobs}
    found: dict[str, None] = {}
    for word in options.job:
        matching = [word] if word in names else [by_index[word]] if word in by_index else fnmatch.filter(names, word)
        if not matching:
            raise ConfigError(Problem(f"the plan has no job '{word}'", "--job", did_you_mean(word, names)))
        found.update(dict.fromkeys(matching))
    return list(found)


def cancel(options: argparse.Namespace, manifest: Manifest, path: Path) -> int:
    """End jobs for good, and give up their actions that wait; those in the queue stay there."""
    names = chosen(options, manifest, recorded(manifest))
    reason = options.reason or "cancelled by hand"
    try:
        with session_steps.session(manifest, path) as monitor:
            try:
                ended = monitor.cancel(names, reason)
            except SchedulerError as error:
                return _cancelled_later(options, manifest, monitor.session, error)
            code = watch_steps.look_once(monitor, on_stderr=options.json)
            news = list(monitor.reactions.news)
    except LockedError:
        return _by_holder(options, manifest, names, "cancel", reason, f"end {plural(len(names), 'job')}")
    _told(options, manifest, monitor.session, ended, [*news, f"ended: {_some(ended)}"])
    return code


def _cancelled_later(options: argparse.Namespace, manifest: Manifest, session: Session, error: SchedulerError) -> int:
    """Say that jobs are to end, and that the scheduler could not be asked to end them."""
    from oellm_autoexp.session.waits import only_unclear

    names = [job.name for job in session.jobs.values() if job.cancelled_by and not job.over]
    resume = hints.resume_command(manifest)
    lines = [
        f"the scheduler does not answer: {error.problems[0].what}",
        f"kept: {plural(len(names), 'job')} to end as soon as it answers: {_some(names)}",
        "it is asked again by every monitor of the session, and by a new run that needs its output directories; "
        f"or now: {resume} --cmd cancel",
    ]
    if only_unclear(session.jobs.values()):
        lines.append(f"to give the session up without an answer: {resume} --cmd remove --force")
    _told(options, manifest, session, names, lines)
    return app.FAILED


def skip(options: argparse.Namespace, manifest: Manifest, path: Path) -> int:
    """Give up the actions of jobs that wait: for conditions, for their turn, or in the queue for a worker."""
    from oellm_autoexp.session.queue import Queue

    session = recorded(manifest)
    names = chosen(options, manifest, session)
    reason = options.reason or "skipped by hand"
    queued = Queue(session.path).give_up(names, f"given up: {reason}", tell=app.tell)
    lines = [f"{entry.event.job}: {entry.action.kind} of {entry.event.name}: given up" for entry in queued]
    if not any(session.jobs[name].pending for name in names):
        given_up = f"gave up: {plural(len(queued), 'action')}"
        _say(options, names, "\n".join([*lines, given_up, *_jobs_that_wait(manifest, session, names)]))
        return app.OK
    try:
        with session_steps.session(manifest, path) as monitor:
            count = monitor.skip(names, reason) + len(queued)
            lines += monitor.reactions.news
    except LockedError:
        return _by_holder(options, manifest, names, "skip", reason, "give up the actions that wait", lines)
    lines += [f"gave up: {plural(count, 'action')}", *_jobs_that_wait(manifest, monitor.session, names)]
    _told(options, manifest, monitor.session, names, lines)
    return app.OK


def _jobs_that_wait(manifest: Manifest, session: Session, names: Sequence[str]) -> list[str]:
    """The jobs that wait to be submitted, also for a new attempt, and the command that gives them up."""
    from oellm_autoexp.session.waits import waits
    from oellm_autoexp.view.waiting import waiting_lines

    jobs = [wait for wait in waits(session.jobs[name] for name in names) if wait.kind == "job"]
    if not jobs:
        return []
    command = f"{hints.resume_command(manifest)} --cmd cancel"
    return [f"{plural(len(jobs), 'job')} still to be submitted; to give up jobs: {command}", *waiting_lines(jobs)]


def _by_holder(
    options: argparse.Namespace,
    manifest: Manifest,
    names: Sequence[str],
    kind: Any,
    reason: str,
    what: str,
    lines: Sequence[str] = (),
) -> int:
    """Ask the process that holds the session, and wait a moment for it to do so."""
    asked = _ask(manifest, names, kind, reason)
    until = time.monotonic() + _HEED_SECONDS
    while any(path.exists() for path in asked) and time.monotonic() < until:
        time.sleep(_PAUSE_SECONDS)
    text = f"asked {_who_watches(manifest)} to {what}{_at_its_next_look(asked)}"
    _told(options, manifest, recorded(manifest), names, [*lines, text])
    return app.OK


def restart(options: argparse.Namespace, manifest: Manifest, path: Path) -> int:
    """Begin a new attempt of jobs: of those that failed, or of those that --job names."""
    from oellm_autoexp.rules.actions import RestartAction
    from oellm_autoexp.submission.outputs import claim_outputs

    session = recorded(manifest)
    names = chosen(options, manifest, session)
    overrides = _overrides(options.override)
    before = dict(session.jobs)
    if not options.job:
        names = [name for name in names if _failed(before[name])]
    if not names:
        raise ConfigError(Problem("no job has failed", "--cmd restart", "name those to begin anew with --job"))
    _check_scripts(options, manifest, [before[name] for name in names], overrides)
    if session.finished:  # its output directories may be another's by now
        claim_outputs(manifest, session.path)
    reason = options.reason or "asked for by hand"
    action = RestartAction(
        class_name="RestartAction", reason=reason, overrides=overrides, exclude_nodes=options.exclude
    )
    asked = _ask(manifest, names, "restart", reason, action)
    until = time.monotonic() + _HEED_SECONDS
    news: list[str] = []
    code = app.OK
    while True:
        try:
            with session_steps.session(manifest, path) as monitor:
                code = watch_steps.look_once(monitor, on_stderr=options.json)
                news = list(monitor.reactions.news)
            break
        except LockedError:
            if not any(path.exists() for path in asked) or time.monotonic() >= until:
                break
        time.sleep(_PAUSE_SECONDS)
    session = recorded(manifest)
    if any(path.exists() for path in asked):
        text = f"asked {_who_watches(manifest)} to begin {plural(len(names), 'job')} anew"
        _told(options, manifest, session, names, [f"{text}{_at_its_next_look(asked)}"])
        return code
    begun = [name for name in names if _begun(before[name], session.jobs[name])]
    if not news:  # whoever watches has heeded it
        news = [f"{name}: no new attempt, it is {session.jobs[name].state}" for name in names if name not in begun]
    refused = [name for name in begun if _refused(session.jobs[name])]
    news += [f"{name}: refused: {session.jobs[name].reason}" for name in refused]
    begun = [name for name in begun if name not in refused]
    _told(options, manifest, session, begun, [*news, f"to begin anew: {_some(begun)}"])
    return code or (app.OK if begun and not refused else app.FAILED)


def _who_watches(manifest: Manifest) -> str:
    watcher = watchers.find(manifest)
    return (
        f"the process that watches the session ({watcher.name})" if watcher else "the process that watches the session"
    )


def _refused(job: JobState) -> bool:
    """Whether a job's newest attempt has ended before any scheduler knew it."""
    from oellm_autoexp.core.states import FINAL

    return job.state in FINAL and not job.scheduler_state


def _begun(before: JobState, now: JobState) -> bool:
    """Whether a job has a new attempt, or is to have one."""
    had = before.attempt, sum(before.restarts.values())
    return now.restart is not None or (now.attempt, sum(now.restarts.values())) > had


def _failed(job: JobState) -> bool:
    """Whether a job has ended badly, or waits because its submission was refused."""
    from oellm_autoexp.core.states import SUCCESS, WAITING

    return (job.over and job.state != SUCCESS) or (job.state == WAITING and job.refusals > 0)


def _check_scripts(
    options: argparse.Namespace, manifest: Manifest, jobs: Sequence[JobState], overrides: Mapping[str, Any]
) -> None:
    """Return if new attempts of jobs can be made with these overrides, and the scheduler would take them.

    They are checked as a plan is before its submission. Raises ConfigError, StateError.
    """
    from oellm_autoexp.schedulers.base import make_scheduler
    from oellm_autoexp.submission.check import AttemptChecks

    specs = {spec.name: spec for spec in manifest.jobs}
    nodes = [node for node in re.split(r"[,\s]+", options.exclude) if node]
    checks = AttemptChecks(make_scheduler(manifest))
    problems: dict[Problem, None] = {}
    for job in jobs:
        own, excluded = {**job.overrides, **overrides}, [*job.excluded, *nodes]
        found = checks.overrides(manifest, specs[job.name], job.attempt + 1, own, excluded, test=options.check)
        problems.update((p if p.where.keys else Problem(p.what, job.name, p.hint), None) for p in found)
    raise_all(ConfigError, problems)


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """Overrides in Hydra's grammar, by their keys with `+ ++ ~`. Raises ConfigError with all that do not parse."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from oellm_autoexp.config.declared import settle_value
    from oellm_autoexp.config.overrides import check_override_text, value_of_override
    from oellm_autoexp.config.values.written import mark_override

    parser = OverridesParser.create()
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for word in words:
        key, equals, text = word.partition("=")
        try:
            check_override_text(word)
            override = parser.parse_override(word)
        except ConfigError as error:
            problems += error.problems
            continue
        except (HydraException, ValueError):  # ValueError: a number of thousands of digits
            if equals and "${" in text:  # a computed value, which Hydra's grammar need not know
                found[key] = text
                continue
            hint = "write key=value; a value with commas, quotes or brackets needs quotes of its own: 'key=\"a, b\"'"
            problems.append(Problem(f"{word!r} is no override", "--override", hint))
            continue
        if not override.key_or_group:
            problems.append(Problem(f"{word!r} is no override", "--override", "write key=value"))
        elif override.is_sweep_override():
            hint = "write a list as key=[1,2] and text as 'key=\"1,2\"'"
            problems.append(Problem(f"{word!r} has several values", "--override", hint))
        else:
            marked = mark_override(word, override.value(), value_of_override)
            found[key], unsettled = settle_value(key, value_of_override(marked))
            problems += unsettled
    raise_all(ConfigError, problems)
    return found


def recorded(manifest: Manifest) -> Session:
    """The session of a plan as it is on disk. Raises ConfigError, CorruptError (also where it has other jobs)."""
    from oellm_autoexp.session.session import Session, session_path

    session = with_backoff(lambda: Session.load(session_path(Path(manifest.monitoring_state_dir), manifest.plan_id)))
    if session.jobs.keys() != {job.name for job in manifest.jobs}:
        raise CorruptError(Problem("it has other jobs than its plan", str(session.path), str(session.manifest_path)))
    return session


def _ask(
    manifest: Manifest, names: Sequence[str], kind: Any, reason: str, restart: RestartAction | None = None
) -> list[Path]:
    """Leave requests for whoever holds the session; their files, which are there until they are heeded."""
    from oellm_autoexp.session import requests

    session = recorded(manifest)
    left = []
    for name in names:
        asked = requests.Request(
            id=f"{kind}-{secrets.token_hex(6)}",
            kind=kind,
            job=name,
            attempt=session.jobs[name].attempt,
            reason=reason,
            restart=restart,
            actions=kind == "cancel",
            at=time.time(),
        )
        requests.ask(session.path, asked)
        left.append(requests.place(session.path, asked))
    return left


def _at_its_next_look(asked: Sequence[Path]) -> str:
    return " (it does so at its next look)" if any(path.exists() for path in asked) else ""


def _told(
    options: argparse.Namespace, manifest: Manifest, session: Session, names: Sequence[str], messages: Sequence[str]
) -> None:
    """Tell what was done to jobs."""
    if options.json:
        jobs = {name: session.jobs[name].state for name in names}
        print(json.dumps({"plan_id": manifest.plan_id, "jobs": jobs, "messages": messages}))
        return
    shown = [*messages[: _LINES - 1], *messages[_LINES - 1 :][-1:]]  # the last one sums up
    for number, line in enumerate(shown):
        if number == _LINES - 1 and len(messages) > len(shown):
            app.note(f"… and {len(messages) - len(shown)} more")
        app.note(line)
    if not session.finished:
        hints.show([f"go on watching    {hints.resume_command(manifest)}"])


def _some(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are where that is not all."""
    shown = ", ".join(names[:_NAMES]) or "nothing"
    return f"{shown} and {len(names) - _NAMES} more" if len(names) > _NAMES else shown


def _say(options: argparse.Namespace, names: Sequence[str], text: str) -> None:
    if options.json:
        print(json.dumps({"jobs": list(names), "messages": [text]}))
    else:
        app.note(text)


def tail(options: argparse.Namespace, manifest: Manifest, session: Session) -> int:
    """The last lines of each job's newest log."""
    from oellm_autoexp.view.tables import causes

    found = []
    for name in chosen(options, manifest, session):
        job = session.jobs[name]
        lines = _last_lines(Path(job.resolved_log_path), options.lines or _LINES) if job.resolved_log_path else []
        found.append({"job": name, "state": job.state, "log_path": job.resolved_log_path, "lines": lines})
    if options.json:
        print(json.dumps({"plan_id": session.plan_id, "logs": found}))
        return app.OK
    for entry in found:
        why = ", ".join([str(entry["state"]), *causes(session.jobs[str(entry["job"])])])
        app.note(f"==> {entry['job']} ({why}) {entry['log_path'] or 'no log yet'}")
        for line in entry["lines"]:
            app.note(str(line))
    if not found:
        app.note("no job has failed")
    return app.OK


def _last_lines(path: Path, count: int) -> list[str]:
    from oellm_autoexp.core.redacted_text import redact_text
    from oellm_autoexp.storage.world import Files

    lines = deque(Files("/").tail(str(path), _TAIL_BYTES).splitlines(), maxlen=max(0, count))
    return [printable(line) for line in redact_text("\n".join(lines)).splitlines()]


def remove(options: argparse.Namespace, manifest: Manifest, session: Session) -> int:
    """Remove a finished session: its state, queue and record. Manifests, scripts and logs stay."""
    from oellm_autoexp.session.queue import Queue
    from oellm_autoexp.session.session import writing
    from oellm_autoexp.session.waits import only_unclear
    from oellm_autoexp.storage.trust import check_owner

    resume = hints.resume_command(manifest)
    unclear = [job for job in session.jobs.values() if not job.over] if only_unclear(session.jobs.values()) else []
    if not session.finished and not (options.force and unclear):
        raise StateError(_unfinished(session, resume))
    with writing(session.path):
        queue = Queue(session.path)
        if waits := queue.unfinished():
            what = "1 action waits" if waits == 1 else f"{waits} actions wait"
            them = "it" if waits == 1 else "them"
            hint = f"carry {them} out first: {resume} --cmd actions; or give {them} up: {resume} --cmd skip"
            raise StateError(Problem(f"{what} in its queue", str(queue.folder), hint))
        beside = [session.path.with_suffix(suffix) for suffix in _STATE]
        for path in beside:
            check_owner(path)
        for path in beside:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        session.path.unlink()  # last: until then it is there to be removed
    text = f"removed the session {session.plan_id}; its manifest, scripts and logs are where they were"
    for job in unclear:
        text += f"\n{job.name} may be in the scheduler's queue, under a name that ends in .{job.token}: cancel it there"
    _say(options, [], text)
    return app.OK


def _unfinished(session: Session, resume: str) -> Problem:
    """Why a session is not finished, and the command that makes it so."""
    from oellm_autoexp.session.waits import only_actions_wait, only_unclear, waits
    from oellm_autoexp.view.waiting import waiting_lines

    if only_actions_wait(session.jobs.values()):
        lines = waiting_lines(waits(session.jobs.values()))
        hint = "\n    ".join([*lines, f"give them up: {resume} --cmd skip"])
        return Problem("its jobs have ended, and actions wait", str(session.path), hint)
    if only_unclear(session.jobs.values()):
        hint = f"ask it: {resume} --cmd cancel; or remove the session without an answer: {resume} --cmd remove --force"
        return Problem("the scheduler has not said whether it took jobs that are cancelled", str(session.path), hint)
    if all(job.over for job in session.jobs.values()):
        return Problem("a request waits for a monitor", str(session.path), f"let one look: {resume} --once")
    return Problem("its jobs have not all ended", str(session.path), f"end it first: {resume} --cmd cancel")
