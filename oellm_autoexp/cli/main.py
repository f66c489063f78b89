"""The console script: `oellm-autoexp COMMAND …`, the same commands as the scripts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from oellm_autoexp.core.commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command by its name; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name, *rest = words
    if name == "_complete":  # for the functions that `completion` prints
        from oellm_autoexp.cli.completion import complete

        return complete.main(rest)
    if name == "--version":
        from oellm_autoexp import __version__

        print(f"oellm-autoexp {__version__}")
        return 0
    if name not in COMMANDS:
        from oellm_autoexp.core.text import did_you_mean, printable

        what, hint = f"no command '{name}'", did_you_mean(name, COMMANDS)
        if "--json" in words:
            from oellm_autoexp.cli.steps.app import problems_document
            from oellm_autoexp.core.errors import Problem

            print(problems_document([Problem(what, hint=hint)], 2))
        print(printable(f"error: {what}\n    {hint}"), file=sys.stderr)
        return 2
    code: int = import_module(COMMANDS[name].module).main(rest)
    return code


def usage() -> str:
    """The list of commands."""
    rows = "\n".join(f"  {name:<28} {command.what}" for name, command in COMMANDS.items())
    return (
        "usage: oellm-autoexp COMMAND [options] [key=value …]\n\n"
        "Plan, submit, watch and resume sweeps of training jobs on SLURM clusters and laptops.\n\n"
        f"commands:\n{rows}\n\n"
        "Begin with:  oellm-autoexp run project=default\n"
        "Each command explains itself:  oellm-autoexp run --help"
    )
