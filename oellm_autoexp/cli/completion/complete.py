"""`oellm-autoexp _complete SHELL …`: what may stand at the cursor, a line each, for the functions of the shells.

Runs at each press of the Tab key: what is not needed for the words that are there is not imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from oellm_autoexp.cli.completion import config_words, session_words
from oellm_autoexp.cli.completion.command_line import FILES, Offer, lines, typed_words
from oellm_autoexp.core.commands import COMMANDS, default_state_dir

NAME = "_complete"


def main(argv: Sequence[str]) -> int:
    """Print the offers; returns the exit code 0."""
    shell, *arguments = argv
    *before, typed = typed_words(shell, arguments) or [""]
    offers = offered(before, typed)
    if offers is None:
        print(FILES)
        return 0
    for line in dict.fromkeys(lines(shell, typed, " ".join(arguments), list(offers))):
        print(line)
    return 0


def offered(before: Sequence[str], typed: str) -> Iterable[Offer] | None:
    """What may stand behind some words in place of what is typed; None: a file."""
    if not before:
        commands = [Offer(name, command.what) for name, command in COMMANDS.items()]
        return [*commands, Offer("--help"), Offer("--version")]
    if before[0] not in COMMANDS:
        return []
    line = _Line(import_module(COMMANDS[before[0]].module).parser(), tuple(before[1:]))
    option, equals, _ = typed.partition("=")
    if equals and (action := line.options.get(option)) is not None:
        values = line.values(action, typed.removeprefix(f"{option}="))
        return values and [Offer(f"{option}={each.text}", each.about, each.whole) for each in values]
    if line.before and (action := line.options.get(line.before[-1])) is not None and action.nargs != 0:
        return line.values(action, typed)
    return line.flags() if typed.startswith("-") else line.words(typed)


@dataclass(frozen=True)
class _Line:
    """A command's options, and the words behind its name."""

    parser: argparse.ArgumentParser
    before: tuple[str, ...]

    @property
    def options(self) -> dict[str, argparse.Action]:
        """The options by each of their names."""
        return self.parser._option_string_actions

    def flags(self) -> list[Offer]:
        """The options that are not there yet, by their long names."""
        offers = []
        for action in dict.fromkeys(self.options.values()):
            names = [name for name in action.option_strings if name.startswith("--")]
            repeated = isinstance(action, argparse._AppendAction)
            if names and (repeated or not any(self.given(name) for name in action.option_strings)):
                offers.append(
                    Offer(names[0], " ".join((action.help or "").replace("%(default)s", str(action.default)).split()))
                )
        return offers

    def given(self, option: str) -> list[str]:
        """The values of an option that are there already; [''] for a flag."""
        takes_value = self.options[option].nargs != 0
        pairs = pairwise((*self.before, ""))
        apart = [following if takes_value else "" for word, following in pairs if word == option]
        return apart + [word.removeprefix(f"{option}=") for word in self.before if word.startswith(f"{option}=")]

    def values(self, action: argparse.Action, typed: str) -> list[Offer] | None:
        """The values of an option; None: files."""
        if action.choices is not None:
            return [Offer(str(choice)) for choice in action.choices]
        match action.dest:
            case "config_ref":
                return (
                    [*config_words.experiments(typed, self._config_dirs)] if not typed.startswith((".", "/")) else None
                )
            case "override":
                return [*config_words.keys(typed)]
            case "session":
                return [*session_words.sessions(self._state_dir)]
            case "report" | "forgive":
                forgive = action.dest == "forgive"
                return [*session_words.nodes(self._state_dir, blamed=forgive), *([Offer("all")] if forgive else [])]
            case "job" if self._session:
                return [*session_words.jobs(self._state_dir, self._session)]
            case "queue_id" if self._session:
                return [*session_words.queue_ids(self._state_dir, self._session)]
            case "queue_event" if self._session:
                return [*session_words.queue_events(self._state_dir, self._session)]
        return None if action.type is Path else []

    def words(self, typed: str) -> list[Offer] | None:
        """Words that belong to no option: overrides, a session, a choice, the path of a manifest."""
        choices = [
            Offer(str(choice)) for action in self.parser._get_positional_actions() for choice in action.choices or ()
        ]
        if choices:
            return choices
        if "--session" in self.options and "try" not in self.given("--cmd") and not self.given("--log"):
            return [*session_words.sessions(self._state_dir)] if not self._session else []
        if "--config-ref" in self.options:
            return [*config_words.overrides(typed, self._config_dirs)]
        return None

    @property
    def _session(self) -> str:
        named = self.given("--session") if "--session" in self.options else []
        plain = [word for word in self.before if not word.startswith("-")]
        return named[0] if named else plain[0] if plain and plain[0] == self.before[0] else ""

    @property
    def _state_dir(self) -> Path:
        named = self.given("--monitoring-state-dir")
        return Path(named[0]).expanduser() if named and named[0] else default_state_dir()

    @property
    def _config_dirs(self) -> list[Path]:
        names = ("-C", "--config-dir") if "--config-dir" in self.options else ()
        return [Path(folder).expanduser() for name in names for folder in self.given(name) if folder]
