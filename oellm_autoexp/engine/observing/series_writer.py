"""Writing what was read of metrics to the files of series, before a session says how far its logs were read."""

from __future__ import annotations

from dataclasses import replace

from oellm_autoexp.session import series
from oellm_autoexp.session.session import Session


def write_points(session: Session) -> None:
    """Write the points that jobs have got since the last poll. Raises OSError, StateError."""
    for job in [job for job in session.jobs.values() if job.logs.unwritten]:
        path = series.file_of(session.path, job.name)
        written = series.append(path, job.logs.series, job.attempt, job.logs.unwritten)
        session.put(replace(job, logs=replace(job.logs, series=written, unwritten=())))
