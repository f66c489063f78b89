"""SLURM's time formats (sbatch(1), --time) and seconds."""

from __future__ import annotations

import math
import re
from datetime import datetime

from oellm_autoexp.core.errors import ConfigError, Problem

TIME = "slurm.sbatch.time"
"""The key of a job's time limit."""
_SHOWN = 40
_FORMS = "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or days-hours:minutes:seconds"
_TIME = re.compile(r"(?:(?P<days>\d{1,9})-)?(?P<rest>\d{1,9}(?::\d{1,9}){0,2})", re.ASCII)


def parse_time(text: str | int) -> int | None:
    """Seconds of a SLURM time; None for no limit: `UNLIMITED`, `INFINITE`, `-1` or zero in any form. An int is minutes.

    Raises ConfigError.
    """
    word = str(text).strip()
    if word.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return None
    match = _TIME.fullmatch(word)
    if match is None:
        shown = repr(text) if len(word) <= _SHOWN else f"{word[:_SHOWN]!r}…"
        raise ConfigError(Problem(f"{shown} is not a time that sbatch knows", hint=f"write {_FORMS}"))
    parts = [int(part) for part in match["rest"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        hours += int(match["days"]) * 24
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = parts if len(parts) == 3 else (0, *parts)
    return (hours * 60 + minutes) * 60 + seconds or None


_AUTOMATIC = re.compile(r"auto(?:\s*\*\s*(?P<factor>\d{1,3}(?:\.\d{1,6})?))?")
AUTOMATIC_FACTOR = 1.25
"""How much longer an automatic time limit is than what 9 of 10 runs are expected to need."""


def is_automatic(value: object) -> bool:
    """Whether a time limit is to be found when a plan is made: `auto` or `auto*1.5`."""
    return isinstance(value, str) and _AUTOMATIC.fullmatch(value.strip()) is not None


def automatic(value: object) -> float | None:
    """The factor of an automatic time limit, `auto` or `auto*1.5`; None for any other value. Raises ConfigError."""
    match = _AUTOMATIC.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        if isinstance(value, str) and value.strip().lower().startswith("auto"):
            hint = "write auto, or auto*1.5 for another margin"
            raise ConfigError(Problem(f"{value!r} is no automatic time limit", hint=hint))
        return None
    factor = float(match["factor"] or AUTOMATIC_FACTOR)
    if factor < 1:
        raise ConfigError(Problem(f"{value}: the factor of an automatic time limit is at least 1", hint="write auto"))
    return factor


def time_limit(text: str) -> int | None:
    """Seconds of a SLURM time; None for no limit, and for text that is not a time."""
    try:
        return parse_time(text)
    except ConfigError:
        return None


def format_time(seconds: float) -> str:
    """Seconds as `D-HH:MM:SS`, rounded up to a whole second. Raises ValueError below 0 and for what is no number."""
    if not 0 <= seconds < math.inf:
        raise ValueError("a time is a number of seconds from 0 on")
    days, rest = divmod(math.ceil(seconds), 86400)
    return f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"


def is_past(text: str, now: datetime) -> bool:
    """Whether a date, with or without a time of the day (sbatch(1), --deadline), has passed; not for other forms."""
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return False
    return then.astimezone() < now
