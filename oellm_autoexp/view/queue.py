"""What people see of a queue: plain data in, rich renderables and lines out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.redaction import redact
from oellm_autoexp.core.text import plural, shell
from oellm_autoexp.rules.actions import Action
from oellm_autoexp.session.queue_entry import DONE, FAILED, PENDING, RUNNING, QueueEntry
from oellm_autoexp.storage.lock import Holder
from oellm_autoexp.view.jobs.waiting import local_time

_COLOURS = {PENDING: "", RUNNING: "cyan", DONE: "green", FAILED: "red"}
_FEW = 60
_ID_CHARACTERS = 8


def queue_table(entries: Sequence[QueueEntry], held: Mapping[str, Holder | None], now: float | None = None) -> Table:
    """Entries, one a row. `held` names who is at those that run, by id; `now`: seconds since 1970."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("event", "id", "job", "action", "status", "age", "attempts", "message"):
        number = column in ("age", "attempts")
        table.add_column(column, justify="right" if number else "left", no_wrap=column not in ("message", "action"))
    length = id_length([entry.id for entry in entries])
    for entry in entries:
        table.add_row(
            entry.event.name,
            entry.id[:length],
            entry.event.job,
            Text(few_words(entry.action), overflow="fold"),
            Text(status(entry, held.get(entry.id)), style=_COLOURS[entry.status]),
            age((now or time.time()) - (entry.finished_at or entry.created_at)),
            str(entry.attempts),
            Text(redact_text(entry.message), style="dim", overflow="fold"),
        )
    return table


def id_length(ids: Sequence[str]) -> int:
    """How many characters distinguish these ids (at least 8)."""
    length = _ID_CHARACTERS
    while len({name[:length] for name in ids}) < len(set(ids)):
        length += 4
    return length


def status(entry: QueueEntry, holder: Holder | None) -> str:
    """An entry's status; of one that runs, who is at it."""
    if entry.status != RUNNING:
        return entry.status
    if entry.sidecar is not None:
        return f"running as job {entry.sidecar.job_id}" if entry.sidecar.job_id else "being submitted"
    return f"running ({entry.worker})" if holder is not None else "its worker died; to be run again"


def few_words(action: Action) -> str:
    """What an action does, in a line; without secrets."""
    line = " ".join(redact_text(action.summary()).split())
    return line if len(line) <= _FEW else f"{line[: _FEW - 1]}…"


def age(seconds: float) -> str:
    """`5 s`, `12 min`, `3 h`, `2 d`."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def tally_line(name: str, tally: Counter[str]) -> str:
    """`checkpoint_saved: 12 done, 1 failed`."""
    return f"{name}: {', '.join(f'{tally[word]} {word}' for word in (DONE, FAILED) if tally[word])}"


def queue_headline(entries: Sequence[QueueEntry]) -> str:
    """`4 entries wait or run: 3 pending, 1 running`."""
    counts = Counter(entry.status for entry in entries)
    parts = ", ".join(f"{counts[word]} {word}" for word in (PENDING, RUNNING) if counts[word])
    return f"{plural(len(entries), 'action')} in the queue: {parts}"


def entry_lines(entry: QueueEntry, holder: Holder | None, output: Sequence[str]) -> list[str]:
    """Everything about an entry, and the last lines of what it printed."""
    action = redact(entry.action.model_dump(mode="json", exclude_defaults=True))
    facts = {
        "id": entry.id,
        "status": status(entry, holder),
        "message": redact_text(entry.message),
        "event": f"{entry.event.id} ({entry.event.kind}, {_when(entry.event.at)})",
        "job": f"{entry.event.job}, attempt {entry.event.attempt}",
        "action": few_words(entry.action),
        **{f"  {key}": _short(value) for key, value in action.items()},
        **{f"  with {key}": _short(value) for key, value in redact(entry.event.metadata).items()},
        "executor": _executor(entry),
        "directory": entry.work_dir,
        "put": _when(entry.created_at),
        "begun": _when(entry.started_at),
        "ended": _when(entry.finished_at),
        "attempts": str(entry.attempts),
        "worker": entry.worker,
        "output": entry.output_path,
    }
    lines = [f"{key:<12} {value}" for key, value in facts.items() if value]
    lines += [f"{'earlier':<12} {past.status} {_when(past.finished_at)}: {past.message}" for past in entry.history]
    return [*lines, *([f"--- the end of its output, {plural(len(output), 'line')}", *output] if output else [])]


def _executor(entry: QueueEntry) -> str:
    if entry.executor is None:
        return ""
    options = " ".join(f"{key}={value}" for key, value in entry.executor.sbatch.items())
    return f"{entry.executor.cluster} {options}".rstrip()


def _short(value: object) -> str:
    return shell([str(word) for word in value]) if isinstance(value, list) else str(value)


def _when(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", local_time(at))
