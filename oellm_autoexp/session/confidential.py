"""The secrets of a session: taken out of what others may read of it, and kept in a file of their own.

`<plan_id>.secrets` (0600) beside the session holds values by random ids; a job's record says which id stands in which
of its places (`JobState.secrets`, JSON pointers). The file is written before the session that refers to it, and
forgets an id only after a snapshot without it, so that a crash at any instant loses none. Whoever can't read the file
sees `***` in those places.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.redaction import put_back, redact, taken_out
from oellm_autoexp.session import records
from oellm_autoexp.session.job_state import HistoryEntry, JobState
from oellm_autoexp.storage.files import read_json, write_atomic
from oellm_autoexp.storage.session_files import SessionFiles

SECRETS_VERSION = 1
_HOLDING: dict[str, Any] = {
    "restart": True,
    "changes": {"overrides"},
    "past": {"before"},
    "actions": {"pending", "unrecorded"},
}
"""The fields of a job, by part, that may hold secrets which are needed later: for a new attempt, or an action."""


def readable(job: JobState) -> JobState:
    """A job without secrets in its texts for people (reason, history)."""
    texts = (job.reason, job.cancelled_by, job.run.not_restarted)
    clean = tuple(redact_message(text) if text else "" for text in texts)
    if clean != texts:
        reason, cancelled_by, not_restarted = clean
        run = replace(job.run, not_restarted=not_restarted)
        job = replace(job, reason=reason, cancelled_by=cancelled_by, run=run)
    history = tuple(map(_readable_entry, job.history))
    if any(clean is not entry for clean, entry in zip(history, job.history, strict=True)):
        job = replace(job, history=history)
    return job


def _readable_entry(entry: HistoryEntry) -> HistoryEntry:
    message = redact_message(entry.message) if entry.message else ""
    return entry if message == entry.message else replace(entry, message=message)


def concealed(job: JobState) -> tuple[JobState, dict[str, Any]]:
    """A job that other users may read, and the values that were removed from its record, by place."""
    if not (job.restart or job.changes.overrides or job.past.before or job.actions.pending or job.actions.unrecorded):
        return job, {}
    data = records.record(job, include=_HOLDING)
    cleaned = redact(data)
    taken = dict(taken_out(data, cleaned))
    if not taken:
        return job, {}
    whole = records.record(job)
    parts = {name: {**whole[name], **part} if part else part for name, part in cleaned.items()}
    return records.job_of({**whole, **parts, "secrets": {}}), taken


class Confidential:
    """The secrets of the session at a path."""

    def __init__(self, session_path: Path) -> None:
        self.path = SessionFiles(session_path).secrets
        self._values: dict[str, Any] | None = None
        self._behind = False

    @property
    def values(self) -> dict[str, Any]:
        """The values in the file, by id; empty if the file is missing or not readable for this user."""
        if self._values is None:
            try:
                found = read_json(self.path, "session's secrets", SECRETS_VERSION).get("values")
            except AutoexpError:
                found = None
            self._values = found if isinstance(found, dict) else {}
        return self._values

    def revealed(self, data: Any) -> Any:
        """A job's record with its secrets put back, as far as they are known."""
        named = data.get("secrets") if isinstance(data, dict) else None
        if not isinstance(named, dict) or not named:
            return data
        known = {place: self.values[name] for place, name in named.items() if name in self.values}
        left = {place: name for place, name in named.items() if place not in known}
        return {**put_back(data, known), "secrets": left}

    def concealed(self, job: JobState) -> JobState:
        """A job's record without secrets, for the session's files; call `save` before it is written."""
        clean, taken = concealed(job)
        if not taken:
            return replace(clean, secrets={}) if clean.secrets else clean
        return replace(clean, secrets={place: self._named(value) for place, value in taken.items()})

    def _named(self, value: Any) -> str:
        for name, known in self.values.items():
            if known == value and type(known) is type(value):
                return name
        name = secrets.token_hex(8)
        self.values[name] = value
        self._behind = True
        return name

    def save(self) -> None:
        """Write new values to the file. Raises OSError."""
        if self._behind:
            text = json.dumps({"version": SECRETS_VERSION, "values": self.values}, ensure_ascii=False)
            write_atomic(self.path, f"{text}\n", 0o600)
            self._behind = False

    def forget_all_but(self, used: Iterable[str]) -> None:
        """Remove the values that no job needs any more. Raises OSError."""
        kept = set(used)
        if self._values and (gone := self._values.keys() - kept):
            self._values = {name: value for name, value in self._values.items() if name not in gone}
            self._behind = bool(self._values)
            self.save()
            if not self._values:
                self.path.unlink(missing_ok=True)
