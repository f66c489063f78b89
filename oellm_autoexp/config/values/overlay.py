"""One sweep point applied to the composed config, without composing again.

The base is composed once and kept as plain data. Which of its leaves hold an interpolation is found once, and also what
each of them reads. Per job the point's values are applied to the base, and only the leaves that read one of them are
evaluated, so that a job's config equals what Hydra would compose with the point's values as overrides.

The trees that come out of here share what they have in common with each other and with the base: they are for reading.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from oellm_autoexp.backends.base import BACKENDS, own_sections
from oellm_autoexp.config.values.argument_names import respelled, spelled
from oellm_autoexp.config.values.compiled import AbsentError, Path
from oellm_autoexp.config.values.interpolation import (
    LiveKeys,
    Observed,
    Resolution,
    SiblingValues,
    all_paths,
    is_live,
    plain_indices,
)
from oellm_autoexp.config.values.resolvers import Resolver
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.limits import DEEPEST, MOST_DIGITS, shortened
from oellm_autoexp.core.text import did_you_mean, item_hint, new_key_hint

OPEN_SECTIONS = (
    "slurm.client.",
    "slurm.sbatch.",
    "slurm.srun.",
    "slurm.env.",
    "metadata.",
    "aux.",
    "monitoring.detach.",
    "monitoring.log_events.",
    "monitoring.state_events.",
    "backend.env.",
    "backend.megatron.aux.",
)
"""Sections whose keys are the user's own: a new key there needs no `+`."""

_KEY = re.compile(r"(\+\+|\+|~|)([^+~.][^.]*(?:\.[^.]+)*)")


def open_sections(base: Mapping[str, Any]) -> tuple[str, ...]:
    """The sections of a composed config in which a new key needs no `+`."""
    backend = base.get("backend")
    chosen = backend.get("class_name") if isinstance(backend, dict) else None
    kind = BACKENDS.classes().get(chosen) if isinstance(chosen, str) else None
    return (*OPEN_SECTIONS, *(own_sections(kind) if kind else ()))


def ever_open() -> tuple[str, ...]:
    """The same, of configs with any backend."""
    return (*OPEN_SECTIONS, *(key for kind in BACKENDS.classes().values() for key in own_sections(kind)))


class Applied(dict[str, Any]):
    """A tree with a point's values applied to the base.

    `live` holds, by `id`, the keys and indices that may have something to evaluate, of those of its containers that are
    copies of the base's; `owned` keeps these alive, as long as their ids are in use here. `changed` are the paths whose
    values may be others than the base's.
    """

    __slots__ = ("changed", "live", "owned")
    changed: list[Path]
    live: dict[int, dict[Any, None]]
    owned: dict[int, Any]


class Overlay:
    """A composed config to which points are applied.

    `base` is plain data with its interpolations still as text, and must not change any more; `resolvers` answer
    `${name:…}`. `added` are those of its dotted keys that nobody has written: `+` may set them.
    """

    def __init__(
        self, base: dict[str, Any], resolvers: Mapping[str, Resolver], added: frozenset[str] = frozenset()
    ) -> None:
        self.base = base
        self._added = added
        self._resolvers = resolvers
        self._open = open_sections(base)
        self._live: dict[int, Sequence[Any]] = {}
        _index_live(base, self._live)

    def apply(self, values: Mapping[str, Any]) -> Applied:
        """The base with `values` (dotted key → value) set, unresolved; its top level is the caller's own.

        As with Hydra's overrides, a mapping merges into a mapping and anything else replaces; a key that the base does
        not have is an error unless it is written `+key` or `++key` or lies in an open section; `~key` deletes. Raises
        ConfigError, with all wrong keys at once.
        """
        laying = _Laying(self.base, self._live, self._present, self._open, self._added)
        problems = [problem for key, value in values.items() for problem in laying.put(key, value)]
        if problems:
            raise ConfigError(*problems)
        return laying.tree

    def resolve(self, tree: Applied, siblings: SiblingValues | None = None) -> dict[str, Any]:
        """`tree` with every interpolation evaluated. Raises ConfigError with all that fail."""
        return self._resolution(tree, siblings).everything()

    def resolve_mostly(
        self, tree: Applied, siblings: SiblingValues | None = None
    ) -> tuple[dict[str, Any], dict[Path, ConfigError]]:
        """`tree` with every interpolation evaluated that can be, and the failures of the others by their paths."""
        return self._resolution(tree, siblings).mostly()

    def at(self, tree: Applied, path: Path, siblings: SiblingValues | None = None, called: str = "") -> Any:
        """The resolved value at a path of `tree`, by what an interpolation calls it. Raises ConfigError."""
        resolution = self._resolution(tree, siblings)
        try:
            return resolution.at(path)
        except AbsentError:
            raise ConfigError(resolution.absent(called or ".".join(path), path)) from None

    def written(self, tree: Applied, path: Path, siblings: SiblingValues | None = None) -> Any:
        """The resolved value at a path of `tree` as a config has it that yields the same: a template as a template.

        Raises ConfigError.
        """
        resolution = self._resolution(tree, siblings)
        return resolution.template(path) if resolution.is_template(path) else resolution.at(path)

    def named(self, tree: Applied, name: str) -> Any:
        """The resolved value of a dotted name. Raises KeyError if there is none, ConfigError if it fails."""
        try:
            return self._resolution(tree).at(tuple(name.split(".")))
        except AbsentError:
            raise KeyError(name) from None

    def select(self, tree: Applied, text: str) -> Any:
        """The value of one text with interpolations, as seen from the root of `tree`. Raises ConfigError."""
        return self._resolution(tree).text(text)

    def _present(self, tree: Applied, path: Path) -> Any:
        """The value at a path; None if there is none, or none that can be evaluated."""
        try:
            return self._resolution(tree).at(path)
        except (AbsentError, ConfigError):
            return None

    def _resolution(self, tree: Applied, siblings: SiblingValues | None = None) -> Resolution:
        done = self._constants.beside(tree.changed)
        return Resolution(tree, (self._live, tree.live), self._resolvers, siblings, done, self._templates)

    @cached_property
    def _templates(self) -> frozenset[Path]:
        """The values that the backend fills as templates."""
        with suppress(AbsentError, ConfigError):
            name = Resolution(self.base, (self._live,), self._resolvers).at(("backend", "class_name"))
            if kind := BACKENDS.classes().get(name if isinstance(name, str) else ""):
                return frozenset(("backend", key) for key in kind.templates)
        return frozenset()

    @cached_property
    def _constants(self) -> _Constants:
        observed = Observed(self.base, (self._live,), self._resolvers)
        with suppress(ConfigError):  # what fails here, a point may put right
            observed.everything()
        return _Constants(observed.done, observed.reads)


class _Constants:
    """The values of the base's interpolations, for those who read nothing that a point changes."""

    def __init__(self, values: Mapping[Path, Any], reads: Mapping[Path, set[Path]]) -> None:
        self._values = values
        self._readers: dict[Path, set[Path]] = defaultdict(set)  # of a path itself: leaves
        self._readers_below: dict[Path, set[Path]] = defaultdict(set)  # of a path, or of anything below it
        for leaf in values:
            for path in reads[leaf]:
                self._readers[path].add(leaf)
                for depth in range(1, len(path) + 1):
                    self._readers_below[path[:depth]].add(leaf)

    def beside(self, changed: Sequence[Path]) -> dict[Path, Any]:
        """The values that hold whatever the values at these paths are, by the path of their interpolation."""
        values = dict(self._values)
        for path in changed:
            touched = set(self._readers_below.get(path, ()))
            for depth in range(1, len(path)):
                touched |= self._readers.get(path[:depth], set())
            for leaf in touched:
                values.pop(leaf, None)
        return values


_OF_THE_JOB: tuple[Path, ...] = (("index",), ("sibling",))
"""What differs from job to job without being in a point."""


# ---------------------------------------------------------------------------------------------------------------------
# Laying values


class _Laying:
    """A tree in the making: what a value changes is copied first, everything else stays the base's."""

    def __init__(
        self,
        base: dict[str, Any],
        live: LiveKeys,
        present: Callable[[Applied, Path], Any],
        opened: tuple[str, ...],
        added: frozenset[str],
    ) -> None:
        self._base_live = live
        self._added = added
        self._present = present
        self._opened = opened
        self.tree = Applied(base)
        self.tree.live = {id(self.tree): dict.fromkeys(live[id(base)])}
        self.tree.owned = {id(self.tree): self.tree}
        self.tree.changed = [*_OF_THE_JOB]

    def _copy(self, container: Any) -> Any:
        """A container of the tree's own, whose live keys are known if those of the original are."""
        copy = container.copy()
        self.tree.owned[id(copy)] = copy
        if id(container) in self._base_live:
            self.tree.live[id(copy)] = dict.fromkeys(self._base_live[id(container)])
        return copy

    def _set(self, container: Any, position: Any, value: Any) -> None:
        container[position] = value
        if (live := self.tree.live.get(id(container))) is not None:
            live[position] = None

    def put(self, key: str, value: Any) -> list[Problem]:
        """Set, add or delete one key, and report what is wrong with it."""
        match = _KEY.fullmatch(spelled(key))
        if match is None:
            return [Problem(f"{key!r} is not a dotted key", key, "write section.key, +section.key or ~section.key")]
        sign, name = match.groups()
        path = tuple(name.split("."))
        if len(path) > DEEPEST:
            return [Problem(f"a key has at most {DEEPEST} parts, this one {len(path)}", shortened(key, 60))]
        value = respelled(value, name) if isinstance(value, dict) else value
        self.tree.changed += dict.fromkeys((path, plain_indices(path)))
        free = sign in ("+", "++") or _open(name, self._opened)
        plain = sign == "+" and name not in self._added and not isinstance(value, dict | list)
        if plain and self._present(self.tree, path) is not None:
            return [Problem(f"the config has '{name}' already", key, f"write '{name}' or '++{name}'")]
        parent = self._parent(path[:-1], create=free and sign != "~")
        last = None if parent is None else _position(parent, path[-1])
        present = last is not None and (isinstance(parent, list) or last in parent)
        if parent is None or last is None or not (present or (free and sign != "~")):
            return [self._unknown(key, name)]
        if sign == "~":
            return self._delete(key, path, parent, last, value)
        problems: list[Problem] = []
        old = parent[last] if present else None
        merged = _merged(
            old, value, name, free, lambda unknown: problems.append(self._unknown(key, unknown)), self._opened
        )
        self._set(parent, last, merged)
        return problems

    def _parent(self, path: Path, *, create: bool) -> Any:
        """The container at a path, made the tree's own, or None if there is none and none may be created."""
        node: Any = self.tree
        for part in path:
            position = _position(node, part)
            if position is None:
                return None
            child = node[position] if isinstance(node, list) else node.get(part)
            if not isinstance(child, dict | list):
                if not create:
                    return None
                child = self._copy({})
            elif id(child) not in self.tree.owned:
                child = self._copy(child)
            self._set(node, position, child)
            node = child
        return node

    def _delete(self, key: str, path: Path, parent: Any, last: Any, value: Any) -> list[Problem]:
        if isinstance(parent, list):
            return [Problem("an item of a list can't be deleted", key, "set the whole list")]
        if value is not None and (present := self._present(self.tree, path)) != value:
            return [Problem(f"'{'.'.join(path)}' is {present!r}, not {value!r}", key, "write null to delete it")]
        del parent[last]
        self.tree.live.get(id(parent), {}).pop(last, None)
        return []

    def _unknown(self, key: str, name: str) -> Problem:
        if name.startswith("hydra."):
            return Problem("Hydra's own settings have no effect here, so a sweep can't set them", key, "leave it out")
        if signed := re.search(r"\.([+~]+)", name):
            hint = f"put it before the whole key: '{signed[1]}{name.replace(signed[1], '')}'"
            return Problem(f"'{signed[1]}' is inside the key '{name}'", key, hint)
        paths = {*all_paths(self.tree)}
        what = f"the config has no key '{name}'"
        if name in paths:
            return Problem(what, key, DOT_IN_KEY)
        return Problem(what, key, item_hint(self.tree, name) or new_key_hint(did_you_mean(name, paths), key))


DOT_IN_KEY = "a key of the config contains a dot, so a dotted key can't name it: set the mapping that contains it"


def _open(name: str, opened: tuple[str, ...]) -> bool:
    return f"{name}.".startswith(opened)


def _position(node: Any, part: str) -> Any:
    """Where `part` is, or would be, in a mapping or list: a key or an index; None if it can be nowhere."""
    if isinstance(node, dict):
        return part
    return int(part) if part.isdecimal() and len(part) <= MOST_DIGITS and int(part) < len(node) else None


def _merged(old: Any, new: Any, name: str, free: bool, unknown: Callable[[str], None], opened: tuple[str, ...]) -> Any:
    """`new` merged into `old`, neither of them changed; a key that `old` lacks is passed to `unknown` unless `free`."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    merged = dict(old)
    for key, value in new.items():
        inner = f"{name}.{key}"
        inner_free = free or _open(inner, opened)
        if key not in old and not inner_free:
            unknown(inner)
        merged[key] = _merged(old.get(key), value, inner, inner_free, unknown, opened)
    return merged


def _index_live(node: Any, live: dict[int, Sequence[Any]]) -> Sequence[Any]:
    """Note, for a container and all below it, by `id`, which of its keys or indices have something to evaluate."""
    found = []
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if is_live(value) if isinstance(value, str) else isinstance(value, dict | list) and _index_live(value, live):
            found.append(key)
    live[id(node)] = found
    return found
