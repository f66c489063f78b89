"""Programs beside a watch that keep something of its sessions fresh: the report (`monitoring.report`), and what
exporters hand to other programs (`monitoring.exporters`). Of each kind, one runs at a time.

A watch never waits for them, but for some seconds at its end, and nothing that goes wrong with one concerns it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from oellm_autoexp import start
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.exporters.base import EXPORTERS, Exporter
from oellm_autoexp.session.session import Session, Stamp, stamp_of
from oellm_autoexp.storage.log_tail import last_line
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.storage.world import Outcome, Subprocess

REPORT = "report"
SHORTEST_PAUSE_SECONDS = 30.0
"""Between two reports of one session that is not finished."""
_PAUSE_FACTOR = 20
"""At most one twentieth of the time is spent on one kind, however large a session is."""
_LONGEST_SECONDS = 600.0
_LAST_SECONDS, _POLL_SECONDS = 30.0, 0.1
_FILE_CLOCK_SECONDS = 2.0
"""How far the clock of a file system may be behind this machine's."""
_KILL_AFTER_SECONDS = 5
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


def log_of(session: Path, kind: str) -> Path:
    """The file that holds what the last export of a kind said."""
    return SessionFiles(session).exports / f"{kind}.log"


def _written_last(session: Path, kind: str) -> Path:
    """The file that the program of a kind writes at its end."""
    return SessionFiles(session).report if kind == REPORT else log_of(session, kind)


def pauses(manifest: Manifest) -> dict[str, float]:
    """What a plan asks for, and the shortest pauses in seconds: `report`, and kinds of exporters by their class names.

    Kinds that are not installed here are among them: their program says so.
    """
    found: dict[str, float] = {REPORT: SHORTEST_PAUSE_SECONDS} if manifest.monitoring.get("report") else {}
    for section in manifest.monitoring.get("exporters", ()):
        kind = str(section["class_name"])
        usual = EXPORTERS.classes().get(kind, Exporter).model_fields["interval_seconds"].default
        found[kind] = min(float(section.get("interval_seconds", usual)), found.get(kind, math.inf))
    return found


def _stamps(session: Path) -> tuple[Stamp | None, Stamp | None]:
    return stamp_of(session), stamp_of(SessionFiles(session).journal)


@dataclass
class _Followed:
    """A session of which something is kept fresh: as of what that was made, and when it is due again."""

    path: Path
    pause: float
    stamps: tuple[Stamp | None, Stamp | None] | None = None
    due_at: float = 0.0
    finished: bool = False
    failed: bool = False
    closed: bool = False
    """Whether the last program was started."""


class _Kind:
    """The programs of one kind, one at a time."""

    def __init__(self, name: str, background: Background) -> None:
        self._name = name
        self._background = background
        self._followed: dict[Path, _Followed] = {}
        self._program: Subprocess | None = None
        self._of: _Followed | None = None
        self._began = self._began_at = 0.0

    def follow(self, session: Session, pause: float) -> None:
        """Keep what is made of a session fresh."""
        followed = self._followed.setdefault(session.path, _Followed(session.path, pause))
        followed.finished = session.finished

    def start_due(self, *, last: bool = False) -> None:
        """Start the program of a session that has changed since, if none runs.

        `last`: also if it was run a short while ago, and once more at most.
        """
        if not self.is_idle():
            return
        now = self._background.monotonic()
        for path, each in self._followed.items():
            if each.closed or (each.due_at > now and not last and (each.failed or not each.finished)):
                continue
            if (stamps := _stamps(path)) != each.stamps:
                each.stamps, each.closed = stamps, last
                self._program, self._of = self._background.launch(path, self._name), each
                self._began, self._began_at = now, time.time()
                return

    def is_idle(self) -> bool:
        """True if no program runs; one that has ended says when the next one of its session is due."""
        if self._program is None or self._of is None:
            return True
        if (outcome := self._program.poll()) is None:
            return False
        of, now = self._of, self._background.monotonic()
        of.due_at = now + max(of.pause, _PAUSE_FACTOR * min(now - self._began, self._seconds_by_the_file(of.path)))
        self._program = self._of = None
        self._note(of, outcome)
        return True

    def _note(self, of: _Followed, outcome: Outcome) -> None:
        """Report that programs of this kind fail for a session, or that they do not any more; each once."""
        failed = outcome.code != 0
        if failed:
            of.stamps = None  # so that it is tried again
        if failed != of.failed:
            of.failed = failed
            said = "" if self._name == REPORT else last_line(log_of(of.path, self._name)).removeprefix("error: ")
            how = f"has failed: {said or outcome.message}; it is tried again" if failed else "works again"
            self._background.note(f"{self._what(of)} {how}")

    def _what(self, of: _Followed) -> str:
        return f"session {of.path.stem}: its {'report' if self._name == REPORT else f'export by {self._name}'}"

    def note_left(self) -> None:
        """Report what the last programs leave undone: one that goes on, and sessions whose end none has seen."""
        exporting = self._name != REPORT
        for path, each in self._followed.items():
            if self._program is not None and each is self._of:
                log = f"; see {log_of(path, self._name)}" if exporting else ""
                self._background.note(f"{self._what(each)} takes longer, and goes on by itself{log}")
            if _stamps(path) != each.stamps:
                words = f"{path}{f' --export {self._name}' if exporting else ''}"
                self._background.note(
                    f"{self._what(each)} lacks the newest state: oellm-autoexp report --session {words}"
                )

    def _seconds_by_the_file(self, session: Path) -> float:
        """How long the program took, by when its file was written: its end may be seen much later."""
        stamp = stamp_of(_written_last(session, self._name))
        seconds = math.inf if stamp is None else stamp[0] / 1e9 - self._began_at
        return max(0.0, seconds) if seconds > -_FILE_CLOCK_SECONDS else math.inf  # an older file: it wrote none


@dataclass
class Background:
    """What is kept fresh beside a watch. `note` gets lines for people, `launch` starts the program of a kind."""

    note: Callable[[str], None]
    launch: Callable[[Path, str], Subprocess] = field(default_factory=lambda: _launch)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def look(self, watched: Iterable[Watched]) -> None:
        """Start what is due, after a round of a watch; returns at once."""
        with self._carefully():
            for each in watched:
                for name, pause in pauses(each.manifest).items():
                    self._kinds.setdefault(name, _Kind(name, self)).follow(each.session, pause)
        for kind in self._kinds.values():
            with self._carefully():
                kind.start_due()

    def close(self) -> None:
        """Run the last programs; those that take longer than some seconds go on by themselves, which is reported."""
        end = self.monotonic() + _LAST_SECONDS
        open_kinds = list(self._kinds.values())
        while open_kinds and self.monotonic() < end:
            for kind in list(open_kinds):
                open_kinds.remove(kind)
                with self._carefully():
                    kind.start_due(last=True)
                    if not kind.is_idle():
                        open_kinds.append(kind)
            if open_kinds:
                self.sleep(_POLL_SECONDS)
        for kind in self._kinds.values():
            with self._carefully():
                kind.note_left()

    @contextlib.contextmanager
    def _carefully(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # whatever it is: the jobs are what matters
            _log.warning("no report or export of this session can be made now", exc_info=True)


def _launch(session: Path, kind: str) -> Subprocess:
    """The program that makes a session's report or an export of it, so that everything else goes first.

    It ends also where the watch, which would end it, has ended before.
    """
    limit = ("timeout", f"--kill-after={_KILL_AFTER_SECONDS}", str(round(_LONGEST_SECONDS)))
    words: list[str] = [*_if_there(limit), *_if_there(("nice", "-n", "19")), *start.words("oellm_autoexp")]
    words += ["report", "--session", str(session)]
    log_path = None
    if kind == REPORT:
        words += ["-o", str(SessionFiles(session).report)]
    else:
        words += ["--export", kind]
        log_path = log_of(session, kind)
        log_path.unlink(missing_ok=True)  # of the one before
    return Subprocess(words, cwd=session.parent, log_path=log_path, timeout_seconds=_LONGEST_SECONDS)


def _if_there(words: Sequence[str]) -> Sequence[str]:
    return words if shutil.which(words[0]) else ()
