"""What is noted of a plan as a likely mistake: signs of a shell, checkpoints of an earlier run, empty variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from oellm_autoexp import trust
from oellm_autoexp.errors import StateError
from oellm_autoexp.model import JobSpec
from oellm_autoexp.text import dotted, plural

_SIGNS = frozenset(("|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"))
_TRACKER = "latest_checkpointed_iteration.txt"
"""What Megatron-LM writes beside its checkpoints (get_checkpoint_tracker_filename, training/checkpointing.py)."""
_OF_VARIABLE = re.compile(r"^\$\{oc\.env:(\w+)\}/")


def notes(jobs: Sequence[JobSpec], config: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    """The notes on a plan's jobs and on the config that they were made of; files of checkpoints are looked at."""
    yield from _shell_signs(jobs)
    yield from _old_checkpoints(jobs)
    yield from _empty_variables(config, environment)


def _shell_signs(jobs: Sequence[JobSpec]) -> Iterator[str]:
    """A note for the words of a program that a shell would act on, and that are only words here."""
    found = {word: job.name for job in reversed(jobs) for word in _SIGNS.intersection(job.argv)}
    if found:
        signs = ", ".join(f"'{word}'" for word in sorted(found))
        name = next(iter(found.values()))
        yield (
            f"{signs} among the words of the program (job {name}): no shell reads them, the program gets them as they "
            "are; for a shell write backend.argv: [bash, -c, '… | …']"
        )


def _old_checkpoints(jobs: Sequence[JobSpec]) -> Iterator[str]:
    """A note where jobs would go on from checkpoints that an earlier run has left in their own `--save`."""
    found = [(job, iteration) for job in jobs if (iteration := _saved(job.argv))]
    if found:
        job, iteration = found[0]
        whose = "goes" if len(found) == 1 else "go"
        yield (
            f"{plural(len(found), 'job')} {whose} on from checkpoints of an earlier run (job {job.name}: iteration "
            f"{iteration} in {_after(job.argv, '--save')}); to begin anew, choose another project.output_dir"
        )


def _saved(argv: Sequence[str]) -> str:
    """The newest iteration in the folder that a program both loads from and saves to; '' where there is none."""
    folder = _after(argv, "--save")
    if not folder or _after(argv, "--load") != folder:
        return ""
    try:
        told = trust.read(Path(folder, _TRACKER), most=trust.SMALL, anyone=True).strip()
    except (OSError, StateError):
        return ""
    return told.decode() if told.isalnum() and told.isascii() else ""


def _after(argv: Sequence[str], option: str) -> str:
    """The word behind an option; '' where it is not there."""
    return next((word for before, word in pairwise(argv) if before == option), "")


def _empty_variables(config: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    """A note for each variable that is set and empty, and that a path of the config begins with."""
    empty = {name for name, value in environment.items() if not value}
    found: dict[str, str] = {}
    for key, value in dotted(config).items() if empty else ():
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and (begin := _OF_VARIABLE.match(text)) and begin[1] in empty:
                found.setdefault(begin[1], key)
    for name, key in found.items():
        yield f"the environment variable {name} is empty: what $.{key} names begins at the root of the file system"
