"""Interpolations as people write them, in the form that OmegaConf's grammar accepts. Pure.

- `${oc.eval:int(50e9 / ${b})}` needs no quotes: the expression is quoted here, as OmegaConf's grammar, which knows no
  operators, takes only a quoted one as one argument.
- Inside `sweep`, `\\${x}` and `${x}` are the same: a value of the job, resolved per job; and so are, everywhere,
  `\\${sibling.x}` and `${sibling.x}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any


def normalise(tree: Any, *, in_sweep: bool = False) -> Any:
    """`tree` with every interpolation in a form that OmegaConf's grammar accepts (see the module's docstring)."""
    if isinstance(tree, dict):
        return {key: normalise(value, in_sweep=in_sweep) for key, value in tree.items()}
    if isinstance(tree, list):
        return [normalise(value, in_sweep=in_sweep) for value in tree]
    if isinstance(tree, str) and "${" in tree:
        return quote_expressions((_ESCAPED if in_sweep else _ESCAPED_SIBLING).sub("${", tree))
    return tree


_ESCAPED = re.compile(r"\\+\$\{")  # however many backslashes
_ESCAPED_SIBLING = re.compile(r"\\+\$\{(?=sibling\.)")


_EVAL = re.compile(r"\s*oc\.eval\s*:")


def quote_expressions(text: str) -> str:
    """`text` with the argument of each `${oc.eval:…}` quoted, unless it already is; an escaped `\\${` is left alone."""
    return "".join(literal + _interpolation(inside) for literal, inside in _pieces(text))


def _interpolation(inside: str | None) -> str:
    if inside is None:
        return ""
    call = _EVAL.match(inside)
    if call is None:
        return f"${{{quote_expressions(inside)}}}"
    argument = _without_blanks(inside[call.end() :])
    return f"${{oc.eval:{quote_expressions(argument) if _is_quoted(argument) else _quote(argument)}}}"


def _without_blanks(argument: str) -> str:
    """An argument without the blanks around it, but for those at its end that OmegaConf keeps.

    It keeps one that is escaped, and all behind a colon (OmegaConfGrammarLexer.g4: a colon has its blanks with it).
    """
    argument = argument.lstrip()
    kept = argument.rstrip()
    blanks = argument[len(kept) :]
    before = kept.removesuffix(":")
    escaped = (len(before) - len(before.rstrip("\\"))) % 2
    if before == kept:
        return kept + blanks[:escaped]
    return kept if escaped else kept + blanks


def _pieces(text: str, *, unquoted: bool = False) -> Iterator[tuple[str, str | None]]:
    """The literal parts of a text, each with the inside of the interpolation behind it (None: there is none).

    In an `unquoted` argument, outside of its own quotes, no backslash keeps an interpolation from being one.
    """
    begin = position = 0
    while (start := text.find("${", position)) >= 0:
        backslashes = start - len(text[:start].rstrip("\\"))
        end = _closing(text, start + 2)
        escaped = backslashes % 2 and not (unquoted and not _unescaped(text[:start], "")[1])
        if escaped or end < 0:
            position = start + 2
            continue
        yield text[begin:start], text[start + 2 : end]
        begin = position = end + 1
    yield text[begin:], None


def _closing(text: str, index: int) -> int:
    """The index of the brace that closes the interpolation whose inside begins at `index`, or -1."""
    depth, quote = 1, ""
    while 0 <= index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif text.startswith("${", index):
            index = _closing(text, index + 2)
            if index < 0:
                return -1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return index
        index += 1
    return -1


def _is_quoted(argument: str) -> bool:
    """Whether an argument is one quoted text from its first character to its last."""
    if argument[:1] not in ("'", '"'):
        return False
    index = 1
    while index < len(argument):
        if argument[index] == "\\":
            index += 1
        elif argument.startswith("${", index):
            index = _closing(argument, index + 2)
            if index < 0:
                return False
        elif argument[index] == argument[0]:
            return index == len(argument) - 1
        index += 1
    return False


def _quote(argument: str) -> str:
    """An argument without quotes as OmegaConf's quoted text, in which nothing but a quote is escaped."""
    quoted, inside_of = "", ""
    for literal, interpolation in _pieces(argument, unquoted=True):
        plain, inside_of = _unescaped(literal, inside_of)
        quoted += re.sub(r"(\\*)'", r"\1\1\\'", plain)
        if not inside_of or interpolation is None:  # backslashes before an interpolation, or at the end, count half
            quoted += plain[len(plain.rstrip("\\")) :]
        quoted += _interpolation(interpolation)
    return f"'{quoted}'"


_ESCAPES = re.compile(r"\\.|['\"]|[^\\'\"]+|\\", re.DOTALL)
_ESCAPABLE = "\\()[]{}:=, \t"  # OmegaConfGrammarLexer.g4, ESC


def _unescaped(literal: str, quote: str) -> tuple[str, str]:
    """A part of an argument with OmegaConf's escapes resolved, but for those in quotes.

    `quote` is the sign that stands around the beginning of the part; the one around its end is returned, too.
    """
    text = ""
    for token in _ESCAPES.findall(literal):
        if quote:
            quote = "" if token == quote else quote
        elif token in ("'", '"'):
            quote = token
        elif len(token) == 2 and token[0] == "\\" and token[1] in _ESCAPABLE:
            token = token[1]
        text += token
    return text, quote
