"""Loads a config: composed with Hydra, once, checked, and ready for points to be applied to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from hydra.core.global_hydra import GlobalHydra

from oellm_autoexp.config import sweep_overrides
from oellm_autoexp.config.composing import composed, hydra_ready, of_chosen_groups
from oellm_autoexp.config.declared import settle
from oellm_autoexp.config.defaults import with_defaults
from oellm_autoexp.config.experiment import ROOT, groups_of_root, search_for
from oellm_autoexp.config.hydra.findings import Findings
from oellm_autoexp.config.hydra.hydra_source import Search, searching, unknown_config
from oellm_autoexp.config.hydra.yaml_files import shown
from oellm_autoexp.config.locations import Locations
from oellm_autoexp.config.overrides import NO_SWEEP, CheckedOverride, checked_overrides, parsed
from oellm_autoexp.config.values.braces import as_interpolations
from oellm_autoexp.config.values.overlay import Overlay, ever_open, open_sections
from oellm_autoexp.config.values.resolvers import make_resolvers
from oellm_autoexp.core.errors import ConfigError, Problem, raise_all
from oellm_autoexp.core.location import CONFIG, KeyPath, Location
from oellm_autoexp.core.text import did_you_mean
from oellm_autoexp.sbatch import shell_code
from oellm_autoexp.storage.files import shipped

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What was asked for: a config's name or file, folders to search first, and Hydra overrides."""

    config_ref: str = ROOT
    config_dirs: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()


class Places(Protocol):
    """Where each key of a config was written."""

    def of(self, where: Location) -> Location:
        """A key with the line where it was written, or `where` itself."""
        ...

    def placed(self, problem: Problem) -> Problem:
        """A problem of a key with the line where that was written."""
        ...


@dataclass(frozen=True)
class Composed:
    """A composed config as plain data: interpolations still text, the `sweep` section apart.

    `problems` are mistakes found while composing; what they are about was left out, and nobody knows the values at the
    paths in `unclear`. `notes` name what has no effect.
    """

    source: Source
    base: dict[str, Any]
    sweep: Any
    groups: frozenset[str]
    locations: Places
    problems: tuple[Problem, ...] = field(default=(), kw_only=True)
    unclear: tuple[KeyPath, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    code: Mapping[str, shell_code.Parts] = field(default_factory=dict, kw_only=True)
    """What a shell evaluates in the jobs, of values that stand literally in a YAML file, by dotted key."""

    def is_choice(self, key: str, value: Any) -> bool:
        """Whether a sweep's key and value choose a config of a group (`backend: tiny_lm`) rather than set a value."""
        if "/" not in key and not (isinstance(value, str) or value is None):
            return False  # the usual case, quickly
        name = key.lstrip("+~").split("@")[0]
        return "/" in name or (name in self.groups and (isinstance(value, str) or value is None))

    def choosing(self, choices: tuple[str, ...]) -> Composed:
        """The same config composed with these group choices on top. Raises ConfigError."""
        return load(Source(self.source.config_ref, self.source.config_dirs, (*self.source.overrides, *choices)))

    def overlay(self, environment: Mapping[str, str], now: datetime, python: str, place: str = "") -> Overlay:
        """The base with the schema's defaults in it, ready for points to be applied to it.

        `place`: the folder of shipped files, where these are not this program's but those in an image.
        """
        base, added = with_defaults(self.base)
        find = partial(Path, place) if place else shipped
        return Overlay(base, make_resolvers(environment, now, find, python), added)


def load(source: Source) -> Composed:
    """Compose a config. The shipped `config/` is always searched last.

    Raises ConfigError: an unknown config or group choice, YAML that does not parse, wrong overrides (all of them).
    """
    composed = load_mostly(source)
    raise_all(ConfigError, composed.problems)
    return composed


def load_mostly(source: Source) -> Composed:
    """As `load`, but what is wrong is left out and reported in `problems`, where the rest can still be checked.

    Raises ConfigError with everything found where nothing more can be said.
    """
    found = Findings()
    problems = [
        Problem("is not a directory", f"--config-dir {directory}", "name a folder with YAML files")
        for directory in source.config_dirs
        if not directory.is_dir()
    ]
    if problems:
        raise ConfigError(*problems)
    overrides = checked_overrides(source.overrides, ever_open(), found)
    try:
        directories, name = _locate(source)
    except ConfigError as error:
        raise ConfigError(*found.problems, *error.problems) from None
    if "@" in name:
        what = "a config's name can't hold '@', which begins a package in Hydra"
        raise ConfigError(*found.problems, Problem(what, name, "rename it"))
    search, notes = search_for(directories, name)
    found.notes.update(dict.fromkeys(notes))
    _log.info("composing %s, searched in %s", " and ".join(search.configs), ", ".join(map(str, directories)))
    before = len(found.problems)
    with searching(search, found), hydra_ready():
        overrides = of_chosen_groups(overrides, search)
        tree, right = composed(overrides, search, found)
        # Only now is it known which backend was chosen, and so which keys are new and need a `+`.
        opened = checked_overrides(source.overrides, open_sections(tree), found, tree)
        if (opened := of_chosen_groups(opened, search)) != overrides:
            tree, right = composed(opened, search, found)
        loader = GlobalHydra.instance().config_loader()
    if lacks := [name for name in ("project", "backend", "slurm") if name not in tree]:
        if len(found.problems) > before:  # it may have them without these
            raise ConfigError(*found.problems)
        what = f"the config has no {' and no '.join(lacks)}"
        where = shown(cast("Path", search.file(name)))
        raise ConfigError(*found.problems, Problem(what, where))
    locations = Locations(loader, search, right, found)
    sweep = _overridden_sweep(tree.pop("sweep", None), right, found)
    tree, sweep, unsettled = settle(as_interpolations(tree), as_interpolations(sweep))
    tree, code = shell_code.taken_out(tree)
    sweep = shell_code.without_marks(sweep)
    wrong = dict(_of_code(code))
    code = {key: parts for key, parts in code.items() if key not in wrong}
    for problem in (*unsettled, *wrong.values(), *_without_sections(tree, search)):
        found.add([replace(problem, where=locations.of(problem.where))], *problem.where.paths())
    found.notes.update(dict.fromkeys(_switching_nothing_off(tree, locations)))
    groups = _groups(directories[-len(source.config_dirs) - 1 :])
    return Composed(
        source,
        tree,
        sweep,
        groups,
        locations,
        problems=tuple(found.problems),
        unclear=tuple(found.unclear),
        notes=tuple(found.notes),
        code=code,
    )


def _of_code(code: Mapping[str, shell_code.Parts]) -> Iterator[tuple[str, Problem]]:
    """Shell code into which a value of the config would be put, by its key."""
    hint = "write $NAME in the code, and NAME: ${…} above it in slurm.env (a shell's own ${NAME} is \\${NAME})"
    for key, parts in code.items():
        try:
            for each in parts[1::2]:
                shell_code.as_shell_reads(each)
        except ValueError as error:
            yield key, Problem(f"{error}; this is not supported", CONFIG / key, hint)


def _overridden_sweep(sweep: Any, overrides: Sequence[CheckedOverride], found: Findings) -> Any:
    """The `sweep` section with the overrides that are about it; those that have no place there go to `found`."""
    for override in overrides:
        if override.checked == NO_SWEEP:
            sweep = {}  # also where an experiment has a sweep of its own, which is applied over the group's choice
        if override.in_sweep:
            sweep = {} if sweep is None else sweep
            if not _changes_sweep(override, sweep):
                found.add([Problem(f"the config has no key '{override.key}'", override.written)])
    return sweep


def _changes_sweep(override: CheckedOverride, sweep: Any) -> bool:
    change = parsed(override.checked)
    parts = override.key.split(".")[1:]
    if change.is_delete():
        return sweep_overrides.remove(sweep, parts)
    return sweep_overrides.put(sweep, parts, change.value())


def _without_sections(tree: dict[str, Any], search: Search) -> Iterator[Problem]:
    """Leave out sections that hold one value, such as `slurm: base` outside of a defaults list."""
    for name in groups_of_root(search):
        value = tree.get(name)
        if value is None or isinstance(value, dict):
            continue
        hint = f"to choose a config, write '- override /{name}: {value}' in the defaults list"
        known = isinstance(value, str) and search.file(f"{name}/{value}") is not None
        what = f"must hold keys and values, not {value!r}"
        tree[name] = {}
        yield Problem(what, CONFIG / name, hint if known else "")


def _switching_nothing_off(tree: dict[str, Any], locations: Locations) -> Iterator[str]:
    """Notes on rules that are null, as to switch them off, and that no other file has."""
    monitoring = tree.get("monitoring") or {}
    for section in ("log_events", "state_events", "metrics"):
        rules = monitoring.get(section)
        rules = rules if isinstance(rules, dict) else {}
        others = [str(name) for name, rule in rules.items() if rule is not None]
        for name in map(str, (name for name, rule in rules.items() if rule is None)):
            path = ("monitoring", section, name)
            if locations.in_one_file(path):
                hint = did_you_mean(name, others) or f"what is chosen has no {section} of this name"
                yield f"{locations.of(CONFIG / '.'.join(path))}: null has no effect; {hint}"


def _groups(directories: tuple[Path, ...]) -> frozenset[str]:
    """The names of the top config groups: the folders that hold configs."""
    return frozenset(folder.name for directory in directories for folder in directory.iterdir() if folder.is_dir())


def _locate(source: Source) -> tuple[tuple[Path, ...], str]:
    """The folders to search and the config's name in them. Raises ConfigError."""
    folders = (*(directory.resolve() for directory in source.config_dirs), shipped("config").resolve())
    ref = source.config_ref
    file = Path(ref).expanduser()
    if file.suffix == ".yaml" and file.is_file():
        file = file.resolve()
        inside = next((folder for folder in folders if file.is_relative_to(folder)), None)
        if inside is not None:
            return folders, str(file.relative_to(inside).with_suffix(""))
        return (file.parent, *folders), file.stem
    stem = ref.removesuffix(".yaml")
    for name in () if file.is_absolute() else (stem, f"experiments/{stem}"):
        if any((folder / f"{name}.yaml").is_file() for folder in folders):
            return folders, name
    if file.suffix == ".yml" and file.is_file():
        raise ConfigError(Problem("only .yaml files are read", ref, "rename it"))
    if file.suffix != ".yaml" and Path(f"{file}.yaml").is_file():
        here = "" if file.is_absolute() or ref.startswith((".", "~")) else "./"
        hint = f"a file is named with its ending: {here}{ref}.yaml"
        raise ConfigError(replace(unknown_config(ref, folders), hint=hint))
    if file.is_absolute() or file.suffix in (".yaml", ".yml"):
        raise ConfigError(Problem("there is no such YAML file", ref, "--config-ref takes a name or a .yaml file"))
    raise ConfigError(unknown_config(ref, folders))
