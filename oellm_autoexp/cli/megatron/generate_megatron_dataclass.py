"""generate-megatron-dataclass: write the typed class, the table and the help texts of Megatron-LM's arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from oellm_autoexp.cli.megatron import generate_megatron
from oellm_autoexp.cli.steps import app

PLACE = "oellm_autoexp/backends/megatron/generated"


def parser() -> app.Parser:
    """The command's options."""
    what = (
        "Write the typed class of Megatron-LM's arguments, the table from which commands are made, and the help texts"
    )
    return generate_megatron.parser(what, "generate_megatron_dataclass", PLACE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _generate, argv)


def _generate(options: argparse.Namespace) -> int:
    from oellm_autoexp.backends.megatron.render import help_texts, table, typed

    name = options.name

    def made(rows: list[Any]) -> dict[str, str]:
        texts = {"": typed(name, rows), "_table": table(name, rows), "_help": help_texts(name, rows)}
        return {f"{name}{suffix}.py": text for suffix, text in texts.items()}

    return generate_megatron.run(options, PLACE, made)
