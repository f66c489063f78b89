"""Megatron-LM's argument parser as a table, in JSON on stdout. Needs no GPU and nothing of this package.

    python extract.py [FOLDER]

FOLDER holds `megatron/`: a checkout of Megatron-LM or an unpacked megatron-core. Without it, the megatron-core that
this Python has. The Python needs torch, numpy and packaging. Exit code 3: something is missing; the last line of stderr
says what to install.

The table holds names, flags, actions, types, choices, defaults, groups and help texts. The same parser gives the same
bytes on every version of Python. `oellm_autoexp.cli.megatron.generate_megatron` runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import importlib
import json
import signal
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

MISSING = 3
"""The exit code if the parser cannot be loaded; the last line of stderr says what to install."""

NEEDED = ("torch", "numpy", "packaging")
ABSENT_MAY_BE = {"triton"}
"""Used by kernels alone, and imported unguarded: megatron/core/transformer/moe/ops/paged_stash.py."""

LINUX_SIGNALS = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV",
    "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN",
    "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
    "SIGRTMIN", "SIGRTMAX",
)  # fmt: skip
"""signal.Signals differs between platforms, and jobs run on Linux: signal(7), in the order of x86 and Arm."""

WORDS = {
    "moe_freq_type": "pattern",
    "la_freq_type": "pattern",
    "no_rope_freq_type": "pattern",
    "tuple_type": "tuple",
}
"""Our words for the functions of megatron/training/arguments.py that read a text."""


class ExtractError(Exception):
    """The parser cannot be loaded, or holds something that the table has no word for."""


class _Tolerant(SourceFileLoader):
    """A module that dies for want of triton becomes one whose every name is an empty class."""

    def exec_module(self, module: types.ModuleType) -> None:
        try:
            super().exec_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ABSENT_MAY_BE:
                raise
            module.__getattr__ = _stand_in  # type: ignore[method-assign]


def _stand_in(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


class _Finder:
    """Gives every module of Megatron the tolerant loader. A stub of triton itself would mislead torch."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith("megatron.") else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Tolerant(spec.loader.name, spec.loader.path)
        return spec


def load(folder: str | None) -> Any:
    """The module megatron.training.arguments. Raises ExtractError."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            raise ExtractError(f"{sys.executable} has no {name}; install there: {' '.join(NEEDED)}") from None
    if folder is not None:
        sys.path.insert(0, folder)
    if not hasattr(typing, "override"):  # Python 3.11; torch needs typing_extensions itself
        setattr(typing, "override", importlib.import_module("typing_extensions").override)  # noqa: B010
    sys.meta_path.insert(0, _Finder)
    try:
        return importlib.import_module("megatron.training.arguments")
    except ModuleNotFoundError as error:
        where = folder or sys.executable
        if str(error.name).partition(".")[0] == "megatron":
            hint = "name a checkout of Megatron-LM, or install megatron-core 0.17 or newer (older ones lack the parser)"
            raise ExtractError(f"{where} has no {error.name}; {hint}") from None
        raise ExtractError(f"Megatron in {where} needs {error.name}, which {sys.executable} lacks") from None


def parser(arguments: Any) -> argparse.ArgumentParser:
    """Megatron's own parser, with the flags of no particular training script."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    arguments.add_megatron_arguments(made)
    return made


def table(made: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """One row per dest, in the parser's order. Raises ExtractError for what it has no word for."""
    groups = {id(action): group.title for group in made._action_groups for action in group._group_actions}
    rows: dict[str, dict[str, Any]] = {}
    for action in made._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        row = {"dest": action.dest, **_row(action), "group": groups.get(id(action)) or "", "help": _help(action)}
        first = rows.setdefault(action.dest, row)
        if first is not row:  # argparse takes the default of the first
            first["help"] = first["help"] or row["help"]
            of_values = [first["kind"], row["kind"]] == ["store", "store"]
            if of_values and all(first[key] == row[key] for key in ("type", "nargs", "choices")):
                first["flags"] += row["flags"]  # one argument by two names
                continue
            if {first["kind"], row["kind"]} != {"store_true", "store_false"}:
                raise ExtractError(f"{action.dest}: two actions that do not make one switch")
            first |= {"kind": "switch", "flags": first["flags"] + row["flags"], "off": first["off"] + row["off"]}
    return list(rows.values())


def _help(action: argparse.Action) -> str:
    """What the parser says of an argument, on one line; '' if it says nothing.

    Some of Megatron's texts hold a single `%`, at which argparse itself would fail. Until Python 3.13, argparse adds
    the default to the text of a switch.
    """
    if not action.help or action.help == argparse.SUPPRESS:
        return ""
    text = action.help.removesuffix(" (default: %(default)s)").replace("%(default)s", str(action.default))
    return " ".join(text.replace("%%", "%").split())


def _row(action: argparse.Action) -> dict[str, Any]:
    flags = list(action.option_strings)
    row: dict[str, Any] = {"kind": "store", "flags": flags, "off": [], "type": "bool", "nargs": None, "choices": None}
    row["default"] = _plain(action.default, action.dest)
    match action:
        case argparse._StoreTrueAction():
            return row | {"kind": "store_true"}
        case argparse._StoreFalseAction():
            return row | {"kind": "store_false", "flags": [], "off": flags}
        case argparse.BooleanOptionalAction():
            off = [flag for flag in flags if flag.startswith("--no-")]
            return row | {"kind": "switch", "flags": [flag for flag in flags if flag not in off], "off": off}
        case argparse._StoreAction():
            word, choices = _type(action)
            return row | {"type": word, "nargs": action.nargs, "choices": choices}
    raise ExtractError(f"{action.dest}: {type(action).__name__} is an action that this program does not know")


def _type(action: argparse.Action) -> tuple[str, list[Any] | None]:
    """A word for what the values are, and what they may be."""
    choices = None if action.choices is None else list(action.choices)
    if choices and isinstance(choices[0], enum.Enum):
        return "name", _names(type(choices[0]))
    if action.type is None:
        return "str", choices
    if action.type in (int, float, str, bool):
        return str(getattr(action.type, "__name__", "")), choices
    code = getattr(action.type, "__code__", None)
    word = str(getattr(action.type, "__name__", "str"))
    if code is not None and word not in WORDS:
        # a function that looks its text up in an Enum, after a set of words that it lets through
        enums = [action.type.__globals__.get(name) for name in code.co_names]  # type: ignore[union-attr]
        found = [name for kind in enums if isinstance(kind, enum.EnumMeta) for name in _names(kind)]
        others = sorted(word for words in code.co_consts if isinstance(words, frozenset) for word in words)
        if found:
            return "name", [*found, *(name for name in others if name not in found)]
    return WORDS.get(word, word), choices


def _names(kind: Iterable[Any]) -> list[str]:
    return list(LINUX_SIGNALS) if kind is signal.Signals else [member.name for member in kind]


def _plain(value: Any, dest: str) -> Any:
    """A default as JSON: names of Enums, lists for tuples, sorted lists for sets."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, set | frozenset):
        return sorted(_plain(item, dest) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item, dest) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ExtractError(f"{dest}: its default is a {type(value).__name__}")


def main(argv: Sequence[str]) -> int:
    """See this module's docstring."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # some modules of Megatron print while they are loaded
            rows = table(parser(load(argv[0] if argv else None)))
    except ExtractError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    json.dump(rows, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.path[:] = [folder for folder in sys.path if folder != __file__.rpartition("/")[0]]  # our modules are no library
    sys.exit(main(sys.argv[1:]))
