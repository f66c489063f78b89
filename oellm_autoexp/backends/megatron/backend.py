"""Megatron-LM as a backend: its words, and what is wrong with them for so many ranks. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from oellm_autoexp.backends.base import Command, Job, Note, Probe, places, shape
from oellm_autoexp.backends.launch import Launch, LaunchedBackend
from oellm_autoexp.backends.log_lines import MEGATRON_TRACKER, PRINTED
from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.backends.megatron.checks.base import WHERE
from oellm_autoexp.backends.megatron.validation import Judge
from oellm_autoexp.backends.megatron.versions import fitting
from oellm_autoexp.backends.megatron.work import work_of
from oellm_autoexp.core.errors import BackendError, Problem, raise_all
from oellm_autoexp.core.location import CONFIG

PARSER = Path(__file__).with_name("parser_check.py")
"""The program that asks Megatron itself; it needs Megatron and nothing of this package."""

_FREE = {
    *("--save", "--load", "--tensorboard-dir", "--data-cache-path", "--wandb-save-dir", "--wandb-exp-name"),
    *("--lr", "--min-lr"),
}
"""What differs between the jobs of any sweep, and has no bearing on what Megatron says: no check looks at these values
but for their presence, and what it demands of the rates is restated in checks/schedule.py (learning_rate)."""


_PLACES = {
    flag: f"backend.megatron.{flag.removeprefix('--').replace('-', '_')}"
    for flag in ("--save", "--tensorboard-dir", "--wandb-save-dir", "--non-persistent-global-ckpt-dir")
}
"""What Megatron writes to; a cache of the data (--data-cache-path) may be shared."""


_VERSION = re.compile(r"(?:(?:megatron[-_])?core[-_])?[vr]?(\d+)[._](\d+)(?:[._](\d+))?")


def _of_megatron(version: str) -> str:
    """`core_v0_14_0` for a version of Megatron-LM as its tags and packages spell it: `core_v0.14.0`, `0.14`."""
    found = _VERSION.fullmatch(version)
    return f"core_v{found[1]}_{found[2]}_{found[3] or 0}" if found else version


class MegatronBackend(LaunchedBackend):
    """Megatron-LM: its arguments below `megatron`, by their dests (megatron/training/arguments.py)."""

    own_keys = ("megatron",)
    class_name: Literal["MegatronBackend"]
    version: Annotated[str, AfterValidator(_of_megatron)] = "core_v0_19_0"
    """Whose table of arguments holds (oellm_autoexp/backends/megatron/generated)."""
    script: str
    """The training script, such as Megatron-LM's pretrain_gpt.py."""
    megatron: dict[str, Any] = {}
    """What is given to Megatron; `aux` in it holds values of the user's own, which are not."""
    checks: Literal["checks", "parser", "none"] = Field(default="checks", alias="validate")
    """What a plan is checked by: rules restated here, Megatron itself as well, or neither."""

    def sample_lines(self) -> tuple[str, ...]:
        """See Backend.sample_lines."""
        return PRINTED["megatron"]

    def command(self, job: Job) -> Command:
        """See Backend.command. Raises BackendError: unknown arguments, wrong values, what Megatron would refuse."""
        given = self.megatron.copy()
        given.pop("aux", None)
        try:
            arguments = Arguments.of(self.version)
        except BackendError as error:
            raise BackendError(*(Problem(p.what, CONFIG / "backend.version", p.hint) for p in error.problems)) from None
        fitted = fitting(self.version, given)
        values = fitted.values
        problems = [*fitted.problems]
        words: list[str] = []
        try:
            words = arguments.argv(values, WHERE)
        except BackendError as error:
            problems += error.problems
        launch = Launch(self, job.slurm)
        problems += launch.problems
        environment, dests = launch.environment(), arguments.by_dest(values)
        written = {} if dests is given else {**_spellings(arguments, values), **fitted.renamed}
        notes: tuple[Note, ...] = (*launch.notes, *fitted.notes)
        if self.checks != "none":
            verdict = _judge(self.version).verdict(dests, launch.world, environment)
            problems += _beside([_as_written(problem, written) for problem in verdict.problems], problems)
            notes = (
                *notes,
                *(_noted_as_written(note, written) for note in verdict.notes),
                *_signals(self),
                *(_repeated(words, self.extra_args) if self.extra_args else ()),
            )
        raise_all(BackendError, [_as_written(problem, fitted.renamed) for problem in problems])
        probe = self._probe(words, launch.world, environment) if self.checks == "parser" else None
        argv = launch.argv("megatron", [self.script, *words, *self.extra_args])
        folders = places(_PLACES, ("", words), ("backend.extra_args", self.extra_args))
        save = next((place.path for place in folders if place.key == _PLACES["--save"]), "")
        return Command(
            tuple(argv),
            launch.own_environment(),
            notes,
            (self.script,),
            version=self.version,
            probe=probe,
            places=folders,
            progress_file=f"{save}/{MEGATRON_TRACKER}" if save else "",
            programs=launch.programs,
            work=work_of(self.version, (*words, *self.extra_args), dests, _defaults(self.version), launch.world),
        )

    def _probe(self, words: Sequence[str], world: int, environment: Mapping[str, str]) -> Probe:
        return Probe(
            program=(*self.python, str(PARSER), self.script),
            question={
                "argv": list(words),
                "extra": self.extra_args,
                "world": world,
                "environment": dict(environment),
            },
            shape=(
                str(world),
                *(f"{name}={value}" for name, value in sorted(environment.items())),
                *shape(words, _FREE),
                *shape(self.extra_args, _FREE),
            ),
            where=WHERE,
            help="this asks Megatron itself: plan where backend.python can import torch and backend.script is "
            "Megatron-LM's pretrain_gpt.py (git submodule update --init, or inside of the container), "
            "or set backend.validate=checks",
        )


@cache
def _judge(version: str) -> Judge:
    return Judge(_defaults(version).get)


@cache
def _defaults(version: str) -> Mapping[str, Any]:
    """The defaults of this version's arguments, by dest."""
    return {dest: argument.default for dest, argument in Arguments.of(version).dests.items()}


def _beside(found: Sequence[Problem], known: Sequence[Problem]) -> list[Problem]:
    """Those of `found` that are not about a value which is no value at all."""
    places = {problem.where for problem in known}
    return [problem for problem in found if problem.where not in places]


def _spellings(arguments: Arguments, values: Mapping[str, Any]) -> dict[str, str]:
    """The keys that name an argument by a flag, by its dest."""
    named = {key: arguments.named(key) for key, value in values.items() if value is not None}
    return {argument.dest: key for key, argument in named.items() if argument and argument.dest != key}


def _as_written(problem: Problem, written: Mapping[str, str]) -> Problem:
    """A problem at the key of the config, which may spell a dest another way (dest → key)."""
    for dest, key in written.items():
        if problem.where == WHERE / dest:
            return replace(problem, where=WHERE / key)
    return problem


def _noted_as_written(note: Note, written: Mapping[str, str]) -> Note:
    """As `_as_written`, of a note, which begins with its key."""
    for dest, key in written.items():
        begin = f"{WHERE.key}.{dest}: "
        if note.text.startswith(begin):
            return replace(note, text=f"{WHERE.key}.{key}: {note.text.removeprefix(begin)}")
    return note


def _signals(section: MegatronBackend) -> list[Note]:
    if section.launch != "torchrun" or not section.megatron.get("exit_signal_handler"):
        return []
    text = "torchrun, which the signal reaches, gives its processes 30 s at most: too little to save in most cases"
    hint = "set exit_duration_in_mins, or backend.launch: srun"
    return [Note("exit_signal_handler", f"backend.megatron.exit_signal_handler: {text}; {hint}")]


def _repeated(words: Sequence[str], extra: Sequence[str]) -> list[Note]:
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    again = dict.fromkeys(flag for word in extra if (flag := word.partition("=")[0]) in flags)
    return [
        Note(f"extra_args {flag}", f"backend.extra_args: {flag} is given again, and the last one wins")
        for flag in again
    ]
