"""Retry times of refused submissions: growing pauses, spread so that sessions do not retry at the same moment."""

from __future__ import annotations

import random

RETRY_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 900.0
_MOST_DOUBLINGS = 10


def growing(refusals: int) -> float:
    """Seconds until the next try of a job, by the number of its refusals."""
    return min(RETRY_SECONDS * 2.0 ** min(refusals, _MOST_DOUBLINGS), LONGEST_RETRY_SECONDS)


def spread(now: float, pause: float) -> float:
    """The time after about `pause` seconds: many sessions that meet one limit must not come back all at once."""
    return now + pause * random.uniform(0.8, 1.2)  # noqa: S311  no secret
