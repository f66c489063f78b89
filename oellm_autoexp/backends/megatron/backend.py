"""Megatron-LM as a backend: its words, and what is wrong with them for so many ranks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from oellm_autoexp.backends.base import Command, Note, Probe, places, shape
from oellm_autoexp.backends.launch import Launch
from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.backends.megatron.checks.base import WHERE
from oellm_autoexp.backends.megatron.validation import Judge
from oellm_autoexp.backends.megatron.versions import fitting
from oellm_autoexp.config.schema import MegatronBackend, decode_section
from oellm_autoexp.errors import BackendError, Problem, raise_all

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


class MegatronCommand:
    """A `MegatronBackend` section as a Backend."""

    def __init__(self, section: MegatronBackend) -> None:
        self._section = section

    def command(self, config: Mapping[str, Any]) -> Command:
        """See Backend.command. Raises BackendError: unknown arguments, wrong values, what Megatron would refuse."""
        section = self._section
        given = section.megatron.copy()
        given.pop("aux", None)
        try:
            arguments = Arguments.of(section.version)
        except BackendError as error:
            raise BackendError(*(Problem(p.what, "$.backend.version", p.hint) for p in error.problems)) from None
        values, lacking = fitting(section.version, given)
        problems: list[Problem] = []
        words: list[str] = []
        try:
            words = arguments.argv(values, WHERE)
        except BackendError as error:
            problems += error.problems
        launch = Launch(section, decode_section("slurm", config["slurm"]))
        problems += launch.problems
        environment = launch.environment()
        notes: tuple[Note, ...] = (*launch.notes, *lacking)
        if section.checks != "none":
            verdict = _judge(section.version).verdict(arguments.by_dest(values), launch.world, environment)
            problems += _beside(verdict.problems, problems)
            notes = (
                *notes,
                *verdict.notes,
                *_signals(section),
                *(_repeated(words, section.extra_args) if section.extra_args else ()),
            )
        raise_all(BackendError, problems)
        probe = self._probe(words, launch.world, environment) if section.checks == "parser" else None
        argv = launch.argv("megatron", [section.script, *words, *section.extra_args])
        return Command(
            tuple(argv),
            launch.own_environment(),
            notes,
            (section.script,),
            version=section.version,
            probe=probe,
            places=places((*words, *section.extra_args), _PLACES),
            programs=launch.programs,
        )

    def _probe(self, words: Sequence[str], world: int, environment: Mapping[str, str]) -> Probe:
        section = self._section
        return Probe(
            program=(*section.python, str(PARSER), section.script),
            question={
                "argv": list(words),
                "extra": section.extra_args,
                "world": world,
                "environment": dict(environment),
            },
            shape=(
                str(world),
                *(f"{name}={value}" for name, value in sorted(environment.items())),
                *shape(words, _FREE),
                *shape(section.extra_args, _FREE),
            ),
            where=WHERE,
            help="this asks Megatron itself: plan where backend.python can import torch and backend.script is "
            "Megatron-LM's pretrain_gpt.py (git submodule update --init, or inside of the container), "
            "or set backend.validate=checks",
        )


@cache
def _judge(version: str) -> Judge:
    dests = Arguments.of(version).dests
    return Judge(lambda dest: dests[dest].default if dest in dests else None)


def _beside(found: Sequence[Problem], known: Sequence[Problem]) -> list[Problem]:
    """Those of `found` that are not about a value which is no value at all."""
    places = {problem.where for problem in known}
    return [problem for problem in found if problem.where not in places]


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
