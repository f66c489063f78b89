"""Reads the ends of an attempt's logs once it has ended badly, and concludes why (see the folder causes)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import yaml
from pydantic import TypeAdapter

from oellm_autoexp.causes.analysis import find_cause
from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.rule import CauseRule, CauseRules, combined
from oellm_autoexp.causes.signs import LogText, says_enough
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.states import BAD_ENDS, CANCELLED
from oellm_autoexp.engine.observing.log_reader import files_of
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.storage.files import shipped_text
from oellm_autoexp.storage.log_tail import read_end

SHIPPED = "config/monitoring/causes.yaml"
_FIRST_BYTES, _MOST_BYTES = 1 << 20, 64 << 20
"""How much of the end of a file is read at first, and at most; a failure is near the end."""
_MOST_FILES = 4096
_RANK = re.compile(r"(?:rank|task|proc)[_.-]?(\d+)|[_.-](\d+)(?=\.\w+$|$)", re.IGNORECASE)


@cache
def shipped_rules() -> Mapping[str, CauseRule | None]:
    """The rules that every run uses."""
    section = yaml.safe_load(shipped_text(SHIPPED))["causes"]
    rules: Mapping[str, CauseRule | None] = TypeAdapter(CauseRules).validate_python(section)
    return rules


@dataclass(frozen=True)
class CauseFinder:
    """Finds causes; `own`: the rules of `monitoring.causes`, by job."""

    specs: Mapping[str, JobSpec]
    own: Mapping[str, Mapping[str, CauseRule | None]]

    def with_cause(self, job: JobState) -> JobState:
        """A job that has ended, with why it failed; one that did not, or was cancelled on purpose, as it is."""
        by_people = job.state == CANCELLED and job.cancelled_by and not job.run.error_type
        if job.state not in BAD_ENDS or not job.newest.runs or by_people:
            return job
        return replace(job, run=replace(job.run, cause=self.cause(job)))

    def cause(self, job: JobState) -> Cause:
        """Why the newest attempt of a job failed."""
        answer = job.answer
        ending = Ending(
            scheduler_state=answer.scheduler_state,
            exit_code=answer.exit_code,
            nodes=answer.nodes,
            failed_nodes=answer.failed_nodes,
            out_of_memory=answer.out_of_memory,
            cancelled_by=job.cancelled_by or (job.restart.reason if job.restart else ""),
        )
        rules = combined(self.own[job.name], shipped_rules())
        return find_cause(ending, self._texts(job), rules)

    def _texts(self, job: JobState) -> Iterator[LogText]:
        spec = self.specs[job.name]
        paths = dict.fromkeys([job.logs.resolved_log_path, *files_of(spec, job)])
        for path in [path for path in paths if path][:_MOST_FILES]:
            own = path == job.logs.resolved_log_path
            size = _FIRST_BYTES
            while True:
                data, start, whole = read_end(path, size, since=job.run.log_starts.get(path, ""))
                if whole or size >= _MOST_BYTES or says_enough(data):
                    break
                size *= 4
            if data:
                yield LogText(path, data, start, None if own else _rank(path))


def _rank(path: str) -> int | None:
    """The rank whose file it is, by its name: `rank_3.log`, `%j_3.out`."""
    found = _RANK.search(path.rpartition("/")[2])
    return int(found[1] or found[2]) if found else None
