"""Arguments that one version of Megatron-LM has and another lacks: the same by another name, or left out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oellm_autoexp.backends.base import Note
from oellm_autoexp.backends.megatron.arguments import Argument, Arguments

VERSIONS = tuple(f"core_v0_{minor}_0" for minor in range(19, 11, -1))
"""The versions whose tables are shipped, newest first."""


def fitting(version: str, values: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Note]]:
    """The values for a version of Megatron, and what is to be said of those that it does not know.

    An argument of another version goes by its name in this one, where a flag of it is the same. One that this version
    lacks is left out where its value is null, or what the other version has without it. Others stay, to be refused.
    """
    arguments = Arguments.of(version)
    if arguments.knows(*values):
        return values, []
    known: dict[str, Any] = {}
    notes = []
    for key, value in values.items():
        found = None if arguments.knows(key) else _elsewhere(key, version)
        if found is None:
            known[key] = value
            continue
        other, argument = found
        same = _same(argument, arguments)
        if same is not None and values.get(same) is None:
            known[same] = value
        elif value is None or value == _plain(argument.default):
            text = f"{version} has no such argument; it is left out: {other} uses {_shown(value)} without it"
            notes.append(Note(f"lacking {key}", f"backend.megatron.{key}: {text}"))
        else:
            known[key] = value
    return known, notes


def _elsewhere(key: str, version: str) -> tuple[str, Argument] | None:
    """The newest other version that knows a key, and its argument."""
    for other in VERSIONS:
        if other != version and (argument := Arguments.of(other).named(key)) is not None:
            return other, argument
    return None


def _same(argument: Argument, arguments: Arguments) -> str | None:
    """The dest of the argument that has one of its flags, in the same sense."""
    for flag in argument.flags:
        here = arguments.named(flag)
        if here is not None and flag in here.flags and here.type == argument.type:
            return here.dest
    return None


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else repr(value)
