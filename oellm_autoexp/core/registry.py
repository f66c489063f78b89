"""Kinds of things that the YAML names by `class_name`: ours, and those of other packages.

A kind is a class of pydantic's, found by the text that its field `class_name` takes (`Literal["FileExistsCondition"]`).
Ours are found in their module or folder; those of another package by an entry point of its pyproject.toml, which names
the class:

    [project.entry-points."oellm_autoexp.conditions"]
    quota = "my_package.quota:QuotaCondition"

A package whose class can't be loaded is reported by name (`broken`), and what does not use it goes on.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Generic, TypeVar, Union, get_args

from pydantic import BaseModel, Field

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Broken:
    """A kind of another package that can't be used: its entry point, and why not."""

    group: str
    entry: str
    why: str

    def __str__(self) -> str:
        return f"the plugin {self.entry} ({self.group}) can't be used: {self.why}"


def broken() -> tuple[Broken, ...]:
    """The kinds of other packages that could not be loaded, of the registries that were asked until now."""
    return tuple(_BROKEN)


_BROKEN: dict[Broken, None] = {}


def tags(kind: type[BaseModel]) -> tuple[str, ...]:
    """The texts by which `class_name` names a class; () for a class that has no such field, or any text in it."""
    found = kind.model_fields.get("class_name")
    return tuple(name for name in get_args(found.annotation) if isinstance(name, str)) if found else ()


class Registry(Generic[T]):
    """The classes of one kind. `home` is our module or folder of them, `group` the name of the entry points of others.

    `base` is what each of them is a subclass of; a folder in `home` has its own in the module `inside`.
    """

    def __init__(self, base: type[T], home: str, group: str, inside: str = "") -> None:
        self._base = base
        self._home = home
        self._inside = inside
        self._group = group
        self._found: dict[str, type[T]] = {}

    def classes(self) -> dict[str, type[T]]:
        """The classes by their names, ours first. They are looked for once."""
        if not self._found:
            for module in _modules(self._home, self._inside):
                importlib.import_module(module)
            ours = [kind for kind in _subclasses(self._base) if _within(kind.__module__, self._home)]
            self._found = {name: kind for kind in ours for name in tags(kind)}
            for entry in sorted(_entries(self._group), key=lambda entry: entry.name):
                self._add(entry)
        return self._found

    def union(self, *more: type[BaseModel]) -> Any:
        """The type of a field that holds one of the classes, or of `more`, distinguished by `class_name`."""
        kinds = [*dict.fromkeys(self.classes().values()), *more]
        return Annotated[Union[tuple(kinds)], Field(discriminator="class_name")]  # noqa: UP007

    def _add(self, entry: EntryPoint) -> None:
        try:
            kind = entry.load()
        except (Exception, SystemExit) as error:  # another package's code, of which anything may come
            why = f"{type(error).__name__}: {error}"
        else:
            why = self._unfit(kind)
        if why:
            _BROKEN[Broken(self._group, f"{entry.name} = {entry.value}", why)] = None
        else:
            self._found.update(dict.fromkeys(tags(kind), kind))

    def _unfit(self, kind: Any) -> str:
        """Why a class can't be one of this kind; '' if it can."""
        base = f"{self._base.__module__}.{self._base.__qualname__}"
        if not (isinstance(kind, type) and issubclass(kind, self._base)):
            return f"it is not a subclass of {base}"
        names = tags(kind)
        if not names:
            return f"it does not declare its class_name; write class_name: Literal[{kind.__name__!r}]"
        taken = [name for name in names if name in self._found]
        return f"the class_name {taken[0]} is already used by {self._found[taken[0]].__module__}" if taken else ""


def _modules(home: str, inside: str) -> Iterator[str]:
    """The modules of a home: itself, what lies directly in it where it is a folder, and one of each folder there."""
    yield home
    for found in pkgutil.iter_modules(getattr(importlib.import_module(home), "__path__", [])):
        yield f"{home}.{found.name}.{inside}" if found.ispkg else f"{home}.{found.name}"


def _within(module: str, home: str) -> bool:
    return module == home or module.startswith(f"{home}.")


def _subclasses(base: type[T]) -> Iterable[type[T]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _subclasses(kind)


@cache
def _all_entries() -> Any:
    return entry_points()  # once: every installed package is looked at


def _entries(group: str) -> Iterable[EntryPoint]:
    found: Iterable[EntryPoint] = _all_entries().select(group=group)
    return found
