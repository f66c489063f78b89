"""Signals that a monitor is alive, so that a service which expects the signal can report when it stops.

The signal is given by a process of its own, which ends by itself: neither a file system nor a server that does not
answer holds up a look.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from oellm_autoexp import start
from oellm_autoexp.core.errors import unforeseen
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.engine.executing.programs import own_path, work_dir
from oellm_autoexp.rules.rules import Alive
from oellm_autoexp.storage.log_tail import last_line
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.storage.world import Outcome, Subprocess

_TIMEOUT_SECONDS = 30.0
_LAST_SIGNAL_SECONDS = 2.0
"""So long the end of a session waits for the last signal."""
_PAUSE_SECONDS = 0.02


class AliveSignal:
    """The signal of one session's monitor, as `monitoring.alive` of its plan says. `report` gets lines for people."""

    def __init__(self, manifest: Manifest, report: Callable[[str], None]) -> None:
        self._alive = Alive.model_validate(manifest.monitoring.get("alive") or {})
        self._plan_id = manifest.plan_id
        self._work_dir = work_dir(manifest)
        self._log_path = SessionFiles.of(manifest).alive_log
        self._report = report
        self._due_at = self._stuck_at = float("-inf")
        self._program: Subprocess | None = None
        self._failed = self._removing = False

    def give(self) -> None:
        """Give the signal, if it is wanted and time to. Never raises, and waits for nothing."""
        if self._alive.url is not None or self._alive.file is not None:
            self._carefully(self._give_due)

    def close(self, *, finished: bool, wait: bool = False) -> None:
        """End. The file of a session that has `finished` is removed; `wait`: for a signal that is being given.

        Never raises, and takes a few seconds at most.
        """
        self._carefully(partial(self._close, finished=finished, wait=wait))

    def _carefully(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever it is: jobs are watched on
            kind, place, message = unforeseen(error)
            self._note(f"{kind} in {place}: {message}")

    def _give_due(self) -> None:
        self._note_end()
        now = time.monotonic()
        if self._program is None and now >= self._due_at:
            self._due_at = now + self._alive.every_seconds
            self._start(self._alive.url)
        elif self._program is not None and now >= self._stuck_at:
            self._note("the last one does not end")

    def _close(self, *, finished: bool, wait: bool) -> None:
        if wait or finished:
            self._wait()
        self._give_up()
        if finished and self._alive.file is not None:
            self._removing = True
            self._start(None, remove=True)
            self._wait()
            self._give_up()

    def _give_up(self) -> None:
        if self._program is not None:
            self._program.give_up()
            self._program = None

    def _start(self, url: str | None, *, remove: bool = False) -> None:
        file = str(Path(self._work_dir, Path(self._alive.file).expanduser())) if self._alive.file else None
        asked = {"url": url, "file": file, "remove": remove, "timeout_seconds": _TIMEOUT_SECONDS}
        words, env = start.words("oellm_autoexp.notifiers.alive"), own_path()
        program = Subprocess(words, cwd=self._work_dir, env=env, log_path=self._log_path, text=json.dumps(asked))
        self._program = None if program.later else program
        self._stuck_at = time.monotonic() + 2 * _TIMEOUT_SECONDS

    def _note_end(self) -> Outcome | None:
        """How the last signal has ended, once; None if it has not."""
        if self._program is None or (outcome := self._program.poll()) is None:
            return None
        self._program = None
        if outcome.code or not self._removing:  # a file that is removed says nothing of a server
            self._note("" if outcome.code == 0 else last_line(self._log_path) or outcome.message)
        return outcome

    def _note(self, failure: str) -> None:
        """Report that signals fail, or that they do not any more; of several failures in a row the first."""
        if bool(failure) != self._failed:
            self._failed = bool(failure)
            every = f"it is tried every {self._alive.every_seconds:g} s"
            what = f"can't be given: {failure}; {every}" if failure else "is given again"
            self._report(f"session {self._plan_id}: the signal that its monitor is alive {what}")

    def _wait(self) -> None:
        end = time.monotonic() + _LAST_SIGNAL_SECONDS
        while self._program is not None and self._note_end() is None and time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)
