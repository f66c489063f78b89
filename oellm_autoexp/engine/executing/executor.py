"""Carries out what events and people ask for: log, restart, cancel, publish, run a program, or put it into the queue.

What is to be done is in the session before it is done (`JobState.actions.pending`), and leaves it afterwards. A monitor
that dies in between leaves it to be done again: twice perhaps, never not at all; an entry of the queue is made once.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import AutoexpError, SchedulerError
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.states import FINAL
from oellm_autoexp.decisions import restarts, template_values
from oellm_autoexp.decisions.condition_context import CheckRunner, ConditionContext
from oellm_autoexp.decisions.decide import USUAL_WAIT_SECONDS, decide
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.engine.executing import endings, steps
from oellm_autoexp.engine.executing.digest import Digest
from oellm_autoexp.engine.executing.holding import Holding
from oellm_autoexp.engine.executing.inline_engine import InlineEngine
from oellm_autoexp.engine.executing.new_attempts import NewAttempts, completion_asker, no_attempt
from oellm_autoexp.engine.executing.steps import Outcome, caught, waiting
from oellm_autoexp.engine.executing.subprocesses import Subprocesses
from oellm_autoexp.rules.actions import EventAction, RestartAction
from oellm_autoexp.rules.events import Deadline, Pending
from oellm_autoexp.rules.rules import HOLD_AFTER, MonitoringSection
from oellm_autoexp.rules.templates import filled
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session import requests
from oellm_autoexp.session.event_log import EventLog, Result
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.queue_entry import QueueEntry
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.world import Files

_WORKER = "waits for a worker of the queue (--cmd actions)"
_SKIPPED = "skipped"
_ENDINGS = {"done": "", "failed": " failed", "skipped": " skipped", "queued": " queued"}


@dataclass
class ActionExecutor:
    """The actions of one session; `report` gets lines for people."""

    manifest: Manifest
    session: Session
    scheduler: Scheduler
    event_log: EventLog
    detectors: Mapping[str, Detector]
    report: Callable[[str], None]
    now: Callable[[], float] = time.time
    at_capacity: bool = field(default=False, init=False)
    """True if a program waits until others have ended."""

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}
        self._queue = Queue(self.session.path)
        self._checks = CheckRunner()
        self._subprocesses = Subprocesses(self.manifest, self.session, self._queue, self.now)
        self._digest = Digest(self.manifest, self.session, self._queue)
        self._attempts = NewAttempts(
            self.manifest,
            self.session,
            self.scheduler,
            self.event_log,
            self.detectors,
            self._checks,
            self.report,
            self._report_once,
        )
        most = self.manifest.monitoring.get(HOLD_AFTER, MonitoringSection.model_fields[HOLD_AFTER].default)
        self._holding = Holding(self.session, self.scheduler, most, self.report)
        self._results: list[Result] = []
        self._reported: set[str] = set()
        self._entries = 0

    @property
    def in_progress(self) -> bool:
        """True if a program or a check runs, whose end may let something be done before the next poll."""
        return bool(self._subprocesses.count) or self._digest.busy or self._checks.in_progress

    @property
    def has_pending_subprocesses(self) -> bool:
        """True if a program has not ended, or a check has no first answer yet."""
        jobs = [job for job in self.session.jobs.values() if job.actions.pending]
        askers = {
            asker for job in jobs for asker in (job.name, completion_asker(job), *map(steps.key, job.actions.pending))
        }
        return bool(self._subprocesses.count) or self._digest.busy or self._checks.has_pending(askers)

    def close(self) -> None:
        """End all programs and checks; a later monitor starts them again."""
        self._subprocesses.close()
        self._digest.close()
        self._checks.close()

    def act(self) -> None:
        """One round: carry out what is due, of events and of requests. Saves what it did.

        Raises SchedulerError if the scheduler does not hold or cancel jobs; that is retried in the next round.
        """
        now = self.now()
        self.at_capacity = False
        self._subprocesses.take_due()  # of a round that raised
        self._digest.begin_round(now)
        handled = self._handle_requests(now)
        for name, job in list(self.session.jobs.items()):
            if job.actions.pending:
                self._go_on_with_all(name, job.actions.pending, now)
        self._start_due(now)
        self._send_due(now)
        try:
            self._holding.review()
            self._end_jobs(now)
        finally:
            self._attempts.begin(now)
            self.save()
            for path in handled:
                path.unlink(missing_ok=True)

    def save(self) -> None:
        """Save what was done: the results first, as nothing leads to them once the session has no such action."""
        self.event_log.add(self._results)
        self._results.clear()
        self.session.save()

    def cancel(self, name: str, reason: str, now: float) -> bool:
        """End a job for good; False if it has ended already, or is to."""
        return endings.cancel(self.session, name, reason, now, self.report)

    def release(self) -> None:
        """Let the jobs go that are held. Raises SchedulerError."""
        self._holding.release()

    def _end_jobs(self, now: float) -> None:
        if due := endings.due_endings(self.session.jobs.values(), now):
            self.save()
            endings.end_jobs(due, self.session, self.scheduler, now)

    def _report_once(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self.report(text)

    # ---- requests

    def _handle_requests(self, now: float) -> list[Path]:
        """Do what others asked of the process that holds this session; the files that may go once it is saved."""

        def report_ignored(error: AutoexpError) -> None:
            self._report_once(f"request ignored: {error}")

        try:
            found = requests.waiting(self.session.path, report_ignored)
        except AutoexpError as error:
            report_ignored(error)
            return []
        handled = []
        for path, request in found:
            names = list(self.session.jobs) if request.job is None else [request.job]
            if all([self._handle(name, request, now) for name in names]):  # noqa: C419  for each of them
                handled.append(path)
        return handled

    def _handle(self, name: str, request: requests.Request, now: float) -> bool:
        """Handle a request for one job; False while it is not known yet whether there is need."""
        if name not in self.session.jobs:
            self.report(f"{request.kind} of '{name}': no such job")
            return True
        if request.restart is not None:
            return self._handle_restart(name, request, request.restart, now)
        if request.kind == "release":
            return self._released()
        reason = request.reason or "cancelled by hand"
        if request.kind == "cancel":
            self.cancel(name, reason, now)
        if request.actions or request.kind == "skip":
            self.give_up(name, reason, now)
        return True

    def _released(self) -> bool:
        try:
            self.release()
        except SchedulerError as error:
            self._report_once(f"the jobs that are held can't be released now: {error.problems[0].what}")
            return False
        return True

    def _handle_restart(self, name: str, request: requests.Request, action: RestartAction, now: float) -> bool:
        attempt = self.session.jobs[name].attempt if request.job is None else request.attempt
        by_hand = action.cause is None
        try:
            outcome = self._attempts.plan(name, action, attempt, now, seen_at=request.seen_at, by_hand=by_hand)
        except AutoexpError as error:
            outcome = Outcome("failed", error.problems[0].what)
            words = no_attempt(outcome.message)
            job = self.session.jobs[name].happened(now, "restart failed", words)
            self.session.put(replace(job, run=replace(job.run, not_restarted=words)))
        if outcome is not None and outcome.status != "done":
            self.report(f"{name}: {outcome.message}")
        return outcome is not None

    # ---- one action

    def _go_on_with_all(self, name: str, pendings: Iterable[Pending], now: float) -> None:
        """Take a step with each of a job's actions; the results count also where one raises."""
        after: dict[str, Pending | None] = {}
        try:
            for pending in pendings:
                after[steps.key(pending)] = self._go_on_with(name, pending, now)
        finally:
            self._put_pending(name, after)

    def _put_pending(self, name: str, after: dict[str, Pending | None]) -> None:
        """Put a job's actions as they are now, by key (None: it has ended). All at once: there may be thousands."""
        job = self.session.jobs[name]
        left = tuple(now for each in job.actions.pending if (now := after.get(steps.key(each), each)) is not None)
        if left != job.actions.pending:
            self.session.put(replace(job, actions=replace(job.actions, pending=left)))

    def _go_on_with(self, name: str, pending: Pending, now: float) -> Pending | None:
        """Take a step with one action; the action as it is then, None if that was its end."""
        binding = self._binding(name, pending)
        if binding is None:
            return self._after(name, pending, "?", Outcome("skipped", "no rule of this name in the configuration"), now)
        step = caught(partial(self._step, name, pending, binding, now))
        return self._after(name, pending, binding.action.kind, step, now)

    def _after(self, name: str, pending: Pending, action: str, step: Outcome | Pending, now: float) -> Pending | None:
        """An action after a step; None if that was its end, which is noted."""
        if isinstance(step, Pending):
            return step
        self._close(name, pending, action, step, now)
        return None

    def _binding(self, name: str, pending: Pending) -> EventAction | None:
        return self.detectors[name].rules.binding(pending.rule, pending.binding)

    def _step(self, name: str, pending: Pending, binding: EventAction, now: float) -> Outcome | Pending:
        """Take a step with one action; its outcome, or the action as it is while there is none."""
        if self._subprocesses.is_running(pending):
            return self._subprocesses.poll(pending) or pending
        if pending.filled:
            return self._digest.go_on(pending, now)
        if pending.started and binding.mode == "inline" and self._subprocesses.is_full:
            self.at_capacity = True
            return pending
        job, spec = self.session.jobs[name], self._specs[name]
        values = template_values.values(spec, job, pending.event, self.manifest.plan_id)
        try:
            binding = filled(binding, values)
        except KeyError as error:
            return Outcome("failed", f"no value is called '{{{error.args[0]}}}'")
        if not pending.started:
            context = self._context(job, spec, pending, values.__getitem__, now)
            step = decide(binding.conditions, context, now - pending.since)
            if step.kind == "wait":
                deadline = Deadline(at=pending.since + step.patience_seconds, then=_SKIPPED)
                return waiting(pending, step.reason, binding.action.kind, deadline)
            self._checks.forget(steps.key(pending))
            if step.kind == "skip":
                return Outcome("skipped", step.reason, step.surprising)
        if binding.mode == "queue":
            return self._enqueue(job, pending, binding, spec, now)
        return binding.action.perform(self._engine(name, pending, binding, now))

    def _context(
        self, job: JobState, spec: JobSpec, pending: Pending, value: Callable[[str], Any], now: float
    ) -> ConditionContext:
        """What the conditions of an action may look at."""

        def ask(words: tuple[str, ...], interval_seconds: float) -> bool | None:
            return self._checks.answer(steps.key(pending), words, spec.work_dir, interval_seconds, now)

        last_run = job.actions.carried_out.get(steps.place(pending))
        rules = self.detectors[job.name].rules
        follows = job.restart is not None or job.later_links or restarts.may_come(job, rules)
        settled = job.state in FINAL and not follows
        jobs = self.session.jobs
        return ConditionContext(
            Files(spec.work_dir), jobs, job, now, ask, pending.event.at, last_run, value, settled=settled
        )

    def _engine(self, name: str, pending: Pending, binding: EventAction, now: float) -> InlineEngine:
        return InlineEngine(
            self.session,
            self.event_log,
            self.detectors,
            self._attempts,
            self._subprocesses,
            self._digest,
            self.report,
            name,
            pending,
            binding.action,
            now,
        )

    def _enqueue(
        self, job: JobState, pending: Pending, binding: EventAction, spec: JobSpec, now: float
    ) -> Outcome | Pending:
        """Put an action into the queue. A new attempt is waited for then, so that siblings and this monitor wait."""
        entry = QueueEntry(
            id=pending.id,
            plan_id=self.manifest.plan_id,
            manifest_path=str(self.session.manifest_path),
            event=pending.event,
            action=binding.action,
            executor=binding.executor,
            work_dir=spec.work_dir,
            created_at=now + self._entries * 1e-6,  # in the order of the log
        )
        if not pending.started:
            self._queue.put(entry)
            self._entries += 1
        may_come = job.attempt == pending.event.attempt and not job.cancelled_by
        if isinstance(binding.action, RestartAction) and may_come and now - pending.since < USUAL_WAIT_SECONDS:
            if not pending.started:
                self.session.put(steps.with_execution(self.session.jobs[job.name], pending, now))
                deadline = Deadline(at=pending.since + USUAL_WAIT_SECONDS, then="no longer waited for")
                waits = waiting(pending, _WORKER, binding.action.kind, deadline)
                return waits.model_copy(update={"started": True})
            if self._queue.place(entry).exists():
                return pending
        return Outcome("queued", pending.id)

    def _start_due(self, now: float) -> None:
        """Start the programs that are due, while there is room; that they are to be is saved before."""
        due = self._subprocesses.take_due()
        if due:
            self.save()
        after: defaultdict[str, dict[str, Pending | None]] = defaultdict(dict)
        try:
            for one in due:
                if self._subprocesses.is_full:
                    self.at_capacity = True
                    break
                step = caught(partial(self._subprocesses.start, one))
                after[one.name][steps.key(one.pending)] = self._after(one.name, one.pending, one.action, step, now)
                if isinstance(step, Pending) and not self._subprocesses.is_running(step):
                    self.at_capacity = True
                    break
        finally:
            for name, pendings in after.items():
                self._put_pending(name, pendings)

    def _send_due(self, now: float) -> None:
        """Send the messages that are due, once they are saved."""
        if due := self._digest.due(now):
            self.save()
            self.at_capacity |= not self._digest.send(due, now)

    # ---- outcomes

    def _close(self, name: str, pending: Pending, action: str, outcome: Outcome, now: float) -> None:
        """Note how an action has ended."""
        job = self.session.jobs[name]
        if outcome.status in ("done", "queued") and not pending.started:
            job = steps.with_execution(job, pending, now)
        if outcome.surprising:
            self.report(f"{name}: {action} of {pending.event.name}: {outcome.message}")
        if outcome.status in ("done", "failed") or outcome.surprising:
            job = job.happened(now, f"{action}{_ENDINGS[outcome.status]}", outcome.message, pending.event.name)
        if outcome.status == "failed" and action == RestartAction.__name__:
            job = replace(job, run=replace(job.run, not_restarted=no_attempt(outcome.message)))
        self.session.put(job)
        if outcome.status == "failed" and not outcome.quiet:
            self.report(f"{name}: {action} for {pending.event.name} failed: {outcome.message}")
        self._results.append(
            Result(
                event_id=pending.event.id,
                id=pending.id,
                job=name,
                action=action,
                status=outcome.status,
                message=outcome.message,
                at=now,
            )
        )

    def give_up(self, name: str, reason: str, now: float) -> int:
        """Leave out the waiting actions of a job, and not those whose programs run; how many these were."""
        pendings = self.session.jobs[name].actions.pending
        at_work = (self._subprocesses.is_running, self._digest.is_sending)
        given_up = [pending for pending in pendings if not any(runs(pending) for runs in at_work)]
        for pending in given_up:
            self._checks.forget(steps.key(pending))
            binding = self._binding(name, pending)
            action = binding.action.kind if binding else "?"
            self._close(name, pending, action, Outcome("skipped", f"abandoned: {reason}", surprising=True), now)
        self._put_pending(name, dict.fromkeys(map(steps.key, given_up)))
        return len(given_up)
