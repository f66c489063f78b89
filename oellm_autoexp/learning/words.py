"""Estimates in words. Pure."""

from __future__ import annotations

from typing import Any

from oellm_autoexp.core.nouns import Estimate, Workload
from oellm_autoexp.core.text import plural
from oellm_autoexp.learning.estimating import links_needed

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def about(seconds: float) -> str:
    """A length of time with two or three digits: `45 s`, `25 min`, `2.5 h`, `14 h`, `3.2 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        hours = seconds / _HOUR
        return f"{_short(hours)} h"
    return f"{_short(seconds / _DAY)} days"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 10 else f"{number:.0f}"


def needs(expected: Estimate, limit_seconds: int | None, links: int = 1) -> str:
    """`needs about 14 h (12 to 16 h, from 3 runs), has 12 h: 2 links`; `links`: those of the job's chain."""
    text = f"needs about {about(expected.seconds)} ({_details(expected)})"
    if limit_seconds is None:
        return text
    text = f"{text}, has {f'{links} links of ' if links > 1 else ''}{about(limit_seconds)}"
    if is_enough(expected, limit_seconds, links):
        return text
    needed = links_needed(expected, limit_seconds)
    if needed is None:
        return f"{text}: less than start-up and end take ({about(expected.per_link_seconds)})"
    return f"{text}: {plural(needed, 'link')}"


def is_enough(expected: Estimate, limit_seconds: int | None, links: int = 1) -> bool:
    """Whether a time limit, or so many links with it, are long enough for nearly all runs."""
    if limit_seconds is None:
        return True
    needed = links_needed(expected, limit_seconds)
    return needed is not None and needed <= links


def _details(expected: Estimate) -> str:
    low, high = about(expected.low), about(expected.high)
    parts = [] if low == high else [_between(low, high)]
    parts.append(f"from {plural(expected.runs, 'run')}" + (" of other sizes, scaled" if expected.scaled else ""))
    return ", ".join(parts)


def _between(low: str, high: str) -> str:
    """`12 to 16 h`, `50 min to 2 h`."""
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def memory(expected: Estimate, gpu_memory_gib: float | None) -> str:
    """`at most 61.2 GiB of GPU memory`; '' if it is not known."""
    if expected.memory_gib is None:
        return ""
    whole = "" if gpu_memory_gib is None else f" of {gpu_memory_gib:g} GiB"
    return f"at most {expected.memory_gib:.1f}{whole or ' GiB'} of GPU memory"


def facts(work: Workload, limit_seconds: int | None) -> dict[str, Any]:
    """A job's estimate for programs; `links` None: no number of jobs with this limit is enough."""
    if work.estimate is None:
        return {}
    links = 1 if limit_seconds is None else links_needed(work.estimate, limit_seconds)
    return {
        **work.estimate.model_dump(),
        "limit_seconds": limit_seconds,
        "limit_from": work.limit,
        "links": links,
        "gpu_memory_gib": work.gpu_memory_gib,
    }
