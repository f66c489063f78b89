"""Keeps the reports of watched sessions fresh (`monitoring.report`): by programs beside the watch, one at a time.

A watch never waits for them, but for some seconds at its end, and nothing that goes wrong with one concerns it.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from oellm_autoexp import start
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.session.session import Session, Stamp, stamp_of
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.storage.world import Subprocess

SHORTEST_PAUSE_SECONDS = 30.0
"""Between two reports of one session that is not finished."""
_PAUSE_FACTOR = 20
"""At most one twentieth of the time is spent on reports, however large a session is."""
_LONGEST_SECONDS = 600.0
_LAST_SECONDS, _POLL_SECONDS = 30.0, 0.1
_FILE_CLOCK_SECONDS = 2.0
"""How far the clock of a file system may be behind this machine's."""
_log = logging.getLogger(__name__)


class Watched(Protocol):
    """A session that is watched, with its plan."""

    @property
    def manifest(self) -> Manifest:
        """Its plan."""
        ...

    @property
    def session(self) -> Session:
        """Its jobs."""
        ...


@dataclass
class _Report:
    """The report of one session: as of what it was made, and when it is due again."""

    stamps: tuple[Stamp | None, Stamp | None] | None = None
    due_at: float = 0.0
    finished: bool = False


@dataclass
class FreshReports:
    """The reports of the sessions of a watch. `launch` starts the program that makes one."""

    launch: Callable[[Path], Subprocess] = field(default_factory=lambda: _launch)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._reports: dict[Path, _Report] = {}
        self._program: Subprocess | None = None
        self._of: Path = Path()
        self._began = self._began_at = 0.0

    def look(self, watched: Iterable[Watched]) -> None:
        """Start what is due, after a round of a watch; returns at once."""
        try:
            for each in watched:
                if each.manifest.monitoring.get("report"):
                    report = self._reports.setdefault(each.session.path, _Report())
                    report.finished = each.session.finished
            if self._is_idle():
                self._start_due()
        except Exception:  # whatever it is: the jobs are what matters
            _log.warning("no report of this session can be made now", exc_info=True)

    def close(self) -> None:
        """Make the last reports; those that take longer than some seconds go on by themselves."""
        end = self.monotonic() + _LAST_SECONDS
        try:
            while self.monotonic() < end and (not self._is_idle() or self._start_due(last=True)):
                self.sleep(_POLL_SECONDS)
        except Exception:  # as above
            _log.warning("the last report can't be made", exc_info=True)

    def _start_due(self, *, last: bool = False) -> bool:
        """Start the program of a report that is older than its session; False if none is to be started.

        `last`: also of one that was made a short while ago.
        """
        now = self.monotonic()
        for path, report in self._reports.items():
            if report.due_at > now and not report.finished and not last:
                continue
            if (stamps := (stamp_of(path), stamp_of(SessionFiles(path).journal))) != report.stamps:
                report.stamps = stamps
                self._program, self._of = self.launch(path), path
                self._began, self._began_at = now, time.time()
                return True
        return False

    def _is_idle(self) -> bool:
        """True if no program runs; one that has ended says when the next one of its session is due."""
        if self._program is None:
            return True
        if (outcome := self._program.poll()) is None:
            return False
        if outcome.code != 0:
            _log.warning("no report of %s: %s", self._of.stem, outcome.message)
        now = self.monotonic()
        pause = max(SHORTEST_PAUSE_SECONDS, _PAUSE_FACTOR * min(now - self._began, self._seconds_by_the_file()))
        self._reports[self._of].due_at = now + pause
        self._program = None
        return True

    def _seconds_by_the_file(self) -> float:
        """How long the program took, by when its file was written: its end may be seen much later."""
        stamp = stamp_of(SessionFiles(self._of).report)
        seconds = math.inf if stamp is None else stamp[0] / 1e9 - self._began_at
        return max(0.0, seconds) if seconds > -_FILE_CLOCK_SECONDS else math.inf  # an older file: it wrote none


def _launch(session: Path) -> Subprocess:
    """The program that makes a session's report, so that everything else goes first."""
    gently: Sequence[str] = ("nice", "-n", "19") if shutil.which("nice") else ()
    words = (
        *start.words("oellm_autoexp"),
        "report",
        "--session",
        str(session),
        "-o",
        str(SessionFiles(session).report),
    )
    return Subprocess([*gently, *words], cwd=session.parent, timeout_seconds=_LONGEST_SECONDS)
