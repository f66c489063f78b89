"""Failed attempts of sessions, those of one kind together: by the fingerprint of their cause, the most frequent first.

`groups` is pure; `print_failures` is what people see of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.text import plural, printable
from oellm_autoexp.decisions.restarts import NEXT_LINK
from oellm_autoexp.session.job_state import JobState

if TYPE_CHECKING:
    from oellm_autoexp.causes.cause import Cause

_NAMES_SHOWN = 3
_LINES_OF_CAUSE = 2
_LINES_OF_GROUP = 6
"""Lines of a group on a screen, with the empty one below it."""
_INDENT = "  "


@dataclass(frozen=True, kw_only=True)
class FailedAttempt:
    """Why an attempt failed. `state`: the job's state now; `at`: when it ended, seconds since 1970, None: unknown."""

    session: str
    job: str
    state: str
    attempt: int
    cause: Cause
    at: float | None = None


@dataclass(frozen=True)
class FailureGroup:
    """Attempts that failed in the same way, the newest one last; there is at least one."""

    attempts: Sequence[FailedAttempt]

    @property
    def newest(self) -> FailedAttempt:
        """The last of them."""
        return self.attempts[-1]

    @property
    def jobs(self) -> list[tuple[str, str]]:
        """Session and name of each job, the one that failed last at the front."""
        return list(dict.fromkeys((each.session, each.job) for each in reversed(self.attempts)))

    @property
    def states(self) -> dict[str, int]:
        """How many of the jobs are in which state now."""
        now = {(each.session, each.job): each.state for each in self.attempts}
        return dict(Counter(now.values()).most_common())

    @property
    def blamed_nodes(self) -> list[str]:
        """The nodes at fault, in the order of their names."""
        return sorted({node for each in self.attempts for node in each.cause.blamed_nodes})


def failed_attempts(session: str, jobs: Iterable[JobState]) -> list[FailedAttempt]:
    """The failed attempts of jobs, also of jobs that a later attempt has brought further; those with a known cause.

    A link of a chain that the next one has followed after its time limit has not failed.
    """
    found = []
    for job in jobs:
        is_chain = NEXT_LINK in job.past.restarts
        failures = [each for each in job.past.failures if not (is_chain and each.cause.category == "time")]
        known: dict[int, tuple[Cause, float | None]] = {each.attempt: (each.cause, None) for each in failures}
        if job.run.cause is not None:
            known[job.attempt] = (job.run.cause, job.newest.ended_at)
        found += [
            FailedAttempt(session=session, job=job.name, state=job.state, attempt=attempt, cause=cause, at=at)
            for attempt, (cause, at) in known.items()
        ]
    return found


def groups(attempts: Iterable[FailedAttempt]) -> list[FailureGroup]:
    """Groups of one fingerprint each: of the most jobs first, then of the most attempts, then the newest."""
    found: dict[str, list[FailedAttempt]] = {}
    for each in attempts:
        found.setdefault(each.cause.fingerprint, []).append(each)
    made = [FailureGroup(sorted(members, key=_moment)) for members in found.values()]
    return sorted(made, key=lambda group: (-len(group.jobs), -len(group.attempts), -_moment(group.newest)[0]))


def _moment(attempt: FailedAttempt) -> tuple[float, int]:
    """What sorts attempts by time; of an earlier attempt no time is kept."""
    return attempt.at or 0, attempt.attempt


def group_facts(group: FailureGroup) -> dict[str, Any]:
    """A group for programs; without secrets."""
    cause = group.newest.cause
    return {
        "fingerprint": cause.fingerprint,
        "category": cause.category,
        "text": cause.text,
        "rule": cause.rule,
        "jobs": [{"session": session, "job": job} for session, job in group.jobs],
        "states": group.states,
        "attempts": len(group.attempts),
        "blamed_nodes": group.blamed_nodes,
        "rank": cause.rank,
        "node": cause.node,
        "log_path": redact_text(cause.path),
        "offset": cause.offset,
        "line": cause.line,
    }


def most_groups(screen: Console, said: int) -> int | None:
    """How many groups a screen has room for beside `said` other lines; None where there is no terminal."""
    return max(1, (screen.size.height - said) // _LINES_OF_GROUP) if screen.is_terminal else None


def print_failures(screen: Console, shown: Sequence[FailureGroup], *, with_session: bool, whole: bool) -> None:
    """Print groups, each in a few lines of the screen's width; with `whole`, nothing is cut or left out."""
    for group in shown:
        cause, jobs = group.newest.cause, group.jobs
        head = Text(f"{plural(len(jobs), 'job')}, {plural(len(group.attempts), 'attempt')}", style="bold")
        head.append(f"  {cause.category}  ", style="red")
        head.append(f"{cause.fingerprint}  now {', '.join(f'{n} {state}' for state, n in group.states.items())}", "dim")
        most = len(jobs) if whole else _NAMES_SHOWN
        names = [f"{session}/{job}" if with_session else job for session, job in jobs[:most]]
        more = [f"and {len(jobs) - most} more"] if len(jobs) > most else []
        nodes = ", ".join(group.blamed_nodes)
        lines = [
            (head, 1),
            (Text(_INDENT + printable(cause.text)), _LINES_OF_CAUSE),
            (Text(f"{_INDENT}{'job' if len(jobs) == 1 else 'jobs'} {', '.join([*names, *more])}", "dim"), 1),
            *([(Text(f"{_INDENT}at fault: {nodes}", "yellow"), 1)] if nodes else []),
        ]
        for line, most_lines in lines:
            if not whole:
                line.truncate(screen.width * most_lines, overflow="ellipsis")
            screen.print(line, soft_wrap=True)
        if cause.path:  # never cut: it is to be copied
            place = f"{_INDENT}{printable(redact_text(cause.path))}, byte {cause.offset}"
            screen.print(Text(place, "cyan"), soft_wrap=True)
            if whole and cause.line:
                screen.print(Text(f"{_INDENT}{_INDENT}{cause.line}", "dim"), soft_wrap=True)
        screen.print()
