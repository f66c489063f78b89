"""Reads YAML files of a config: their values, and the line of each key.

The events of `monitoring` are kept by name, also where they are written as a list, so that a file can add to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from oellm_autoexp.config.hydra.yaml_rules import MERGE, Loader
from oellm_autoexp.config.values.written import all_as_written, as_written
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.limits import MOST_BYTES
from oellm_autoexp.core.location import in_file
from oellm_autoexp.storage.files import refuse_named_pipe


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, by the rules of this module. Raises ConfigError with file and line.

    What the type of a key is to settle is marked (`config.values.written`).
    """
    text = text_of(path)
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506  a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = in_file(str(path), mark.line + 1 if mark else None)
        what = " ".join(part for part in (error.problem, error.context and f"({error.context})") if part)
        raise ConfigError(Problem(what, where, _yaml_hint(text, mark))) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an explicit tag such as `!!int x`
        raise ConfigError(Problem(str(error), in_file(str(path)))) from None
    except RecursionError:
        raise ConfigError(Problem("is nested too deeply", in_file(str(path)))) from None


def text_of(path: Path) -> str:
    try:
        if (bytes_ := path.stat().st_size) > MOST_BYTES:
            what = f"has {bytes_} bytes; a config file has at most {MOST_BYTES}"
            raise ConfigError(Problem(what, in_file(str(path))))
        refuse_named_pipe(path)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(Problem(f"can't read it: {error.strerror}", in_file(str(path)))) from None
    except UnicodeDecodeError as error:
        raise ConfigError(Problem(f"is not UTF-8 text (byte {error.start})", in_file(str(path)))) from None


def _yaml_hint(text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    if not mark or mark.line >= len(lines):
        return ""
    line = lines[mark.line]
    if line[: mark.column + 1].strip(" ").startswith("\t"):
        return "YAML is indented with spaces; this line has a tab"
    line = line.strip()
    return f"the line reads: {line}" if len(line) <= 200 else f"the line begins: {line[:200]}…"


def read_mapping(path: Path) -> dict[Any, Any]:
    """The content of a config file, which is a mapping (an empty file: an empty one). Raises ConfigError."""
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(Problem("must hold keys and values", in_file(str(path)), "a config file is a YAML mapping"))
    if "defaults" in content:  # the names of configs
        content["defaults"] = all_as_written(content["defaults"])
    return content


def key_lines(path: Path) -> dict[tuple[str, ...], int]:
    """The line (from 1) of every key of a YAML file, by its path from the file's root; list items by their index."""
    lines: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node, prefix: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in sorted(node.value, key=lambda entry: entry[0].tag != MERGE):
                if key.tag == MERGE:  # its keys are written where the anchor is; the mapping's own come later
                    for source in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                        walk(source, prefix)
                    continue
                here = (*prefix, *str(key.value).split("."))
                lines[here] = key.start_mark.line + 1
                walk(value, here)
        elif isinstance(node, yaml.SequenceNode):
            indices = map(str, range(len(node.value)))
            names = distinct(map(_name_of, node.value)) if prefix[-1:] in _NAMED else indices
            for name, value in zip(names, node.value, strict=True):
                here = (*prefix, name)
                lines[here] = value.start_mark.line + 1
                walk(value, here)

    root = yaml.compose(text_of(path), Loader=Loader)
    if root is not None:
        walk(root, ())
    return lines


_NAMED = {("log_events",), ("state_events",)}
"""Lists of named things, which are kept by name."""


def _name_of(node: yaml.Node) -> str:
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next((str(value.value) for key, value in entries if key.value == "name"), "")


def by_name(monitoring: Any) -> Any:
    """The `monitoring` section with its lists of events as mappings by name, so that Hydra merges them one by one."""
    if not isinstance(monitoring, dict):
        return monitoring
    found = dict(monitoring)
    for (key,) in _NAMED:
        events = found.get(key)
        if isinstance(events, list) and all(isinstance(event, dict) and event.get("name") for event in events):
            names = distinct(as_written(event["name"]) for event in events)
            found[key] = {name: {**event, "name": name} for name, event in zip(names, events, strict=True)}
    return found


def distinct(names: Iterable[Any]) -> list[Any]:
    """The names of a list, where one that is there already is followed by a number: `a, a` becomes `a, a_2`."""
    found: list[Any] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        found.append(name if name not in found else next(text for text in numbered if text not in found))
    return found


def shown(file: Path) -> str:
    """A file as a person would name it: from here if it is below, else with its whole path."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)
