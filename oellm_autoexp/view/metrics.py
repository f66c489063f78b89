"""The series of a session's jobs, as curves and as trends in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import Series
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.series import current_values, file_of, read
from oellm_autoexp.session.session import Session
from oellm_autoexp.view.curves.sparkline import sparkline
from oellm_autoexp.view.jobs.columns import TREND_CELLS, JobSeries

LOSS = "loss"
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


class SeriesReader:
    """What is shown of the series of jobs, read when it is shown.

    The trend of a loss is read again when its job has reported noticeably more, a last value when it has reported more.
    """

    def __init__(self) -> None:
        self._trends: dict[str, tuple[int, str]] = {}
        self._last: dict[tuple[str, str], tuple[int, float | None]] = {}

    def of(self, session: Session) -> JobSeries:
        """The series of the jobs of a session."""

        def trend(job: JobState) -> str:
            size = job.logs.series.size
            known, line = self._trends.get(job.name, (0, ""))
            if known <= size <= _GROWN * known:
                return line
            line = sparkline(_values(session, job, LOSS), TREND_CELLS)
            self._trends[job.name] = size, line
            return line

        def last(job: JobState, metric: str) -> float | None:
            size = job.logs.series.size
            known, value = self._last.get((job.name, metric), (0, None))
            if known != size:
                values = _values(session, job, metric)
                value = values[-1] if len(values) else None
                self._last[job.name, metric] = size, value
            return value

        return JobSeries(trend, last)


def _values(session: Session, job: JobState, metric: str) -> Sequence[float]:
    try:
        return current_values(file_of(session.path, job.name), job.logs.series, metric) if job.logs.series.size else ()
    except (OSError, AutoexpError):  # --cmd plot says why
        return ()
