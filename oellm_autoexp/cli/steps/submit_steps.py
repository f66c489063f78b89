"""The steps of submission that commands share: submit the jobs of a session, and say what waits and why."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, hints, watch_steps
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import (
    Problem,
    SchedulerError,
    UnreachableError,
    UnwritableError,
)

if TYPE_CHECKING:
    from oellm_autoexp.engine.loop import Monitor
    from oellm_autoexp.session.session import Session
from oellm_autoexp.cli.steps.session_steps import _begun, finish, resumable

_REASONS_SHOWN = 5
_ANSWERS_SECONDS = 10.0


def submit(monitor: Monitor, *, patient: bool = False) -> None:
    """Submit all that may go; `patient`: also those that wait for their turn, by `submit_rate_limit_seconds`.

    Raises SchedulerError if nothing can: unreachable, or every submission refused.
    """
    from oellm_autoexp.core.states import WAITING
    from oellm_autoexp.core.text import plural
    from oellm_autoexp.storage.trust import each_folder_once
    from oellm_autoexp.submission.submit import FOR_OTHERS
    from oellm_autoexp.view.tables import console

    screen = console(stderr=True)
    attempts = {name: job.attempt for name, job in monitor.session.jobs.items()}
    resume = (
        f"the plan is kept; go on with: {hints.command('submit', '--manifest', str(monitor.session.manifest_path))}"
    )
    end = f"or end it: {hints.resume_command(monitor.manifest)} --cmd cancel"
    try:
        with screen.status("submitting") if screen.is_terminal else nullcontext() as status:

            def report(text: str) -> None:
                if status is not None:
                    status.update(text)

            def go() -> None:
                if monitor.submitter.unsettled:
                    unclear = plural(monitor.submitter.unsettled, "job")
                    report(f"checking whether an interrupted submission has submitted {unclear}")
                    monitor.submitter.settle_all()
                monitor.submitter.retry_now()
                monitor.submitter.submit_ready(
                    lambda done, total: report(f"submitted {done} of {total} jobs"), patient=patient
                )
                if monitor.submitter.unsettled:
                    report("searching for jobs whose submission got no clear answer")
                    monitor.submitter.settle_all()

            with each_folder_once():
                with_backoff(go)
    except SchedulerError as error:
        what = "the submission is not complete"
        if isinstance(error, UnreachableError) and not _begun(monitor.session):
            what = "nothing was submitted: run this where the scheduler can be reached"
        hint = f"{resume}\n    {end}" if _begun(monitor.session) else resume
        raise type(error)(*error.problems, Problem(what, hint=hint)) from None
    except OSError as error:
        what = f"can't write: {error.strerror}"
        incomplete = Problem("the submission is not complete", hint=resume)
        raise UnwritableError(Problem(what, str(error.filename or "")), incomplete) from None
    jobs = monitor.session.jobs.values()
    done = sum(job.attempt != attempts[job.name] for job in jobs)
    if patient and monitor.submitter.full and not any(job.attempt for job in jobs):
        raise SchedulerError(
            Problem(f"the scheduler accepts no job now: {monitor.submitter.full}"),
            Problem("no job was submitted", hint=resume),
        )
    refused = [job for job in jobs if job.state == WAITING and job.waiting.refusals]
    waiting = [job for job in jobs if job.state == WAITING]
    tried_all = all(
        job.waiting.refusals or job.reason in ("", FOR_OTHERS) for job in waiting
    )  # the others wait for reasons of their own
    if refused and tried_all and not any(job.attempt for job in jobs):
        reasons = dict.fromkeys(job.reason for job in refused)
        raise SchedulerError(
            *(Problem(f"the scheduler refused: {reason}", refused[0].name) for reason in reasons),
            Problem("no job was submitted", hint=resume),
        )
    done += await_commands(monitor)
    _report_submitted(monitor.session, done)


def await_commands(monitor: Monitor) -> int:
    """Give the commands that jobs wait for a while to answer, for those who do not come back soon; how many went."""
    done = 0
    until = time.monotonic() + _ANSWERS_SECONDS
    while monitor.submitter.has_pending_checks and time.monotonic() < until:
        time.sleep(0.1)
        done += monitor.submitter.submit_ready()
    return done


def _report_submitted(session: Session, done: int) -> None:
    """Say how many jobs went to the scheduler just now, and why the others wait."""
    from oellm_autoexp.core.states import UNSUBMITTED
    from oellm_autoexp.core.text import plural

    jobs = session.jobs.values()
    if done:
        app.note(f"submitted {plural(done, 'job')}")
    elif all(job.attempt and job.state not in UNSUBMITTED for job in jobs):
        app.note("nothing to submit: every job was submitted before")
    not_run = [job for job in jobs if job.state in UNSUBMITTED or (job.over and not job.attempt)]
    reasons = Counter(job.reason or "waits until the scheduler accepts more jobs" for job in not_run)
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        app.note(f"{plural(count, 'job')}: {reason}")
    if len(reasons) > _REASONS_SHOWN:
        app.note(f"… and {len(reasons) - _REASONS_SHOWN} more reasons to wait")


def submit_and_watch(monitor: Monitor, *, watch: bool, detach: bool = False) -> int:
    """Submit a session's jobs; then watch them, or say how to, or return where the watching is to be detached."""
    if monitor.session.finished:
        app.note("this plan was submitted before, and every job has ended")
        return finish(monitor)

    def go() -> int:
        if monitor.queued_ids:  # those that have ended meanwhile make room, and let others start
            monitor.poll()
        submit(monitor, patient=not (watch or detach))
        if not watch or detach:
            _report_unwatched(monitor, detach=detach)
        if detach:
            return app.OK
        if watch:
            return watch_steps.watch(monitor)
        hints.show([f"watch             {hints.resume_command(monitor.manifest)}"])
        return app.OK

    return resumable(hints.resume_command(monitor.manifest, anywhere=True), go)


def _report_unwatched(monitor: Monitor, *, detach: bool) -> None:
    """Say which jobs nothing submits while no monitor watches, and why."""
    from oellm_autoexp.core.states import WAITING
    from oellm_autoexp.core.text import plural
    from oellm_autoexp.decisions.readiness import needs_monitor

    waiting = [job.name for job in monitor.session.jobs.values() if job.state == WAITING]
    if not waiting:
        return
    by_whom = (
        "the detached monitor submits them" if detach else "no monitor runs: they are submitted when one is started"
    )
    app.note(f"{plural(len(waiting), 'job')} {'waits' if len(waiting) == 1 else 'wait'}: {by_whom}")
    if not monitor.manifest.scheduler["native_dependencies"]:
        return
    why = needs_monitor(monitor.manifest.jobs, monitor.manifest.monitoring)
    for name in [name for name in waiting if name in why][:_REASONS_SHOWN]:
        app.note(f"  {name}: {why[name]}")
