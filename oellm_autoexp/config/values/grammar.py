"""OmegaConf's grammar of interpolations. All use of what OmegaConf does not document is in this module. Pure.

It works with OmegaConf 2.3 and 2.4, whose visitor hands over a node's key as an object instead of text.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

from omegaconf import grammar_parser
from omegaconf._utils import split_key
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from omegaconf.grammar_visitor import GrammarVisitor

__all__ = ["GrammarError", "decode", "parses", "split_key", "visit"]


class GrammarError(Exception):
    """A text is not written in the grammar; says why, in OmegaConf's words."""


def visit(text: str, node: Callable[[str], Any], resolver: Callable[[str, tuple[Any, ...]], Any]) -> Any:
    """What a text means, where `node(key)` stands for `${key}` and `resolver(name, arguments)` for `${name:…}`.

    Raises GrammarError.
    """

    def of_node(key: Any, memo: Any) -> Any:  # noqa: ARG001
        return node(cast("str", getattr(key, "raw", key)))

    def of_resolver(name: str, args: tuple[Any, ...], args_str: tuple[str, ...]) -> Any:  # noqa: ARG001
        return resolver(name, args)

    visitor = _visitor(of_node, of_resolver)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # OmegaConf's, of `${name:a,}`
            return visitor.visit(grammar_parser.parse(text))
    except OmegaConfBaseException as error:
        raise GrammarError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    except RecursionError:
        raise GrammarError("it is nested too deeply") from None


def decode(text: str, refused: Callable[..., Any]) -> Any:
    """The value that a text spells (`1e-4`, `[a, 2]`); `refused` is called for an interpolation, and should raise.

    Raises GrammarError.
    """
    visitor = _visitor(refused, refused)
    try:
        return visitor.visit(grammar_parser.parse(text, parser_rule="singleElement", lexer_mode="VALUE_MODE"))
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise GrammarError(str(error)) from None


def parses(text: str) -> bool:
    """Whether the grammar takes a text."""
    try:
        grammar_parser.parse(text)
    except (GrammarParseError, RecursionError):
        return False
    return True


def _visitor(node: Callable[..., Any], resolver: Callable[..., Any]) -> GrammarVisitor:
    return GrammarVisitor(node_interpolation_callback=node, resolver_interpolation_callback=resolver, memo=None)
