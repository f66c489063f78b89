"""What Hydra's exceptions mean, in words and with the place at fault."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.errors import MissingConfigException

from oellm_autoexp.config.experiment import ROOT, configs_of, defaults_of, groups_of_root
from oellm_autoexp.config.hydra.config_file import brought_in
from oellm_autoexp.config.hydra.defaults_list import choice_meant
from oellm_autoexp.config.hydra.findings import FilePath
from oellm_autoexp.config.hydra.hydra_source import WHOLE, Search, current_findings
from oellm_autoexp.config.hydra.yaml_files import key_lines, shown
from oellm_autoexp.config.overrides import CheckedOverride, compose_with, value_of_override
from oellm_autoexp.config.values.overlay import DOT_IN_KEY
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.limits import shortened
from oellm_autoexp.core.location import NOWHERE, KeyPath, Location, in_file
from oellm_autoexp.core.text import did_you_mean, dotted, item_hint, new_key_hint
from oellm_autoexp.storage.files import shipped


def parent_of(error: Exception) -> str:
    """The config at which Hydra fails, where its message names it."""
    inside = re.match(r"In '([^']*)': ", str(error).strip())
    return inside.group(1) if inside else WHOLE


def problem_of(
    error: Exception, override: CheckedOverride | None, search: Search, good: Sequence[CheckedOverride]
) -> Problem:
    """One error of Hydra's, met with an override (None: without any) on top of good ones."""
    text = str(error).strip()
    parent = parent_of(error)
    about = Location(text=override.written) if override else entry_of(search, parent)
    if isinstance(error, OSError) and error.filename:
        what = f"can't be read: {error.strerror}: {shortened(str(error.filename), 60)}"
        place = about if len(str(about)) < 200 else shortened(str(about), 60)
        return Problem(what, place, "choose a config that is there")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if override and error.missing_cfg_file == f"{override.key}/{override.checked.partition('=')[2]}":
            group, choice = override.key, override.checked.partition("=")[2]
            if choice != (name := Path(choice).stem) and search.file(f"{group}/{name}"):
                return Problem(f"a choice of '{group}' is a config's name, not a path", about, f"its name is '{name}'")
        elif override is None or override.key != group:
            about = entry_of(search, parent, group, choice)
        return _missing(group, choice, error.options or (), about, search)
    if unmatched := _NOTHING_TO_OVERRIDE.search(text):
        group = unmatched[1] or unmatched[2]
        if parent != WHOLE:
            about = entry_of(search, parent, group)
        name = group.partition("@")[0]
        if (last := posixpath.basename(name)) != name and name not in search.groups() and search.is_group(last):
            return Problem(f"there is no config group '{name}'", about, f"write '- override /{last}: NAME', with the /")
        if group in search.groups() and ROOT in search.configs:
            what = f"no defaults list chooses a config of '{group}', so there is nothing to override"
            if override and override.key != group:
                what = f"with this choice no config of '{group}' is chosen, so there is nothing to override"
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
        tree = compose_with(good)
        known = _known_keys(tree)
        near = did_you_mean(override.key, [*known, *search.groups()])
        hint = DOT_IN_KEY if override.key in known else new_key_hint(near, override.written)
        hint = item_hint(tree, override.key) or hint
        return Problem(f"the config has no key '{override.key}'", about, hint)
    if "Cannot merge" in text and posixpath.dirname(parent) and (file := search.file(parent)):
        group, name = posixpath.split(parent)
        what = (
            f"'{name}' of the group '{group}' has a list where the config before it has keys and values, or the other "
        )
        where = in_file(shown(file))
        if file.is_relative_to(shipped("config").resolve()):
            where = about if override and override.key == group else entry_of(search, WHOLE, group, name)
        return Problem(f"{what}way round", where, "choose one config of the group, or write the key as the other does")
    if override and "Cannot merge" in f"{text} {error.__cause__}":
        holds = "keys and values" if isinstance(value_of_override(override.checked), list) else "a list"
        return Problem(f"'{override.key}' holds {holds}; this value does not", about)
    if override and re.search("An item is already at|Multiple values for", text):
        return Problem(f"the config has '{override.key}' already", about, "write it without '+' to change its value")
    if unresolved := re.search(r"Error resolving interpolation '(.*?)'(?:, possible interpolation keys: (.*))?$", text):
        at = about or entry_of(search, parent, "", unresolved[1]) or own_defaults(search)
        return _unresolved(unresolved[1], unresolved[2] or "", at)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if error.__cause__ is not None and str(error.__cause__) not in text:
        lines.append(str(error.__cause__).splitlines()[0])
    if " " not in text or isinstance(error, AssertionError | NotImplementedError | RecursionError):
        return _without_words(error, about or own_defaults(search), override)
    if other := re.search(r"Could not override '([^']+)'\.\s+Did you mean to override (?:one of )?([^?]+)\?", text):
        what = f"the config has no '{other[1]}' to override"
        meant = " or ".join(f"'{name}'" for name in other[2].split(", "))
        return Problem(what, about if override else entry_of(search, parent, other[1]), f"did you mean {meant}?")
    if twice := re.match(r"(\S+) appears more than once", text):
        where = entry_of(search, parent, twice[1]) or own_defaults(search)
        return Problem(f"'{twice[1]}' is chosen more than once", where, "keep one of the entries")
    if twice := _TWICE.search(text):
        group, choice = twice["group"], twice["choice"] or ""
        where = entry_of(search, parent, group, choice) or entry_of(search, parent, group) or own_defaults(search)
        what = f"'{group}' is chosen more than once"
        return Problem(what, where, f"to change a choice, write '- override /{group}: {choice or 'NAME'}' at the end")
    if unsaid := _UNSAID.match(text):
        where = entry_of(search, parent, unsaid[1], "???") or about or own_defaults(search)
        names = ", ".join(search.choices(unsaid[1].partition("@")[0]))
        return Problem(f"no config of '{unsaid[1]}' is chosen; '???' stands for one", where, f"known: {names}")
    if "Cannot merge" in f"{text} {error.__cause__}":
        what = "a list stands where another file has keys and values, or the other way round"
        return Problem(what, about or own_defaults(search), "write the key as the other file does")
    return Problem(" ".join(lines[:3]), about or own_defaults(search))


def _unresolved(written: str, known: str, about: Location) -> Problem:
    """The problem of an interpolation that an entry of a defaults list can't have."""
    if variable := re.search(r"\$\{oc\.env:([^,}]+)\}", written):
        name = variable[1].strip()
        hint = f"set it, or write ${{oc.env:{name},DEFAULT}}"
        return Problem(f"the environment variable {name} is not set", about, hint)
    hint = f"it knows environment variables and choices: {known}".rstrip(": ")
    return Problem(f"{written} is not known in a defaults list", about, hint)


def own_defaults(search: Search) -> Location:
    """The defaults list of the config that was asked for, where Hydra does not say where it failed."""
    file = cast("Path", search.file(search.configs[-1]))
    return in_file(shown(file), key_lines(file).get(("defaults",)))


def _without_words(error: Exception, about: Location, override: CheckedOverride | None) -> Problem:
    """An error of Hydra's that says nothing a person could use."""
    reason = (
        "it is nested too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__} {error}".strip()
    )
    if override is not None:
        return Problem(f"Hydra can't apply the override ({reason})", about, "write key=value, or group=choice")
    hint = "look at this file's defaults list: 'config' or 'group: choice' a line, those with 'override' last"
    return Problem(f"Hydra can't compose this config ({reason})", about, hint)


_NOTHING_TO_OVERRIDE = re.compile(
    r"Could not override '([^']+)'\. No match in the defaults list"
    r"|No earlier Group Default for '([^']+)' exists to override"  # Hydra 1.4
)
_TWICE = re.compile(r"Multiple values for (?P<group>\S+)\.\s+To override a value use 'override \S+: (?P<choice>[^']*)'")
_UNSAID = re.compile(r"You must specify '([^']+)'")
_NO_KEY = re.compile(r"is not in struct|Could not override '[^']+'\.\s*To append|does not exist|out of range")


def _missing(group: str, choice: str, known: Sequence[str], about: Location, search: Search) -> Problem:
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
    if not group and search.is_group(choice):
        return Problem(f"'{choice}' is a group of configs", about, f"write '- /{choice}: NAME' to choose one")
    near = did_you_mean(choice, known if group else [*known, "_self_"])
    hint = hint or (near if choice != group else "")  # `slurm=slurm` means none that is like it
    return Problem(what, about, hint or (f"known: {', '.join(known)}" if known else ""))


@dataclass(frozen=True)
class Entry:
    """An entry of a file's defaults list, and the paths of the sections that it brings in."""

    file: Path
    index: int
    sections: tuple[KeyPath, ...]

    @property
    def path(self) -> FilePath:
        return "defaults", str(self.index)

    @property
    def where(self) -> Location:
        return in_file(shown(self.file), key_lines(self.file)[self.path])


def find_entry(search: Search, parent: str, group: str = "", choice: str = "") -> Entry | None:
    """The defaults entry that asks for a group, or for a choice of it, as far as it can be found.

    Hydra names as `parent` the config that has the group; an experiment may have overridden the choice.
    """
    name = group.partition("@")[0].rpartition("/")[2]
    wanted = {choice} if choice else {name}
    exact = {choice, name} - {""}
    left_out = current_findings().left_out
    entries = [
        (config, file, index, entry)
        for config in dict.fromkeys((*configs_of(search), parent))
        if (file := search.file(config)) is not None
        for index, entry in enumerate(defaults_of(file))
        if ("defaults", str(index)) not in left_out[str(file)]
    ]
    for _, file, index, entry in entries if "@" in group else ():
        if isinstance(entry, dict) and str(next(iter(entry), "")).split()[-1:] in ([group], [f"/{group}"]):
            return Entry(file, index, brought_in(entry))
    for words in (exact, wanted) if wanted != {""} else ():
        for config, file, index, entry in entries:
            key, chosen = next(iter(entry.items()), ("", "")) if isinstance(entry, dict) else (entry, "")
            named = {*re.split(r"[/@ \[\]',]+", f"{key} {chosen or ''}"), str(key).rpartition("/")[2]}
            if words <= named:
                folder = config.split("/")[0]
                inside = folder if "/" in config and folder in groups_of_root(search) else ""
                return Entry(file, index, ((inside,),) if inside else brought_in(entry))
    return None


def entry_of(search: Search, parent: str, group: str = "", choice: str = "") -> Location:
    """The line of the entry that `find_entry` finds, else the file of `parent`."""
    if entry := find_entry(search, parent, group, choice):
        return entry.where
    named = search.file(parent)
    return in_file(shown(named)) if named else NOWHERE


def culprit(error: Exception, search: Search) -> Entry | None:
    """The entry of a defaults list because of which Hydra fails, where its message names it."""
    text = str(error).strip()
    parent = parent_of(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return find_entry(search, parent, group, choice)
    if unmatched := _NOTHING_TO_OVERRIDE.search(text):
        return find_entry(search, parent, unmatched[1] or unmatched[2])
    if twice := _TWICE.search(text):
        return find_entry(search, parent, twice["group"], twice["choice"])
    if unsaid := _UNSAID.match(text):
        return find_entry(search, parent, unsaid[1], "???")
    named = re.search(r"Could not override '([^']+)'", text) or re.match(r"(\S+) appears more than once", text)
    return find_entry(search, parent, named[1]) if named else None


def _known_keys(tree: Mapping[str, Any]) -> list[str]:
    keys = [key for key in dotted(tree) if not key.startswith("sweep.")]
    sections = {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}
    return sorted({*keys, *sections})
