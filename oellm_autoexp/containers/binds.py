"""Folders of the host that are visible in a container: in the config, and as words of a runtime. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from oellm_autoexp.containers import mounts
from oellm_autoexp.core.fields import AlsoWritten, MappingOrList, Section, Text
from oellm_autoexp.core.text import Raw
from oellm_autoexp.sbatch.environment import REFERENCE, expanded

_MODES = {"ro": True, "rw": False}


class Bind(Section):
    """A file or folder of the host, and its path in the container (default: the same path).

    `$NAME` in a path is a variable of the job, where it runs; in one that is `literal`, it is plain text.
    """

    source: Text
    target: Text | None = None
    read_only: bool = False
    literal: bool = False

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        """Refuse a relative path: while folders are bound, a container has no current folder yet, and can't start."""
        if not self.place.startswith("/") and (self.literal or not self.place.startswith("$")):
            name = self.place.rpartition("/")[2].strip(".~") or "data"
            why = f"a path in the container must be absolute, and {self.place!r} is not"
            raise PydanticCustomError("bind", "{why}", {"why": why, "hint": f"write {self.source}:/{name}"})
        return self

    @property
    def place(self) -> str:
        """Its path in the container."""
        return self.target or self.source

    @property
    def is_fixed(self) -> bool:
        """Whether the path on the host is known before the job runs."""
        return not self._names_variable(self.source)

    @property
    def is_fixed_inside(self) -> bool:
        """Whether the path in the container is known before the job runs."""
        return not self._names_variable(self.place)

    def _names_variable(self, path: str) -> bool:
        return not self.literal and REFERENCE.search(path) is not None

    def words(self) -> tuple[str, str | Raw]:
        """The option of Apptainer and Singularity, and its value (see mounts.words)."""
        option, value = mounts.words(self.source, self.target, read_only=self.read_only)
        return option, Raw(expanded(value)) if self._names_variable(value) else value


def _bind(value: Any) -> Any:
    """`path`, `path:target` or `path:target:ro` as a mapping; a mapping as it is."""
    if not isinstance(value, str):
        return value
    source, *rest = value.split(":")
    if len(rest) > 2 or (len(rest) == 2 and rest[1] not in _MODES) or not source or (rest and not rest[0]):
        what = "must be path, path:target or path:target:ro ({source: …, target: …} for a path with a colon)"
        raise PydanticCustomError("bind", what)
    target = {"target": rest[0]} if rest else {}
    return {"source": source, **target, "read_only": _MODES[rest[1]] if len(rest) == 2 else False}


def _named(value: Any) -> Any:
    """A list as a mapping by its numbers, without entries that are null or have no path."""
    if isinstance(value, list):
        value = {str(number): item for number, item in enumerate(value)}
    return {name: item for name, item in value.items() if item not in (None, "")} if isinstance(value, dict) else value


def fixed(binds: Iterable[Bind]) -> list[Bind]:
    """The binds whose two paths are known before the job runs."""
    return [bind for bind in binds if bind.is_fixed and bind.is_fixed_inside]


_Bind = Annotated[Bind, BeforeValidator(_bind), AlsoWritten({"type": "string"})]
Binds = Annotated[dict[str, _Bind], BeforeValidator(_named), MappingOrList()]


def beside(binds: list[Bind], folders: tuple[str, ...]) -> list[Bind]:
    """Binds for those folders that no bind, and no other folder, makes visible at the same path."""
    seen = [bind.source for bind in binds if bind.place == bind.source and not bind.read_only]
    return [Bind(source=folder, literal=True) for folder in mounts.outermost(folders, seen)]
