"""visualize: show an experiment's stages, what is swept and what waits for what, before anything is submitted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from oellm_autoexp.cli.steps import app, plan_steps

EXAMPLES = """\
  python scripts/visualize_plan.py --config-ref experiments/my_experiment
  python scripts/visualize_plan.py --config-ref experiments/my_experiment --max-jobs-per-stage 5
  python scripts/visualize_plan.py --config-ref experiments/my_experiment --format mermaid backend.megatron.lr=1e-4"""


def parser() -> app.Parser:
    """The command's options."""
    what = "Draw the plan of an experiment: stages, swept values, start and cancel conditions."
    made = app.Parser(what, EXAMPLES, app.PLAN_EXIT_CODES)
    made.add_argument(
        "--max-jobs-per-stage",
        metavar="N",
        type=app.whole_number(0, app.MANY),
        default=0,
        help="list up to N jobs of each stage",
    )
    made.add_argument("--format", choices=("text", "mermaid", "dot", "json"), default="text", help="default: text")
    made.add_json()
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _visualize, argv)


def _visualize(options: argparse.Namespace) -> int:
    from oellm_autoexp.view.graph import FORMATS, graph

    plan = plan_steps.plan(options, judged=False)
    draw = FORMATS["json" if options.json else options.format]
    print(draw(graph(plan.manifest, options.max_jobs_per_stage)), end="")
    return app.OK
