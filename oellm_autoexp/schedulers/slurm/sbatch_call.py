"""How a submission calls sbatch: its words, its environment, and whether such a call still runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from oellm_autoexp.core.errors import StateError
from oellm_autoexp.core.nouns import Submission
from oellm_autoexp.sbatch.directives import options
from oellm_autoexp.sbatch.environment import SRUN_INPUTS
from oellm_autoexp.sbatch.options import node_union
from oellm_autoexp.schedulers.base import job_name, outside_jobs
from oellm_autoexp.schedulers.site import VARIABLES
from oellm_autoexp.schedulers.slurm.parse import COMMENT_PREFIX
from oellm_autoexp.storage import trust


def sbatch_arguments(submission: Submission) -> list[str]:
    """The arguments of sbatch; the comment and the end of the name hold the submission's token."""
    words = [
        "--parsable",
        f"--job-name={job_name(submission)}",
        f"--comment={COMMENT_PREFIX}{submission.token}",
    ]
    if submission.array:
        limit = f"%{submission.array_limit}" if submission.array_limit else ""
        words.append(f"--array={ranges(submission.array)}{limit}")
    if submission.dependency:
        # A job whose dependency can't be fulfilled any more would wait for ever.
        words += [f"--dependency={submission.dependency}", "--kill-on-invalid-dep=yes"]
    if submission.exclude:
        words.append(exclusion(submission.script_path, submission.exclude))
    return [*words, submission.script_path]


def exclusion(script_path: str, nodes: Collection[str]) -> str:
    """The option that excludes nodes, and those of the script: it takes the place of the script's directive."""
    return f"--exclude={node_union(_options_in(script_path).get('exclude', ''), nodes)}"


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def options_in_environment() -> dict[str, str]:
    """The options that the user has set by variables of sbatch (`SBATCH_ACCOUNT`), by option."""
    return {option: os.environ[name] for name, option in VARIABLES.items() if os.environ.get(name)}


def submission_environment(script_path: str) -> dict[str, str]:
    """The user's environment for sbatch, without the variables that would overrule options of the script.

    The job gets this environment, too (sbatch's --export); so variables that srun reads are left out as well.
    """
    in_script = _options_in(script_path)
    kept = {name for name, option in VARIABLES.items() if option not in in_script}
    return {
        name: value
        for name, value in outside_jobs(os.environ).items()
        if name in kept or not (name in SRUN_INPUTS or name.startswith(("SBATCH_", "SRUN_", "SLURM_CLUSTERS")))
    }


def _options_in(script_path: str) -> dict[str, str]:
    """The options of a script's directives; none of a script that can't be read, which sbatch will say."""
    try:
        return options(trust.read_script(Path(script_path)))
    except (OSError, StateError):
        return {}


def sbatch_runs(tokens: Iterable[str]) -> bool:
    """Whether an sbatch with one of these tokens runs on this machine: it outlives a submitter that is killed."""
    wanted = [f"{COMMENT_PREFIX}{token}".encode() for token in tokens]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if any(word in line for word in wanted):
                return True
    return False
