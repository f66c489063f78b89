"""Names that are shortened, and stay distinct. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def short_names(names: Sequence[str], longest: int) -> list[str]:
    """Names of at most `longest` characters that stay distinct.

    What all of them begin or end with gives way first, then their middle. Where no such cut keeps them apart, those
    that would look alike stay as they are.
    """
    if all(len(name) <= longest for name in names):
        return list(names)
    several = set(names) if len(set(names)) > 1 else set()
    before = _in_common([*several])
    behind = min(_in_common([name[::-1] for name in several]), *(len(name) - before for name in names))

    def cut(name: str, share: float) -> str:
        over = len(name) - longest
        if over <= 0:
            return name
        if over + 1 <= before:
            return f"…{name[over + 1 :]}"
        if over + 2 <= before + behind:
            return f"…{name[before : len(name) - (over + 2 - before)]}…"
        middle = name[before : len(name) - behind]
        room = longest - 1 - (before > 1) - (behind > 1)
        head = round(room * share)
        tail = middle[len(middle) - (room - head) :] if room > head else ""
        return f"{'…' if before > 1 else name[:before]}{middle[:head]}…{tail}{'…' if behind > 1 else ''}"[:longest]

    shares = (0.5, 0.0, 0.25, 0.75, 1.0)
    found = min(([cut(name, share) for name in names] for share in shares), key=lambda made: -len(set(made)))
    alike = Counter(found)
    return [short if alike[short] == 1 else name for short, name in zip(found, names, strict=True)]


def _in_common(names: Sequence[str]) -> int:
    """The number of characters that all names begin with."""
    first, last = min(names, default=""), max(names, default="")
    return next(
        (index for index, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first)
    )
