"""Carrying out one entry of a queue: as a program in the background, as a job, or by a request to the monitor."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from oellm_autoexp.core.errors import SchedulerError, SubmitError, UnreachableError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.engine.executing.programs import launch
from oellm_autoexp.rules.actions import Executor, NotifyAction, Program, RestartAction, RunAutoexpAction
from oellm_autoexp.session.queue import Held
from oellm_autoexp.session.queue_entry import DONE, FAILED, QueueEntry, Sidecar, Status
from oellm_autoexp.session.requests import Request, ask
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.interrupts import interrupts_held
from oellm_autoexp.storage.log_tail import last_line
from oellm_autoexp.storage.world import Outcome, Subprocess

if TYPE_CHECKING:
    from oellm_autoexp.engine.sidecar import SidecarJob

INTERRUPTED = "its worker was asked to end; run again"
_SCHEDULER_PAUSE_SECONDS = 10.0
_FOR_EVER_SECONDS = 86400.0
_HEADER = "--- attempt"


class EntryRun(Protocol):
    """An entry that is being carried out."""

    held: Held

    def poll(self) -> Outcome | None:
        """How it ended; None while it goes on. Raises AutoexpError if it can't go on."""
        ...

    def stop(self) -> None:
        """Leave it, now: the worker ends."""
        ...


@dataclass
class SubprocessRun:
    """An entry whose program runs in the background of the worker."""

    held: Held
    program: Subprocess

    def poll(self) -> Outcome | None:
        outcome = self.program.poll()
        return None if outcome is None else _with_last_line(outcome, self.held)

    def stop(self) -> None:
        self.program.give_up()
        self.held.put_back(INTERRUPTED)


@dataclass
class JobRun:
    """An entry that runs as a job. It is submitted here, too: again and again while the scheduler does not answer."""

    held: Held
    job: SidecarJob
    launch: Program
    note: Callable[[str], None]
    next_poll: float = 0.0
    scheduler_error: str = ""
    """Message of the last failed scheduler call, which was reported."""

    def poll(self) -> Outcome | None:
        if time.monotonic() < self.next_poll:
            return None
        self.next_poll = time.monotonic() + self.job.poll_seconds
        try:
            outcome = self._ask()
        except (SubmitError, UnreachableError):
            raise
        except SchedulerError as error:
            self.next_poll = time.monotonic() + _SCHEDULER_PAUSE_SECONDS
            if error.problems[0].what != self.scheduler_error:
                self.scheduler_error = error.problems[0].what
                waits = f"the scheduler does not answer, waiting for it: {self.scheduler_error}"
                self.note(f"{entry_name(self.held.entry)}: {waits}")
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
        self.note(f"{entry_name(self.held.entry)}: job {job_id}")
        return sidecar


@dataclass(frozen=True)
class EntryEngine:
    """What a worker does for the action of an entry (see rules.actions.Engine).

    `begun` gets what is in progress from now on, `finish` the result of an entry that is not, `note` lines for people.
    """

    held: Held
    manifest: Manifest
    session_path: Path
    begun: Callable[[EntryRun], None]
    finish: Callable[[Held, Status, str], None]
    note: Callable[[str], None]

    def log(self, message: str, level: str) -> None:  # noqa: ARG002  the queue has no levels
        """The message is the entry's result."""
        self.finish(self.held, DONE, message)

    def restart(self, action: RestartAction) -> None:
        """The monitor is asked for it."""
        self._hand_over(_restart_asked(self.held.entry, action))

    def cancel(self, reason: str, scope: Literal["job", "plan"]) -> None:
        """The monitor is asked for it."""
        event, now = self.held.entry.event, time.time()
        job = event.job if scope == "job" else None
        asked = Request(id=self.held.entry.id, kind="cancel", job=job, attempt=event.attempt, reason=reason, at=now)
        self._hand_over(asked)

    def publish(self, name: str, metadata: Mapping[str, Any]) -> None:  # noqa: ARG002
        """It can't do that."""
        self.finish(self.held, FAILED, "only the monitor can publish an event: use mode: inline")

    def run(self, program: Program) -> None:
        """It runs in the background of the worker, or as a job."""
        self._begin(program)

    def run_plan(self, action: RunAutoexpAction) -> None:
        """As any program."""
        self._begin(action)

    def post(self, action: NotifyAction) -> None:
        """As any program."""
        self._begin(action)

    def _begin(self, request: Program | RunAutoexpAction | NotifyAction) -> None:
        """Begin the program of the entry. Raises ConfigError, OSError."""
        entry, state_dir = self.held.entry, self.session_path.parent
        program = launch(request, manifest=self.manifest, event=entry.event, id=entry.id, state_dir=state_dir)
        if entry.executor is None:
            _log_header(self.held)
            self._run_here(program)
        else:
            self._run_as_job(entry.executor, program)

    def _hand_over(self, asked: Request) -> None:
        """Ask the monitor for what only it can do."""
        ask(self.session_path, asked)
        self.finish(self.held, DONE, "handed to the monitor")

    def _run_here(self, launch: Program) -> None:
        held = self.held
        with interrupts_held():  # a program that no note was made of would run on, and run again
            program = Subprocess(
                launch.words,
                cwd=launch.cwd or held.entry.work_dir,
                env=launch.env,
                log_path=held.log_path,
                timeout_seconds=launch.timeout_seconds,
                text=launch.text,
            )
            try:
                if program.pid is not None:
                    held.runs(program.pid)
            except BaseException:
                program.give_up()
                raise
            self.begun(SubprocessRun(held, program))

    def _run_as_job(self, executor: Executor, program: Program) -> None:
        from oellm_autoexp.engine.sidecar import Call, SidecarJob

        held, entry = self.held, self.held.entry
        job = SidecarJob(held.path.with_suffix(".submitit"), entry_name(entry), executor, self.manifest)
        if entry.sidecar is None:
            _log_header(held)
        if executor.cluster != "debug":
            self.begun(JobRun(held, job, program, self.note))
            return
        held.beat(program.timeout_seconds or _FOR_EVER_SECONDS)
        outcome = job.run_inside(Call(program, held.log_path))
        self.finish(held, *result_of(_with_last_line(outcome, held)))


def result_of(outcome: Outcome) -> tuple[Status, str]:
    """The status and the message of an entry whose program or job has ended so."""
    return DONE if outcome.code == 0 else FAILED, outcome.message


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


def entry_name(entry: QueueEntry) -> str:
    """By which people know an entry: its event, and the beginning of its id."""
    return f"{entry.event.name}/{entry.id[:8]}"


def _log_header(held: Held) -> None:
    """Say in the log whose output follows."""
    entry = held.entry
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.started_at))
    with trust.open_to_append(held.log_path, mode=0o600) as log:  # a program may print its secrets
        log.write(f"{_HEADER} {entry.attempts}, {when}, by {entry.worker}\n".encode())


def _with_last_line(outcome: Outcome, held: Held) -> Outcome:
    """An outcome whose message also has the last line that the attempt has printed."""
    parts = (outcome.message, _last_line(held.log_path))
    return Outcome(outcome.code, ": ".join(part for part in parts if part))


def _last_line(path: Path) -> str:
    """The last line of this attempt's output with something in it; '' if it has printed nothing."""
    last = last_line(path)
    return "" if last.startswith(_HEADER) else last
