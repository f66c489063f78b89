"""The steps of a session that commands share: open it, wait for it, report how it went."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, facts, hints, watchers
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import (
    LockedError,
    UnreachableError,
)
from oellm_autoexp.core.text import printable

if TYPE_CHECKING:
    from rich.text import Text

    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.engine.loop import Monitor
    from oellm_autoexp.schedulers.base import Scheduler
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.view.shown import Shown


_REASONS_SHOWN = 5
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0
_SILENT_SECONDS = 3.0


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
    from oellm_autoexp.core.states import BLOCKED
    from oellm_autoexp.engine.loop import Monitor
    from oellm_autoexp.planning.manifest import canonical_path
    from oellm_autoexp.schedulers.base import make_scheduler
    from oellm_autoexp.schedulers.shared import SharedScheduler
    from oellm_autoexp.session.session import Session, writing
    from oellm_autoexp.storage.session_files import SessionFiles
    from oellm_autoexp.submission.outputs import claim_outputs
    from oellm_autoexp.submission.submit import Submitter

    path = SessionFiles.of(manifest).path

    def open_session() -> tuple[Session, bool]:
        """The session, and whether nothing has been done in it yet."""
        if path.exists():
            opened = Session.load(path)
            # Its maker may have died before it claimed them; or it ended, and a job that is blocked may start now.
            if not _begun(opened) or (opened.finished and any(job.state == BLOCKED for job in opened.jobs.values())):
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
            lock = with_backoff(lambda: held.enter_context(writing(path, waiting)))
        except LockedError:
            if (watcher := watchers.find(manifest)) is None:
                raise
            raise watchers.locked(manifest, watcher) from None
        opened, new = with_backoff(open_session)
        scheduler = SharedScheduler.of(scheduler or make_scheduler(manifest))
        submitter = Submitter(manifest, opened, scheduler, beat=lock.beat)
        kept = True
        try:
            monitor = Monitor(manifest, opened, scheduler, submitter, lock)
            try:
                yield monitor
            except UnreachableError:
                kept = not new or _begun(opened)
                raise
            finally:
                monitor.close()
        finally:
            # raises, and leaves the session alone, if another process has taken it over meanwhile
            with_backoff(lock.beat)
            with_backoff(opened.close if kept else opened.discard)


def _begun(opened: Session) -> bool:
    """Whether some job of a session was submitted, or perhaps was."""
    return any(job.attempt or job.newest.token for job in opened.jobs.values())


class Backoff:
    """Pauses that grow, and a word of what is waited for once they have taken a while."""

    def __init__(self, *, on_stderr: bool = False) -> None:
        self._on_stderr = on_stderr
        self._began = time.monotonic()
        self._pause = _SHORTEST_PAUSE_SECONDS
        self._noted = ""

    def wait(self, monitors: list[Monitor]) -> None:
        """Pause, for monitors with pending subprocesses."""
        time.sleep(self._pause)
        self._pause = min(1.5 * self._pause, _LONGEST_PAUSE_SECONDS)
        pending = _pending(monitors)
        if time.monotonic() - self._began >= _SILENT_SECONDS and pending != self._noted:
            self._noted = pending
            app.note(f"waiting for {pending}; after Ctrl-C the next monitor handles them", on_stderr=self._on_stderr)


def _pending(monitors: list[Monitor]) -> str:
    """What runs for monitors in the background, in words."""
    jobs = [job for monitor in monitors for job in monitor.session.jobs.values()]
    actions = [
        f"{pending.event.name} of {job.name}" for job in jobs for pending in job.actions.pending if pending.started
    ]
    more = f" and {len(actions) - _REASONS_SHOWN} more" if len(actions) > _REASONS_SHOWN else ""
    shown = ", ".join(actions[:_REASONS_SHOWN]) + more
    return f"the programs of actions ({shown})" if actions else "the results of commands"


def started_by(session: Session) -> str:
    """`started by 'saved' of job a, in plan p`, of a session that another one's action has started; else ''."""
    if not session.parent:
        return ""
    plan, job, event = session.parent.split("/", 2)
    return f"started by '{event.rpartition('-')[0]}' of job {job}, in plan {plan}"


def resumable(resume: str, go: Callable[[], int], *, on_stderr: bool = False) -> int:
    """Run something that Ctrl-C or SIGTERM may interrupt: the jobs go on, and the way back (a command) is printed."""
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
        print(printable(f"the output was closed; the jobs go on. Resume with:\n  {resume}"), file=sys.stderr)
        raise


@contextmanager
def terminating() -> Iterator[None]:
    """Let SIGTERM (a login node's reaper) end the watch as Ctrl-C does; of a thread, signals are not its concern."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(monitor: Shown) -> int:
    """Print the final table and what to try next; returns the exit code."""
    leave(monitor.session, monitor.manifest)
    return outcome(monitor.session)


def leave(session: Session, manifest: Manifest, notes: Sequence[str] = ()) -> None:
    """Print one screen of a session: its jobs, its summary, `notes`, what waits, and what to try next."""
    from oellm_autoexp.view.session_table import print_session

    print_session(session, manifest.jobs, said_below(session, manifest, notes), "--cmd status --wide")


def said_below(session: Session, manifest: Manifest, notes: Sequence[str] = ()) -> list[str | Text]:
    """What stands below a session's table and its summary: `notes`, what waits, what to try next."""
    from oellm_autoexp.decisions.holding import waits_for_release
    from oellm_autoexp.view.session_table import waiting_text

    held = {job.name for job in session.jobs.values() if waits_for_release(job, session.hold)}
    waits = waiting_text([wait for wait in facts.waiting(session) if wait.kind != "job" or wait.job not in held])
    steps = hints.next_steps(manifest, session) if session.finished else hints.of_watch(manifest, session)
    return [*notes, *([waits] if waits is not None else []), *hints.lines(steps)]


def outcome(opened: Session) -> int:
    """0 if every job succeeded, else 1."""
    from oellm_autoexp.core.states import SUCCESS

    return app.OK if all(job.state == SUCCESS for job in opened.jobs.values()) else app.FAILED


def load_manifest(path: Path) -> Manifest:
    """The manifest at `path`; a file system that fails for a moment is asked again.

    Raises ConfigError, also where its output root was moved, and CorruptError.
    """
    from oellm_autoexp.planning.manifest import check_place, load

    def read() -> Manifest:
        manifest = load(path)
        check_place(manifest, path)
        return manifest

    return with_backoff(read)
