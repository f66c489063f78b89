"""Whether Megatron-LM would take a set of arguments, and what it would silently make of them. Pure.

Megatron finds these mistakes one by one, and some of them only after the model is built on all GPUs. Here they are
found while planning, all at once, by the checks in `checks/`, a module for each topic. Rules that
are not repeated there are found only by Megatron's own parser (`validate: parser`). The type and the choices of one
value are checked in `arguments.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from oellm_autoexp.backends.base import Note
from oellm_autoexp.backends.megatron.checks.base import Check, JobArguments
from oellm_autoexp.backends.megatron.checks.batches import batches
from oellm_autoexp.backends.megatron.checks.checkpoints import asynchronous_saving, checkpoints, log_intervals
from oellm_autoexp.backends.megatron.checks.data import data
from oellm_autoexp.backends.megatron.checks.model import attention, lengths, required
from oellm_autoexp.backends.megatron.checks.obsolete import gone, silent
from oellm_autoexp.backends.megatron.checks.overlap import connections, overlap
from oellm_autoexp.backends.megatron.checks.parallelism import experts, megatron_fsdp, pipeline, ranks, torch_fsdp
from oellm_autoexp.backends.megatron.checks.precision import precision
from oellm_autoexp.backends.megatron.checks.recompute import recompute
from oellm_autoexp.backends.megatron.checks.schedule import duration, learning_rate, weight_decay
from oellm_autoexp.backends.megatron.checks.sizes import positive
from oellm_autoexp.core.errors import Problem

_CHECKS: tuple[Check, ...] = (
    positive,
    required,
    ranks,
    pipeline,
    experts,
    batches,
    attention,
    lengths,
    duration,
    learning_rate,
    weight_decay,
    checkpoints,
    asynchronous_saving,
    log_intervals,
    precision,
    overlap,
    recompute,
    torch_fsdp,
    megatron_fsdp,
    connections,
    data,
    gone,
    silent,
)
_MOST_KNOWN = 4096


@dataclass(frozen=True)
class Verdict:
    """What Megatron would refuse, and what it would take otherwise than it looks."""

    problems: tuple[Problem, ...]
    notes: tuple[Note, ...]


class Judge:
    """Checks the values of jobs; those of a sweep that agree in all that a check looks at get one verdict."""

    def __init__(self, default: Callable[[str], Any]) -> None:
        """`default` gives an argument's default, by its dest."""
        self._default = default
        self._read: dict[str, None] = {}
        self._asked_for: dict[str, None] = {}
        self._known: dict[Any, Verdict] = {}

    def verdict(self, values: Mapping[str, Any], world: int, environment: Mapping[str, str]) -> Verdict:
        """What is to be said of values (dest → value; null: as if not given) for a job of `world` ranks.

        `environment` is what the job exports. A value of a wrong type is left to whoever makes the words: checks that
        need it say nothing.
        """
        found = self._known.get(self._key(values, world, environment))
        if found is None:
            looked_at = len(self._read), len(self._asked_for)
            found = self._judged(values, world, environment)
            if looked_at != (len(self._read), len(self._asked_for)) or len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            if key := self._key(values, world, environment):
                self._known[key] = found
        return found

    def _key(self, values: Mapping[str, Any], world: int, environment: Mapping[str, str]) -> Any:
        """What the verdict depends on; None if it holds a list, which has no hash."""
        read = [*map(values.get, self._read)]
        given = [
            values.get(dest) is not None for dest in self._asked_for
        ]  # `save` differs in every job, but not in this
        key = world, *environment.items(), *read, *map(type, read), *given  # types, for 1, 1.0 and true are equal
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def _judged(self, values: Mapping[str, Any], world: int, environment: Mapping[str, str]) -> Verdict:
        arguments = JobArguments(values, self._default, world, environment, self._read, self._asked_for, _CHECKS)
        found = [item for check in _CHECKS for item in check(arguments)]
        problems = tuple(item for item in found if isinstance(item, Problem))
        return Verdict(problems, tuple(item for item in found if isinstance(item, Note)))
