"""The worker: carries out the entries of a queue, oldest first, each by one worker at a time.

How one entry is carried out stands in engine.entry_engine. At most `jobs` programs run in the background; entries with
an executor run as jobs, which go on when the worker ends and are polled by the next one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from oellm_autoexp.core.errors import AutoexpError, LockedError, Problem, StateError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.engine.entry_engine import INTERRUPTED, EntryEngine, EntryRun, SubprocessRun, entry_name, result_of
from oellm_autoexp.session.queue import Held, Queue, Report
from oellm_autoexp.session.queue_entry import DONE, FAILED, Process, QueueEntry, Status
from oellm_autoexp.storage.interrupts import interrupts_held
from oellm_autoexp.storage.lock import is_running
from oellm_autoexp.storage.world import Outcome

_BEAT_SECONDS = 30.0
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.5
_FOLLOW_SECONDS = 2.0


@dataclass
class Tally:
    """What a worker has done: ids of entries, in the order in which they were finished."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Worker:
    """Carries out a queue's entries. `jobs`: how many programs run at once; `log` gets a line of all that happens.

    `report` gets the error of each entry that can't be used; it is left alone, and the others go on.
    """

    def __init__(
        self,
        queue: Queue,
        manifest: Manifest,
        *,
        jobs: int = 1,
        log: Callable[[str], None] = lambda _line: None,
        report: Report = lambda _error: None,
    ) -> None:
        self._queue = queue
        self._manifest = manifest
        self._jobs = jobs
        self._write_line = log
        self._report_error = report
        self._reported: set[str] = set()
        self._unusable: set[str] = set()
        self._runs: list[EntryRun] = []
        self._beginning: Held | None = None  # taken, and not in progress yet
        self._backlog: deque[QueueEntry] = deque()
        self._beat_at = self._list_at = 0.0
        self.tally = Tally()

    def run_once(self) -> Tally:
        """One pass over the entries that are there now; a job that goes on is left to the next pass.

        Raises KeyboardInterrupt as it comes: programs that run are ended then, and their entries pending again.
        """
        with self._stopping():
            self._list()
            self._work(lambda: False, wait_for_jobs=False)
            self._poll()  # jobs are submitted, and asked after, once
        return self.tally

    def run(self) -> Tally:
        """Until nothing is left that this worker could do: what other workers are at is theirs. Raises as run_once."""
        with self._stopping():
            self._list()
            self._work(self._list, wait_for_jobs=True)
        return self.tally

    def follow(self, finished: Callable[[], bool]) -> Tally:
        """Until `finished` (asked when there is nothing to do) and the queue is empty. Raises as run_once."""
        with self._stopping():
            while True:
                over = finished()  # asked first: what came until then is in the queue
                self._list()
                self._work(self._list, wait_for_jobs=True)
                left = {entry.id for entry in self._queue.entries(report=self._report)}
                if over and not left - self._unusable:
                    return self.tally
                time.sleep(_FOLLOW_SECONDS)

    # -----------------------------------------------------------------------------------------------------------------

    def _log(self, line: str) -> None:
        self._write_line(redact_message(line))

    def _work(self, more: Callable[[], bool], *, wait_for_jobs: bool) -> None:
        """Take and carry out entries until there are none at hand, `more` brings none, and none is in progress."""
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            moved = self._poll()
            moved = self._take() or moved
            if not self._backlog:
                waits = self._running_here or (self._runs and wait_for_jobs)
                if not waits and not more():
                    return
                if waits and time.monotonic() >= self._list_at:
                    more()
            self._beat()
            pause = _SHORTEST_PAUSE_SECONDS if moved else min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
            if not moved:
                time.sleep(pause)

    @property
    def _running_here(self) -> int:
        return sum(isinstance(run, SubprocessRun) for run in self._runs)

    def _list(self) -> bool:
        """List the entries that a worker could take; whether there are any."""
        self._list_at = time.monotonic() + _FOLLOW_SECONDS
        mine = {run.held.entry.id for run in self._runs} | self._unusable
        found = (entry for entry in self._queue.entries(report=self._report) if entry.id not in mine)
        self._backlog = deque(entry for entry in found if self._queue.worker_of(entry) is None)
        return bool(self._backlog)

    def _take(self) -> bool:
        """Begin entries while there is room; whether any was begun."""
        begun = False
        while self._backlog and self._running_here < self._jobs:
            entry = self._backlog.popleft()
            with self._reporting(entry):
                with interrupts_held():
                    held = self._beginning = self._queue.take(entry)
                if held is not None:
                    begun = True
                    self._begin(held)
                    self._beginning = None
        return begun

    def _begin(self, held: Held) -> None:
        """Carry an entry out: at once, or by something that is polled from now on."""
        entry = held.entry
        if held.died:
            self._log(f"{entry_name(entry)}: {held.died}")
        _end(held.left)
        try:
            self._start(held)
        except LockedError:
            raise
        except AutoexpError as error:
            self._finish(held, FAILED, "; ".join(_one_line(problem) for problem in error.problems))
        except OSError as error:
            self._finish(held, FAILED, f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))

    def _start(self, held: Held) -> None:
        held.entry.action.perform(
            EntryEngine(
                held,
                self._manifest,
                self._queue.session_path,
                begun=self._runs.append,
                finish=self._finish,
                note=self._log,
            )
        )

    def _poll(self) -> bool:
        """Finish what has ended; whether anything has."""
        moved = False
        for run in list(self._runs):
            with self._reporting():
                try:
                    outcome = run.poll()
                except LockedError:
                    self._runs.remove(run)
                    raise
                except AutoexpError as error:
                    outcome = Outcome(None, "; ".join(_one_line(problem) for problem in error.problems))
                if outcome is not None:
                    moved = True
                    self._runs.remove(run)
                    self._finish(run.held, *result_of(outcome))
        return moved

    def _finish(self, held: Held, status: Status, message: str) -> None:
        """Note the result of an entry, and log it."""
        with interrupts_held():
            held.finish(status, message)
        (self.tally.done if status == DONE else self.tally.failed).append(held.entry.id)
        self._log(f"{entry_name(held.entry)}: {status}{f': {message}' if message else ''}")

    def _beat(self) -> None:
        """Renew the locks; a program whose entry another worker has taken over is ended."""
        now = time.monotonic()
        if now < self._beat_at:
            return
        self._beat_at = now + _BEAT_SECONDS
        for run in list(self._runs):
            with self._reporting():
                try:
                    run.held.beat(_BEAT_SECONDS)
                except LockedError:
                    self._runs.remove(run)
                    if isinstance(run, SubprocessRun):
                        run.program.give_up()
                    raise

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Leave nothing in progress behind, however the block ends."""
        try:
            yield
        finally:
            left, self._beginning = self._beginning, None
            if left is not None and all(run.held is not left for run in self._runs) and left.path.exists():
                with self._reporting():
                    left.put_back(INTERRUPTED)
            while self._runs:
                run = self._runs.pop()
                with self._reporting():
                    run.stop()

    @contextlib.contextmanager
    def _reporting(self, entry: QueueEntry | None = None) -> Iterator[None]:
        """Report an error that comes up in the block; an `entry` that can't be taken is then left alone."""
        try:
            yield
        except AutoexpError as error:
            self._report(error, entry)
        except OSError as error:
            self._report(StateError(Problem(error.strerror or str(error), str(error.filename or ""))), entry)

    def _report(self, error: AutoexpError, entry: QueueEntry | None = None) -> None:
        """Report an error, once."""
        if entry is not None:
            self._unusable.add(entry.id)
        if str(error) not in self._reported:
            self._reported.add(str(error))
            self._report_error(error)


def _one_line(problem: Problem) -> str:
    return f"{problem.what} ({problem.hint})" if problem.hint else problem.what


def _end(left: Process | None) -> None:
    """End the program of a worker that died: it runs in a group of its own, and would be there twice."""
    if left is not None and left.host == socket.gethostname() and left.started and is_running(left.pid, left.started):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(left.pid, signal.SIGKILL)
