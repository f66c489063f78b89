"""Submits the jobs of a session, each exactly once, even after a crash at any moment.

The intent (a token of its own) is on disk before the scheduler is called, and the token travels with the job. After a
crash or an unclear answer the token is looked up before anything is submitted again (submission.unclear): in the queue,
in the accounts, and in what jobs write when they start.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from oellm_autoexp.core.errors import (
    InvalidSubmissionError,
    LockedError,
    Problem,
    SchedulerError,
    SubmitError,
    TooManyJobsError,
    UnreachableError,
)
from oellm_autoexp.core.nouns import JobSpec, Manifest, Submission
from oellm_autoexp.core.states import IN_QUEUE, UNSUBMITTED, WAITING
from oellm_autoexp.decisions import submissions
from oellm_autoexp.decisions.condition_context import CheckRunner
from oellm_autoexp.decisions.readiness import StartGate, may_be_overruled
from oellm_autoexp.decisions.writers import Writers
from oellm_autoexp.planning.batches import Batch, Ready, batches, followed, submission
from oellm_autoexp.rules.events import Deadline
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage import trust
from oellm_autoexp.submission.arrays import remove_array, write_array
from oellm_autoexp.submission.next_attempts import odd_script
from oellm_autoexp.submission.outcomes import Outcomes
from oellm_autoexp.submission.ready import ReadyJobs
from oellm_autoexp.submission.retries import RETRY_SECONDS
from oellm_autoexp.submission.room import Pace, Room
from oellm_autoexp.submission.unclear import UnclearSubmissions

_ENOUGH_REFUSALS = 3
_FOR_TURN = "waits for its turn (scheduler.submit_rate_limit_seconds)"
FOR_OTHERS = "waits until the scheduler accepts more jobs: it has just refused several"


@dataclass
class Submitter:
    """Submits what waits in a session.

    `pause` sleeps, where somebody waits for all to go; `beat` is called before each submission, as many take long.
    """

    manifest: Manifest
    session: Session
    scheduler: Scheduler
    pause: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time
    beat: Callable[[float], None] = lambda next_in_seconds: None
    in_queue: Callable[[JobState], JobState] = lambda job: job
    """What follows when a job has come into the queue, is blocked, or is refused for good: the job with it, before it
    is saved."""
    left_out: Callable[[JobSpec], Mapping[str, str]] = lambda spec: {}
    """The nodes that a job is kept from, each with why (nodes.reputation)."""
    report: Callable[[str], None] = lambda text: None
    """Gets lines for people."""

    def __post_init__(self) -> None:
        manifest, session, scheduler, now = self.manifest, self.session, self.scheduler, self.now
        self._native = manifest.scheduler["native_dependencies"] and scheduler.native_dependencies
        self._checks = CheckRunner()
        overruled = {job.name for job in manifest.jobs if may_be_overruled(job, manifest.monitoring)}
        writers = Writers(manifest.jobs)
        gates = {
            job.name: StartGate(job, native=self._native, overruled=overruled, checks=self._checks, writers=writers)
            for job in manifest.jobs
        }
        self._outcomes = Outcomes(session, gates, now=now, in_queue=lambda job: self.in_queue(job))
        self._unclear = UnclearSubmissions(manifest, session, scheduler, self._outcomes, now=now)
        self._ready = ReadyJobs(manifest, session, scheduler, gates, self._outcomes, now=now)
        self._room = Room(session, manifest.scheduler["max_jobs"], now)
        self._pace = Pace(manifest.scheduler["submit_rate_limit_seconds"], now)
        self._hold_until = 0.0

    @property
    def unsettled(self) -> int:
        """Number of jobs of which it is unknown whether they were submitted."""
        return self._unclear.count

    @property
    def full(self) -> str:
        """The scheduler's words by which it takes no more jobs now; '' if it has not said so."""
        return self._room.full

    @property
    def checking(self) -> bool:
        """True if the command of a waiting job runs."""
        return self._checks.in_progress

    @property
    def due_in(self) -> float:
        """Seconds until the next submission is due, for jobs that wait for their turn; infinity if none does."""
        return self._pace.due_in

    @property
    def has_pending_checks(self) -> bool:
        """True if the first result of such a command is missing."""
        return self._checks.has_pending({job.name for job in self.session.jobs.values() if job.state in UNSUBMITTED})

    def close(self) -> None:
        """End the running commands."""
        self._checks.close()

    def retry_now(self) -> None:
        """Let refused jobs be tried at once, as a person asks for it."""
        self._room.forget()
        for job in list(self.session.jobs.values()):
            if job.state == WAITING and job.waiting.retry_at:
                self.session.put(submissions.tried_at_once(job))

    def settle(self) -> None:
        """Find out what became of submissions that were under way when their submitter died or got no clear answer.

        Raises SchedulerError if the scheduler does not know now; then nothing may be submitted.
        """
        self._unclear.settle()

    def settle_all(self) -> None:
        """Settle until nothing is unclear. Raises SchedulerError, as `settle`."""
        self.settle()
        while self.unsettled:
            pause = min(5.0, max(0.5, self.scheduler.settle_seconds / 3))
            self.pause(pause)
            self.beat(pause)
            self.settle()

    def submit_ready(
        self, progress: Callable[[int, int], None] = lambda done, total: None, *, patient: bool = False
    ) -> int:
        """Submit every job that may go now; returns how many went. Refused ones wait, with the reason, and are retried.

        With `submit_rate_limit_seconds` only the jobs that are due are submitted; `patient` waits and submits the rest.
        Raises SchedulerError when the scheduler can't be reached, or does not know what became of a submission.
        """
        self.settle()
        self._take_links()
        self._pace.awaited = False
        begin, done = self.now(), 0
        if begin < self._hold_until:
            self._ready.review()
        while self.now() >= self._hold_until:
            with trust.each_folder_once():
                found = [(job, self._outcomes.job(job.spec).waiting) for job in self._ready.let_through()]
            found.sort(key=lambda each: each[1].refusals > 0)  # first those that were never tried
            ready = [job for job, waiting in found if waiting.retry_at <= begin]
            tried, later = self._ready.for_room(ready, self._room.left)
            for job in later:
                self._outcomes.waits(job.spec.name, self._room.reason)
            went = self._submit_all(tried, partial(_told_beyond, progress, done, len(tried)), patient=patient)
            done += went
            may_follow = went and self._native  # those that depend on what went now
            takes_more = later and (went < len(tried) or (went and self._room.left != 0))
            if self._pace.awaited or not (may_follow or takes_more):
                break
        return done

    def _take_links(self) -> None:
        """Let jobs go on with the next link of their chain, which is in the queue: nothing is submitted."""
        specs = {job.name: job for job in self.manifest.jobs}
        for job in list(self.session.jobs.values()):
            if job.state == WAITING and not job.cancelled_by and (links := job.later_links):
                (link, token), spec = next(iter(links.items())), specs[job.name]
                array, _, task = link.partition("_")
                self.session.put(submissions.on_its_way(job, token, int(task), (), job.newest.left_out))
                self._outcomes.accepted(token, Batch({int(task): spec}), array)

    def _submit_all(self, ready: list[Ready], progress: Callable[[int], None], *, patient: bool) -> int:
        try:
            done = self._submit_one_by_one(ready, progress, patient=patient)
        except LockedError:  # the session is another process's now
            raise
        except BaseException:
            with contextlib.suppress(OSError):  # it is saved with the next change
                self.session.journal()
            raise
        self.session.journal()
        return done

    def _submit_one_by_one(self, ready: list[Ready], progress: Callable[[int], None], *, patient: bool) -> int:
        done = refused_in_a_row = 0
        made = deque(batches(ready, self.scheduler.max_array_size() if ready else 1))
        while made:
            if not self._await_turn(patient=patient):
                self._pace.awaited = True
                for place, later in enumerate(made):
                    turn = self._pace.turn(place)
                    for spec in later.jobs.values():
                        self._outcomes.waits(spec.name, _FOR_TURN, turn)
                break
            batch = made.popleft()
            if batch.dependency and not self._ready.still_alive(ready):
                break  # they wait for the next poll, which shows how their siblings ended
            try:
                taken = self._submit(batch)
            except TooManyJobsError as error:
                if batch.is_chain and (too_long := self._too_long(batch, error)):
                    self._outcomes.refused(batch, too_long)
                    continue
                self._outcomes.not_submitted(batch)
                if len(batch.jobs) == 1:
                    self._is_full(error, [batch, *made])
                    break
                made.extendleft(reversed(batch.halves()))
                continue
            except InvalidSubmissionError as error:  # this says nothing of the others
                self._outcomes.refused(batch, error)
                continue
            except SubmitError as error:
                self._outcomes.refused(batch, error)
                taken = 0
            done += taken
            progress(done)
            refused_in_a_row = 0 if taken else refused_in_a_row + 1
            if refused_in_a_row == _ENOUGH_REFUSALS:  # a limit is reached: asking for the others would only annoy
                self._hold_until = self.now() + RETRY_SECONDS
                for spec in (spec for later in made for spec in later.jobs.values()):
                    if not self._outcomes.job(spec).waiting.refusals:
                        self._outcomes.waits(spec.name, FOR_OTHERS, Deadline(at=self._hold_until, then="tried"))
                break
        return done

    def _too_long(self, batch: Batch, error: TooManyJobsError) -> InvalidSubmissionError | None:
        """Why a chain that was refused will never be accepted; None if it may be once there is room.

        Its links can't be numbered as high as MaxArraySize, and it can't be split as an array of jobs can.
        """
        last, most = submission(self.manifest, "", batch).array[-1], self.scheduler.max_array_size() - 1
        if last <= most:
            return None
        words = f"job.chain.links is more than the {most} that this site allows (MaxArraySize)"
        return InvalidSubmissionError(Problem(f"{words}: {error.problems[0].what}", "", "make a new plan with fewer"))

    def _is_full(self, error: TooManyJobsError, left: Iterable[Batch]) -> None:
        """Let jobs wait until some of those in the queue have ended; now and then one is tried all the same."""
        self._room.is_full(error)
        for spec in (spec for batch in left for spec in batch.jobs.values()):
            self._outcomes.waits(spec.name, self._room.reason)

    def _await_turn(self, *, patient: bool) -> bool:
        """True if the pace allows a submission now; waits until it does if `patient`."""
        left = self._pace.left
        if left and patient:
            self.beat(left)
            self.pause(left)
        return patient or not left

    def _submit(self, batch: Batch) -> int:
        """Submit one batch; returns how many jobs went to the scheduler (0 if that is not clear yet).

        The outcome is saved with the next intent, or by the caller: whoever dies before leaves an intent to be settled.
        Raises SubmitError if it was refused, SchedulerError if the scheduler does not answer.
        """
        token = secrets.token_hex(4)
        left_out = self.left_out(next(iter(batch.jobs.values())))  # the jobs of an array have the same directives
        made = replace(submission(self.manifest, token, batch), exclude=tuple(left_out))
        self._check_scripts(batch)
        if batch.is_array:
            made = write_array(self.manifest, made, batch)
        self.beat(self._pace.seconds)
        for task, spec in batch.jobs.items():
            after = followed(batch.dependency, task)
            self.session.put(submissions.on_its_way(self._outcomes.job(spec), token, task, after, left_out))
        try:
            self.session.journal()
            self._pace.begun()
            scheduler_id = self._handed_over(made, batch)
        except (OSError, UnreachableError):
            self._outcomes.not_submitted(batch)
            raise
        except TooManyJobsError:
            if batch.is_array:  # others take its place
                remove_array(self.manifest, token)
            raise
        except SubmitError:
            raise
        except SchedulerError as error:
            return self._look_for(batch, error)
        self._outcomes.accepted(token, batch, scheduler_id)
        self._room.taken()
        if self._native:
            self._ready.seen_alive(self._outcomes.job(spec).newest.scheduler_id for spec in batch.jobs.values())
        return len(batch.jobs)

    def _handed_over(self, made: Submission, batch: Batch) -> str:
        """Submit a batch, in the last resort without leaving nodes out: that must not make a job impossible.

        Returns the id, and raises, as Scheduler.submit.
        """
        try:
            return self.scheduler.submit(made)
        except InvalidSubmissionError as error:
            if not made.exclude:
                raise
            words = f"{', '.join(made.exclude)} can't be left out: {error.problems[0].what}"
        for spec in batch.jobs.values():
            job = self._outcomes.job(spec)
            self.session.put(replace(job, newest=replace(job.newest, left_out={})))
        scheduler_id = self.scheduler.submit(replace(made, exclude=()))
        self.report(words)  # only now it is known that this was the reason
        for spec in batch.jobs.values():
            self.session.put(self._outcomes.job(spec).happened(self.now(), "nodes", words))
        return scheduler_id

    def _look_for(self, batch: Batch, error: SchedulerError) -> int:
        """Ask at once for a batch whose submission got no clear answer; how many of its jobs are there.

        Raises `error` if the scheduler does not answer for them: then it would not for the others, either.
        """
        self._unclear.no_answer(batch, error)
        try:
            self.settle()
        except SchedulerError:
            raise error from None
        return sum(self._outcomes.job(spec).state in IN_QUEUE for spec in batch.jobs.values())

    def _check_scripts(self, batch: Batch) -> None:
        """Raises SubmitError if a script was changed while its job waited for its turn."""
        for spec in batch.jobs.values():
            if odd := odd_script(self.manifest, spec.script_path, spec.script_digest):
                raise SubmitError(Problem(odd, spec.name))


def _told_beyond(progress: Callable[[int, int], None], before: int, more: int, done: int) -> None:
    """Report the progress of a later round in numbers of all rounds."""
    progress(before + done, before + more)
