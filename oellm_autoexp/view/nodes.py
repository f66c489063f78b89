"""What people and programs see of nodes that were blamed: plain data in, a table and facts out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from oellm_autoexp.core.text import printable
from oellm_autoexp.nodes.entry import BY_HAND, Entry
from oellm_autoexp.nodes.judge import Limits, Record
from oellm_autoexp.view.jobs.waiting import clock

_NAMES_SHOWN = 3
_COLOURS = {"left out": "red", "counted": "yellow"}


def state(record: Record) -> str:
    """`left out`; `counted`: below the limit; `forgiven`, `expired`: nothing counts."""
    if record.until is not None:
        return "left out"
    if record.counted:
        return "counted"
    newest = record.newest
    forgiven = record.forgiven is not None and (newest is None or newest.at <= record.forgiven.at)
    return "forgiven" if forgiven else "expired"


def by_interest(found: Sequence[Record]) -> list[Record]:
    """Those that are left out first, then those that count; of these, the one that was blamed last."""
    order = ("left out", "counted", "forgiven", "expired")
    return sorted(found, key=lambda record: (order.index(state(record)), -_last_at(record)))


def _last_at(record: Record) -> float:
    return record.newest.at if record.newest else 0.0


def nodes_table(found: Sequence[Record], limits: Limits, now: float) -> Table:
    """Nodes, one a row; `now`: seconds since 1970."""
    clusters = {record.cluster for record in found} != {""}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("node", *(("cluster",) if clusters else ()), "state", "until", "blamed", "last", "causes"):
        table.add_column(column, justify="right" if column == "blamed" else "left", no_wrap=column != "causes")
    for record in found:
        newest, word = record.newest, state(record)
        below = word == "counted" and limits.exclude_after is not None
        table.add_row(
            record.node,
            *((printable(record.cluster or "any other"),) if clusters else ()),
            Text(f"{record.attempts} of {limits.exclude_after}" if below else word, style=_COLOURS.get(word, "dim")),
            clock(record.until, now) if record.until is not None else "",
            str(len(record.counted)),
            clock(newest.at, now) if newest else "",
            ", ".join(f"{printable(category)} {count}" for category, count in record.causes.items()),
        )
    return table


def reasons(record: Record, now: float) -> str:
    """`n2: a GPU has fallen off the bus (p/a, q/b)`: what it was blamed for last, in which jobs, and who forgave it."""
    newest, forgiven = record.newest, record.forgiven
    last = f"{printable(newest.reason)} ({_jobs(record)})" if newest else ""
    if forgiven is None or state(record) != "forgiven":
        return f"{record.node}: {last}"
    by = f" by {forgiven.user}" if forgiven.user else ""
    why = f" ({printable(forgiven.reason)})" if forgiven.reason else ""
    return f"{record.node}: forgiven {clock(forgiven.at, now)}{by}{why}; before: {last}"


def _jobs(record: Record) -> str:
    names = list(dict.fromkeys(map(_job, reversed(record.counted or record.past))))
    more = [f"and {len(names) - _NAMES_SHOWN} more"] if len(names) > _NAMES_SHOWN else []
    return ", ".join([*map(printable, names[:_NAMES_SHOWN]), *more])


def _job(entry: Entry) -> str:
    return f"by {entry.user}" if entry.category == BY_HAND else f"{entry.plan}/{entry.job}"


def record_facts(record: Record) -> dict[str, Any]:
    """A node for programs; times in seconds since 1970."""
    newest, forgiven = record.newest, record.forgiven
    return {
        "node": record.node,
        "cluster": record.cluster,
        "state": state(record).replace(" ", "_"),
        "until": record.until,
        "attempts": record.attempts,
        "causes": record.causes,
        "last_at": newest.at if newest else None,
        "last_reason": newest.reason if newest else "",
        "blames": [_entry_facts(entry, counts=True) for entry in record.counted]
        + [_entry_facts(entry, counts=False) for entry in record.past],
        "forgiven": {"at": forgiven.at, "by": forgiven.user, "reason": forgiven.reason} if forgiven else None,
    }


def _entry_facts(entry: Entry, *, counts: bool) -> dict[str, Any]:
    facts = asdict(entry)
    return {**{name: facts[name] for name in facts if name not in ("kind", "node", "cluster")}, "counts": counts}
