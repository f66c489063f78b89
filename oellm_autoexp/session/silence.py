"""For how long a job has been silent; time counts only while a monitor polls. Pure.

A session has a clock of its own (`Watched`), which goes on from look to look and stands still while nobody looks: while
the monitor or its machine sleeps, while a file system hangs, between two monitors, and when the time of day is set.
What stands still is judged by that clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from oellm_autoexp.core.nouns import Record
from oellm_autoexp.session.job_state import JobState, Still

_USUAL_POLLS = 3
"""An interval between two polls of one process counts for at most so many poll intervals."""
_BETWEEN_SINGLE_LOOKS_SECONDS = 3600.0
"""An interval between two single polls (`--once`, as from cron) counts for at most so many seconds."""
LOG = ""
"""Key for the silence of a job's logs; that of a progress rule has the rule's name as its key."""


class Watched(Record):
    """The clock of a session: seconds of watching, and the time (seconds since 1970) and kind of the last poll."""

    seconds: float = 0.0
    looked_at: float | None = None
    once: bool = False
    """True if the last poll was a single one (`--once`)."""

    def after(self, now: float, since_last: float | None, poll_interval_seconds: float, *, once: bool) -> Watched:
        """The clock at a poll. `since_last`: seconds since the last poll of this process, None at its first.

        The time between two single looks (`--once`) counts, because no process looks more often; the time between
        other processes does not.
        """
        if since_last is not None:
            passed = min(since_last, _USUAL_POLLS * poll_interval_seconds)
        elif once and self.once and self.looked_at is not None:
            passed = min(now - self.looked_at, _BETWEEN_SINGLE_LOOKS_SECONDS)
        else:
            passed = 0.0
        return Watched(seconds=self.seconds + max(0.0, passed), looked_at=now, once=once)


def marks(job: JobState, counters: list[str]) -> dict[str, str]:
    """By name, a text that changes whenever the job shows activity."""
    run = f"{job.newest.runs} {job.run.resumed_at}{f' {job.run.steps}' if job.run.steps else ''}"
    found = {LOG: f"{run} {job.run.last_activity}"}
    for name in counters:
        reading = job.run.readings.get(name)
        found[name] = f"{run} {reading.since if reading else None}"
    return found


def since(still: Mapping[str, Still], marks: Mapping[str, str], clock: float) -> dict[str, Still]:
    """Since when (session's clock) each mark has not changed, counted from the poll that first saw it."""
    found = {}
    for name, mark in marks.items():
        known = still.get(name)
        same = known is not None and known.mark == mark and known.since <= clock
        found[name] = known if known is not None and same else Still(mark=mark, since=clock)
    return found
