"""What a person may have meant by words that a command does not take, and what to write instead."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from oellm_autoexp.core.commands import COMMANDS
from oellm_autoexp.core.commands import command as typed
from oellm_autoexp.core.errors import ConfigError, Problem

_NO = "--no-"


def unknown_option(word: str, own: Iterable[str]) -> str:
    """What to write instead of an option that a command lacks; '' where nothing is known.

    An option that another command has is named with that command before a similar one of this command.
    """
    from oellm_autoexp.core.text import did_you_mean

    if word == "--monitor-only":
        return f"to watch a plan that was submitted: {typed('monitor')} --manifest PATH"
    if elsewhere := _commands_with(word):
        return f"{word} is an option of {' and '.join(elsewhere)}"
    opposite = [] if word.startswith("--no") else [name for name in own if name.startswith(_NO)]
    return did_you_mean(word, [name for name in own if name.startswith("--") and name not in opposite])


def _commands_with(option: str) -> list[str]:
    """The names of the commands that have an option of exactly this name."""
    found = []
    for name, command in COMMANDS.items():
        parser: ArgumentParser = import_module(command.module).parser()
        if option in parser._option_string_actions:
            found.append(name)
    return found


def option_as_key(overrides: Sequence[str], own: Iterable[str]) -> tuple[str, str] | None:
    """The first override that is an option of the command without its dashes (`config-ref=e1`), and what to write."""
    by_key = {name.removeprefix("--").replace("-", "_"): name for name in own if name.startswith("--")}
    for text in overrides:
        key, equals, value = text.partition("=")
        option = by_key.get(key.replace("-", "_"))
        if equals and option is not None:
            return f"{text}: {option} is an option, not a key of the config", f"write {option} {value}".rstrip()
    return None


def config_as_word(words: Sequence[str], folders: Iterable[Path]) -> tuple[str, str] | None:
    """The first word that is a config's file or name, and no override, and what to write; None where there is none."""
    named = [folder / within for folder in folders for within in ("", "experiments")]
    for word, following in zip(words, (*words, "")[1:], strict=True):
        if not word or is_override(word) or following.startswith("="):
            continue
        config = "" if Path(word).suffix not in (".yaml", ".yml") else word
        if not config and os.path.isfile(f"{word}.yaml"):  # noqa: PTH113  False where the name is too long
            config = os.path.join(".", f"{word}.yaml")  # noqa: PTH118  a Path would drop the `.`
        elif any(os.path.isfile(folder / f"{word}.yaml") for folder in named):  # noqa: PTH113
            config = word
        if config:
            return f"{word}: a config is no override", f"write --config-ref {shlex.quote(config)}"
    return None


def manifest_of(given: Path | None, words: Sequence[str]) -> Path:
    """The manifest that a command is to submit: that of `--manifest`, or its only word. Raises ConfigError."""
    if overrides := [word for word in words if is_override(word)]:
        raise ConfigError(
            Problem(
                "a manifest can't be changed", overrides[0], "give overrides to plan or run, which make a new manifest"
            )
        )
    paths = [*([given] if given else []), *map(Path, words)]
    if not paths:
        raise ConfigError(Problem("no manifest is given", hint="write --manifest PATH, as plan has printed it"))
    if len(paths) > 1:
        raise ConfigError(Problem(f"{len(paths)} manifests are given", hint="submit them one by one"))
    return paths[0]


def is_override(word: str) -> bool:
    """Whether a word is an override of Hydra's, and no name or path."""
    return "=" in word or word.startswith(("~", "+"))
