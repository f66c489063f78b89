"""Times and lengths of time, as people write them in options. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from oellm_autoexp.core.errors import ConfigError, Problem

_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|min|m|h|d)", re.ASCII)
_CLOCK = re.compile(r"(\d\d?):(\d\d)", re.ASCII)
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def length(text: str) -> float | None:
    """The seconds of `30s`, `5min`, `2h` or `3d`; None for any other text."""
    found = _LENGTH.fullmatch(text)
    return float(found[1]) * _SECONDS[found[2]] if found else None


def moment(text: str, now: float, option: str) -> float:
    """Seconds since 1970 of `2h` (ago), `14:30` (the last one) or a date, in local time. Raises ConfigError."""
    if (ago := length(text)) is not None:
        return now - ago
    try:
        if clock := _CLOCK.fullmatch(text):
            hour, minute = map(int, clock.groups())
            then = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0).timestamp()
            return then if then <= now else then - 86400
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        hint = "write 30min, 2h, 3d, 14:30 or 2026-01-31T14:30"
        raise ConfigError(Problem(f"{text!r} is no time", option, hint)) from None
