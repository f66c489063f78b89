"""What stands between a plan and its submission: a person's yes to what it may cost, and checks of its scripts."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of submission."""
    parser.add_argument("--yes", action="store_true", help="submit a plan over scheduler.max_gpu_hours without asking")
    parser.add_argument(
        "--check", action="store_true", help="also let SLURM judge one job of each kind first (sbatch --test-only)"
    )


def approve(manifest: Manifest, options: argparse.Namespace) -> None:
    """Return if a plan may be submitted; one that was begun before was approved then.

    Raises ConfigError: the plan is over its budget and nobody said yes, or its scripts fail their checks.
    """
    from oellm_autoexp.planning.budget import Budget
    from oellm_autoexp.schedulers.base import make_scheduler
    from oellm_autoexp.storage.session_files import SessionFiles
    from oellm_autoexp.submission.check import check

    begun = SessionFiles.of(manifest).path.exists()
    if begun and not options.check:
        return
    with_backoff(lambda: check(manifest, make_scheduler(manifest), test=options.check))
    excess = "" if begun or options.yes else Budget.of(manifest).excess
    if excess and not _agreed(excess):
        raise ConfigError(Problem(excess, CONFIG / "scheduler.max_gpu_hours", "to submit it anyway, add --yes"))


def _agreed(excess: str) -> bool:
    """Ask the person at the terminal, if there is one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    print(f"{excess}. Submit anyway? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
