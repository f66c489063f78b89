"""Dotted keys of a config, as sweeps and the overrides of new attempts write them: `backend.megatron.lr`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from oellm_autoexp.config.json_schema.values import Schema, one_or_more

_CHANGES = "^[+~]"
"""Keys that add or remove one (`+key`, `~key`)."""
_GROUPS = "[/@]"
"""Groups of configs: `backend/megatron`."""
_ITEMS = r"[.\[]\d"
"""Items of lists: `monitoring.output_paths.0`."""
_OPEN: dict[str, Schema] = {_CHANGES: {}, _GROUPS: {}, _ITEMS: {}}
_OF_SCALARS = {"type", "pattern", "patternErrorMessage"}


class _Key(NamedTuple):
    """A dotted key: its pattern, as far as it is no plain text, and where the schema of its value is."""

    name: str
    is_pattern: bool
    schema: Schema
    description: str = ""
    scalar: Schema | None = None
    """The schema itself, where it is a short one."""

    @property
    def summary(self) -> str:
        """The first sentence of the description: a whole one stands at the key itself."""
        return re.split(r"(?<=\.)\s|\n\n", self.description, maxsplit=1)[0]

    @property
    def value(self) -> Schema:
        """The shorter of the two ways to say what a value may be."""
        return self.scalar or self.schema


class Paths(NamedTuple):
    """The keys of a mapping by their names, and by patterns."""

    properties: dict[str, Schema]
    patterns: dict[str, Schema]


def values(top: Mapping[str, Schema], definitions: Mapping[str, Schema]) -> Paths:
    """The keys of a mapping from dotted keys to values. A section may also be a choice of its group: `slurm: base`."""
    found = Paths({}, {**_OPEN})
    for key, schema in top.items():
        is_section = "$ref" in schema
        found.properties[key] = {"if": {"type": "object"}, "then": schema} if is_section else schema
    for each in _keys(top, definitions):
        (found.patterns if each.is_pattern else found.properties)[each.name] = each.schema
    return found


def axes(top: Mapping[str, Schema], definitions: Mapping[str, Schema]) -> Paths:
    """The same for the axes of a grid: each key has a list of such values; a section may hold axes itself."""
    sections = {key: _section(schema, "", definitions)[0] for key, schema in top.items()}
    found = Paths({key: {"description": schema["description"]} for key, schema in sections.items()}, {**_OPEN})
    for each in _keys(top, definitions):
        about = {"description": each.summary} if each.description else {}
        (found.patterns if each.is_pattern else found.properties)[each.name] = {**about, **one_or_more(each.value)}
    return found


def _keys(top: Mapping[str, Schema], definitions: Mapping[str, Schema]) -> Iterator[_Key]:
    for key, schema in top.items():
        yield from _below(key, schema, f"#/properties/{key}", definitions, is_pattern=False)


def _below(
    prefix: str, schema: Schema, place: str, definitions: Mapping[str, Schema], *, is_pattern: bool
) -> Iterator[_Key]:
    """The keys below one; `prefix` is a regular expression if `is_pattern`."""
    about = {"description": schema["description"]} if "description" in schema else {}
    schema, place = _section(schema, place, definitions)
    start = prefix if is_pattern else re.escape(prefix)
    for key, inner in schema.get("properties", {}).items():
        name = f"{prefix}.{key}" if not is_pattern else rf"{prefix}\.{re.escape(key)}"
        at = f"{place}/properties/{key}"
        yield _key(name, at, inner, definitions, is_pattern=is_pattern)
        yield from _below(name, inner, at, definitions, is_pattern=is_pattern)
    item = schema.get("additionalProperties")
    if isinstance(item, dict):  # by names that people choose
        section = _section(item, f"{place}/additionalProperties", definitions)
        if "properties" in section[0]:
            name = rf"{start}\.[^.]+"
            yield _key(name, section[1], section[0], definitions, is_pattern=True)
            yield from _below(name, item, f"{place}/additionalProperties", definitions, is_pattern=True)
        else:
            value = {**about, "$ref": f"{place}/additionalProperties"}
            yield _Key(rf"^{start}\..+", True, value, about.get("description", ""))
    elif "object" in schema.get("type", ()) and item is None:
        yield _Key(rf"^{start}\..+", True, about, about.get("description", ""))


def _key(name: str, place: str, schema: Schema, definitions: Mapping[str, Schema], *, is_pattern: bool) -> _Key:
    said = schema.get("description") or _section(schema, place, definitions)[0].get("description", "")
    plain = {key: value for key, value in schema.items() if key not in ("description", "default")}
    scalar = plain if plain and plain.keys() <= _OF_SCALARS else None
    return _Key(f"^{name}$" if is_pattern else name, is_pattern, {"$ref": place}, said, scalar)


def _section(schema: Schema, place: str, definitions: Mapping[str, Schema]) -> tuple[Schema, str]:
    """The mapping that a value may be, and its place."""
    for key in ("then", "else"):
        if "$ref" in schema.get(key, ()):
            schema = schema[key]
    if "$ref" in schema:
        place = schema["$ref"]
        return _section(definitions[place.rpartition("/")[2]], place, definitions)
    return schema, place
