"""What happened since the last look, as lines: for logs, pipes and terminals without colours."""

from __future__ import annotations

import time

from oellm_autoexp.core.states import UNSUBMITTED
from oellm_autoexp.decisions.holding import waits_for_release
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.waits import AT_WORK, NEXT_POLL, only_actions_wait, waits
from oellm_autoexp.view.jobs.cause import causes, is_held
from oellm_autoexp.view.jobs.waiting import waiting_lines
from oellm_autoexp.view.live import ONLY_ACTIONS_WAIT
from oellm_autoexp.view.session_table import headline
from oellm_autoexp.view.shown import Shown

_HEADLINE_EVERY_SECONDS = 30.0
_MANY = 9


class Changes:
    """Remembers what it showed, and shows only what is new."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, str]] = {}
        self._waits: set[tuple[str, str, str, str]] = set()
        self._only_actions = False
        self._scheduler_error = ""
        self._storage_error = ""
        self._headline = ""
        self._headline_at = 0.0

    def lines(self, monitor: Shown) -> list[str]:
        """One line per job whose state changed, and now and then a summary.

        Many jobs that begin to wait for the same thing are one line, and so are those whose state is found at first.
        """
        first = not self._shown
        changed: dict[tuple[str, str], list[JobState]] = {}
        lines = [f"{_clock()} {text}" for text in monitor.messages]
        monitor.messages.clear()
        for job in monitor.session.jobs.values():
            has_reason = job.state in UNSUBMITTED or is_held(job)
            if has_reason and waits_for_release(job, monitor.session.hold):  # one line has said it of all
                continue
            shown = (job.state, job.reason if has_reason else "")
            if self._shown.get(job.name) != shown:
                self._shown[job.name] = shown
                changed.setdefault(shown, []).append(job)
        for (state, reason), jobs in changed.items():
            if len(jobs) < _MANY or not (first or state in UNSUBMITTED):
                lines += [f"{_clock()} {_line(job)}" for job in jobs]
            else:
                lines.append(f"{_clock()} {len(jobs)} jobs: {state}" + (f" ({reason})" if reason else ""))
        lines += self._waiting(monitor)
        if monitor.scheduler_error != self._scheduler_error:
            self._scheduler_error = monitor.scheduler_error
            what = (
                f"the scheduler does not answer, waiting for it: {self._scheduler_error}"
                if self._scheduler_error
                else "it answers again"
            )
            lines.append(f"{_clock()} {what}")
        if monitor.storage_error != self._storage_error:
            self._storage_error = monitor.storage_error
            what = f"can't go on, trying again: {self._storage_error}" if self._storage_error else "it goes on"
            lines.append(f"{_clock()} {what}")
        summary = headline(monitor.session)
        if summary != self._headline and time.monotonic() - self._headline_at >= _HEADLINE_EVERY_SECONDS:
            self._headline, self._headline_at = summary, time.monotonic()
            lines.append(f"{_clock()} {summary}")
        return lines

    def _waiting(self, monitor: Shown) -> list[str]:
        """A line for each action that has begun to wait, and one when nothing but actions is left."""
        actions = {
            (wait.job, wait.action, wait.event, wait.reason): wait
            for wait in waits(monitor.session.jobs.values())
            if wait.kind == "action" and wait.reason != NEXT_POLL
        }
        fresh = [wait for key, wait in actions.items() if key not in self._waits and wait.reason != AT_WORK]
        self._waits = set(actions)
        only_actions = bool(actions) and only_actions_wait(monitor.session.jobs.values())
        shown, self._only_actions = self._only_actions, only_actions
        lines = waiting_lines(fresh) + ([ONLY_ACTIONS_WAIT] if only_actions and not shown else [])
        return [f"{_clock()} {line}" for line in lines]


def _line(job: JobState) -> str:
    known_as = [f"job {job.newest.scheduler_id}"] if job.newest.scheduler_id else []
    detail = ", ".join([*known_as, *causes(job)])
    return f"{job.name}: {job.state}" + (f" ({detail})" if detail else "")


def _clock() -> str:
    return time.strftime("%H:%M:%S")
