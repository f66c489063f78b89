"""Feeds the files of a config to Hydra: which folders are searched, and what Hydra gets of each file."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from oellm_autoexp.config.hydra.config_file import read_config
from oellm_autoexp.config.hydra.findings import FilePath, Findings, LeftOut
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SCHEME = "autoexp"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnChoices:
    """By group what an experiment chooses by itself, and what of configs, by name and path, gives way to that."""

    chosen: Mapping[str, Any] = field(default_factory=dict)
    left_out: frozenset[tuple[str, FilePath]] = frozenset()


@dataclass(frozen=True)
class Search:
    """Folders to search, first one first, and the configs that the whole is made of, each applied over those before."""

    directories: tuple[Path, ...] = ()
    configs: tuple[str, ...] = ()
    own_choices: Callable[[LeftOut], OwnChoices] = lambda _: OwnChoices()
    """What the last of `configs` chooses by itself, without entries of defaults lists that have proved to be wrong."""

    def file(self, config_path: str) -> Path | None:
        """The file of a config in the first folder that has it."""
        files = (directory / f"{config_path}.yaml" for directory in self.directories)
        return next((file for file in files if os.path.isfile(file)), None)  # noqa: PTH113  False where the name is too long

    def is_group(self, name: str) -> bool:
        """Whether a folder of that name holds configs to choose from."""
        return bool(name) and any((directory / name).is_dir() for directory in self.directories)

    def choices(self, group: str) -> list[str]:
        """The names of a group's configs."""
        return sorted({file.stem for directory in self.directories for file in (directory / group).glob("*.yaml")})

    def is_global(self, group: str) -> bool:
        """Whether one of a group's configs sets what is outside of the group's section."""
        files = [file for directory in self.directories for file in (directory / group).glob("*.yaml")]
        return bool(group) and any(not read_config(file, f"{group}/{file.stem}", is_root=False).place for file in files)

    def groups(self) -> list[str]:
        """The names of all groups but those of experiments."""
        folders = [
            folder.relative_to(directory)
            for directory in self.directories
            for pattern in ("*/", "*/*/")
            for folder in directory.glob(pattern)
        ]
        return sorted({str(folder) for folder in folders if folder.parts[0] != "experiments"})


WHOLE = "the config"
"""The name of the config that Hydra composes: a defaults list of `Search.configs`, in no file."""

_NOWHERE = Search()
_search: ContextVar[Search] = ContextVar("search", default=_NOWHERE)
_findings: ContextVar[Findings] = ContextVar("findings")


def current_findings() -> Findings:
    """What was found wrong so far in the block of `searching` that this is called in."""
    return _findings.get()


class AutoexpConfigSource(ConfigSource):
    """A folder of YAML files, read by `read_yaml`; one Hydra search path entry `autoexp:///folder`."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def _file(self, config_path: str) -> Path:
        return Path(self.path, self._normalize_file_name(config_path))

    def load_config(self, config_path: str) -> ConfigResult:
        if config_path == WHOLE:
            # The package is said here, so that a config without the header is applied over the root as well.
            search = _search.get()
            defaults: list[Any] = [f"{name}@_global_" for name in search.configs]
            # What is chosen first counts: also over what the chosen configs choose.
            chosen = search.own_choices(_findings.get().all_left_out).chosen
            defaults += [{f"override {group}": choice} for group, choice in chosen.items()]
            config = OmegaConf.create({"defaults": defaults})
            return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header={"package": None})
        file = self._file(config_path)
        if not os.path.isfile(file):  # noqa: PTH113
            raise ConfigLoadError(f"Config not found : {file}")
        _log.debug("reading %s", file)
        findings = _findings.get()
        search = _search.get()
        is_root = config_path in search.configs
        gives_way = search.own_choices(findings.all_left_out).left_out
        left_out = findings.left_out[str(file)] | {path for config, path in gives_way if config == config_path}
        found = read_config(file, config_path, is_root=is_root, left_out=left_out)
        for flaw in found.flaws:
            findings.add([flaw.problem], *found.unclear(flaw))
        findings.notes.update(dict.fromkeys(found.notes))
        header = dict(found.header)
        return ConfigResult(provider=self.provider, path=self.full_path(), config=found.config, header=header)

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return os.path.isdir(Path(self.path, config_path))  # noqa: PTH112

    def is_config(self, config_path: str) -> bool:
        return config_path == WHOLE or os.path.isfile(self._file(config_path))  # noqa: PTH113

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        files: list[str] = []
        for entry in sorted(Path(self.path, config_path).iterdir()):
            self._list_add_result(files, f"{config_path}/{entry.name}", entry.name, results_filter)
        return sorted(set(files))


class AutoexpSearchPath(SearchPathPlugin):
    """Puts the folders of `searching` on Hydra's search path, in order, before everything else."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for directory in reversed(_search.get().directories):
            search_path.prepend(provider=SCHEME, path=f"{SCHEME}://{directory}")


@contextmanager
def searching(search: Search, findings: Findings | None = None) -> Iterator[None]:
    """Let Hydra search these folders, and compose these configs as WHOLE, for the time of a block.

    What is wrong in a file goes to `findings` and is left out of what Hydra gets.
    """
    Plugins.instance().register(AutoexpConfigSource)
    Plugins.instance().register(AutoexpSearchPath)
    token = _search.set(search)
    token_of_findings = _findings.set(Findings() if findings is None else findings)
    try:
        yield
    finally:
        _search.reset(token)
        _findings.reset(token_of_findings)


def unknown_config(name: str, directories: tuple[Path, ...]) -> Problem:
    """The problem of a config name found in none of the folders, with the nearest names there are."""
    files = [
        (file, directory)
        for directory in directories
        for files in (directory.glob("*.yaml"), (directory / "experiments").rglob("*.yaml"))
        for file in sorted(files)
    ]
    known = {str(file.relative_to(directory).with_suffix("")) for file, directory in files}
    searched = ", ".join(str(directory) for directory in directories)
    return Problem(f"no config '{name}'", f"searched {searched}", did_you_mean(name, known))
