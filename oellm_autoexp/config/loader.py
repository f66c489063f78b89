"""Composes a config with Hydra, once, and tells where each of its values was written."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast

from hydra import compose, initialize
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.types import RunMode
from omegaconf import OmegaConf

from oellm_autoexp.config.declared import settle
from oellm_autoexp.config.limits import DEEPEST, LONGEST_OVERRIDE, shortened
from oellm_autoexp.config.overlay import OPEN_FOR_BACKEND, OPEN_SECTIONS, Overlay, open_sections
from oellm_autoexp.config.resolvers import make_resolvers
from oellm_autoexp.config.source import (
    WHOLE,
    Search,
    key_lines,
    normalise,
    parses,
    read_mapping,
    searching,
    shown,
    unknown_config,
)
from oellm_autoexp.config.spelling import of_a_shell, spelled
from oellm_autoexp.config.written import mark_override
from oellm_autoexp.errors import AutoexpError, ConfigError, Problem, raise_all
from oellm_autoexp.files import shipped
from oellm_autoexp.text import did_you_mean, dotted, is_utf8, new_key_hint, scalar

ROOT = "autoexp"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What was asked for: a config's name or file, folders to search first, and Hydra overrides."""

    config_ref: str = ROOT
    config_dirs: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()


class Places(Protocol):
    """Where each key of a config was written."""

    def of(self, where: str) -> str:
        """`file.yaml:12` for `$.slurm.sbatch.time`, or `where` itself."""
        ...


@dataclass(frozen=True)
class Composed:
    """A composed config as plain data: interpolations still text, the `sweep` section apart."""

    source: Source
    base: dict[str, Any]
    sweep: Any
    groups: frozenset[str]
    locations: Places

    def is_choice(self, key: str, value: Any) -> bool:
        """Whether a sweep's key and value choose a config of a group (`backend: tiny_lm`) rather than set a value."""
        name = key.lstrip("+~").split("@")[0]
        return "/" in name or (name in self.groups and (isinstance(value, str) or value is None))

    def choosing(self, choices: tuple[str, ...]) -> Composed:
        """The same config composed with these group choices on top. Raises ConfigError."""
        return load(Source(self.source.config_ref, self.source.config_dirs, (*self.source.overrides, *choices)))

    def overlay(self, environment: Mapping[str, str], now: datetime, python: str) -> Overlay:
        """The base, ready for points to be laid over it."""
        return Overlay(self.base, make_resolvers(environment, now, shipped, python))


def load(source: Source) -> Composed:
    """Compose a config. The shipped `config/` is always searched last.

    Raises ConfigError: an unknown config or group choice, YAML that does not parse, wrong overrides (all of them).
    """
    problems = [
        Problem("is not a directory", f"--config-dir {directory}", "name a folder with YAML files")
        for directory in source.config_dirs
        if not directory.is_dir()
    ]
    if problems:
        raise ConfigError(*problems)
    directories, name = _locate(source)
    # Hydra's experiment pattern: a config that is not whole by itself is laid over the root config.
    alone = name == ROOT or _stands_alone(Search(directories), name)
    if "@" in name:
        raise ConfigError(Problem("a config's name can't hold '@', which begins a package in Hydra", name, "rename it"))
    search = Search(directories, (name,) if alone else (ROOT, name))
    overrides = _checked_overrides(source.overrides, _EVER_OPEN)
    _log.info("composing %s, searched in %s", " and ".join(search.configs), ", ".join(map(str, directories)))
    with searching(search), _hydra():
        try:
            tree = _compose(overrides)
            # Only now is it known which backend was chosen, and so which keys are new and need a `+`.
            opened = _checked_overrides(source.overrides, open_sections(tree))
            if opened != overrides:
                overrides = opened
                tree = _compose(overrides)
        except AutoexpError:
            raise
        except Exception as error:  # Hydra asserts on some mistakes, and others end in any of Python's own errors
            raise ConfigError(*_explain(error, search, overrides)) from None
        loader = GlobalHydra.instance().config_loader()
    if lacks := [name for name in ("project", "backend", "slurm") if name not in tree]:
        what = f"the config has no {' and no '.join(lacks)}"
        raise ConfigError(
            Problem(what, shown(cast("Path", search.file(name))), "" if ROOT in search.configs else _ALONE)
        )
    locations = Locations(loader, search, overrides)
    sweep = tree.pop("sweep", None)
    about_sweep = [override for override in overrides if override.key.split(".")[0] == "sweep"]
    if about_sweep and about_sweep[-1].checked == _NO_SWEEP:
        sweep = {}  # also where an experiment has a sweep of its own, which is laid over the group's choice
    tree, sweep, unsettled = settle(tree, sweep)
    _check_sections(tree, search, locations)
    raise_all(ConfigError, [Problem(p.what, locations.of(p.where), p.hint) for p in unsettled])
    return Composed(source, tree, sweep, _groups(directories[-len(source.config_dirs) - 1 :]), locations)


def _check_sections(tree: Mapping[str, Any], search: Search, locations: Places) -> None:
    """Raises ConfigError for sections that hold one value, such as `slurm: base` outside of a defaults list."""
    problems = []
    for name in _groups_of_root(search):
        value = tree.get(name)
        if value is None or isinstance(value, dict):
            continue
        hint = f"to choose a config, write '- override /{name}: {value}' in the defaults list"
        known = isinstance(value, str) and search.file(f"{name}/{value}") is not None
        what = f"must hold keys and values, not {value!r}"
        problems.append(Problem(what, locations.of(f"$.{name}"), hint if known else ""))
    raise_all(ConfigError, problems)


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra ready to compose, and its global state afterwards as it was: the caller may be using Hydra, too."""
    before = get_gh_backup()
    GlobalHydra.instance().clear()
    try:
        with initialize(config_path=None, version_base="1.3"):
            yield
    finally:
        restore_gh_from_backup(before)


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
    if file.is_absolute() or file.suffix in (".yaml", ".yml"):
        raise ConfigError(Problem("there is no such YAML file", ref, "--config-ref takes a name or a .yaml file"))
    raise ConfigError(unknown_config(ref, folders))


def _stands_alone(search: Search, name: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a config brings in what the root config does, itself or by a config that it builds on.

    Such a one is a primary config in Hydra's sense; any other is an experiment to be laid over the root config. Raises
    ConfigError.
    """
    file = search.file(name)
    if name == ROOT or file is None or name in seen:  # what is missing is Hydra's to tell
        return name == ROOT
    defaults = read_mapping(file).get("defaults") or []
    if not isinstance(defaults, list):
        raise ConfigError(Problem("defaults must be a list", shown(file), "begin each entry with '- '"))
    for entry in defaults:
        key = next(iter(entry), "") if isinstance(entry, dict) else entry
        words = str(key).split()
        if not words or "override" in words[:-1] or words[-1] == "_self_":
            continue
        path = words[-1].partition("@")[0]
        target = path[1:] if path.startswith("/") else posixpath.normpath(posixpath.join(name, "..", path))
        if isinstance(entry, dict):
            if "@" not in words[-1] and target in _groups_of_root(search):
                return True
        elif _stands_alone(search, target, seen | {name}):
            return True
    return False


def _groups_of_root(search: Search) -> list[str]:
    """The groups of which the root config chooses a config each."""
    entries = read_mapping(cast("Path", search.file(ROOT))).get("defaults") or []
    return [str(group) for entry in entries if isinstance(entry, dict) for group in entry]


_ALONE = (
    "this config stands alone, as it chooses configs itself that the root does, too: put '- /autoexp' first in its "
    "defaults, or write '- override /GROUP: choice'"
)


# ---------------------------------------------------------------------------------------------------------------------
# Overrides


@dataclass(frozen=True)
class _Override:
    """One override: as it was written, as Hydra gets it, and the key or config group that it is about."""

    written: str
    checked: str
    key: str


_NO_SWEEP = "sweep=none"
_EVER_OPEN = (*OPEN_SECTIONS, *(section for sections in OPEN_FOR_BACKEND.values() for section in sections))


def _checked_overrides(overrides: tuple[str, ...], opened: tuple[str, ...]) -> list[_Override]:
    """The overrides, with `++` before keys of `opened` sections. Raises ConfigError with all that do not parse."""
    problems: list[Problem] = []
    checked: list[_Override] = []
    for text in overrides:
        try:
            checked.append(_checked_override(text, opened))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return checked


def check_override_text(text: str) -> None:
    """Raise ConfigError for an override that no parser should see: too long, too deep, or not UTF-8."""
    if len(text) > LONGEST_OVERRIDE:
        what = f"the override has {len(text)} characters; at most {LONGEST_OVERRIDE}"
        raise ConfigError(Problem(what, shortened(text, 60), "write it into a file"))
    if not text.isascii() and not is_utf8(text):
        raise ConfigError(Problem("the override is not UTF-8 text", text.encode(errors="backslashreplace").decode()))
    written, _, value = text.partition("=")
    if written.count(".") >= DEEPEST or _nested(value) > DEEPEST:
        raise ConfigError(Problem(f"it is nested too deeply: at most {DEEPEST} levels", shortened(text, 60)))


def _checked_override(text: str, opened: tuple[str, ...]) -> _Override:
    check_override_text(text)
    written, equals, value = text.partition("=")
    plain = _plain_value(f"{spelled(written)}{equals}{value}")
    try:
        override = _parsed(plain)
    except (HydraException, ValueError, RecursionError):  # ValueError: a number of thousands of digits
        hint = "write key=value; a value with ~, commas, quotes or brackets needs quotes of its own: 'key=\"a, b\"'"
        raise ConfigError(Problem("the override does not parse", text or "''", of_a_shell(value) or hint)) from None
    if not override.key_or_group:
        raise ConfigError(Problem("the override names no key", text, "write key=value"))
    if override.is_sweep_override():
        hint = "write a list as key=[1,2] and text as 'key=\"1,2\"'; a sweep belongs in the sweep section"
        raise ConfigError(Problem("the override has several values", text, hint))
    key = override.key_or_group
    if key == "sweep" and (override.is_delete() or override.value() in (None, "none")):
        return _Override(text, _NO_SWEEP, key)
    whole_sweep = key == "sweep" and isinstance(override.value(), dict)  # else one of the group's configs
    if not override.is_delete() and ("." in key or key == "stage" or isinstance(override.value(), dict)):
        plain = mark_override(plain, override.value(), lambda marked: _parsed(marked).value())
    free = f"{key}.".startswith(opened) or key.startswith("sweep.") or whole_sweep
    return _Override(text, f"++{plain}" if free and not text.startswith(("+", "~")) else plain, key)


def _nested(value: str) -> int:
    """How deep brackets are within each other, whatever is quoted."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}()]", value):
        depth = depth + 1 if bracket in "[{(" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_overrides([text])[0]


def _plain_value(text: str) -> str:
    """An override whose value holds interpolations in a form that Hydra and OmegaConf accept."""
    key, equals, written = text.partition("=")
    if "${" not in written:
        return text
    try:
        value = _parsed(text).value()
    except (HydraException, ValueError, RecursionError):  # Hydra's grammar has no `(`: then the value is one text
        value = written
    plain = normalise(value, in_sweep=key.lstrip("+~").startswith("sweep"))
    spellings = [f"{key}{equals}{_as_hydra(plain, quote)}" for quote in "\"'"]
    if plain == value != written:
        spellings.insert(0, text)
    # Hydra keeps the overrides as they are written in a config of its own, so each must parse as a whole as well.
    return next(filter(parses, spellings), spellings[0])


def _as_hydra(value: Any, quote: str) -> str:
    """A value in Hydra's grammar, such that it is read as the same value."""
    if isinstance(value, dict):
        entries = (f"{_ESCAPED.sub(_escape, str(key))}:{_as_hydra(item, quote)}" for key, item in value.items())
        return "{" + ",".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_as_hydra(item, quote) for item in value) + "]"
    if isinstance(value, str):
        inside = re.sub(rf"(\\*){quote}", rf"\1\1\\{quote}", value)
        end = len(inside) - len(inside.rstrip("\\"))
        return f"{quote}{inside}{inside[len(inside) - end :]}{quote}"
    return scalar(value)


_ESCAPED = re.compile(r"[\\()\[\]{}:=, \t]")


def _escape(match: re.Match[str]) -> str:
    return f"\\{match.group()}"


# ---------------------------------------------------------------------------------------------------------------------
# Composing, and saying what went wrong


def _compose(overrides: Sequence[_Override]) -> dict[str, Any]:
    """The whole config as plain data. Raises any exception of Hydra's, and ConfigError for unreadable files."""
    config = compose(WHOLE, overrides=[override.checked for override in overrides])
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))


def _explain(error: Exception, search: Search, overrides: Sequence[_Override]) -> list[Problem]:
    """Hydra's error in our form: if the config alone is right, one problem for each override that is wrong."""
    good: list[_Override] = []
    try:
        _compose(good)
    except AutoexpError as unreadable:
        return [*unreadable.problems]
    except Exception as alone:
        return _misfits(search) or [_problem(alone, None, search, good)]
    found: list[Problem] = []
    for override in sorted(overrides, key=lambda one: not search.is_group(one.key)):  # Hydra takes choices first, too
        try:
            _compose([*good, override])
            good.append(override)
        except AutoexpError as unreadable:
            found += unreadable.problems
        except Exception as single:
            found.append(_problem(single, override, search, good))
    return found or [_problem(error, None, search, good)]


def _misfits(search: Search) -> list[Problem]:
    """The keys of an experiment that hold a list where the root has keys and values, or the other way round."""
    *under, name = search.configs
    if not under:
        return []
    with searching(Search(search.directories, tuple(under))):
        try:
            base = _compose([])
        except Exception:  # the root's own mistake, which is what is told
            return []
    file = cast("Path", search.file(name))
    lines = key_lines(file)
    found: list[Problem] = []

    def walk(value: Any, below: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and isinstance(below, dict):
            for key in value.keys() & below.keys():
                walk(value[key], below[key], (*path, *str(key).split(".")))
        elif isinstance(value, dict | list) and isinstance(below, dict | list) and type(value) is not type(below):
            must, is_now = _KINDS[type(below)], _KINDS[type(value)]
            found.append(Problem(f"must be {must}, not {is_now}", f"{shown(file)}:{lines[path]} ($.{'.'.join(path)})"))

    walk(read_mapping(file), base, ())
    return sorted(found, key=lambda problem: problem.where)


_KINDS = {dict: "keys and values", list: "a list"}


def _problem(error: Exception, override: _Override | None, search: Search, good: Sequence[_Override]) -> Problem:
    """One error of Hydra's, met with an override (None: without any) on top of good ones."""
    text = str(error).strip()
    inside = re.match(r"In '([^']*)': ", text)
    parent = inside.group(1) if inside else WHOLE
    about = override.written if override else _entry(search, parent)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if override is None or override.key != group:
            about = _entry(search, parent, group, choice)
        return _missing(group, choice, error.options or (), about, search)
    if unmatched := re.search(r"Could not override '([^']+)'\. No match in the defaults list", text):
        group = unmatched.group(1)
        if parent != WHOLE:
            about = _entry(search, parent, group)
        hint = did_you_mean(group, search.groups()) if ROOT in search.configs else _ALONE
        return Problem(f"the config has no group '{group}' to override", about, hint)
    no_key = isinstance(error, LookupError | TypeError | ValueError) or _NO_KEY.search(f"{text} {error.__cause__}")
    if override and no_key:
        near = did_you_mean(override.key, [*_known_keys(good), *search.groups()])
        return Problem(f"the config has no key '{override.key}'", about, new_key_hint(near, about))
    if override and re.search("An item is already at|Multiple values for", text):
        return Problem(f"the config has '{override.key}' already", about, "write it without '+' to change it")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if error.__cause__ is not None and str(error.__cause__) not in text:
        lines.append(str(error.__cause__).splitlines()[0])
    if " " not in text or isinstance(error, AssertionError | NotImplementedError | RecursionError):
        return _without_words(error, about or _own_defaults(search), override)
    if twice := re.match(r"(\S+) appears more than once", text):
        return Problem(text, _entry(search, parent, twice[1]) or _own_defaults(search), "keep one of the entries")
    return Problem(" ".join(lines[:3]), about or _own_defaults(search))


def _own_defaults(search: Search) -> str:
    """The defaults list of the config that was asked for, where Hydra does not say where it failed."""
    file = cast("Path", search.file(search.configs[-1]))
    line = key_lines(file).get(("defaults",))
    return f"{shown(file)}:{line}" if line else shown(file)


def _without_words(error: Exception, about: str, override: _Override | None) -> Problem:
    """An error of Hydra's that says nothing a person could use."""
    reason = (
        "it is nested too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__} {error}".strip()
    )
    if override is not None:
        return Problem(f"Hydra can't apply the override ({reason})", about, "write key=value, or group=choice")
    hint = "look at this file's defaults list: 'config' or 'group: choice' a line, those with 'override' last"
    return Problem(f"Hydra can't compose this config ({reason})", about, hint)


_NO_KEY = re.compile(r"is not in struct|Could not override '[^']+'\.\s*To append|does not exist|out of range")


def _missing(group: str, choice: str, known: Sequence[str], about: str, search: Search) -> Problem:
    last = group.rpartition("/")[2]
    if group != last and search.file(f"{last}/{choice}") is not None:
        what = f"there is no config group '{group}'"
        return Problem(what, about, f"to choose a config of {last}, write '- override /{last}: {choice}'")
    what = f"there is no '{choice}' in the config group '{group}'" if group else f"there is no config '{choice}'"
    return Problem(what, about, did_you_mean(choice, known) or (f"known: {', '.join(known)}" if known else ""))


def _entry(search: Search, parent: str, group: str = "", choice: str = "") -> str:
    """`file.yaml:3` of the defaults entry that asks for a group, or for a choice of it, as far as it can be found.

    Hydra names as `parent` the config that has the group; an experiment may have overridden the choice.
    """
    wanted = choice or group.rpartition("/")[2]
    for config in (*reversed(search.configs), parent) if wanted else ():
        file = search.file(config)
        if file is None:
            continue
        defaults = read_mapping(file).get("defaults")
        for index, entry in enumerate(defaults if isinstance(defaults, list) else []):
            key, chosen = next(iter(entry.items()), ("", "")) if isinstance(entry, dict) else (entry, "")
            words = re.split(r"[/@ ]+", f"{key} {chosen or ''}")
            if wanted in words:
                return f"{shown(file)}:{key_lines(file)['defaults', str(index)]}"
    named = search.file(parent)
    return shown(named) if named else ""


def _known_keys(good: Sequence[_Override]) -> list[str]:
    keys = [key for key in dotted(_compose(good)) if not key.startswith("sweep.")]
    sections = {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}
    return sorted({*keys, *sections})


# ---------------------------------------------------------------------------------------------------------------------
# Where values were written


class Locations:
    """Where each key of a composed config was written. Looked up only when there is an error to tell."""

    def __init__(self, loader: ConfigLoader, search: Search, overrides: Sequence[_Override]) -> None:
        self._loader = loader
        self._search = search
        self._overrides = overrides
        self._lines: dict[tuple[str, ...], str] | None = None

    def of(self, where: str) -> str:
        """`file.yaml:12` for `$.slurm.sbatch.time` (or for its nearest parent that was written), or `where`.

        A key that the sweep sets is placed there, as a job's value of it is the sweep's.
        """
        if not where.startswith("$."):
            return where
        path = tuple(part for part in re.split(r"[.\[\]]", where[2:]) if part)
        if self._lines is None:
            self._lines = self._read()
        if by_sweep := [line for key, line in self._lines.items() if _sets(key, path)]:
            return f"{', '.join(by_sweep[:3])} ({where}, set by the sweep)"
        for override in reversed(self._overrides):
            key = tuple(override.key.split("."))
            if key[0] == "sweep" and ".".join(path) in override.written:
                return f"{where} (override {override.written})"
            if key == path[: len(key)] and not self._search.is_group(override.key):
                return f"{where} (override {override.written})"
        while path:
            if path in self._lines:
                return f"{self._lines[path]} ({where})"
            path = path[:-1]
        return where

    def _read(self) -> dict[tuple[str, ...], str]:
        lines: dict[tuple[str, ...], str] = {}
        with searching(self._search):
            checked = [override.checked for override in self._overrides]
            defaults = self._loader.compute_defaults_list(WHOLE, checked, RunMode.RUN)
        for default in defaults.defaults:
            file = self._search.file(str(default.config_path))
            if file is None:
                continue
            package = tuple(part for part in (default.package or "").split(".") if part)
            for key, line in key_lines(file).items():
                path = spelled(".".join((*package, *(part.lstrip("+~") for part in key))))
                lines[tuple(path.split("."))] = f"{shown(file)}:{line}"
        return lines


def _sets(key: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a key of a file is an entry of a sweep's node that sets the value at a path."""
    if key[0] != "sweep" or path[0] == "sweep" or len(key) <= len(path) or key[-len(path) :] != path:
        return False
    node = key[-len(path) - 1]
    return node.isdecimal() or node in ("sweep", "params", "defaults", "base_values")
