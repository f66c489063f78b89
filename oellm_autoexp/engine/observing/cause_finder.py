"""Reads the ends of an attempt's logs once it has ended badly, and concludes why (see the folder causes)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import BinaryIO

from pydantic import TypeAdapter

from oellm_autoexp.causes.analysis import find_cause
from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.rule import TRIED, CauseRule, CauseRules, combined
from oellm_autoexp.causes.signs import LogText, says_enough
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.states import BAD_ENDS, CANCELLED
from oellm_autoexp.engine.observing.log_reader import files_of
from oellm_autoexp.rules.rules import SHIPPED_CAUSES
from oellm_autoexp.search.candidates import library_is_there
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.storage.files import parsed_yaml, shipped_text
from oellm_autoexp.storage.log_tail import pieces, read_end

_FIRST_BYTES, _MOST_BYTES = 8 << 20, 64 << 20
"""How much of the end of a file is read at first, and at most; a failure is near the end."""
_SLOW_BYTES, _FEWEST_BYTES = 2 << 20, 32 << 10
"""How much is read of all files together without the extra `fast`, and of one at least: `re` takes seconds for it."""
_MOST_FILES = 4096
_RANK = re.compile(r"(?:rank|task|proc)[_.-]?(\d+)", re.IGNORECASE)
_TASK = re.compile(r"[_.-](\d+)(?=\.\w+$|$)")


@cache
def shipped_rules() -> Mapping[str, CauseRule | None]:
    """The rules that every run uses; tests try them at their examples."""
    section = parsed_yaml(shipped_text(SHIPPED_CAUSES))["causes"]
    rules: Mapping[str, CauseRule | None] = TypeAdapter(CauseRules).validate_python(section, context=TRIED)
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
        own = job.logs.resolved_log_path
        paths = dict.fromkeys(path for path in (own, *files_of(self.specs[job.name], job)) if path)
        starts = {path: job.run.log_starts.get(path, "") for path in paths}
        return ends_of_logs(starts, {path: rank_of(path, numbered=True) for path in paths if path != own})


def ends_of_logs(starts: Mapping[str, str], ranks: Mapping[str, int | None]) -> Iterator[LogText]:
    """What the ends of logs say: so much of each that all that may be a cause of the end is in it.

    `starts`: where the lines that count begin in each file (Run.log_starts), '' for its beginning; `ranks`: whose file
    it is. Files without lines, and files that can't be read, are left out.
    """
    paths = list(starts)[:_MOST_FILES]
    first, most = _FIRST_BYTES, _MOST_BYTES
    if not library_is_there():
        first = most = max(_FEWEST_BYTES, _SLOW_BYTES // max(1, len(paths)))
    for path in paths:
        size = first
        while True:
            data, start, whole = read_end(path, size, since=starts[path])
            if whole or size >= most or says_enough(data):
                break
            size *= 4
        if data:
            yield LogText(path, data, start, ranks.get(path))


def end_of_stream(name: str, stream: BinaryIO) -> list[LogText]:
    """The last lines of a stream, which is read to its end."""
    kept, left_out = deque[bytes](), 0
    size = 0
    for piece in pieces(stream):
        kept.append(piece)
        size += len(piece)
        while size - len(kept[0]) >= _MOST_BYTES:
            size -= len(kept[0])
            left_out += len(kept.popleft())
    return [LogText(name, b"".join(kept), left_out)] if kept else []


def rank_of(path: str, *, numbered: bool = False) -> int | None:
    """The rank whose file it is, by its name: `rank_3.log`; `numbered`: also by a number alone (`%j_3.out`)."""
    name = path.rpartition("/")[2]
    found = _RANK.search(name) or (_TASK.search(name) if numbered else None)
    return int(found[1]) if found else None
