"""Holds the jobs of a plan that have not begun, when several others failed in the same way, and lets them go again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from oellm_autoexp.core.nouns import Hold
from oellm_autoexp.core.text import plural
from oellm_autoexp.decisions import holding
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.session.session import Session


@dataclass
class Holding:
    """The hold of one session; `most`: see decisions.holding.to_hold. `report` gets lines for people."""

    session: Session
    scheduler: Scheduler
    most: int | None
    report: Callable[[str], None]

    def review(self) -> None:
        """Hold what is to be held: that is saved first, so that a monitor that dies meanwhile is followed by one that
        goes on with it. Raises SchedulerError.
        """
        hold = holding.to_hold(self.session.jobs, self.session.hold, self.most)
        if hold is not None:
            self._save(hold)
            count = sum(holding.may_be_held(job) for job in self.session.jobs.values())
            held = f"{plural(count, 'job')} that have not begun are held, and those that failed begin no new attempt"
            self.report(f"{held}, until --cmd release: {hold.reason}")
        hold = self.session.hold
        if hold.fingerprint and not hold.asked:
            self.scheduler.hold(holding.in_queue(self.session.jobs.values()))
            self._save(hold.model_copy(update={"asked": True}))

    def release(self) -> None:
        """Let them go, as a person asks for it, also those that wait for the first jobs (scheduler.first_jobs).

        The same failure holds them again once as many more jobs have it. Raises SchedulerError.
        """
        hold = self.session.hold
        if hold.fingerprint:
            self.scheduler.release(holding.in_queue(self.session.jobs.values()))
        alike = holding.failures(self.session.jobs)
        now = {hold.fingerprint: len(alike.get(hold.fingerprint, ()))} if hold.fingerprint else {}
        self._save(Hold(released={**hold.released, **now, holding.FIRST_JOBS: 0}))
        self.report("the jobs that were held are released")

    def _save(self, hold: Hold) -> None:
        self.session.hold = hold
        self.session.snapshot()
