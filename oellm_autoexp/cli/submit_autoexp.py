"""submit: hand a plan's jobs to the scheduler, each once, and watch them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oellm_autoexp.cli.monitor import detach
from oellm_autoexp.cli.steps import app, approval, cancelled, facts, misuse, plan_steps, session_steps, submit_steps

EXAMPLES = """\
  python scripts/submit_autoexp.py --manifest outputs/manifests/demo.json
  python scripts/submit_autoexp.py --manifest outputs/manifests/demo.json --no-monitor
  python scripts/submit_autoexp.py --manifest outputs/manifests/demo.json --dry-run
  python scripts/submit_autoexp.py --manifest outputs/manifests/demo.json --detach local

Submitting a manifest again goes on where an earlier submission stopped; nothing is submitted twice."""


def parser() -> app.Parser:
    """The command's options."""
    made = app.Parser(
        "Submit the jobs of a manifest, each exactly once, and watch them until they have ended.", EXAMPLES
    )
    made.add_argument("--manifest", metavar="PATH", type=Path, help="the manifest that plan wrote")
    made.add_argument("words", nargs="*", metavar="PATH", help="the same, without the option's name")
    made.add_argument("--no-monitor", action="store_true", help="submit and return at once")
    made.add_argument("--dry-run", action="store_true", help="show what would be submitted, and submit nothing")
    approval.add_options(made)
    detach.add_option(made)
    made.add_json()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _submit, argv)


def _submit(options: argparse.Namespace) -> int:
    return facts.in_json(options, lambda: _go(options))


def _go(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from oellm_autoexp.planning.resolving.provenance import changed_code

    options.manifest = misuse.manifest_of(options.manifest, options.words)
    manifest = session_steps.load_manifest(options.manifest)
    if changed := changed_code(manifest):
        app.note(f"note: {changed}", on_stderr=options.json)
    if options.dry_run:
        code = plan_steps.show_dry_run(manifest, plan_steps.read_script(manifest))
        return code, facts.plan_facts(manifest, options.manifest)
    detach.check(options, manifest)
    approval.approve(manifest, options)
    cancelled.see_to_their_end(manifest)
    with session_steps.session(manifest, options.manifest, patient=True) as monitor:
        code = submit_steps.submit_and_watch(monitor, watch=not options.no_monitor, detach=bool(options.detach))
    code = detach.hand_over(options, manifest, options.manifest, code)
    return code, facts.recorded_facts(manifest)
