"""Secrets that are missing from a plan's record: a mark stands for each, so that an error can name what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem, raise_all
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.redacted_text import REDACTED

NO_VALUE = "its value is a secret, which is not in the plan's record"
MARK = re.compile(r"AUTOEXP_REDACTED_(\d+)_")


def marked(value: Any, place: Location, marks: list[Location]) -> Any:
    """A copy of recorded data in which each `***` is a mark, whose number is that of its place in `marks`."""
    if isinstance(value, dict):
        return {key: marked(item, place / str(key), marks) for key, item in value.items()}
    if isinstance(value, list):
        return [marked(item, place / index, marks) for index, item in enumerate(value)]
    if isinstance(value, str) and REDACTED in value:
        marks.append(place)
        return value.replace(REDACTED, f"AUTOEXP_REDACTED_{len(marks) - 1}_")
    return value


def problems_of(text: str, marks: Sequence[Location]) -> list[Problem]:
    """One problem for each secret whose mark is in a text."""
    hint = "set it by an override, or refer to a variable that is set now: ${oc.env:NAME}"
    places = dict.fromkeys(marks[int(number)] for number in MARK.findall(text))
    return [Problem(NO_VALUE, place, hint) for place in places]


@contextmanager
def secrets_named(marks: Sequence[Location]) -> Iterator[None]:
    """Say of an error in a block, if a secret's mark is in its words, that the secret is what is missing."""
    try:
        yield
    except AutoexpError as error:
        raise_all(ConfigError, problems_of(str(error), marks))
        raise
