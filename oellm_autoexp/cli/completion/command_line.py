"""A command line as it is typed: its words, and what may stand in their place, in the words of a shell. Pure.

What is offered is text, never code: no shell evaluates it, and bash, which takes it as it is, gets it quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

_CURSOR = "\x1f"
_CODE = re.compile(r"([^\w@%+=:,./-])", re.ASCII)
"""Characters that mean something to a shell, and those beyond ASCII, which may."""
_BREAKS = re.compile(r".*[=:]", re.DOTALL)
"""bash takes what follows one of these for a word of its own (COMP_WORDBREAKS)."""


@dataclass(frozen=True)
class Offer:
    """A text that may stand at the cursor. `whole`: the word ends there, and the next one may begin."""

    text: str
    about: str = ""
    whole: bool = True


FILES = ":files"
"""The line by which the shell is asked to offer files itself."""


def words_of(line: str) -> list[str]:
    """The words of a line up to the cursor, which is in the last one, without quotes; [] if that is unclear."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(f"{line}{_CURSOR}{closing}")
        except ValueError:
            continue
        return [word.replace(_CURSOR, "") for word in words]
    return []


def typed_words(shell: str, arguments: Sequence[str]) -> list[str]:
    """The words behind the program's name. bash hands over its line, the others their words, the last one as typed."""
    if shell == "bash":
        words = words_of(" ".join(arguments))
        called = next((number for number, word in enumerate(words) if "oellm-autoexp" in word), 0)
        return words[called + 1 :]
    return [word for raw in arguments[1:] for word in (words_of(raw) or [raw])[-1:]]


def lines(shell: str, typed: str, line: str, offers: Sequence[Offer]) -> list[str]:
    """The offers that begin with what is typed, as the functions of `shell_completion` read them.

    bash gets none for a word in quotes: what it takes for that word differs between its versions.
    """
    fitting = [each for each in offers if each.text.startswith(typed) and each.text.isprintable()]
    if shell != "bash":
        return [f"{each.text}\t{each.about.replace(chr(9), ' ')}" for each in fitting]
    if not line.endswith((f" {typed}", f" {_quoted(typed)}")):
        return []
    before = found[0] if (found := _BREAKS.match(typed)) else ""
    return [_quoted(each.text.removeprefix(before)) + " " * each.whole for each in fitting]


def _quoted(text: str) -> str:
    return _CODE.sub(r"\\\1", text)
