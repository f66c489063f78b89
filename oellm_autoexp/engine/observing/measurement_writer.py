"""Writing what the attempts of a session took beside it, for the estimates of later plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.learning import past_runs
from oellm_autoexp.learning.estimating import ENOUGH, Run
from oellm_autoexp.learning.measuring import METRICS, measured
from oellm_autoexp.session import series
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.files import write_atomic
from oellm_autoexp.storage.session_files import SessionFiles

_EVERY_SECONDS = 300.0
_MOST_BYTES = 4 << 20
"""Of a job's series so many are read."""
_MOST_JOBS = 500
_HARMLESS = frozenset({"slurm.sbatch.time"})
"""What new attempts may have of their own and be as fast as planned."""


class MeasurementWriter:
    """Writes the file of one session: when all of its jobs have ended, and every few minutes until then."""

    def __init__(self, specs: Mapping[str, JobSpec], session: Path, report: Callable[[str], None]) -> None:
        self._specs = specs
        self._path = SessionFiles(session).measured
        self._report = report
        self._due_at = 0.0
        self._known: dict[str, tuple[Any, list[Run]]] = {}
        self._text = ""
        self._trouble = ""

    def write(self, session: Session, now: float) -> None:
        """Write it if it is due; a problem is reported, and hinders nothing else."""
        finished = session.finished
        if now < self._due_at and not finished:
            return
        try:
            if not finished and self._age(now) < _EVERY_SECONDS:  # another monitor has written it (`--once`)
                return
            self._due_at = now + _EVERY_SECONDS
            text = past_runs.text_of(self._runs(session))
            if text and text != self._text:
                write_atomic(self._path, text, sync=False)
                self._text = text
        except OSError as error:
            self._note(f"{error.strerror or error}: {self._path}")
        except AutoexpError as error:
            self._note(error.problems[0].sentence)

    def _age(self, now: float) -> float:
        try:
            return now - self._path.stat().st_mtime
        except FileNotFoundError:
            return now

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._report(f"what the jobs took is not kept for later plans: {trouble}")

    def _runs(self, session: Session) -> Iterator[Run]:
        """The newest attempts of each kind of work, of the newest jobs."""
        jobs = sorted(session.jobs.values(), key=lambda job: job.newest.submitted_at or 0.0, reverse=True)
        counts: Counter[Any] = Counter()
        for job in [job for job in jobs if job.attempt][:_MOST_JOBS]:
            work = self._specs[job.name].workload
            if work is None or job.changes.overrides.keys() - _HARMLESS:
                continue
            kind = work.shape, *work.sizes.items()
            if counts[kind] < ENOUGH:
                runs = self._of_job(session, job)
                counts[kind] += len(runs)
                yield from runs

    def _of_job(self, session: Session, job: JobState) -> list[Run]:
        """The attempts of a job, read again if there is something new of them."""
        work = self._specs[job.name].workload
        mark = job.attempt, job.state, job.logs.series.size, job.newest.ended_at
        known = self._known.get(job.name)
        if known is None or known[0] != mark:
            points = series.read(series.file_of(session.path, job.name), job.logs.series, METRICS, most=_MOST_BYTES)
            taken = measured(job, points, work.save_interval) if work else []
            if (chain := self._specs[job.name].chain) and chain.progress_file:  # it may have gone on from earlier runs
                taken = [each.model_copy(update={"whole": None}) for each in taken if each.pace is not None]
            runs = [Run(work, each) for each in taken] if work else []
            self._known[job.name] = known = mark, runs
        return known[1]
