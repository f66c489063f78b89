"""The paths of logs in SLURM's notation: `%j` and the like stand for numbers that are known once a job runs. Pure."""

from __future__ import annotations

import re
from glob import escape

from oellm_autoexp.core.text import Raw, shell

LOG_PATTERNS = ("%%", "%j", "%A", "%a")
"""The patterns of sbatch's --output that a log path may hold: those that are known as soon as the job has its id."""
_NO_TASK = "4294967294"
"""The number that SLURM writes for %a if the job is no array task (NO_VAL in slurm.h; measured on 22.05)."""


def resolve_log_path(pattern: str, job: str) -> str:
    """`pattern` with %j, %A, %a replaced for job `12` or array task `12_3`, and %% by %."""
    base, _, task = job.partition("_")
    values = dict(zip(LOG_PATTERNS, ("%", job, base, task or _NO_TASK), strict=True))
    return re.sub("%[%jAa]", lambda match: values[match.group()], pattern)


_VARIABLES: dict[str, str | Raw] = {
    "%%": "%",
    "%j": Raw('"${SLURM_JOB_ID-}"'),
    "%A": Raw('"${SLURM_ARRAY_JOB_ID-${SLURM_JOB_ID-}}"'),
    "%a": Raw(f'"${{SLURM_ARRAY_TASK_ID-{_NO_TASK}}}"'),
}


def log_word(pattern: str) -> str:
    """`pattern` as a word of the job's script, with SLURM's variables in place of the numbers."""
    parts = re.split("(%[%jAa])", pattern)
    return "".join(shell([_VARIABLES.get(part, part)]) for part in parts if part)


def slurm_path(path: str) -> str:
    """A plain path as a value of `--output`: each `%`, which would begin a pattern, is doubled."""
    return path.replace("%", "%%")


_PATTERN = re.compile(r"%(\d*)([a-zA-Z%])")
_NUMBERS = frozenset("tns")
_OF_ATTEMPT = frozenset("jJA")


def stream_problem(pattern: str) -> str:
    """Why the files of `--error` or `--output` could be mixed up with those of other jobs; '' if they can't."""
    folder, _, name = pattern.rpartition("/")
    if "\\" in pattern:
        return "a backslash switches SLURM's patterns off"
    if any(kind != "%" for _, kind in _PATTERN.findall(folder)):
        return "a pattern is in the name of a folder, which SLURM does not create"
    if not any(kind in _OF_ATTEMPT for _, kind in _PATTERN.findall(name)):
        return "the file's name has no %j, so jobs and attempts would share it"
    return ""


def stream_files(pattern: str, job: str) -> tuple[str, str]:
    """Where the files of `pattern` are for job `12` or array task `12_3`: their folder, and their names as glob(7).

    There is one for each task, node or step. An array task's own number (%j) is not its id; `*` stands for it.
    """
    base, _, task = job.partition("_")
    known = {"%": "%", "A": base, "a": task or _NO_TASK, **({} if task else {"j": base, "J": f"{base}."})}

    def files(match: re.Match[str]) -> str:
        kind = match[2]
        return known.get(kind, "[0-9]*" if kind in _NUMBERS else "*") + ("*" if kind == "J" and not task else "")

    folder, _, name = pattern.rpartition("/")
    parts = re.split(r"(%\d*[a-zA-Z%])", name)
    names = (_PATTERN.sub(files, part) if index % 2 else escape(part) for index, part in enumerate(parts))
    return folder.replace("%%", "%"), "".join(names)
