"""Scalars of a YAML file whose meaning depends on the type of their key, kept as they are written. Pure.

YAML 1.1 reads an unquoted `no` as false (also the one in `[en, no, sv]`), `1.10` as 1.1 and `12e4567` as infinity.
While a config is composed, such a scalar is a text that begins with a mark; `config.declared` settles what it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from oellm_autoexp.core.text import scalar

_MARK = "\ufdd2"  # a noncharacter of Unicode: in no text that people write
_WORD = re.compile(r"yes|no|on|off", re.IGNORECASE)
_TRUE = ("yes", "on", "true")
_BOOLEAN = re.compile(r"true|false", re.IGNORECASE)
_INT = re.compile(r"[-+]?(?:0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0o[0-7][0-7_]*|0|[1-9][0-9_]*)")
_BASES = {"0x": 16, "0o": 8, "0b": 2}


def is_word(text: str) -> bool:
    """Whether an unquoted text is one of yes, no, on and off, in any case."""
    return _WORD.fullmatch(text) is not None


def is_truth(text: str) -> bool:
    """Whether a text is `true` or `false`, in any case."""
    return _BOOLEAN.fullmatch(text) is not None


def mark(text: str) -> str:
    """An unquoted scalar, to be settled later."""
    return _MARK + text


def as_written(value: Any) -> Any:
    """The text of a marked scalar; anything else as it is."""
    return value[1:] if isinstance(value, str) and value.startswith(_MARK) else value


def is_marked(value: Any) -> bool:
    """Whether a value is a scalar that is still to be settled."""
    return isinstance(value, str) and value.startswith(_MARK)


def all_as_written(tree: Any) -> Any:
    """A tree with each marked scalar as its text."""
    if isinstance(tree, dict):
        return {key: all_as_written(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [all_as_written(value) for value in tree]
    return as_written(tree)


def integer(text: str) -> int:
    """The whole number of an unquoted scalar: `1_000`, `0x1F`, `0o17`, `0b101`."""
    plain = text.replace("_", "").lower()
    sign, digits = (plain[0], plain[1:]) if plain[0] in "+-" else ("", plain)
    return int(sign + digits, _BASES.get(digits[:2], 10))


def decimal(text: str) -> float:
    """The floating-point number of an unquoted scalar: `1e-4`, `.5`, `-.inf`."""
    return float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower()))


def exact(value: bool | int | float, text: str) -> Any:
    """A scalar's value if the program writes it in the same way; else the marked text, which keeps the spelling."""
    if scalar(value) == text or type(value_of(text)) is not type(value):  # as with `!!float 5`
        return value
    return mark(text)


def value_of(text: str) -> bool | int | float:
    """What an unquoted scalar is where no text is meant: true, false or a number."""
    if is_word(text) or is_truth(text):
        return text.lower() in _TRUE
    return integer(text) if _INT.fullmatch(text) else decimal(text)


def out_of_range(text: str) -> bool:
    """Whether a number is too large or too close to 0 for a floating-point number (`12e4567`, `1e-400`)."""
    value = value_of(text)
    if not isinstance(value, float):
        return False
    digits = re.split("[eE]", text)[0]
    return (math.isinf(value) and "inf" not in text.lower()) or (value == 0 and re.search("[1-9]", digits) is not None)


_IN_OVERRIDE = re.compile(r"(?<=[=\[,:{ ])([-+]?[0-9.][\w.+-]*|true|false)(?=\s*(?:[,\]}]|$))", re.IGNORECASE)

_NUMBER_OF_HYDRA = re.compile(
    r"[-+]?(?:(?:0|[1-9](?:_?\d)*)(?:\.(?:\d(?:_?\d)*)?)?|\.\d(?:_?\d)*)(?:[eE][-+]?\d(?:_?\d)*)?", re.ASCII
)
"""What Hydra reads as a number (INT and FLOAT in OverrideLexer.g4); `010` and `0x1` are texts there."""


def mark_override(text: str, value: Any, parse: Callable[[str], Any]) -> str:
    """An override of Hydra's in which scalars that have another spelling than the program's are marked texts.

    `value` is its value, and `parse` reads that of an override (ValueError: it is none). Where a mark would change the
    value, there is none.
    """
    if isinstance(value, str) or not any(isinstance(each, bool | int | float) for each in _leaves(value)):
        return text
    key, _, written = text.partition("=")
    try:
        marked = f"{key}={_IN_OVERRIDE.sub(_quoted, f'={written.rstrip()}')[1:]}"
        same = marked == text or repr(_settled(parse(marked))) == repr(value)  # nan is not equal to itself
        return marked if same else text
    except ValueError:  # what only looks like a number, or may stand in no quotes
        return text


def _quoted(match: re.Match[str]) -> str:
    if not (is_truth(match[1]) or _NUMBER_OF_HYDRA.fullmatch(match[1])):
        return match[1]
    value = exact(value_of(match[1]), match[1])
    return f'"{value}"' if is_marked(value) else match[1]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _settled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_settled(item) for item in value]
    return value_of(as_written(value)) if is_marked(value) else value
