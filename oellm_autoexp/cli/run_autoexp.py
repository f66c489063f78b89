"""run: plan, submit and watch in one go."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from oellm_autoexp.cli.monitor import detach
from oellm_autoexp.cli.steps import app, approval, cancelled, facts, hints, plan_steps, session_steps, submit_steps

EXAMPLES = """\
  python scripts/run_autoexp.py project=default                    train a small sweep on this machine, now
  python scripts/run_autoexp.py project=default --dry-run          show the plan and the first script
  python scripts/run_autoexp.py project=default slurm=base         the same on a real SLURM
  python scripts/run_autoexp.py --config-ref experiments/YOURNAME/myexperiment slurm.sbatch.time=02:00:00"""


def parser() -> app.Parser:
    """The command's options."""
    made = app.Parser("Plan an experiment, submit its jobs, and watch them until they have ended.", EXAMPLES)
    plan_steps.add_run_options(made)
    approval.add_options(made)
    detach.add_option(made)
    made.add_json()
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _run, argv)


def _run(options: argparse.Namespace) -> int:
    return facts.in_json(options, lambda: _go(options))


def _go(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    detach.check(options)
    plan = plan_steps.plan(options)
    if options.dry_run:
        plan_steps.check_writable(plan)
        code = plan_steps.show_dry_run(plan.manifest, plan.scripts[0], plan.notes)
        return code, facts.plan_facts(plan.manifest, plan.manifest_path)
    detach.check(options, plan.manifest, plan.scripts[0])
    path = plan_steps.write_plan(plan, options.manifest)
    plan_steps.show_plan(plan, path)
    if options.no_submit:
        hints.show([f"submit and watch  {hints.command('submit', '--manifest', str(path))}"])
        return app.OK, facts.plan_facts(plan.manifest, path)
    approval.approve(plan.manifest, options)
    cancelled.see_to_their_end(plan.manifest)
    with session_steps.session(plan.manifest, path, patient=True) as monitor:
        code = submit_steps.submit_and_watch(monitor, watch=not options.no_monitor, detach=bool(options.detach))
    code = detach.hand_over(options, plan.manifest, path, code)
    return code, facts.recorded_facts(plan.manifest)
