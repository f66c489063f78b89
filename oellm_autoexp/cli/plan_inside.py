"""What run_autoexp_container.py runs inside of an image: it plans there, and tells the program outside what it planned.

Its standard input is a JSON object of what only the outside knows: the command line, git's state and the image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from oellm_autoexp.cli import app, facts, steps


def parser() -> app.Parser:
    """The command's options."""
    made = app.Parser("Plan inside of an image; run_autoexp_container.py calls this.", "", app.PLAN_EXIT_CODES)
    steps.add_plan_options(made)
    made.add_argument("--dry-run", action="store_true", help="show the plan and the first script")
    made.add_json()
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _go, argv)


def _go(options: argparse.Namespace) -> int:
    return facts.in_json(options, lambda: _plan(options)) if options.dry_run else _plan(options)[0]


def _plan(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from oellm_autoexp.files import shipped
    from oellm_autoexp.workflow.provenance import gather

    outside = json.load(sys.stdin)
    around = replace(
        gather(outside["command_line"]),
        git=outside["git"],
        git_diff=outside["git_diff"],
        image={**outside["image"], "shipped": str(shipped("config").parent)},
    )
    made = steps.plan(options, around)
    if options.dry_run:
        steps.check_writable(made)
        code = steps.show_dry_run(made.manifest, made.scripts[0], made.notes)
        return code, facts.plan_facts(made.manifest, made.manifest_path)
    path = steps.write_plan(made, options.manifest)
    print(json.dumps({"manifest": str(path), "notes": made.notes}))
    return app.OK, {}


if __name__ == "__main__":
    sys.exit(main())
