"""generate-megatron-dataclass: write the typed class and the table of a version of Megatron-LM's arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from oellm_autoexp.cli.megatron import generate_megatron
from oellm_autoexp.cli.steps import app

PLACE = "oellm_autoexp/backends/megatron/generated"


def parser() -> app.Parser:
    """The command's options."""
    what = "Write the typed class of Megatron-LM's arguments, and the table from which commands are made"
    return generate_megatron.parser(what, "generate_megatron_dataclass", PLACE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _generate, argv)


def _generate(options: argparse.Namespace) -> int:
    from oellm_autoexp.backends.megatron.render import table, typed

    name = options.name
    return generate_megatron.run(
        options, PLACE, lambda rows: {f"{name}.py": typed(name, rows), f"{name}_table.py": table(name, rows)}
    )
