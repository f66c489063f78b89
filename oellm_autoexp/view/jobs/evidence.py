"""What the log of a job that ended badly says: its cause, the line of the event that named its trouble, or its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.states import BAD_ENDS, CRASH, OOM
from oellm_autoexp.core.text import printable
from oellm_autoexp.search.escapes import without_escapes
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.world import Files

_TAIL_BYTES = 4096
_LONGEST_LINE = 1000
_OF_OTHERS = ("srun: ", "slurmstepd: ")
"""How lines begin by which SLURM says in a log that a program has ended; what the program said is above them."""
_OF_THE_SCRIPT = "oellm-autoexp: "
"""How lines of the job's own script begin, which show nothing of the program."""


class Evidence:
    """Quotes of a session's jobs; of each attempt the files are read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, str], str] = {}

    def of(self, session: Session, jobs: Iterable[JobState] | None = None) -> dict[str, str]:
        """For each job that ended badly what its log says, by name; nothing for those of which that is not known."""
        bad = [job for job in (session.jobs.values() if jobs is None else jobs) if job.state in BAD_ENDS]
        unknown = [job for job in bad if _key(job) not in self._known]
        if unknown:
            lines = _of_events(session, [job for job in unknown if job.run.error_type and not _found(job)])
            for job in unknown:
                self._known[_key(job)] = _found(job) or lines.get(job.name) or _end_of_log(job)
        return {job.name: quote for job in bad if (quote := self._known[_key(job)])}


def quotes(session: Session) -> dict[str, str]:
    """See Evidence.of."""
    return Evidence().of(session)


def _key(job: JobState) -> tuple[str, int, str]:
    cause = job.run.cause
    return job.name, job.attempt, cause.fingerprint if cause else job.run.error_type


def _found(job: JobState) -> str:
    """The cause in words, as concluded from the logs; '' if they did not show any."""
    cause = job.run.cause
    return "" if cause is None or (cause.category == "unknown" and not cause.rule) else cause.text


def _of_events(session: Session, jobs: Iterable[JobState]) -> dict[str, str]:
    """The lines of the first events that named the jobs' trouble, by job."""
    wanted = {(job.name, job.run.error_type): job.attempt for job in jobs}
    if not wanted:
        return {}

    def named(event: Mapping[str, Any]) -> bool:
        return wanted.get((event.get("job", ""), event.get("name", ""))) == event.get("attempt")

    try:
        found = EventLog(session.path).histories(named, newest_first=True)
        return {event.job: _said(event.metadata) for event, _ in found.shown}
    except AutoexpError:  # a record that can't be read is reported by --cmd events
        return {}


def _said(metadata: Mapping[str, Any]) -> str:
    if line := metadata.get("line"):
        return printable(str(line))
    silent = metadata.get("silent_seconds")
    return f"silent for {silent} s" if silent else ""


def _end_of_log(job: JobState) -> str:
    """The last line that says something, of a job of which nothing but its exit code is known."""
    path = job.logs.resolved_log_path
    if not path or job.state not in (CRASH, OOM) or job.run.error_type or not job.answer.exit_code:
        return ""
    lines = [line.strip() for line in without_escapes(Files("/").tail(path, _TAIL_BYTES)).splitlines()]
    lines = [line for line in lines if line and not line.startswith(_OF_THE_SCRIPT)]
    last = next((line for line in reversed(lines) if not line.startswith(_OF_OTHERS)), lines[-1] if lines else "")
    if not last or (job.reason and last.endswith(job.reason)):  # that is shown anyway
        return ""
    return f"its log ends with: {printable(redact_text(last))[:_LONGEST_LINE]}"
