"""The worker: carries out the entries of a queue, oldest first, each by one worker at a time.

Programs run beside it (world.Subprocess), at most `jobs` of them; entries with an executor run as jobs, which go on
when the worker ends and are asked after by the next one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from oellm_autoexp.core.errors import (
    AutoexpError,
    LockedError,
    Problem,
    SchedulerError,
    StateError,
    SubmitError,
    UnreachableError,
)
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.engine.programs import launch
from oellm_autoexp.rules.actions import NotifyAction, Program, RestartAction, RunAutoexpAction
from oellm_autoexp.session.queue import DONE, FAILED, Held, Process, Queue, QueueEntry, Sidecar, Status, Tell
from oellm_autoexp.session.requests import Request, ask
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.lock import is_running
from oellm_autoexp.storage.world import Outcome, Subprocess

if TYPE_CHECKING:
    from oellm_autoexp.engine.sidecar import SidecarJob

_BEAT_SECONDS = 30.0
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.5
_FOLLOW_SECONDS = 2.0
_SCHEDULER_PAUSE_SECONDS = 10.0
_HEADER = "--- attempt"
_INTERRUPTED = "its worker was told to end; run again"
_LAST_LINE_BYTES, _LAST_LINE_CHARACTERS = 4096, 300


@dataclass
class Tally:
    """What a worker has done: ids of entries, in the order in which they were finished."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class _Run(Protocol):
    """An entry that is being carried out."""

    held: Held

    def look(self) -> Outcome | None:
        """How it ended; None while it goes on. Raises AutoexpError if it can't go on."""
        ...

    def stop(self) -> None:
        """Leave it, now: the worker ends."""
        ...


@dataclass
class _Subprocesses:
    """An entry whose program runs beside us."""

    held: Held
    errand: Subprocess

    def look(self) -> Outcome | None:
        outcome = self.errand.poll()
        return None if outcome is None else _with_last_line(outcome, self.held)

    def stop(self) -> None:
        self.errand.give_up()
        self.held.put_back(_INTERRUPTED)


@dataclass
class _Jobs:
    """An entry that runs as a job. It is submitted here, too: again and again while the scheduler does not answer."""

    held: Held
    job: SidecarJob
    launch: Program
    note: Callable[[str], None]
    next_look: float = 0.0
    trouble: str = ""

    def look(self) -> Outcome | None:
        if time.monotonic() < self.next_look:
            return None
        self.next_look = time.monotonic() + self.job.poll_seconds
        try:
            outcome = self._ask()
        except (SubmitError, UnreachableError):
            raise
        except SchedulerError as error:
            self.next_look = time.monotonic() + _SCHEDULER_PAUSE_SECONDS
            if error.problems[0].what != self.trouble:
                self.trouble = error.problems[0].what
                self.note(f"{_name(self.held.entry)}: the scheduler does not answer, waiting for it: {self.trouble}")
            return None
        return None if outcome is None else _with_last_line(outcome, self.held)

    def stop(self) -> None:
        self.held.let_go()

    def _ask(self) -> Outcome | None:
        sidecar = self.held.entry.sidecar
        if sidecar is not None and not sidecar.job_id:
            found = self.job.find(sidecar)
            if found is None:
                return None
            sidecar = sidecar.model_copy(update={"job_id": found}) if found else None
            self.held.change(sidecar=sidecar)
        if sidecar is None:
            sidecar = self._submitted()
        return self.job.outcome(sidecar.job_id, sidecar.token)

    def _submitted(self) -> Sidecar:
        from oellm_autoexp.engine.sidecar import Call

        intent = Sidecar(token=secrets.token_hex(8), at=time.time())
        self.held.change(sidecar=intent)
        call = Call(self.launch, self.held.log_path)
        job_id = self.job.submit(call, intent.token, self.launch.timeout_seconds)
        sidecar = intent.model_copy(update={"job_id": job_id})
        self.held.change(sidecar=sidecar)
        self.note(f"{_name(self.held.entry)}: job {job_id}")
        return sidecar


class Worker:
    """Carries out a queue's entries. `jobs`: how many programs run at once; `say` is told each thing that happens.

    `tell` hears of entries that can't be used; they are left alone, and the others go on.
    """

    def __init__(
        self,
        queue: Queue,
        manifest: Manifest,
        *,
        jobs: int = 1,
        say: Callable[[str], None] = lambda _line: None,
        tell: Tell = lambda _error: None,
    ) -> None:
        self._queue = queue
        self._manifest = manifest
        self._jobs = jobs
        self._tell_people = say
        self._tell_error = tell
        self._told: set[str] = set()
        self._useless: set[str] = set()
        self._runs: list[_Run] = []
        self._beginning: Held | None = None  # taken, and not under way yet
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
            self._look()  # jobs are submitted, and asked after, once
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
                left = {entry.id for entry in self._queue.entries(tell=self._hear)}
                if over and not left - self._useless:
                    return self.tally
                time.sleep(_FOLLOW_SECONDS)

    # -----------------------------------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        self._tell_people(redact_message(line))

    def _work(self, more: Callable[[], bool], *, wait_for_jobs: bool) -> None:
        """Take and carry out entries until there are none at hand, `more` brings none, and none is under way."""
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            moved = self._look()
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
        return sum(isinstance(run, _Subprocesses) for run in self._runs)

    def _list(self) -> bool:
        """Look for entries that somebody could take; whether there are any."""
        self._list_at = time.monotonic() + _FOLLOW_SECONDS
        mine = {run.held.entry.id for run in self._runs} | self._useless
        found = (entry for entry in self._queue.entries(tell=self._hear) if entry.id not in mine)
        self._backlog = deque(entry for entry in found if self._queue.worker_of(entry) is None)
        return bool(self._backlog)

    def _take(self) -> bool:
        """Begin entries while there is room; whether any was begun."""
        begun = False
        while self._backlog and self._running_here < self._jobs:
            entry = self._backlog.popleft()
            with self._hearing(entry):
                with _undisturbed():
                    held = self._beginning = self._queue.claim(entry)
                if held is not None:
                    begun = True
                    self._begin(held)
                    self._beginning = None
        return begun

    def _begin(self, held: Held) -> None:
        """Carry an entry out: at once, or by something that is looked after from now on."""
        entry = held.entry
        if held.died:
            self._say(f"{_name(entry)}: {held.died}")
        _end(held.left)
        try:
            self._start(held)
        except LockedError:
            raise
        except AutoexpError as error:
            self.finish(held, FAILED, "; ".join(_one_line(problem) for problem in error.problems))
        except OSError as error:
            self.finish(held, FAILED, f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))

    def _start(self, held: Held) -> None:
        held.entry.action.perform(_ByWorker(self, held))

    def begin(self, held: Held, request: Program | RunAutoexpAction | NotifyAction) -> None:
        """Begin the program of an entry. Raises ConfigError, OSError."""
        entry, state_dir = held.entry, self._queue.session_path.parent
        program = launch(request, manifest=self._manifest, event=entry.event, id=entry.id, state_dir=state_dir)
        if entry.executor is None:
            _log_header(held)
            self._run_here(held, program)
        else:
            self._run_as_job(held, program)

    def hand_over(self, held: Held, asked: Request) -> None:
        """Ask the monitor for what only it can do."""
        ask(self._queue.session_path, asked)
        self.finish(held, DONE, "handed to the monitor")

    def _run_here(self, held: Held, program: Program) -> None:
        errand = Subprocess(
            program.words,
            cwd=program.cwd or held.entry.work_dir,
            env=program.env,
            log_path=held.log_path,
            timeout_seconds=program.timeout_seconds,
            text=program.text,
        )
        try:
            if errand.pid is not None:
                held.runs(errand.pid)
        except BaseException:
            errand.give_up()
            raise
        self._runs.append(_Subprocesses(held, errand))

    def _run_as_job(self, held: Held, program: Program) -> None:
        from oellm_autoexp.engine.sidecar import Call, SidecarJob

        entry = held.entry
        if entry.executor is None:
            return
        job = SidecarJob(held.path.with_suffix(".submitit"), _name(entry), entry.executor, self._manifest)
        if entry.sidecar is None:
            _log_header(held)
        if entry.executor.cluster != "debug":
            self._runs.append(_Jobs(held, job, program, self._say))
            return
        held.beat(program.timeout_seconds or _FOR_EVER_SECONDS)
        outcome = job.run_inside(Call(program, held.log_path))
        self._end_of(held, _with_last_line(outcome, held))

    def _look(self) -> bool:
        """Finish what has ended; whether anything has."""
        moved = False
        for run in list(self._runs):
            with self._hearing():
                try:
                    outcome = run.look()
                except LockedError:
                    self._runs.remove(run)
                    raise
                except AutoexpError as error:
                    outcome = Outcome(None, "; ".join(_one_line(problem) for problem in error.problems))
                if outcome is not None:
                    moved = True
                    self._runs.remove(run)
                    self._end_of(run.held, outcome)
        return moved

    def _end_of(self, held: Held, outcome: Outcome) -> None:
        self.finish(held, DONE if outcome.code == 0 else FAILED, outcome.message)

    def finish(self, held: Held, status: Status, message: str) -> None:
        """Note the result of an entry, and tell it."""
        with _undisturbed():
            held.finish(status, message)
        (self.tally.done if status == DONE else self.tally.failed).append(held.entry.id)
        self._say(f"{_name(held.entry)}: {status}{f': {message}' if message else ''}")

    def _beat(self) -> None:
        """Renew the claims; a program whose entry another worker has taken over is ended."""
        now = time.monotonic()
        if now < self._beat_at:
            return
        self._beat_at = now + _BEAT_SECONDS
        for run in list(self._runs):
            with self._hearing():
                try:
                    run.held.beat(_BEAT_SECONDS)
                except LockedError:
                    self._runs.remove(run)
                    if isinstance(run, _Subprocesses):
                        run.errand.give_up()
                    raise

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Leave nothing under way behind, however the block ends."""
        try:
            yield
        finally:
            left, self._beginning = self._beginning, None
            if left is not None and all(run.held is not left for run in self._runs) and left.path.exists():
                with self._hearing():
                    left.put_back(_INTERRUPTED)
            while self._runs:
                run = self._runs.pop()
                with self._hearing():
                    run.stop()

    @contextlib.contextmanager
    def _hearing(self, entry: QueueEntry | None = None) -> Iterator[None]:
        """Tell an error that comes up in the block; an `entry` that can't be taken is then left alone."""
        try:
            yield
        except AutoexpError as error:
            self._hear(error, entry)
        except OSError as error:
            self._hear(StateError(Problem(error.strerror or str(error), str(error.filename or ""))), entry)

    def _hear(self, error: AutoexpError, entry: QueueEntry | None = None) -> None:
        """Tell an error, once."""
        if entry is not None:
            self._useless.add(entry.id)
        if str(error) not in self._told:
            self._told.add(str(error))
            self._tell_error(error)


_FOR_EVER_SECONDS = 86400.0


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done. No program may be started in it: it would inherit this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class _ByWorker:
    """What a worker does for the action of an entry (see rules.actions.Engine)."""

    worker: Worker
    held: Held

    def log(self, message: str, level: str) -> None:  # noqa: ARG002  the queue has no levels
        """The entry's result is told."""
        self.worker.finish(self.held, DONE, message)

    def restart(self, action: RestartAction) -> None:
        """The monitor is asked for it."""
        self.worker.hand_over(self.held, _restart_asked(self.held.entry, action))

    def cancel(self, reason: str, scope: Literal["job", "plan"]) -> None:
        """The monitor is asked for it."""
        event, now = self.held.entry.event, time.time()
        job = event.job if scope == "job" else None
        asked = Request(id=self.held.entry.id, kind="cancel", job=job, attempt=event.attempt, reason=reason, at=now)
        self.worker.hand_over(self.held, asked)

    def publish(self, name: str, metadata: Mapping[str, Any]) -> None:  # noqa: ARG002
        """It can't do that."""
        self.worker.finish(self.held, FAILED, "only the monitor can publish an event: use mode: inline")

    def run(self, program: Program) -> None:
        """It runs beside the worker, or as a job."""
        self.worker.begin(self.held, program)

    def run_plan(self, action: RunAutoexpAction) -> None:
        """As any program."""
        self.worker.begin(self.held, action)

    def post(self, action: NotifyAction) -> None:
        """As any program."""
        self.worker.begin(self.held, action)


def _restart_asked(entry: QueueEntry, action: RestartAction) -> Request:
    """What a restart asks of the monitor."""
    event = entry.event
    return Request(
        id=entry.id,
        kind="restart",
        job=event.job,
        attempt=event.attempt,
        restart=action.model_copy(update={"cause": action.cause or event.name}),
        at=time.time(),
        seen_at=event.at,
    )


def _name(entry: QueueEntry) -> str:
    return f"{entry.event.name}/{entry.id[:8]}"


def _one_line(problem: Problem) -> str:
    return f"{problem.what} ({problem.hint})" if problem.hint else problem.what


def _end(left: Process | None) -> None:
    """End the program of a worker that died: it runs in a group of its own, and would be there twice."""
    if left is not None and left.host == socket.gethostname() and left.started and is_running(left.pid, left.started):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(left.pid, signal.SIGKILL)


def _log_header(held: Held) -> None:
    """Say in the log whose output follows."""
    entry = held.entry
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.started_at))
    with trust.open_to_append(held.log_path, mode=0o600) as log:  # a program may print its secrets
        log.write(f"{_HEADER} {entry.attempts}, {when}, by {entry.worker}\n".encode())


def _with_last_line(outcome: Outcome, held: Held) -> Outcome:
    """An outcome whose message also tells the last line that the attempt has printed."""
    parts = (outcome.message, _last_line(held.log_path))
    return Outcome(outcome.code, ": ".join(part for part in parts if part))


def _last_line(path: Path) -> str:
    """The last line of this attempt's output with something in it, cut to what a table can hold."""
    try:
        with trust.open_file(path, most=None, lenient=True) as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_LINE_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except (OSError, StateError):
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if last.startswith(_HEADER):  # it has printed nothing
        return ""
    return "".join(c if c.isprintable() else " " for c in last)[:_LAST_LINE_CHARACTERS]
