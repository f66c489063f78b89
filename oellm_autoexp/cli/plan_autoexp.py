"""plan: compose the config, expand the sweep, write every script and the manifest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from oellm_autoexp.cli.steps import app, facts, hints, plan_steps

EXAMPLES = """\
  python scripts/plan_autoexp.py project=default
  python scripts/plan_autoexp.py --manifest outputs/manifests/demo.json project=default
  python scripts/plan_autoexp.py --config-ref experiments/YOURNAME/myexperiment slurm=base --array-subset 0,3-5"""


def parser() -> app.Parser:
    """The command's options."""
    what = "Plan every job of an experiment: expand the sweep, write scripts, provenance and the manifest."
    made = app.Parser(what, EXAMPLES, app.PLAN_EXIT_CODES)
    plan_steps.add_plan_options(made)
    made.add_json()
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _plan, argv)


def _plan(options: argparse.Namespace) -> int:
    return facts.in_json(options, lambda: _write(options))


def _write(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    plan = plan_steps.plan(options)
    path = plan_steps.write_plan(plan, options.manifest)
    plan_steps.show_plan(plan, path)
    hints.show([f"submit and watch  {hints.command('submit', '--manifest', str(options.manifest or path))}"])
    return app.OK, facts.plan_facts(plan.manifest, path)
