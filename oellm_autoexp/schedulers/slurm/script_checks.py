"""What SLURM would refuse in a script before it is submitted: by its options, its limits, its nodes, and a test run."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping

from oellm_autoexp.core.errors import Problem, SchedulerError
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import did_you_mean
from oellm_autoexp.sbatch import known_options
from oellm_autoexp.sbatch.directives import options
from oellm_autoexp.schedulers import site_limits
from oellm_autoexp.schedulers.site import Site
from oellm_autoexp.schedulers.slurm.commands import Commands
from oellm_autoexp.schedulers.slurm.error_messages import advice, is_unclear, message
from oellm_autoexp.schedulers.slurm.sbatch_call import exclusion, options_in_environment, submission_environment

_PLAIN_PATH = re.compile(r"[A-Za-z0-9._+=@,:%/-]+")
_log = logging.getLogger(__name__)


def script_problems(commands: Commands, scripts: Mapping[str, str], site: Site, *, test: bool) -> list[Problem]:
    """What is wrong with scripts (path → text); with `test`, also what `sbatch --test-only` says of them."""
    help_text = commands.output_or_nothing([*commands.sbatch, "--help"])
    known = known_options.OPTIONS | known_options.options_in_help(help_text)
    problems: list[Problem] = []
    for path, text in scripts.items():
        problems += path_problems(commands, path)
        asked = options(text)
        problems += known_options.option_problems(asked, known, path)
        problems += site_limits.problems({**options_in_environment(), **asked}, site, path)
        problems += _node_problems(commands, asked, path)
    if test and not problems:
        problems = [problem for path in scripts for problem in _test_only(commands, path)]
    return problems


def path_problems(commands: Commands, path: str) -> list[Problem]:
    """Why a wrapper of sbatch (ssh) may not pass a path on: the shell behind it would split the path."""
    if not commands.sbatch_is_wrapped or _PLAIN_PATH.fullmatch(path):
        return []
    hint = "a path of letters, digits and . _ - + = @ , : % / only is passed on unchanged"
    return [Problem(f"{commands.sbatch[0]} may hand this path to a shell: {path}", CONFIG / "project.output_dir", hint)]


def _node_problems(commands: Commands, asked: Mapping[str, str], path: str) -> list[Problem]:
    """The nodes that a script names and the cluster does not have: sbatch refuses such a script."""
    lists = [asked[key] for key in ("exclude", "nodelist") if asked.get(key) and "/" not in asked[key]]
    if not lists:
        return []
    named = commands.output_or_nothing([*commands.scontrol, "show", "hostnames", ",".join(lists)]).split()
    known = commands.output_or_nothing([*commands.sinfo, "-a", "-h", "-N", "-o", "%N"]).split()
    unknown = dict.fromkeys(name for name in named if name not in set(known)) if known else {}
    return [Problem(f"there is no node '{name}'", path, did_you_mean(name, known)) for name in unknown]


def suits(commands: Commands, path: str, without: Collection[str]) -> bool:
    """Whether SLURM would accept a script that is kept from these nodes; False if it does not say so."""
    words = ["--test-only", exclusion(path, without), path]
    try:
        return commands.run([*commands.sbatch, *words], submission_environment(path)).returncode == 0
    except SchedulerError as error:
        _log.info("%s", error)
        return False


def _test_only(commands: Commands, path: str) -> list[Problem]:
    """What `sbatch --test-only` says of a script. A failure that says nothing about the script is no problem."""
    try:
        result = commands.run([*commands.sbatch, "--test-only", path], submission_environment(path))
    except SchedulerError as error:
        _log.info("%s", error)
        return []
    if result.returncode == 0 or is_unclear(result.stderr):
        return []
    words = message(result.stderr)
    return [Problem(f"sbatch --test-only: {words}", path, advice(words))]
