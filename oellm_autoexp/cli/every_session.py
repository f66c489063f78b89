"""monitor --all: every unfinished session of a state directory, by one process that asks the scheduler once a round."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli import app, steps
from oellm_autoexp.cli.display import display
from oellm_autoexp.errors import AutoexpError, LockedError

if TYPE_CHECKING:
    from oellm_autoexp.model import Manifest
    from oellm_autoexp.monitor.loop import Monitor
    from oellm_autoexp.monitor.session import Session
    from oellm_autoexp.scheduler.shared import SharedScheduler


class Watch:
    """The sessions that are watched. New ones that turn up in the directory are taken up, finished ones let go.

    With a `parent`, only those that actions of this plan have started, and what those start.
    """

    def __init__(self, directory: Path, parent: Manifest | None = None) -> None:
        self._directory = directory
        self._parents = {parent.plan_id} if parent else set()
        self._oldest = datetime.fromisoformat(parent.created_at).timestamp() if parent else 0.0
        self._watched: dict[Path, tuple[Monitor, ExitStack]] = {}
        self._schedulers: dict[str, SharedScheduler] = {}
        self._past: set[Path] = set()  # finished, or of no use
        self._told: set[str] = set()
        self.code = app.OK

    @property
    def monitors(self) -> list[Monitor]:
        """The monitors of the sessions at hand."""
        return [monitor for monitor, _ in self._watched.values()]

    def round(self) -> None:
        """One cycle of every session. What goes wrong in one of them is told, and keeps no other from going on."""
        self._take_up()
        for key, scheduler in self._schedulers.items():
            scheduler.ask([job for monitor in self.monitors if _key(monitor) == key for job in monitor.queued_ids])
        for path, (monitor, _) in list(self._watched.items()):
            try:
                monitor.cycle()
            except AutoexpError as error:
                self._tell(error)
                self._let_go(path)

    def let_finished_go(self) -> list[Session]:
        """Release the sessions that have finished; these are returned."""
        finished = []
        for path, (monitor, _) in list(self._watched.items()):
            if monitor.session.finished:
                self.code = self.code or steps.outcome(monitor.session)
                finished.append(monitor.session)
                self._let_go(path)
        return finished

    def let_go(self) -> None:
        """Release every session."""
        for path in list(self._watched):
            self._let_go(path)

    def _take_up(self) -> None:
        from oellm_autoexp.monitor.session import Session, all_sessions
        from oellm_autoexp.scheduler.make import make_scheduler, scheduler_key
        from oellm_autoexp.scheduler.shared import SharedScheduler

        for path in all_sessions(self._directory):
            if path in self._watched or path in self._past:
                continue
            if self._parents and not self._descends(path):
                self._past.add(path)
                continue
            with ExitStack() as stack:
                try:
                    found = Session.load(path)
                    if found.finished:
                        self._past.add(path)
                        continue
                    manifest = steps.load_manifest(found.manifest_path)
                    key = scheduler_key(manifest)
                    if key not in self._schedulers:
                        self._schedulers[key] = SharedScheduler(make_scheduler(manifest))
                    held = steps.session(manifest, found.manifest_path, self._schedulers[key])
                    self._watched[path] = (stack.enter_context(held), stack.pop_all())
                except LockedError as error:  # it may become free: a child's, when it has submitted its jobs
                    if not self._parents:
                        self._tell(error)
                except AutoexpError as error:
                    self._past.add(path)
                    self._tell(error)

    def _descends(self, path: Path) -> bool:
        """Whether a session was started by an action of one that is watched."""
        from oellm_autoexp.monitor.session import parent_of

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
        self._past.add(path)
        try:
            stack.close()
        except AutoexpError as error:
            self._tell(error)

    def _tell(self, error: AutoexpError) -> None:
        """Tell an error, once."""
        if str(error) not in self._told:
            self._told.add(str(error))
            app.tell(error)


def _key(monitor: Monitor) -> str:
    from oellm_autoexp.scheduler.make import scheduler_key

    return scheduler_key(monitor.manifest)


def watch(directory: Path, *, once: bool, quiet: bool) -> int:
    """Watch until every session has finished, or for one round; returns the exit code."""
    from oellm_autoexp.monitor.loop import rest

    watched = Watch(directory)

    def go() -> int:
        with nullcontext(lambda monitors: None) if quiet else display() as show:
            while True:
                watched.round()
                show(watched.monitors)
                watched.let_finished_go()
                if once:
                    for monitor in watched.monitors:
                        steps.hear_answers(monitor)
                if once or not watched.monitors:
                    return watched.code
                rest(watched.monitors, min(monitor.interval_seconds for monitor in watched.monitors))

    try:
        resume = steps.command("monitor", "--all", "--monitoring-state-dir", str(directory))
        return steps.resumable(resume, go)
    finally:
        watched.let_go()
