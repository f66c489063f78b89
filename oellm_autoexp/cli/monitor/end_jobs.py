"""monitor --cmd cancel, skip: jobs are ended for good, and actions that wait are abandoned."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor.ask_holder import ask_holder, chosen, report, say, some
from oellm_autoexp.cli.monitor.session_names import recorded
from oellm_autoexp.cli.steps import app, hints, session_steps, watch_steps
from oellm_autoexp.core.errors import LockedError, SchedulerError
from oellm_autoexp.core.text import plural

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session


def cancel(options: argparse.Namespace, manifest: Manifest, path: Path) -> int:
    """End jobs for good, and abandon their actions that wait; those in the queue stay there."""
    names = chosen(options, manifest, recorded(manifest))
    reason = options.reason or "cancelled by hand"
    try:
        with session_steps.session(manifest, path) as monitor:
            try:
                ended = monitor.cancel(names, reason)
            except SchedulerError as error:
                return _cancelled_later(options, manifest, monitor.session, error)
            code = watch_steps.poll_once(monitor, on_stderr=options.json)
            messages = list(monitor.messages)
    except LockedError:
        return ask_holder(options, manifest, names, "cancel", reason, f"end {plural(len(names), 'job')}")
    report(options, manifest, monitor.session, ended, [*messages, f"ended: {some(ended)}"])
    return code


def _cancelled_later(options: argparse.Namespace, manifest: Manifest, session: Session, error: SchedulerError) -> int:
    """Say that jobs are to end, and that the scheduler could not be asked to end them."""
    from oellm_autoexp.session.waits import only_unclear

    names = [job.name for job in session.jobs.values() if job.cancelled_by and not job.over]
    resume = hints.resume_command(manifest)
    lines = [
        f"the scheduler does not answer: {error.problems[0].what}",
        f"kept: {plural(len(names), 'job')} to end as soon as it answers: {some(names)}",
        "it is asked again by every monitor of the session, and by a new run that needs its output directories; "
        f"or now: {resume} --cmd cancel",
    ]
    if only_unclear(session.jobs.values()):
        lines.append(f"to give the session up without an answer: {resume} --cmd remove --force")
    report(options, manifest, session, names, lines)
    return app.FAILED


def skip(options: argparse.Namespace, manifest: Manifest, path: Path) -> int:
    """Abandon the actions of jobs that wait: for conditions, for their turn, or in the queue for a worker."""
    from oellm_autoexp.session.queue import Queue

    session = recorded(manifest)
    names = chosen(options, manifest, session)
    reason = options.reason or "skipped by hand"
    queued = Queue(session.path).give_up(names, f"abandoned: {reason}", report=app.report)
    lines = [f"{entry.event.job}: {entry.action.kind} of {entry.event.name}: abandoned" for entry in queued]
    if not any(session.jobs[name].actions.pending for name in names):
        abandoned = f"abandoned: {plural(len(queued), 'action')}"
        say(options, names, "\n".join([*lines, abandoned, *_jobs_that_wait(manifest, session, names)]))
        return app.OK
    try:
        with session_steps.session(manifest, path) as monitor:
            count = monitor.skip(names, reason) + len(queued)
            lines += monitor.messages
    except LockedError:
        return ask_holder(options, manifest, names, "skip", reason, "abandon the actions that wait", lines)
    lines += [f"abandoned: {plural(count, 'action')}", *_jobs_that_wait(manifest, monitor.session, names)]
    report(options, manifest, monitor.session, names, lines)
    return app.OK


def _jobs_that_wait(manifest: Manifest, session: Session, names: Sequence[str]) -> list[str]:
    """The jobs that wait to be submitted, also for a new attempt, and the command that cancels them."""
    from oellm_autoexp.session.waits import waits
    from oellm_autoexp.view.jobs.waiting import waiting_lines

    jobs = [wait for wait in waits(session.jobs[name] for name in names) if wait.kind == "job"]
    if not jobs:
        return []
    command = f"{hints.resume_command(manifest)} --cmd cancel"
    return [f"{plural(len(jobs), 'job')} still to be submitted; to cancel them: {command}", *waiting_lines(jobs)]
