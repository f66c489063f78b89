"""One line of a node log: a node was blamed for a failed attempt, or forgiven. Pure.

The name of a node goes into commands of SLURM, and the line may be another user's: a line whose values are not of the
form given here counts as none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.text import printable

BY_HAND = "by hand"
"""The category of a report that a person made."""
PREFLIGHT = "preflight"
"""The category of a node that failed a check before the training began."""
_NODE = r"^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$"
_LONGEST_TEXT, _LONGEST_NAME = 300, 300

_Name = Annotated[str, Field(max_length=_LONGEST_NAME)]
_Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """That a node was blamed, for which attempt and why; or that it is forgiven what it was blamed for before.

    `at`: seconds since 1970; of a blamed node when the attempt ended. `cluster` '': on every cluster. `user`: whose log
    the line is in, which the file's owner shows; it is not part of the line.
    """

    __pydantic_config__ = ConfigDict(extra="ignore", strict=True)

    at: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    kind: Literal["blamed", "forgiven"]
    node: Annotated[str, Field(pattern=_NODE)]
    cluster: _Name = ""
    category: _Name = ""
    reason: _Text = ""
    plan: _Name = ""
    job: _Name = ""
    attempt: Annotated[int, Field(ge=0)] = 0
    fingerprint: _Name = ""
    user: Annotated[str, Field(exclude=True)] = ""

    @property
    def of(self) -> tuple[str, str, int]:
        """The attempt: plan, job and number."""
        return self.plan, self.job, self.attempt

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What is in the log once, however often it is written."""
        return (*self.of, self.node)


_ENTRY = TypeAdapter(Entry)


def is_node(name: str) -> bool:
    """Whether a text can be the name of a node."""
    return re.fullmatch(_NODE, name) is not None


def bounded(text: str) -> str:
    """A text for people as a line of the log holds it: one line, without secrets, not too long."""
    words = " ".join(printable(redact_text(text)).split())
    return words if len(words) <= _LONGEST_TEXT else f"{words[: _LONGEST_TEXT - 1]}…"


def line_of(entry: Entry) -> str:
    """The line of an entry, without its end."""
    return _ENTRY.dump_json(replace(entry, reason=bounded(entry.reason))).decode()


def entries_in(lines: Iterable[bytes], user: str) -> list[Entry]:
    """The entries in lines of a user's log; whatever is none is passed over."""
    found = []
    for line in lines:
        try:
            entry = _ENTRY.validate_json(line)
        except ValidationError:  # cut, or of a later version
            continue
        found.append(replace(entry, user=user))
    return found
