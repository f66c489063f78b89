"""The schema's defaults, in a composed config that does not say otherwise. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from oellm_autoexp.config.schema import AutoexpConfig, sections_of
from oellm_autoexp.core.registry import tags

Path = tuple[str, ...]


def with_defaults(tree: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """A config in which every key of a typed section has a value, and the dotted keys that were added.

    So `${slurm.array}`, a backend and a rule's template see what the program does, whatever a group of one's own left
    out. A section whose `class_name` is not known yet, or that holds no keys and values, stays as it is,
    as does a null.
    """
    added: list[str] = []
    return _filled(tree, AutoexpConfig, (), added), frozenset(added)


def is_schema_key(key: str, tree: Mapping[str, Any] | None = None) -> bool:
    """Whether a dotted key is one of a typed section; of any class that it may have, or of those that `tree` names."""
    models: list[type[BaseModel]] = [AutoexpConfig]
    node: Any = tree
    for depth, part in enumerate(parts := key.split(".")):
        found = [field for model in models for name, field in _fields(model) if name == part]
        if depth == len(parts) - 1:
            return bool(found)
        node = node.get(part) if isinstance(node, Mapping) else None
        inner = [model for field in found for model in _inner(field.annotation)]
        models = [chosen] if (chosen := _chosen(inner, node)) else inner if tree is None else []
    return False


def _filled(tree: Mapping[str, Any], model: type[BaseModel], path: Path, added: list[str]) -> dict[str, Any]:
    made = dict(tree)
    for name, field in _fields(model):
        here = (*path, name)
        if name in tree:
            value = tree[name]
            if isinstance(value, Mapping) and (chosen := _chosen(_inner(field.annotation), value)):
                made[name] = _filled(value, chosen, here, added)
        elif not field.is_required():
            made[name] = to_jsonable_python(field.get_default(call_default_factory=True), by_alias=True)
            added.append(".".join(here))
    return made


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """The fields of a section by the names that people write."""
    return ((field.alias or name, field) for name, field in model.model_fields.items())


def _inner(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field holds itself: not those of its lists and mappings, which are as people wrote them."""
    return [] if get_origin(annotation) in (dict, list, tuple) else sections_of(annotation)


def _chosen(models: list[type[BaseModel]], value: Any) -> type[BaseModel] | None:
    """The section that a value is: the only one, or the one that its `class_name` names."""
    if len(models) == 1:
        return models[0]
    name = value.get("class_name") if isinstance(value, Mapping) else None
    return next((model for model in models if name in tags(model)), None)
