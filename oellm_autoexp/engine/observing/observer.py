"""Asks the scheduler for all jobs of a session at once, and looks at each; facts go into the session, nothing is done.

What goes wrong with one job keeps no other from being watched.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from oellm_autoexp.core.errors import SchedulerError, unforeseen
from oellm_autoexp.core.nouns import JobStatus, Manifest
from oellm_autoexp.core.states import BLOCKED, FINAL, IN_QUEUE, SUBMITTING, SUCCESS, UNKNOWN, UNSUBMITTED
from oellm_autoexp.decisions import holding, lifecycle, restarts
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.engine.observing.cause_finder import CauseFinder
from oellm_autoexp.engine.observing.job_observer import JobObserver, Moment
from oellm_autoexp.engine.observing.job_reports import JobReports
from oellm_autoexp.engine.observing.log_reader import LogReader
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session, by_id


@dataclass(frozen=True)
class PollResult:
    """How a poll of the scheduler went; `error` is '' if it knows the state of every job."""

    error: str
    reached: bool
    """False if the scheduler did not answer."""


class Observer:
    """Looks at the jobs of one session; `report` gets lines for people."""

    def __init__(
        self,
        manifest: Manifest,
        session: Session,
        scheduler: Scheduler,
        detectors: Mapping[str, Detector],
        *,
        now: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        specs = {job.name: job for job in manifest.jobs}
        self._session = session
        self._scheduler = scheduler
        self._detectors = detectors
        self._report = report
        self._reports = JobReports(specs, now)
        causes = CauseFinder(specs, {name: detector.rules.causes for name, detector in detectors.items()})
        self._job = JobObserver(detectors, LogReader(specs, detectors), causes, self._reports, report)

    def observe(self, now: float, poll_interval_seconds: float) -> PollResult:
        """Ask the scheduler, read the logs and the status files, and put what is new into the session."""
        at = Moment(now, self._session.watched.seconds, poll_interval_seconds, self._scheduler.log_lag_seconds)
        jobs = self._session.jobs
        queued = queued_ids(jobs.values())
        watched = [job for job in jobs.values() if may_be_queued(job)]
        late = [job for job in jobs.values() if job.logs.late_until is not None and not job.may_still_run]
        also = self._may_run_again(queued)
        error, answers = self._asked({**also, **queued})
        for job in sorted(watched, key=lambda job: bool(job.newest.after)):  # those that are followed come first
            own = queued[job.newest.scheduler_id] == job.newest.token  # else the id is a newer job's
            status = answers.get(job.newest.scheduler_id) if answers is not None and own else None
            if status is not None and answers is not None:
                status = self._reports.of_link(job, status, answers)
            status = holding.answered(job, status, self._session.hold)
            self._look_at(job, status, at, answered=answers is not None)
        for job in late:
            self._guarded(job, lambda job: self._job.ended_lately(job, at), at)
        if answers is None:
            return PollResult(error, reached=False)
        unknown = self._unknown(answers)
        if watched or also:
            self._find_requeued(at)
            self._find_earlier(now)
        return PollResult(unknown, reached=True)

    def _asked(self, jobs: Mapping[str, str]) -> tuple[str, Mapping[str, JobStatus] | None]:
        """The scheduler's error and its answers; None: it did not answer, and nothing is known of any job."""
        try:
            return "", self._scheduler.poll(jobs)
        except SchedulerError as error:
            return error.problems[0].what, None

    def _may_run_again(self, queued: Mapping[str, str]) -> dict[str, str]:
        """Ids and tokens of jobs that have ended and get, or may get, a new attempt: people can requeue them.

        If nothing is left but blocked jobs, these are all that failed: a requeue of one may unblock the others.
        """
        jobs = self._session.jobs.values()
        earlier = {job.past.earlier[-1].scheduler_id: job.past.earlier[-1].token for job in jobs if _is_between(job)}
        blocking = not queued and any(job.state == BLOCKED for job in jobs)  # else the poll for the others lists them
        replaced = [
            job
            for job in jobs
            if (self._may_be_restarted(job) or (blocking and job.surely_ended and job.state != SUCCESS))
            and job.newest.scheduler_id not in queued
        ]
        return {**earlier, **{job.newest.scheduler_id: job.newest.token for job in replaced}}

    def _may_be_restarted(self, job: JobState) -> bool:
        """True if a job has ended and a new attempt of it is to come, or may come by an action that waits."""
        rules = self._detectors[job.name].rules
        return job.surely_ended and (job.restart is not None or restarts.may_come(job, rules))

    def _unknown(self, answers: Mapping[str, JobStatus]) -> str:
        """A job whose state the scheduler does not know now, and why; it is watched on, for however long. '' if none.

        The first one stands for all.
        """
        for job in self._session.jobs.values():
            status = answers.get(job.newest.scheduler_id) if job.state in IN_QUEUE else None
            if status is not None and status.scheduler_state == UNKNOWN and status.reason:
                return f"{job.name}: {status.reason}"
        return ""

    # ---- each job

    def _look_at(self, job: JobState, status: JobStatus | None, at: Moment, *, answered: bool) -> None:
        """Look at a job that is in the scheduler's queue, or may be."""

        def look(job: JobState) -> JobState:
            if job.may_still_run:
                return self._job.vanished(job, status, at, answered=answered)
            return self._job.in_queue(job, status, at, self._session.jobs, answered=answered)

        def without_files(job: JobState) -> JobState:
            return self._job.by_status_alone(job, status, at) if answered else job

        self._guarded(job, look, at, without_files)

    def _guarded(
        self,
        job: JobState,
        look: Callable[[JobState], JobState],
        at: Moment,
        fallback: Callable[[JobState], JobState] = lambda job: job,
    ) -> None:
        """Look at one job; an exception is reported once, and `fallback` concludes what it can."""
        try:
            seen = look(job)
            if seen.problem:
                seen = replace(seen.happened(at.now, "watched", "nothing hinders it any more"), problem="")
        except Exception as error:  # one job must not keep the others from being watched
            seen = self._hindered(job, at.now, error)
            if seen.logs.late_until is not None and at.clock >= seen.logs.late_until:  # its late lines can't be read
                seen = replace(seen, logs=replace(seen.logs, late_until=None))
            with suppress(Exception):
                seen = fallback(seen)
        seen = self._with_warnings(job, seen, at.now)
        if seen is not job:
            self._session.put(seen)

    def _hindered(self, job: JobState, now: float, error: Exception) -> JobState:
        """A job that an exception keeps from being watched in full: reported when it is another one than before.

        The words of one exception may differ from poll to poll; its kind and its place do not.
        """
        kind, place, message = unforeseen(error)
        if job.problem.startswith(f"{kind} in {place}"):
            return job
        problem = f"{kind} in {place}: {message}"
        self._report(f"{job.name}: can't be watched in full, retried at each poll: {problem}")
        return replace(job.happened(now, "not watched in full", traceback.format_exc(limit=-3)), problem=problem)

    def _with_warnings(self, before: JobState, job: JobState, now: float) -> JobState:
        """Report rules whose patterns are too slow, and status files that are ignored; the latter once in all."""
        if job.run is not before.run:
            for name in job.run.slow.keys() - before.run.slow.keys() - set(job.run.switched_off):
                text = f"the pattern of the rule '{name}' took too long: a part of the log was not searched for it"
                self._report(f"{job.name}: {text}")
            for name in job.run.switched_off:
                if name not in before.run.switched_off:
                    self._report(f"{job.name}: the rule '{name}' is switched off: its pattern takes too long")
        for text in self._reports.warnings.pop(job.name, ()):
            if not any(entry.message == text for entry in job.history):
                job = job.happened(now, "warning", text)
                self._report(f"{job.name}: {text}")
        return job

    # ---- jobs that were requeued

    def _find_requeued(self, at: Moment) -> None:
        """Find jobs that have ended and that the scheduler lists as alive: `scontrol requeue` begins them again."""
        newest = {job.newest.scheduler_id: job for job in sorted(self._session.jobs.values(), key=_submitted)}
        ended = [
            job
            for job in newest.values()
            if job.state in FINAL and job.answer.scheduler_state and not job.may_still_run
        ]
        between = [restarts.as_before(job) for job in self._session.jobs.values() if _is_unsubmitted(job)]
        known = {job.newest.scheduler_id: job for job in (*ended, *between)}
        listed = self._scheduler.listed({job.newest.scheduler_id: job.newest.token for job in known.values()})
        for scheduler_id, status in listed.items():
            job = known[scheduler_id]
            seen = lifecycle.runs_again(job, status, at.now)
            if seen is not job:
                if job.restart is not None:
                    self._report(f"{job.name}: {lifecycle.no_new_attempt(job)}")
                self._session.put(self._job.state_changed(job, seen, at.now))

    def _find_earlier(self, now: float) -> None:
        """Find attempts that were begun again although a newer one is in their place."""
        for job in list(self._session.jobs.values()):
            if job.past.earlier:
                listed = self._scheduler.listed({attempt.scheduler_id: attempt.token for attempt in job.past.earlier})
                seen = lifecycle.see_earlier(job, listed, now)
                if seen is not job:
                    self._session.put(seen)
                    if len(seen.past.begun_again) > len(job.past.begun_again):
                        self._report(f"{job.name}: {seen.history[-1].message}")


def may_be_queued(job: JobState) -> bool:
    """True if the newest attempt of a job is in the scheduler's queue, or may be."""
    return job.state in IN_QUEUE or job.may_still_run


def queued_ids(jobs: Iterable[JobState]) -> dict[str, str]:
    """The scheduler's ids of the jobs that are in its queue, or may be, and of their later links; with their tokens."""
    queued = [job for job in jobs if may_be_queued(job)]
    links = {link: token for job in queued for link, token in job.later_links.items()}
    return links | {job: tracked.newest.token for job, tracked in by_id(queued).items()}


def _is_between(job: JobState) -> bool:
    """True if a job has a new attempt to come: the one before may be begun again meanwhile."""
    return job.state in (*UNSUBMITTED, SUBMITTING) and bool(job.past.earlier)


def _is_unsubmitted(job: JobState) -> bool:
    """True if a job has had an attempt, and its next one was not submitted, nor is perhaps."""
    return job.past.before is not None and job.state in (*UNSUBMITTED, *FINAL)


def _submitted(job: JobState) -> float:
    return job.newest.submitted_at or 0.0
