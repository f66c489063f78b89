"""Hands the jobs of a session to the scheduler, each exactly once, whatever dies in between.

The intent (a token of its own) is on disk before the scheduler is called, and the token travels with the job. After a
crash or an unclear answer the token is looked up before anything is submitted again: in the queue, in the accounts, and
in what jobs write when they start. A scheduler that denies it is not believed at once: one that hung may come to know
the job only when it goes on, so that it must have denied it for a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from oellm_autoexp.errors import (
    AutoexpError,
    InvalidSubmissionError,
    LockedError,
    Problem,
    StateError,
    SubmitError,
    UnreachableError,
)
from oellm_autoexp.files import link_atomic, write_atomic
from oellm_autoexp.logs import Cursor
from oellm_autoexp.model import JobSpec, Manifest, Submission
from oellm_autoexp.monitor.around import Questions
from oellm_autoexp.monitor.gate import Gate
from oellm_autoexp.monitor.session import Session
from oellm_autoexp.monitor.tracked import CANCELLED, IN_QUEUE, PENDING, SUBMITTING, SUCCESS, WAITING, TrackedJob
from oellm_autoexp.scheduler.base import ENDED, UNKNOWN, Scheduler
from oellm_autoexp.slurm.script import MARKS, array_script, resolve_log_path
from oellm_autoexp.workflow.attempts import write_script
from oellm_autoexp.workflow.batches import Batch, Ready, array_folder, batches, log_name, submission
from oellm_autoexp.world import Question

_RETRY_SECONDS = 30.0
_LONGEST_RETRY_SECONDS = 900.0
_ENOUGH_REFUSALS = 3
_MOST_DOUBLINGS = 10
_FRESH_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass
class Submitter:
    """Submits what waits in a session.

    `pause` sleeps between submissions (`submit_rate_limit_seconds`); `beat` is called before each, as many take long.
    """

    manifest: Manifest
    session: Session
    scheduler: Scheduler
    pause: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time
    beat: Callable[[float], None] = lambda next_in_seconds: None
    in_queue: Callable[[TrackedJob], TrackedJob] = lambda job: job
    """What follows when a job has come into the queue: the job with that, before it is saved."""

    def __post_init__(self) -> None:
        self._specs = {job.name: job for job in self.manifest.jobs}
        native = self.manifest.scheduler["native_dependencies"] and self.scheduler.native_dependencies
        self._asked_by_gates = Questions()
        self._gates = {job.name: Gate(job, native=native, questions=self._asked_by_gates) for job in self.manifest.jobs}
        self._questions: dict[str, Question] = {}
        self._hold_until = 0.0
        self._looked_at = 0.0

    @property
    def unsettled(self) -> int:
        """How many jobs were perhaps submitted: nobody knows yet."""
        return sum(job.state == SUBMITTING for job in self.session.jobs.values())

    @property
    def asking(self) -> bool:
        """Whether the command of a job that waits is at work."""
        return self._asked_by_gates.under_way or any(question.under_way for question in self._questions.values())

    def close(self) -> None:
        """End the commands that are at work."""
        for name in list(self._questions):
            self._forget_question(name)
        self._asked_by_gates.close()

    def retry_now(self) -> None:
        """Let jobs that were refused be tried at once: a person asks for it."""
        for job in list(self.session.jobs.values()):
            if job.state == WAITING and job.retry_at:
                self.session.put(job.model_copy(update={"retry_at": 0}))

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
            since = self._tracked(next(iter(batch.jobs.values()))).absent_since
            since = now if since is None else min(since, now)  # min: clocks are set back
            left = since + self.scheduler.settle_seconds - now
            if left <= 0:
                self._back_to_waiting(batch.jobs.values())
            else:
                reason = f"nobody knows yet whether it was submitted: it is looked for until {left:.0f} s from now"
                self._still_unclear([batch], absent_since=since, reason=reason)
        self.session.save()

    def settle_all(self) -> None:
        """Settle until nothing is unclear. Raises SchedulerError, as `settle`."""
        self.settle()
        while self.unsettled:
            pause = min(5.0, max(0.5, self.scheduler.settle_seconds / 3))
            self.pause(pause)
            self.beat(pause)
            self.settle()

    def _unclear(self) -> dict[str, Batch]:
        """The submissions whose fate is unknown, by token."""
        jobs: dict[str, dict[int | None, JobSpec]] = defaultdict(dict)
        for job in self.session.jobs.values():
            if job.state == SUBMITTING:
                jobs[job.token][job.task] = self._specs[job.name]
        return {token: Batch(by_task) for token, by_task in jobs.items()}

    def _still_unclear(self, unclear: Iterable[Batch], *, absent_since: float | None, reason: str) -> None:
        for batch in unclear:
            for spec in batch.jobs.values():
                job = self._tracked(spec)
                self.session.put(job.model_copy(update={"absent_since": absent_since, "reason": reason}))

    def _id_by_marks(self, token: str, batch: Batch) -> str | None:
        """The id under which some job of a batch has run: its script leaves the name that it ran by, token included."""
        for spec in batch.jobs.values():
            for mark in Path(spec.output_dir, MARKS).glob("*.start"):
                with contextlib.suppress(OSError):
                    if mark.read_text(errors="replace").rstrip("\n").endswith(f".{token}"):
                        return mark.stem.partition("_")[0]
        return None

    # ---- what may go now

    def submit_ready(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Submit every job that may go now; returns how many went. Refused ones wait, with the reason, and are retried.

        Raises SchedulerError when the scheduler can't be reached or its answer is unclear.
        """
        self.settle()
        done = 0
        while self.now() >= self._hold_until:
            now = self.now()
            ready = [job for job in self._let_through() if self._tracked(job.spec).retry_at <= now][: self._room()]
            went = self._submit_all(ready, partial(_told_beyond, progress, done, len(ready)))
            done += went
            if not went or not any(gate.native for gate in self._gates.values()):
                break  # else those that depend on what went now may follow at once
        return done

    def _submit_all(self, ready: list[Ready], progress: Callable[[int], None]) -> int:
        try:
            done = self._submit_one_by_one(ready, progress)
        except LockedError:  # the session is another process's now
            raise
        except BaseException:
            self.session.journal()
            raise
        self.session.journal()
        return done

    def _submit_one_by_one(self, ready: list[Ready], progress: Callable[[int], None]) -> int:
        rate_limit = self.manifest.scheduler["submit_rate_limit_seconds"]
        done = refused_in_a_row = 0
        for number, batch in enumerate(batches(ready, self.scheduler.max_array_size() if ready else 1)):
            if number and rate_limit:
                self.pause(rate_limit)
            self.beat(rate_limit)
            if batch.dependency and not self._still_alive(ready):
                break  # they wait for the next look, which tells how their siblings ended
            taken = self._submit(batch)
            done += taken
            progress(done)
            refused_in_a_row = 0 if taken else refused_in_a_row + 1
            if refused_in_a_row == _ENOUGH_REFUSALS:  # a limit is reached: asking for the others would only annoy
                self._hold_until = self.now() + _RETRY_SECONDS
                break
        return done

    def _let_through(self) -> list[Ready]:
        """The waiting jobs that may start. Those that never will are ended, and the others say why they wait."""
        through: dict[str, tuple[str, ...]] = {}
        now = self.now()
        for name, job in list(self.session.jobs.items()):
            if job.state != WAITING:
                continue
            if job.cancelled_by:  # while nobody knew whether it was submitted
                self._end(job, SUCCESS if job.complete else CANCELLED, job.cancelled_by, now)
                continue
            waited = 0.0 if job.waiting_since is None else now - job.waiting_since
            verdict = self._gates[name].verdict(self.session.jobs, waited, now)
            if verdict.step in ("cancel", "done"):
                self._end(job, CANCELLED if verdict.step == "cancel" else SUCCESS, verdict.reason, now)
                continue
            reason = verdict.reason if verdict.step == "wait" else self._asked(self._specs[name], now)
            if not reason:
                through[name] = verdict.after
            elif job.reason != reason or job.waiting_since is None:
                since = now if job.waiting_since is None else job.waiting_since
                self.session.put(job.model_copy(update={"reason": reason, "waiting_since": since}))
        self.session.save()
        return self._with_ids(through)

    def _end(self, job: TrackedJob, state: str, reason: str, now: float) -> None:
        """End a job that waits."""
        self._forget_question(job.name)
        self.session.put(job.happened(now, state, reason, state=state, reason=reason, ended_at=now))

    def _asked(self, spec: JobSpec, now: float) -> str:
        """Why a job's `start_condition_cmd` keeps it waiting; '' if it does not."""
        if not spec.start_condition_cmd:
            return ""
        question = self._questions.get(spec.name)
        if question is None:
            question = Question(spec.start_condition_cmd, spec.work_dir, spec.start_condition_interval_seconds)
            self._questions[spec.name] = question
        if question.says_yes(now):
            del self._questions[spec.name]
            return ""
        return f"waits for start_condition_cmd {spec.start_condition_cmd[0]}: {question.answer}"

    def _forget_question(self, name: str) -> None:
        self._asked_by_gates.forget(name)
        if (question := self._questions.pop(name, None)) is not None:
            question.give_up()

    def _with_ids(self, through: Mapping[str, tuple[str, ...]]) -> list[Ready]:
        """The jobs with the ids of those that they are to follow.

        A job goes only behind ids that the scheduler lists as alive at this moment: one that it has forgotten would
        count as succeeded (SLURM 22.05, afterok).
        """
        alive = self._alive({self.session.jobs[parent].scheduler_id for names in through.values() for parent in names})
        followed = {
            name: tuple(self.session.jobs[parent].scheduler_id for parent in parents)
            for name, parents in through.items()
        }
        specs = {name: self._next_attempt(name) for name, ids in followed.items() if alive.issuperset(ids)}
        return [Ready(spec, followed[name]) for name, spec in specs.items() if spec is not None]

    def _next_attempt(self, name: str) -> JobSpec | None:
        """The job as it is to be submitted, with a script of its own if it needs one; None if that can't be made."""
        spec, job = self._specs[name], self.session.jobs[name]
        if not job.script_path and (job.excluded or job.overrides):
            try:
                written = write_script(self.manifest, spec, job.attempt + 1, job.overrides, job.excluded)
            except AutoexpError as error:
                reason = f"its script can't be made: {error.problems[0].what}"
                self.session.put(job.model_copy(update={"reason": reason, "retry_at": self.now() + _RETRY_SECONDS}))
                return None
            if written is not None:
                job = job.model_copy(update={"script_path": written[0], "resources": written[1]})
                self.session.put(job)
        if not job.script_path:
            return spec
        update: dict[str, object] = {"script_path": job.script_path, "resources": job.resources or spec.resources}
        if spec.array_group is not None:  # still a task of an array, whose directives are those of this script
            update["array_group"] = f"{spec.array_group} {name} {job.attempt}"
        return spec.model_copy(update=update)

    def _alive(self, ids: Collection[str]) -> set[str]:
        """Those of the jobs that the scheduler lists as not ended."""
        statuses = self.scheduler.poll(ids) if ids else {}
        self._looked_at = self.now()
        return {job for job, status in statuses.items() if status.scheduler_state not in (*ENDED, UNKNOWN)}

    def _still_alive(self, ready: Iterable[Ready]) -> bool:
        """Whether the jobs that others follow are alive, looked up again if that is a while ago."""
        if abs(self.now() - self._looked_at) < _FRESH_SECONDS:
            return True
        followed = {job for one in ready for job in one.after}
        return self._alive(followed) == followed

    def _room(self) -> int | None:
        limit: int | None = self.manifest.scheduler["max_jobs"]
        if limit is None:
            return None
        return max(0, limit - sum(job.state in (*IN_QUEUE, SUBMITTING) for job in self.session.jobs.values()))

    # ---- one submission

    def _submit(self, batch: Batch) -> int:
        """Submit one batch; returns how many jobs went to the scheduler (0 if it refused).

        The outcome is saved with the next intent, or by the caller: whoever dies before leaves an intent to be settled.
        """
        token = secrets.token_hex(4)
        made = submission(self.manifest, token, batch)
        if batch.is_array:
            self._write_array(made, batch)
        self.beat(self.manifest.scheduler["submit_rate_limit_seconds"])
        for task, spec in batch.jobs.items():
            update = {"state": SUBMITTING, "token": token, "task": task, "absent_since": None}
            self.session.put(self._tracked(spec).model_copy(update=update))
        self.session.journal()
        try:
            scheduler_id = self.scheduler.submit(made)
        except SubmitError as error:
            self._refused(batch, error)
            return 0
        except UnreachableError:
            self._back_to_waiting(batch.jobs.values())
            raise
        self._accepted(token, batch, scheduler_id)
        return len(batch.jobs)

    def _back_to_waiting(self, jobs: Iterable[JobSpec]) -> None:
        for spec in jobs:
            update = {"state": WAITING, "token": "", "task": None, "absent_since": None, "reason": ""}
            self.session.put(self._tracked(spec).model_copy(update=update))

    def _write_array(self, made: Submission, batch: Batch) -> None:
        """The array's script, and for each task a folder with links to its job's script and log folder."""
        first = next(iter(batch.jobs.values()))
        folder = array_folder(self.manifest, made.token)
        log = Path(log_name(first))
        try:
            for task, job in batch.jobs.items():
                place = folder / str(task)
                place.mkdir(parents=True, exist_ok=True)
                link_atomic(place / "job.sbatch", Path(job.script_path))
                link_atomic(place / log.parts[0], Path(job.output_dir, log.parts[0]))
            text = array_script(Path(first.script_path).read_text(), str(folder), str(log))
            write_atomic(Path(made.script_path), text, 0o700)
        except OSError as error:
            raise StateError(Problem(f"can't prepare the array: {error.strerror}", str(error.filename))) from None

    def _accepted(self, token: str, batch: Batch, scheduler_id: str) -> None:
        now = self.now()
        for task, spec in batch.jobs.items():
            job_id = scheduler_id if task is None else f"{scheduler_id}_{task}"
            log = resolve_log_path(spec.log_path, job_id)
            tracked = self._tracked(spec)
            submitted = tracked.happened(
                now,
                "submitted",
                f"as {job_id}",
                state=PENDING,
                reason="",
                token=token,
                task=task,
                absent_since=None,
                waiting_since=None,
                scheduler_id=job_id,
                attempt=tracked.attempt + 1,
                resolved_log_path=log,
                cursor=tracked.cursor if log == tracked.resolved_log_path else Cursor(),
                submitted_at=now,
                refusals=0,
            )
            self.session.put(self.in_queue(submitted))
            _link_current(spec, log)

    def _refused(self, batch: Batch, error: SubmitError) -> None:
        words = error.problems[0].what
        for_good = isinstance(error, InvalidSubmissionError)
        # Many sessions that meet one limit must not come back all at once.
        spread = random.uniform(0.8, 1.2)  # noqa: S311  no secret
        for spec in batch.jobs.values():
            job = self._tracked(spec)
            growing = min(_RETRY_SECONDS * 2 ** min(job.refusals, _MOST_DOUBLINGS), _LONGEST_RETRY_SECONDS)
            delay = (_LONGEST_RETRY_SECONDS if for_good else growing) * spread
            update: dict[str, object] = {"state": WAITING, "token": "", "task": None, "reason": words}
            update |= {"refusals": job.refusals + 1, "retry_at": self.now() + delay}
            known = job.reason == words
            self.session.put(
                job.model_copy(update=update) if known else job.happened(self.now(), "refused", words, **update)
            )

    def _tracked(self, spec: JobSpec) -> TrackedJob:
        return self.session.jobs[spec.name]


def _told_beyond(progress: Callable[[int, int], None], before: int, more: int, done: int) -> None:
    """Tell the progress of a later round in the numbers of all rounds."""
    progress(before + done, before + more)


def _link_current(spec: JobSpec, log: str) -> None:
    """Point the job's `current.log` to its newest log. A job is not lost because a link can't be made."""
    link = Path(spec.log_path_current)
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(log, link.parent) if Path(log).is_relative_to(link.parent) else log
        link_atomic(link, Path(target))
    except (OSError, AutoexpError) as error:
        _log.warning("no link %s to the log: %s", link, error)
