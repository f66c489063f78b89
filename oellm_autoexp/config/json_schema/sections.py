"""The typed sections of a config as definitions of a JSON Schema, from pydantic's own. Pure.

A config is made of many files, and each says a part: what a section requires may be in another one. Only what is in a
list (an action, a condition) is whole where it is written, as Hydra merges mappings and replaces lists.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from posixpath import commonprefix
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from oellm_autoexp.config.json_schema.values import Schema, either, one_of, typed, types_of
from oellm_autoexp.config.schema import AutoexpConfig

_TAG = "class_name"
_RENAMED = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "min_length": "minLength",
}
"""Limits that pydantic leaves in its own words where a validator stands between them and the type."""
_KEYWORDS = {*_RENAMED.values(), "pattern", "patternErrorMessage", "required"}


class _Documented(GenerateJsonSchema):
    """pydantic's schema, with the docstring that follows a field, else that of its class, at each key."""

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        made = super().model_schema(schema)
        kind: type[BaseModel] = schema["cls"]
        for name, field in kind.model_fields.items():
            inner = made["properties"][field.alias or name]
            own, general = _texts(kind, name)
            if own or (name != _TAG and not {"$ref", "discriminator"} & inner.keys()):  # which say it themselves
                inner["description"] = own or general
        return made


def _texts(kind: type[BaseModel], name: str) -> tuple[str, str]:
    """The docstring that follows a field, '' without one, and that of the class that declares it."""
    declaring = next(each for each in kind.__mro__ if name in inspect.get_annotations(each))
    return _field_texts(declaring).get(name, ""), inspect.cleandoc(declaring.__doc__ or "")


@cache
def _field_texts(kind: type) -> Mapping[str, str]:
    """The docstrings that follow the fields in the source of a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def sections() -> tuple[dict[str, Schema], dict[str, Schema]]:
    """The keys at the top of a config, and the definitions that they refer to, by name."""
    whole = AutoexpConfig.model_json_schema(by_alias=True, schema_generator=_Documented)
    conversion = _Conversion(whole.pop("$defs"), whole)
    top = {key: conversion.value(schema, whole=False) for key, schema in whole["properties"].items()}
    found = {name: conversion.definition(name) for name in sorted(conversion.raw)} | conversion.unions
    for key, schema in top.items():
        if "$ref" in schema:  # by the key that it has in a config, by which files name what they are
            found[key] = found.pop(_name(schema["$ref"]))
            schema["$ref"] = f"#/definitions/{key}"
    return top, found


class _Conversion:
    """From pydantic's definitions to those for the files that people write."""

    def __init__(self, raw: Mapping[str, Schema], top: Schema) -> None:
        self.raw = raw
        self.unions: dict[str, Schema] = {}
        self._partial: set[str] = set()
        self._find_partial(top)

    def _find_partial(self, schema: Any) -> None:
        """Note the sections that are reached without going through a list."""
        for key, inner in schema.items() if isinstance(schema, dict) else enumerate(schema):
            if key == "$ref" and (name := _name(inner)) not in self._partial:
                self._partial.add(name)
                self._find_partial(self.raw[name])
            elif isinstance(inner, dict | list) and key not in ("items", "discriminator"):
                self._find_partial(inner)

    def definition(self, name: str) -> Schema:
        """A section: its keys, and those that it requires if it is whole where it is written."""
        raw = self.raw[name]
        whole = name not in self._partial
        required = {"required": raw["required"]} if whole and "required" in raw else {}
        properties = {key: self.value(schema, whole=whole) for key, schema in raw.get("properties", {}).items()}
        keywords = {"properties": properties, "additionalProperties": False, **required}
        return {"description": raw.get("description", ""), **typed(("object",), keywords)}

    def value(self, schema: Schema, *, whole: bool) -> Schema:
        """What YAML may hold where pydantic wants this."""
        about = {"description": schema["description"]} if schema.get("description") else {}
        if isinstance(default := schema.get("default"), str | int | float) and default != "":
            about["default"] = _number(default)
        return {**about, **self._body(schema, whole)}

    def _body(self, schema: Schema, whole: bool) -> Schema:
        if "discriminator" in schema:
            return self._kinds([_name(each["$ref"]) for each in schema["oneOf"]], whole)
        if "anyOf" in schema:
            return self._either(schema, whole)
        if "enum" in schema and "const" not in schema:
            return one_of(schema["enum"])
        if "type" in schema and "const" not in schema:
            return typed(types_of(schema), self._keywords(schema, whole))
        return {key: value for key, value in self._plain(schema).items() if key in ("const", "$ref")}

    def _either(self, schema: Schema, whole: bool) -> Schema:
        flat = [*_flat(schema)]
        choices = [choice for each in flat for choice in each.get("enum", ())]
        unions = [self._body(each, whole) for each in flat if "discriminator" in each]
        rest = [
            {**self._plain(each), **self._keywords(each, whole)}
            for each in flat
            if "enum" not in each and "discriminator" not in each
        ]
        if unions and all(each.get("type") == "null" for each in rest):
            return {"if": {"type": "null"}, "else": unions[0]}
        if choices and all(each.get("type") == "null" for each in rest):
            return one_of([*choices, *(None for _ in rest)])
        return either([*({"enum": choices} for _ in choices[:1]), *rest])

    def _plain(self, schema: Schema) -> Schema:
        """What of a schema names its type, by the names of our definitions."""
        if "$ref" in schema:
            return {"$ref": f"#/definitions/{_name(schema['$ref'])}"}
        return {key: schema[key] for key in ("type", "const") if key in schema}

    def _keywords(self, schema: Schema, whole: bool) -> Schema:
        made: Schema = {}
        for key, value in schema.items():
            if (name := _RENAMED.get(key, key)) in _KEYWORDS:
                made[name] = _number(value)
            elif key == "items":
                made[key] = self.value(value, whole="object" not in types_of(schema) or whole)
            elif key == "additionalProperties" and isinstance(value, dict):
                made[key] = self.value(value, whole=whole)
            elif key == "properties":
                made[key] = {name: self.value(inner, whole=whole) for name, inner in value.items()}
        return made

    def _kinds(self, names: list[str], whole: bool) -> Schema:
        """One of several sections that `class_name` chooses; one that is not whole may leave it to another file."""
        by_tag = {self.raw[name]["properties"][_TAG].get("const", name): name for name in names}
        tag: Schema = {"description": "\n\n".join(f"`{tag}`: {self._summary(name)}" for tag, name in by_tag.items())}
        properties: dict[str, Any] = {_TAG: {**tag, **one_of(by_tag)}}
        then = [
            {"if": {"properties": {_TAG: {"const": tag}}, "required": [_TAG]}, "then": self._ref(name)}
            for tag, name in by_tag.items()
        ]
        if whole:
            keywords: Schema = {"properties": properties, "required": [_TAG], "allOf": then}
        else:
            keywords = {"properties": self._all_keys(names) | properties, "additionalProperties": False, "allOf": then}
        union = f"{_end_of_all(names)}_{len(names)}"
        chosen = f"`class_name` chooses: {', '.join(by_tag)}."
        self.unions[union] = {"description": chosen, **typed(("object",), keywords)}
        return self._ref(union)

    def _summary(self, name: str) -> str:
        return str(self.raw[name].get("description", "")).partition("\n\n")[0].replace("\n", " ")

    def _ref(self, name: str) -> Schema:
        return {"$ref": f"#/definitions/{name}"}

    def _all_keys(self, names: list[str]) -> dict[str, Schema]:
        """The keys of several sections; a key of two that do not agree takes what either takes."""
        found: dict[str, list[Schema]] = {}
        for name in names:
            for key, schema in self.definition(name)["properties"].items():
                if _bare(schema) not in map(_bare, found.setdefault(key, [])):
                    found[key].append(schema)
        return {
            key: each[0] if len(each) == 1 else {"description": each[0].get("description", ""), "anyOf": each}
            for key, each in found.items()
        }


def _number(value: Any) -> Any:
    """A whole number as such: pydantic's versions differ in that."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bare(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key not in ("description", "default")}


def _name(ref: str) -> str:
    return ref.rpartition("/")[2]


def _end_of_all(names: Sequence[str]) -> str:
    """What all of these names end with, as in `LogAction` and `CancelAction`, else `Kind`."""
    backwards = commonprefix([name[::-1] for name in names])[::-1]
    return re.sub("^[^A-Z]+", "", backwards) or "Kind"


def _flat(schema: Schema) -> Iterator[Schema]:
    """The alternatives, also those of alternatives."""
    for each in schema["anyOf"]:
        if "anyOf" in each:
            yield from _flat(each)
        else:
            yield each
