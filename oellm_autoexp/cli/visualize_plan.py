"""visualize: show an experiment's stages, what is swept and what waits for what, before anything is submitted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, plan_steps, session_steps
from oellm_autoexp.core.errors import ConfigError, Problem

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest

EXAMPLES = """\
  python scripts/visualize_plan.py --config-ref experiments/my_experiment
  python scripts/visualize_plan.py --config-ref experiments/my_experiment --max-jobs-per-stage 5
  python scripts/visualize_plan.py --config-ref experiments/my_experiment --format mermaid backend.megatron.lr=1e-4
  python scripts/visualize_plan.py --config-ref experiments/my_experiment --format html -o plan.html
  python scripts/visualize_plan.py --manifest outputs/manifests/PLAN_ID.json"""


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
    made.add_argument(
        "--manifest", metavar="PATH", type=Path, help="draw the plan in this manifest, in place of one made now"
    )
    formats = ("text", "mermaid", "dot", "json", "html")
    made.add_argument("--format", choices=formats, default="text", help="default: text; html: one page with all jobs")
    made.add_argument("-o", "--output", metavar="FILE", type=Path, help="write it into a file instead")
    made.add_json()
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _visualize, argv)


def _visualize(options: argparse.Namespace) -> int:
    from oellm_autoexp.cli.reporting.exports import html, write
    from oellm_autoexp.report.document import Source
    from oellm_autoexp.view.graph import FORMATS, graph

    manifest = plan_steps.plan(options, judged=False).for_others if options.manifest is None else _written(options)
    kind = "json" if options.json else options.format
    drawn = graph(manifest, options.max_jobs_per_stage)
    text = html([Source(manifest)]) if kind == "html" else FORMATS[kind](drawn)
    if options.output is None:
        print(text, end="")
    else:
        app.note(f"wrote {write(options.output, text, '--output')}")
    return app.OK


def _written(options: argparse.Namespace) -> Manifest:
    """The plan in `--manifest`, without secrets; that its code has changed since is noted. Raises ConfigError."""
    from oellm_autoexp.planning.plan import for_others
    from oellm_autoexp.planning.resolving.provenance import changed_code

    if extra := [*options.overrides, *map(str, options.config_dirs)]:
        what = f"a plan that is written takes no config: {extra[0]}"
        raise ConfigError(Problem(what, "--manifest", "leave out either --manifest or the configuration"))
    manifest = session_steps.load_manifest(options.manifest)
    if changed := changed_code(manifest):
        app.note(f"note: {changed}", on_stderr=True)
    return for_others(manifest)
