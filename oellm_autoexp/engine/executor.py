"""Carries out what events ask for: says, restarts, cancels, publishes, launches beside us, or hands to the queue.

What is to be done is in the session before it is done (`JobState.pending`), and leaves it afterwards. Whoever dies in
between leaves it to be done again: twice perhaps, never not at all; an entry of the queue is made once in any case.
"""

from __future__ import annotations

import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from oellm_autoexp.core.errors import AutoexpError, Problem, SchedulerError, StateError, UnwritableError
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.states import CANCELLED, CRASH, FINAL, IN_QUEUE, PENDING, RUNNING, SUCCESS, WAITING
from oellm_autoexp.core.text import fill
from oellm_autoexp.decisions import lifecycle, restarts, template_values
from oellm_autoexp.decisions.condition_context import CheckRunner, ConditionContext
from oellm_autoexp.decisions.decide import USUAL_WAIT_SECONDS, decide
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.decisions.readiness import StartGate
from oellm_autoexp.engine import programs
from oellm_autoexp.engine.digest import Digest
from oellm_autoexp.rules.actions import Action, EventAction, NotifyAction, Program, RestartAction, RunAutoexpAction
from oellm_autoexp.rules.events import Deadline, Event, Pending, event_id
from oellm_autoexp.rules.templates import filled
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session import requests
from oellm_autoexp.session.event_log import EventLog, Result, Status
from oellm_autoexp.session.job_state import BY_HAND, GONE_LOOKS, JobState, Run, by_id
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.queue_entry import QueueEntry
from oellm_autoexp.session.session import Session
from oellm_autoexp.session.waits import AT_WORK, only_actions_wait
from oellm_autoexp.storage.world import Files, Subprocess
from oellm_autoexp.submission.attempts import write_script
from oellm_autoexp.submission.check import AttemptChecks

_MOST_PUBLISHED = 8
"""How many events may follow from each other by PublishEventAction: a circle ends there."""
_MOST_NEWS = 1000
MOST_AT_ONCE = 16
"""How many programs that actions start run at once; the others wait for their turn."""
_ASK_AGAIN_SECONDS = 60.0
_TURN = f"waits for its turn: no more than {MOST_AT_ONCE} programs run at once"
_WORKER = "waits for a worker of the queue (--cmd actions)"
_LEFT_OUT = "left out"
_NO_ATTEMPT = "no new attempt: "
_ENDINGS = {"done": "", "failed": " failed", "skipped": " left out", "queued": " queued"}
_NO_ROOM = "waits: the machine has no room for another program just now"


@dataclass(frozen=True)
class _Outcome:
    status: Status
    message: str
    surprising: bool = False
    """Whether people are told of an action that is left out."""
    quiet: bool = False
    """Whether people need not be told that it failed."""


@dataclass(frozen=True)
class _Due:
    """A program that is to be started."""

    name: str
    pending: Pending
    action: str
    request: Program | RunAutoexpAction


class _News(deque[str]):
    """Lines for the screen, without secrets."""

    def append(self, line: str, /) -> None:
        """Add one."""
        super().append(redact_message(line))


@dataclass(frozen=True)
class _Inline:
    """What the monitor does for an action of an event (see rules.actions.Engine)."""

    executor: ActionExecutor
    name: str
    pending: Pending
    action: Action
    now: float

    def log(self, message: str, level: str) -> _Outcome:
        """The line is shown, but for one of level `debug`."""
        if level != "debug":
            loud = "" if level == "info" else f"{level}: "
            self.executor.news.append(f"{self.name}: {loud}{message}")
        return _Outcome("done", message)

    def restart(self, action: RestartAction) -> _Outcome | Pending:
        """The new attempt is planned; the action waits while a command has not said whether there is need."""
        attempt = self.pending.event.attempt
        return self.executor.restart(self.name, action, attempt, self.now, event=self.pending) or self.pending

    def cancel(self, reason: str, scope: Literal["job", "plan"]) -> _Outcome:
        """The jobs are ended at the end of this look."""
        session, event = self.executor.session, self.pending.event
        why = reason or event.name
        detector = self.executor.detectors[self.name]
        run = detector.cause(session.jobs[self.name], event.name, event.metadata, for_good=True)
        jobs = list(session.jobs) if scope == "plan" else [self.name]
        ended = [
            other for other in jobs if self.executor.cancel(other, why, self.now, run if other == self.name else None)
        ]
        return _Outcome("done", f"ended: {why}") if ended else _Outcome("skipped", "is ended already")

    def publish(self, name: str, metadata: Mapping[str, Any]) -> _Outcome:
        """The event is recorded, with the metadata of this one; what it asks for comes with the next look."""
        cause = self.pending.event
        depth = cause.depth + 1
        if depth > _MOST_PUBLISHED:
            return _Outcome("failed", f"{_MOST_PUBLISHED} events have followed from each other: is this a circle?")
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
        self.executor.record.add([event])
        session = self.executor.session
        session.put(self.executor.detectors[self.name].published(session.jobs[self.name], event, self.now))
        return _Outcome("done", f"made the event {event.id}")

    def run(self, program: Program) -> Pending:
        """The program is started at the end of this look."""
        return self._due(program)

    def run_plan(self, action: RunAutoexpAction) -> Pending:
        """As any program."""
        return self._due(action)

    def post(self, action: NotifyAction) -> _Outcome | Pending:
        """It is sent at the end of this look, or later together with others (see Digest)."""
        return self.executor.notify(self.name, self.pending, action, self.now)

    def _due(self, request: Program | RunAutoexpAction) -> Pending:
        return self.executor.begin(self.name, self.pending, self.action.kind, request, self.now)


@dataclass
class ActionExecutor:
    """The actions of one session. `news` are lines for the screen, which whoever shows them takes away."""

    manifest: Manifest
    session: Session
    scheduler: Scheduler
    record: EventLog
    detectors: dict[str, Detector]
    now: Callable[[], float] = time.time
    questions: CheckRunner = field(default_factory=CheckRunner)
    news: deque[str] = field(default_factory=lambda: _News(maxlen=_MOST_NEWS))

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}
        self._gates: dict[str, StartGate] = {}
        self._queue = Queue(self.session.path)
        self._digest = Digest(self.manifest, self._log_path)
        self._checks = AttemptChecks(self.scheduler)
        self._errands: dict[str, Subprocess] = {}
        self._due: list[_Due] = []
        self.crowded = False
        """Whether some program waits for others to end, so that it can be started."""
        self._results: list[Result] = []
        self._told: set[str] = set()
        self._entries = 0

    @property
    def under_way(self) -> bool:
        """Whether something is at work beside us that may be done before the scheduler is asked again."""
        return bool(self._errands) or self._digest.busy or self.questions.under_way

    @property
    def awaited(self) -> bool:
        """Whether a program has not ended, or a command has not answered for the first time."""
        waiting = [job for job in self.session.jobs.values() if job.actions.pending]
        askers = {asker for job in waiting for asker in (job.name, _completeness(job), *map(_key, job.actions.pending))}
        return bool(self._errands) or self._digest.busy or self.questions.awaited(askers)

    def close(self) -> None:
        """End what is at work; a later monitor begins it again."""
        for errand in self._errands.values():
            errand.give_up()
        self._errands.clear()
        self._digest.close()
        self.questions.close()

    def act(self) -> None:
        """Carry out what is due, of events and of what people asked for. Saves what it did.

        Raises SchedulerError if jobs that are to end could not be ended; they are tried again.
        """
        now = self.now()
        self.crowded = False
        self._due.clear()
        self._digest.look(now)
        done = self._hear(now)
        for name, job in list(self.session.jobs.items()):
            if job.actions.pending:
                self._react_all(name, job.actions.pending, now)
        self._launch_due(now)
        self._send_due(now)
        try:
            self._end_jobs(now)
        finally:
            self._begin_attempts(now)
            self.save()
            for path in done:
                path.unlink(missing_ok=True)

    def save(self) -> None:
        """Save what was done; the results first, since nobody comes back to an action that the session has no more."""
        self.record.add(self._results)
        self._results.clear()
        self.session.save()

    # ---- what people ask for

    def _hear(self, now: float) -> list[Path]:
        """Take up what others asked of the holder of this session; the files that may go once it is saved."""
        heard = []

        def tell(error: AutoexpError) -> None:
            self._tell_once(f"a request is not heeded: {error}")

        try:
            waiting = requests.waiting(self.session.path, tell)
        except AutoexpError as error:
            tell(error)
            waiting = []
        for path, asked in waiting:
            names = list(self.session.jobs) if asked.job is None else [asked.job]
            if all([self._heed(name, asked, now) for name in names]):  # noqa: C419  each is to be heeded
                heard.append(path)
        return heard

    def _heed(self, name: str, asked: requests.Request, now: float) -> bool:
        """Do for one job what somebody asked for; False while it is not known yet whether there is need."""
        if name not in self.session.jobs:
            self.news.append(f"{asked.kind} of '{name}': no such job")
            return True
        if asked.restart is None:
            reason = asked.reason or "cancelled by hand"
            if asked.kind == "cancel":
                self.cancel(name, reason, now)
            if asked.actions or asked.kind == "skip":
                self.give_up(name, reason, now)
            return True
        attempt = self.session.jobs[name].attempt if asked.job is None else asked.attempt
        by_hand = asked.restart.cause is None
        try:
            outcome = self.restart(name, asked.restart, attempt, now, seen_at=asked.seen_at, by_hand=by_hand)
        except AutoexpError as error:
            outcome = _Outcome("failed", error.problems[0].what)
            words = _no_attempt(outcome.message)
            job = self.session.jobs[name].happened(now, "restart failed", words)
            self.session.put(replace(job, run=replace(job.run, not_restarted=words)))
        if outcome is not None and outcome.status != "done":
            self.news.append(f"{name}: {outcome.message}")
        return outcome is not None

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.news.append(text)

    # ---- one action

    def _react_all(self, name: str, pendings: Iterable[Pending], now: float) -> None:
        """Get on with a job's actions; what has become of them counts also where one can't be got on with."""
        after: dict[str, Pending | None] = {}
        try:
            for pending in pendings:
                after[_key(pending)] = self._react(name, pending, now)
        finally:
            self._now_pending(name, after)

    def _now_pending(self, name: str, after: dict[str, Pending | None]) -> None:
        """What has become of a job's actions, by key (None: it is closed). All at once: there may be thousands."""
        job = self.session.jobs[name]
        left = tuple(now for each in job.actions.pending if (now := after.get(_key(each), each)) is not None)
        if left != job.actions.pending:
            self.session.put(replace(job, actions=replace(job.actions, pending=left)))

    def _react(self, name: str, pending: Pending, now: float) -> Pending | None:
        """Get on with one action; as it is then, None if that was the end of it."""
        binding = self._binding(name, pending)
        action = binding.action.kind if binding else "?"
        if binding is None:
            return self._after(name, pending, action, _Outcome("skipped", "it is not declared"), now)
        return self._after(name, pending, action, _caught(partial(self._step, name, pending, binding, now)), now)

    def _after(self, name: str, pending: Pending, action: str, step: _Outcome | Pending, now: float) -> Pending | None:
        """An action after a step with it; None if that was its end, which is noted."""
        if isinstance(step, Pending):
            return step
        self._close(name, pending, action, step, now)
        return None

    def _binding(self, name: str, pending: Pending) -> EventAction | None:
        rule = self.detectors[name].rules.named(pending.rule)
        return rule.bindings[pending.binding] if rule and pending.binding < len(rule.actions) else None

    def _step(self, name: str, pending: Pending, binding: EventAction, now: float) -> _Outcome | Pending:
        """Get on with one action; its outcome, or the action as it is while there is none."""
        if (errand := self._errands.get(_key(pending))) is not None:
            return self._ended(pending, errand) or pending
        if pending.filled:
            return self._tell(pending, now)
        if pending.started and binding.mode == "inline" and len(self._errands) + len(self._due) >= MOST_AT_ONCE:
            self.crowded = True
            return pending
        job, spec = self.session.jobs[name], self._specs[name]
        values = template_values.values(spec, job, pending.event, self.manifest.plan_id)
        try:
            binding = filled(binding, values)
        except KeyError as error:
            return _Outcome("failed", f"no value is called '{{{error.args[0]}}}'")
        if not pending.started:
            around = ConditionContext(
                Files(spec.work_dir),
                self.session.jobs,
                job,
                now,
                partial(self._ask, _key(pending), spec, now),
                pending.event.at,
                job.actions.carried_out.get(_place(pending)),
                values.__getitem__,
                self._settled(job),
            )
            step = decide(binding.conditions, around, now - pending.since)
            if step.kind == "wait":
                deadline = Deadline(at=pending.since + step.patience_seconds, then=_LEFT_OUT)
                return _waiting(pending, step.reason, binding.action.kind, deadline)
            self.questions.forget(_key(pending))
            if step.kind == "skip":
                return _Outcome("skipped", step.reason, step.surprising)
        if binding.mode == "queue":
            return self._enqueue(job, pending, binding, spec, now)
        return binding.action.perform(_Inline(self, name, pending, binding.action, now))

    def _settled(self, job: JobState) -> bool:
        """Whether a job has ended, and none of its actions that are left may begin it anew."""
        return job.state in FINAL and job.restart is None and not self.may_restart(job)

    def may_restart(self, job: JobState) -> bool:
        """Whether an action of a job that waits is to begin it anew."""
        actions = [binding.action for pending in job.actions.pending if (binding := self._binding(job.name, pending))]
        return any(isinstance(action, RestartAction) for action in actions)

    def _ask(
        self, asker: str, spec: JobSpec, now: float, words: tuple[str, ...], interval_seconds: float
    ) -> bool | None:
        return self.questions.answer(asker, words, spec.work_dir, interval_seconds, now)

    def _enqueue(
        self, job: JobState, pending: Pending, binding: EventAction, spec: JobSpec, now: float
    ) -> _Outcome | Pending:
        """Put an action into the queue. A new attempt is waited for then, so that siblings wait, and we are there."""
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
                self._note_run(job.name, pending, now)
                deadline = Deadline(at=pending.since + USUAL_WAIT_SECONDS, then="no longer waited for")
                waits = _waiting(pending, _WORKER, binding.action.kind, deadline)
                return waits.model_copy(update={"started": True})
            if self._queue.place(entry).exists():
                return pending
        return _Outcome("queued", pending.id)

    # ---- programs beside us

    def begin(
        self,
        name: str,
        pending: Pending,
        action: str,
        request: Program | RunAutoexpAction,
        now: float,
    ) -> Pending:
        """Have the program of an action started at the end of this look; the action as it is until then."""
        if not pending.started:
            self._note_run(name, pending, now)
            pending = _waiting(pending, _TURN, action).model_copy(update={"started": True})
        self._due.append(_Due(name, pending, action, request))
        return pending

    def _launch_due(self, now: float) -> None:
        """Start the programs that are due, while there is room; that they are to be is saved before."""
        due, self._due = self._due, []
        if due:
            self.save()
        after: defaultdict[str, dict[str, Pending | None]] = defaultdict(dict)
        try:
            for one in due:
                if len(self._errands) >= MOST_AT_ONCE:
                    self.crowded = True
                    break
                step = _caught(partial(self._launch, one))
                after[one.name][_key(one.pending)] = self._after(one.name, one.pending, one.action, step, now)
                if isinstance(step, Pending) and _key(step) not in self._errands:
                    self.crowded = True
                    break
        finally:
            for name, pendings in after.items():
                self._now_pending(name, pendings)

    def _launch(self, due: _Due) -> Pending:
        """Start a program, or leave it for the next look if the machine has no room for it."""
        pending = due.pending
        launch = programs.launch(
            due.request,
            manifest=self.manifest,
            event=pending.event,
            id=pending.id,
            state_dir=self.session.path.parent,
        )
        errand = Subprocess(
            launch.words,
            cwd=launch.cwd or self._specs[due.name].work_dir,
            env=launch.env,
            log_path=self._log_path(pending),
            timeout_seconds=launch.timeout_seconds,
            text=launch.text,
        )
        if errand.later:
            return _waiting(pending, _NO_ROOM, due.action)
        self._errands[_key(pending)] = errand
        limit = launch.timeout_seconds
        return _waiting(pending, AT_WORK, due.action, Deadline(at=self.now() + limit, then="ended") if limit else None)

    def _log_path(self, pending: Pending) -> Path:
        """Where the program of an action writes what it prints."""
        return self._queue.folder / pending.event.id / f"{pending.id}.log"

    def _ended(self, pending: Pending, errand: Subprocess) -> _Outcome | None:
        outcome = errand.poll()
        if outcome is None:
            return None
        del self._errands[_key(pending)]
        return _Outcome("done" if outcome.code == 0 else "failed", outcome.message)

    # ---- messages to people

    def notify(self, name: str, pending: Pending, action: NotifyAction, now: float) -> _Outcome | Pending:
        """Have a message sent, as it is now."""
        self._note_run(name, pending, now)
        filled = action.model_dump(mode="json", exclude_defaults=True)
        return self._tell(pending.model_copy(update={"started": True, "filled": filled}), now)

    def _tell(self, pending: Pending, now: float) -> _Outcome | Pending:
        """Have a message sent, perhaps together with others; what has become of it, or the action as it waits."""
        found = self._digest.add(pending, now)
        if isinstance(found, Pending):
            return found
        return _Outcome("failed" if found.failed else "done", found.message, quiet=found.quiet)

    def _send_due(self, now: float) -> None:
        """Send the messages that are due, once they are saved."""
        if due := self._digest.due(now, at_rest=only_actions_wait(self.session.jobs.values())):
            self.save()
            self.crowded |= not self._digest.send(due, now)

    # ---- outcomes

    def _note_run(self, name: str, pending: Pending, now: float) -> None:
        job = self.session.jobs[name]
        carried_out = {**job.actions.carried_out, _place(pending): now}
        self.session.put(replace(job, actions=replace(job.actions, carried_out=carried_out)))

    def _close(self, name: str, pending: Pending, action: str, outcome: _Outcome, now: float) -> None:
        """Note what has become of an action."""
        if outcome.status in ("done", "queued") and not pending.started:
            self._note_run(name, pending, now)
        job = self.session.jobs[name]
        if outcome.surprising:
            self.news.append(f"{name}: {action} of {pending.event.name}: {outcome.message}")
        if outcome.status in ("done", "failed") or outcome.surprising:
            job = job.happened(now, f"{action}{_ENDINGS[outcome.status]}", outcome.message)
        if outcome.status == "failed" and action == RestartAction.__name__:
            job = replace(job, run=replace(job.run, not_restarted=_no_attempt(outcome.message)))
        self.session.put(job)
        if outcome.status == "failed" and not outcome.quiet:
            self.news.append(f"{name}: {action} for {pending.event.name} failed: {outcome.message}")
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
        """Leave out the actions of a job that wait, and not those whose programs are at work; how many these were."""
        waiting = [pending for pending in self.session.jobs[name].actions.pending if not self._is_at_work(pending)]
        for pending in waiting:
            self.questions.forget(_key(pending))
            binding = self._binding(name, pending)
            action = binding.action.kind if binding else "?"
            self._close(name, pending, action, _Outcome("skipped", f"given up: {reason}", surprising=True), now)
        self._now_pending(name, dict.fromkeys(map(_key, waiting)))
        return len(waiting)

    def _is_at_work(self, pending: Pending) -> bool:
        return _key(pending) in self._errands or self._digest.is_sending(pending.id)

    # ---- new attempts, and ends

    def restart(
        self,
        name: str,
        request: RestartAction,
        attempt: int,
        now: float,
        *,
        event: Pending | None = None,
        seen_at: float | None = None,
        by_hand: bool = False,
    ) -> _Outcome | None:
        """Plan a new attempt in the place of `attempt`; None while a command has not said yet whether there is need.

        `seen_at`: when what asks for it was seen (None: that is the event's time).
        """
        job = self.session.jobs[name]
        seen_at = event.event.at if event is not None else seen_at
        if not by_hand and restarts.is_past(job, seen_at):
            return _Outcome("skipped", lifecycle.no_new_attempt(job))
        cause = request.cause or (event.event.name if event else BY_HAND)
        if by_hand:
            job = replace(job, cancelled_by="")
        elif job.attempt == attempt:
            nothing_left = self._nothing_left(job, event, now)
            if nothing_left is None:
                return None
            if nothing_left:
                return self._completed(job, nothing_left, now)
        if refusal := restarts.refusal(job, request, cause, attempt, by_hand=by_hand):
            return self._refused(job, refusal, now, cause, event.event.metadata if event else {})
        coming = restarts.planned(job, request, cause, now)
        overrides = {**job.changes.overrides, **coming.overrides}
        excluded = dict.fromkeys((*job.changes.excluded, *coming.exclude_nodes))
        try:
            check = self._checks.check if coming.overrides or coming.exclude_nodes else None
            written = write_script(self.manifest, self._specs[name], job.attempt + 1, overrides, excluded, check)
        except AutoexpError as error:
            why = "; ".join(problem.what for problem in error.problems)
            raise StateError(Problem(f"{_NO_ATTEMPT}{why}", error.problems[0].where)) from None
        told = event.event.metadata if event else {}
        run = job.run if by_hand else self.detectors[name].cause(job, cause, told)
        path, asked, made = written or ("", None, "")  # not that of an attempt that was dropped
        job = replace(
            job.happened(now, "restart", coming.reason),
            restart=coming,
            run=replace(run, not_restarted=""),
            changes=replace(job.changes, script_path=path, resources=asked, script_digest=made),
        )
        self.session.put(restarts.begun(job, now) if job.state == WAITING else job)
        self._exclude_elsewhere(name, coming.exclude_nodes)
        self.news.append(f"{name}: {coming.reason}")
        return _Outcome("done", coming.reason)

    def _exclude_elsewhere(self, name: str, nodes: tuple[str, ...]) -> None:
        """Keep the other jobs that have not begun away from nodes at fault, too: they would be next to fail there."""
        if not nodes:
            return
        in_queue: dict[str, str] = {}
        for other in list(self.session.jobs.values()):
            if other.name == name or other.state not in (WAITING, PENDING):
                continue
            excluded = tuple(dict.fromkeys((*other.changes.excluded, *nodes)))
            changes = replace(other.changes, excluded=excluded, script_path="")
            self.session.put(replace(other, changes=changes))
            if other.state == PENDING:
                in_queue[other.newest.scheduler_id] = other.newest.token
        if in_queue:
            try:
                self.scheduler.exclude(in_queue, nodes)
            except SchedulerError as error:
                self._tell_once(f"jobs in the queue may still get {', '.join(nodes)}: {error.problems[0].what}")

    def _nothing_left(self, job: JobState, event: Pending | None, now: float) -> str | None:
        """Why the job needs no new attempt, '' if it does; None: not known yet."""
        if job.run.complete:
            return "its log says that it is complete"
        gate = self._gates.get(job.name)
        if gate is None:
            gate = self._gates[job.name] = StartGate(self._specs[job.name], questions=self.questions)
        found = self._told_done(gate, job, event, now)
        if found is not None:  # the next attempt is asked for anew
            gate.forget()
            self.questions.forget(_completeness(job))
        return found

    def _told_done(self, gate: StartGate, job: JobState, event: Pending | None, now: float) -> str | None:
        """Whether commands and conditions say that there is nothing left to do, as `_nothing_left`."""
        done = gate.done(self.session.jobs, now)
        if done is None or done:
            return done
        words = self.detectors[job.name].rules.termination_command
        if not words:
            return ""
        spec = self._specs[job.name]
        values = template_values.values(spec, job, event.event if event else None, self.manifest.plan_id)
        command = tuple(fill(word, values.__getitem__) for word in words)
        answer = self.questions.answer(_completeness(job), command, spec.work_dir, _ASK_AGAIN_SECONDS, now)
        if answer is None:
            return None
        return "termination_command says that it is complete" if answer else ""

    def _completed(self, job: JobState, reason: str, now: float) -> _Outcome:
        complete = replace(job, reason=reason, run=replace(job.run, complete=True))
        if job.state in FINAL:
            succeeded = replace(complete.happened(now, SUCCESS, reason), state=SUCCESS)
            done, events = self.detectors[job.name].state(job, succeeded, now)
            self.record.add(events)
            self.session.put(done)
        else:
            self.session.put(replace(complete, cancelled_by=reason))
        return _Outcome("skipped", f"no new attempt: {reason}")

    def _refused(
        self, job: JobState, refusal: restarts.Refusal, now: float, cause: str, metadata: Mapping[str, Any]
    ) -> _Outcome:
        """Note that a job gets no new attempt, once for an attempt and a rule: that may match a line of each rank."""
        given_up = refusal.kind is restarts.Kind.GIVEN_UP
        known = job.reason == refusal.why
        if job.state in FINAL and refusal.kind is not restarts.Kind.NO_NEED and not known:
            self.session.put(replace(job.happened(now, "given up", refusal.why), reason=refusal.why))
        elif given_up and job.state in IN_QUEUE:  # it would hold its nodes for nothing
            run = self.detectors[job.name].cause(job, cause, metadata)
            if not run.verdict:
                run = replace(run, verdict=CRASH, error_type=run.error_type or cause)
            self.cancel(job.name, refusal.why, now, run)
        if given_up and not known:
            self.news.append(f"{job.name}: {refusal.why}")
        return _Outcome("skipped", refusal.why)

    def cancel(self, name: str, reason: str, now: float, run: Run | None = None) -> bool:
        """End a job for good: at once if it waits, by the scheduler if it is there; one that has ended stays so.

        `run`: its run with what that is to be called then, if a rule had it ended (`Detector.cause`). Returns whether
        that was news.
        """
        job = self.session.jobs[name]
        if job.cancelled_by or job.state in (SUCCESS, CANCELLED):
            return False
        self.news.append(f"{name}: ended: {reason}")
        if job.state == WAITING:
            self.session.put(job.ended(now, CANCELLED, reason))
        elif job.restart is not None and job.state in FINAL:
            self.session.put(replace(job, restart=None, cancelled_by=reason))
        else:
            self.session.put(replace(job, restart=None, cancelled_by=reason, run=run or job.run))
        return True

    def _end_jobs(self, now: float) -> None:
        """Have the scheduler end what is to end: for good, or to begin anew."""
        due = [
            job
            for job in self.session.jobs.values()
            if ((job.state in IN_QUEUE and (job.cancelled_by or job.restart is not None)) or job.may_still_run)
            and (job.newest.end_asked_at is None or now - job.newest.end_asked_at >= _ASK_AGAIN_SECONDS)
        ]
        again = [
            (job, attempt)
            for job in self.session.jobs.values()
            for attempt in job.past.begun_again
            if attempt.end_asked_at is None or now - attempt.end_asked_at >= _ASK_AGAIN_SECONDS
        ]
        if due or again:
            self.save()
            ids = {attempt.scheduler_id: attempt.token for _, attempt in again}
            self.scheduler.cancel({**ids, **{job.newest.scheduler_id: job.newest.token for job in by_id(due).values()}})
        for job in due:
            self.session.put(replace(job, newest=replace(job.newest, end_asked_at=now)))
        for name, attempt in [(job.name, attempt) for job, attempt in again]:
            job = self.session.jobs[name]
            asked = replace(attempt, end_asked_at=now)
            earlier = tuple(asked if each == attempt else each for each in job.past.earlier)
            self.session.put(replace(job, past=replace(job.past, earlier=earlier)))

    def _begin_attempts(self, now: float) -> None:
        for job in list(self.session.jobs.values()):
            if job.restart is None or job.state not in FINAL or job.logs.late_until is not None:
                continue
            if job.newest.vanished and job.newest.gone_looks < GONE_LOOKS:  # it may still run: never two at once
                continue
            if job.state == SUCCESS and not job.restart.by_hand:
                words = "no new attempt: it has succeeded meanwhile"
                self.session.put(replace(job.happened(now, "restart", words), restart=None))
            elif job.answer.exit_code == restarts.DO_NOT_REQUEUE and not job.restart.by_hand:
                words = f"no new attempt: exit code {restarts.DO_NOT_REQUEUE} asks for none"
                self._stays_ended(replace(job.happened(now, "restart", words), restart=None, reason=words), now)
            else:
                self.session.put(restarts.begun(job, now))

    def _stays_ended(self, job: JobState, now: float) -> None:
        """Make the event of a job's end, which there was none of while a new attempt was on its way."""
        ran = replace(job, state=RUNNING)
        told, events = self.detectors[job.name].state(ran, job, now)
        self.record.add(events)
        self.session.put(told)
        self.news.append(f"{job.name}: {job.reason}")


def _caught(step: Callable[[], _Outcome | Pending]) -> _Outcome | Pending:
    """What a step with one action comes to, also where it raises."""
    try:
        return step()
    except (OSError, UnwritableError):  # a full disk fails no action: it is done again
        raise
    except AutoexpError as error:
        return _Outcome("failed", error.problems[0].what)
    except Exception:  # one action must not keep the others, nor the watch, from going on
        return _Outcome("failed", traceback.format_exc(limit=-3))


def _no_attempt(message: str) -> str:
    """Why a new attempt can't be made, on one line; of a traceback its last one."""
    words = (message.strip().splitlines() or ["unknown"])[-1]
    return words if words.startswith(_NO_ATTEMPT) else f"{_NO_ATTEMPT}{words}"


def _waiting(pending: Pending, reason: str, action: str, deadline: Deadline | None = None) -> Pending:
    """An action as it waits, for what and until when."""
    if (pending.reason, pending.action, pending.deadline) == (reason, action, deadline):
        return pending
    return pending.model_copy(update={"reason": reason, "action": action, "deadline": deadline})


def _key(pending: Pending) -> str:
    return f"{pending.event.id}/{pending.rule}/{pending.binding}"


def _completeness(job: JobState) -> str:
    """Who asks a job's `termination_command`."""
    return f"{job.name} complete?"


def _place(pending: Pending) -> str:
    return f"{pending.rule}/{pending.binding}"
