"""What people and programs see of what waits: for what, since when, until when."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from oellm_autoexp.core.text import plural
from oellm_autoexp.rules.events import Deadline
from oellm_autoexp.session.waits import AT_WORK, Wait

MOST_LINES = 8
_MANY = 4


def waiting_lines(waits: Sequence[Wait], *, most: int = MOST_LINES, now: float | None = None) -> list[str]:
    """A line for each of the first waits, and how many more there are; none for nothing.

    Many jobs that wait for the same thing are one line, with the time since when the first of them waits.
    """
    alike = Counter(_same(wait) for wait in waits)
    groups: dict[object, list[Wait]] = {}
    for number, wait in enumerate(waits):
        groups.setdefault(_same(wait) if alike[_same(wait)] >= _MANY else number, []).append(wait)
    shown = list(groups.values())
    lines = [waiting_line(group[0], now) if len(group) == 1 else _of_many(group, now) for group in shown[:most]]
    left_out = sum(map(len, shown[most:]))
    return lines + ([f"… and {left_out} more"] if left_out else [])


def _same(wait: Wait) -> tuple[object, ...]:
    """What is equal for waits that can be one line."""
    return wait.kind, wait.action, wait.event, wait.reason, wait.deadline


def _of_many(group: Sequence[Wait], now: float | None) -> str:
    since = [wait.since for wait in group if wait.since is not None]
    what = f"{len(group)} jobs" + (f": {group[0].action} of {group[0].event}" if group[0].kind == "action" else "")
    return _line(what, replace(group[0], since=min(since, default=None)), now)


def waiting_line(wait: Wait, now: float | None = None) -> str:
    """`a: RunCommandAction of saved: waits for FileExists: x (since 13:03:11, until 14:03:11, then skipped)`."""
    return _line(wait.subject, wait, now)


def _line(what: str, wait: Wait, now: float | None) -> str:
    since = [f"since {clock(wait.since, now)}"] if wait.since is not None else []
    known = [*since, *([until(wait.deadline, now)] if wait.deadline else [])]
    return f"{what}: {wait.reason}" + (f" ({', '.join(known)})" if known else "")


def until(deadline: Deadline, now: float | None = None) -> str:
    """`until 14:03:11, then skipped`."""
    return f"until {clock(deadline.at, now)}, then {deadline.then}"


_LATEST = 1e11
"""Seconds since 1970, in the year 5138: later times come from files that were garbled, and no calendar has them."""


def local_time(at: float | None) -> time.struct_time:
    """The local time of seconds since 1970, or now; of what is none, the nearest one that there is."""
    return time.localtime(at if at is None else max(0.0, min(at, _LATEST)))


def clock(at: float, now: float | None = None) -> str:
    """A local time of day, with the date unless it is today."""
    then, today = local_time(at), local_time(now)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", then)


def action_count(waits: Sequence[Wait]) -> str:
    """`2 actions wait`, of those that are not at work; '' for none."""
    count = sum(wait.kind == "action" and wait.reason != AT_WORK for wait in waits)
    return f"{plural(count, 'action')} {'waits' if count == 1 else 'wait'}" if count else ""


def wait_facts(waits: Sequence[Wait]) -> list[dict[str, Any]]:
    """What waits, for programs; times in seconds since 1970, null where there is no limit."""
    return [
        {
            "job": wait.job,
            "kind": wait.kind,
            **({"action": wait.action, "event": wait.event} if wait.kind == "action" else {}),
            "reason": wait.reason,
            "since": wait.since,
            "until": None if wait.deadline is None else wait.deadline.at,
            "then": "" if wait.deadline is None else wait.deadline.then,
        }
        for wait in waits
    ]
