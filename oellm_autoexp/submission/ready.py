"""Which jobs may be submitted now: their conditions are fulfilled, and no attempt of them runs anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.states import BLOCKED, CANCELLED, ENDED, SUCCESS, UNKNOWN, UNSUBMITTED
from oellm_autoexp.decisions import lifecycle
from oellm_autoexp.decisions.holding import for_first, waits_for_release
from oellm_autoexp.decisions.readiness import StartGate
from oellm_autoexp.planning.batches import Ready
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session import status_files
from oellm_autoexp.session.session import Session, by_id
from oellm_autoexp.submission.next_attempts import NextAttempts
from oellm_autoexp.submission.outcomes import Outcomes
from oellm_autoexp.submission.outputs import in_terminal, terminal_holder

_FRESH_SECONDS = 10.0


class ReadyJobs:
    """Finds the jobs of a session that may be submitted now; the others record why they wait."""

    def __init__(
        self,
        manifest: Manifest,
        session: Session,
        scheduler: Scheduler,
        gates: Mapping[str, StartGate],
        outcomes: Outcomes,
        *,
        now: Callable[[], float],
    ) -> None:
        self._session = session
        self._scheduler = scheduler
        self._gates = gates
        self._outcomes = outcomes
        self._now = now
        self._specs = {job.name: job for job in manifest.jobs}
        self._first_jobs: int | None = manifest.scheduler.get("first_jobs")
        self._attempts = NextAttempts(manifest, session, outcomes, now=now)
        self._seen_alive: dict[str, float] = {}
        self._seen_earlier: dict[str, float] = {}

    def let_through(self) -> list[Ready]:
        """The waiting jobs that may start. Jobs that are to end are ended; the others record why they wait."""
        through = self._judged()
        self._session.save()
        return self._with_ids(through)

    def review(self) -> None:
        """Judge the waiting jobs while none may be submitted, so that what blocks them is known."""
        self._judged()

    def _judged(self) -> dict[str, tuple[str, ...]]:
        """The jobs that may start, with those that the scheduler is to await; the others record why they don't.

        A job that has become blocked, or no longer is, may block others, or no longer: they are judged again at once.
        """
        before, through = self._blocked(), self._judged_once()
        for _ in self._session.jobs:  # at the latest, all of a chain are known
            if before == (after := self._blocked()):
                break
            before, through = after, self._judged_once()
        return through

    def _blocked(self) -> set[str]:
        return {job.name for job in self._session.jobs.values() if job.state == BLOCKED}

    def _judged_once(self) -> dict[str, tuple[str, ...]]:
        through: dict[str, tuple[str, ...]] = {}
        now = self._now()
        for name, job in list(self._session.jobs.items()):
            if job.state not in UNSUBMITTED:
                continue
            if job.cancelled_by:  # while nobody knew whether it was submitted
                self._outcomes.ended(job, SUCCESS if job.run.complete else CANCELLED, job.cancelled_by, now)
                continue
            waited = 0.0 if job.waiting.waiting_since is None else now - job.waiting.waiting_since
            verdict = self._gates[name].verdict(self._session.jobs, waited, now)
            match verdict.step:
                case "cancel" | "done":
                    self._outcomes.ended(job, CANCELLED if verdict.step == "cancel" else SUCCESS, verdict.reason, now)
                case "wait" if verdict.undecided and job.state == BLOCKED:
                    pass  # a command of its conditions has no result yet, as after the start of a monitor
                case "wait":
                    self._outcomes.waits(name, verdict.reason, patience_seconds=verdict.patience_seconds)
                case "blocked":
                    self._outcomes.blocked(name, verdict.reason, verdict.patience_seconds)
                case "start" if waits_for_release(job, self._session.hold):
                    self._outcomes.waits(name, f"held: {self._session.hold.reason}")
                case "start" if job.attempt == 0 and (why := self._for_first(len(through))):
                    self._outcomes.waits(name, why)
                case "start":
                    if job.state == BLOCKED:
                        self._outcomes.waits(name, "")
                    through[name] = verdict.after
        return through

    def _for_first(self, going: int) -> str:
        """Why a job that has not begun must wait for the first ones."""
        return for_first(self._session.jobs, self._session.hold, self._first_jobs, going)

    def for_room(self, ready: list[Ready], room: int | None) -> tuple[list[Ready], list[Ready]]:
        """The jobs that may be submitted now, at most `room`, and those that must wait for room."""
        going: list[Ready] = []
        while ready and (room is None or len(going) < room):
            some = ready[: None if room is None else room - len(going)]
            ready = ready[len(some) :]
            going += self._alone(some)
        return going, ready

    def still_alive(self, ready: Iterable[Ready]) -> bool:
        """True if the jobs that others depend on are not ended."""
        parents = {job for one in ready for job in one.after}
        known = by_id(self._session.jobs.values())
        return self._alive({job: known[job].newest.token for job in parents if job in known}) == parents

    def seen_alive(self, ids: Iterable[str]) -> None:
        """Record that the scheduler has just listed these jobs as not ended."""
        self._seen_alive.update(dict.fromkeys(ids, self._now()))

    def _with_ids(self, through: Mapping[str, tuple[str, ...]]) -> list[Ready]:
        """The jobs with the ids of the jobs that they depend on.

        A job goes only behind ids that the scheduler lists as alive at this moment: one that it has forgotten would
        count as succeeded (SLURM 22.05, afterok).
        """
        parents = (self._session.jobs[parent] for names in through.values() for parent in names)
        alive = self._alive({job.newest.scheduler_id: job.newest.token for job in parents})
        after = {
            name: tuple(self._session.jobs[parent].newest.scheduler_id for parent in parents)
            for name, parents in through.items()
        }
        going = [name for name, ids in after.items() if alive.issuperset(ids) and not self._begun_again(name)]
        specs = {name: self._attempts.spec(name) for name in going}
        attempts = {name: self._session.jobs[name].attempt + 1 for name in specs}
        return [Ready(spec, after[name], attempts[name]) for name, spec in specs.items() if spec is not None]

    def _begun_again(self, name: str) -> bool:
        """True if the scheduler runs an earlier attempt of the job, which then waits for its end."""
        begun_again = self._session.jobs[name].past.begun_again
        if begun_again:
            self._outcomes.waits(name, f"waits until job {begun_again[0].scheduler_id}, an earlier attempt, has ended")
        return bool(begun_again)

    def _in_terminal(self, name: str) -> bool:
        """True if a terminal runs the job, which then waits for its end. The session is saved: a terminal looks there.

        Asked only just before a submission, as it is a question to the file system for each job.
        """
        holder = terminal_holder(self._specs[name].output_dir)
        if holder is not None:
            self._outcomes.waits(name, in_terminal(holder))
        return holder is not None

    def _alone(self, ready: list[Ready]) -> list[Ready]:
        """The jobs without an earlier attempt that runs; the scheduler is asked just before the submission.

        Somebody may have had one begun again (`scontrol requeue`) that no look has asked for.
        """
        now = self._now()
        again = [job for one in ready if (job := self._outcomes.job(one.spec)).past.earlier]
        attempts = [attempt for job in again for attempt in job.past.earlier]
        fresh = {token: at for token, at in self._seen_earlier.items() if abs(now - at) < _FRESH_SECONDS}
        if any(attempt.token not in fresh for attempt in attempts):
            answers = self._scheduler.poll({attempt.scheduler_id: attempt.token for attempt in attempts})
            for job in again:
                self._session.put(lifecycle.see_earlier(job, answers, now))
            fresh |= dict.fromkeys((attempt.token for attempt in attempts), now)
        self._seen_earlier = fresh
        names = {one.spec.name: one for one in self._without_strangers(ready)}
        return [one for name, one in names.items() if not self._begun_again(name) and not self._in_terminal(name)]

    def _without_strangers(self, ready: list[Ready]) -> list[Ready]:
        """The jobs in whose output directories no job of another session runs.

        The file of a session protects these directories, but people delete it while its jobs still run.
        """
        new = [one for one in ready if not self._outcomes.job(one.spec).newest.scheduler_id]
        marked = {one.spec.name: status_files.under_way(Path(one.spec.output_dir, MARKS)) for one in new}
        asked = {scheduler_id: token for found in marked.values() for scheduler_id, token in found.items()}
        answers = self._scheduler.poll(asked) if asked else {}
        alive = {one for one, status in answers.items() if status.scheduler_state not in (*ENDED, UNKNOWN)}
        kept = {name: sorted(alive & found.keys()) for name, found in marked.items()}
        for name, ids in kept.items():
            if ids:
                self._outcomes.waits(
                    name, f"waits until job {', '.join(ids)}, which runs in its output directory, has ended"
                )
        return [one for one in ready if not kept.get(one.spec.name)]

    def _alive(self, jobs: Mapping[str, str]) -> set[str]:
        """Those of the jobs (id → token) that the scheduler lists as not ended, or did seconds ago.

        It forgets none so soon.
        """
        now = self._now()
        fresh = {job: at for job, at in self._seen_alive.items() if abs(now - at) < _FRESH_SECONDS}
        unknown = {job: token for job, token in jobs.items() if job not in fresh}
        for job, status in (self._scheduler.poll(unknown) if unknown else {}).items():
            if status.scheduler_state not in (*ENDED, UNKNOWN):
                fresh[job] = now
        self._seen_alive = fresh
        return {job for job in jobs if job in fresh}
