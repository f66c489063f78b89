"""Nested mappings, looked at by path. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from oellm_autoexp.config.values.compiled import Path


def value_at(tree: Any, path: Path) -> Any:
    """What stands at a path of mappings; None if there is nothing."""
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def without(tree: Mapping[str, Any], paths: Collection[Path], at: Path = ()) -> dict[str, Any]:
    """A copy of mappings that lacks what stands at some paths."""
    return {
        key: without(value, paths, (*at, key)) if isinstance(value, dict) else value
        for key, value in tree.items()
        if (*at, key) not in paths
    }
