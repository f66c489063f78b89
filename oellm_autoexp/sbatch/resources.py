"""The resources that a job asks for: nodes, GPUs, tasks and time. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from oellm_autoexp.core.errors import Collector, ConfigError, Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import scalar
from oellm_autoexp.sbatch.directives import DIRECTIVE, SECTION
from oellm_autoexp.sbatch.options import long_name, options_in
from oellm_autoexp.sbatch.times import automatic, parse_time

_DIGITS = 9
_EXTRA = CONFIG / "slurm.sbatch_extra_directives"
_KEYS = frozenset(
    """
    gpus gpus_per_node gpus_per_socket gpus_per_task gres nodes ntasks ntasks_per_node sockets_per_node time
    tres_per_task
    """.split()  # noqa: SIM905
)
_KNOWN = 256  # sections; the jobs of a sweep have few different ones


class _Section:
    """What asks for resources, equal to what asks for the same ones in the same words (1 and true are not the same)."""

    def __init__(self, sbatch: Mapping[str, Any], extra: Sequence[str]) -> None:
        self.sbatch = {key: value for key, value in sbatch.items() if long_name(key) in _KEYS}
        self.extra = tuple(extra)
        self._words = repr((self.sbatch, self.extra))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Section) and self._words == other._words

    def __hash__(self) -> int:
        return hash(self._words)


def resources(sbatch: Mapping[str, Any], extra: Sequence[str] = ()) -> tuple[int, int, int | None]:
    """Nodes, GPUs over all nodes, and time limit in seconds that a section asks for (None: no limit).

    `extra` are directives that override it. Counts `--gpus`, `--gpus-per-node`, `--gpus-per-task`, `--gpus-per-socket`,
    `--gres=gpu…` and `--tres-per-task=gres/gpu…`; without `--nodes`, as many nodes as tasks or GPUs need at least
    (sbatch(1)). Raises ConfigError.
    """
    return _resources(_Section(sbatch, extra))


@lru_cache(_KNOWN)
def _resources(section: _Section) -> tuple[int, int, int | None]:
    asked = _Asked(section.sbatch, section.extra)
    tasks, tasks_per_node = asked.count("ntasks"), asked.count("ntasks_per_node")
    all_gpus, gpus_per_node = asked.gpus("gpus"), asked.gpus("gpus_per_node") or asked.gpus("gres")
    nodes = asked.count("nodes") or max(1, _over(tasks, tasks_per_node), _over(all_gpus, gpus_per_node))
    sockets = nodes * (asked.count("sockets_per_node") or 1)
    gpus = (
        all_gpus
        or nodes * gpus_per_node
        or (tasks or nodes * (tasks_per_node or 1)) * (asked.gpus("gpus_per_task") or asked.gpus("tres_per_task"))
        or sockets * asked.gpus("gpus_per_socket")
    )
    return nodes, gpus, asked.time()


def resource_problems(sbatch: Mapping[str, Any], extra: Sequence[str] = ()) -> tuple[Problem, ...]:
    """All mistakes in the resources of a section; `resources` raises the first."""
    asked, found = _Asked(sbatch, extra), Collector()
    for key in ("ntasks", "ntasks_per_node", "nodes", "sockets_per_node"):
        with found.step():
            asked.count(key)
    for key in ("gpus", "gpus_per_node", "gres", "gpus_per_task", "tres_per_task", "gpus_per_socket"):
        with found.step():
            asked.gpus(key)
    with found.step():
        asked.time()
    return found.problems


def tasks(sbatch: Mapping[str, Any], extra: Sequence[str] = ()) -> int | None:
    """The tasks over all nodes that a section asks for, as `resources`; None if it does not say. Raises ConfigError."""
    return _tasks(_Section(sbatch, extra))


@lru_cache(_KNOWN)
def _tasks(section: _Section) -> int | None:
    asked = _Asked(section.sbatch, section.extra)
    per_node = asked.count("ntasks_per_node")
    return asked.count("ntasks") or (_resources(section)[0] * per_node if per_node else None)


def _over(total: int, each: int) -> int:
    """How many units are needed if each holds so many; 0 if that is not known."""
    return -(-total // each) if each else 0


_SHOWN = 40  # characters of a wrong value in a message


class _Asked:
    """The options of a section and of further directives, by the long names of options."""

    def __init__(self, sbatch: Mapping[str, Any], extra: Sequence[str]) -> None:
        self._found: dict[str, Any] = {}
        self._places: dict[str, tuple[Location, str | int]] = {}
        for key, value in sbatch.items():
            if value is not None and value is not False:
                self._set(long_name(key), value, SECTION, key)
        for index, line in enumerate(extra):
            for key, value in options_in(line.removeprefix(DIRECTIVE)):
                self._set(key, value, _EXTRA, index)

    def _set(self, key: str, value: Any, section: Location, part: str | int) -> None:
        self._found[key], self._places[key] = value, (section, part)

    def _where(self, key: str) -> Location:
        """Where an option stands; asked only for those that are wrong, as there are many, of each job."""
        section, part = self._places[key]
        return section / part

    def count(self, key: str) -> int:
        """The largest number of `4`, `2-4` or `1,4-8`; 0 if the option is not there. Raises ConfigError."""
        if key not in self._found:
            return 0
        value = self._found[key]
        if not re.fullmatch(r"\d{1,9}(?:[-,]\d{1,9})*", scalar(value), re.ASCII):  # SLURM counts with 32 bits
            raise ConfigError(Problem(f"{scalar(value)[:60]!r} is not a number that sbatch takes", self._where(key)))
        found = max(int(part) for part in re.findall(r"\d+", str(value)))
        if found == 0 and key in ("nodes", "ntasks"):
            raise ConfigError(Problem(f"a job has at least one of {key}, not {scalar(value)}", self._where(key)))
        return found

    def gpus(self, key: str) -> int:
        """The GPUs of `4`, `a100:4`, `a100:2,h100:2`, or among others `gpu:a100:4,nvme:1`; 0 without the option."""
        if key not in self._found:
            return 0
        value = self._found[key]
        parts = value if isinstance(value, list) else scalar(value).split(",")
        words = [scalar(part).strip().removeprefix("gres/").replace("=", ":").split("(")[0] for part in parts]
        if key in ("gres", "tres_per_task"):
            words = [word.removeprefix("gpu").lstrip(":") for word in words if re.match(r"gpu(?::|$)", word)]
        numbers = [word.rsplit(":", 1)[-1] for word in words]
        if too_long := [number for number in numbers if number.isdecimal() and len(number) > _DIGITS]:
            raise ConfigError(Problem(f"{too_long[0][:60]!r} is not a number that sbatch takes", self._where(key)))
        return sum(int(number) if number.isdecimal() else 1 for number in numbers)

    def time(self) -> int | None:
        """The time limit in seconds; None also for one that is still to be found (`auto`). Raises ConfigError."""
        value = self._found.get("time")
        try:
            return None if value is None or automatic(value) else parse_time(scalar(value))
        except ConfigError as error:
            raise ConfigError(*(Problem(p.what, self._where("time"), p.hint) for p in error.problems)) from None
