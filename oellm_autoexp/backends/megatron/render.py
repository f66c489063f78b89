"""The committed files of one version of Megatron-LM: its parser's table, help texts, a typed class, defaults. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from oellm_autoexp.core.errors import BackendError, Problem

Rows = Sequence[Mapping[str, Any]]
"""What `backends/megatron/extract.py` writes."""

LEFT_OUT = ("yaml_cfg",)
"""Not offered: with --yaml-cfg, Megatron skips its own validation (megatron/training/arguments.py, parse_args)."""

_TYPES = {"int": "int", "float": "float", "str": "str", "bool": "bool", "pattern": "int | str"}
"""Python's type of a value by the table's word; other words are functions that read a text."""

_HEAD = '''\
"""What Megatron-LM {name} takes: {what}.

Written by scripts/generate_megatron_dataclass.py; not to be edited.
"""

from __future__ import annotations

'''

_TABLE = """\
from typing import Any

# dest, kind, flags, flags that turn it off, type, nargs, choices, default, group
TABLE: tuple[tuple[Any, ...], ...] = (
{rows}
)
"""

_HELP = """\
# Megatron-LM's own words: Copyright (c) NVIDIA CORPORATION & AFFILIATES, under Megatron-LM's licence.
HELP: dict[str, str] = {{
{rows}
}}
"""

_CLASS = '''\
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MegatronConfig:
    """Values by dest. None leaves it to Megatron, which may derive it from others."""
{fields}
'''

_YAML = """\
# yaml-language-server: $schema=../../schema.json#/definitions/megatron
# What Megatron-LM {name} takes, by dest, with its defaults; null leaves a value to Megatron, which may derive it.
# Written by scripts/generate_megatron_config.py; not to be edited.
"""


def table(name: str, rows: Rows) -> str:
    """The module `generated/VERSION_table.py`, which `Arguments.of` reads. The class is slow to make."""
    lines = [f"    {_row(row)}," for row in _offered(rows)]
    return _HEAD.format(name=name, what="the table of its parser") + _TABLE.format(rows="\n".join(lines))


def help_texts(name: str, rows: Rows) -> str:
    """The module `generated/VERSION_help.py`: what the parser says of each dest, for editors."""
    lines = [f"    {_literal(row['dest'])}: {_literal(row['help'])}," for row in _offered(rows) if row["help"]]
    return _HEAD.format(name=name, what="the help texts of its parser") + _HELP.format(rows="\n".join(lines))


def typed(name: str, rows: Rows) -> str:
    """The module `generated/VERSION.py` with the class MegatronConfig."""
    lines = []
    for group, members in groupby(_offered(rows), key=lambda row: row["group"]):
        lines.append(f"\n    # {group}")
        lines += [f"    {row['dest']}: {_annotation(row)} = {_literal(_default(row))}" for row in members]
    return _HEAD.format(name=name, what="types and defaults") + _CLASS.format(fields="\n".join(lines))


def defaults(name: str, rows: Rows) -> str:
    """The config `backend/megatron/VERSION.yaml`: every dest with its default, grouped as Megatron groups them.

    Raises BackendError: this Python, which may be one for Megatron alone, has no PyYAML.
    """
    lines = [_YAML.format(name=name).rstrip()]
    for group, members in groupby(_offered(rows), key=lambda row: row["group"]):
        lines.append(f"\n# {group}")
        lines += [f"{row['dest']}: {_scalar(row['default'])}" for row in members]
    return "\n".join(lines) + "\n"


def _offered(rows: Rows) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if row["dest"] not in LEFT_OUT)


def _row(row: Mapping[str, Any]) -> str:
    columns = ("dest", "kind", "flags", "off", "type", "nargs", "choices", "default", "group")
    return f"({', '.join(_literal(row[column]) for column in columns)})"


def _literal(value: Any) -> str:
    """Python source with double quotes; lists become tuples."""
    if isinstance(value, list | tuple):
        inside = ", ".join(_literal(item) for item in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, str):
        plain = repr(value)
        return f'"{plain[1:-1]}"' if plain.startswith("'") and '"' not in value else plain
    return repr(value)


def _default(row: Mapping[str, Any]) -> Any:
    return float(row["default"]) if row["type"] == "float" and isinstance(row["default"], int) else row["default"]


def _annotation(row: Mapping[str, Any]) -> str:
    choices, default = row["choices"], row["default"]
    kind = f"Literal[{', '.join(map(_literal, choices))}]" if choices else _TYPES.get(row["type"], "str")
    if row["nargs"] is not None:
        single = f"{kind} | " if default is not None and not isinstance(default, list) else ""
        kind = f"{single}tuple[{kind}, ...]"
    return f"{kind} | None" if default is None else kind


def _scalar(value: Any) -> str:
    """YAML on one line."""
    try:
        import yaml
    except ModuleNotFoundError:
        hint = (
            "run it with the Python of this program, and name the one that has torch with --python; or install pyyaml"
        )
        raise BackendError(Problem("this Python has no yaml", hint=hint)) from None
    text = yaml.safe_dump(value, default_flow_style=True, width=2**20, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
