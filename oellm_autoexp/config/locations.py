"""Where the values of a composed config were written."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode

from oellm_autoexp.config.defaults import is_schema_key
from oellm_autoexp.config.experiment import defaults_of
from oellm_autoexp.config.hydra.findings import Findings
from oellm_autoexp.config.hydra.hydra_source import WHOLE, Search, searching
from oellm_autoexp.config.hydra.yaml_files import key_lines, shown
from oellm_autoexp.config.hydra_errors import entry_of
from oellm_autoexp.config.overrides import CheckedOverride, for_hydra
from oellm_autoexp.config.schema import UNKNOWN_KEY
from oellm_autoexp.config.unparsable_overrides import cut
from oellm_autoexp.config.values.argument_names import spelled
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import KeyPath, Line, Location, in_file, path_of
from oellm_autoexp.storage.files import shipped


@dataclass(frozen=True)
class _Written:
    """Where keys are written, and what is chosen of groups."""

    lines: dict[KeyPath, Line] = field(default_factory=dict)
    choices: dict[KeyPath, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By the section of a group, its configs (`slurm/base`) that are chosen, each applied over those before."""
    writers: dict[KeyPath, tuple[KeyPath, str]] = field(default_factory=dict)
    """By key, the section of the group and the choice that has written it last, also in what the choice builds on."""
    replaced: dict[KeyPath, tuple[str, Line]] = field(default_factory=dict)
    """By key, the config that sets it and the line, where a choice of a group that stands later replaces that value."""
    counts: Counter[KeyPath] = field(default_factory=Counter)
    """By key, how many files write it."""


class Locations:
    """Where each key of a composed config was written. Looked up only when there is an error to report."""

    def __init__(
        self, loader: ConfigLoader, search: Search, overrides: Sequence[CheckedOverride], found: Findings
    ) -> None:
        self._loader = loader
        self._search = search
        self._overrides = overrides
        self._found = found
        self._written: _Written | None = None

    def of(self, where: Location) -> Location:
        """A key with the line where it, or its nearest parent, was written, or `where` if that is not known.

        A key that the sweep sets is placed there, as a job's value of it is the sweep's. One that is nowhere is placed
        in the file of its group, where that is a person's own.
        """
        if not where.keys or not where.is_key:
            return where
        path = tuple(filter(None, path_of(where.keys)))
        lines, text = self._source(path)
        return replace(where, lines=lines, text=text, also=tuple(map(self.of, where.also)))

    def _source(self, path: KeyPath) -> tuple[tuple[Line, ...], str]:
        """Where the value at a path was written: lines of files, and what else is to be said."""
        written = self._read()
        if by_sweep := [*dict.fromkeys(line for key, line in written.lines.items() if _sets(key, path))]:
            return tuple(by_sweep[:3]), "set by the sweep"
        for override in reversed(self._overrides):
            key = tuple(override.key.split("."))
            in_sweep = key[0] == "sweep" and ".".join(path) in override.written
            if in_sweep or (key == path[: len(key)] and not self._search.is_group(override.key)):
                return (), f"override {cut(override.written)}"
        for count in range(len(path), 0, -1):
            choices = written.choices[path[:count]] if count < len(path) else []
            file = self._search.file(choices[-1]) if choices else None
            if file and not file.is_relative_to(shipped("config").resolve()):
                return (Line(shown(file)),), ""
            if path[:count] in written.lines:
                return (written.lines[path[:count]],), ""
        return (), ""

    def in_one_file(self, path: KeyPath) -> bool:
        """Whether only one file writes a key, and no override."""
        overridden = any(tuple(override.key.split(".")) == path for override in self._overrides)
        return self._read().counts[path] == 1 and not overridden

    def placed(self, problem: Problem) -> Problem:
        """A problem with the place where its key was written, or the file that should have it."""
        about = path_of((problem.about or problem.where).keys or ())
        lacking = self._lacking(about) if problem.about else None
        if lacking is not None:
            file, base = lacking
            what = f"'{'.'.join(about[1:])}' is missing; {shown(base)} has it"
            hint = f"begin the file with 'defaults: [{base.stem}]', or set {'.'.join(about[1:])} in it"
            return Problem(what, in_file(shown(file)), hint)
        return self._of_unlike(problem, about) or self._with_order(
            replace(problem, where=self.of(problem.where)), about
        )

    def _with_order(self, problem: Problem, key: KeyPath) -> Problem:
        """A problem whose hint says where its key is set in vain: before a choice that replaces the value."""
        written = self._read()
        if key not in written.replaced or problem.where.lines != (written.lines[key],):
            return problem
        inner = (other[len(key) :] for other in written.lines if other[: len(key)] == key)
        if any(not name.isdecimal() for name, *_ in filter(None, inner)):
            return problem  # a section, which is merged and not replaced
        config, line = written.replaced[key]
        choice = written.writers[key][1]
        before = "_self_" if config in self._search.configs else f"'{config}'"
        set_in = f"{in_file(line.file, line.number)} sets it, but '{choice}', later in the defaults list, replaces that"
        return replace(problem, hint=f"{set_in}; choose '{choice}' before {before}")

    def _lacking(self, about: KeyPath) -> tuple[Path, Path] | None:
        """The file of a group that lacks a key, and the group's base that holds it, if it is that which is missing."""
        choices = self._read().choices[about[:1]]
        file, base = self._search.file(choices[-1]) if choices else None, self._search.file(f"{about[0]}/base")
        if file is None or base is None or file == base or len(about) < 2:
            return None
        words = [re.split(r"[/ ]", str(entry))[-1] for entry in defaults_of(file)]
        return (file, base) if "base" not in words and about[1:] in key_lines(base) else None

    def _of_unlike(self, problem: Problem, key: KeyPath) -> Problem | None:
        """The problem of two choices of a group of which the later one has another class, which lacks the key."""
        written = self._read()
        section, choice = written.writers.get(key, ((), ""))
        *_, last = choices = written.choices[section] or [choice]
        if choice == last or not problem.what.startswith(UNKNOWN_KEY) or not is_schema_key(".".join(key)):
            return None
        group, name, last_name = posixpath.dirname(choice), posixpath.basename(choice), posixpath.basename(last)
        made = [cut(override.written) for override in self._overrides if override.key == group]
        with searching(self._search, self._found):
            where = Location(text=made[-1]) if made else entry_of(self._search, WHOLE, group, last_name)
        what = f"'{name}' and '{last_name}' of the group '{group}' can't be combined: '{last_name}', applied after "
        what += f"'{name}', has other keys"
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
            defaults = self._loader.compute_defaults_list(WHOLE, for_hydra(self._overrides), RunMode.RUN).defaults
        written = self._written = _Written()
        before: dict[KeyPath, tuple[str, Line]] = {}
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
            is_own = not file.is_relative_to(shipped("config").resolve())
            is_choice = posixpath.dirname(config) == "/".join(package) and bool(package)
            if is_choice and choice == config and choice not in written.choices[package]:
                written.choices[package].append(choice)
            for key, line in key_lines(file).items():
                path = tuple(spelled(".".join((*package, *(part.lstrip("+~") for part in key)))).split("."))
                if not is_choice:
                    before.pop(path, None)
                    written.replaced.pop(path, None)
                    before.update({path: (config, Line(shown(file), line))} if is_own else {})
                elif path in before:
                    written.replaced[path] = before[path]
                written.lines[path] = Line(shown(file), line)
                written.counts[path] += 1
                if is_choice:
                    written.writers[path] = package, choice
                else:
                    written.writers.pop(path, None)
        return written


def _sets(key: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a key of a file is an entry of a sweep's node that sets the value at a path."""
    key = tuple(filter(None, key))  # also of a key `a.b.`, which is reported as such
    if key[0] != "sweep" or path[0] == "sweep" or len(key) <= len(path) or key[-len(path) :] != path:
        return False
    node = key[-len(path) - 1]
    return node.isdecimal() or node in ("sweep", "params", "defaults", "base_values")
