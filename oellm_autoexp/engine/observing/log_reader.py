"""Reading the logs of a job: whole lines that were added since the last poll become events and progress."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.decisions import detect
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.sbatch.log_paths import stream_files
from oellm_autoexp.session.job_state import JobState, with_events
from oellm_autoexp.storage.log_tail import Cursor, read_added
from oellm_autoexp.submission.outcomes import link_current

_LOG_BYTES_PER_POLL = 64 << 20
"""How much of one file is read in one poll; the rest is read in the next polls."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class LogReader:
    """Reads the log, the streams and the `monitoring.output_paths` of jobs, from where the last poll stopped."""

    specs: Mapping[str, JobSpec]
    detectors: Mapping[str, Detector]

    def read(self, job: JobState, now: float, *, final: bool) -> JobState:
        """A job after everything that its files have got; `final`: the job has ended, and all of it is read."""
        if job.logs.resolved_log_path:
            job = self._read(job, job.logs.resolved_log_path, now, final=final)
        for path in files_of(self.specs[job.name], job):
            if path != job.logs.resolved_log_path:
                job = self._read(job, path, now, final=final)
        return job

    def up_to(self, job: JobState, now: float, size: int) -> JobState:
        """A job after its own log up to this byte, where a step of it began (status_files.Step)."""
        path = job.logs.resolved_log_path
        return self._read(job, path, now, final=False, until=size) if path else job

    def _read(self, job: JobState, path: str, now: float, *, final: bool, until: int | None = None) -> JobState:
        own = path == job.logs.resolved_log_path
        detector = self.detectors[job.name]
        left = _LOG_BYTES_PER_POLL
        link = self.specs[job.name].log_path_current
        while True:
            before = job.logs.cursor if own else job.logs.cursors.get(path, Cursor())
            limit = _PIECE_BYTES if until is None else min(_PIECE_BYTES, until - before.offset)
            if limit <= 0:
                return job
            data, cursor = read_added(path, before, final=final, limit=limit, overwritten=not own)
            # only where something is new: a log without new lines costs one stat a poll
            if own and (data or final) and not os.path.lexists(link) and os.path.lexists(path):
                link_current(self.specs[job.name], path)
            if own:
                job = detect.see_log(job, data, cursor, now)
            elif cursor != before:
                logs = replace(job.logs, cursors={**job.logs.cursors, path: cursor})
                run = replace(job.run, last_activity=now) if data or cursor.grew(before) else job.run
                job = replace(job, logs=logs, run=run)
            if not data:
                return job
            job = detector.measured(job, data, now, own=own)
            job = with_events(*detector.lines(job, data, cursor, now))
            left -= len(data)
            if left <= 0 and not final and until is None:
                return job


def files_of(spec: JobSpec, job: JobState) -> list[str]:
    """The further files of a job: `monitoring.output_paths`, and the streams of SLURM, such as one for each task."""
    found = [path for pattern in spec.streams for path in _files(*stream_files(pattern, job.newest.scheduler_id))]
    return list(dict.fromkeys((*spec.output_paths, *found)))


def _files(folder: str, names: str) -> list[str]:
    """The files of a folder whose names match; none where it can't be read now."""
    try:
        return sorted(map(str, Path(folder).glob(names)))
    except OSError:
        return []
