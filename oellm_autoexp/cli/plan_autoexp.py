"""plan: compose the config, expand the sweep, write every script and the manifest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from oellm_autoexp.cli import app, steps

EXAMPLES = """\
  python scripts/plan_autoexp.py project=default
  python scripts/plan_autoexp.py --manifest outputs/manifests/demo.json project=default
  python scripts/plan_autoexp.py --config-ref experiments/YOURNAME/myexperiment slurm=base --array-subset 0,3-5"""


def parser() -> app.Parser:
    """The command's options."""
    what = "Plan every job of an experiment: expand the sweep, write scripts, provenance and the manifest."
    made = app.Parser(what, EXAMPLES, app.PLAN_EXIT_CODES)
    steps.add_plan_options(made)
    made.add_json()
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _plan, argv)


def _plan(options: argparse.Namespace) -> int:
    plan = steps.plan(options)
    path = steps.write_plan(plan, options.manifest)
    if options.json:
        facts = {
            "plan_id": plan.manifest.plan_id,
            "manifest": str(path),
            "jobs": [job.name for job in plan.manifest.jobs],
        }
        print(json.dumps(facts))
        return app.OK
    steps.show_plan(plan, path)
    given = options.manifest or path
    steps.show_hints([f"submit and watch  {steps.command('submit', '--manifest', str(given))}"])
    return app.OK
