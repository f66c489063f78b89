"""What the monitor itself does for an action of an event (see rules.actions.Engine)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.engine.executing.digest import Digest
from oellm_autoexp.engine.executing.endings import cancel
from oellm_autoexp.engine.executing.new_attempts import NewAttempts
from oellm_autoexp.engine.executing.steps import Outcome
from oellm_autoexp.engine.executing.subprocesses import Subprocesses
from oellm_autoexp.rules.actions import Action, NotifyAction, Program, RestartAction, RunAutoexpAction
from oellm_autoexp.rules.events import Event, Pending, event_id
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.session import Session

_MOST_PUBLISHED = 8
"""How many events may follow from each other by PublishEventAction: a circle ends there."""


@dataclass(frozen=True)
class InlineEngine:
    """Carries out one action, which is `pending`, of the job `name`; `report` gets lines for people."""

    session: Session
    event_log: EventLog
    detectors: Mapping[str, Detector]
    attempts: NewAttempts
    subprocesses: Subprocesses
    digest: Digest
    report: Callable[[str], None]
    name: str
    pending: Pending
    action: Action
    now: float

    def log(self, message: str, level: str) -> Outcome:
        """The line is shown, but for one of level `debug`."""
        if level != "debug":
            loud = "" if level == "info" else f"{level}: "
            self.report(f"{self.name}: {loud}{message}")
        return Outcome("done", message)

    def restart(self, action: RestartAction) -> Outcome | Pending:
        """The new attempt is planned; the action waits while it is not known whether there is need."""
        event = self.pending.event
        return self.attempts.plan(self.name, action, event.attempt, self.now, event=event) or self.pending

    def cancel(self, reason: str, scope: Literal["job", "plan"]) -> Outcome:
        """The jobs are ended at the end of this round; no chain that a later link has completed meanwhile."""
        event, jobs = self.pending.event, self.session.jobs
        why = reason or event.name
        if scope == "job" and self.attempts.chain_is_complete(jobs[self.name]):
            return Outcome("skipped", f"{why}; a later link has completed the chain")
        run = self.detectors[self.name].cause(jobs[self.name], event.name, event.metadata, for_good=True)
        ended = [
            name
            for name in (list(jobs) if scope == "plan" else [self.name])
            if not self.attempts.chain_is_complete(jobs[name])
            and cancel(self.session, name, why, self.now, self.report, run if name == self.name else None)
        ]
        return Outcome("done", f"ended: {why}") if ended else Outcome("skipped", "is ended already")

    def publish(self, name: str, metadata: Mapping[str, Any]) -> Outcome:
        """The event is recorded, with the metadata of this one; its actions are carried out in the next round."""
        cause = self.pending.event
        depth = cause.depth + 1
        if depth > _MOST_PUBLISHED:
            return Outcome("failed", f"{_MOST_PUBLISHED} events have followed from each other: is this a circle?")
        event = Event(
            id=event_id(name, self.pending.id),
            kind="published",
            name=name,
            job=self.name,
            attempt=cause.attempt,
            job_id=cause.job_id,
            log_path=cause.log_path,
            at=self.now,
            depth=depth,
            metadata={**cause.metadata, **metadata},
        )
        self.event_log.add([event])
        job = self.session.jobs[self.name]
        self.session.put(self.detectors[self.name].published(job, event, self.now))
        return Outcome("done", f"made the event {event.id}")

    def run(self, program: Program) -> Pending:
        """The program is started at the end of this round."""
        return self._ask_for(program)

    def run_plan(self, action: RunAutoexpAction) -> Pending:
        """As any program."""
        return self._ask_for(action)

    def post(self, action: NotifyAction) -> Outcome | Pending:
        """It is sent at the end of this round, or later together with others (see Digest)."""
        return self.digest.notify(self.name, self.pending, action, self.now)

    def _ask_for(self, request: Program | RunAutoexpAction) -> Pending:
        return self.subprocesses.ask_for(self.name, self.pending, self.action.kind, request, self.now)
