"""Definitions of images (`*.def.in`): read, and filled in for one build. Pure.

A definition is an Apptainer definition file (user guide, "Definition Files") with `{{name}}` in the place of values of
a build. They are filled in here and not by `--build-arg`, which needs Apptainer 1.2 or SingularityCE 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.text import did_you_mean

_FIELD = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_SECTION = re.compile(r"%(\w+)\s*$")
_HEADER = re.compile(r"\s*(\w+)\s*:\s*(.+?)\s*$")


@dataclass(frozen=True)
class Definition:
    """A definition that is filled in: the image that it starts from, and the texts of its sections by name."""

    bootstrap: str
    base: str
    sections: Mapping[str, str]

    @property
    def source(self) -> str:
        """The base as one word: `docker://nvcr.io/…`, or a path."""
        return self.base if self.bootstrap == "localimage" else f"{self.bootstrap}://{self.base}"

    def text(self, base: str) -> str:
        """The definition file that starts from an image on this machine."""
        sections = "".join(f"\n%{name}\n{text.rstrip()}\n" for name, text in self.sections.items())
        return f"Bootstrap: localimage\nFrom: {base}\n{sections}"


def fill(text: str, values: Mapping[str, str], where: str) -> str:
    """`text` with each `{{name}}` replaced. Raises ConfigError with every name that is not in `values`."""
    problems = []
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        problems += [
            Problem(f"no value {{{{{name}}}}}", f"{where}:{number}", did_you_mean(name, values))
            for name in _FIELD.findall(line)
            if name not in values
        ]
        lines.append(_FIELD.sub(lambda found: values.get(found[1], ""), line))
    if problems:
        raise ConfigError(*problems)
    return "\n".join(lines) + "\n"


def parse(text: str, where: str) -> Definition:
    """The definition in a text. Raises ConfigError if it does not name the image that it starts from."""
    header: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines():
        if found := _SECTION.match(line):
            current = sections.setdefault(found[1], [])
        elif current is not None:
            current.append(line)
        elif (field := _HEADER.match(line)) and not line.lstrip().startswith("#"):
            header[field[1].lower()] = field[2]
    missing = [name for name in ("Bootstrap", "From") if name.lower() not in header]
    if missing:
        raise ConfigError(Problem(f"no line `{missing[0]}: …` before the first section", where))
    return Definition(header["bootstrap"], header["from"], {name: "\n".join(lines) for name, lines in sections.items()})


def expand(text: str, variable: Callable[[str], str | None], where: str) -> str:
    """A base with `$NAME` and `${NAME}` replaced by variables. Raises ConfigError for one that is not set."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if known := variable(name):
            return known
        hint = f"export {name}=…, or name the base image: --base-image PATH"
        raise ConfigError(Problem(f"the definition starts from {text}, and ${name} is not set", where, hint))

    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text)
