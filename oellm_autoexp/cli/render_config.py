"""render-config: print the composed config, as written or resolved, or that of one job; without secrets."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.text import printable_json

EXAMPLES = """\
  python scripts/render_config.py project=default
  python scripts/render_config.py project=default --resolve
  python scripts/render_config.py project=default --job 2"""


def parser() -> app.Parser:
    """The command's options."""
    made = app.Parser("Print the config that an experiment composes to, as YAML.", EXAMPLES, app.PLAN_EXIT_CODES)
    made.add_argument("--resolve", action="store_true", help="evaluate the interpolations (without the sweep's values)")
    made.add_argument("--job", metavar="N", type=app.whole_number(0, app.MANY), help="the config of job N, resolved")
    made.add_json()
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _render, argv)


def _render(options: argparse.Namespace) -> int:
    from pydantic_core import to_json

    from oellm_autoexp.config.hydra.yaml_rules import yaml_text
    from oellm_autoexp.config.loader import load
    from oellm_autoexp.core.redaction import redact, secret_texts
    from oellm_autoexp.core.text import escaped
    from oellm_autoexp.planning.make_plan import job_config
    from oellm_autoexp.planning.resolving.provenance import gather

    composed = load(app.source(options))
    resolved = options.job is not None or options.resolve
    tree = job_config(composed, gather(), options.job) if resolved else {**composed.base, "sweep": composed.sweep}
    tree = redact(tree, secrets=secret_texts(os.environ))
    if options.json:
        print(printable_json(to_json(tree, inf_nan_mode="strings").decode()))  # JSON has no inf
    else:
        sys.stdout.write(yaml_text(escaped(tree) if resolved else tree))
    return app.OK
