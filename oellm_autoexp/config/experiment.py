"""How an experiment's file goes with the root config: which of the root's groups it chooses by itself."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oellm_autoexp.config.hydra.findings import FilePath
from oellm_autoexp.config.hydra.hydra_source import Search
from oellm_autoexp.config.hydra.yaml_files import key_lines, read_mapping, shown
from oellm_autoexp.core.errors import ConfigError

ROOT = "autoexp"
_NO_SWEEP = {"sweep": "none"}


def search_for(directories: tuple[Path, ...], name: str) -> tuple[Search, list[str]]:
    """The configs that an experiment is made of, and notes on what of its file has no effect.

    The experiment is applied to the root config, as in Hydra's experiment pattern, unless it brings the root in itself.
    Of a group that it chooses without `override`, as a primary config does, the root's choice is left out, so that the
    experiment's own stands where its defaults list says. A config `base` that is not there is taken for the root.
    """
    search = Search(directories, (name,))
    entries = list(_entries(search, name))
    if name == ROOT or any(entry.path == ROOT for entry in entries):
        return search, []
    search = replace(search, configs=(ROOT, name))
    of_root = groups_of_root(search)
    choices = [entry for entry in entries if entry.is_choice]
    chosen = _chosen(entry for entry in choices if entry.path in of_root)
    inner = _chosen(entry for entry in choices if _is_chosen_within(entry.path, of_root, chosen, search))
    inner = {group: choice for group, choice in inner.items() if not isinstance(choice, list)}
    bases = [entry for entry in entries if entry.is_root_elsewhere and search.file(entry.path) is None]
    left_out = defaultdict[str, dict[FilePath, str]](dict)
    for index, entry in enumerate(defaults_of(search.file(ROOT))):
        if isinstance(entry, dict) and not chosen.keys().isdisjoint(entry):
            left_out[ROOT]["defaults", str(index)] = next(iter(entry))
    for entry in (*bases, *(entry for entry in choices if entry.path in inner)):
        left_out[entry.config]["defaults", str(entry.index)] = ""
    if "project" in chosen:  # it may choose a sweep and a backend, for a first run; an experiment says these itself
        chosen = {**_of_root(search, "backend"), **_NO_SWEEP, **chosen}
    notes = [
        f"{_line(search.file(base.config), base.index)}: there is no config '{base.path}'; '{ROOT}' is used instead"
        for base in bases
    ]
    return replace(search, chosen={**chosen, **inner}, left_out=left_out), notes


def _is_chosen_within(group: str, of_root: Sequence[str], chosen: Mapping[str, Any], search: Search) -> bool:
    """Whether the configs of an outer group choose one of an inner group (`backend/megatron`) themselves already."""
    outer = group.partition("/")[0]
    if outer == group or outer not in of_root:
        return False
    choices = chosen.get(outer, _of_root(search, outer).get(outer))
    names = choices if isinstance(choices, list) else [choices]
    return any(entry.path == group for name in names for entry in _entries(search, f"{outer}/{name}"))


def _of_root(search: Search, group: str) -> dict[str, Any]:
    """What the root config chooses of a group."""
    entries = (entry for entry in defaults_of(search.file(ROOT)) if isinstance(entry, dict))
    choices = [entry[group] for entry in entries if group in entry]
    return {group: choices[0]} if choices else {}


def groups_of_root(search: Search) -> list[str]:
    """The groups of which the root config chooses a config each."""
    return [str(group) for entry in defaults_of(search.file(ROOT)) if isinstance(entry, dict) for group in entry]


def defaults_of(file: Path | None) -> list[Any]:
    """The defaults list of a file; empty where it can't be read, which composing it reports."""
    try:
        defaults = read_mapping(file).get("defaults") if file is not None else None
    except ConfigError:
        return []
    return defaults if isinstance(defaults, list) else []


@dataclass(frozen=True)
class _Entry:
    """An entry without `override` of a config's defaults list: another config's path, or a group's and a choice."""

    config: str
    index: int
    path: str
    choice: Any = None
    is_choice: bool = False

    @property
    def is_root_elsewhere(self) -> bool:
        """Whether other tools have their root config by this name."""
        return not self.is_choice and self.path.rpartition("/")[2] == "base"


def _chosen(entries: Iterable[_Entry]) -> dict[str, Any]:
    """By group what is chosen of it: a config, or several in the order in which they are merged."""
    chosen: dict[str, list[Any]] = {}
    for entry in entries:
        chosen.setdefault(entry.path, []).extend(entry.choice if isinstance(entry.choice, list) else [entry.choice])
    return {group: choices if len(choices) > 1 else choices[0] for group, choices in chosen.items() if choices}


def _line(file: Path | None, index: int) -> str:
    return f"{shown(file)}:{key_lines(file)['defaults', str(index)]}" if file is not None else ""


def _entries(search: Search, name: str, seen: frozenset[str] = frozenset()) -> Iterator[_Entry]:
    """The entries of a config's defaults list and of the configs that it builds on."""
    for index, entry in enumerate(defaults_of(search.file(name))):
        key, choice = next(iter(entry.items()), ("", None)) if isinstance(entry, Mapping) else (entry, None)
        words = str(key).split()
        if not words or {*words[:-1]} - {"optional"} or words[-1] == "_self_":
            continue
        path, at, _ = words[-1].partition("@")
        path = path[1:] if path.startswith("/") else posixpath.normpath(posixpath.join(name, "..", path))
        if isinstance(entry, Mapping):
            yield _Entry(name, index, path, choice, is_choice=not at)
        elif path not in (*seen, name):
            yield _Entry(name, index, path)
            yield from _entries(search, path, seen | {name})
