"""Nested mappings, looked at by path. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from oellm_autoexp.config.values.compiled import Path
from oellm_autoexp.core.limits import MOST_DIGITS


def value_at(tree: Any, path: Path) -> Any:
    """What stands at a path, through lists, too; None if there is nothing."""
    for part in path:
        if isinstance(tree, list):
            is_index = part.isdecimal() and len(part) <= MOST_DIGITS and int(part) < len(tree)
            tree = tree[int(part)] if is_index else None
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def evaluated(written: Any, resolved: Any) -> Any:
    """What is written somewhere, with the values that its interpolations have in the `resolved` tree of the place."""
    if isinstance(written, dict) and isinstance(resolved, dict):
        return {key: evaluated(value, resolved.get(key)) for key, value in written.items()}
    if isinstance(written, list) and isinstance(resolved, list) and len(written) == len(resolved):
        return [evaluated(value, found) for value, found in zip(written, resolved, strict=True)]
    return resolved if isinstance(written, str) and "${" in written and resolved is not None else written


def without(tree: Mapping[str, Any], paths: Collection[Path], at: Path = ()) -> dict[str, Any]:
    """A copy of mappings that lacks what stands at some paths."""
    return {
        key: without(value, paths, (*at, key)) if isinstance(value, dict) else value
        for key, value in tree.items()
        if (*at, key) not in paths
    }
