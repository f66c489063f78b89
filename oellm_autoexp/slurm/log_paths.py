"""The paths of logs in sbatch's notation: `%j` and the like stand for what is known once a job has its id. Pure."""

from __future__ import annotations

import re

LOG_PATTERNS = ("%%", "%j", "%A", "%a")
"""The patterns of sbatch's --output that a log path may hold: those that are known as soon as the job has its id."""


def resolve_log_path(pattern: str, job: str) -> str:
    """`pattern` with %j, %A, %a replaced for job `12` or array task `12_3`, and %% by %."""
    base, _, task = job.partition("_")
    values = dict(zip(LOG_PATTERNS, ("%", job, base, task), strict=True))
    return re.sub("%[%jAa]", lambda match: values[match.group()], pattern)


def slurm_path(path: str) -> str:
    """A literal path for `--output`, where `%` begins a pattern."""
    return path.replace("%", "%%")
