"""The series of a session's jobs, as curves and as trends in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import Series
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.series import current_values, file_of, read
from oellm_autoexp.session.session import Session
from oellm_autoexp.view.curves.sparkline import sparkline

LOSS = "loss"
_TREND = 10
"""Characters of a trend."""
_GROWN = 1.02
"""How much larger a file is before the trend of its job is read again."""


def series_of(session: Session, job: JobState, metric: str) -> Series | None:
    """The points of a job's metric that no later attempt has replaced; None for none.

    Raises StateError, OSError where they can't be read.
    """
    found = read(file_of(session.path, job.name), job.logs.series, [metric]).get(metric)
    return None if found is None else found.current()


def metrics_of(jobs: Iterable[JobState]) -> list[str]:
    """The metrics of which points are kept, each once."""
    return list(dict.fromkeys(name for job in jobs for name in job.logs.series.points))


class Trends:
    """How the loss of jobs goes, read when it is shown and again when a job has reported noticeably more."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str]] = {}

    def of(self, session: Session) -> Callable[[JobState], str]:
        """The trend of a job of a session; '' for none."""

        def trend(job: JobState) -> str:
            size = job.logs.series.size
            known, line = self._known.get(job.name, (0, ""))
            if known <= size <= _GROWN * known:
                return line
            try:
                values = current_values(file_of(session.path, job.name), job.logs.series, LOSS) if size else ()
            except (OSError, AutoexpError):  # --cmd plot says why
                values = ()
            line = sparkline(values, _TREND)
            self._known[job.name] = size, line
            return line

        return trend
