"""Megatron-LM's arguments: from values by dest, as YAML gives them, to words of a command line. Pure.

The table of a version comes from Megatron's own parser (see `extract.py`): neither a flag nor its sense follows from
the dest's name. What the words mean is argparse's business; the tests feed them to the real parser.
"""

from __future__ import annotations

import ast
import importlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from itertools import chain, compress, count
from operator import is_not
from typing import Any, Literal

from oellm_autoexp.core.errors import BackendError, Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import did_you_mean, plural

VERSION = "core_v0_19_0"
"""The version that the shipped configs are for."""

Kind = Literal["store", "store_true", "store_false", "switch"]
FORBIDDEN = {"yaml_cfg": "with --yaml-cfg, Megatron skips its own validation: write the keys here instead"}
"""Dests that are never offered, and why (megatron/training/arguments.py, parse_args)."""

_ELSEWHERE = {"learning_rate": "lr", "max_steps": "train_iters", "steps": "train_iters", "n_layers": "num_layers"}
"""What other training programs call it, where that is too far for a near miss."""

_SIMPLE = {str, int, float, bool, type(None)}
_LONGEST = 30  # digits of a whole number; beyond it, a text such as 1e999999999 would fill the memory
_PLAIN_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")  # argparse's own test for a negative number (_negative_number_matcher)
_PATTERN = re.compile(r"[,\d\[\]()+*]+")  # megatron/training/arguments.py, _eval_pattern
_TUPLE = re.compile(r"\(*-?\d+(, *-?\d+)*\)*")  # megatron/training/arguments.py, tuple_type


@dataclass(frozen=True, eq=False)
class Argument:
    """One dest of Megatron's parser."""

    dest: str
    kind: Kind
    """`store` takes values, the others true or false: `store_true` has flags only, `store_false` off-flags only."""
    flags: tuple[str, ...]
    """What takes the value, or sets it to true."""
    off: tuple[str, ...]
    """What sets it to false."""
    type: str
    """int, float, str, bool, name (of an Enum's member), pattern and tuple (texts that Megatron evaluates)."""
    nargs: str | int | None
    """None for one value, `+` and `*` for a list, or how many."""
    choices: tuple[Any, ...] | None
    default: Any
    group: str


class _RefusedError(Exception):
    """A value that the argument cannot take: what is wrong, what would be right, and which item of a list it is."""

    def __init__(self, what: str, hint: str = "", index: int | None = None) -> None:
        super().__init__(what)
        self.what, self.hint, self.index = what, hint, index


@dataclass(frozen=True)
class _Made:
    """The words for each key's value, of which the next job of a sweep needs most: it shares the values themselves."""

    keys: list[str]
    order: list[int]
    """The indices of known keys, in the parser's order."""
    whole: bool
    """Whether there is a key for every argument, as in a version's defaults."""
    values: list[Any]
    words: list[tuple[str, ...]]


_NOTHING = object()


class Arguments:
    """The arguments of one version of Megatron-LM."""

    def __init__(self, table: Sequence[Argument]) -> None:
        self._by_dest = {argument.dest: argument for argument in table}
        self._order = {argument.dest: number for number, argument in enumerate(table)}
        self._spelled: dict[str, Argument] = {}
        # a dest's own spelling comes before a flag's: --ckpt-fully-parallel-save is a flag of another dest
        for argument in table:
            hyphens = argument.dest.replace("_", "-")
            self._spelled |= dict.fromkeys((argument.dest, hyphens, f"--{hyphens}"), argument)
        for argument in table:
            for flag in argument.flags:
                self._spelled.setdefault(flag, argument)
                self._spelled.setdefault(flag.removeprefix("--"), argument)
            # The dest of what does nothing any more was renamed; files of that time have its old name.
            old = argument.dest.removeprefix("deprecated_").removesuffix("_deprecated")
            self._spelled.setdefault(old, argument)
        # jobs of a sweep share most values; typed, for 1, 1.0 and true are equal
        self._words = lru_cache(maxsize=2**16, typed=True)(words)
        self._defaults = {argument.dest: _default_words(argument) for argument in table}
        self._dests_only: list[str] = []  # the last keys that were dests, all of them
        self._last: _Made | None = None

    @staticmethod
    @cache
    def of(version: str = VERSION) -> Arguments:
        """The arguments of a version, such as core_v0_19_0. Raises BackendError if no table of it was generated."""
        package = "oellm_autoexp.backends.megatron.generated"
        name = f"{package}.{version}_table"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):
                raise
            hint = f"make its table with scripts/generate_megatron_dataclass.py --name {version}, or use {VERSION}"
            raise BackendError(Problem(f"no table of Megatron's arguments for {version!r}", hint=hint)) from None
        return Arguments([Argument(*row) for row in module.TABLE])

    @property
    def dests(self) -> Mapping[str, Argument]:
        """Every argument by its dest, in the parser's order."""
        return self._by_dest

    def knows(self, *keys: str) -> bool:
        """Whether each of some keys is a dest or a flag of this version."""
        return self._spelled.keys() >= {*keys}

    def named(self, key: str) -> Argument | None:
        """The argument of a dest or a flag; None without one."""
        return self._spelled.get(key)

    def by_dest(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The known values by dest; a key is a dest or a flag (`train_iters`, `train-iters`, `--train-iters`)."""
        if self._only_dests(values):
            return values
        spelled = self._spelled
        return {spelled[key].dest: value for key, value in values.items() if key in spelled}

    def _only_dests(self, values: Mapping[str, Any]) -> bool:
        keys = [*values]
        if keys != self._dests_only:  # which the last job's mostly are
            if not self._by_dest.keys() >= values.keys():
                return False
            self._dests_only = keys
        return True

    def argv(self, values: Mapping[str, Any], where: Location = CONFIG / "backend.megatron") -> list[str]:
        """The words that give Megatron these values, in the parser's order.

        null is left out. Values for all arguments (a version's defaults, in YAML or as its MegatronConfig, and what
        was changed of them) are given where they differ from the defaults; of fewer, each was set by somebody, and is
        given: the Megatron that is run may have another default. `where` is the path of `values` in the config. Raises
        BackendError with every key and value that Megatron would not take.
        """
        last = self._last
        problems: list[Problem] = []
        if last is None or last.keys != [*values]:
            last = self._nothing_made([*values])
        plain = self._only_dests(values)
        if not plain:
            problems += self._wrong_keys(values, where)
        self._last = None  # until it is known to hold no mistakes
        changed = compress(count(), map(is_not, values.values(), last.values))
        for index, key in [(index, last.keys[index]) for index in changed]:
            value = values[key]
            try:
                made = self._made(key, value, last.whole)
            except _RefusedError as error:
                place = where / key if error.index is None else where / key / error.index
                problems.append(Problem(error.what, place, error.hint))
                continue
            last.words[index], last.values[index] = made, value if type(value) in _SIMPLE else _NOTHING
        if problems:
            raise BackendError(*problems)
        self._last = last if plain else None
        return [*chain.from_iterable(map(last.words.__getitem__, last.order))]

    def _nothing_made(self, keys: list[str]) -> _Made:
        places = {key: self._order[argument.dest] for key in keys if (argument := self._spelled.get(key))}
        order = sorted((place, index) for index, key in enumerate(keys) if (place := places.get(key)) is not None)
        whole = len(keys) >= len(self._by_dest) and self._by_dest.keys() <= {*keys}
        return _Made(keys, [index for _, index in order], whole, [_NOTHING] * len(keys), [()] * len(keys))

    def _made(self, key: str, value: Any, whole: bool) -> tuple[str, ...]:
        """The words for one value: none for null, nor for the default where all others have theirs as well."""
        argument = self._spelled.get(key)
        if argument is None or value is None:
            return ()
        made = self._words(argument, value) if type(value) in _SIMPLE else words(argument, value)
        default = whole and (isinstance(value, list | tuple), made) == self._defaults[argument.dest]
        return () if default else made

    def _wrong_keys(self, values: Mapping[str, Any], where: Location) -> list[Problem]:
        """Those that Megatron has no argument for, and those that are another one in another spelling."""
        problems: list[Problem] = []
        given: dict[str, str] = {}
        for key, value in values.items():
            argument = self._spelled.get(key)
            if argument is None:
                if value is not None or key not in FORBIDDEN:
                    problems.append(self._unknown(str(key), where, value))
            elif value is not None and (first := given.setdefault(argument.dest, key)) != key:
                problems.append(Problem(f"{key} is {first} in another spelling", where / key, "keep one"))
        return problems

    def _unknown(self, key: str, where: Location, value: Any) -> Problem:
        if key in FORBIDDEN:
            return Problem(f"{key} cannot be used", where / key, FORBIDDEN[key])
        switched = value if isinstance(value, bool) else None
        return Problem(f"Megatron has no argument '{key}'", where / key, self._nearest(key, switched))

    @lru_cache(maxsize=2**10)  # noqa: B019 (the few tables live as long as the program)
    def _nearest(self, key: str, value: bool | None) -> str:
        """What a person may have meant: a flag's name, the switch that a key would turn the other way, or a near miss.

        `value` is that of a key that is true or false.
        """
        flag = f"--{key.removeprefix('--').replace('_', '-')}"
        name = flag.removeprefix("--").replace("-", "_")
        opposite = "true" if value is False else "false"
        for argument in self._by_dest.values():
            if flag in argument.off:
                return f"write {argument.dest}: {opposite}"
            if flag in argument.flags:
                return f"write {argument.dest}, whose flag is {flag}"
        bare = re.sub("^(no|disable)_", "", name)
        switch = self._by_dest.get(bare if bare != name else f"no_{name}")
        if switch is not None and switch.kind != "store" and (value is not None or bare != name):
            return f"write {switch.dest}: {opposite}"
        return did_you_mean(_ELSEWHERE.get(name, name), self._by_dest)


def words(argument: Argument, value: Any) -> tuple[str, ...]:
    """The words for one value that is not null; none where the value is what the absence of a flag means."""
    if argument.kind != "store" or argument.type == "bool":
        return _switched(argument, value)
    if argument.nargs is None:
        made: Sequence[str] = [_joined(argument, value)]
    else:
        made = _listed(argument, value)
        if not made:  # a bare flag is an error for `+`, and for `*` an empty list that Megatron does not expect
            return ()
    flag = _flag(argument.flags)
    if len(made) == 1 and (made[0].startswith("-") or not made[0]):
        return (f"{flag}={made[0]}",)  # argparse takes even -1e-05 for a flag
    for index, word in enumerate(made):
        if word.startswith("-") and not _PLAIN_NEGATIVE.fullmatch(word):
            raise _RefusedError(f"a list's item cannot begin with '-', as {word!r} does", index=index)
    return (flag, *made)


def _default_words(argument: Argument) -> tuple[bool, tuple[str, ...]]:
    """What to compare with: whether the default is a list, and its words."""
    default = argument.default
    return isinstance(default, tuple), () if default is None else words(argument, default)


def _switched(argument: Argument, value: Any) -> tuple[str, ...]:
    if not isinstance(value, bool):
        quoted = isinstance(value, str) and value.lower() in ("true", "false")
        hint = f"write {value.lower()} without quotes" if quoted else ""
        raise _RefusedError(f"must be true or false, not {_shown(value)}", hint)
    if argument.kind == "store":  # type=bool: any text is true, even 'False'
        return (argument.flags[0], "True") if value else ()
    flags = argument.flags if value else argument.off
    return (_flag(flags),) if flags else ()


def _flag(flags: Sequence[str]) -> str:
    """The one of several spellings that is written: without underscores, which two flags have in one spelling."""
    return next((flag for flag in flags if "_" not in flag), flags[0])


def _listed(argument: Argument, value: Any) -> list[str]:
    items = value if isinstance(value, list | tuple) else [value]
    if isinstance(argument.nargs, int) and len(items) != argument.nargs:
        raise _RefusedError(f"must be a list of {plural(argument.nargs, 'value')}, not of {len(items)}")
    made = []
    for index, item in enumerate(items):
        try:
            made.append(_word(argument, item))
        except _RefusedError as error:
            item = index if isinstance(value, list | tuple) else None
            raise _RefusedError(error.what, error.hint, item) from None
    if argument.type == "float" and len(made) > 1:  # argparse takes -1e-05 for a flag, and -0.00001 for a number
        made = [format(Decimal(word), "f") if re.match(r"-\d", word) else word for word in made]
    return made


def _joined(argument: Argument, value: Any) -> str:
    """One value; a list of whole numbers also where Megatron reads one from a text."""
    if isinstance(value, list | tuple) and argument.type in ("pattern", "tuple"):
        if not value or not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            raise _RefusedError(f"must be whole numbers, not {_shown(value)}")
        text = ",".join(map(str, value))
        return f"[{text}]" if argument.type == "pattern" else text
    return _word(argument, value)


def _word(argument: Argument, value: Any) -> str:
    """One value as text, checked as Megatron's type function and argparse's choices would."""
    if value is None or not isinstance(value, str | int | float) or isinstance(value, bool):
        needs = _NEEDS.get(argument.type, "text")
        hint = "write JSON as text, in quotes" if isinstance(value, dict) and argument.type == "str" else ""
        if isinstance(value, bool) and argument.type in ("str", "name"):
            hint = "if it is meant as text, write it in quotes" if argument.choices is None else _choice(argument)
        raise _RefusedError(f"must be {needs}, not {_shown(value)}", hint)
    text = _CHECKS.get(argument.type, _text)(value)
    if argument.choices is not None and text not in map(str, argument.choices):
        raise _RefusedError(f"unknown value {_shown(value)}", _choice(argument, str(value)))
    return text


def _choice(argument: Argument, given: str = "") -> str:
    """The nearest of the choices, or all of them."""
    known = [str(choice) for choice in argument.choices or ()]
    same = [choice for choice in known if choice.lower() == given.lower()]
    near = f"did you mean '{same[0]}'?" if same else did_you_mean(given, known) if given else ""
    return near or f"one of: {', '.join(known)}"


def _whole(value: str | int | float) -> str:
    """A whole number; Megatron's int() refuses 1e5 and 18000.0, which YAML and arithmetic give."""
    if isinstance(value, int):
        return str(value)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or (number and number.adjusted() > _LONGEST) or number != number.to_integral_value():
        raise _RefusedError(f"must be a whole number, not {_shown(value)}")
    return str(int(number))


def _number(value: str | int | float) -> str:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise _RefusedError(f"must be a number, not {_shown(value)}")
    return repr(number)


def _text(value: str | int | float) -> str:
    text = str(value)
    if "\0" in text:
        raise _RefusedError("a command line cannot hold the character NUL")
    if text == "--":
        raise _RefusedError("cannot be '--', which argparse drops")
    return text


def _pattern(value: str | int | float) -> str:
    if not isinstance(value, str) or "[" not in value:
        return _whole(value)
    try:
        ast.parse(value, mode="eval")
        fits = _PATTERN.fullmatch(value)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        fits = None
    if not fits:
        raise _RefusedError(f"must be a whole number or a pattern, not {_shown(value)}", "such as '([0]*1+[1]*19)'")
    return value


def _tuple(value: str | int | float) -> str:
    if not isinstance(value, str):
        return _whole(value)
    if not _TUPLE.fullmatch(value):
        raise _RefusedError(f"must be whole numbers with commas, not {_shown(value)}", "such as '128,0'")
    return value


_CHECKS = {"int": _whole, "float": _number, "pattern": _pattern, "tuple": _tuple}
_NEEDS = {
    "int": "a whole number",
    "float": "a number",
    "pattern": "a whole number or a pattern",
    "tuple": "whole numbers with commas",
    "name": "a name",
}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else repr(value)
