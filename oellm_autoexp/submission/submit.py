"""Hands the jobs of a session to the scheduler, each exactly once, whatever dies in between.

The intent (a token of its own) is on disk before the scheduler is called, and the token travels with the job. After a
crash or an unclear answer the token is looked up before anything is submitted again: in the queue, in the accounts, and
in what jobs write when they start. A controller that hung may learn of the job only later, so that the job counts as
absent only after the scheduler has not known the token for `settle_seconds`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import secrets
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from oellm_autoexp.core.errors import (
    AutoexpError,
    BackendError,
    ConfigError,
    InvalidSubmissionError,
    LockedError,
    Problem,
    SchedulerError,
    StateError,
    SubmitError,
    TooManyJobsError,
    UnreachableError,
)
from oellm_autoexp.core.nouns import JobSpec, Manifest, Submission
from oellm_autoexp.core.states import CANCELLED, ENDED, IN_QUEUE, SUBMITTING, SUCCESS, UNKNOWN, WAITING
from oellm_autoexp.core.text import digest
from oellm_autoexp.decisions import restarts, submissions
from oellm_autoexp.decisions.condition_context import CheckRunner
from oellm_autoexp.decisions.readiness import StartGate, may_be_overruled
from oellm_autoexp.planning.batches import Batch, Ready, array_folder, batches, followed, log_name, submission
from oellm_autoexp.rules.events import Deadline
from oellm_autoexp.sbatch.log_paths import resolve_log_path
from oellm_autoexp.sbatch.script import MARKS, array_script
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session import status_files
from oellm_autoexp.session.job_state import JobState, by_id
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import link_atomic, write_atomic
from oellm_autoexp.submission.attempts import write_script
from oellm_autoexp.submission.outputs import in_terminal, terminal_holder

_RETRY_SECONDS = 30.0
_GONE = (FileNotFoundError, NotADirectoryError, PermissionError)
_LONGEST_RETRY_SECONDS = 900.0
_ENOUGH_REFUSALS = 3
_MOST_DOUBLINGS = 10
_FRESH_SECONDS = 10.0
_SAME_SECONDS = 60.0
"""Deadlines that differ by less are the same: each change of one is a record of the session."""
_UNCLEAR = "unclear"
"""The event in a job's history of a submission that got no clear answer."""
_LOST = "its submission got no clear answer, and it is not there"
_FOR_ROOM = "waits for room in the queue (scheduler.max_jobs)"
_FOR_TURN = "waits for its turn (scheduler.submit_rate_limit_seconds)"
FOR_OTHERS = "goes when the scheduler takes more: it has refused several jobs just now"
_log = logging.getLogger(__name__)


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
    """What follows when a job has come into the queue, or is refused for good: the job with it, before it is saved."""

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}
        self._native = self.manifest.scheduler["native_dependencies"] and self.scheduler.native_dependencies
        self._questions = CheckRunner()
        jobs = self.manifest.jobs
        overruled = {job.name for job in jobs if may_be_overruled(job, self.manifest.monitoring)}
        self._gates = {
            job.name: StartGate(job, native=self._native, overruled=overruled, questions=self._questions)
            for job in jobs
        }
        self._hold_until = 0.0
        self._most: int | None = None
        self._full_words = self._full_error = ""
        self._tries_beyond = 0
        self._try_beyond_at = 0.0
        self._rate_limit: float = self.manifest.scheduler["submit_rate_limit_seconds"]
        self._next_at = 0.0
        self._turns = False
        self._seen_alive: dict[str, float] = {}
        self._seen_earlier: dict[str, float] = {}

    @property
    def unsettled(self) -> int:
        """How many jobs were perhaps submitted: nobody knows yet."""
        return sum(job.state == SUBMITTING for job in self.session.jobs.values())

    @property
    def full(self) -> str:
        """The scheduler's words by which it takes no more jobs now; '' if it has not said so."""
        return self._full_error if self._most is not None else ""

    @property
    def asking(self) -> bool:
        """Whether the command of a job that waits is at work."""
        return self._questions.under_way

    @property
    def due_in(self) -> float:
        """Seconds until the next submission is due, for jobs that wait for their turn; infinity if none does."""
        return self._turn_in() if self._turns else math.inf

    @property
    def awaited(self) -> bool:
        """Whether the first answer of such a command is still to come."""
        return self._questions.awaited({job.name for job in self.session.jobs.values() if job.state == WAITING})

    def close(self) -> None:
        """End the commands that are at work."""
        self._questions.close()

    def retry_now(self) -> None:
        """Let jobs that were refused be tried at once: a person asks for it."""
        self._most = None
        for job in list(self.session.jobs.values()):
            if job.state == WAITING and job.waiting.retry_at:
                self.session.put(submissions.tried_at_once(job))

    # ---- submissions whose fate is unknown

    def settle(self) -> None:
        """Find out what became of submissions that were under way when their submitter died or got no clear answer.

        Raises SchedulerError if the scheduler can't tell now; then nothing may be submitted.
        """
        unclear = self._unclear()
        if not unclear:
            return
        try:
            found = self.scheduler.find([submission(self.manifest, token, batch) for token, batch in unclear.items()])
        except AutoexpError:
            self._still_unclear(unclear.values(), absent_since=None, reason="the scheduler can't tell of it now")
            self.session.save()
            raise
        now = self.now()
        for token, batch in unclear.items():
            scheduler_id = found.get(token) or self._id_by_marks(token, batch)
            if scheduler_id is not None:
                self._accepted(token, batch, scheduler_id)
                continue
            since = self._tracked(next(iter(batch.jobs.values()))).newest.absent_since
            since = now if since is None else min(since, now)  # min: clocks are set back
            until = since + self.scheduler.settle_seconds
            if until <= now:
                self._refused(batch, SubmitError(Problem(self._lost(batch))))
            else:
                reason = "nobody knows yet whether it was submitted: it is looked for"
                self._still_unclear([batch], absent_since=since, reason=reason, until=until)
        self.session.save()

    def settle_all(self) -> None:
        """Settle until nothing is unclear. Raises SchedulerError, as `settle`."""
        self.settle()
        while self.unsettled:
            pause = min(5.0, max(0.5, self.scheduler.settle_seconds / 3))
            self.pause(pause)
            self.beat(pause)
            self.settle()

    def _lost(self, batch: Batch) -> str:
        """Why a batch that is surely not there has to be submitted again, with the error of its submission if known."""
        history = self._tracked(next(iter(batch.jobs.values()))).history
        error = history[-1].message if history and history[-1].event == _UNCLEAR else ""
        return f"{_LOST} ({error})" if error else _LOST

    def _unclear(self) -> dict[str, Batch]:
        """The submissions whose fate is unknown, by token."""
        jobs: dict[str, dict[int | None, JobSpec]] = defaultdict(dict)
        for job in self.session.jobs.values():
            if job.state == SUBMITTING:
                jobs[job.newest.token][job.newest.task] = self._specs[job.name]
        return {token: Batch(by_task) for token, by_task in jobs.items()}

    def _still_unclear(
        self, unclear: Iterable[Batch], *, absent_since: float | None, reason: str, until: float | None = None
    ) -> None:
        for batch in unclear:
            for spec in batch.jobs.values():
                self.session.put(submissions.unclear(self._tracked(spec), reason, absent_since, until))

    def _id_by_marks(self, token: str, batch: Batch) -> str | None:
        """The id under which some job of a batch has run: its script leaves the name that it ran by, token included."""
        for spec in batch.jobs.values():
            for scheduler_id, name in status_files.started(Path(spec.output_dir, MARKS)).items():
                if name.endswith(f".{token}"):
                    return scheduler_id.partition("_")[0]
        return None

    # ---- what may go now

    def submit_ready(
        self, progress: Callable[[int, int], None] = lambda done, total: None, *, patient: bool = False
    ) -> int:
        """Submit every job that may go now; returns how many went. Refused ones wait, with the reason, and are retried.

        With `submit_rate_limit_seconds` only the jobs that are due are submitted; `patient` waits and submits the rest.
        Raises SchedulerError when the scheduler can't be reached, or can't tell what became of a submission.
        """
        self.settle()
        self._turns = False
        begin, done = self.now(), 0
        while self.now() >= self._hold_until:
            with trust.each_folder_once():
                ready = [job for job in self._let_through() if self._tracked(job.spec).waiting.retry_at <= begin]
            ready.sort(
                key=lambda job: self._tracked(job.spec).waiting.refusals > 0
            )  # first those that were never tried
            tried, later = self._for_the_room(ready)
            for job in later:
                self._waits(job.spec.name, _FOR_ROOM if self._most is None else self._full_words)
            went = self._submit_all(tried, partial(_told_beyond, progress, done, len(tried)), patient=patient)
            done += went
            may_follow = went and self._native  # those that depend on what went now
            takes_more = later and (went < len(tried) or (went and self._room() != 0))
            if self._turns or not (may_follow or takes_more):
                break
        return done

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
                self._turns = True
                for place, later in enumerate(made):
                    turn = Deadline(at=self._next_at + place * self._rate_limit, then="submitted")
                    for spec in later.jobs.values():
                        self._waits(spec.name, _FOR_TURN, turn)
                break
            batch = made.popleft()
            if batch.dependency and not self._still_alive(ready):
                break  # they wait for the next look, which tells how their siblings ended
            try:
                taken = self._submit(batch)
            except TooManyJobsError as error:
                self._back_to_waiting(batch.jobs.values())
                if len(batch.jobs) == 1:
                    self._is_full(error, [batch, *made])
                    break
                made.extendleft(reversed(batch.halves()))
                continue
            except InvalidSubmissionError as error:  # this says nothing of the others
                self._refused(batch, error)
                continue
            except SubmitError as error:
                self._refused(batch, error)
                taken = 0
            done += taken
            progress(done)
            refused_in_a_row = 0 if taken else refused_in_a_row + 1
            if refused_in_a_row == _ENOUGH_REFUSALS:  # a limit is reached: asking for the others would only annoy
                self._hold_until = self.now() + _RETRY_SECONDS
                for spec in (spec for later in made for spec in later.jobs.values()):
                    if not self._tracked(spec).waiting.refusals:
                        self._waits(spec.name, FOR_OTHERS, Deadline(at=self._hold_until, then="tried"))
                break
        return done

    def _is_full(self, error: TooManyJobsError, left: Iterable[Batch]) -> None:
        """Let jobs wait until some of those in the queue have ended; now and then one is tried all the same."""
        self._most = self._in_queue()
        growing = min(_RETRY_SECONDS * 2 ** min(self._tries_beyond, _MOST_DOUBLINGS), _LONGEST_RETRY_SECONDS)
        spread = random.uniform(0.8, 1.2)  # noqa: S311  no secret
        self._try_beyond_at = self.now() + growing * spread
        self._tries_beyond += 1
        self._full_error = error.problems[0].what
        hint = "scheduler.max_jobs says how many may be in the queue at once"
        self._full_words = f"waits until the scheduler takes more jobs; {hint} ({error.problems[0].what})"
        for spec in (spec for batch in left for spec in batch.jobs.values()):
            self._waits(spec.name, self._full_words)

    def _turn_in(self) -> float:
        """Seconds until `submit_rate_limit_seconds` lets the next submission go."""
        left = self._next_at - self.now()
        return left if 0 < left <= self._rate_limit else 0.0  # above: the clock was set back

    def _await_turn(self, *, patient: bool) -> bool:
        """Whether a submission may go now, as far as their pace goes; waits for that if `patient`."""
        left = self._turn_in()
        if left and patient:
            self.beat(left)
            self.pause(left)
        return patient or not left

    def _let_through(self) -> list[Ready]:
        """The waiting jobs that may start. Those that never will are ended, and the others say why they wait."""
        through: dict[str, tuple[str, ...]] = {}
        now = self.now()
        for name, job in list(self.session.jobs.items()):
            if job.state != WAITING:
                continue
            if job.cancelled_by:  # while nobody knew whether it was submitted
                self._end(job, SUCCESS if job.run.complete else CANCELLED, job.cancelled_by, now)
                continue
            waited = 0.0 if job.waiting.waiting_since is None else now - job.waiting.waiting_since
            verdict = self._gates[name].verdict(self.session.jobs, waited, now)
            match verdict.step:
                case "cancel" | "done":
                    self._end(job, CANCELLED if verdict.step == "cancel" else SUCCESS, verdict.reason, now)
                case "wait":
                    self._waits(name, verdict.reason, patience_seconds=verdict.patience_seconds)
                case "start":
                    through[name] = verdict.after
        self.session.save()
        return self._with_ids(through)

    def _end(self, job: JobState, state: str, reason: str, now: float) -> None:
        """End a job that waits."""
        self._gates[job.name].forget()
        self.session.put(job.ended(now, state, reason))

    def _waits(
        self, name: str, reason: str, deadline: Deadline | None = None, *, patience_seconds: float | None = None
    ) -> None:
        """Let a job that waits say for what, since when and until when; after `patience_seconds` it is cancelled."""
        job = self.session.jobs[name]
        since = self.now() if job.waiting.waiting_since is None else job.waiting.waiting_since
        if patience_seconds is not None:
            deadline = Deadline(at=since + patience_seconds, then="cancelled")
        if _about_the_same(job.waiting.deadline, deadline):
            deadline = job.waiting.deadline
        waiting = submissions.waits(job, reason, since, deadline)
        if waiting is not job:
            self.session.put(waiting)

    def _with_ids(self, through: Mapping[str, tuple[str, ...]]) -> list[Ready]:
        """The jobs with the ids of those that they are to follow.

        A job goes only behind ids that the scheduler lists as alive at this moment: one that it has forgotten would
        count as succeeded (SLURM 22.05, afterok).
        """
        parents = (self.session.jobs[parent] for names in through.values() for parent in names)
        alive = self._alive({job.newest.scheduler_id: job.newest.token for job in parents})
        after = {
            name: tuple(self.session.jobs[parent].newest.scheduler_id for parent in parents)
            for name, parents in through.items()
        }
        going = [name for name, ids in after.items() if alive.issuperset(ids) and not self._runs_elsewhere(name)]
        specs = {name: self._next_attempt(name) for name in going}
        return [Ready(spec, after[name]) for name, spec in specs.items() if spec is not None]

    def _runs_elsewhere(self, name: str) -> bool:
        """Whether a terminal runs a job, or the scheduler an earlier attempt of it; then it waits for that.

        The session is saved: a terminal looks there.
        """
        if begun_again := self.session.jobs[name].past.begun_again:
            self._waits(name, f"waits until job {begun_again[0].scheduler_id} is gone, an earlier attempt")
            return True
        holder = terminal_holder(self._specs[name].output_dir)
        if holder is not None:
            self._waits(name, in_terminal(holder))
        return holder is not None

    def _for_the_room(self, ready: list[Ready]) -> tuple[list[Ready], list[Ready]]:
        """The jobs that may go now, as many as the scheduler takes, and those that have to wait for room."""
        room, going = self._room(), list[Ready]()
        while ready and (room is None or len(going) < room):
            some = ready[: None if room is None else room - len(going)]
            ready = ready[len(some) :]
            going += self._alone(some)
        return going, ready

    def _alone(self, ready: list[Ready]) -> list[Ready]:
        """Those of the jobs of which the scheduler runs no earlier attempt; it is asked for them just before they go.

        Somebody may have had one begun again (`scontrol requeue`) that no look has asked for.
        """
        now = self.now()
        again = [job for one in ready if (job := self._tracked(one.spec)).past.earlier]
        attempts = [attempt for job in again for attempt in job.past.earlier]
        fresh = {token: at for token, at in self._seen_earlier.items() if abs(now - at) < _FRESH_SECONDS}
        if any(attempt.token not in fresh for attempt in attempts):
            told = self.scheduler.poll({attempt.scheduler_id: attempt.token for attempt in attempts})
            for job in again:
                self.session.put(restarts.see_earlier(job, told, now))
            fresh |= dict.fromkeys((attempt.token for attempt in attempts), now)
        self._seen_earlier = fresh
        return [one for one in self._without_strangers(ready) if not self._runs_elsewhere(one.spec.name)]

    def _without_strangers(self, ready: list[Ready]) -> list[Ready]:
        """Those of the jobs in whose output directories no job of another session runs.

        The file of a session protects these directories, but people delete it while its jobs still run.
        """
        new = [one for one in ready if not self._tracked(one.spec).newest.scheduler_id]
        marked = {one.spec.name: status_files.under_way(Path(one.spec.output_dir, MARKS)) for one in new}
        asked = {scheduler_id: token for found in marked.values() for scheduler_id, token in found.items()}
        told = self.scheduler.poll(asked) if asked else {}
        alive = {one for one, status in told.items() if status.scheduler_state not in (*ENDED, UNKNOWN)}
        kept = {name: sorted(alive & found.keys()) for name, found in marked.items()}
        for name, ids in kept.items():
            if ids:
                self._waits(name, f"waits until job {', '.join(ids)} is gone, which runs in its output directory")
        return [one for one in ready if not kept.get(one.spec.name)]

    def _next_attempt(self, name: str) -> JobSpec | None:
        """The job as it is to be submitted, with a script of its own if it needs one; None if it can't be now."""
        spec, job, now = self._specs[name], self.session.jobs[name], self.now()
        if job.waiting.retry_at > now:
            if job.waiting.files_missing_since is None or self._unusable_files(spec, job):
                return None
            job = submissions.tried_at_once(replace(job, waiting=replace(job.waiting, files_missing_since=None)))
            self.session.put(job)  # they are as they should be: it goes at once
        if not job.changes.script_path and (job.changes.excluded or job.changes.overrides):
            try:
                written = write_script(
                    self.manifest, spec, job.attempt + 1, job.changes.overrides, job.changes.excluded
                )
            except (ConfigError, BackendError) as error:
                self._refuse_for_good(job, f"its script can't be made: {error.problems[0].what}", now)
                return None
            except AutoexpError as error:
                self._await_files(job, f"its script can't be made: {error.problems[0].what}", now)
                return None
            if written is not None:
                path, asked, made = written
                changes = replace(job.changes, script_path=path, resources=asked, script_digest=made)
                job = replace(job, changes=changes)
                self.session.put(job)
        if unusable := self._unusable_files(spec, job):
            self._await_files(job, unusable, now)
            return None
        if not job.changes.script_path:
            return spec
        own: dict[str, object] = {"script_path": job.changes.script_path, "script_digest": job.changes.script_digest}
        own["resources"] = job.changes.resources or spec.resources
        if spec.array_group is not None:  # still a task of an array, whose directives are those of this script
            own["array_group"] = f"{spec.array_group} {name} {job.attempt}"
        return spec.model_copy(update=own)

    def _unusable_files(self, spec: JobSpec, job: JobState) -> str:
        """Why a job can't be submitted with its files as they are, in words; '' if it can. It waits for them, alone."""
        path, digest = (
            (job.changes.script_path, job.changes.script_digest)
            if job.changes.script_path
            else (spec.script_path, spec.script_digest)
        )
        return _missing_folder(spec.work_dir) or self._odd_script(path, digest)

    def _odd_script(self, path: str, expected: str) -> str:
        """Why a script is not run: it is gone, not the one that was planned, or another user's; else ''."""
        try:
            trust.read_script(Path(path), expected, Path(self.manifest.base_output_dir))
        except StateError as error:
            return f"the script can't be trusted: {error.problems[0].what}: {error.problems[0].where}"
        except OSError as error:  # of others, the scheduler tells in its words
            return f"the script {path} is gone" if isinstance(error, _GONE) else ""
        return ""

    def _alive(self, jobs: Mapping[str, str]) -> set[str]:
        """Those of the jobs (id → token) that the scheduler lists as not ended, or did seconds ago.

        It forgets none so soon.
        """
        now = self.now()
        fresh = {job: at for job, at in self._seen_alive.items() if abs(now - at) < _FRESH_SECONDS}
        unknown = {job: token for job, token in jobs.items() if job not in fresh}
        for job, status in (self.scheduler.poll(unknown) if unknown else {}).items():
            if status.scheduler_state not in (*ENDED, UNKNOWN):
                fresh[job] = now
        self._seen_alive = fresh
        return {job for job in jobs if job in fresh}

    def _still_alive(self, ready: Iterable[Ready]) -> bool:
        """Whether the jobs that others follow are alive."""
        parents = {job for one in ready for job in one.after}
        known = by_id(self.session.jobs.values())
        return self._alive({job: known[job].newest.token for job in parents if job in known}) == parents

    def _room(self) -> int | None:
        """How many jobs may go now, by `max_jobs` and by what the scheduler took when it was full; None: any number."""
        here, limit = self._in_queue(), self.manifest.scheduler["max_jobs"]
        rooms = [] if limit is None else [max(0, limit - here)]
        if self._most is not None:
            rooms.append(max(self._most - here, int(self.now() >= self._try_beyond_at)))
        return min(rooms, default=None)

    def _in_queue(self) -> int:
        return sum(job.state in (*IN_QUEUE, SUBMITTING) for job in self.session.jobs.values())

    # ---- one submission

    def _submit(self, batch: Batch) -> int:
        """Submit one batch; returns how many jobs went to the scheduler (0 if nobody knows yet).

        The outcome is saved with the next intent, or by the caller: whoever dies before leaves an intent to be settled.
        Raises SubmitError if it was refused, SchedulerError if the scheduler does not answer.
        """
        token = secrets.token_hex(4)
        made = submission(self.manifest, token, batch)
        self._check_scripts(batch)
        if batch.is_array:
            made = self._write_array(made, batch)
        self.beat(self._rate_limit)
        for task, spec in batch.jobs.items():
            after = followed(batch.dependency, task)
            self.session.put(submissions.on_its_way(self._tracked(spec), token, task, after))
        try:
            self.session.journal()
            self._next_at = self.now() + self._rate_limit
            scheduler_id = self.scheduler.submit(made)
        except (OSError, UnreachableError):
            self._back_to_waiting(batch.jobs.values())
            raise
        except TooManyJobsError:
            if batch.is_array:  # others take its place
                shutil.rmtree(array_folder(self.manifest, token), ignore_errors=True)
            raise
        except SubmitError:
            raise
        except SchedulerError as error:
            return self._look_for(batch, error)
        self._accepted(token, batch, scheduler_id)
        if self._most is not None and self._in_queue() > self._most:
            self._most, self._tries_beyond = None, 0  # it takes more than it did
        if self._native:
            self._seen_alive.update(
                {self._tracked(spec).newest.scheduler_id: self.now() for spec in batch.jobs.values()}
            )
        return len(batch.jobs)

    def _look_for(self, batch: Batch, error: SchedulerError) -> int:
        """Ask at once for a batch whose submission got no clear answer; how many of its jobs are there.

        Raises `error` if the scheduler can't tell of them: then it would tell nothing of the others, either.
        """
        for spec in batch.jobs.values():
            self.session.put(self._tracked(spec).happened(self.now(), _UNCLEAR, error.problems[0].what))
        try:
            self.settle()
        except SchedulerError:
            raise error from None
        return sum(self._tracked(spec).state in IN_QUEUE for spec in batch.jobs.values())

    def _back_to_waiting(self, jobs: Iterable[JobSpec]) -> None:
        for spec in jobs:
            self.session.put(submissions.not_submitted(self._tracked(spec)))

    def _check_scripts(self, batch: Batch) -> None:
        """Raises SubmitError if a script was changed since the job was let through, while it waited for its turn."""
        for spec in batch.jobs.values():
            if odd := self._odd_script(spec.script_path, spec.script_digest):
                raise SubmitError(Problem(odd, spec.name))

    def _write_array(self, made: Submission, batch: Batch) -> Submission:
        """The array's script, and for each task a folder with links to its job's script and log folder.

        Returns the submission with the digest of that script.
        """
        first = next(iter(batch.jobs.values()))
        folder = array_folder(self.manifest, made.token)
        log = Path(log_name(first))
        try:
            for task, job in batch.jobs.items():
                place = folder / str(task)
                place.mkdir(parents=True, exist_ok=True)
                link_atomic(place / "job.sbatch", Path(job.script_path))
                link_atomic(place / log.parts[0], Path(job.output_dir, log.parts[0]))
            text = array_script(trust.read_script(Path(first.script_path), first.script_digest), str(folder), str(log))
            write_atomic(Path(made.script_path), text, 0o700)
            return replace(made, script_digest=digest(text))
        except OSError as error:
            raise SubmitError(Problem(f"can't prepare the array: {error.strerror}: {error.filename}")) from None
        except StateError as error:
            raise SubmitError(Problem(f"can't prepare the array: {error.problems[0]}")) from None

    def _accepted(self, token: str, batch: Batch, scheduler_id: str) -> None:
        now = self.now()
        for task, spec in batch.jobs.items():
            self._gates[spec.name].forget()
            job_id = scheduler_id if task is None else f"{scheduler_id}_{task}"
            log = resolve_log_path(spec.log_path, job_id)
            submitted = submissions.accepted(self._tracked(spec), token, task, job_id, log, now)
            self.session.put(self.in_queue(submitted))
            link_current(spec, log)
            if submitted.past.earlier:
                last = submitted.past.earlier[-1]
                try:
                    status_files.replace(Path(spec.output_dir, MARKS), last.scheduler_id, last.token)
                except (OSError, StateError) as error:  # a look that finds both ends the older one
                    _log.warning("no mark that job %s has a newer attempt: %s", last.scheduler_id, error)

    # ---- refusals

    def _refused(self, batch: Batch, error: SubmitError) -> None:
        """Let the jobs of a batch wait for their next try.

        A job whose script is its own, and refused for good, is ended: only other overrides would help it.
        """
        words, now = error.problems[0].what, self.now()
        for_good = isinstance(error, InvalidSubmissionError)
        for spec in batch.jobs.values():
            job = self._tracked(spec)
            if for_good and job.changes.script_path:
                self._refuse_for_good(job, words, now)
            else:
                pause = _LONGEST_RETRY_SECONDS if for_good else _growing(job.waiting.refusals)
                self.session.put(submissions.refused(job, words, _spread(now, pause), now))

    def _await_files(self, job: JobState, words: str, now: float) -> None:
        """Let a job wait for its files, for a day."""
        since = now if job.waiting.files_missing_since is None else job.waiting.files_missing_since
        since = min(since, now)  # clocks are set back
        if now - since >= submissions.FILES_PATIENCE_SECONDS:
            self._refuse_for_good(job, f"given up: for a day, {words}", now)
            return
        at = _spread(now, _growing(job.waiting.refusals))
        self.session.put(submissions.without_files(job, words, at, now, since))

    def _refuse_for_good(self, job: JobState, words: str, now: float) -> None:
        """End a job whose next attempt can't be submitted."""
        self._gates[job.name].forget()
        self.session.put(self.in_queue(submissions.refused_for_good(job, words, now)))

    def _tracked(self, spec: JobSpec) -> JobState:
        return self.session.jobs[spec.name]


def _growing(refusals: int) -> float:
    """Seconds until the next try of a job that was refused so often before."""
    return min(_RETRY_SECONDS * 2.0 ** min(refusals, _MOST_DOUBLINGS), _LONGEST_RETRY_SECONDS)


def _spread(now: float, pause: float) -> float:
    """The time after about `pause` seconds: many sessions that meet one limit must not come back all at once."""
    return now + pause * random.uniform(0.8, 1.2)  # noqa: S311  no secret


def _about_the_same(one: Deadline | None, other: Deadline | None) -> bool:
    return one is not None and other is not None and one.then == other.then and abs(one.at - other.at) < _SAME_SECONDS


def _missing_folder(work_dir: str) -> str:
    """That the folder which a job is submitted from is not there, in words; '' if it is."""
    if not os.access(work_dir, os.X_OK):
        return f"the working directory {work_dir} is gone"
    return ""


def _told_beyond(progress: Callable[[int, int], None], before: int, more: int, done: int) -> None:
    """Tell the progress of a later round in the numbers of all rounds."""
    progress(before + done, before + more)


def link_current(spec: JobSpec, log: str) -> None:
    """Point the job's `current.log` to its newest log. A job is not lost because a link can't be made."""
    link = Path(spec.log_path_current)
    try:
        target = Path(os.path.relpath(log, link.parent) if Path(log).is_relative_to(link.parent) else log)
        try:
            link_atomic(link, target)
        except FileNotFoundError:
            link.parent.mkdir(parents=True, exist_ok=True)
            link_atomic(link, target)
    except (OSError, AutoexpError) as error:
        _log.warning("no link %s to the log: %s", link, error)
