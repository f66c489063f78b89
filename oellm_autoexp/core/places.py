"""Where in plain data values were taken out, and how they come back: places are JSON pointers (RFC 6901). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def taken_out(clear: Any, cleaned: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Where `cleaned`, which `redact` made of `clear`, differs: places (JSON pointers, RFC 6901) and what was there."""
    if clear is cleaned:
        return
    if isinstance(clear, Mapping) and isinstance(cleaned, Mapping):
        for key, item in clear.items():
            yield from taken_out(item, cleaned[key], f"{place}/{_escaped(key)}")
    elif isinstance(clear, list | tuple) and isinstance(cleaned, list | tuple):
        for number, (item, other) in enumerate(zip(clear, cleaned, strict=True)):
            yield from taken_out(item, other, f"{place}/{number}")
    elif clear != cleaned:
        yield place, clear


def _escaped(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


def put_back(cleaned: Any, places: Mapping[str, Any]) -> Any:
    """A copy of data as in JSON with values at their places (see `taken_out`); one that is not there is passed over."""
    return _put_back(cleaned, {place: item for place, item in places.items() if place.startswith("/")})


def _put_back(cleaned: Any, places: Mapping[str, Any]) -> Any:
    below: dict[str, dict[str, Any]] = {}
    for place, item in places.items():
        if not place:
            return item
        first, slash, rest = place[1:].partition("/")
        below.setdefault(first.replace("~1", "/").replace("~0", "~"), {})[f"{slash}{rest}"] = item
    if isinstance(cleaned, dict):
        return {**cleaned, **{key: _put_back(cleaned[key], items) for key, items in below.items() if key in cleaned}}
    if isinstance(cleaned, list):
        made = cleaned.copy()
        for number, items in below.items():
            if number.isdecimal() and len(number) < 10 and int(number) < len(made):
                made[int(number)] = _put_back(made[int(number)], items)
        return made
    return cleaned
