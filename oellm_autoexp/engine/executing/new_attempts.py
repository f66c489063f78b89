"""New attempts of jobs: whether a job needs one and may have one, its script, and its beginning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import AutoexpError, Problem, SchedulerError, StateError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.states import CRASH, DO_NOT_REQUEUE, FINAL, IN_QUEUE, PENDING, RUNNING, SUCCESS, UNSUBMITTED
from oellm_autoexp.core.text import fill
from oellm_autoexp.decisions import lifecycle, restarts, template_values
from oellm_autoexp.decisions.condition_context import CheckRunner
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.decisions.readiness import StartGate
from oellm_autoexp.engine.executing.endings import cancel
from oellm_autoexp.engine.executing.steps import Outcome
from oellm_autoexp.rules.actions import RestartAction
from oellm_autoexp.rules.events import Event
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session import status_files
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.job_state import BY_HAND, GONE_LOOKS, JobState, Restarting, SpecChanges
from oellm_autoexp.session.session import Session
from oellm_autoexp.submission.attempts import write_script
from oellm_autoexp.submission.check import AttemptChecks

_ASK_AGAIN_SECONDS = 60.0
"""How often a `termination_command` that has said no is asked while the answer is waited for."""
_NO_ATTEMPT = "no new attempt: "


@dataclass
class NewAttempts:
    """The new attempts of one session's jobs; `report` and `report_once` get lines for people."""

    manifest: Manifest
    session: Session
    scheduler: Scheduler
    event_log: EventLog
    detectors: Mapping[str, Detector]
    checks: CheckRunner
    report: Callable[[str], None]
    report_once: Callable[[str], None]
    _gates: dict[str, StartGate] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}
        self._attempt_checks = AttemptChecks(self.scheduler)

    def plan(
        self,
        name: str,
        request: RestartAction,
        attempt: int,
        now: float,
        *,
        event: Event | None = None,
        seen_at: float | None = None,
        by_hand: bool = False,
    ) -> Outcome | None:
        """Plan a new attempt in the place of `attempt`; None while it is not known yet whether there is need.

        `seen_at`: when what asks for it was seen (None: that is the event's time). Raises AutoexpError if there can be
        no script for it.
        """
        job = self.session.jobs[name]
        seen_at = event.at if event is not None else seen_at
        if not by_hand and restarts.is_past(job, seen_at):
            return Outcome("skipped", lifecycle.no_new_attempt(job))
        if not by_hand and restarts.script_may_restart(job, event, seen_at, now):
            return None
        cause = request.cause or (event.name if event else BY_HAND)
        metadata = event.metadata if event else {}
        if by_hand:
            job = replace(job, cancelled_by="", run=replace(job.run, chain_end=self._chain_end(job)))
        elif job.attempt == attempt:
            nothing_left = self._nothing_left(job, event, now)
            if nothing_left is None:
                return None
            if nothing_left:
                return self._completed(job, nothing_left, now)
        if not by_hand and restarts.goes_on_by_itself(job, request):
            return Outcome("skipped", f"{_NO_ATTEMPT}the next link of its chain goes on")
        if refusal := restarts.refusal(job, request, cause, attempt, by_hand=by_hand):
            return self._refused(job, refusal, now, cause, metadata)
        coming = restarts.planned(job, request, cause, now)
        changes = self._with_script(job, coming)
        run = job.run if by_hand else self.detectors[name].cause(job, cause, metadata)
        run = replace(run, not_restarted="")
        job = replace(job.happened(now, "restart", coming.reason), restart=coming, run=run, changes=changes)
        self.session.put(restarts.begun(job, now) if job.state in UNSUBMITTED else job)
        self._exclude_in_queue(name, coming.exclude_nodes)
        self.report(f"{name}: {coming.reason}")
        return Outcome("done", coming.reason)

    def _chain_end(self, job: JobState) -> str:
        """Why no link follows in the job's chain, also if a later one has ended it while nobody watched; else ''."""
        end = self._later_end(job)
        return job.run.chain_end or ("" if end is None else end.why)

    def _with_script(self, job: JobState, coming: Restarting) -> SpecChanges:
        """Write the script of a new attempt; how that differs from what was planned. Raises StateError."""
        overrides = {**job.changes.overrides, **coming.overrides}
        excluded = dict.fromkeys((*job.changes.excluded, *coming.exclude_nodes))
        check = self._attempt_checks.check if coming.overrides or coming.exclude_nodes else None
        try:
            written = write_script(self.manifest, self._specs[job.name], job.attempt + 1, overrides, excluded, check)
        except AutoexpError as error:
            why = "; ".join(problem.what for problem in error.problems)
            raise StateError(Problem(f"{_NO_ATTEMPT}{why}", error.problems[0].where)) from None
        path, resources, digest = written or ("", None, "")  # not that of an attempt that was dropped
        return replace(job.changes, script_path=path, resources=resources, script_digest=digest)

    def _exclude_in_queue(self, name: str, nodes: tuple[str, ...]) -> None:
        """Keep what has not begun away from nodes at fault, as it would be next to fail there.

        That are the later links of the job's chain, and other jobs.
        """
        if not nodes:
            return
        in_queue = dict(self.session.jobs[name].later_links)
        for other in list(self.session.jobs.values()):
            if other.name == name or other.state not in (*UNSUBMITTED, PENDING):
                continue
            excluded = tuple(dict.fromkeys((*other.changes.excluded, *nodes)))
            changes = replace(other.changes, excluded=excluded, script_path="")
            self.session.put(replace(other, changes=changes))
            if other.state == PENDING:
                in_queue |= {other.newest.scheduler_id: other.newest.token, **other.later_links}
        if in_queue:
            try:
                refused = self.scheduler.exclude(in_queue, nodes)
            except SchedulerError as error:
                self.report_once(f"jobs in the queue may still get {', '.join(nodes)}: {error.problems[0].what}")
            else:
                for job, why in refused.items():
                    self.report_once(f"job {job} in the queue may still get {', '.join(nodes)}: {why}")

    # ---- no new attempt

    def _nothing_left(self, job: JobState, event: Event | None, now: float) -> str | None:
        """Why the job needs no new attempt, '' if it does; None: not known yet."""
        if job.run.complete:
            return "its log says that it is complete"
        gate = self._gates.get(job.name)
        if gate is None:
            gate = self._gates[job.name] = StartGate(self._specs[job.name], checks=self.checks)
        found = self._checked(gate, job, event, now)
        if found is not None:  # it is checked anew for the next attempt
            gate.forget()
            self.checks.forget(completion_asker(job))
        return found

    def _checked(self, gate: StartGate, job: JobState, event: Event | None, now: float) -> str | None:
        """What commands and conditions say, as `_nothing_left`."""
        done = gate.done(self.session.jobs, now)
        if done is None or done:
            return done
        words = self.detectors[job.name].rules.termination_command
        if not words:
            return ""
        spec = self._specs[job.name]
        values = template_values.values(spec, job, event, self.manifest.plan_id)
        command = tuple(fill(word, values.__getitem__) for word in words)
        answer = self.checks.answer(completion_asker(job), command, spec.work_dir, _ASK_AGAIN_SECONDS, now)
        if answer is None:
            return None
        return "termination_command says that it is complete" if answer else ""

    def _completed(self, job: JobState, reason: str, now: float) -> Outcome:
        complete = replace(job, reason=reason, run=replace(job.run, complete=True))
        if job.state in FINAL:
            succeeded = replace(complete.happened(now, SUCCESS, reason), state=SUCCESS)
            done, events = self.detectors[job.name].state(job, succeeded, now)
            self.event_log.add(events)
            self.session.put(done)
        else:
            self.session.put(replace(complete, cancelled_by=reason))
        return Outcome("skipped", f"{_NO_ATTEMPT}{reason}")

    def _refused(
        self, job: JobState, refusal: restarts.Refusal, now: float, cause: str, metadata: Mapping[str, Any]
    ) -> Outcome:
        """Note that a job gets no new attempt, once for an attempt and a rule: that may match a line of each rank."""
        if refusal.kind is not restarts.Kind.NO_NEED and self.chain_is_complete(job):
            return Outcome("skipped", f"{refusal.why}; a later link has completed the chain")
        given_up = refusal.kind is restarts.Kind.GIVEN_UP
        known = job.reason == refusal.why
        if job.state in FINAL and refusal.kind is not restarts.Kind.NO_NEED and not known:
            run = replace(job.run, chain_end=refusal.why)
            self.session.put(replace(job.happened(now, "given up", refusal.why), reason=refusal.why, run=run))
        elif given_up and job.state in IN_QUEUE:  # it would hold its nodes for nothing
            run = self.detectors[job.name].cause(job, cause, metadata)
            if not run.verdict:
                run = replace(run, verdict=CRASH, error_type=run.error_type or cause)
            cancel(self.session, job.name, refusal.why, now, self.report, run)
        if given_up and not known:
            self.report(f"{job.name}: {refusal.why}")
        return Outcome("skipped", refusal.why)

    # ---- its beginning

    def begin(self, now: float) -> None:
        """Let the new attempts of jobs that have ended wait to be submitted; drop those that nobody needs any more."""
        for job in list(self.session.jobs.values()):
            if job.logs.late_until is None:
                job = self._with_next_link(job, now)
            if job.restart is None or job.state not in FINAL or job.logs.late_until is not None:
                continue
            if job.newest.vanished and job.newest.gone_looks < GONE_LOOKS:  # it may still run: never two at once
                continue
            if job.state == SUCCESS and not job.restart.by_hand:
                words = f"{_NO_ATTEMPT}it has succeeded meanwhile"
                self.session.put(replace(job.happened(now, "restart", words), restart=None))
            elif job.restart.by_hand or self.chain_is_complete(job):
                self.session.put(restarts.begun(job, now))
            elif job.answer.exit_code == DO_NOT_REQUEUE:
                words = f"{_NO_ATTEMPT}exit code {DO_NOT_REQUEUE} asks for none"
                self._stays_ended(replace(job.happened(now, "restart", words), restart=None, reason=words), now)
            elif why := restarts.hopeless(job, job.restart.max_same_failures):
                words = f"{_NO_ATTEMPT}{why}"
                self._stays_ended(replace(job.happened(now, "given up", words), restart=None, reason=words), now)
            else:
                self.session.put(restarts.begun(job, now))

    def _with_next_link(self, job: JobState, now: float) -> JobState:
        """A job that has ended, with the next link of its chain planned if there is one."""
        chain = self._specs[job.name].chain
        if chain is None:
            return job
        seen = restarts.next_link(job, chain, now, complete=self.chain_is_complete(job))
        if seen is not job:
            self.session.put(seen)
        if seen.restart is not None and job.restart is None:
            self.report(f"{job.name}: {seen.restart.reason}")
        elif seen.history is not job.history:
            self.report(f"{job.name}: {seen.reason}")
        return seen

    def chain_is_complete(self, job: JobState) -> bool:
        """True if a link after the newest one that was seen has completed the job's chain, while no monitor was alive.

        No failure of a link before it ends the chain then.
        """
        end = self._later_end(job)
        return end is not None and end.how == "complete"

    def _later_end(self, job: JobState) -> status_files.ChainEnd | None:
        """How a link, up to the last one, has ended the job's chain; None if none has, or if no link is left."""
        if not (links := job.later_links):
            return None
        last, token = [*links.items()][-1]
        return status_files.chain_end(Path(self._specs[job.name].output_dir, MARKS), token, last)

    def _stays_ended(self, job: JobState, now: float) -> None:
        """Make the event of a job's end, which there was none of while a new attempt was to come."""
        job = replace(job, run=replace(job.run, chain_end=job.reason))
        ran = replace(job, state=RUNNING)
        ended, events = self.detectors[job.name].state(ran, job, now)
        self.event_log.add(events)
        self.session.put(ended)
        self.report(f"{job.name}: {job.reason}")


def completion_asker(job: JobState) -> str:
    """By which name a job's `termination_command` is kept by the CheckRunner."""
    return f"{job.name} complete?"


def no_attempt(message: str) -> str:
    """Why a new attempt can't be made, on one line; of a traceback its last one."""
    words = (message.strip().splitlines() or ["unknown"])[-1]
    return words if words.startswith(_NO_ATTEMPT) else f"{_NO_ATTEMPT}{words}"
