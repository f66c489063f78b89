"""monitor --all: every unfinished session of a state directory, by one process that asks the scheduler once a round."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, hints, session_steps
from oellm_autoexp.core.errors import AutoexpError, LockedError, Problem, StateError, UnwritableError, unforeseen
from oellm_autoexp.view.display import display

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.engine.loop import Monitor
    from oellm_autoexp.schedulers.shared import SharedScheduler
    from oellm_autoexp.session.session import Session, Stamp

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 300.0
_HOPE_SECONDS = 600.0


@dataclass(frozen=True)
class _Failure:
    """Why a session is not watched now, and when that is tried again; in seconds of `time.monotonic`."""

    error: AutoexpError
    stamp: Stamp | None
    lost: bool
    """Whether it was watched until then."""
    since: float
    again_at: float
    pause: float


class Watch:
    """The sessions that are watched. New ones that turn up in the directory are taken up, finished ones let go.

    One that has finished is looked at again when its file has changed: it may have been begun anew. One that could not
    be watched is tried again, with growing pauses. With a `parent`, only those are watched that actions of this plan
    have started, and what those start.
    """

    def __init__(self, directory: Path, parent: Manifest | None = None, *, once: bool = False) -> None:
        self._directory = directory
        self._once = once
        self._parents = {parent.plan_id} if parent else set()
        self._oldest = datetime.fromisoformat(parent.created_at).timestamp() if parent else 0.0
        self._watched: dict[Path, tuple[Monitor, ExitStack]] = {}
        self._schedulers: dict[str, SharedScheduler] = {}
        self._finished: dict[Path, Stamp] = {}
        self._strangers: set[Path] = set()
        self._failures: dict[Path, _Failure] = {}
        self._turns: dict[Path, float] = {}
        """When each session is next looked at."""
        self._told: set[str] = set()
        self._outcome = app.OK
        self.sessions: dict[str, Session] = {}
        """All that were watched at some time, by plan id, as they were known last."""

    @property
    def monitors(self) -> list[Monitor]:
        """The monitors of the sessions at hand."""
        return [monitor for monitor, _ in self._watched.values()]

    @property
    def busy(self) -> bool:
        """Whether there is something to watch, or was, and it may come back."""
        now = time.monotonic()
        return bool(self._watched) or any(
            failure.lost and not isinstance(failure.error, LockedError) and now - failure.since < _HOPE_SECONDS
            for failure in self._failures.values()
        )

    @property
    def code(self) -> int:
        """The exit code: that of what keeps a session from being watched, else of the jobs that have ended."""
        wrong = [failure.error for failure in self._failures.values() if not self._is_anothers(failure.error)]
        return max((error.exit_code for error in wrong), default=self._outcome)

    def _is_anothers(self, error: AutoexpError) -> bool:
        """Whether a session is one that our action has started and that its own process is still submitting."""
        return bool(self._parents) and isinstance(error, LockedError)

    def round(self) -> None:
        """One cycle of every session whose turn it is. What goes wrong in one of them is told, and holds no other up.

        Sessions of one scheduler have their turns together, so that it is asked once for all; each scheduler has a pace
        of its own.
        """
        self._take_up()
        now = time.monotonic()
        due = {_key(monitor) for path, (monitor, _) in self._watched.items() if self._turns.get(path, now) <= now}
        for path, (monitor, _) in list(self._watched.items()):
            if _key(monitor) in due:
                self._turns[path] = now + monitor.interval_seconds
        for key in due:
            mine = [path for path, (monitor, _) in self._watched.items() if _key(monitor) == key]
            queued = (self._watched[path][0].queued_ids for path in mine)
            jobs = {job: token for ids in queued for job, token in ids.items()}
            try:
                self._schedulers[key].ask(jobs)
            except Exception as error:  # of one scheduler's answer, which the sessions of another do not need
                for path in mine:
                    self._lose(path, error)
                continue
            for path in mine:
                self._go(path, self._watched[path][0].cycle)

    @property
    def pause_seconds(self) -> float:
        """For how long nothing is due; a while, where there is nothing to watch."""
        turns = [self._turns.get(path, 0.0) for path in self._watched]
        return max(0.0, min(turns) - time.monotonic()) if turns else _FIRST_PAUSE_SECONDS

    def rest(self, main: Monitor | None = None, at_most: float = math.inf) -> None:
        """Pause until something is due, `at_most` so long; what may be done meanwhile is done, also for `main`.

        With `main` that is the session in whose watch these are children.
        """
        from oellm_autoexp.engine.loop import rest

        paths = {id(monitor): path for path, (monitor, _) in self._watched.items()}

        def act(monitor: Monitor) -> None:
            path = paths.get(id(monitor))
            if path is None:
                monitor.between_looks()
            elif path in self._watched:
                self._go(path, monitor.between_looks)

        monitors = [*([main] if main else []), *self.monitors]
        rest(monitors, min(at_most, self.pause_seconds) if self.busy or not main else at_most, act=act)

    def see_through(self, patience: session_steps.Patience) -> None:
        """Release the sessions one by one, each when what its last cycle has started beside us is done."""
        while True:
            self.let_finished_go()
            for path, (monitor, _) in list(self._watched.items()):
                if not monitor.awaited:
                    self._let_go(path)
                    if monitor.obstacle:
                        error = UnwritableError(Problem(monitor.obstacle, hint="the next look does what is left"))
                        self._failed(path, None, error, lost=True)
            if not self._watched:
                return
            patience.wait(self.monitors)
            for path, (monitor, _) in list(self._watched.items()):
                self._go(path, monitor.go_on)

    def let_finished_go(self) -> list[Session]:
        """Release the sessions that have finished; these are returned."""
        finished = []
        for path, (monitor, _) in list(self._watched.items()):
            if monitor.session.finished and not monitor.obstacle:
                self._outcome = self._outcome or session_steps.outcome(monitor.session)
                finished.append(monitor.session)
                self._let_go(path)
        return finished

    def let_go(self) -> None:
        """Release every session."""
        for path in list(self._watched):
            self._let_go(path)

    def _go(self, path: Path, act: Callable[[], None]) -> None:
        """Get on with one session."""
        try:
            act()
        except Exception as error:  # whatever it is: the others are watched on
            self._lose(path, error)
        else:
            self._failures.pop(path, None)

    def _lose(self, path: Path, error: Exception) -> None:
        """Release a session that an error keeps from being watched; it is tried again later."""
        from oellm_autoexp.session.session import stamp_of

        self._let_go(path)
        self._failed(path, stamp_of(path), error, lost=True)

    def _failed(self, path: Path, stamp: Stamp | None, error: Exception, *, lost: bool) -> None:
        error = _told_as(error, path)
        now = time.monotonic()
        last = self._failures.get(path)
        pause = min(2 * last.pause, _LONGEST_PAUSE_SECONDS) if last else _FIRST_PAUSE_SECONDS
        lost = lost or (last is not None and last.lost)
        self._failures[path] = _Failure(error, stamp, lost, last.since if last else now, now + pause, pause)
        if not self._is_anothers(error):
            self._tell(error)

    def _take_up(self) -> None:
        from oellm_autoexp.session.session import stamps
        from oellm_autoexp.storage import trust

        found = stamps(self._directory)
        self._failures = {path: failure for path, failure in self._failures.items() if path in found}
        for path, stamp in found.items():
            if path in self._watched or path in self._strangers or self._finished.get(path) == stamp:
                continue
            try:
                if self._rests(path, stamp):
                    continue
                if (owner := trust.stranger(path)) is not None:
                    self._strangers.add(path)
                    app.note(f"{path.stem} belongs to {owner}: only they can watch it", on_stderr=True)
                    continue
                if not path.is_file():  # opening a pipe would wait for ever
                    raise StateError(Problem("no session, as it is no regular file", str(path), "move it away"))
                if self._parents and not self._descends(path):
                    self._strangers.add(path)
                    continue
                self._open(path, stamp)
            except Exception as error:  # whatever it is: the others are watched on
                self._failed(path, stamp, error, lost=False)

    def _rests(self, path: Path, stamp: Stamp) -> bool:
        """Whether a session that could not be watched need not be tried again yet."""
        from oellm_autoexp.storage.lock import Lock

        failure = self._failures.get(path)
        if failure is None:
            return False
        if isinstance(failure.error, LockedError):
            return Lock(path.with_suffix(".lease")).holder() is not None
        return failure.stamp == stamp and time.monotonic() < failure.again_at

    def _open(self, path: Path, stamp: Stamp) -> None:
        """Take a session up, if it is not finished. Raises AutoexpError, OSError."""
        from oellm_autoexp.schedulers.base import make_scheduler, scheduler_key
        from oellm_autoexp.schedulers.shared import SharedScheduler
        from oellm_autoexp.session.session import Session

        found = Session.load(path)
        if found.finished:
            self._finished[path] = stamp
            self._failures.pop(path, None)
            return
        manifest = session_steps.load_manifest(found.manifest_path)
        key = scheduler_key(manifest)
        if key not in self._schedulers:
            self._schedulers[key] = SharedScheduler(make_scheduler(manifest))
        with ExitStack() as stack:
            monitor = stack.enter_context(session_steps.session(manifest, found.manifest_path, self._schedulers[key]))
            monitor.once = self._once
            self._watched[path] = (monitor, stack.pop_all())
        self.sessions[monitor.session.plan_id] = monitor.session

    def _descends(self, path: Path) -> bool:
        """Whether a session was started by an action of one that is watched."""
        from oellm_autoexp.session.session import parent_of

        try:
            old = path.stat().st_mtime < self._oldest
        except OSError:
            return False
        if old or parent_of(path).partition("/")[0] not in self._parents:
            return False
        self._parents.add(path.stem)
        return True

    def _let_go(self, path: Path) -> None:
        _, stack = self._watched.pop(path)
        self._turns.pop(path, None)
        try:
            stack.close()
        except Exception as error:  # whatever it is: the others are watched on
            self._tell(_told_as(error, path))

    def _tell(self, error: AutoexpError) -> None:
        """Tell an error, once."""
        if str(error) not in self._told:
            self._told.add(str(error))
            app.tell(error)


def _told_as(error: Exception, path: Path) -> AutoexpError:
    """An error as it is told of a session; of one that nothing foresees, what it is and where it came from."""
    if isinstance(error, AutoexpError):
        return error
    if isinstance(error, OSError):
        return StateError(Problem(error.strerror or str(error), str(error.filename or path)))
    logging.getLogger(__name__).debug("session %s", path.stem, exc_info=error)
    kind, place, message = unforeseen(error)
    what = f"session {path.stem} can't be watched now: {kind} in {place}: {message}"
    return StateError(Problem(what, str(path), "an error of this program: it is tried again; --debug tells more"))


def _key(monitor: Monitor) -> str:
    from oellm_autoexp.schedulers.base import scheduler_key

    return scheduler_key(monitor.manifest)


def watch(directory: Path, *, once: bool = False, quiet: bool = False) -> tuple[int, list[Session]]:
    """Watch until every session has finished, or for one round; the exit code, and the sessions that were watched.

    `quiet` leaves stdout to the caller.
    """
    watched = Watch(directory, once=once)

    def go() -> int:
        with display(quiet=quiet or once) as show:
            while True:
                watched.round()
                show(watched.monitors)
                if once:
                    watched.see_through(session_steps.Patience(on_stderr=quiet))
                    return watched.code
                watched.let_finished_go()
                if not watched.busy:
                    return watched.code
                watched.rest()

    try:
        resume = hints.command("monitor", "--all", "--monitoring-state-dir", str(directory))
        code = session_steps.resumable(resume, go, on_stderr=quiet)
    finally:
        watched.let_go()
    return code, list(watched.sessions.values())
