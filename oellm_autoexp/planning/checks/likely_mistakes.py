"""What is noted of a plan as a likely mistake: what no shell reads, empty variables, axes without effect. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oellm_autoexp.config.loader import Composed
from oellm_autoexp.config.values.expressions import is_constant
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.text import digest, dotted, plural
from oellm_autoexp.planning.resolving.trees import value_at
from oellm_autoexp.sbatch.shell_code import read_by_a_shell
from oellm_autoexp.sweep.oddities import filters, lists_beside_axes
from oellm_autoexp.sweep.paths import path_of

_SIGNS = frozenset(("|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"))
_FEW = 3
_OF_VARIABLE = re.compile(r"^\$\{oc\.env:(\w+)\}/")


_ATTACHED = re.compile(r"[^\s;]*;|(?:\d|&)?>>?\s*[\w./&-]+|<\s*[\w./-]+")
"""A sign of a shell with what it is about in one word: `x;`, `2>&1`, `>log`."""
_HOME = re.compile(r"^(?:--?[\w.-]+=)?~(?:/|$)")
_BRACES = re.compile(r"(?<![${\\])\{[A-Za-z_][\w-]*(?:\.[\w-]+)*\}(?!\})")
_OF_SLURM = re.compile(r"%[jJAaxNnstu]\b")


def notes(
    jobs: Sequence[JobSpec], config: Mapping[str, Any], environment: Mapping[str, str], scripts: Sequence[str] = ()
) -> Iterator[str]:
    """The notes on a plan's jobs, on their scripts and on the config that they were made of."""
    yield from _shell_signs(jobs)
    yield from _words_that_stay(jobs, config)
    yield from _same_programs(jobs, scripts)
    yield from _empty_variables(config, environment)


def of_sweep(composed: Composed) -> Iterator[str]:
    """The notes on a config's sweep."""
    for where, key in lists_beside_axes(composed.sweep):
        if not isinstance(value_at(composed.base, path_of(key)), list):
            place = composed.locations.of(where)
            yield f"{place}: {key} is one value, a list; to try its values one by one, move the key to params"
    for where, text in filters(composed.sweep):
        if "${" not in text and is_constant(text):
            place = composed.locations.of(where)
            yield f"{place}: the filter names no key of the config, so its result is the same for all jobs"


def _shell_signs(jobs: Sequence[JobSpec]) -> Iterator[str]:
    """A note for the words of a program that a shell would act on, and that are only words here."""
    found: dict[str, str] = {}
    words = {word for job in jobs for word in job.argv}
    signs = {word for word in words if word in _SIGNS or _ATTACHED.fullmatch(word)}
    for job in reversed(jobs if signs else ()):
        odd = [index for index, word in enumerate(job.argv) if word in signs]
        shells = read_by_a_shell(job.argv) if odd else set()
        found.update({job.argv[index]: job.name for index in odd if index not in shells})
    if found:
        shown = ", ".join(f"'{word}'" for word in sorted(found)[:_FEW])
        name = next(iter(found.values()))
        yield (
            f"{shown} among the arguments of the program (job {name}): no shell reads them, the program receives them "
            "unchanged; to use a shell write backend.argv: [bash, -c, '… | …']"
        )


_DOUBLED = re.compile(r"\{\{([^{}]*)\}\}")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a config."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _words_that_stay(jobs: Sequence[JobSpec], config: Mapping[str, Any]) -> Iterator[str]:
    """Notes for words of a program in which elsewhere a value is put in place of a part: `~/data`, `{stage}`, `%j`."""
    meant = {f"{{{inside}}}" for text in _texts(config) for inside in _DOUBLED.findall(text)}
    kinds = (
        (_HOME, "~", "the '~' in {word!r} stays text, as no shell reads it: write ${{oc.env:HOME}}"),
        (_BRACES, "{", "the braces in {word!r} stay text: ${{…}} is a value of the config"),
        (
            _OF_SLURM,
            "%",
            "{found!r} in {word!r} stays text: SLURM replaces it only in its own paths; $SLURM_JOB_ID is the job's id",
        ),
    )
    words = {word for job in jobs for word in job.argv}
    for pattern, sign, text in kinds:
        found: dict[str, str] = {}
        stays = {word for word in words if sign in word and not meant.issuperset(pattern.findall(word))}
        for job in jobs if stays else ():
            odd = [at for at, word in enumerate(job.argv) if word in stays]
            shells = read_by_a_shell(job.argv) if odd else set()
            for word in (job.argv[at] for at in odd if at not in shells):
                found.setdefault(text.format(word=word, found=pattern.findall(word)[0]), job.name)
        for text, name in [*found.items()][:_FEW]:
            yield f"{text} (job {name})"


_OF_THE_TOOL = frozenset(("stage", "job", "monitoring", "scheduler"))
_NAME = "\0"  # no script has this character
_NAME_ALONE = re.compile(rf"{_NAME}(?<![\w.{_NAME}-]{_NAME})(?![\w{_NAME}-])")
"""The mark of a job's name where it is no part of a longer word."""


def _same_programs(jobs: Sequence[JobSpec], scripts: Sequence[str]) -> Iterator[str]:
    """A note where jobs with other values have the same script but for their names: what differs reaches no program."""
    first: dict[str, JobSpec] = {}
    same: list[tuple[JobSpec, JobSpec]] = []
    if len({str(job.parameters) for job in jobs}) < 2:
        return
    for job, script in zip(jobs, scripts, strict=False):
        # one pattern for all names: to compile one for each took longer than all else here
        text = _NAME_ALONE.sub("", script.replace(job.output_dir, "").replace(job.name, _NAME)).replace(_NAME, job.name)
        other = first.setdefault(digest(text), job)
        if other is not job and _differing(job, other):
            same.append((job, other))
    if same:
        job, other = same[0]
        keys = sorted({key for pair in same for key in _differing(*pair)})
        yield (
            f"{len(same)} of {plural(len(jobs), 'job')} have the same arguments, environment and resources as another "
            f"(job {job.index} as job {other.index}): they differ only in {', '.join(keys[:_FEW])}, "
            "which is passed to no program"
        )


def _differing(job: JobSpec, other: JobSpec) -> list[str]:
    """The keys of two jobs' values that differ; none if what they are about is not only for programs to know."""
    mine, others = job.parameters, other.parameters
    keys = [key for key in {**mine, **others} if mine.get(key) != others.get(key)]
    about = {key: key.lstrip("+~").split(".")[0] for key in keys}
    return [] if _OF_THE_TOOL & {*about.values()} else [key for key in keys if about[key] != "project"]


def _empty_variables(config: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    """A note for each variable that is set and empty, and that a path of the config begins with."""
    empty = {name for name, value in environment.items() if not value}
    found: dict[str, str] = {}
    for key, value in dotted(config).items() if empty else ():
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and (begin := _OF_VARIABLE.match(text)) and begin[1] in empty:
                found.setdefault(begin[1], key)
    for name, key in found.items():
        yield f"the environment variable {name} is empty, so the path in $.{key} begins at the root of the file system"
