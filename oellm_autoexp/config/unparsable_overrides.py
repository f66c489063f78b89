"""What is wrong with an override that does not parse: the character at fault, and how to write it. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.limits import MOST_DIGITS
from oellm_autoexp.core.location import Location

_WHAT = "the override does not parse"
_PAIR = "write key=value"
_IN_KEY = re.compile(r"[A-Za-z0-9_./@:$\-]")
_PLAIN = re.compile(r"[A-Za-z0-9_\-/.+$%*@?|:\\ \t]")
"""The characters of a value that need no quotes (Hydra's OverrideLexer.g4)."""
_INDEX, _AS_KEY = re.compile(r"\[['\"]?([\w-]+)['\"]?\]"), r".\1"
_WITH_COLON = re.compile(r"(?P<key>[+~]*[\w./@$-]+):\s*(?P<value>[^=\s][^=]*)")
"""An override as it would stand in a YAML file."""
_OPENING = {"[": "]", "{": "}", "(": ")"}
_LONGEST_SHOWN = 200
_LONG_NUMBER = re.compile(rf"[\d_]{{{MOST_DIGITS + 1},}}", re.ASCII)


def unparsed(text: str, parses: Callable[[str], bool]) -> Problem:
    """The problem of an override that does not parse; `parses` says whether another text would."""
    found = _unparsed(text, parses)
    return replace(found, where=Location(text=cut(found.where.text)))


def cut(text: str) -> str:
    """An override as messages show it: no longer than a few lines."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _unparsed(text: str, parses: Callable[[str], bool]) -> Problem:
    written, equals, value = text.partition("=")
    key = written.lstrip("+~")
    if number := _LONG_NUMBER.search(value):
        return Problem(
            f"a number has {len(number[0])} digits", text, f"at most {MOST_DIGITS}; text needs quotes of its own"
        )
    if colon := _WITH_COLON.fullmatch(text):
        key, value = colon["key"], colon["value"].strip()
        if "," in value and value[0] not in _OPENING and value[0] not in "'\"":
            return Problem(_WHAT, text, f"write {key}=VALUE; several values to try go into the section sweep")
        return Problem(_WHAT, text, f"write {key}={value if parses(f'{key}={value}') else 'VALUE'}")
    if not equals:
        return Problem(_WHAT, text or "''", _PAIR)
    if key.strip() and (key != key.strip() or value != value.lstrip()):
        joined = f"{written.strip()}={value.strip()}"
        return Problem(
            f"{_WHAT}: no spaces are allowed around '='", text, f"write {joined}" if parses(joined) else _PAIR
        )
    for index, character in enumerate(key):
        if not _IN_KEY.match(character):
            at = len(written) - len(key) + index + 1
            dotted = f"{re.sub(_INDEX, _AS_KEY, written)}={value}"
            hint = f"write {dotted}" if character == "[" and parses(dotted) else _PAIR
            return Problem(f"{_WHAT}: the character {character!r} (position {at}) is not allowed in a key", text, hint)
    if key.startswith("/"):
        bare = f"{written.replace('/', '', 1)}={value}"
        return Problem(f"{_WHAT}: a key does not begin with '/'", text, f"write {bare}" if parses(bare) else _PAIR)
    cause = _at_fault(value, len(written) + 1)
    needs = "a value with ~, commas, quotes or brackets needs quotes of its own: "
    quoted = f'{written}="{value}"' if '"' not in value else f"{written}='{value}'"
    if not cause or len(text) > _LONGEST_SHOWN or not parses(quoted):
        return Problem(f"{_WHAT}: {cause}" if cause else _WHAT, text, f"{_PAIR}; {needs}'key=\"a, b\"'")
    mend = "close it; " if "is not closed" in cause else ""
    return Problem(f"{_WHAT}: {cause}", text, f"{mend}text needs quotes of its own: {shlex.quote(quoted)}")


def _at_fault(value: str, begin: int) -> str:
    """What in a value is at fault, '' if nothing is found. Positions count from 1; the value is behind `begin`."""
    opened: list[tuple[str, int]] = []
    quote, quoted_at, index = "", 0, 0
    first_odd = ""
    while index < len(value):
        character, at = value[index], begin + index + 1
        if character == "\\":
            index += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote, quoted_at = character, at
            first_odd = first_odd or _within(value, index, at, opened)
        elif character in _OPENING and (character != "(" or opened):
            first_odd = first_odd or _within(value, index, at, opened)
            opened.append((character, at))
        elif character in _OPENING.values() and (character != ")" or opened):
            if not opened:
                return f"the {character!r} at position {at} has no matching opening bracket"
            if _OPENING[opened[-1][0]] != character:
                return f"the {opened[-1][0]!r} at position {opened[-1][1]} is not closed before {character!r}"
            opened.pop()
            if not opened and not first_odd and value[index + 1 :].strip():
                first_odd = f"there is text after the {character!r} at position {at}"
        elif not _PLAIN.match(character) and not (opened and character in ",=") and not first_odd:
            first_odd = f"the character {character!r} (position {at}) needs quotes"
        index += 1
    if quote:
        return f"the quote {quote} at position {quoted_at} is not closed"
    if opened:
        return f"the {opened[-1][0]!r} at position {opened[-1][1]} is not closed"
    return first_odd


def _within(value: str, index: int, at: int, opened: Sequence[object]) -> str:
    """That a quote or bracket stands within text, or '' where a value may begin."""
    before = value[:index].rstrip()
    if opened or not before:
        return ""
    return f"the {value[index]!r} at position {at} is inside text"


def taken_apart(texts: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """The overrides without those that a shell has cut at spaces around `=` (`a.b = 3`), and the problems of these."""
    kept: list[str] = []
    problems: list[Problem] = []
    index = 0
    while index < len(texts):
        words = list(texts[index : index + 3])
        count = _cut(words)
        if count:
            joined = "".join(words[:count])
            what = f"{_WHAT}: no spaces are allowed around '='"
            if "=" not in joined:
                joined, what = "=".join(joined.split(":", 1)), _WHAT
            problems.append(Problem(what, " ".join(words[:count]), f"write {joined}"))
        else:
            kept.append(texts[index])
        index += count or 1
    return kept, problems


def _cut(words: Sequence[str]) -> int:
    """How many of the words, from the first, are one override that was cut; 0 if the first is whole."""

    def bare(position: int) -> bool:
        return len(words) > position and words[position] != "" and not re.search("[=~]", words[position])

    if len(words) > 1 and bare(0):
        if words[1] == "=" and bare(2):
            return 3
        if len(words[1]) > 1 and words[1].startswith("="):
            return 2
    return 2 if len(words) > 1 and re.fullmatch(r"[+~]*[^=]+=|[+~]*[\w./@-]+:", words[0]) and bare(1) else 0
