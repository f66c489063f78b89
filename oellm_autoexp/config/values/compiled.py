"""Compiles the text of an interpolation, once, with OmegaConf's own grammar, to look-ups and calls. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from oellm_autoexp.config.values.grammar import GrammarError, split_key, visit
from oellm_autoexp.config.values.shell_variables import of_a_shell
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.limits import LONGEST_INTERPOLATED, LONGEST_TEXT, shortened
from oellm_autoexp.core.text import doubled_braces

if TYPE_CHECKING:
    from oellm_autoexp.config.values.interpolation import Resolution

Path = tuple[str, ...]
Program = Callable[["Resolution", Path], Any]
"""A compiled text: its value in a resolution, as seen from the leaf at a path. Raises ConfigError."""

_SIMPLE = re.compile(r"\$\{(\w[\w-]*(?:\.\w[\w-]*)*)\}", re.ASCII)
_BEGIN, _END = "\ufdd0", "\ufdd1"  # no characters of any text: they stand around the number of a _Symbol
_MARK = re.compile(f"{_BEGIN}(\\d+){_END}")


class Reference:
    """`${a.b}`, or `${.b}` relative to the leaf that holds it: one dot is its own mapping, each further one higher."""

    def __init__(self, key: str) -> None:
        parts = split_key(key)
        self._key = key
        self._dots = next((index for index, part in enumerate(parts) if part), len(parts))
        self._parts = tuple(parts[self._dots :])

    def target(self, path: Path) -> Path:
        """The path that is meant from the leaf at `path`. Raises ConfigError above the root."""
        if not self._dots:
            return self._parts
        if self._dots > len(path):
            raise ConfigError(Problem(f"${{{self._key}}} goes above the root"))
        return (*path[: len(path) - self._dots], *self._parts)

    def __call__(self, resolution: Resolution, path: Path) -> Any:
        target = self.target(path)
        try:
            return resolution.at(target)
        except AbsentError:
            raise ConfigError(resolution.absent(self._key, target)) from None


class _Symbol(str):
    """What an interpolation is while the text around it is being read: a text that can be found again in others."""

    __slots__ = ("program",)
    program: Program


@lru_cache(maxsize=16384)
def compiled(text: str) -> Program:
    """The program of a text with interpolations. Raises ConfigError if it does not parse."""
    return _of_parts(_parts(text))


@lru_cache(maxsize=4096)
def compiled_template(text: str) -> Program:
    """As `compiled`, of a text that is filled as a template afterwards (core.text.fill).

    What its interpolations yield, and each escaped `\\${x}`, gets doubled braces, so that only the `{key}` that are
    written in the text itself are filled.
    """
    parts = _parts(text)
    whole = len(parts) == 1
    return _of_parts(
        [
            _ESCAPED.sub(r"${{\1}}", part) if isinstance(part, str) else _inserted(part, as_text=not whole)
            for part in parts
        ]
    )


_ESCAPED = re.compile(r"\$\{([^{}]*)\}")


def _inserted(program: Program, *, as_text: bool) -> Program:
    """The program of a value that is put into a template. What refers to another template is one, too."""

    def insert(resolution: Resolution, path: Path) -> Any:
        if isinstance(program, Reference) and resolution.is_template(target := program.target(path)):
            return resolution.template(target)
        value = program(resolution, path)
        return doubled_braces(resolution.as_text(value) if as_text else value)

    return insert


def _of_parts(parts: Sequence[str | Program]) -> Program:
    if len(parts) > 1:
        return _joined(parts)
    (only,) = parts
    return (lambda resolution, path: only) if isinstance(only, str) else only


def _parts(text: str) -> Sequence[str | Program]:
    """The literals of a text with interpolations, and the programs of these. Raises ConfigError if it doesn't parse."""
    if len(text) > LONGEST_INTERPOLATED:
        what = f"the text with interpolations has {len(text)} characters; at most {LONGEST_INTERPOLATED}"
        raise ConfigError(Problem(what))
    pieces = _SIMPLE.split(text)
    if any("$" in literal or "\\" in literal for literal in pieces[::2]):
        return _parts_by_grammar(text)
    return [Reference(piece) if index % 2 else piece for index, piece in enumerate(pieces) if index % 2 or piece]


def _parts_by_grammar(text: str) -> Sequence[str | Program]:
    """Lets OmegaConf's visitor read the text once, with symbols in place of the values of interpolations."""
    if _BEGIN in text:
        raise ConfigError(Problem("contains the reserved character U+FDD0"))
    symbols: list[_Symbol] = []

    def symbol(program: Program) -> _Symbol:
        made = _Symbol(f"{_BEGIN}{len(symbols)}{_END}")
        made.program = program
        symbols.append(made)
        return made

    def reference(key: str) -> _Symbol:
        if _BEGIN not in key:
            return symbol(Reference(key))
        key_of = _program(key, symbols)
        return symbol(lambda resolution, path: Reference(key_of(resolution, path))(resolution, path))

    def call(name: str, args: tuple[Any, ...]) -> _Symbol:
        name_of = _program(name, symbols)
        programs = [_program(argument, symbols) for argument in args]
        return symbol(
            lambda resolution, path: resolution.call(
                name_of(resolution, path), [program(resolution, path) for program in programs], path
            )
        )

    try:
        value = visit(text, reference, call)
    except GrammarError as error:
        raise ConfigError(
            Problem(
                f"the interpolation {shortened(text)} does not parse",
                hint=of_a_shell(text) or f"{shortened(str(error))[1:-1]}; quote arguments: ${{name:'…'}}",
            )
        ) from None
    return [value.program] if isinstance(value, _Symbol) else _split_at_symbols(value, symbols)


def _split_at_symbols(text: str, symbols: Sequence[_Symbol]) -> Sequence[str | Program]:
    pieces = _MARK.split(text)
    return [symbols[int(piece)].program if index % 2 else piece for index, piece in enumerate(pieces)]


def _program(value: Any, symbols: Sequence[_Symbol]) -> Program:
    """The program of what the visitor made of a text or of a part of it."""
    if isinstance(value, _Symbol):
        return value.program
    if isinstance(value, str) and _BEGIN in value:
        return _joined(_split_at_symbols(value, symbols))
    if isinstance(value, list):
        items = [_program(item, symbols) for item in value]
        return lambda resolution, path: [item(resolution, path) for item in items]
    if isinstance(value, dict):
        entries = {key: _program(item, symbols) for key, item in value.items()}
        return lambda resolution, path: {key: item(resolution, path) for key, item in entries.items()}
    return lambda resolution, path: value


def _joined(pieces: Sequence[str | Program]) -> Program:
    """The program that writes literals and values one after another."""

    def join(resolution: Resolution, path: Path) -> str:
        texts, length = [], 0
        for piece in pieces:
            text = piece if isinstance(piece, str) else resolution.as_text(piece(resolution, path))
            texts.append(text)
            length += len(text)
            if length > LONGEST_TEXT:
                raise ConfigError(Problem(f"its text is too long: at most {LONGEST_TEXT} characters"))
        resolution.spend(length)
        return "".join(texts)

    return join


class AbsentError(Exception):
    """There is nothing at a path."""
