"""The one loop: watches one session, or every unfinished one of a directory; each scheduler is asked once a round."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from oellm_autoexp.core.errors import AutoexpError, LockedError, Problem, StateError, UnwritableError, unforeseen
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.engine.alive import AliveSignal
from oellm_autoexp.engine.loop import Monitor, wait
from oellm_autoexp.schedulers.base import make_scheduler, scheduler_key
from oellm_autoexp.schedulers.shared import SharedScheduler
from oellm_autoexp.session.session import Session, Stamp, parent_of, stamp_of, stamps
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.lock import Lock
from oellm_autoexp.storage.session_files import SessionFiles

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0
"""Between two attempts to watch a session that can't be watched: the first pause, which doubles up to the second."""
_MAY_COME_BACK_SECONDS = 600.0


@dataclass(frozen=True)
class Outside:
    """What the loop needs of its caller: how a manifest is read, how its session is opened, where things are reported.

    `load_manifest` and `open_session` raise AutoexpError or OSError; `open_session` holds the session's lock for the
    time of its block.
    """

    load_manifest: Callable[[Path], Manifest]
    open_session: Callable[[Manifest, Path, SharedScheduler], AbstractContextManager[Monitor]]
    report_error: Callable[[AutoexpError], None]
    report_note: Callable[[str], None]


@dataclass
class _Watched:
    """A session that is watched now."""

    monitor: Monitor
    held: ExitStack
    """What is released with it; nothing, for the main session, which is its caller's."""
    signal: AliveSignal
    due_at: float = 0.0
    """When its next cycle is due, in seconds of `time.monotonic`."""

    @property
    def ended(self) -> bool:
        return self.monitor.session.finished and not self.monitor.storage_error


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
    """The sessions that are watched: the unfinished ones of a directory, which come and go, or `main` and its children.

    A session that has finished is opened again when its file has changed: it may have been begun anew. One that
    can't be watched is tried again, with growing pauses; an error of it is reported and holds no other up. With `main`,
    whose lock the caller holds, only those are watched beside it that actions of its plan have started, and what those
    start; it stays to the end, and its errors are the caller's.
    """

    def __init__(self, directory: Path, outside: Outside, *, main: Monitor | None = None, once: bool = False) -> None:
        self._directory = directory
        self._outside = outside
        self._once = once
        self._main = main.session.path if main else None
        self._parents = {main.manifest.plan_id} if main else set()
        self._oldest = datetime.fromisoformat(main.manifest.created_at).timestamp() if main else 0.0
        self._watched: dict[Path, _Watched] = {}
        self._schedulers: dict[str, SharedScheduler] = {}
        self._finished: dict[Path, Stamp] = {}
        self._not_ours: set[Path] = set()
        self._failures: dict[Path, _Failure] = {}
        self._reported: set[str] = set()
        self.sessions: dict[str, Session] = {}
        """All that were watched at some time, but for the main one, by plan id, as they were known last."""
        self.finished: list[Session] = []
        """Those of them that have finished, in the order of their ends."""
        if main is not None:
            self._watched[main.session.path] = self._watching(main, ExitStack())
            self._schedulers[scheduler_key(main.manifest)] = SharedScheduler.of(main.scheduler)

    @property
    def monitors(self) -> list[Monitor]:
        """The monitors of the sessions at hand, the main one first."""
        return [each.monitor for each in self._watched.values()]

    @property
    def busy(self) -> bool:
        """Whether there is something to watch, or was, and it may come back."""
        now = time.monotonic()
        return any(not each.ended for each in self._watched.values()) or any(
            failure.lost and not isinstance(failure.error, LockedError) and now - failure.since < _MAY_COME_BACK_SECONDS
            for failure in self._failures.values()
        )

    @property
    def errors(self) -> list[AutoexpError]:
        """What keeps sessions from being watched now; nothing where a child is still submitted by its own process."""
        return [failure.error for failure in self._failures.values() if not self._is_anothers(failure.error)]

    def run(self, show: Callable[[Sequence[Monitor]], None]) -> None:
        """Watch until every session has finished. Raises what goes wrong with the main one."""
        while True:
            self._round()
            show(self.monitors)
            self._release_finished()
            if not self.busy:
                self._open_new()  # what an action of a session that has finished may have started last
            if not self.busy:
                return
            self._wait()

    def poll_once(self, show: Callable[[Sequence[Monitor]], None], pause: Callable[[list[Monitor]], None]) -> None:
        """One cycle of each session, to the end of the programs that it starts: leaving would end them.

        `pause` waits for monitors with pending subprocesses. Raises what goes wrong with the main session.
        """
        self._round()
        show(self.monitors)
        while True:
            self._release_finished()
            for path, each in list(self._watched.items()):
                if not each.monitor.has_pending_subprocesses:
                    self._release(path)
                    if what := each.monitor.storage_error:
                        error = UnwritableError(Problem(what, hint="the remaining work is retried on the next run"))
                        self._fail(path, None, error, lost=True)
            if not self._watched:
                return
            pause(self.monitors)
            for path, each in list(self._watched.items()):
                self._guarded(path, each.monitor.go_on)

    def close(self) -> None:
        """Release every session."""
        for path in list(self._watched):
            self._release(path)

    def _round(self) -> None:
        """One cycle of every session whose cycle is due.

        Sessions of one scheduler have their cycles together, so that it is asked once for all; each scheduler has a
        pace of its own.
        """
        self._open_new()
        now = time.monotonic()
        due = {_key(each.monitor) for each in self._watched.values() if each.due_at <= now}
        for key in due:
            mine = {path: each for path, each in self._watched.items() if _key(each.monitor) == key}
            for each in mine.values():
                each.due_at = now + each.monitor.interval_seconds
            jobs = {job: token for each in mine.values() for job, token in each.monitor.queued_ids.items()}
            try:
                self._schedulers[key].ask(jobs)
            except Exception as error:  # of one scheduler's answer, which the sessions of another do not need
                for path in mine:
                    self._lose(path, error)
                continue
            for path, each in mine.items():
                self._guarded(path, each.monitor.cycle)
                if path in self._watched and self._schedulers[key].answers and not each.monitor.storage_error:
                    each.signal.give()

    def _wait(self) -> None:
        """Pause until a cycle is due; what may be done meanwhile without one is done."""
        paths = {id(each.monitor): path for path, each in self._watched.items()}

        def act(monitor: Monitor) -> None:
            path = paths[id(monitor)]
            if path in self._watched:
                self._guarded(path, monitor.between_polls)

        due = [each.due_at for each in self._watched.values()]
        pause = max(0.0, min(due) - time.monotonic()) if due else FIRST_PAUSE_SECONDS
        wait(self.monitors, pause, act=act)

    def _guarded(self, path: Path, act: Callable[[], None]) -> None:
        """Do something with a session; an error of it is reported, and the others are watched on."""
        try:
            act()
        except Exception as error:  # whatever it is
            self._lose(path, error)
        else:
            self._failures.pop(path, None)

    def _lose(self, path: Path, error: Exception) -> None:
        """Release a session that an error keeps from being watched; it is tried again later. Raises the main one's."""
        if path == self._main:
            raise error
        self._release(path)
        self._fail(path, stamp_of(path), error, lost=True)

    def _fail(self, path: Path, stamp: Stamp | None, error: Exception, *, lost: bool) -> None:
        """Note and report why a session can't be watched now. Raises the main one's."""
        if path == self._main:
            raise error
        error = _reported_as(error, path)
        now = time.monotonic()
        last = self._failures.get(path)
        pause = min(2 * last.pause, LONGEST_PAUSE_SECONDS) if last else FIRST_PAUSE_SECONDS
        lost = lost or (last is not None and last.lost)
        self._failures[path] = _Failure(error, stamp, lost, last.since if last else now, now + pause, pause)
        if not self._is_anothers(error):
            self._report(error)

    def _is_anothers(self, error: AutoexpError) -> bool:
        """Whether a session is one that our action has started and that its own process is still submitting."""
        return self._main is not None and isinstance(error, LockedError)

    def _release_finished(self) -> None:
        """Release the sessions that have finished, but for the main one, which may be begun anew while others run."""
        for path, each in list(self._watched.items()):
            if each.ended and path != self._main:
                self.finished.append(each.monitor.session)
                self._release(path)

    def _release(self, path: Path) -> None:
        each = self._watched.pop(path)
        each.signal.close(finished=each.ended, wait=self._once)
        try:
            each.held.close()
        except Exception as error:  # whatever it is: the others are watched on
            self._report(_reported_as(error, path))

    def _report(self, error: AutoexpError) -> None:
        """Report an error, once."""
        if str(error) not in self._reported:
            self._reported.add(str(error))
            self._outside.report_error(error)

    # ---- sessions that turn up

    def _open_new(self) -> None:
        """Open the sessions that have turned up, or whose time to be tried again has come."""
        if self._once and self._main:
            return
        found = stamps(self._directory)
        self._failures = {path: failure for path, failure in self._failures.items() if path in found}
        for path, stamp in found.items():
            if path in self._watched or path in self._not_ours or self._finished.get(path) == stamp:
                continue
            if self._is_not_due(path, stamp):
                continue
            try:
                if self._is_ours(path):
                    self._open(path, stamp)
                else:
                    self._not_ours.add(path)
            except Exception as error:  # whatever it is: the others are watched on
                self._fail(path, stamp, error, lost=False)

    def _is_not_due(self, path: Path, stamp: Stamp) -> bool:
        """Whether a session that could not be watched need not be tried again yet."""
        failure = self._failures.get(path)
        if failure is None:
            return False
        if isinstance(failure.error, LockedError):
            return Lock(SessionFiles(path).lease).holder() is not None
        return failure.stamp == stamp and time.monotonic() < failure.again_at

    def _is_ours(self, path: Path) -> bool:
        """Whether a session is one to watch: not another user's, and with a main session, one that it has started.

        Raises StateError where it is no file: opening a pipe would wait for ever.
        """
        if (owner := trust.stranger(path)) is not None:
            self._outside.report_note(f"{path.stem} belongs to {owner}: only they can watch it")
            return False
        if not path.is_file():
            raise StateError(Problem("no session, as it is no regular file", str(path), "move it away"))
        return self._main is None or self._descends(path)

    def _descends(self, path: Path) -> bool:
        """Whether a session was started by an action of one that is watched."""
        try:
            old = path.stat().st_mtime < self._oldest
        except OSError:
            return False
        if old or parent_of(path).partition("/")[0] not in self._parents:
            return False
        self._parents.add(path.stem)
        return True

    def _open(self, path: Path, stamp: Stamp) -> None:
        """Open a session, if it is not finished. Raises AutoexpError, OSError."""
        found = Session.load(path)
        if found.finished:
            self._finished[path] = stamp
            self._failures.pop(path, None)
            return
        manifest = self._outside.load_manifest(found.manifest_path)
        key = scheduler_key(manifest)
        if key not in self._schedulers:
            self._schedulers[key] = SharedScheduler.of(make_scheduler(manifest))
        with ExitStack() as stack:
            opening = self._outside.open_session(manifest, found.manifest_path, self._schedulers[key])
            monitor = stack.enter_context(opening)
            self._watched[path] = self._watching(monitor, stack.pop_all())
        self.sessions[monitor.session.plan_id] = monitor.session

    def _watching(self, monitor: Monitor, held: ExitStack) -> _Watched:
        """A session that is watched from now on."""
        monitor.once = self._once
        return _Watched(monitor, held, AliveSignal(monitor.manifest, self._outside.report_note))


def _reported_as(error: Exception, path: Path) -> AutoexpError:
    """An error as it is reported of a session; of one that nothing foresees, what it is and where it came from."""
    if isinstance(error, AutoexpError):
        return error
    if isinstance(error, OSError):
        return StateError(Problem(error.strerror or str(error), str(error.filename or path)))
    logging.getLogger(__name__).debug("session %s", path.stem, exc_info=error)
    kind, place, message = unforeseen(error)
    what = f"session {path.stem} can't be watched now: {kind} in {place}: {message}"
    return StateError(Problem(what, str(path), "an error of this program: it is tried again; --debug shows more"))


def _key(monitor: Monitor) -> str:
    return scheduler_key(monitor.manifest)
