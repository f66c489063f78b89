"""The backend for any program: `argv`, then `options` as flags; `{dotted.key}` in a word is a value of the config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from oellm_autoexp.backends.base import Backend, Command, Job, Note, Work, places, with_blanks
from oellm_autoexp.backends.log_lines import PRINTED
from oellm_autoexp.core.errors import BackendError, Problem, raise_all
from oellm_autoexp.core.fields import Flags, Words
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import did_you_mean, dotted, fill, scalar

_ENV_DEFAULTS = {"PYTHONUNBUFFERED": "1"}
"""Into a file Python writes blocks of 8 KiB: a program with few words would look as if it hung (python(1), -u)."""


_PLACES = {"--save": "backend.options.save"}
"""What the programs that stand in for Megatron write to; nobody knows what the options of others mean."""
_SAME_SPEED = re.compile(
    r"(?:min_|max_)?(?:lr|learning_rate)(?:_.*)?|.*weight_decay|seed|.*_seed"
    r"|save|load|name|.*_(?:name|dir|path|file|interval|every)|(?:tensorboard|wandb)_.*"
)
"""Options whose values decide in no program how fast it is."""
_LENGTHS = {"megatron": "train_iters", "torchtitan": "training.steps"}
"""The option that says how many iterations there are, of programs whose log lines count them."""


_UNUSED = Note(
    "backend.megatron",
    "backend.megatron is used by nothing: backend.argv, backend.options and backend.env hold none of its values; "
    "to train with Megatron-LM, choose backend=megatron",
)


class CommandBackend(Backend):
    """Any program: its words, then its options as `--name value`."""

    templates = ("argv",)
    class_name: Literal["CommandBackend"]
    argv: Words = ()
    """The program's words, or one text that is split into words. `{dotted.key}` in a word is a value of this config."""
    megatron: dict[str, Any] = {}
    """Values under Megatron's names, for programs that stand in for it; `options` picks from them."""
    options: Flags = {}
    """Options after `argv`: each becomes `--name value`, true the bare flag; null none."""
    option_style: Literal["dashes", "as_written"] = "as_written"
    """Whether the option of `learning_rate` is `--learning-rate` or `--learning_rate`."""
    prints: Literal["megatron", "torchtitan"] | None = None
    """Whose lines the program's log has: rules for logs are tried on them when planning."""
    same_speed: tuple[str, ...] = ()
    """Further options whose values do not change how fast the program is, beside rates, seeds, paths and intervals."""

    def sample_lines(self) -> tuple[str, ...]:
        """See Backend.sample_lines: those of the program that `prints` names, or that `megatron` stands in for."""
        return PRINTED[self._program] if self._program else ()

    @property
    def _program(self) -> str:
        """Whose log lines the program prints; '' for its own."""
        return self.prints or ("megatron" if self.megatron else "")

    def command(self, job: Job) -> Command:
        """See Backend.command. Raises BackendError: no program named, or `{key}` that the config lacks."""
        if not self.argv:
            hint = "set backend.argv, choose a backend (backend=NAME), or try project=default"
            raise BackendError(Problem("no program to run", CONFIG / "backend.argv", hint))
        problems: list[Problem] = []
        values: dict[str, Any] = {}

        def filled(template: str, where: Location) -> str:
            if "{" not in template and "}" not in template:
                return template
            if not values:
                values.update(dotted(job.config))

            def look_up(key: str) -> Any:
                value = values.get(key)
                if key not in values:
                    hint = did_you_mean(key, values) or "write {{ and }} for braces that are meant as such"
                    problems.append(Problem(f"no value {{{key}}} in the config", where, hint))
                elif isinstance(value, list | dict):
                    problems.append(Problem(f"{{{key}}} is not one value", where, f"it is {value!r}"))
                return value

            return fill(template, look_up)

        argv = [filled(word, CONFIG / "backend.argv" / index) for index, word in enumerate(self.argv)]
        work = self._work(argv)
        dashes = self.option_style == "dashes"
        problems += _wrong_names(self.options, dashes=dashes)
        options: list[str] = []
        for name, value in self.options.items():
            options += flag(name.replace("_", "-") if dashes else name, value)
        raise_all(BackendError, problems)
        named = places(_PLACES, ("backend.argv", argv), ("", options))
        written = tuple(place for place in named if "/" in place.path)
        blanks = (Note(problem.what, str(problem)) for problem in with_blanks(argv, CONFIG / "backend.argv"))
        argv += options
        notes = (*blanks, *((_UNUSED,) if self._lacks_megatron(argv) else ()))
        return Command(tuple(argv), self.env, notes, env_defaults=_ENV_DEFAULTS, places=written, work=work)

    def _lacks_megatron(self, argv: Iterable[str]) -> bool:
        """Whether there are values under Megatron's names, and the program gets none of them."""
        if not self.megatron or self.options:
            return False
        given = [*argv, *self.env.values()]
        return not any(scalar(value) in text for value in dotted(self.megatron).values() for text in given)

    def _work(self, argv: Iterable[str]) -> Work:
        """What a program has to do whose options these are."""
        options = {name.replace("-", "_"): value for name, value in self.options.items()}
        length = _LENGTHS.get(self._program, "")
        same = {length, *(name.replace("-", "_") for name in self.same_speed)}
        deciding = {key: value for key, value in options.items() if key not in same and not _SAME_SPEED.fullmatch(key)}
        return Work(
            shape=(*argv, *(word for key in sorted(deciding) for word in flag(key, deciding[key]))),
            iterations=count_of(options, length),
            save_interval=count_of(options, "save_interval"),
            load=str(options.get("load") or ""),
        )


def count_of(values: Mapping[str, Any], key: str) -> int | None:
    """A value that is a whole number above 0; None for any other, and without one."""
    value = values.get(key)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and value == value // 1
    return int(value) if whole and value is not None else None


_NAME = re.compile(r"[^\W_][^\s=]*|_[^\s=]+")


def _wrong_names(options: Iterable[str], *, dashes: bool) -> Iterator[Problem]:
    """Names that are no option's, and two that one program would take for the same."""
    where = CONFIG / "backend.options"
    known: dict[str, str] = {}
    for name in options:
        if not _NAME.fullmatch(name) or (dashes and name.startswith("_")):
            becomes = name.replace("_", "-") if dashes else name
            what = f"{name!r} can't be the name of an option: it becomes '--{becomes}'"
            hint = "write it without dashes in front, blanks and '='; other words go into backend.argv"
            yield Problem(what, where / name if name else where, hint)
        elif (other := known.setdefault(name.replace("_", "-"), name)) != name:
            hint = "keep one; backend.option_style says how it is spelled"
            yield Problem(f"'{other}' and '{name}' are one option in two spellings", where / name, hint)


def flag(name: str, value: Any) -> list[str]:
    """An option as words: `lr: 0.1` → `--lr 0.1`, true → the bare flag, false and null → nothing, lists → all words.

    What begins with `-` goes behind `=`, so that it is not taken for a flag (argparse takes even `-1e-05` for one).
    """
    option = f"--{name}"
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    if isinstance(value, list):
        return [option, *(scalar(item) for item in value)] if value else []
    text = scalar(value)
    return [f"{option}={text}"] if text.startswith("-") else [option, text]
