"""Conditions that the YAML can name: each a frozen record that looks at the world and says yes or no."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from oellm_autoexp.core.fields import TEXTS_IN_YAML, Count, Number, Scalar, Seconds, Section, Words, listed
from oellm_autoexp.core.redaction import redact_words
from oellm_autoexp.core.registry import Registry
from oellm_autoexp.core.states import MEANING, OURS
from oellm_autoexp.core.text import did_you_mean, shell
from oellm_autoexp.search.patterns import Pattern, scan


class Surroundings(Protocol):
    """What a condition may look at."""

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there; relative paths start from the job's working directory."""
        ...

    def count(self, pattern: str) -> int:
        """How many paths match a glob pattern."""
        ...

    def states(self, job: str) -> tuple[str, str]:
        """Our state of another job of the plan, and the scheduler's last word for it. Raises KeyError."""
        ...

    def attempt(self) -> int:
        """How many attempts the job has had, this one included."""
        ...

    def metadata(self, key: str) -> Any:
        """A value of the event or of the job. Raises KeyError."""
        ...

    def elapsed_seconds(self, since: str) -> float | None:
        """Seconds since the `event`, or since this attempt's `start` or `submit`; None: it has not been yet.

        Of a job that is not submitted yet: since it began to wait.
        """
        ...

    def cooldown_seconds(self) -> float | None:
        """Seconds since the action was last carried out for this job; None: never."""
        ...

    def answer(self, words: tuple[str, ...], interval_seconds: float) -> bool | None:
        """What a command that is asked beside us says; None: nothing yet."""
        ...

    def tail(self, path: str | None, length: int) -> str:
        """The last so many bytes of a file (None: the job's newest log) as text, '' if there is none."""
        ...

    def ended(self, job: str | None) -> bool:
        """Whether a job of the plan (None: the job itself) has ended for good, with no new attempt to come.

        Raises KeyError.
        """
        ...

    def writer(self, path: str) -> str:
        """The other job of the plan that writes a file or folder; '' if that is not known."""
        ...

    def dead_end(self, job: str) -> str:
        """Why another job of the plan has no success to come: `a has failed`, `a was cancelled`, `a is blocked`.

        '' if it may still succeed, or has succeeded. Raises KeyError.
        """
        ...


class Condition(Section):
    """One kind of condition, which `class_name` chooses.

    Whoever waits for it gives up after `timeout_seconds` (null: never, but see EventAction). Before an action,
    `blocking: true` waits for it; otherwise the action is skipped if it does not hold at once.
    """

    untemplated: ClassVar[frozenset[str]] = frozenset({"class_name"})
    timeout_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Whoever waits for the condition gives up after so many seconds; null: never, but see EventAction."""
    blocking: bool = False
    """Before an action, true waits for the condition; otherwise the action is skipped if it does not hold at once."""

    def holds(self, context: Surroundings) -> bool | None:
        """Whether it holds now; None: that is not known yet."""
        raise NotImplementedError

    def lost(self, context: Surroundings) -> bool:  # noqa: ARG002
        """Whether the condition, which does not hold now, can't come true any more."""
        return False

    def blocked_by(self, context: Surroundings) -> str:
        """Why the condition, which a job waits for to start, can't come true now; '' if it may, or if that is unknown.

        Unlike `lost`, this may change: a new attempt of another job, or a person, can make it possible again.
        """
        return f"{self} can no longer be fulfilled" if self.lost(context) else ""


def _written_by(context: Surroundings, path: str) -> str:
    """Why the job that writes a path will not write it; '' if it may, or if the job is not known."""
    name = context.writer(path)
    return context.dead_end(name) if name else ""


class FileExistsCondition(Condition):
    """A file or folder is there."""

    class_name: Literal["FileExistsCondition"]
    path: str

    def holds(self, context: Surroundings) -> bool:
        """Whether it is there now."""
        return context.exists(self.path)

    def blocked_by(self, context: Surroundings) -> str:
        """The job that writes it has no success to come; anyone may still put the file there."""
        return _written_by(context, self.path)

    def __str__(self) -> str:
        return f"FileExists: {self.path}"


class GlobExistsCondition(Condition):
    """At least `min_count` paths match a pattern; a `*` in a value that is filled in is that letter."""

    quoted: ClassVar[Mapping[str, Callable[[str], str]]] = {"pattern": glob.escape}
    class_name: Literal["GlobExistsCondition"]
    pattern: str
    min_count: int = Field(default=1, ge=1)

    def holds(self, context: Surroundings) -> bool:
        """Whether enough match now."""
        return context.count(self.pattern) >= self.min_count

    def blocked_by(self, context: Surroundings) -> str:
        """The job in whose output directory all matching paths are has no success to come."""
        return _written_by(context, _fixed_folder(self.pattern))

    def __str__(self) -> str:
        return f"GlobExists: {self.pattern}"


_LITERAL = re.compile(r"\[([*?[])\]")
"""A wildcard as glob.escape writes it, so that it stands for itself."""


def _fixed_folder(pattern: str) -> str:
    """The folder of a glob pattern, up to its first part with a wildcard."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if glob.has_magic(_LITERAL.sub("", part)):
            break
        parts.append(_LITERAL.sub(r"\1", part))
    return "/".join(parts)


_STATES = frozenset({*OURS, *(word.lower() for word in MEANING)})
"""SLURM's words (squeue(1), JOB STATE CODES) and ours, in lower case."""


def _known_states(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if word.lower() not in _STATES:
            raise ValueError(f"'{word}' is not a state: {did_you_mean(word.lower(), _STATES) or 'see squeue(1)'}")
    return words


class SlurmStateCondition(Condition):
    """Another job of the plan is in one of these states: SLURM's words (`FAILED`) or ours (`crash`)."""

    class_name: Literal["SlurmStateCondition"]
    job_name: str
    state: Annotated[tuple[str, ...], BeforeValidator(listed), AfterValidator(_known_states), TEXTS_IN_YAML]

    def holds(self, context: Surroundings) -> bool:
        """Whether the job is in one of the states now."""
        try:
            now = {word.lower() for word in context.states(self.job_name)}
        except KeyError:  # the plan has checked the names that stand there, not those that come with events
            return False
        return any(word.lower() in now for word in self.state)

    def lost(self, context: Surroundings) -> bool:
        """A job that has ended for good keeps its state, and a name that no job has will have none."""
        try:
            return context.ended(self.job_name)
        except KeyError:
            return True

    def blocked_by(self, context: Surroundings) -> str:
        """A job with no success to come keeps its state until it gets a new attempt."""
        try:
            return context.dead_end(self.job_name) or super().blocked_by(context)
        except KeyError:
            return super().blocked_by(context)

    def __str__(self) -> str:
        return f"SlurmState: {self.job_name} = {' or '.join(self.state)}"


class MetadataCondition(Condition):
    """A value of the event or of the job is as said; with nothing said of it, it is there.

    `equals`, `one_of` (or `within`) and `none_of` compare as text if the types differ, as what a log says is text.
    """

    untemplated: ClassVar[frozenset[str]] = frozenset({"class_name", "key"})
    looked_up: ClassVar[frozenset[str]] = frozenset({"key"})
    class_name: Literal["MetadataCondition"]
    key: str
    equals: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    within: tuple[Scalar, ...] | None = None
    none_of: tuple[Scalar, ...] = ()
    at_least: Number | None = None
    at_most: Number | None = None

    @property
    def compared(self) -> tuple[Scalar, ...]:
        """All that the value is compared with for equality."""
        equals = () if self.equals is None else (self.equals,)
        return (*equals, *(self.one_of or ()), *(self.within or ()), *self.none_of)

    def holds(self, context: Surroundings) -> bool:
        """Whether the value is as said."""
        try:
            value = context.metadata(self.key)
        except KeyError:
            return False
        one_of = self.one_of if self.within is None else (*(self.one_of or ()), *self.within)
        wanted = one_of if self.equals is None else (*(one_of or ()), self.equals)
        if wanted is not None and value not in wanted and str(value) not in map(str, wanted):
            return False
        if value in self.none_of or str(value) in map(str, self.none_of):
            return False
        if self.at_least is None and self.at_most is None:
            return True
        try:
            number = float(value)
        except (TypeError, ValueError):
            return False
        return (self.at_least is None or number >= self.at_least) and (self.at_most is None or number <= self.at_most)

    def lost(self, context: Surroundings) -> bool:
        """The values of a job that has ended for good do not change."""
        return context.ended(None)

    def __str__(self) -> str:
        said = self.model_dump(exclude_defaults=True, exclude={"class_name", "key", "blocking", "timeout_seconds"})
        return f"Metadata: {self.key} {', '.join(f'{name} {value}' for name, value in said.items()) or 'is there'}"


class MaxAttemptsCondition(Condition):
    """The job has had fewer attempts than this."""

    class_name: Literal["MaxAttemptsCondition"]
    max_attempts: Count = Field(ge=1)

    def holds(self, context: Surroundings) -> bool:
        """Whether one more attempt is within the limit."""
        return context.attempt() < self.max_attempts

    def lost(self, context: Surroundings) -> bool:  # noqa: ARG002
        """The number of attempts only grows."""
        return True

    def __str__(self) -> str:
        return f"MaxAttempts: {self.max_attempts}"


class ElapsedTimeCondition(Condition):
    """So many seconds have passed since the attempt's `start` or `submit`, or since the `event`.

    Where a job waits to be submitted (start and cancel conditions): since it began to wait.
    """

    class_name: Literal["ElapsedTimeCondition"]
    seconds: Seconds
    since: Literal["start", "submit", "event"] = "start"

    def holds(self, context: Surroundings) -> bool:
        """Whether the time is up."""
        elapsed = context.elapsed_seconds(self.since)
        return elapsed is not None and elapsed >= self.seconds

    def lost(self, context: Surroundings) -> bool:
        """A job that has ended for good and never began has no start to count from."""
        return context.elapsed_seconds(self.since) is None and context.ended(None)

    def __str__(self) -> str:
        return f"ElapsedTime: {self.seconds:g} s since {self.since}"


class CooldownCondition(Condition):
    """The action was not carried out for this job within the last so many seconds."""

    class_name: Literal["CooldownCondition"]
    seconds: Seconds

    def holds(self, context: Surroundings) -> bool:
        """Whether it is long enough ago."""
        ago = context.cooldown_seconds()
        return ago is None or ago >= self.seconds

    def __str__(self) -> str:
        return f"Cooldown: {self.seconds:g} s"


class CommandCondition(Condition):
    """A command exits with 0. It runs beside the monitor, again every `interval_seconds`; no shell runs it."""

    class_name: Literal["CommandCondition"]
    command: Words = Field(min_length=1)
    interval_seconds: Seconds = 60

    def holds(self, context: Surroundings) -> bool | None:
        """Whether it said yes; None while it has not answered."""
        return context.answer(self.command, self.interval_seconds)

    def __str__(self) -> str:
        return f"Command: {shell(redact_words(self.command))}"


class LogPatternCondition(Condition):
    """The end of a log (`path` or `log_path`; by default the job's own) holds a line with this pattern."""

    untemplated: ClassVar[frozenset[str]] = frozenset({"class_name", "pattern"})
    class_name: Literal["LogPatternCondition"]
    pattern: str = Field(min_length=1)
    pattern_type: Literal["regex", "substring"] = "regex"
    path: str | None = None
    log_path: str | None = None
    tail_bytes: Count = Field(default=1 << 20, ge=1)

    @model_validator(mode="after")
    def _compiles(self) -> LogPatternCondition:
        self._compiled()
        return self

    def _compiled(self) -> Pattern:
        try:
            return Pattern.of(self.pattern, substring=self.pattern_type == "substring")
        except re.error as error:
            raise ValueError(f"the pattern is no regular expression: {error}") from None

    def holds(self, context: Surroundings) -> bool:
        """Whether such a line is there now."""
        data = context.tail(self.path or self.log_path, self.tail_bytes).encode()
        return bool(scan(data, {"": self._compiled()}).matches)

    def blocked_by(self, context: Surroundings) -> str:
        """The job that writes the log has no success to come, and what it wrote was read."""
        path = self.path or self.log_path
        return _written_by(context, path) if path else ""

    def __str__(self) -> str:
        return f"LogPattern: {self.pattern}"


class AlwaysTrueCondition(Condition):
    """Holds."""

    class_name: Literal["AlwaysTrueCondition"]

    def holds(self, context: Surroundings) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def __str__(self) -> str:
        return "AlwaysTrue"


CONDITIONS = Registry(Condition, "oellm_autoexp.rules.conditions", "oellm_autoexp.conditions")
if TYPE_CHECKING:
    ConditionField = Condition
else:
    ConditionField = CONDITIONS.union()
