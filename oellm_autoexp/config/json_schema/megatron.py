"""Megatron-LM's arguments as keys of `backend.megatron`, with the words of its own parser. Pure."""

from __future__ import annotations

import importlib

from oellm_autoexp.backends.megatron.arguments import FORBIDDEN, VERSION, Argument, Arguments
from oellm_autoexp.backends.megatron.versions import VERSIONS
from oellm_autoexp.config.json_schema.values import Schema, one_of, typed

_OTHER_SPELLINGS = "^(--)?[a-z0-9]+(-[a-z0-9]+)+$"
"""Flags, which are keys, too (`train-iters`); which of them there are, the plan checks."""
_AUX = "Values of the user's own, which Megatron is not given."
_TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "name": "string"}


def megatron() -> Schema:
    """The mapping `backend.megatron`. An argument that only an older version has is marked as such."""
    properties: dict[str, Schema] = {"aux": {"description": _AUX, **typed(("object",))}}
    for version in (VERSION, *VERSIONS):
        for dest, argument in Arguments.of(version).dests.items():
            if dest not in properties and dest not in FORBIDDEN:
                properties[dest] = {"description": _text(argument, version), **_value(argument)}
    keywords = {"properties": properties, "patternProperties": {_OTHER_SPELLINGS: {}}, "additionalProperties": False}
    text = "Megatron-LM's arguments, by their dests; null leaves one to Megatron."
    return {"description": text, **typed(("object",), keywords)}


def _text(argument: Argument, version: str) -> str:
    said = _help(version).get(argument.dest, "")
    flags = ", ".join(f"`{flag}`" for flag in (*argument.flags, *argument.off))
    default = "" if argument.default is None else f"; default: `{argument.default}`"
    gone = "" if version == VERSION else f"Up to {version}. "
    return "\n\n".join(filter(None, (f"{gone}{said}".strip(), f"{flags}{default}")))


def _help(version: str) -> dict[str, str]:
    if version != VERSION:
        return {}
    texts: dict[str, str] = importlib.import_module(f"oellm_autoexp.backends.megatron.generated.{version}_help").HELP
    return texts


def _value(argument: Argument) -> Schema:
    """What an argument takes, or null."""
    listed = argument.nargs is not None
    if argument.choices is not None:
        choices = one_of([*argument.choices, None])
        return {"if": {"type": "array"}, "then": {"items": choices}, "else": choices} if listed else choices
    kind = _TYPES.get(argument.type) if argument.kind == "store" else "boolean"
    if kind is None:  # a text or a number that Megatron evaluates, or a list
        return {}
    value = typed((kind, "null"))
    if not listed:
        return value
    return typed((kind, "array", "null"), {"items": typed((kind,))})
