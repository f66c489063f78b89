"""What a backend is: from its section of a job's config to the words of a command."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.fields import Environment, Section
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.redaction import redact_words
from oellm_autoexp.core.registry import Registry
from oellm_autoexp.sbatch.section import SlurmOptions


@dataclass(frozen=True)
class Note:
    """Something that a person should know and that is no mistake. Of those `about` the same, a plan shows the first."""

    about: str
    text: str


@dataclass(frozen=True)
class Probe:
    """A question to the program itself: would it take these words? Asked once for each distinct `shape`.

    `shape` is all of the question that its answer may depend on. `program` is run once for many questions, which it
    reads as JSON lines from its standard input; it answers each by a line of JSON: a list of what is wrong. `where` is
    the place in the config, `help` what to do where it can't be run.
    """

    program: tuple[str, ...]
    question: Mapping[str, Any]
    shape: tuple[str, ...]
    where: Location
    help: str
    jobs: tuple[str, ...] = ()
    """The names of those that ask it, as far as they are to be shown."""


def shape(words: Iterable[str], free: Container[str]) -> Iterator[str]:
    """Words without the values of `free` flags, on which a program's checks do not depend. An empty value stays."""
    before = ""
    for word in words:
        flag, equals, value = word.partition("=")
        if before in free:
            yield "#"
        elif equals and value and flag in free:
            yield from (flag, "#")
        else:
            yield word
        before = word


@dataclass(frozen=True)
class Place:
    """A folder that a program writes to: its path, and the key that usually says so (`backend.megatron.save`)."""

    key: str
    path: str
    written: str
    """The key of the config that says so in this one."""


def places(keys: Mapping[str, str], *parts: tuple[str, Iterable[str]]) -> tuple[Place, ...]:
    """The places that a command line names, by the flags of `keys` (flag → key); the last one of a flag counts.

    Each part of the command line comes with the key that holds its words as they are (`backend.extra_args`); '' for
    words that were made of a key for each flag.
    """
    found: dict[str, Place] = {}
    for written, words in parts:
        before = ""
        for word in words:
            flag, equals, value = word.partition("=")
            if before in keys and not word.startswith("--"):
                found[keys[before]] = Place(keys[before], word, written or keys[before])
            elif equals and flag in keys:
                found[keys[flag]] = Place(keys[flag], value, written or keys[flag])
            before = word
    return tuple(place for place in found.values() if place.path)


_OPTION_AND_VALUE = re.compile(r"--?[A-Za-z][\w.-]*\s+\S.*", re.DOTALL)


def with_blanks(words: Iterable[str], where: Location) -> Iterator[Problem]:
    """Words such as `--lr 3e-4`, which no program reads as an option and its value.

    Secrets are shown as `***`; of a word such as `-p***`, whose secret may have blanks, nothing is said.
    """
    words = tuple(words)
    if not any(map(_OPTION_AND_VALUE.fullmatch, words)):
        return
    for index, shown in enumerate(redact_words(words)):
        if _OPTION_AND_VALUE.fullmatch(shown):
            several = ", ".join(f"'{part}'" for part in redact_words(tuple(shown.split())))
            yield Problem(f"'{shown}' is one word, with a blank in it", where / index, f"write several: {several}")


@dataclass(frozen=True)
class Work:
    """What a command has to do, and what decides how fast it does it."""

    shape: tuple[str, ...]
    """All that decides the speed beside `sizes`; without what does not (rates, seeds, paths, intervals)."""
    sizes: Mapping[str, float] = field(default_factory=dict)
    """Numbers by which times may be scaled to another job with the same `shape`, if both know their `flops`."""
    flops: float | None = None
    """Floating-point operations of one iteration."""
    iterations: int | None = None
    """The iteration at which it is done; None: it does not count in iterations."""
    save_interval: int | None = None
    start: int | None = None
    """The iteration after which it begins; None: that of the newest checkpoint in `load`."""
    load: str = ""


@dataclass(frozen=True)
class Command:
    """A program to run: its words (never a shell line) and what it needs in its environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    needs: tuple[str, ...] = ()
    """Files that it reads where it runs; one that is absent while planning is reported."""
    version: str = ""
    """The version of Megatron-LM that the first of `needs` is to be of (core_v0_19_0); '' for other programs."""
    probe: Probe | None = None
    env_defaults: Mapping[str, str] = field(default_factory=dict)
    """Variables that `slurm.env` and `env` override."""
    places: tuple[Place, ...] = ()
    """Where it writes, of what its arguments name: two jobs at once must not share one."""
    programs: tuple[str, ...] = ()
    """What must be in PATH where it runs; () the first word alone."""
    progress_file: str = ""
    """The file that begins with the iteration that the training has reached; '' if there is none."""
    work: Work | None = None
    """What it has to do; None: all of its words decide how fast it is."""


@dataclass(frozen=True)
class Job:
    """What a backend gets of a job: its whole resolved config, and how it is launched (its section `slurm`)."""

    config: Mapping[str, Any]
    slurm: SlurmOptions


class Backend(Section):
    """One kind of program to train with: the section `backend` of a config, which `class_name` chooses."""

    own_keys: ClassVar[tuple[str, ...]] = ()
    """Those of its keys that hold keys of the user's own, or such as it checks itself: a new one there needs no `+`."""
    templates: ClassVar[tuple[str, ...]] = ()
    """Those of its keys whose texts it fills as templates (`{key}`): braces of what `${…}` puts there come doubled."""
    env: Environment = {}
    """Variables of the program's environment."""

    def command(self, job: Job) -> Command:
        """The command of one job. Raises BackendError with everything that is wrong."""
        raise NotImplementedError

    def sample_lines(self) -> tuple[str, ...]:
        """Lines that the program is known to print; none where it is the user's own."""
        return ()


def own_sections(kind: type[Backend]) -> tuple[str, ...]:
    """The sections that a backend leaves open, as beginnings of dotted keys."""
    return tuple(f"backend.{key}." for key in kind.own_keys)


BACKENDS = Registry(Backend, "oellm_autoexp.backends", "oellm_autoexp.backends", inside="backend")
