"""The section `sweep`: nodes, whose keys are words of sweeps and dotted keys of the config (docs/sweeps.md). Pure."""

from __future__ import annotations

from itertools import combinations

from oellm_autoexp.config.json_schema.paths import Paths
from oellm_autoexp.config.json_schema.values import Schema, one_of, typed

_NODE: Schema = {"$ref": "#/definitions/sweep"}
_AXES: Schema = {"$ref": "#/definitions/sweep_axes"}
VALUES: Schema = {"$ref": "#/definitions/sweep_values"}

_WHOLE = "What makes many jobs of one experiment (docs/sweeps.md)."
_DEFAULTS = "Values for all points of this node, below what `params`, `grids` and `configs` choose."
_WORDS: dict[str, tuple[str, Schema]] = {
    "params": ("One grid: every combination of the values of its keys, the last key fastest.", _AXES),
    "grids": ("Grids, one after another.", typed(("array",), {"items": _AXES})),
    "configs": ("Points, one for each entry; an entry may be a node.", typed(("array",), {"items": _NODE})),
    "groups": ("Nodes that are combined as `type` says.", typed(("array",), {"items": _NODE})),
    "type": (
        "How `groups` combine. `product` (default): every combination of their points; `list`: one after another.",
        one_of(("product", "list")),
    ),
    # at the top of a file of the group `sweep`, the list that Hydra reads
    "defaults": (_DEFAULTS, {"if": {"type": "array"}, "then": {"$ref": "#/definitions/defaults"}, "else": VALUES}),
    "base_values": (_DEFAULTS, VALUES),
    "filter": ("An expression that must hold in a job's config; the other points are left out.", typed(("string",))),
    "allow_duplicates": ("At the top of the sweep: jobs that are the same are no mistake.", typed(("boolean",))),
}


def definitions(values: Paths, axes: Paths) -> dict[str, Schema]:
    """What a sweep is made of."""
    words = {key: {"description": text, **schema} for key, (text, schema) in _WORDS.items()}
    refused = {"type": "null", "errorMessage": "a node takes one of params, grids and configs: nest groups"}
    alone = [
        {"if": {"required": [first, second]}, "then": {"properties": {second: refused}}}
        for first, second in combinations(("params", "grids", "configs"), 2)
    ]
    node = {"properties": {**words, **values.properties}, "patternProperties": values.patterns}
    grid = {"properties": axes.properties, "patternProperties": axes.patterns}
    return {
        "sweep": {"description": _WHOLE, **_closed(node | {"allOf": alone})},
        "sweep_axes": _closed(grid),
        "sweep_values": {"allOf": [_NODE], "properties": dict.fromkeys(words, False)},
    }


def _closed(keywords: Schema) -> Schema:
    return typed(("object", "null"), {**keywords, "additionalProperties": False})
