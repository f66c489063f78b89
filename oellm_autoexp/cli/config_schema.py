"""schema: print the JSON Schema of configs, by which editors complete, explain and check them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from oellm_autoexp.cli.steps import app

EXAMPLES = """\
  python scripts/config_schema.py > schema.json
  python scripts/config_schema.py --output config/schema.json
  python scripts/config_schema.py --config-dir my_configs --output my_configs/schema.json"""


def parser() -> app.Parser:
    """The command's options."""
    what = (
        "Print the JSON Schema of configs: sections, Megatron-LM's arguments, actions, conditions, sweeps; with the "
        "kinds of installed plugins. Files name it in a comment: # yaml-language-server: $schema=PATH"
    )
    made = app.Parser(what, EXAMPLES, app.PLAN_EXIT_CODES)
    made.add_argument("-o", "--output", metavar="FILE", type=Path, help="write it to a file")
    made.add_argument(
        "-C",
        "--config-dir",
        dest="config_dirs",
        metavar="DIR",
        action="append",
        type=Path,
        default=[],
        help="a folder of your own with configs, which are suggested in defaults lists; may be repeated",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _write, argv)


def _write(options: argparse.Namespace) -> int:
    from oellm_autoexp.cli.reporting.exports import write
    from oellm_autoexp.config.hydra.hydra_source import Search
    from oellm_autoexp.config.json_schema.documents import schema, text
    from oellm_autoexp.storage.files import shipped

    search = Search((*options.config_dirs, shipped("config")), ())
    made = text(schema({group: search.choices(group) for group in search.groups()}))
    if options.output is None:
        sys.stdout.write(made)
    else:
        write(options.output, made, "--output")
    return app.OK
