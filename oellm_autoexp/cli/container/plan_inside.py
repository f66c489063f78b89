"""What run_autoexp_container.py runs inside of an image: it plans there, and sends its plan to the program outside.

What only the outside knows (the command line, git's state, the image) it is sent first; what SLURM allows, and whether
jobs could run in their containers, it asks for (see container.dialogue).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.steps import app, plan_steps
from oellm_autoexp.containers.dialogue import Outside
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.submission import outside

if TYPE_CHECKING:
    from oellm_autoexp.planning.resolving.provenance import PlanContext


def parser() -> app.Parser:
    """The command's options."""
    made = app.Parser("Plan inside an image; run_autoexp_container.py calls this.", "", app.PLAN_EXIT_CODES)
    plan_steps.add_run_options(made)
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _go, argv)


def _go(options: argparse.Namespace) -> int:
    speech = Outside.of_this_process()
    try:
        speech.send_result(_plan(options, speech))
    except AutoexpError as error:
        speech.send_result(outside.problems_result(error))
    return app.OK


def _plan(options: argparse.Namespace, speech: Outside) -> dict[str, Any]:
    """Plan, and write the plan unless it is a dry run; what the outside gets of it."""
    made = plan_steps.plan(options, _context(speech.given), machine=outside.asked(speech))
    if options.dry_run:
        plan_steps.check_writable(made)
        return {
            "manifest": made.manifest.model_dump_json(),
            "path": str(made.manifest_path),
            "script": made.scripts[0],
            "notes": made.notes,
        }
    return {"path": str(plan_steps.write_plan(made, options.manifest)), "notes": made.notes}


def _context(given: dict[str, Any]) -> PlanContext:
    """The circumstances of the plan: those in here, but for what comes from the outside."""
    from oellm_autoexp.planning.resolving.provenance import gather
    from oellm_autoexp.storage.files import shipped

    image = {**given["image"], "shipped": str(shipped("config").parent)}
    same = {key: given[key] for key in ("git", "git_diff", "notes")}
    return replace(gather(given["command_line"]), **{**same, "notes": tuple(given["notes"]), "image": image})


if __name__ == "__main__":
    sys.exit(main())
