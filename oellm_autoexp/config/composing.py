"""Composing with Hydra: what is wrong is left out and reported, so that the rest is checked, too."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import hydra
from hydra import initialize_config_module
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.types import RunMode
from omegaconf import OmegaConf

from oellm_autoexp.config.experiment import configs_of, defaults_of
from oellm_autoexp.config.hydra import hydra_keys
from oellm_autoexp.config.hydra.config_file import read_config
from oellm_autoexp.config.hydra.findings import EVERYTHING, FilePath, Findings, within
from oellm_autoexp.config.hydra.hydra_source import WHOLE, Search, current_findings, searching
from oellm_autoexp.config.hydra.yaml_files import key_lines, shown
from oellm_autoexp.config.hydra_errors import culprit, parent_of, problem_of
from oellm_autoexp.config.overrides import CheckedOverride, compose_with, for_hydra, path_of
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem
from oellm_autoexp.core.location import Line, Location

VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Hydra 1.3 warns where no version is named, and 1.4 where one is; both then behave as 1.3 does."""
_REPLACING: dict[str, Any] = {} if VERSION_BASE else {"replace": True}
"""Hydra 1.4 warns where a stored config is replaced without being told so; 1.3 knows no such argument."""


_WITHOUT_CONFIGS = "oellm_autoexp.core"
"""A package without a config: AutoexpSearchPath says where they are. (`hydra.initialize` reads its callers' files.)"""


@contextmanager
def hydra_ready() -> Iterator[None]:
    """Hydra ready to compose, and its global state afterwards as it was: the caller may be using Hydra, too."""
    before = get_gh_backup()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(_WITHOUT_CONFIGS, **VERSION_BASE), _without_settings_of_hydra():
            yield
    finally:
        restore_gh_from_backup(before)


@contextmanager
def _without_settings_of_hydra() -> Iterator[None]:
    """Let Hydra compose its own settings, which have no effect here (hydra_keys), without the files that they choose.

    To read these eight files takes a tenth of the time of a small plan.
    """
    store = ConfigStore.instance()
    before = store.load("hydra/config.yaml")
    store.store(group="hydra", name="config", node=HydraConf(defaults=[]), **_REPLACING)
    try:
        yield
    finally:
        store.store(
            group="hydra",
            name="config",
            node=before.node,
            package=before.package,
            provider=before.provider,
            **_REPLACING,
        )


_INNER_ADDED = re.compile(r"\+[^=@+]+/[^=@]+=")


def of_chosen_groups(overrides: list[CheckedOverride], search: Search) -> list[CheckedOverride]:
    """The overrides, without the `+` before a group within another of which one is chosen: Hydra would keep that."""
    added = [one for one in overrides if _INNER_ADDED.match(one.checked) and search.is_group(one.key)]
    if not added:
        return overrides
    others = for_hydra([one for one in overrides if one not in added])
    loader = GlobalHydra.instance().config_loader()
    try:
        defaults = loader.compute_defaults_list(WHOLE, others, RunMode.RUN).defaults
    except Exception:  # composing it reports what is wrong
        return overrides
    chosen = {posixpath.dirname(str(default.config_path)) for default in defaults}
    return [replace(one, checked=one.checked[1:]) if one in added and one.key in chosen else one for one in overrides]


def composed(
    overrides: Sequence[CheckedOverride], search: Search, found: Findings
) -> tuple[dict[str, Any], list[CheckedOverride]]:
    """The whole config with the overrides that are right, and these; what is wrong goes to `found`.

    Raises ConfigError with everything found if the config does not compose without what is wrong.
    """
    try:
        tree = compose_with(overrides)
    except AutoexpError:
        raise
    except Exception as error:  # Hydra asserts on some mistakes, and others end in any of Python's own errors
        tree, overrides = _composed_mostly(overrides, error, search, found)
    if found.hopeless:
        _read_all(search, found)
        raise ConfigError(*found.problems)
    return tree, list(overrides)


def _composed_mostly(
    overrides: Sequence[CheckedOverride], error: Exception, search: Search, found: Findings
) -> tuple[dict[str, Any], list[CheckedOverride]]:
    """As `composed`, where Hydra has failed with an error."""
    if not _composes_alone(search, found):
        found.add((), EVERYTHING)
        return {}, []
    good: list[CheckedOverride] = []
    before = len(found.problems)
    for override in sorted(overrides, key=lambda one: not search.is_group(one.key)):  # Hydra takes choices first, too
        path = path_of(override.key)
        if any(path != place and within(path, place) for place in found.unclear):
            continue  # whether the section has this key depends on what is wrong with it
        try:
            compose_with([*good, override])
            good.append(override)
        except Exception as single:
            found.add([problem_of(single, override, search, good)], path)
            if search.is_group(override.key):
                meant = _meant(override, single, good)
                good += meant
                found.add((), *([EVERYTHING] if not meant and search.is_global(override.key) else []))
    order = {override.written: position for position, override in enumerate(overrides)}
    good.sort(key=lambda one: order[one.written])
    try:
        return compose_with(good), good
    except Exception as again:
        if len(found.problems) == before:
            found.add([problem_of(error, None, search, good)])
        else:
            found.add([problem_of(again, None, search, good)])
        found.add((), EVERYTHING)
        return {}, []


def _meant(override: CheckedOverride, error: Exception, good: Sequence[CheckedOverride]) -> list[CheckedOverride]:
    """The choice that was most likely meant instead of one that is not there, so that the rest can be checked."""
    if not isinstance(error, MissingConfigException) or "=" not in override.checked:
        return []
    group, _, choice = override.checked.partition("=")
    for near in get_close_matches(choice, [str(known) for known in error.options or ()], n=1):
        meant = replace(override, checked=f"{group}={near}")
        try:
            compose_with([*good, meant])
        except Exception:
            return []
        return [meant]
    return []


def _composes_alone(search: Search, found: Findings) -> bool:
    """Whether the config composes without overrides, once what is wrong in it is left out and reported."""
    for _ in range(_MOST_MISTAKES):
        if found.hopeless:
            return False
        try:
            compose_with([])
        except Exception as error:
            if misfits := _misfits(error, search):
                for problem, file, path in misfits:
                    found.add([problem], path)
                    found.left_out[str(file)].add(path)
                continue
            found.add([problem_of(error, None, search, [])])
            entry = culprit(error, search)
            if entry is None or entry.path in found.left_out[str(entry.file)]:
                return False
            found.left_out[str(entry.file)].add(entry.path)
            found.add((), *(EVERYTHING if search.is_global(".".join(path)) else path for path in entry.sections))
        else:
            return True
    return False


_MOST_MISTAKES = 20  # entries of defaults lists, in one load


def _read_all(search: Search, found: Findings) -> None:
    """Read all files that a config names which does not compose, and keep what is wrong in each."""
    waiting, seen = list(search.configs), set[str]()
    while waiting:
        config = waiting.pop()
        file = search.file(config)
        if file is None or config in seen or hydra_keys.is_hydras(config):
            continue
        seen.add(config)
        found.add(flaw.problem for flaw in read_config(file, config, is_root=config in search.configs).flaws)
        for entry in defaults_of(file):
            group, choices = next(iter(entry.items()), ("", "")) if isinstance(entry, dict) else ("", entry)
            words = str(group if isinstance(entry, dict) else choices).split()
            path = words[-1].partition("@")[0] if words else ""
            base = path[1:] if path.startswith("/") else posixpath.normpath(posixpath.join(config, "..", path))
            names = choices if isinstance(choices, list) else [choices]
            waiting += [f"{base}/{name}" for name in names] if isinstance(entry, dict) else [base]


def _misfits(error: Exception, search: Search) -> list[tuple[Problem, Path, FilePath]]:
    """The keys of one file that hold a list where all the others have keys and values, or the other way round.

    Looked for in the file that Hydra could not merge, in the experiment's, and in those that it builds on, as far as
    these set any part of the whole config.
    """
    if "Cannot merge" not in f"{error} {error.__cause__}":
        return []
    for config in dict.fromkeys((parent_of(error), *configs_of(search))):
        file = search.file(config)
        if file is not None and (found := _misfits_of(file, config, search)):
            return found
    return []


def _misfits_of(file: Path, config: str, search: Search) -> list[tuple[Problem, Path, FilePath]]:
    # The file as Hydra gets it: without what is wrong in it, which is reported already.
    left_out = current_findings().left_out
    read = read_config(file, config, is_root=config in search.configs, left_out=left_out[str(file)])
    if read.place:
        return []
    content = cast("dict[Any, Any]", OmegaConf.to_container(read.config, resolve=False))
    without = Findings()
    without.left_out.update({name: {*paths} for name, paths in left_out.items()})
    without.left_out[str(file)] |= {tuple(str(key).split(".")) for key in content if key != "defaults"}
    with searching(search, without):
        try:
            others = compose_with([])
        except Exception:  # another file's mistake, which is what is reported
            return []
    lines = key_lines(file)
    found: list[tuple[Problem, Path, FilePath]] = []

    def walk(value: Any, other: Any, path: FilePath) -> None:
        if isinstance(value, dict) and isinstance(other, dict):
            for key in value.keys() & other.keys():
                walk(value[key], other[key], (*path, *str(key).split(".")))
        elif isinstance(value, dict | list) and isinstance(other, dict | list) and type(value) is not type(other):
            must, is_now = _KINDS[type(other)], _KINDS[type(value)]
            line = next(lines[path[:count]] for count in range(len(path), 0, -1) if path[:count] in lines)
            where = Location(path, (Line(shown(file), line),))
            found.append((Problem(f"must be {must}, not {is_now}", where), file, path))

    walk(content, others, ())
    return sorted(found, key=lambda each: str(each[0].where))


_KINDS = {dict: "keys and values", list: "a list"}
