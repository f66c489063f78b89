"""How an experiment's file goes with the root config: which of the root's groups it chooses by itself."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from oellm_autoexp.config.hydra.defaults_list import right_entries
from oellm_autoexp.config.hydra.findings import FilePath, LeftOut
from oellm_autoexp.config.hydra.hydra_source import OwnChoices, Search
from oellm_autoexp.config.hydra.yaml_files import key_lines, read_mapping, shown
from oellm_autoexp.core.errors import ConfigError

ROOT = "autoexp"
_NO_SWEEP = {"sweep": "none"}


def search_for(directories: tuple[Path, ...], name: str) -> tuple[Search, list[str]]:
    """The configs that an experiment is made of, and notes on what of its file has no effect.

    The experiment is applied to the root config, as in Hydra's experiment pattern, unless it brings the root in itself.
    Of a group that it chooses without `override`, as a primary config does, the root's choice is left out, so that the
    experiment's own stands where its defaults list says; with `override` beside it, this one counts, as in Hydra. A
    config `base` that is not there is taken for the root.
    """
    search = Search(directories, (name,))

    @cache  # files are read once
    def read(wrong: LeftOut) -> tuple[Sequence[_Entry], Mapping[str, Any]]:
        overridden: dict[str, Any] = {}
        return _entries(search, name, overridden, wrong), overridden

    entries, _ = read(frozenset())
    if name == ROOT or any(entry.path == ROOT for entry in entries):
        return search, []
    both = replace(search, configs=(ROOT, name))
    notes = [
        f"{_line(both.file(base.config), base.index)}: there is no config '{base.path}'; '{ROOT}' is used instead"
        for base in _bases(entries, both)
    ]
    return replace(both, own_choices=cache(lambda wrong: _own_choices(both, *read(wrong)))), notes


def _own_choices(search: Search, entries: Sequence[_Entry], overridden: Mapping[str, Any]) -> OwnChoices:
    """What the entries of an experiment's defaults list, and of those that it builds on, choose; some by `override`."""
    of_root = groups_of_root(search)
    choices = [entry for entry in entries if entry.is_choice]
    chosen = _chosen(entry for entry in choices if entry.path in of_root)
    inner = _chosen(entry for entry in choices if _is_chosen_within(entry.path, of_root, chosen, search))
    inner = {group: choice for group, choice in inner.items() if not isinstance(choice, list)}
    last = {entry.path: entry.place for entry in choices if entry.path in chosen}  # where all that is chosen stands
    earlier = [entry for entry in choices if entry.path in last and entry.place != last[entry.path]]
    gives_way = [*_bases(entries, search), *earlier, *(entry for entry in choices if entry.path in inner)]
    left_out = {entry.place for entry in gives_way}
    for index, entry in enumerate(defaults_of(search.file(ROOT))):
        if isinstance(entry, dict) and not chosen.keys().isdisjoint(entry):
            left_out.add((ROOT, ("defaults", str(index))))
    if "project" in chosen:  # it may choose a sweep and a backend, for a first run; an experiment says these itself
        said = {group: choice for group, choice in overridden.items() if group in ("backend", "sweep")}
        chosen = {**_of_root(search, "backend"), **_NO_SWEEP, **said, **chosen}
    return OwnChoices({**chosen, **inner}, frozenset(left_out))


def _bases(entries: Iterable[_Entry], search: Search) -> list[_Entry]:
    """The entries that name the root as other tools do, and no config that is there."""
    return [entry for entry in entries if entry.is_root_elsewhere and search.file(entry.path) is None]


def _is_chosen_within(group: str, of_root: Sequence[str], chosen: Mapping[str, Any], search: Search) -> bool:
    """Whether the configs of an outer group choose one of an inner group (`backend/megatron`) themselves already."""
    outer = group.partition("/")[0]
    if outer == group or outer not in of_root:
        return False
    choices = chosen.get(outer, _of_root(search, outer).get(outer))
    names = choices if isinstance(choices, list) else [choices]
    return any(entry.path == group for name in names for entry in _entries(search, f"{outer}/{name}", {}))


def _of_root(search: Search, group: str) -> dict[str, Any]:
    """What the root config chooses of a group."""
    entries = (entry for entry in defaults_of(search.file(ROOT)) if isinstance(entry, dict))
    choices = [entry[group] for entry in entries if group in entry]
    return {group: choices[0]} if choices else {}


def groups_of_root(search: Search) -> list[str]:
    """The groups of which the root config chooses a config each."""
    return [str(group) for entry in defaults_of(search.file(ROOT)) if isinstance(entry, dict) for group in entry]


def configs_of(search: Search) -> list[str]:
    """The names of the configs that the whole is made of, and of those that the last of them builds on, it first.

    A root that it brings in itself is not among them.
    """
    entries = _entries(search, search.configs[-1], {})
    builds_on = [entry.path for entry in entries if not entry.is_group and entry.path != ROOT]
    return list(dict.fromkeys((search.configs[-1], *reversed(builds_on), *reversed(search.configs))))


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
    is_group: bool = False
    is_choice: bool = False
    """Whether it is one of a group in that group's own section."""
    is_overridden: bool = False
    """Whether `choice` is what an entry with `override` has made of it."""

    @property
    def place(self) -> tuple[str, FilePath]:
        """The config with the entry, and the path of the entry in its file."""
        return self.config, ("defaults", str(self.index))

    @property
    def is_root_elsewhere(self) -> bool:
        """Whether other tools have their root config by this name."""
        return not self.is_group and self.path.rpartition("/")[2] == "base"


def _chosen(entries: Iterable[_Entry]) -> dict[str, Any]:
    """By group what is chosen of it: a config, or several in the order in which they are merged.

    What overrides several entries is chosen once, and null leaves out what stands before it. Of several entries it is
    a list, also with one choice in it, as a file that two others build on has each of its entries twice.
    """
    by_group: dict[str, list[_Entry]] = {}
    for entry in entries:
        by_group.setdefault(entry.path, []).append(entry)
    chosen: dict[str, Any] = {}
    for group, found in by_group.items():
        choices: list[Any] = []
        for entry in found:
            if entry.choice is None:
                choices.clear()
            elif not (entry.is_overridden and choices):
                choices += entry.choice if isinstance(entry.choice, list) else [entry.choice]
        chosen[group] = found[0].choice if len(found) == 1 else choices or None
    return chosen


def _line(file: Path | None, index: int) -> str:
    return f"{shown(file)}:{key_lines(file)['defaults', str(index)]}" if file is not None else ""


def _entries(
    search: Search,
    name: str,
    overridden: dict[str, Any],
    wrong: LeftOut = frozenset(),
    seen: frozenset[str] = frozenset(),
) -> list[_Entry]:
    """The entries of a config's defaults list and of the configs that it builds on, without those that are wrong.

    What entries with `override` choose goes to `overridden`, and takes effect as in Hydra: the outer file's is the one
    that counts, and a file's affects its own entries and all that stand before them.
    """
    found: list[_Entry] = []
    file = search.file(name)
    right = right_entries(defaults_of(file))
    split = [(n, entry, *_parts(entry, name)) for n, entry in right if (str(file), ("defaults", str(n))) not in wrong]
    for _, entry, keywords, path, package in split:
        if "override" in keywords and not package:
            overridden.setdefault(path, _choice(entry))
    for index, entry, keywords, path, package in reversed(split):
        if "override" in keywords:
            continue
        if isinstance(entry, Mapping):
            by_other = not package and path in overridden
            choice = overridden[path] if by_other else _choice(entry)
            found.insert(0, _Entry(name, index, path, choice, True, is_choice=not package, is_overridden=by_other))
        elif path not in (*seen, name) and {*keywords} <= {"optional"}:
            within = _entries(search, path, overridden, wrong, seen | {name})
            found[:0] = [_Entry(name, index, path), *within]
    return found


def _choice(entry: Mapping[str, Any]) -> Any:
    return next(iter(entry.values()))


def _parts(entry: Any, config: str) -> tuple[list[str], str, str]:
    """The keywords of an entry in a config's defaults list, the path of its group or config, and its package.

    The package of a group that is that group's own is none.
    """
    *keywords, name = str(next(iter(entry)) if isinstance(entry, Mapping) else entry).split()
    path, _, package = name.partition("@")
    path = path[1:] if path.startswith("/") else posixpath.normpath(posixpath.join(config, "..", path))
    return keywords, path, "" if package == path.replace("/", ".") else package
