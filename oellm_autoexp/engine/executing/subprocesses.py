"""The programs that actions run in the background: a few at once, each with its log and its time limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.engine.executing import programs, steps
from oellm_autoexp.engine.executing.steps import Outcome
from oellm_autoexp.rules.actions import Program, RunAutoexpAction
from oellm_autoexp.rules.events import Deadline, Pending
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.session import Session
from oellm_autoexp.session.waits import AT_WORK
from oellm_autoexp.storage.interrupts import interrupts_held
from oellm_autoexp.storage.log_tail import last_line
from oellm_autoexp.storage.world import Subprocess

MOST_AT_ONCE = 16
"""How many programs that actions start run at once; the others wait for their turn."""
_TURN = f"waits for its turn: no more than {MOST_AT_ONCE} programs run at once"
_NO_ROOM = "waits: the machine has no room for another program just now"


@dataclass(frozen=True)
class DueProgram:
    """A program that is to be started: for an action (its class) of a job."""

    name: str
    pending: Pending
    action: str
    request: Program | RunAutoexpAction


@dataclass
class Subprocesses:
    """The programs of one session's actions. They are asked for one by one, and started together (`take_due`)."""

    manifest: Manifest
    session: Session
    queue: Queue
    now: Callable[[], float]
    _running: dict[str, Subprocess] = field(default_factory=dict, init=False)
    _due: list[DueProgram] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._work_dirs = {job.name: job.work_dir for job in self.manifest.jobs}

    @property
    def count(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def is_full(self) -> bool:
        """True if no other program may be asked for or started now."""
        return len(self._running) + len(self._due) >= MOST_AT_ONCE

    def is_running(self, pending: Pending) -> bool:
        """True if the program of an action runs, or has ended and was not polled since."""
        return steps.key(pending) in self._running

    def ask_for(
        self, name: str, pending: Pending, action: str, request: Program | RunAutoexpAction, now: float
    ) -> Pending:
        """Have the program of an action started at the end of this round; the action as it is until then."""
        if not pending.started:
            self.session.put(steps.with_execution(self.session.jobs[name], pending, now))
            pending = steps.waiting(pending, _TURN, action).model_copy(update={"started": True})
        self._due.append(DueProgram(name, pending, action, request))
        return pending

    def take_due(self) -> list[DueProgram]:
        """The programs that were asked for; they are forgotten here."""
        due, self._due = self._due, []
        return due

    def start(self, due: DueProgram) -> Pending:
        """Start a program; one that the machine has no room for does not run, and waits."""
        pending = due.pending
        launch = programs.launch(
            due.request,
            manifest=self.manifest,
            event=pending.event,
            id=pending.id,
            state_dir=self.session.path.parent,
        )
        with interrupts_held():  # a program that is not noted would run on, and be started again
            program = Subprocess(
                launch.words,
                cwd=launch.cwd or self._work_dirs[due.name],
                env=launch.env,
                log_path=self._log_of(pending),
                timeout_seconds=launch.timeout_seconds,
                text=launch.text,
            )
            if program.later:
                return steps.waiting(pending, _NO_ROOM, due.action)
            self._running[steps.key(pending)] = program
        limit = launch.timeout_seconds
        deadline = Deadline(at=self.now() + limit, then="ended") if limit else None
        return steps.waiting(pending, AT_WORK, due.action, deadline)

    def poll(self, pending: Pending) -> Outcome | None:
        """How the program of an action has ended, which is forgotten then; None while it runs."""
        outcome = self._running[steps.key(pending)].poll()
        if outcome is None:
            return None
        del self._running[steps.key(pending)]
        if outcome.code == 0:
            return Outcome("done", outcome.message)
        said = redact_message(last_line(self._log_of(pending)))
        return Outcome("failed", ": ".join(filter(None, (outcome.message, said))))

    def _log_of(self, pending: Pending) -> Path:
        return self.queue.folder / pending.event.id / f"{pending.id}.log"

    def close(self) -> None:
        """End all that run; a later monitor starts them again."""
        for program in self._running.values():
            program.give_up()
        self._running.clear()
