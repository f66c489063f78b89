"""Templates in the overrides of actions: what comes from a log arrives as the text that it is. Pure.

The overrides of a RestartAction are values, those of a RunAutoexpAction words in Hydra's grammar of overrides
(OverrideLexer.g4). In both OmegaConf reads `${…}`, and in the words of a command's `argv` `{key}` is filled again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from oellm_autoexp.core.text import FIELD, doubled_braces, escaped, fill, in_quotes, scalar, within_quotes

LookUp = Callable[[str], Any]
_ARGV = "backend.argv"
_WORDS = (_ARGV, "slurm.launcher_cmd")
_PLAIN = re.compile(r"[\w.+\-/@%]*")
"""A value that is the same in quotes and without, or a number, true, false or null."""
_SPECIAL = re.compile(r"([\\()\[\]{}:=, \t])")
_OPEN = re.compile(r"[^'\"\[\]{}(),\\]*")
"""The text of a value that may be put in quotes as a whole."""


def filled_value(text: str, look_up: LookUp, key: str) -> str:
    """A text in the value of an override, whose dotted key this is, with its templates filled."""
    return fill(text, lambda name: _literal(look_up(name), key))


def filled_word(text: str, look_up: LookUp, _key: str) -> str:
    """An override with its templates filled, each as a part of the value that it stands in."""
    name, equals, value = text.partition("=")
    key = name.lstrip("+~")
    if not equals or _fields(name):
        return fill(text, lambda each: _literal(look_up(each), key))
    plain = FIELD.sub("", value)
    if _OPEN.fullmatch(plain):
        found = fill(value, lambda each: _literal(look_up(each), key))
        whole = all(_PLAIN.fullmatch(scalar(look_up(each))) for each in _fields(value))
        return f"{name}={found if whole else in_quotes(found)}"
    return f"{name}={_filled_parts(value, lambda each: _literal(look_up(each), key))}"


def in_words(value: Any, key: str = "") -> Any:
    """An override's value in which a command that is one text with templates is words: no value makes a second one.

    A text that can't be split stays, to be refused where commands are read.
    """
    if isinstance(value, dict):
        return {name: in_words(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if key.lstrip("+") not in _WORDS or not isinstance(value, str) or "{" not in value:
        return value
    try:
        return shlex.split(value)
    except ValueError:
        return value


def _literal(value: Any, key: str) -> Any:
    """A value as it stands in a text in which OmegaConf, and perhaps a command's words, read templates of their own."""
    if not isinstance(value, str):
        return value
    return escaped(doubled_braces(value) if key == _ARGV or key.startswith(f"{_ARGV}.") else value)


def _fields(template: str) -> list[str]:
    return [found[1] for found in FIELD.finditer(template) if found[1] is not None]


def _filled_parts(template: str, look_up: LookUp) -> str:
    """A value with quotes or brackets of its own with its templates filled, each for what stands around it."""
    made, quote, at = "", "", 0
    for found in FIELD.finditer(template):
        before = template[at : found.start()]
        quote, at = _quote_after(before, quote), found.end()
        if found[1] is None:
            made += before + found.group()[0]
            continue
        text = scalar(look_up(found[1]))
        if quote:
            text = within_quotes(text, quote, ends=template[at : at + 1] == quote)
        elif not _PLAIN.fullmatch(text):
            text = in_quotes(text) if _is_alone(template, found) else _SPECIAL.sub(r"\\\1", text)
        made += before + text
    return made + template[at:]


def _is_alone(template: str, found: re.Match[str]) -> bool:
    """Whether a field is all of an item of a list or a mapping."""
    before, behind = template[: found.start()].rstrip(), template[found.end() :].lstrip()
    return before[-1:] in ("[", ",", ":") and behind[:1] in ("]", ",", "}")


def _quote_after(text: str, quote: str) -> str:
    """The quote that is open after a text, in which `quote` was open before; '' for none."""
    for sign in re.findall(r"\\.|['\"]", text):
        if sign == quote:
            quote = ""
        elif not quote and sign in "'\"":
            quote = sign
    return quote
