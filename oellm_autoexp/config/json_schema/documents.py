"""The whole JSON Schema: experiments at its top, and in `definitions` what each group of configs holds. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from oellm_autoexp.config.json_schema import paths, sweeps
from oellm_autoexp.config.json_schema.megatron import megatron
from oellm_autoexp.config.json_schema.sections import sections
from oellm_autoexp.config.json_schema.values import DEFINITION, Schema, one_or_more, typed

_DEFAULTS: Schema = {"$ref": "#/definitions/defaults"}
_MEGATRON: Schema = {"$ref": "#/definitions/megatron"}
_HYDRA: Schema = {"description": "Hydra's own settings have no effect here."}
_OF_SCALARS = ("description", "default")
"""What is said of one key, beside what its value may be."""


def schema(groups: Mapping[str, Sequence[str]]) -> Schema:
    """The schema, with suggestions for defaults lists: `groups` has the configs of each group.

    A file of a group refers to its definition (`schema.json#/definitions/slurm`). yaml-language-server adds the
    keywords of the top that the definition lacks: each such definition has all that the top has.
    """
    top, found = sections()
    found["megatron"] = megatron()
    for name in ("MegatronBackend", "CommandBackend", "backend"):
        found[name]["properties"]["megatron"] = _MEGATRON
    set_by_sweeps = {key: schema for key, schema in top.items() if key != "index"}
    found |= sweeps.definitions(paths.values(set_by_sweeps, found), paths.axes(set_by_sweeps, found))
    overrides = found["RestartAction"]["properties"]["overrides"]
    found["RestartAction"]["properties"]["overrides"] = {"description": overrides["description"], **sweeps.VALUES}
    for section in filter(None, map(found.get, ("megatron", *top))):
        for each in (section, *(found[kind["then"]["$ref"].rpartition("/")[2]] for kind in section.get("allOf", ()))):
            each["properties"]["defaults"] = _DEFAULTS
    keys = {"defaults": _DEFAULTS, **top, "sweep": {"$ref": "#/definitions/sweep"}, "hydra": _HYDRA}
    common = _common()
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "oellm-autoexp",
        "description": "An experiment, or another config that is merged into the whole (`# @package _global_`).",
        "type": ["object", "null"],
        "properties": _shared(keys, common),
        "additionalProperties": False,
        "definitions": {
            **_shared(found, common),
            **{name: json.loads(text) for text, name in common.items()},
            "interpolation": DEFINITION,
            "defaults": _defaults(groups),
        },
    }


def text(schema: Schema) -> str:
    """The schema as a file: a line for each key."""
    return json.dumps(schema, ensure_ascii=False, indent=0) + "\n"


def _defaults(groups: Mapping[str, Sequence[str]]) -> Schema:
    """A defaults list: other configs, and choices of groups; those that are shipped are suggested."""
    chosen: Schema = {"type": ["string", "array", "boolean", "number", "null"]}
    entries = {
        f"{override}{group}": {"anyOf": [{"enum": list(choices)}, chosen]}
        for override, separator in (("", ""), ("override /", "/"))
        for group, choices in groups.items()
    }
    entry = {"type": ["string", "object"], "properties": entries, "additionalProperties": chosen, "maxProperties": 1}
    about = "What this config is made of (Hydra's defaults list): later entries over earlier ones; `_self_`: this file."
    return {"description": about, "type": "array", "items": entry}


def _common() -> dict[str, str]:
    """Schemas that many keys share, as text, and the names of their definitions."""
    kinds = {name: (name,) for name in ("integer", "number", "boolean", "string")}
    named = {name: typed(types) for name, types in kinds.items()}
    named |= {f"{name}_or_null": typed((*types, "null")) for name, types in kinds.items()}
    named["mapping"] = typed(("object",))
    named |= {f"{name}_axis": one_or_more({"$ref": f"#/definitions/{name}"}) for name in named}
    return {json.dumps(schema, sort_keys=True): name for name, schema in named.items()}


def _shared(node: Any, common: Mapping[str, str]) -> Any:
    """A schema in which those that are common are references."""
    if isinstance(node, list):
        return [_shared(item, common) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: _shared(value, common) for key, value in node.items()}
    about = {key: inner.pop(key) for key in _OF_SCALARS if isinstance(inner.get(key), str | int | float | bool)}
    name = common.get(json.dumps(inner, sort_keys=True))
    return {**about, **({"$ref": f"#/definitions/{name}"} if name else inner)}
