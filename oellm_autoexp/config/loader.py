"""Composes a config with Hydra, once, and tells where each of its values was written."""

from __future__ import annotations

import logging
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from hydra import compose, initialize
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Sweep
from hydra.errors import HydraException, MissingConfigException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.types import RunMode
from omegaconf import OmegaConf

from oellm_autoexp.config import hydra_keys, sweep_overrides
from oellm_autoexp.config.braces import as_interpolations
from oellm_autoexp.config.config_file import INDEX_HINT, INDEX_IS_SET, brought_in, read_config
from oellm_autoexp.config.declared import settle
from oellm_autoexp.config.defaults import is_schema_key, with_defaults
from oellm_autoexp.config.defaults_list import choice_meant
from oellm_autoexp.config.experiment import ROOT, defaults_of, groups_of_root, search_for
from oellm_autoexp.config.findings import EVERYTHING, FilePath, Findings, within
from oellm_autoexp.config.hydra_source import WHOLE, Search, current_findings, searching, unknown_config
from oellm_autoexp.config.limits import DEEPEST, LONGEST_OVERRIDE, shortened
from oellm_autoexp.config.overlay import DOT_IN_KEY, OPEN_FOR_BACKEND, OPEN_SECTIONS, Overlay, open_sections
from oellm_autoexp.config.override_mistakes import cut, taken_apart, unparsed
from oellm_autoexp.config.resolvers import make_resolvers
from oellm_autoexp.config.schema import UNKNOWN_KEY
from oellm_autoexp.config.source import key_lines, normalise, parses, shown
from oellm_autoexp.config.spelling import of_a_shell, spelled
from oellm_autoexp.config.written import mark_override
from oellm_autoexp.errors import AutoexpError, ConfigError, Problem, raise_all
from oellm_autoexp.files import shipped
from oellm_autoexp.slurm import shell_code
from oellm_autoexp.sweep.paths import leaf_paths
from oellm_autoexp.text import did_you_mean, dotted, is_utf8, new_key_hint, scalar

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

    def placed(self, problem: Problem) -> Problem:
        """A problem at `$.slurm.sbatch.time` with the place where that was written."""
        ...


@dataclass(frozen=True)
class Composed:
    """A composed config as plain data: interpolations still text, the `sweep` section apart.

    `problems` are mistakes found while composing; what they are about was left out, and nobody knows the values at the
    paths (`$.a.b`) in `unclear`. `notes` tell of what has no effect.
    """

    source: Source
    base: dict[str, Any]
    sweep: Any
    groups: frozenset[str]
    locations: Places
    problems: tuple[Problem, ...] = field(default=(), kw_only=True)
    unclear: tuple[str, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    code: Mapping[str, shell_code.Parts] = field(default_factory=dict, kw_only=True)
    """What a shell evaluates in the jobs, of values that stand literally in a YAML file, by dotted key."""

    def is_choice(self, key: str, value: Any) -> bool:
        """Whether a sweep's key and value choose a config of a group (`backend: tiny_lm`) rather than set a value."""
        name = key.lstrip("+~").split("@")[0]
        return "/" in name or (name in self.groups and (isinstance(value, str) or value is None))

    def choosing(self, choices: tuple[str, ...]) -> Composed:
        """The same config composed with these group choices on top. Raises ConfigError."""
        return load(Source(self.source.config_ref, self.source.config_dirs, (*self.source.overrides, *choices)))

    def overlay(self, environment: Mapping[str, str], now: datetime, python: str, place: str = "") -> Overlay:
        """The base with the schema's defaults in it, ready for points to be laid over it.

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
    """As `load`, but what is wrong is left out and told in `problems`, where the rest can still be checked.

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
    overrides = _checked_overrides(source.overrides, _EVER_OPEN, found)
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
    with searching(search, found), _hydra():
        overrides = _of_chosen_groups(overrides, search)
        tree, right = _composed(overrides, search, found)
        # Only now is it known which backend was chosen, and so which keys are new and need a `+`.
        opened = _checked_overrides(source.overrides, open_sections(tree), found, tree)
        if (opened := _of_chosen_groups(opened, search)) != overrides:
            tree, right = _composed(opened, search, found)
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
    for problem in unsettled:
        found.add([Problem(problem.what, locations.of(problem.where), problem.hint)], problem.where)
    tree, code = shell_code.taken_out(tree)
    sweep = shell_code.without_marks(sweep)
    for key, parts in code.items():
        _check_code(key, parts, locations, found)
    _check_sections(tree, search, locations, found)
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


def _check_code(key: str, parts: shell_code.Parts, locations: Places, found: Findings) -> None:
    """Refuse shell code into which a value of the config would be put."""
    try:
        for code in parts[1::2]:
            shell_code.as_shell_reads(code)
    except ValueError as error:
        hint = "write $NAME in the code, and NAME: ${…} above it in slurm.env (a shell's own ${NAME} is \\${NAME})"
        found.add([Problem(f"{error}, which is never done", locations.of(f"$.{key}"), hint)], f"$.{key}")


def _overridden_sweep(sweep: Any, overrides: Sequence[_Override], found: Findings) -> Any:
    """The `sweep` section with the overrides that are about it; those that have no place there go to `found`."""
    for override in overrides:
        if override.checked == _NO_SWEEP:
            sweep = {}  # also where an experiment has a sweep of its own, which is laid over the group's choice
        if override.in_sweep:
            sweep = {} if sweep is None else sweep
            if not _changes_sweep(override, sweep):
                found.add([Problem(f"the config has no key '{override.key}'", override.written)])
    return sweep


def _changes_sweep(override: _Override, sweep: Any) -> bool:
    parsed = _parsed(override.checked)
    parts = override.key.split(".")[1:]
    if parsed.is_delete():
        return sweep_overrides.remove(sweep, parts)
    return sweep_overrides.put(sweep, parts, parsed.value())


def _check_sections(tree: dict[str, Any], search: Search, locations: Places, found: Findings) -> None:
    """Leave out sections that hold one value, such as `slurm: base` outside of a defaults list."""
    for name in groups_of_root(search):
        value = tree.get(name)
        if value is None or isinstance(value, dict):
            continue
        hint = f"to choose a config, write '- override /{name}: {value}' in the defaults list"
        known = isinstance(value, str) and search.file(f"{name}/{value}") is not None
        what = f"must hold keys and values, not {value!r}"
        found.add([Problem(what, locations.of(f"$.{name}"), hint if known else "")], f"$.{name}")
        tree[name] = {}


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


# ---------------------------------------------------------------------------------------------------------------------
# Overrides


@dataclass(frozen=True)
class _Override:
    """One override: as it was written, as Hydra gets it, and the key or config group that it is about."""

    written: str
    checked: str
    key: str
    in_sweep: bool = False
    """Whether it is about what is in the `sweep` section, which Hydra does not know the keys of."""


_NO_SWEEP = "sweep=none"
_EVER_OPEN = (*OPEN_SECTIONS, *(section for sections in OPEN_FOR_BACKEND.values() for section in sections))


def _checked_overrides(
    texts: tuple[str, ...], opened: tuple[str, ...], found: Findings, tree: Mapping[str, Any] | None = None
) -> list[_Override]:
    """The overrides that parse, with `++` before keys of `opened` sections and of the schema.

    The schema's keys are those of the classes that `tree` names. The problems of others go to `found`.
    """
    checked: list[_Override] = []
    whole, cut = taken_apart(texts)
    found.add(cut, *(_path_of(problem.where) for problem in cut))
    for text in whole:
        key = text.partition("=")[0]
        if hydra_keys.is_hydras(key):
            found.notes[hydra_keys.note(key.lstrip("+~"), f"override {text}")] = None
            continue
        try:
            override = _checked_override(text, opened, tree)
        except ConfigError as error:
            found.add(error.problems, _path_of(text))
            continue
        if override.key == "index":
            found.add([Problem(INDEX_IS_SET, text, INDEX_HINT)])
        else:
            checked.append(override)
    return checked


def _path_of(text: str) -> str:
    """The path in the config (`$.a.b`) that an override is about, as far as it can be told from one that is wrong."""
    name = text.partition("=")[0].split(" ")[0].lstrip("+~").split("@")[0].replace("/", ".")
    return f"$.{name}" if name else "$.?"


def check_override_text(text: str) -> None:
    """Raise ConfigError for an override that no parser should see: too long, too deep, or not UTF-8."""
    if len(text) > LONGEST_OVERRIDE:
        what = f"the override has {len(text)} characters; at most {LONGEST_OVERRIDE}"
        raise ConfigError(Problem(what, shortened(text, 60), "write it into a file"))
    if not text.isascii() and not is_utf8(text):
        raise ConfigError(Problem("the override is not UTF-8 text", text.encode(errors="backslashreplace").decode()))
    if not text.isascii() and shell_code.has_marks(text):
        raise ConfigError(
            Problem("the override holds characters that stand for none (U+FDD3, U+FDD4)", shortened(text))
        )
    written, _, value = text.partition("=")
    if written.count(".") >= DEEPEST or _nested(value) > DEEPEST:
        raise ConfigError(Problem(f"it is nested too deeply: at most {DEEPEST} levels", shortened(text, 60)))


def _checked_override(text: str, opened: tuple[str, ...], tree: Mapping[str, Any] | None = None) -> _Override:
    check_override_text(text)
    written, equals, value = text.partition("=")
    plain = _plain_value(f"{spelled(written)}{equals}{value}")
    try:
        override = _parsed(plain)
    except (HydraException, ValueError, RecursionError):  # ValueError: a number of thousands of digits
        problem = unparsed(text, _is_override)
        raise ConfigError(replace(problem, hint=of_a_shell(value) or problem.hint)) from None
    if not override.key_or_group:
        raise ConfigError(Problem("the override names no key", text, "write key=value"))
    if override.is_sweep_override() or _holds_sweep(override.value()):
        hint = "write a list as key=[1,2] and text as 'key=\"1,2\"'; a sweep belongs in the sweep section"
        raise ConfigError(Problem("the override has several values", text, hint))
    key = override.key_or_group
    if key == "sweep" and (override.is_delete() or override.value() in (None, "none")):
        return _Override(text, _NO_SWEEP, key)
    whole_sweep = key == "sweep" and isinstance(override.value(), dict)  # else one of the group's configs
    if not override.is_delete() and ("." in key or key == "stage" or isinstance(override.value(), dict)):
        plain = mark_override(plain, override.value(), value_of_override)
    if whole_sweep or key.startswith("sweep."):
        return _Override(text, plain, key, in_sweep=True)
    free = f"{key}.".startswith(opened)
    free = free or ("." in key and not override.is_delete() and is_schema_key(key, tree))
    return _Override(text, f"++{plain}" if free and not text.startswith(("+", "~")) else plain, key)


def _holds_sweep(value: Any) -> bool:
    """Whether one of Hydra's sweeps (`choice(1,2)`, `range(4)`) is somewhere in a value."""
    inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return isinstance(value, Sweep | Glob) or any(map(_holds_sweep, inner))


def _nested(value: str) -> int:
    """How deep brackets are within each other, whatever is quoted."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}()]", value):
        depth = depth + 1 if bracket in "[{(" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _is_override(text: str) -> bool:
    try:
        _parsed(_plain_value(text))
    except (HydraException, ValueError, RecursionError):
        return False
    return True


def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_overrides([text])[0]


def value_of_override(text: str) -> Any:
    """The value of an override, by Hydra's grammar. Raises ValueError if it does not parse."""
    try:
        return _parsed(text).value()
    except HydraException as error:
        raise ValueError(str(error)) from None


def keys_of_override(text: str) -> list[str]:
    """The dotted keys that an override sets: those of the leaves where its value is a mapping."""
    key = text.partition("=")[0]
    try:
        value = value_of_override(text)
    except ValueError:  # an interpolation that only OmegaConf's grammar knows
        return [key]
    return [".".join(filter(None, path)) for path, _ in leaf_paths(key, value)] if isinstance(value, dict) else [key]


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


def as_override(key: str, value: str) -> str:
    """The override that sets a key to exactly this text. Raises ConfigError for one with `${`."""
    if "${" in value:
        raise ConfigError(Problem("no override can name this path: it holds '${'", value))
    return "=".join((key, _as_hydra(value, quote="'")))


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
    config = compose(WHOLE, overrides=[override.checked for override in overrides if not override.in_sweep])
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))


_INNER_ADDED = re.compile(r"\+[^=@+]+/[^=@]+=")


def _of_chosen_groups(overrides: list[_Override], search: Search) -> list[_Override]:
    """The overrides, without the `+` before a group within another of which one is chosen: Hydra would keep that."""
    added = [one for one in overrides if _INNER_ADDED.match(one.checked) and search.is_group(one.key)]
    if not added:
        return overrides
    others = [one.checked for one in overrides if one not in added and not one.in_sweep]
    loader = GlobalHydra.instance().config_loader()
    try:
        defaults = loader.compute_defaults_list(WHOLE, others, RunMode.RUN).defaults
    except Exception:  # composing it tells what is wrong
        return overrides
    chosen = {posixpath.dirname(str(default.config_path)) for default in defaults}
    return [replace(one, checked=one.checked[1:]) if one in added and one.key in chosen else one for one in overrides]


def _composed(
    overrides: Sequence[_Override], search: Search, found: Findings
) -> tuple[dict[str, Any], list[_Override]]:
    """The whole config with the overrides that are right, and these; what is wrong goes to `found`.

    Raises ConfigError with everything found if the config does not compose without what is wrong.
    """
    try:
        tree = _compose(overrides)
    except AutoexpError:
        raise
    except Exception as error:  # Hydra asserts on some mistakes, and others end in any of Python's own errors
        tree, overrides = _composed_mostly(overrides, error, search, found)
    if found.hopeless:
        _read_all(search, found)
        raise ConfigError(*found.problems)
    return tree, list(overrides)


def _composed_mostly(
    overrides: Sequence[_Override], error: Exception, search: Search, found: Findings
) -> tuple[dict[str, Any], list[_Override]]:
    """As `_composed`, where Hydra has failed with an error."""
    if not _composes_alone(search, found):
        found.add((), EVERYTHING)
        return {}, []
    good: list[_Override] = []
    before = len(found.problems)
    for override in sorted(overrides, key=lambda one: not search.is_group(one.key)):  # Hydra takes choices first, too
        path = _path_of(override.key)
        if any(path != place and within(path, place) for place in found.unclear):
            continue  # whether the section has this key depends on what is wrong with it
        try:
            _compose([*good, override])
            good.append(override)
        except Exception as single:
            found.add([_problem(single, override, search, good)], path)
            if search.is_group(override.key):
                meant = _meant(override, single, good)
                good += meant
                found.add((), *([EVERYTHING] if not meant and search.is_global(override.key) else []))
    order = {override.written: position for position, override in enumerate(overrides)}
    good.sort(key=lambda one: order[one.written])
    try:
        return _compose(good), good
    except Exception as again:
        if len(found.problems) == before:
            found.add([_problem(error, None, search, good)])
        else:
            found.add([_problem(again, None, search, good)])
        found.add((), EVERYTHING)
        return {}, []


def _meant(override: _Override, error: Exception, good: Sequence[_Override]) -> list[_Override]:
    """The choice that was most likely meant instead of one that is not there, so that the rest can be checked."""
    if not isinstance(error, MissingConfigException) or "=" not in override.checked:
        return []
    group, _, choice = override.checked.partition("=")
    for near in get_close_matches(choice, [str(known) for known in error.options or ()], n=1):
        meant = replace(override, checked=f"{group}={near}")
        try:
            _compose([*good, meant])
        except Exception:
            return []
        return [meant]
    return []


def _composes_alone(search: Search, found: Findings) -> bool:
    """Whether the config composes without overrides, once what is wrong in it is left out and told."""
    for _ in range(_MOST_MISTAKES):
        if found.hopeless:
            return False
        try:
            _compose([])
        except Exception as error:
            if misfits := _misfits(search):
                for problem, file, path in misfits:
                    found.add([problem], f"$.{'.'.join(path)}")
                    found.left_out[str(file)].add(path)
                continue
            found.add([_problem(error, None, search, [])])
            entry = _culprit(error, search)
            if entry is None or entry.path in found.left_out[str(entry.file)]:
                return False
            found.left_out[str(entry.file)].add(entry.path)
            found.given_up.add(entry.section)
            found.add((), EVERYTHING if search.is_global(entry.section.removeprefix("$.")) else entry.section)
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


def _misfits(search: Search) -> list[tuple[Problem, Path, FilePath]]:
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
    found: list[tuple[Problem, Path, FilePath]] = []

    def walk(value: Any, below: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and isinstance(below, dict):
            for key in value.keys() & below.keys():
                walk(value[key], below[key], (*path, *str(key).split(".")))
        elif isinstance(value, dict | list) and isinstance(below, dict | list) and type(value) is not type(below):
            must, is_now = _KINDS[type(below)], _KINDS[type(value)]
            where = f"{shown(file)}:{lines[path]} ($.{'.'.join(path)})"
            found.append((Problem(f"must be {must}, not {is_now}", where), file, path))

    # The file as Hydra gets it: without what is wrong in it, which is told already.
    current = current_findings()
    content = read_config(file, name, is_root=True, left_out=current.left_out[str(file)]).config
    walk(OmegaConf.to_container(content, resolve=False), base, ())
    return sorted(found, key=lambda each: each[0].where)


_KINDS = {dict: "keys and values", list: "a list"}


def _problem(error: Exception, override: _Override | None, search: Search, good: Sequence[_Override]) -> Problem:
    """One error of Hydra's, met with an override (None: without any) on top of good ones."""
    text = str(error).strip()
    inside = re.match(r"In '([^']*)': ", text)
    parent = inside.group(1) if inside else WHOLE
    about = override.written if override else _entry(search, parent)
    if isinstance(error, OSError) and error.filename:
        what = f"can't be read: {error.strerror}: {shortened(str(error.filename), 60)}"
        return Problem(what, about if len(about) < 200 else shortened(about, 60), "choose a config that is there")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if override and error.missing_cfg_file == f"{override.key}/{override.checked.partition('=')[2]}":
            group, choice = override.key, override.checked.partition("=")[2]
            if choice != (name := Path(choice).stem) and search.file(f"{group}/{name}"):
                return Problem(f"a choice of '{group}' is a config's name, not a path", about, f"its name is '{name}'")
        elif override is None or override.key != group:
            about = _entry(search, parent, group, choice)
        return _missing(group, choice, error.options or (), about, search)
    if unmatched := re.search(r"Could not override '([^']+)'\. No match in the defaults list", text):
        group = unmatched.group(1)
        if parent != WHOLE:
            about = _entry(search, parent, group)
        name = group.partition("@")[0]
        if (last := posixpath.basename(name)) != name and name not in search.groups() and search.is_group(last):
            return Problem(f"there is no config group '{name}'", about, f"write '- override /{last}: NAME', with the /")
        if group in search.groups() and ROOT in search.configs:
            what = f"no defaults list chooses a config of '{group}', so that there is none to override"
            if override and override.key != group:
                what = f"the config chooses a config of '{group}', and with this choice there is none to override"
                return Problem(what, about, f"leave this out, or the choice of '{group}'")
            written = override.written.lstrip("+") if override else ""
            return Problem(what, about, f"write '+{written}'" if written else f"write '- /{group}: NAME'")
        hint = did_you_mean(group, search.groups())
        return Problem(f"the config has no group '{group}' to override", about, hint)
    no_key = isinstance(error, LookupError | TypeError | ValueError) or _NO_KEY.search(f"{text} {error.__cause__}")
    if override and no_key:
        if override.key in search.groups():
            hint = f"write {override.key}=NAME to choose one; {override.key}.NAME=VALUE sets what is in it"
            return Problem(f"'{override.key}' is a group of configs", about, hint)
        known = _known_keys(good)
        near = did_you_mean(override.key, [*known, *search.groups()])
        hint = DOT_IN_KEY if override.key in known else new_key_hint(near, about)
        return Problem(f"the config has no key '{override.key}'", about, hint)
    if "Cannot merge" in text and posixpath.dirname(parent) and (file := search.file(parent)):
        group, name = posixpath.split(parent)
        what = (
            f"'{name}' of the group '{group}' has a list where what it is laid over has keys and values, or the other "
        )
        chosen = override.written if override and override.key == group else _entry(search, WHOLE, group, name)
        where = chosen if file.is_relative_to(shipped("config").resolve()) else shown(file)
        return Problem(f"{what}way round", where, "choose one config of the group, or write the key as the other does")
    if override and "Cannot merge" in f"{text} {error.__cause__}":
        holds = "keys and values" if isinstance(value_of_override(override.checked), list) else "a list"
        return Problem(f"'{override.key}' holds {holds}, which this is not", about)
    if override and re.search("An item is already at|Multiple values for", text):
        return Problem(f"the config has '{override.key}' already", about, "write it without '+' to change it")
    if unresolved := re.search(r"Error resolving interpolation '(.*)', possible interpolation keys: (.*)", text):
        return Problem(*_unresolved(unresolved[1], unresolved[2], about or _own_defaults(search)))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if error.__cause__ is not None and str(error.__cause__) not in text:
        lines.append(str(error.__cause__).splitlines()[0])
    if " " not in text or isinstance(error, AssertionError | NotImplementedError | RecursionError):
        return _without_words(error, about or _own_defaults(search), override)
    if other := re.search(r"Could not override '([^']+)'\. Did you mean to override ([^?]+)\?", text):
        what = f"the config has no '{other[1]}' to override"
        return Problem(what, about if override else _entry(search, parent, other[1]), f"did you mean '{other[2]}'?")
    if twice := re.match(r"(\S+) appears more than once", text):
        return Problem(text, _entry(search, parent, twice[1]) or _own_defaults(search), "keep one of the entries")
    return Problem(" ".join(lines[:3]), about or _own_defaults(search))


def _unresolved(written: str, known: str, about: str) -> tuple[str, str, str]:
    """What, where and hint of an interpolation that an entry of a defaults list can't have."""
    if variable := re.search(r"\$\{oc\.env:([^,}]+)\}", written):
        name = variable[1].strip()
        return f"the environment variable {name} is not set", about, f"set it, or write ${{oc.env:{name},DEFAULT}}"
    return f"{written} is not known in a defaults list", about, f"it knows environment variables and choices: {known}"


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
    choice = choice if len(choice) < 200 else shortened(choice, 60)
    known = known or search.choices(group)
    what = f"there is no '{choice}' in the config group '{group}'" if group else f"there is no config '{choice}'"
    if group and not known:
        what = f"there is no config group '{group}' with '{choice}'"
        return Problem(what, about, did_you_mean(group, search.groups()))
    hint = choice_meant(posixpath.join("/", group, choice)) if re.search("[ =:]", choice) else ""
    near = did_you_mean(choice, known if group else [*known, "_self_"])
    hint = hint or (near if choice != group else "")  # `slurm=slurm` means none that is like it
    return Problem(what, about, hint or (f"known: {', '.join(known)}" if known else ""))


@dataclass(frozen=True)
class _Entry:
    """An entry of a file's defaults list, and the section of the config (`$.slurm`) that it brings in."""

    file: Path
    index: int
    section: str

    @property
    def path(self) -> FilePath:
        return "defaults", str(self.index)

    @property
    def where(self) -> str:
        return f"{shown(self.file)}:{key_lines(self.file)[self.path]}"


def _find_entry(search: Search, parent: str, group: str = "", choice: str = "") -> _Entry | None:
    """The defaults entry that asks for a group, or for a choice of it, as far as it can be found.

    Hydra names as `parent` the config that has the group; an experiment may have overridden the choice.
    """
    name = group.partition("@")[0].rpartition("/")[2]
    wanted = {choice} if choice else {name}
    exact = {choice, name} - {""}
    left_out = current_findings().left_out
    entries = [
        (config, file, index, entry)
        for config in (*reversed(search.configs), parent)
        if (file := search.file(config)) is not None
        for index, entry in enumerate(defaults_of(file))
        if ("defaults", str(index)) not in left_out[str(file)]
    ]
    for words in (exact, wanted) if wanted != {""} else ():
        for config, file, index, entry in entries:
            key, chosen = next(iter(entry.items()), ("", "")) if isinstance(entry, dict) else (entry, "")
            named = {*re.split(r"[/@ \[\]',]+", f"{key} {chosen or ''}"), str(key).rpartition("/")[2]}
            if words <= named:
                folder = config.split("/")[0]
                inside = folder if "/" in config and folder in groups_of_root(search) else ""
                return _Entry(file, index, f"$.{inside}" if inside else brought_in(entry))
    return None


def _entry(search: Search, parent: str, group: str = "", choice: str = "") -> str:
    """`file.yaml:3` of the entry that `_find_entry` finds, else the file of `parent`."""
    if entry := _find_entry(search, parent, group, choice):
        return entry.where
    named = search.file(parent)
    return shown(named) if named else ""


def _culprit(error: Exception, search: Search) -> _Entry | None:
    """The entry of a defaults list because of which Hydra fails, where its message names it."""
    text = str(error).strip()
    inside = re.match(r"In '([^']*)': ", text)
    parent = inside.group(1) if inside else WHOLE
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return _find_entry(search, parent, group, choice)
    named = re.search(r"Could not override '([^']+)'", text) or re.match(r"(\S+) appears more than once", text)
    return _find_entry(search, parent, named[1]) if named else None


def _known_keys(good: Sequence[_Override]) -> list[str]:
    keys = [key for key in dotted(_compose(good)) if not key.startswith("sweep.")]
    sections = {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}
    return sorted({*keys, *sections})


# ---------------------------------------------------------------------------------------------------------------------
# Where values were written


class Locations:
    """Where each key of a composed config was written. Looked up only when there is an error to tell."""

    def __init__(self, loader: ConfigLoader, search: Search, overrides: Sequence[_Override], found: Findings) -> None:
        self._loader = loader
        self._search = search
        self._overrides = overrides
        self._found = found
        self._written: _Written | None = None

    def of(self, where: str) -> str:
        """`file.yaml:12` for `$.slurm.sbatch.time` (or for its nearest parent that was written), or `where`.

        A key that the sweep sets is placed there, as a job's value of it is the sweep's. One that is nowhere is placed
        in the file of its group, where that is a person's own.
        """
        if not where.startswith("$."):
            return where
        if " and $." in where:
            return " and ".join(map(self.of, where.split(" and ")))
        path = tuple(part for part in re.split(r"[.\[\]]", where[2:]) if part)
        written = self._read()
        if by_sweep := [*dict.fromkeys(line for key, line in written.lines.items() if _sets(key, path))]:
            return f"{', '.join(by_sweep[:3])} ({where}, set by the sweep)"
        for override in reversed(self._overrides):
            key = tuple(override.key.split("."))
            if key[0] == "sweep" and ".".join(path) in override.written:
                return f"{where} (override {cut(override.written)})"
            if key == path[: len(key)] and not self._search.is_group(override.key):
                return f"{where} (override {cut(override.written)})"
        for count in range(len(path), 0, -1):
            choices = written.choices[path[:count]] if count < len(path) else []
            file = self._search.file(choices[-1]) if choices else None
            if file and not file.is_relative_to(shipped("config").resolve()):
                return f"{shown(file)} ({where})"
            if path[:count] in written.lines:
                return f"{written.lines[path[:count]]} ({where})"
        return where

    def placed(self, problem: Problem) -> Problem:
        """A problem with the place where its key was written, or the file that should have it."""
        about = tuple(part for part in (problem.about or problem.where).removeprefix("$.").split(".") if part)
        lacking = self._lacking(about) if problem.about else None
        if lacking is not None:
            file, base = lacking
            what = f"'{'.'.join(about[1:])}' is missing, which {shown(base)} holds"
            hint = f"begin the file with 'defaults: [{base.stem}]', or set {'.'.join(about[1:])} in it"
            return Problem(what, shown(file), hint)
        return self._of_unlike(problem, about) or replace(problem, where=self.of(problem.where))

    def _lacking(self, about: Keys) -> tuple[Path, Path] | None:
        """The file of a group that lacks a key, and the group's base that holds it, if it is that which is missing."""
        choices = self._read().choices[about[:1]]
        file, base = self._search.file(choices[-1]) if choices else None, self._search.file(f"{about[0]}/base")
        if file is None or base is None or file == base or len(about) < 2:
            return None
        words = [re.split(r"[/ ]", str(entry))[-1] for entry in defaults_of(file)]
        return (file, base) if "base" not in words and about[1:] in key_lines(base) else None

    def _of_unlike(self, problem: Problem, key: Keys) -> Problem | None:
        """The problem of two choices of a group of which the later one has another class, which lacks the key."""
        written = self._read()
        section, choice = written.writers.get(key, ((), ""))
        *_, last = choices = written.choices[section] or [choice]
        if choice == last or not problem.what.startswith(UNKNOWN_KEY) or not is_schema_key(".".join(key)):
            return None
        group, name, last_name = posixpath.dirname(choice), posixpath.basename(choice), posixpath.basename(last)
        made = (cut(override.written) for override in reversed(self._overrides) if override.key == group)
        with searching(self._search, self._found):
            where = next(made, "") or _entry(self._search, WHOLE, group, last_name)
        what = (
            f"'{name}' and '{last_name}' of the group '{group}' do not go together: '{last_name}', which is laid over "
        )
        what += f"'{name}', knows other keys"
        order = ", ".join(map(posixpath.basename, (*(each for each in choices if each != choice), choice)))
        # The other way round is right if the last one says nothing there but its class.
        adds = any(
            by == (section, last) and [*at[:-1]] == [*key[:-1]] and at[-1] != "class_name"
            for at, by in written.writers.items()
        )
        return Problem(what, where, "choose one of them" + ("" if adds else f", or both in the order [{order}]"))

    def _read(self) -> _Written:
        if self._written is not None:
            return self._written
        with searching(self._search, self._found):
            checked = [override.checked for override in self._overrides if not override.in_sweep]
            defaults = self._loader.compute_defaults_list(WHOLE, checked, RunMode.RUN).defaults
        written = self._written = _Written()
        parents = {str(default.config_path): str(default.parent) for default in defaults}
        for default in defaults:
            config = str(default.config_path)
            file = self._search.file(config)
            if file is None:
                continue
            package = tuple(part for part in (default.package or "").split(".") if part)
            choice, above = config, str(default.parent)
            while posixpath.dirname(above) == posixpath.dirname(config) == "/".join(package) and package:
                choice, above = above, parents[above]  # what a choice builds on is a part of it
            is_choice = posixpath.dirname(config) == "/".join(package) and bool(package)
            if is_choice and choice == config and choice not in written.choices[package]:
                written.choices[package].append(choice)
            for key, line in key_lines(file).items():
                path = tuple(spelled(".".join((*package, *(part.lstrip("+~") for part in key)))).split("."))
                written.lines[path] = f"{shown(file)}:{line}"
                if is_choice:
                    written.writers[path] = package, choice
                else:
                    written.writers.pop(path, None)
        return written


Keys = tuple[str, ...]


@dataclass(frozen=True)
class _Written:
    """Where keys are written, and what is chosen of groups."""

    lines: dict[Keys, str] = field(default_factory=dict)
    choices: dict[Keys, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By the section of a group, its configs (`slurm/base`) that are chosen, each laid over those before."""
    writers: dict[Keys, tuple[Keys, str]] = field(default_factory=dict)
    """By key, the section of the group and the choice that has written it last, also in what the choice builds on."""


def _sets(key: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a key of a file is an entry of a sweep's node that sets the value at a path."""
    key = tuple(filter(None, key))  # also of a key `a.b.`, which is told as such
    if key[0] != "sweep" or path[0] == "sweep" or len(key) <= len(path) or key[-len(path) :] != path:
        return False
    node = key[-len(path) - 1]
    return node.isdecimal() or node in ("sweep", "params", "defaults", "base_values")
