"""What can go wrong, as one tree.

AutoexpError
├── ConfigError          the YAML, an override or an option is wrong               exit 2
│   └── SweepError       the sweep section is wrong
├── BackendError         the command to run can't be built from the config         exit 2
├── NotifyError          a message to people could not be sent                     exit 1
├── ExportError          results could not be handed to another program            exit 1
├── SchedulerError       the scheduler could not be reached or did not answer      exit 3
│   ├── UnreachableError its commands could not be run: certainly nothing was submitted
│   │   └── MissingCommandError     they are not on this machine
│   └── SubmitError      the scheduler answered and refused the submission
│       ├── InvalidSubmissionError  independent of its load: the submission itself is wrong
│       └── TooManyJobsError        it accepts no more jobs, or no array of this size, now
└── StateError           a file of ours (manifest, session) can't be used          exit 2
    ├── LockedError      another process uses it
    ├── UnwritableError  it can't be written just now: a full disk, a quota, a file system that is away
    └── CorruptError     it does not parse, or is newer than this program
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from oellm_autoexp.core.location import NOWHERE, Location

_LONGEST_MESSAGE = 200
_VALUES = re.compile(r"'[^']*'|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, init=False)
class Problem:
    """One mistake: what is wrong, where, and what would be right.

    `about` is the key that is missing, where that is another place than `where`; `job` is the index of the first job
    that has it.
    """

    what: str
    where: Location = NOWHERE
    hint: str = ""
    about: Location = field(default=NOWHERE, compare=False)
    job: int | None = field(default=None, compare=False)

    def __init__(
        self,
        what: str,
        where: Location | str = NOWHERE,
        hint: str = "",
        about: Location = NOWHERE,
        job: int | None = None,
    ) -> None:
        """A `where` that is text is shown as it is: most are a path, an override, an option or a name at hand."""
        place = Location(text=where) if isinstance(where, str) else where
        vars(self).update(what=what, where=place, hint=hint, about=about, job=job)

    @property
    def kind(self) -> tuple[Location, str]:
        """Equal for mistakes of one kind at one place, although jobs with different values word them differently."""
        return self.where, _VALUES.sub("…", self.what)

    def __str__(self) -> str:
        return f"{self.sentence}\n    {self.hint}" if self.hint else self.sentence

    @property
    def sentence(self) -> str:
        """What is wrong, and where, without the hint, in one line also where a file's name has several."""
        where = str(self.where).replace("\n", "\\n").replace("\r", "\\r")
        return f"{where}: {self.what}" if where else self.what


class AutoexpError(Exception):
    """A mistake or a situation that is reported in one clear message, without a traceback.

    Holds every problem found in one go, so that a person can correct them all at once.
    """

    exit_code = 2

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(p if isinstance(p, Problem) else Problem(p) for p in problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class ConfigError(AutoexpError):
    """The configuration, an override or a command line option is wrong."""


class SweepError(ConfigError):
    """The sweep section does not say a valid set of points."""


class BackendError(AutoexpError):
    """The backend can't make a command from its section."""


class NotifyError(AutoexpError):
    """A message to people could not be sent. Its words hold no secret."""

    exit_code = 1


class ExportError(AutoexpError):
    """Results could not be handed to another program. Its words hold no secret."""

    exit_code = 1


class SchedulerError(AutoexpError):
    """The scheduler could not be reached or gave no usable answer. Says nothing about any job."""

    exit_code = 3


class UnreachableError(SchedulerError):
    """The scheduler's commands are missing or not configured here. Certainly nothing was submitted."""


class MissingCommandError(UnreachableError):
    """A command of the scheduler is not on this machine."""


class SubmitError(SchedulerError):
    """The scheduler answered, and refused the submission."""


class InvalidSubmissionError(SubmitError):
    """The scheduler refused for a reason that does not pass by itself: an unknown partition or node."""


class TooManyJobsError(SubmitError):
    """The scheduler accepts no more jobs of this user now, or no array of this size."""


class StateError(AutoexpError):
    """A file that holds state can't be used."""


class LockedError(StateError):
    """Another process holds what is needed."""


class UnwritableError(StateError):
    """A state file can't be written just now: a full disk, a quota, a file system that is away."""


class CorruptError(StateError):
    """A state file does not parse, or was written by a newer version."""


def unforeseen(error: BaseException) -> tuple[str, str, str]:
    """An unforeseen exception's kind, where it was raised (`loop.py:12 in look`), and the first line of its message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{PurePath(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else "?"
    return type(error).__name__, place, (str(error).splitlines() or [""])[0][:_LONGEST_MESSAGE]


def raise_all(kind: type[AutoexpError], problems: Iterable[Problem]) -> None:
    """Raise one `kind` with all `problems`, or return if there are none."""
    found = tuple(problems)
    if found:
        raise kind(*found)


def of_each_kind(problems: Iterable[Problem], most: int) -> list[Problem]:
    """At most `most` problems of each kind; the last one of a kind says how many more there are.

    Where jobs have one of a kind with hints of their own, each hint says which job it is right for.
    """
    kinds: dict[tuple[Location, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    shown = []
    for alike in kinds.values():
        differ = len({problem.hint for problem in alike}) > 1
        shown += [_for_its_job(problem) if differ else problem for problem in alike[:most]]
        if (more := len(alike) - most) > 0:
            shown[-1] = replace(shown[-1], what=f"{shown[-1].what} (and {more} more like this, with other values)")
    return shown


def _for_its_job(problem: Problem) -> Problem:
    """A problem whose hint is marked as an example for its job."""
    if problem.job is None or not problem.hint:
        return problem
    return replace(problem, hint=f"for job {problem.job}, for example: {problem.hint}")


class Collector:
    """Collects the problems of steps that do not depend on each other, so that they are raised together.

    Only mistakes of the user (ConfigError, BackendError) are collected; other errors end the step and the collection.
    """

    def __init__(self) -> None:
        self._found: dict[Problem, type[AutoexpError]] = {}

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run one step and collect its problems."""
        try:
            yield
        except (ConfigError, BackendError) as error:
            self.add(error.problems, type(error))

    def add(self, problems: Iterable[Problem], kind: type[AutoexpError] = ConfigError) -> None:
        """Keep these problems, each once."""
        for problem in problems:
            self._found.setdefault(problem, kind)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def kinds(self) -> int:
        """The number of different kinds of problems found."""
        return len({problem.kind for problem in self._found})

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems found, in order."""
        return tuple(self._found)

    def raise_all(self) -> None:
        """Raise everything found as one error, of the kind that all have in common; return if there is nothing."""
        kinds = set(self._found.values())
        if kinds:
            raise (kinds.pop() if len(kinds) == 1 else ConfigError)(*self._found)
