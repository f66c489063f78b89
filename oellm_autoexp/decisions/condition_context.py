"""What the conditions of a job may use: files, other jobs, its event, and commands that run in the background."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from oellm_autoexp.core.states import BLOCKED, CANCELLED, FINAL, SUCCESS, UNSUBMITTED
from oellm_autoexp.storage.world import Check, Files

if TYPE_CHECKING:  # plans are made without sessions
    from oellm_autoexp.session.job_state import JobState


class CheckRunner:
    """Runs the commands of conditions in the background, each at its interval, as long as it is needed."""

    def __init__(self) -> None:
        self._checks: dict[tuple[str, tuple[str, ...]], Check] = {}

    @property
    def in_progress(self) -> bool:
        """True if a command runs."""
        return any(check.in_progress for check in self._checks.values())

    def has_pending(self, askers: Collection[str]) -> bool:
        """True if a running command of one of these askers has no first result yet."""
        return any(check.is_pending for (asker, _), check in self._checks.items() if asker in askers)

    def answer(
        self, asker: str, words: tuple[str, ...], work_dir: str, interval_seconds: float, now: float
    ) -> bool | None:
        """The last result of a command; None before the first."""
        check = self._checks.setdefault((asker, words), Check(words, work_dir, interval_seconds))
        check.says_yes(now)
        return check.said

    def wording(self, asker: str, words: tuple[str, ...]) -> str:
        """The last result of a command in words, or that there is none yet."""
        return self._checks[asker, words].answer

    def forget(self, asker: str) -> None:
        """End the commands of an asker that needs them no more."""
        for key in [key for key in self._checks if key[0] == asker]:
            self._checks.pop(key).give_up()

    def close(self) -> None:
        """End all commands."""
        for check in self._checks.values():
            check.give_up()
        self._checks.clear()


class Asking(Protocol):
    """Runs a command: its words and interval in, its last result out."""

    def __call__(self, words: tuple[str, ...], interval_seconds: float) -> bool | None: ...


def _nothing(key: str) -> Any:
    raise KeyError(key)


def _nobody(path: str) -> str:  # noqa: ARG001
    return ""


@dataclass(frozen=True)
class ConditionContext:
    """The surroundings of one job's conditions; `me` is the job, `last_run` when the action was last carried out."""

    files: Files
    jobs: Mapping[str, JobState]
    me: JobState
    now: float
    ask: Asking
    event_at: float | None = None
    last_run: float | None = None
    value: Callable[[str], Any] = _nothing
    settled: bool = False
    """Whether `me` has ended for good; of its actions those that wait alone may be left."""
    written_by: Callable[[str], str] = _nobody
    """The job of the plan that writes a path; '' if that is not known."""

    def exists(self, path: str) -> bool:
        """See Surroundings."""
        return self.files.exists(path)

    def count(self, pattern: str) -> int:
        """See Surroundings."""
        return self.files.count(pattern)

    def states(self, job: str) -> tuple[str, str]:
        """See Surroundings. A job with a planned new attempt has no state until that starts."""
        tracked = self.jobs[job]
        if tracked.state in FINAL and not self.ended(job):
            return "", ""
        unsubmitted = "FAILED" if tracked.failed else ""  # SLURM has refused it, and has no word for that
        return tracked.state, tracked.answer.scheduler_state or unsubmitted

    def ended(self, job: str | None) -> bool:
        """See Surroundings."""
        if job is None or job == self.me.name:
            return self.settled or self.me.over
        return self.jobs[job].over

    def writer(self, path: str) -> str:
        """See Surroundings."""
        name = self.written_by(path)
        return name if name in self.jobs and name != self.me.name else ""

    def dead_end(self, job: str) -> str:
        """See Surroundings."""
        other = self.jobs[job]
        if job == self.me.name:
            return ""
        if other.state == BLOCKED:
            return f"{job} is blocked"
        if not other.over or other.state == SUCCESS:
            return ""
        return f"{job} was cancelled" if other.state == CANCELLED else f"{job} has failed"

    def attempt(self) -> int:
        """See Surroundings."""
        return self.me.attempt

    def metadata(self, key: str) -> Any:
        """See Surroundings."""
        return self.value(key)

    def elapsed_seconds(self, since: str) -> float | None:
        """See Surroundings."""
        began = {"event": self.event_at, "start": self.me.newest.started_at, "submit": self.me.newest.submitted_at}[
            since
        ]
        if self.event_at is None and self.me.state in UNSUBMITTED:  # asked by its gate
            began = self.me.waiting.waiting_since
        return None if began is None else self.now - began

    def cooldown_seconds(self) -> float | None:
        """See Surroundings."""
        return None if self.last_run is None else self.now - self.last_run

    def answer(self, words: tuple[str, ...], interval_seconds: float) -> bool | None:
        """See Surroundings."""
        return self.ask(words, interval_seconds)

    def tail(self, path: str | None, length: int) -> str:
        """See Surroundings."""
        wanted = self.me.logs.resolved_log_path if path is None else path
        return self.files.tail(wanted, length) if wanted else ""
