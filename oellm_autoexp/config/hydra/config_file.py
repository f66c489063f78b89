"""One file of a config as Hydra gets it: without what is wrong in it, all of which is reported."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.plugins.config_source import ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from oellm_autoexp.config.hydra import hydra_keys
from oellm_autoexp.config.hydra.defaults_list import is_misspelt_defaults, is_self, joined, mistakes, self_first
from oellm_autoexp.config.hydra.findings import EVERYTHING, FilePath
from oellm_autoexp.config.hydra.yaml_files import by_name, distinct, key_lines, read_mapping, shown, text_of
from oellm_autoexp.config.values.argument_names import respelled, spelled
from oellm_autoexp.config.values.grammar import parses
from oellm_autoexp.config.values.interpolation_syntax import normalise
from oellm_autoexp.config.values.shell_variables import of_a_shell
from oellm_autoexp.config.values.written import as_written
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.limits import DEEPEST, LONGEST_INTERPOLATED, shortened
from oellm_autoexp.core.location import KeyPath, Location, in_file
from oellm_autoexp.sbatch.shell_code import mark_code

_EVENTS = ("log_events", "state_events")
_OF_THE_USER = ("metadata", "aux")
_MOST_LEFT_OUT = 20
_HEADER = 512
"""Characters at the beginning of a file in which `# @package` is looked for, as by Hydra."""


@dataclass(frozen=True)
class Flaw:
    """A mistake in a file, and the value that is left out because of it; () is the whole file.

    `unknown` are the paths of what nobody knows then, where that is not the value itself.
    """

    problem: Problem
    path: FilePath = ()
    unknown: tuple[KeyPath, ...] | None = None


@dataclass(frozen=True)
class ConfigFile:
    """A file's config without what is wrong in it.

    `header` is what its first comments say of its package, `place` that package ('': the root of the whole config).
    """

    config: Any
    header: Mapping[str, str | None]
    place: str
    flaws: tuple[Flaw, ...] = ()
    notes: tuple[str, ...] = ()

    def unclear(self, flaw: Flaw) -> tuple[KeyPath, ...]:
        """The paths in the whole config whose values nobody knows because of a flaw."""
        if flaw.unknown is not None and (not self.place or not flaw.unknown):
            return flaw.unknown
        path = flaw.path if flaw.unknown is None else ()
        key = spelled(".".join((*([self.place] if self.place else []), *(part.lstrip("+~") for part in path))))
        return (tuple(key.split(".")) if key else EVERYTHING,)


def read_config(file: Path, config_path: str, *, is_root: bool, left_out: Collection[FilePath] = ()) -> ConfigFile:
    """Read a config file by its path in the config folders.

    `is_root`: its package is by default the whole config and not that of its folder. `left_out` are values that other
    files, or Hydra, have no use for. Raises nothing: what is wrong is in the flaws.
    """
    try:
        header = _header(file)
        package = header.get("package") or ("" if is_root else Path(config_path).parent)
        place = str(package).replace("/", ".")
        place = "" if place in ("_global_", ".") else place
        content = read_mapping(file)
    except ConfigError as error:
        parent = str(Path(config_path).parent).replace("/", ".")
        place = "" if is_root or parent == "." else parent
        flaws = tuple(Flaw(replace(p, where=_shown(p.where))) for p in error.problems)
        return ConfigFile(OmegaConf.create({}), {"package": place or "_global_"}, place, flaws)
    return _Reading(file, header, place, config_path.startswith("sweep/")).read(content, left_out)


def _header(file: Path) -> Mapping[str, str | None]:
    """What the first comments of a file say of its package. Raises ConfigError."""
    text = text_of(file)[:_HEADER]
    try:
        return ConfigSource._get_header_dict(text)
    except ValueError as error:
        line = next((n for n, each in enumerate(text.splitlines(), 1) if "@package" in each), 1)
        raise ConfigError(Problem(str(error), in_file(str(file), line), "write '# @package _global_'")) from None


class _Reading:
    def __init__(self, file: Path, header: Mapping[str, str | None], place: str, is_sweep: bool) -> None:
        self._file = file
        self._header = header
        self._place = place
        self._is_sweep = is_sweep
        self._flaws: list[Flaw] = []
        self._notes: list[str] = []
        self._lines: dict[tuple[str, ...], int] | None = None

    def read(self, content: dict[Any, Any], left_out: Collection[FilePath]) -> ConfigFile:
        content = self._without_hydra(content)
        self._check_defaults(content)
        self._check_index(content)
        self._check_events(content)
        self._check_texts(content)
        for path in (*left_out, *(flaw.path for flaw in self._flaws)):
            content = _without(content, path)
        if isinstance(content.get("defaults"), list):
            content["defaults"] = joined([entry for entry in content["defaults"] if entry is not _LEFT_OUT])
        config = self._created(content)
        return ConfigFile(config, self._header, self._place, tuple(self._flaws), tuple(self._notes))

    def _add(self, path: FilePath, what: str, hint: str = "", unknown: tuple[KeyPath, ...] | None = None) -> None:
        self._flaws.append(Flaw(Problem(what, self._line(path), hint), path, unknown))

    def _line(self, path: FilePath) -> Location:
        """The line of the nearest part of the path that has one."""
        self._lines = key_lines(self._file) if self._lines is None else self._lines
        lines = self._lines
        known = (lines[path[:count]] for count in range(len(path), 0, -1) if path[:count] in lines)
        return in_file(shown(self._file), next(known, None))

    def _without_hydra(self, content: dict[Any, Any]) -> dict[Any, Any]:
        """The content without settings of Hydra's own, which notes name."""
        defaults = content.get("defaults")
        for index, entry in enumerate(defaults if isinstance(defaults, list) else []):
            key = str(next(iter(entry), "")).split() if isinstance(entry, dict) else []
            if key and hydra_keys.is_hydras(key[-1]):
                self._notes.append(hydra_keys.note(key[-1], self._line(("defaults", str(index)))))
                content = _without(content, ("defaults", str(index)))
        if not self._place and hydra_keys.SECTION in content:
            path = (hydra_keys.SECTION,)
            self._notes += hydra_keys.section_notes(content[hydra_keys.SECTION], self._line(path))
            content = _without(content, path)
        return content

    def _check_defaults(self, content: Mapping[Any, Any]) -> None:
        for key, value in content.items():
            if isinstance(value, list) and self._place not in _OF_THE_USER and is_misspelt_defaults(key):
                section = tuple(self._place.split(".")) if self._place else EVERYTHING
                self._add((key,), f"unknown key '{key}'", "did you mean 'defaults'?", (section,))
        if "defaults" not in content:
            return
        entries = content["defaults"]
        kept = [entry for entry in entries if entry is not _LEFT_OUT] if isinstance(entries, list) else entries
        numbers = [n for n, entry in enumerate(entries) if entry is not _LEFT_OUT] if kept is not entries else []
        for mistake in mistakes(kept):
            path = ("defaults",) if mistake.index is None else ("defaults", str(numbers[mistake.index]))
            unknown = (EVERYTHING,) if mistake.index is None else brought_in(kept[mistake.index])
            self._add(path, mistake.what, mistake.hint, unknown)
        index = self_first(kept)
        sets = [key for key in content if key != "defaults"]
        if index is not None and sets and not self._place:
            where = self._line(("defaults", str(numbers[index])))
            self._notes.append(f"{where}: _self_ is before groups, so their values replace those of this file")

    def _check_index(self, content: Mapping[Any, Any]) -> None:
        if not self._place and content.get("index") not in (None, 0):
            self._add(("index",), INDEX_IS_SET, INDEX_HINT)

    def _check_events(self, content: Mapping[Any, Any]) -> None:
        """Lists of events are kept by name: each entry needs one, and gets its own where several share one."""
        at = ("monitoring",) if not self._place else ()
        section = content.get("monitoring") if at else content
        if self._place not in ("", "monitoring") or not isinstance(section, dict):
            return
        for key in _EVENTS:
            events = section.get(key)
            named: list[Any] = []
            for index, event in enumerate(events if isinstance(events, list) else []):
                name = as_written(event.get("name")) if isinstance(event, dict) else None
                if not isinstance(name, str | int | float) or name == "":
                    self._add(
                        (*at, key, ""), f"entry {index} of {key} is not a mapping with a name", "write '- name: …'"
                    )
                    continue
                named = distinct([*named, name])
                if named[-1] != name:
                    where = self._line((*at, key, str(named[-1])))
                    what = f"two events of {key} have the name '{name}'; this one is '{named[-1]}'"
                    self._notes.append(f"{where}: {what}")

    def _check_texts(self, content: Any) -> None:
        """Texts with interpolations that would take for ever to parse, or do not parse."""
        for path, text in _texts(content, ()):
            if len(text) > LONGEST_INTERPOLATED:
                what = f"the text with interpolations has {len(text)} characters; at most {LONGEST_INTERPOLATED}"
                self._add(path, what)
            elif text.count("${") > DEEPEST and (_nesting(text) > DEEPEST or _recurses(text)):
                what = f"the interpolation {shortened(text, 60)} is nested too deeply: at most {DEEPEST} levels"
                self._add(path, what)

    def _created(self, content: dict[Any, Any]) -> Any:
        """The content as OmegaConf keeps it, without what it can't keep."""
        for _ in range(_MOST_LEFT_OUT):
            try:
                return OmegaConf.create(self._prepared(content))
            except GrammarParseError:
                content = self._without_broken(content)
            except OmegaConfBaseException as error:
                path = tuple(part for part in re.split(r"[.\[\]]", error.full_key or "") if part)
                self._add(path, str(error).splitlines()[0])
                content = _without(content, path)
                if not path:
                    break
        return OmegaConf.create({})

    def _prepared(self, content: dict[Any, Any]) -> dict[Any, Any]:
        content = mark_code(respelled(content, self._place), self._place)
        if self._is_sweep:
            content = normalise(content, in_sweep=True)
        else:
            content = {key: normalise(value, in_sweep=key == "sweep") for key, value in content.items()}
        if self._place == "monitoring":
            return dict(by_name(content))
        if "monitoring" in content:
            content["monitoring"] = by_name(content["monitoring"])
        return content

    def _without_broken(self, content: dict[Any, Any]) -> dict[Any, Any]:
        """The content without interpolations that do not parse."""
        hint = "write ${section.key} or ${resolver:argument}, and quote arguments: ${resolver:'…'}"
        for path, text in [*_texts(content, ())]:
            if not parses(normalise(text, in_sweep=self._is_sweep or path[0] == "sweep")):
                self._add(path, f"the interpolation {shortened(text)} does not parse", of_a_shell(text) or hint)
                content = _without(content, path)
        return content


INDEX_IS_SET = "the index can't be set: it numbers the jobs, from 0"
INDEX_HINT = "leave it out; --array-subset 3 plans only the job with the index 3"


def brought_in(entry: Any) -> tuple[KeyPath, ...]:
    """The path of the section that an entry of an experiment's defaults list brings in: all if it is no group's."""
    if isinstance(entry, str):
        return () if is_self(entry) else (EVERYTHING,)
    if not isinstance(entry, dict):
        return ()
    group, _, package = (str(next(iter(entry), "")).split() or [""])[-1].strip("/").partition("@")
    name = package or group.replace("/", ".")
    return (EVERYTHING if name in ("", "_global_") or len(entry) > 1 else tuple(name.split(".")),)


class _LeftOut:
    """Stands for an item of a list that was left out."""


_LEFT_OUT = _LeftOut()


def _without(node: Any, path: FilePath) -> Any:
    """A value without what is at a path below it; an item of a list becomes null, as the others keep their indices.

    An entry of a file's defaults list becomes `_LEFT_OUT`. A part of the path that is not there ends it: what holds it
    is left out as a whole.
    """
    if isinstance(node, dict):
        kept = {}
        for key, value in node.items():  # several keys may lead there: `a: {b: 1}` and `a.b: 2`
            parts = tuple(str(key).split("."))
            rest = path[len(parts) :]
            if parts != path[: len(parts)]:
                kept[key] = value
            elif isinstance(value, dict) and rest:
                kept[key] = _without(value, rest)
            elif isinstance(value, list) and rest and rest[0].isdecimal() and int(rest[0]) < len(value):
                if parts == ("defaults",):
                    kept[key] = [_LEFT_OUT if str(n) == rest[0] else item for n, item in enumerate(value)]
                else:
                    kept[key] = _without(value, rest)
        return kept
    if isinstance(node, list) and path and path[0].isdecimal():
        rest = path[1:]
        return [(_without(item, rest) if rest else None) if str(n) == path[0] else item for n, item in enumerate(node)]
    return node


def _nesting(text: str) -> int:
    """How deep interpolations are nested at most, whatever is quoted or escaped."""
    deepest = depth = 0
    for found in re.findall(r"\$\{|\}", text):
        depth = max(0, depth - 1) if found == "}" else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _recurses(text: str) -> bool:
    """Whether a text is nested too deeply for those who read it: quotes hide the ends of its interpolations."""
    try:
        parses(normalise(text))
    except RecursionError:
        return True
    return False


def _texts(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _texts(value, (*path, *str(key).split(".")))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, (*path, str(index)))
    elif isinstance(node, str) and "${" in node:
        yield path, node


def _shown(place: Location) -> Location:
    """The place of a mistake in a file, with the file as a person would name it."""
    return replace(place, lines=tuple(replace(line, file=shown(Path(line.file))) for line in place.lines))
