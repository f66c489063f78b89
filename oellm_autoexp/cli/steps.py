"""The steps that commands are made of: plan, open a session, submit, watch, tell how it went."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from oellm_autoexp.cli import app, facts, hints, outside, watchers
from oellm_autoexp.cli.backoff import with_backoff
from oellm_autoexp.errors import (
    Collector,
    ConfigError,
    LockedError,
    Problem,
    SchedulerError,
    UnreachableError,
    UnwritableError,
    raise_all,
)
from oellm_autoexp.text import printable

if TYPE_CHECKING:
    from oellm_autoexp.model import Manifest
    from oellm_autoexp.monitor.loop import Monitor
    from oellm_autoexp.monitor.session import Session
    from oellm_autoexp.scheduler.base import Scheduler
    from oellm_autoexp.view.shown import Shown
    from oellm_autoexp.workflow.plan import Plan
    from oellm_autoexp.workflow.provenance import Circumstances


_REASONS_SHOWN = 5
_ANSWERS_SECONDS = 10.0
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0
_SILENT_SECONDS = 3.0


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """The options of planning."""
    parser.add_argument("--manifest", metavar="PATH", type=Path, help="also write the manifest to this path")
    parser.add_argument("--plan-id", metavar="ID", help="the plan's id (default: config name and time)")
    parser.add_argument("--array-subset", metavar="0,3-5", help="plan only the jobs with these indices")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of planning, and of how far to go then."""
    add_plan_options(parser)
    parser.add_argument("--no-submit", action="store_true", help="plan only")
    parser.add_argument("--no-monitor", action="store_true", help="plan and submit, and return at once")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the plan and the first script; write and submit nothing"
    )


def plan(
    options: argparse.Namespace,
    around: Circumstances | None = None,
    *,
    judged: bool = True,
    machine: outside.Machine | None = None,
) -> Plan:
    """Compose the config and plan its jobs, in memory; a command without planning options plans them all.

    `around`: what to take for the circumstances of the plan (default: those of this process). `judged`: what the jobs
    ask for is compared with what their site allows. `machine`: where they are submitted from (default: here). A
    container in which jobs could not run is refused where the command goes on to submit them, else noted.
    """
    from oellm_autoexp.config.loader import load_mostly
    from oellm_autoexp.redaction import redact_message
    from oellm_autoexp.workflow import followups, likely_mistakes, resuming
    from oellm_autoexp.workflow.check import absent, of_other_versions
    from oellm_autoexp.workflow.plan import located, make_plan
    from oellm_autoexp.workflow.plan_checks import check_plan_id
    from oellm_autoexp.workflow.provenance import gather

    machine = machine or outside.here()
    found = Collector()
    plan_id, subset = getattr(options, "plan_id", None), None
    with found.step():
        if plan_id is not None:
            check_plan_id(plan_id)
    with found.step():
        subset = indices(getattr(options, "array_subset", None))
    with found.step():
        composed = load_mostly(app.source(options))
        gc.freeze()  # what is loaded now stays: the collector need not look through it again and again
        made = make_plan(
            composed,
            around or gather(),
            plan_id=None if len(found) else plan_id,
            subset=subset,
            site=machine.site if judged else None,
            read_template=read_template,
        )
    found.raise_all()
    earlier = resuming.earlier(made.checkpoints)
    with located(composed):
        raise_all(ConfigError, [*resuming.problems(earlier), *followups.problems(made.manifest, composed)])
        _ask(made)
        unready = machine.container_problems(made.manifest)
        if getattr(options, "no_submit", True) is False and not options.dry_run:
            raise_all(ConfigError, unready)
    odd = likely_mistakes.notes(made.manifest.jobs, composed.base, os.environ, made.scripts)
    notes = (
        *made.notes,
        *map(redact_message, (*odd, *likely_mistakes.of_sweep(composed))),
        *resuming.notes(earlier),
        *absent(made.needs, made.manifest.provenance.get("image", {}).get("path", "")),
        *of_other_versions(made.versions),
        *(str(problem).partition("\n")[0] for problem in unready),
    )
    return replace(made, notes=notes)


def _ask(made: Plan) -> None:
    """Put the plan's questions to the programs, with a progress bar where there are several."""
    from oellm_autoexp.view.tables import console
    from oellm_autoexp.workflow.check import ask

    screen = console(stderr=True)
    if len(made.probes) < 2 or not screen.is_terminal:
        ask(made.probes)
        return
    from rich.progress import Progress

    with Progress(console=screen, transient=True) as bar:
        task = bar.add_task("asking the program itself", total=len(made.probes))
        ask(made.probes, lambda: bar.advance(task))


def indices(text: str | None) -> frozenset[int] | None:
    """The jobs that `--array-subset` names (None: all): `0,3-5` → {0, 3, 4, 5}. Raises ConfigError."""
    from oellm_autoexp.sweep.expander import MOST_POINTS

    if text is None:
        return None
    numbers: set[int] = set()
    named, hint = 0, "write e.g. 0,3-5"
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        bounds = (first, last) if dash else (first, first)
        if not all(bound.isascii() and bound.isdecimal() for bound in bounds):
            raise ConfigError(Problem(f"{part[:40]!r} is not an index or a range", "--array-subset", hint))
        if any(len(bound) > len(str(MOST_POINTS)) or int(bound) >= MOST_POINTS for bound in bounds):
            what = f"no plan has a job {bounds[1][:40]}"
            raise ConfigError(Problem(what, "--array-subset", f"a plan has at most {MOST_POINTS} jobs"))
        if int(bounds[0]) > int(bounds[1]):
            raise ConfigError(Problem(f"{part[:40]!r} is not an index or a range", "--array-subset", hint))
        named += int(bounds[1]) - int(bounds[0]) + 1
        if named > MOST_POINTS:
            raise ConfigError(Problem(f"it names more than {MOST_POINTS} jobs", "--array-subset"))
        numbers.update(range(int(bounds[0]), int(bounds[1]) + 1))
    return frozenset(numbers)


def read_template(path: Path | None) -> str:
    """The sbatch template at a path (None: the shipped one). Raises ConfigError."""
    from oellm_autoexp.files import read_text, shipped

    try:
        return read_text(path or shipped("oellm_autoexp/slurm/job.sbatch.template"))
    except (OSError, UnicodeDecodeError) as error:
        why = f"{path}: {error.strerror}" if isinstance(error, OSError) else error
        raise ConfigError(Problem(f"can't read the template: {why}", "$.slurm.template_path")) from None


def check_writable(made: Plan) -> None:
    """Raise ConfigError if the plan could not be written."""
    from oellm_autoexp.workflow import manifest

    manifest.check_writable(made)


def write_plan(made: Plan, extra: Path | None) -> Path:
    """Write a plan, with a progress bar where that takes a while; returns the manifest's path.

    A plan that can't be written for a moment takes back what it made, and is written once more.
    """
    from oellm_autoexp.view.tables import console
    from oellm_autoexp.workflow import manifest

    screen = console(stderr=True)
    jobs = len(made.manifest.jobs)
    if jobs < 200 or not screen.is_terminal:
        return with_backoff(lambda: manifest.write(made, extra))
    from rich.progress import Progress

    with Progress(console=screen, transient=True) as bar:
        task = bar.add_task("writing scripts", total=jobs)
        return with_backoff(lambda: manifest.write(made, extra, lambda done: bar.update(task, completed=done)))


@contextmanager
def session(
    manifest: Manifest, manifest_path: Path, scheduler: Scheduler | None = None, *, patient: bool = False
) -> Iterator[Monitor]:
    """The session of a manifest, made if there is none yet, and held by this process for the time of a block.

    `scheduler` None: the one that the manifest asks for. `patient`: where a process of another machine holds it, wait
    until it is known whether that process lives, and say so.

    Where SLURM's commands turn out not to be there before anything was asked of it, no session is left behind.

    Raises LockedError if another process has it, StateError if output directories belong to another session.
    """
    from oellm_autoexp.monitor.loop import Monitor
    from oellm_autoexp.monitor.session import Session, session_path, writing
    from oellm_autoexp.scheduler.make import make_scheduler
    from oellm_autoexp.workflow.manifest import canonical_path
    from oellm_autoexp.workflow.outputs import claim_outputs
    from oellm_autoexp.workflow.submit import Submitter

    path = session_path(Path(manifest.monitoring_state_dir), manifest.plan_id)

    def open_session() -> tuple[Session, bool]:
        """The session, and whether nothing has been done in it yet."""
        if path.exists():
            opened = Session.load(path)
            if not _begun(opened):  # its maker may have died before it claimed them
                claim_outputs(manifest, path)
            return opened, opened.untouched
        # The session first: whoever finds our marks in an output directory must find it unfinished.
        opened = Session.create(manifest, canonical_path(manifest, manifest_path))
        try:
            claim_outputs(manifest, path)
        except BaseException:
            path.unlink()
            raise
        return opened, True

    with ExitStack() as held:
        waiting = partial(app.note, on_stderr=True) if patient else None
        try:
            claim = with_backoff(lambda: held.enter_context(writing(path, waiting)))
        except LockedError:
            if (watcher := watchers.find(manifest)) is None:
                raise
            raise watchers.locked(manifest, watcher) from None
        opened, new = with_backoff(open_session)
        scheduler = scheduler or make_scheduler(manifest)
        submitter = Submitter(manifest, opened, scheduler, beat=claim.beat)
        kept = True
        try:
            monitor = Monitor(manifest, opened, scheduler, submitter, claim)
            try:
                yield monitor
            except UnreachableError:
                kept = not new or _begun(opened)
                raise
            finally:
                monitor.close()
        finally:
            # raises, and leaves the session alone, if another process has taken it over meanwhile
            with_backoff(claim.beat)
            with_backoff(opened.close if kept else opened.discard)


def _begun(opened: Session) -> bool:
    """Whether some job of a session was submitted, or perhaps was."""
    return any(job.attempt or job.token for job in opened.jobs.values())


def submit(monitor: Monitor, *, patient: bool = False) -> None:
    """Submit all that may go; `patient`: also those that wait for their turn, by `submit_rate_limit_seconds`.

    Raises SchedulerError if nothing can: unreachable, or every submission refused.
    """
    from oellm_autoexp.monitor.tracked import WAITING
    from oellm_autoexp.text import plural
    from oellm_autoexp.trust import each_folder_once
    from oellm_autoexp.view.tables import console
    from oellm_autoexp.workflow.submit import FOR_OTHERS

    screen = console(stderr=True)
    attempts = {name: job.attempt for name, job in monitor.session.jobs.items()}
    resume = (
        f"the plan is kept; go on with: {hints.command('submit', '--manifest', str(monitor.session.manifest_path))}"
    )
    end = f"or end it: {hints.resume_command(monitor.manifest)} --cmd cancel"
    try:
        with screen.status("submitting") if screen.is_terminal else nullcontext() as status:

            def tell(text: str) -> None:
                if status is not None:
                    status.update(text)

            def go() -> None:
                if monitor.submitter.unsettled:
                    unclear = plural(monitor.submitter.unsettled, "job")
                    tell(f"looking whether {unclear} went through when an earlier submission was cut off")
                    monitor.submitter.settle_all()
                monitor.submitter.retry_now()
                monitor.submitter.submit_ready(
                    lambda done, total: tell(f"submitted {done} of {total} jobs"), patient=patient
                )
                if monitor.submitter.unsettled:
                    tell("looking for jobs whose submission got no clear answer")
                    monitor.submitter.settle_all()

            with each_folder_once():
                with_backoff(go)
    except SchedulerError as error:
        what = "the submission is not complete"
        if isinstance(error, UnreachableError) and not _begun(monitor.session):
            what = "nothing was submitted, and nothing waits: run this where the scheduler can be reached"
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
            Problem(f"the scheduler takes no job now: {monitor.submitter.full}"),
            Problem("no job was submitted", hint=resume),
        )
    refused = [job for job in jobs if job.state == WAITING and job.refusals]
    waiting = [job for job in jobs if job.state == WAITING]
    tried_all = all(
        job.refusals or job.reason in ("", FOR_OTHERS) for job in waiting
    )  # the others wait for reasons of their own
    if refused and tried_all and not any(job.attempt for job in jobs):
        reasons = dict.fromkeys(job.reason for job in refused)
        raise SchedulerError(
            *(Problem(f"the scheduler refused: {reason}", refused[0].name) for reason in reasons),
            Problem("no job was submitted", hint=resume),
        )
    done += hear_answers(monitor)
    _tell_submitted(monitor.session, done)


def hear_answers(monitor: Monitor) -> int:
    """Give the commands that jobs wait for a while to answer, for those who do not come back soon; how many went."""
    done = 0
    until = time.monotonic() + _ANSWERS_SECONDS
    while monitor.submitter.awaited and time.monotonic() < until:
        time.sleep(0.1)
        done += monitor.submitter.submit_ready()
    return done


def look_once(monitor: Monitor, *, on_stderr: bool = False) -> int:
    """One cycle, to the end of what it starts beside us: whoever looks once would end that by leaving.

    Returns 0, or 130 if it was interrupted.
    """

    def go() -> int:
        monitor.once = True
        monitor.cycle()
        patience = Patience(on_stderr=on_stderr)
        while monitor.awaited:
            patience.wait([monitor])
            monitor.go_on()
        if monitor.obstacle:
            raise UnwritableError(Problem(monitor.obstacle, hint="the next look does what is left"))
        return app.OK

    return resumable(hints.resume_command(monitor.manifest, anywhere=True), go, on_stderr=on_stderr)


class Patience:
    """Pauses that grow, and a word of what is waited for once they have taken a while."""

    def __init__(self, *, on_stderr: bool = False) -> None:
        self._on_stderr = on_stderr
        self._began = time.monotonic()
        self._pause = _SHORTEST_PAUSE_SECONDS
        self._told = ""

    def wait(self, monitors: list[Monitor]) -> None:
        """Pause, for monitors that have something under way."""
        time.sleep(self._pause)
        self._pause = min(1.5 * self._pause, _LONGEST_PAUSE_SECONDS)
        awaited = _awaited(monitors)
        if time.monotonic() - self._began >= _SILENT_SECONDS and awaited != self._told:
            self._told = awaited
            app.note(f"waits for {awaited}; Ctrl-C leaves them to the next monitor", on_stderr=self._on_stderr)


def _awaited(monitors: list[Monitor]) -> str:
    """What is under way beside monitors, in words."""
    jobs = [job for monitor in monitors for job in monitor.session.jobs.values()]
    actions = [f"{pending.event.name} of {job.name}" for job in jobs for pending in job.pending if pending.started]
    more = f" and {len(actions) - _REASONS_SHOWN} more" if len(actions) > _REASONS_SHOWN else ""
    shown = ", ".join(actions[:_REASONS_SHOWN]) + more
    return f"the programs of actions ({shown})" if actions else "the answers of commands"


def _tell_submitted(session: Session, done: int) -> None:
    """Say how many jobs went to the scheduler just now, and why the others wait."""
    from oellm_autoexp.monitor.tracked import WAITING
    from oellm_autoexp.text import plural

    jobs = session.jobs.values()
    if done:
        app.note(f"submitted {plural(done, 'job')}")
    elif all(job.attempt and job.state != WAITING for job in jobs):
        app.note("nothing to submit: every job was submitted before")
    not_run = [job for job in jobs if job.state == WAITING or (job.over and not job.attempt)]
    reasons = Counter(job.reason or "goes when the scheduler takes more" for job in not_run)
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
            monitor.look()
        submit(monitor, patient=not (watch or detach))
        if not watch or detach:
            _tell_unwatched(monitor, detach=detach)
        if detach:
            return app.OK
        if watch:
            return _watch(monitor)
        hints.show([f"watch             {hints.resume_command(monitor.manifest)}"])
        return app.OK

    return resumable(hints.resume_command(monitor.manifest, anywhere=True), go)


def _tell_unwatched(monitor: Monitor, *, detach: bool) -> None:
    """Say which jobs nothing submits while no monitor watches, and why."""
    from oellm_autoexp.monitor.gate import needs_monitor
    from oellm_autoexp.monitor.tracked import WAITING
    from oellm_autoexp.text import plural

    waiting = [job.name for job in monitor.session.jobs.values() if job.state == WAITING]
    if not waiting:
        return
    by_whom = "the detached monitor submits them" if detach else "nothing submits them until a monitor watches"
    app.note(f"{plural(len(waiting), 'job')} {'waits' if len(waiting) == 1 else 'wait'}: {by_whom}")
    if not monitor.manifest.scheduler["native_dependencies"]:
        return
    why = needs_monitor(monitor.manifest.jobs, monitor.manifest.monitoring)
    for name in [name for name in waiting if name in why][:_REASONS_SHOWN]:
        app.note(f"  {name}: {why[name]}")


def watch_until_ended(monitor: Monitor, *, quiet: bool = False) -> int:
    """Watch until every job has ended; `quiet` leaves stdout to the caller."""
    return resumable(
        hints.resume_command(monitor.manifest, anywhere=True), lambda: _watch(monitor, quiet=quiet), on_stderr=quiet
    )


def _watch(monitor: Monitor, *, quiet: bool = False) -> int:
    """Watch a session, and the runs that its actions start, until all have ended; the exit code speaks of all."""
    from oellm_autoexp.cli.display import display
    from oellm_autoexp.cli.every_session import Watch
    from oellm_autoexp.view.tables import headline

    children = Watch(monitor.session.path.parent, monitor.manifest)
    finished: list[Session] = []
    turn = 0.0
    try:
        with display(monitor.manifest.plan_id, quiet=quiet) as show:
            while True:
                if time.monotonic() >= turn:
                    monitor.cycle()
                    turn = time.monotonic() + monitor.interval_seconds
                children.round()
                show([monitor, *children.monitors])
                finished += children.let_finished_go()
                if monitor.session.finished and not children.busy and not monitor.obstacle:
                    break
                children.rest(monitor, max(0.0, turn - time.monotonic()))
    finally:
        children.let_go()
    if quiet:
        return outcome(monitor.session) or children.code
    for child in finished:
        app.note(f"{child.plan_id} ({started_by(child)}): {headline(child)}")
    return finish(monitor) or children.code


def started_by(session: Session) -> str:
    """`started by 'saved' of job a, in plan p`, of a session that another one's action has started; else ''."""
    if not session.parent:
        return ""
    plan, job, event = session.parent.split("/", 2)
    return f"started by '{event.rpartition('-')[0]}' of job {job}, in plan {plan}"


def resumable(resume: str, go: Callable[[], int], *, on_stderr: bool = False) -> int:
    """Run something that Ctrl-C or SIGTERM may interrupt: the jobs go on, and the way back (a command) is told."""
    from oellm_autoexp.view.tables import console

    try:
        with terminating():
            return go()
    except KeyboardInterrupt:
        screen = console(stderr=on_stderr)
        screen.print("\ninterrupted: the jobs go on. Resume with:")
        screen.print(f"  {resume}", soft_wrap=True)
        return app.INTERRUPTED
    except BrokenPipeError:
        print(printable(f"nobody reads the output any more; the jobs go on. Resume with:\n  {resume}"), file=sys.stderr)
        raise


@contextmanager
def terminating() -> Iterator[None]:
    """Let SIGTERM (a login node's reaper) end the watch as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(monitor: Shown) -> int:
    """Print the final table and what to try next; returns the exit code."""
    from oellm_autoexp.view.tables import console, headline, last_look, waiting_text

    screen = console()
    everything = f"{hints.resume_command(monitor.manifest)} --cmd status"
    screen.print(last_look(monitor.session, everything), crop=False)
    screen.print(headline(monitor.session))
    if (waits := waiting_text(facts.waiting(monitor.session))) is not None:
        screen.print(waits, soft_wrap=True)
    hints.show(hints.next_steps(monitor.manifest, monitor.session))
    return outcome(monitor.session)


def show_plan(made: Plan, path: Path) -> None:
    """Print what was planned, and where it is."""
    from oellm_autoexp.workflow.snapshot import told

    show_planned(made.manifest, path, (*made.notes, *([told(made.snapshot)] if made.snapshot else [])))


def show_planned(manifest: Manifest, path: Path, notes: Iterable[str]) -> None:
    """The same, of a plan that another process has made."""
    from oellm_autoexp.view.tables import console, plan_summary

    screen = console()
    screen.print(plan_summary(manifest))
    for note in notes:
        screen.print(f"note: {note}")
    screen.print(f"plan {manifest.plan_id}: {path}", soft_wrap=True)


def read_script(manifest: Manifest) -> str:
    """The script of a plan's first job. Raises ConfigError."""
    from oellm_autoexp import trust

    path = manifest.jobs[0].script_path
    try:
        return trust.read_script(Path(path), manifest.jobs[0].script_digest, Path(manifest.base_output_dir))
    except OSError as error:
        hint = "plan again" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(Problem(f"can't read the script: {error.strerror}", path, hint)) from None


def show_dry_run(manifest: Manifest, script: str, notes: tuple[str, ...] = ()) -> int:
    """Print what would be submitted: the plan's summary, its jobs, and the first job's whole script."""
    from oellm_autoexp.redaction import redact_text
    from oellm_autoexp.view.tables import console, plan_summary

    screen = console()
    screen.print(plan_summary(manifest))
    for note in notes:
        screen.print(f"note: {note}")
    for job in manifest.jobs:
        screen.print(f"{job.index:>5}  {job.name}", soft_wrap=True)
    screen.print(f"\n--- {manifest.jobs[0].script_path}")
    print(printable(redact_text(script)))
    screen.print("--- dry run: nothing was submitted")
    return app.OK


def outcome(opened: Session) -> int:
    """0 if every job succeeded, else 1."""
    from oellm_autoexp.monitor.tracked import SUCCESS

    return app.OK if all(job.state == SUCCESS for job in opened.jobs.values()) else app.FAILED


def load_manifest(path: Path) -> Manifest:
    """The manifest at `path`; a file system that fails for a moment is asked again.

    Raises ConfigError, also where its output root was moved, and CorruptError.
    """
    from oellm_autoexp.workflow.manifest import check_place, load

    def read() -> Manifest:
        manifest = load(path)
        check_place(manifest, path)
        return manifest

    return with_backoff(read)
