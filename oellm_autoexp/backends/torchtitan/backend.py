"""torchtitan as a backend: a config of its registry, and overrides as `--section.field value`. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from oellm_autoexp.backends.base import Command, Job, Probe, Work, places, shape
from oellm_autoexp.backends.command import count_of
from oellm_autoexp.backends.launch import Launch, LaunchedBackend
from oellm_autoexp.backends.log_lines import PRINTED
from oellm_autoexp.core.errors import BackendError, Problem, raise_all
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import dotted, scalar

PARSER = Path(__file__).with_name("parser_check.py")
"""The program that asks torchtitan's own parser; it needs torchtitan and nothing of this package."""

_WHERE = CONFIG / "backend.torchtitan"
_NAME = re.compile(r"[A-Za-z_][\w-]*")
_SAME_SPEED = re.compile(
    r"--(?:dump_folder|training\.steps|optimizer\.lr|lr_scheduler\..*|checkpoint\..*|no-checkpoint.*|metrics\..*"
    r"|validat(?:or|ion)\..*|.*\.seed|.*\.(?:dataset_path|\w*_folder|\w*_interval|\w*_freq))"
)
"""Fields whose values do not change the speed of a step."""


class TorchtitanBackend(LaunchedBackend):
    """torchtitan: a config of its registry, and what is overridden in it (torchtitan/config/manager.py)."""

    own_keys = ("torchtitan",)
    class_name: Literal["TorchtitanBackend"]
    launch: Literal["srun", "torchrun"] = "torchrun"
    """One torchrun per node, or one task per GPU, which reads its rank from SLURM's variables."""
    module: str
    """Whose configs: `llama3`, or a Python module of one's own."""
    config: str
    """The function of the module's config_registry that makes the config: `llama3_8b`."""
    torchtitan: dict[str, Any] = {}
    """What is overridden, by section and field; `aux` in it holds values of the user's own, which are not given."""
    checks: Literal["parser", "none"] = Field(default="none", alias="validate")
    """Whether a plan asks torchtitan's own parser. Its arguments depend on the config, so there is no table of them."""

    def sample_lines(self) -> tuple[str, ...]:
        """See Backend.sample_lines."""
        return PRINTED["torchtitan"]

    def command(self, job: Job) -> Command:
        """See Backend.command. Raises BackendError: what is not a field's name or value, a launch that can't be."""
        launch = Launch(self, job.slurm)
        problems = list(launch.problems)
        words = [f"--module={self.module}", f"--config={self.config}"]
        overridden = {key: value for key, value in self.torchtitan.items() if key != "aux"}
        words += _flags(overridden, (), problems)
        problems += [
            Problem("this is set twice", _WHERE / field, "write it once, as self.field or nested")
            for field, times in Counter(_fields(overridden, "")).items()
            if times > 1
        ]
        raise_all(BackendError, problems)
        written = places(
            {"--dump_folder": "backend.torchtitan.dump_folder"}, ("", words), ("backend.extra_args", self.extra_args)
        )
        words += self.extra_args
        probe = self._probe(words) if self.checks == "parser" else None
        argv = launch.argv("torchtitan", ["-m", "torchtitan.train", *words])
        environment = launch.own_environment()
        notes = tuple(launch.notes)
        return Command(
            tuple(argv),
            environment,
            notes,
            (),
            probe=probe,
            places=written,
            programs=launch.programs,
            work=self._work(words),
        )

    def _work(self, words: list[str]) -> Work:
        given = dotted(self.torchtitan)
        return Work(
            shape=("torchtitan", *(word for word in words if not _SAME_SPEED.fullmatch(word.partition("=")[0]))),
            iterations=count_of(given, "training.steps"),
            save_interval=count_of(given, "checkpoint.interval"),
        )

    def _probe(self, words: list[str]) -> Probe:
        return Probe(
            program=(*self.python, str(PARSER)),
            question={"argv": words},
            shape=tuple(shape(words, {"--dump_folder"})),  # its folder is each job's own
            where=_WHERE,
            help="this asks torchtitan's own parser: plan where backend.python can import torchtitan "
            "(inside of the container), or set backend.validate=none",
        )


def _flags(values: Mapping[str, Any], path: tuple[str, ...], problems: list[Problem]) -> Iterator[str]:
    """The words of a section's fields, as tyro takes them with the rules that config/manager.py adds."""
    for key, value in values.items():
        here = (*path, *str(key).split("."))
        where = _WHERE / ".".join(here)
        flag = f"--{'.'.join(here).replace('-', '_')}"
        if wrong := [part for part in here if not _NAME.fullmatch(part)]:
            problems.append(
                Problem(f"{wrong[0]!r} is not a field's name", where, "write section.field, as in training.steps")
            )
        elif isinstance(value, Mapping):
            yield from _flags(value, here, problems)
        elif value is False:
            section, dot, field = flag.rpartition(".")
            yield f"{section}{dot}no-{field}" if dot else f"--no-{flag.removeprefix('--')}"
        elif value is True:
            yield flag
        elif isinstance(value, list):
            yield from _list(flag, value, where, problems)
        elif value is not None:
            yield f"{flag}={scalar(value)}"


def _fields(values: Mapping[str, Any], section: str) -> Iterator[str]:
    """What is set, as section.field, however it is nested."""
    for key, value in values.items():
        field = f"{section}{key}".replace("-", "_")
        if isinstance(value, Mapping):
            yield from _fields(value, f"{field}.")
        elif value is not None:
            yield field


def _list(flag: str, items: list[Any], where: Location, problems: list[Problem]) -> Iterator[str]:
    """A list of texts is one word, with commas; one of anything else is a word for each item."""
    if any(isinstance(item, dict | list) or item is None for item in items):
        problems.append(Problem("a list here may contain only texts and numbers", where))
    elif items and all(isinstance(item, str) for item in items):
        if with_comma := [item for item in items if "," in item]:
            problems.append(Problem(f"{with_comma[0]!r} contains a comma, which separates the items of a list", where))
        yield f"{flag}={','.join(items)}"
    else:
        yield flag
        yield from map(scalar, items)
