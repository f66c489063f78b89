"""Overrides of what is in the `sweep` section, by path: `sweep.params.a.b=[1,2]` is about the file's `a.b: …`. Pure.

Hydra knows no key with a dot in it, and would put `a: {b: [1, 2]}` beside the file's `a.b`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oellm_autoexp.sweep.expander import KEYWORDS, KINDS
from oellm_autoexp.sweep.paths import Path, dotted_keys, leaf_paths, path_of, plain

_BLOCKS = ("params", "defaults", "base_values")
_LISTS = tuple(kind for kind in KINDS if kind not in _BLOCKS)


def put(sweep: dict[str, Any], parts: list[str], value: Any) -> bool:
    """Set what is at a key of the sweep (its parts behind `sweep.`; none: the whole). False if there is no such place.

    A mapping merges, anything else replaces, whatever form the file has written it in.
    """
    if parts and parts[-1] in KEYWORDS and not (parts[-1] in _BLOCKS and isinstance(value, dict)):
        node = _node(sweep, parts[:-1])
        if node is not None:
            node[parts[-1]] = value
        return node is not None
    place, rest = _descend(sweep, parts)
    if isinstance(place, list) and len(rest) == 1 and _in(place, rest[0]):
        place[int(rest[0])] = value
    elif not isinstance(place, dict) or (rest and rest[0] in KEYWORDS):
        return False
    elif rest:
        _set(place, ".".join(rest), value)
    elif not isinstance(value, dict):
        return False
    else:
        for key, item in value.items():
            if key in KEYWORDS:
                put(place, [key], item)
            else:
                _set(place, key, item)
    return True


def remove(sweep: dict[str, Any], parts: list[str]) -> bool:
    """Take out what is at a key of the sweep. False if there is nothing."""
    if parts[-1] in KEYWORDS:
        node = _node(sweep, parts[:-1])
        return node is not None and node.pop(parts[-1], None) is not None
    place, rest = _descend(sweep, parts)
    if not isinstance(place, dict) or not rest:
        return False
    path = path_of(".".join(rest))
    entries = [(mapping, key) for mapping, key, at, choices in _entries(place) if _is_about(at, choices, path)]
    for mapping, key in entries:
        mapping.pop(key, None)
    return bool(entries)


def _node(sweep: dict[str, Any], parts: list[str]) -> dict[str, Any] | None:
    place, rest = _descend(sweep, parts)
    return place if isinstance(place, dict) and not rest else None


def _descend(node: Any, parts: list[str]) -> tuple[Any, list[str]]:
    """The node, grid or list of a sweep that a key leads to, and what is left of the key."""
    while parts:
        head, *rest = parts
        if isinstance(node, list) and rest and _in(node, head):
            node = node[int(head)]
        elif isinstance(node, dict) and head in _BLOCKS:
            node = _made(node, head)
        elif isinstance(node, dict) and head in _LISTS and rest:
            node = node.get(head)
        else:
            break
        parts = rest
    return node, parts


def _made(node: dict[str, Any], key: str) -> Any:
    if node.get(key) is None:
        node[key] = {}
    return node[key]


def _in(items: list[Any], part: str) -> bool:
    return part.isdecimal() and len(part) < 8 and int(part) < len(items)


def _entries(block: dict[str, Any], prefix: str = "") -> Iterator[tuple[dict[str, Any], str, Path, Any]]:
    """Every key of a node or grid, also within mappings, with the mapping that holds it, its path and its value."""
    for key, value in [*block.items()]:
        if isinstance(key, str) and (prefix or key not in KEYWORDS) and not key.startswith("~"):
            yield block, key, path_of(f"{prefix}{plain(key)}"), value
            if isinstance(value, dict):
                yield from _entries(value, f"{prefix}{plain(key)}.")


def _set(block: dict[str, Any], key: str, value: Any) -> None:
    path = path_of(key)
    entries = [*_entries(block)]
    for mapping, name, at, choices in entries:
        if len(at) < len(path) and _is_about(at, choices, path):
            mapping.pop(name, None)
    near = [entry for entry in entries if entry[2][: len(path)] == path]
    if isinstance(value, dict) and value and near:
        for inner, item in dotted_keys(key, value).items():
            if inner == key:
                block[key] = {**(block[key] if isinstance(block.get(key), dict) else {}), **item}
            else:
                _set(block, inner, item)
        return
    same = next(((mapping, name) for mapping, name, at, _ in near if at == path), None)
    if not (len(path) == 1 and _chooses(value)):  # a choice of a group leaves what is set below it
        for mapping, name, at, _ in near:
            if at != path:
                mapping.pop(name, None)
    if same is not None:
        mapping, name = same
        mapping[name] = value
    else:
        block[key] = value


def _is_about(at: Path, choices: Any, path: Path) -> bool:
    """Whether an entry, or all of its mappings (`backend.options: [{x: 1}, {x: 2}]`), set only what is at a path."""
    if at[: len(path)] == path:
        return True
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        return False
    return all(found[: len(path)] == path for choice in choices for found, _ in leaf_paths(".".join(at), choice))


def _chooses(value: Any) -> bool:
    return all(item is None or isinstance(item, str) for item in (value if isinstance(value, list) else [value]))
