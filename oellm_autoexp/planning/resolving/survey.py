"""What of jobs has to be known before they are planned, where an image plans them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.planning.resolving.resolve import SweepResolver

_CONTAINER = tuple(("container", key) for key in ("class_name", "image", "runtime", "binds"))
_LAUNCHER, _TEMPLATE = ("slurm", "launcher_cmd"), ("slurm", "template_path")
_FOLDERS = tuple(("project", key) for key in ("base_output_dir", "output_dir", "monitoring_state_dir"))


@dataclass(frozen=True)
class Kind:
    """What some of the jobs have in common: their container's section, as far as it is needed here, and the launcher.

    `failed` are the keys of the container that can't be evaluated, and why.
    """

    container: Mapping[str, Any]
    launcher: Any
    failed: Mapping[str, ConfigError] = field(default_factory=dict)

    @property
    def container_class(self) -> str:
        """The container's class; that of none where none is chosen."""
        return str(self.container.get("class_name", "NoContainer"))


@dataclass(frozen=True)
class Survey:
    """The kinds of jobs, each once; files of theirs that planning reads, and folders that it writes to."""

    kinds: tuple[Kind, ...]
    templates: tuple[str, ...]
    folders: tuple[str, ...]


def survey(jobs: SweepResolver, indices: Iterable[int]) -> Survey:
    """Look at jobs. What can't be evaluated is left out: planning them reports it. Raises ConfigError."""
    kinds: dict[str, Kind] = {}
    templates: dict[str, None] = {}
    folders: dict[str, None] = {}
    for index in indices:
        found, failed = jobs.parts(index, (*_CONTAINER, _LAUNCHER, _TEMPLATE, *_FOLDERS))
        container = {path[-1]: found[path] for path in _CONTAINER if path in found}
        wrong = {path[-1]: failed[path] for path in _CONTAINER if path in failed}
        launcher = found.get(_LAUNCHER)
        kinds.setdefault(repr((container, launcher, [*wrong])), Kind(container, launcher, wrong))
        templates |= dict.fromkeys(text for text in [found.get(_TEMPLATE)] if isinstance(text, str))
        folders |= dict.fromkeys(text for path in _FOLDERS if isinstance(text := found.get(path), str))
    return Survey(tuple(kinds.values()), tuple(templates), tuple(folders))
