"""What YAML may hold in place of a value of some type: also an interpolation, and words that YAML itself reads. Pure.

The schema is of draft 7, which yaml-language-server reads best. `patternErrorMessage` is its own; others ignore it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

_INTERPOLATION = r"\$\{"
_NUMBER = r"^[-+]?([0-9.][0-9._eE+-]*|\.?(inf|Inf|INF|nan|NaN|NAN))$"
_BOOLEAN = "^([yY]|yes|Yes|YES|[nN]|no|No|NO|[tT]rue|TRUE|[fF]alse|FALSE|[oO]n|ON|[oO]ff|OFF|0|1)$"
"""Texts that are numbers and booleans to YAML 1.1, which Hydra reads, and texts to YAML 1.2, which editors read."""
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "keys and values",
    "array": "a list",
    "null": "null",
}
INTERPOLATION: Schema = {"$ref": "#/definitions/interpolation"}
DEFINITION: Schema = {
    "type": "string",
    "pattern": _INTERPOLATION,
    "description": "The value of another key, `${section.key}`, or what a resolver makes, `${oc.env:NAME}`.",
}
"""The definition that INTERPOLATION refers to."""


def typed(types: Iterable[str], keywords: Mapping[str, Any] | None = None) -> Schema:
    """A value of one of these types of JSON Schema, or an interpolation. A text may be written without quotes: `3`."""
    wanted = list(dict.fromkeys(types))
    rest = dict(keywords or {})
    if "string" in wanted:
        return {"type": list(dict.fromkeys((*wanted, "number", "boolean"))), **rest}
    patterns = [_INTERPOLATION]
    if {"integer", "number"} & {*wanted}:
        patterns.append(_NUMBER)
    if "boolean" in wanted:
        patterns.append(_BOOLEAN)
    what = " or ".join(_WORDS[each] for each in wanted)
    message = f"must be {what}, or an interpolation: ${{…}}"
    return {"type": [*wanted, "string"], "pattern": "|".join(patterns), "patternErrorMessage": message, **rest}


def one_of(choices: Iterable[Any], *more: Schema) -> Schema:
    """One of these values, or what else is said, or an interpolation."""
    return {"anyOf": [{"enum": list(choices)}, *more, INTERPOLATION]}


def one_or_more(schema: Schema) -> Schema:
    """A value or a list of such values; the description is that of the value."""
    about = {key: schema[key] for key in ("description",) if key in schema}
    value = {key: item for key, item in schema.items() if key not in about}
    return {**about, "if": {"type": "array"}, "then": {"items": value}, "else": value} if value else about


def either(alternatives: Sequence[Schema]) -> Schema:
    """One schema for several, distinguished by type as far as possible, so that what is wrong is marked where it is."""
    sections = [each for each in alternatives if "$ref" in each]
    rest = [each for each in alternatives if "$ref" not in each]
    if len(sections) == 1 and rest:
        return {"if": {"type": "object"}, "then": sections[0], "else": either(rest)}
    merged = _merged(alternatives)
    return typed(*merged) if merged else {"anyOf": [*alternatives, INTERPOLATION]}


def _merged(schemas: Sequence[Schema]) -> tuple[list[str], Schema] | None:
    """The types of several schemas and their other keywords; None where they do not go together."""
    types: list[str] = []
    keywords: Schema = {}
    for each in schemas:
        own = {key: value for key, value in each.items() if key != "type"}
        if "type" not in each or own.keys() & {"enum", "pattern", *keywords}:
            return None
        types += types_of(each)
        keywords |= own
    return types, keywords


def types_of(schema: Schema) -> list[str]:
    """The types that a schema names."""
    return [schema["type"]] if isinstance(schema["type"], str) else [*schema["type"]]
