"""Arguments that one version of Megatron-LM has and another lacks: the same by another name, or left out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oellm_autoexp.backends.base import Note
from oellm_autoexp.backends.megatron.arguments import Argument, Arguments
from oellm_autoexp.backends.megatron.checks.base import WHERE
from oellm_autoexp.core.errors import Problem

VERSIONS = tuple(f"core_v0_{minor}_0" for minor in range(19, 11, -1))
"""The versions whose tables are shipped, newest first."""


@dataclass(frozen=True)
class Fitted:
    """Values for one version of Megatron, what is to be said of the others, and what is wrong with them."""

    values: Mapping[str, Any]
    notes: Sequence[Note] = ()
    problems: Sequence[Problem] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    """The keys of `values` that another name was given for, and that name."""


def fitting(version: str, values: Mapping[str, Any]) -> Fitted:
    """The values for a version of Megatron, where some are of arguments that only other versions know.

    An argument of another version goes by its name in this one, where a flag of it is the same. One that this version
    lacks is left out where its value is null, or what the other version has without it; another value is a problem,
    which names the versions that have it. What no version knows stays.
    """
    arguments = Arguments.of(version)
    if arguments.knows(*values):
        return Fitted(values)
    known: dict[str, Any] = {}
    notes: list[Note] = []
    problems: list[Problem] = []
    renamed: dict[str, str] = {}
    for key, value in values.items():
        found = {} if arguments.knows(key) else _elsewhere(key)
        if not found:
            if value is not None or key not in known:  # null beside its other name
                known[key] = value
            continue
        other, argument = next(iter(found.items()))
        same = _same(argument, arguments)
        if same is not None and values.get(same) is None:
            known[same] = value
            renamed[same] = key
        elif same is not None and value is not None:
            hint = f"write {same} alone, and set {key} to null where a file of others sets it"
            problems.append(Problem(f"{key} is {same} in another spelling", WHERE / key, hint))
        elif value is None or value == _plain(argument.default):
            text = f"{version} has no such argument; it is left out: {other} uses {_shown(value)} without it"
            notes.append(Note(f"lacking {key}", f"backend.megatron.{key}: {text}"))
        else:
            what = f"{version} has no argument '{key}'; {_all_of([*found])}"
            hint = f"take it out, or set backend.version to the Megatron-LM that is run, such as {other}"
            problems.append(Problem(what, WHERE / key, hint))
    return Fitted(known, notes, problems, renamed)


def _elsewhere(key: str) -> dict[str, Argument]:
    """The versions that know a key, newest first, and its argument there."""
    return {other: argument for other in VERSIONS if (argument := Arguments.of(other).named(key)) is not None}


def _all_of(versions: Sequence[str]) -> str:
    """That versions, newest first, have something."""
    first, *others = reversed(versions)
    if not others:
        return f"{first} has it"
    between = VERSIONS.index(first) - VERSIONS.index(others[-1]) == len(others)
    if len(others) == 1 or not between:
        return f"{', '.join((first, *others[:-1]))} and {others[-1]} have it"
    return f"{first} to {others[-1]} have it"


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
