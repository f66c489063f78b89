"""What is noted of a plan as a likely mistake: signs of a shell, empty variables. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oellm_autoexp.model import JobSpec
from oellm_autoexp.text import dotted

_SIGNS = frozenset(("|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"))
_OF_VARIABLE = re.compile(r"^\$\{oc\.env:(\w+)\}/")


def notes(jobs: Sequence[JobSpec], config: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    """The notes on a plan's jobs and on the config that they were made of."""
    yield from _shell_signs(jobs)
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
