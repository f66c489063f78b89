"""The console script: `oellm-autoexp COMMAND …`, the same commands as the scripts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "run": ("run_autoexp", "plan, submit and watch in one go"),
    "run-container": ("run_autoexp_container", "plan inside of a container image, submit and watch here"),
    "plan": ("plan_autoexp", "expand the sweep, write scripts and the manifest"),
    "submit": ("submit_autoexp", "submit a manifest's jobs, each once, and watch them"),
    "monitor": ("monitor_autoexp", "watch or resume a session, look at sessions"),
    "run-sweep-entry": ("run_sweep_entry", "run one entry of a sweep in this terminal"),
    "visualize-plan": ("visualize_plan", "draw an experiment's stages and what waits for what"),
    "render-config": ("render_config", "print the composed config"),
    "check-cluster": ("check_cluster", "tell what is on this cluster, and try it with a job of a minute"),
    "generate-megatron-config": ("generate_megatron_config", "write the defaults of a version of Megatron-LM"),
    "generate-megatron-dataclass": ("generate_megatron_dataclass", "write the types and table of its arguments"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command by its name; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        from oellm_autoexp import __version__

        print(f"oellm-autoexp {__version__}")
        return 0
    if name not in COMMANDS:
        from oellm_autoexp.text import did_you_mean, printable

        what, hint = f"no command '{name}'", did_you_mean(name, COMMANDS)
        if "--json" in words:
            from oellm_autoexp.cli.app import problems_document
            from oellm_autoexp.errors import Problem

            print(problems_document([Problem(what, hint=hint)], 2))
        print(printable(f"error: {what}\n    {hint}"), file=sys.stderr)
        return 2
    code: int = import_module(f"oellm_autoexp.cli.{COMMANDS[name][0]}").main(rest)
    return code


def usage() -> str:
    """The list of commands."""
    rows = "\n".join(f"  {name:<28} {what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: oellm-autoexp COMMAND [options] [key=value …]\n\n"
        "Plan, submit, watch and resume sweeps of training jobs on SLURM clusters and laptops.\n\n"
        f"commands:\n{rows}\n\n"
        "Begin with:  oellm-autoexp run project=default\n"
        "Each command explains itself:  oellm-autoexp run --help"
    )
