"""generate-megatron-config: write the config with every argument of a version of Megatron-LM and its default."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from oellm_autoexp.cli.megatron import generate_megatron
from oellm_autoexp.cli.steps import app

PLACE = "config/backend/megatron"


def parser() -> app.Parser:
    """The command's options."""
    what = "Write the config with every argument of Megatron-LM and its default"
    return generate_megatron.parser(what, "generate_megatron_config", PLACE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _generate, argv)


def _generate(options: argparse.Namespace) -> int:
    from oellm_autoexp.backends.megatron.render import defaults

    name = options.name
    return generate_megatron.run(options, PLACE, lambda rows: {f"{name}.yaml": defaults(name, rows)})
