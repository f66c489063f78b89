"""What all checks share: the arguments of a job, what is found wrong with them, values to offer instead. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

from oellm_autoexp.backends.base import Note
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG, Location

WHERE = CONFIG / "backend.megatron"
"""Where in a config the arguments are."""

Found = Iterator[Problem | Note]
"""What a check finds, one by one."""

_MOST_SHOWN = 6
_BATCHES = ("global_batch_size", "micro_batch_size", "eval_global_batch_size", "eval_micro_batch_size")


class JobArguments:
    """The values of a config, with Megatron's defaults behind them."""

    def __init__(
        self,
        values: Mapping[str, Any],
        default: Callable[[str], Any],
        world: int,
        environment: Mapping[str, str],
        read: dict[str, None],
        asked_for: dict[str, None],
        checks: tuple[Check, ...],
        trial: bool = False,
    ) -> None:
        """`read` and `asked_for` gather the dests whose values, or whether they are given, are looked at.

        `checks` are those that the values of a hint must pass; on a `trial` of such values hints are not made.
        """
        self._checks = checks
        self._trial = trial
        self._values = values
        self._default = default
        self._read = read
        self._asked_for = asked_for
        self.world = world
        self.environment = environment

    def __getitem__(self, dest: str) -> Any:
        self._read[dest] = None
        value = self._values.get(dest)
        return self._default(dest) if value is None else value

    def but(self, world: int | None = None, **values: int) -> JobArguments:
        """The same with other values, or on another number of ranks; to be looked at for problems alone."""
        world = self.world if world is None else world
        everything = {**self._values, **values}
        seen = self._read, self._asked_for
        return JobArguments(everything, self._default, world, self.environment, *seen, self._checks, trial=True)

    @cached_property
    def places(self) -> frozenset[Location]:
        """Where there is something wrong."""
        found = [item for check in self._checks for item in check(self if self._trial else self.but())]
        return frozenset(item.where for item in found if isinstance(item, Problem))

    def best(self, place: str, trials: Mapping[int, JobArguments]) -> list[int]:
        """Those of `trials` (value → what it comes to) that mend what is wrong at a dest's `place`.

        They do so without another problem elsewhere, but for batches, which are chosen last; and of what is wrong
        besides, none leaves more than the others.
        """
        if self._trial:  # where hints are not read
            return []
        mine, known = WHERE / place, self.places | {WHERE / dest for dest in _BATCHES}
        left = {value: len(trial.places) for value, trial in trials.items() if trial.places <= known - {mine}}
        return [value for value in left if left[value] == min(left.values())]

    def given(self, dest: str) -> bool:
        """Whether the config says something of it."""
        self._asked_for[dest] = None
        return self._values.get(dest) is not None

    def on(self, dest: str) -> bool:
        """A switch; a text that is given counts as on."""
        return bool(self[dest])

    def number(self, dest: str) -> Any:
        """A number (a whole one as int: `1e5` in YAML is a float); None for none, and for what is refused elsewhere."""
        value = self[dest]
        return _number(value) if type(value) in _NUMERIC else None

    def size(self, dest: str) -> int:
        """A degree of parallelism: at least 1."""
        value = self.number(dest)
        return value if isinstance(value, int) and value > 0 else 1

    @property
    def remat(self) -> int:
        """Into how many further shards a weight is cut (resolve_tensor_parallel_weight_shards)."""
        return max(1, self.size("tensor_parallel_num_weight_shards") // self.size("tensor_model_parallel_size"))

    @property
    def model_size(self) -> int:
        """How many ranks hold one copy of the model (A:415-428)."""
        names = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        return self.size(names[0]) * self.size(names[1]) * self.size(names[2]) * self.remat

    @property
    def data_parallel(self) -> int | None:
        """How many copies of the model there are, or None if that is no whole number (A:446)."""
        return None if self.world % self.model_size else self.world // self.model_size


Check = Callable[[JobArguments], Found]
"""What looks at the arguments of a job for one kind of mistake."""

_NUMERIC = {int, float, str}


@lru_cache(maxsize=4096, typed=True)  # jobs of a sweep share most values
def _number(value: int | float | str) -> int | float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, int):
        return value
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def by_pattern(arguments: JobArguments) -> bool:
    """Whether a pattern says which layers there are."""
    return arguments.given("hybrid_layer_pattern") or arguments.given("hybrid_override_pattern")  # A:721-731


def problem(dest: str, what: str, hint: str = "") -> Problem:
    """What Megatron would refuse of an argument, and how to mend it."""
    return Problem(what, WHERE / dest, hint)


def note(dest: str, text: str) -> Note:
    """What Megatron would take otherwise than it looks."""
    return Note(f"{dest}: {text[:24]}", f"backend.megatron.{dest}: {text}")


def divisors(number: int) -> list[int]:
    """All that divide a number, from 1 on."""
    return [size for size in range(1, number + 1) if number % size == 0]


def multiples(value: int, unit: int, less: int = 0) -> list[int]:
    """The multiples of `unit` next to `value`, each less by so many."""
    below = value // unit * unit
    return [number - less for number in (below, below + unit) if number > less]


def nearest(value: int, choices: Iterable[int]) -> str:
    """Those of `choices` that are nearest to `value`, in order."""
    shown = sorted(choices, key=lambda choice: (abs(choice - value), choice))[:_MOST_SHOWN]
    *words, last = map(str, sorted(shown))
    return f"{', '.join(words)} or {last}" if words else last


def mending(arguments: JobArguments, place: str, dest: str, near: int, choices: Iterable[int]) -> str:
    """`dest` with the values of it that would mend what is wrong at `place`, near to one; '' if none would."""
    trials = {value: arguments.but(**{dest: value}) for value in choices}
    fitting = arguments.best(place, trials)
    return f"{dest} {nearest(near, fitting)}" if fitting else ""


def take(*ways: str, otherwise: str = "change several of them together") -> str:
    """A hint of those ways out that there are."""
    there = [way for way in ways if way]
    return f"take {', or '.join(there)}" if there else otherwise
