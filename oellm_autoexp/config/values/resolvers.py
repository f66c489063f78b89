"""The resolvers `${oc.…:…}` that a config may use, as plain functions. Wrong input is an error, never a silent 0."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from functools import cache, partial, reduce, wraps
from pathlib import Path
from typing import Any

from oellm_autoexp.config.values.expressions import evaluate
from oellm_autoexp.config.values.grammar import GrammarError, decode
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.limits import LONGEST_TEXT, MOST_BITS, MOST_DIGITS, shortened
from oellm_autoexp.core.text import is_utf8, plural
from oellm_autoexp.sbatch.times import format_time

Resolver = Callable[..., Any]
_MISSING = object()
_CONDITIONS = {"true": True, "false": False, "": False, "null": False, "none": False}


def counted(name: str, function: Callable[..., Any], own: int = 0) -> Callable[..., Any]:
    """`function`, called by a config as the resolver `name`.

    Its first `own` arguments are not the config's. Raises ConfigError, when called, for another number of arguments
    than its signature has.
    """
    limits = cache(partial(_numbers_of_arguments, function, own))  # most resolvers are never called

    @wraps(function)
    def resolve(*arguments: Any) -> Any:
        least, most = limits()
        count = len(arguments) - own
        if not least <= count <= most:
            raise ConfigError(Problem(f"{name} takes {_so_many(least, most)}, not {count}"))
        return function(*arguments)

    return resolve


def _numbers_of_arguments(function: Callable[..., Any], own: int) -> tuple[int, float]:
    """The least and the most arguments of a function by position, without so many first ones."""
    kinds = inspect.Parameter
    by_position = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    parameters = [*inspect.signature(function).parameters.values()]
    named = [each for each in parameters if each.kind in by_position][own:]
    least = sum(each.default is kinds.empty for each in named)
    return least, math.inf if any(each.kind is kinds.VAR_POSITIONAL for each in parameters) else len(named)


def _so_many(least: int, most: float) -> str:
    """How many arguments there may be, in words."""
    if most == math.inf:
        return f"at least {plural(least, 'argument')}"
    if not least and most:
        return f"at most {plural(int(most), 'argument')}"
    if least == most:
        return plural(least, "argument")
    return f"{least} {'or' if most == least + 1 else 'to'} {plural(int(most), 'argument')}"


def number(value: Any, resolver: str) -> int | float:
    """`value` as a number, also from text such as `1e-4`. Raises ConfigError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= MOST_DIGITS:
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    raise ConfigError(Problem(f"{resolver} needs numbers, not {shortened(value)}"))


def _whole(value: Any, resolver: str) -> int:
    """`value` as a whole number. Raises ConfigError."""
    found = number(value, resolver)
    if found != found // 1:
        raise ConfigError(Problem(f"{resolver} needs whole numbers, not {value!r}"))
    return int(found)


def _numeric(name: str, function: Callable[..., Any]) -> Resolver:
    @wraps(function)
    def resolve(*arguments: Any) -> Any:
        numbers = [number(argument, name) for argument in arguments]
        try:
            return _of_usual_size(function(*map(_of_usual_size, numbers)))
        except (ArithmeticError, ValueError) as error:
            given = ", ".join(shortened(argument, 60) for argument in arguments[:10])
            raise ConfigError(Problem(f"{name}({given}) fails: {error}")) from None

    return resolve


def _of_usual_size(value: Any) -> Any:
    """A number as it is. Raises ValueError for a whole number that is too large."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError(f"a whole number has at most {MOST_BITS} bits")
    return value


def _sum(first: float, *rest: float) -> float:
    return sum((first, *rest))


def _product(first: float, *rest: float) -> float:
    return reduce(lambda left, right: _of_usual_size(left * right), rest, first)


def _difference(first: float, second: float, *rest: float) -> float:
    return first - sum((second, *rest))


def _truncated(value: float) -> int:
    return int(value)


def _integral(name: str, exact: Callable[..., float]) -> Resolver:
    """A resolver of whole numbers alone.

    Of fractions, either each could be cut or the result, which are two numbers: the message names both and how to
    write each. `exact` is the same with fractions, as in the resolver without the last letter.
    """
    twin = {"oc.cdivi": "oc.div"}.get(name, name.removesuffix("i"))

    @wraps(exact)
    def resolve(*values: float) -> int:
        cut = [int(value) for value in values]
        if cut == [*values]:
            return int(exact(*cut))
        by_arguments, by_result = _of_truncated(exact, cut), int(exact(*values))
        written = ",".join(map(str, values))
        shown = "a division by zero" if by_arguments is None else by_arguments
        both = f"with truncated arguments it is {shown}, with a truncated result {by_result}"
        what = f"{name} takes whole numbers: {both}"
        whole = (
            f"${{oc.int:${{{twin}:{written}}}}}"
            if name != "oc.cdivi"
            else f"${{oc.eval:'ceil({values[0]} / {values[1]})'}}"
        )
        first = "" if by_arguments is None else f"${{{name}:{','.join(map(str, cut))}}} or "
        raise ConfigError(Problem(what, hint=f"write {first}{whole}"))

    return _numeric(name, resolve)


def _of_truncated(exact: Callable[..., float], cut: Sequence[int]) -> int | None:
    """The result with truncated arguments; None if one of them is then a divisor of zero."""
    try:
        return int(exact(*cut))
    except ZeroDivisionError:
        return None


def _to_multiple(first: float, second: float = 1, multiple: float = 1) -> int:
    """The product of two numbers, rounded to the nearest multiple of a third."""
    if multiple != int(multiple):
        raise ValueError(f"{multiple} is no whole number, of which a whole number could be a multiple")
    if not multiple:
        raise ZeroDivisionError("division by zero")
    product: float = _of_usual_size(first * second)
    return round(Fraction(product) / int(multiple)) * int(multiple)  # a float has no room for a large whole number


def _join(*arguments: Any) -> str:
    """A list's items as one text, with another text between them; the two may come in either order."""
    lists = [argument for argument in arguments if isinstance(argument, list)]
    texts = [argument for argument in arguments if not isinstance(argument, list | dict)]
    if len(lists) != 1 or len(texts) != 1:
        raise ConfigError(Problem("oc.join takes a list and the text to put between its items"))
    parts = [part for item in lists[0] for part in (texts[0], item)]
    return _text("oc.join", "a list of scalars and a text", parts[1:])


def _if(condition: Any, when_true: Any, when_false: Any = None) -> Any:
    if isinstance(condition, str):
        if condition.lower() not in _CONDITIONS:
            raise ConfigError(Problem(f"oc.if needs true or false, not {condition!r}", hint="compute it with oc.eval"))
        condition = _CONDITIONS[condition.lower()]
    return when_true if condition else when_false


def _slice(sequence: Any, start: Any = None, stop: Any = None) -> Any:
    if not isinstance(sequence, str | list):
        raise ConfigError(Problem(f"oc.slice needs text or a list, not {sequence!r}"))
    bounds = [None if bound is None else _whole(bound, "oc.slice") for bound in (start, stop)]
    return sequence[slice(*bounds)]


def _concat(*parts: Any) -> Any:
    if parts and all(isinstance(part, list) for part in parts):
        return [item for part in parts for item in part]
    return _text("oc.concat", "only lists or only scalars", parts)


def _text(resolver: str, needs: str, parts: Sequence[Any]) -> str:
    """Scalars as one text. Raises ConfigError."""
    for part in parts:
        if part is None or isinstance(part, list | dict):
            raise ConfigError(Problem(f"{resolver} needs {needs}, not {shortened(part)}"))
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > LONGEST_TEXT:
        raise ConfigError(Problem(f"{resolver} makes a text that is too long: at most {LONGEST_TEXT} characters"))
    return "".join(texts)


def _len(value: Any) -> int:
    if not isinstance(value, str | list | dict):
        raise ConfigError(Problem(f"oc.len needs text, a list or a mapping, not {value!r}"))
    return len(value)


def _dict_merge(*mappings: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for mapping in mappings:
        if not isinstance(mapping, dict):
            raise ConfigError(Problem(f"oc.dict_merge needs mappings, not {mapping!r}"))
        merged.update(mapping)
    return merged


def _eval(expression: Any) -> Any:
    return evaluate(expression) if isinstance(expression, str) else expression


def _decode(text: Any) -> Any:
    """The value that a text spells in OmegaConf's grammar (`1e-4`, `[a, 2]`), as OmegaConf's own `oc.decode`."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise ConfigError(Problem(f"oc.decode needs text, not {text!r}"))
    try:
        return decode(text, _refused)
    except GrammarError:
        problem = Problem(f"oc.decode can't read {shortened(text)}", hint="it reads numbers, true, null, [a, b]")
        raise ConfigError(problem) from None


def _refused(*_arguments: Any, **_named: Any) -> Any:
    raise ConfigError(Problem("oc.decode does not resolve the interpolations in a text"))


def _time(resolver: str, now: datetime, layout: Any) -> str:
    if not isinstance(layout, str):
        raise ConfigError(Problem(f"{resolver} needs a format such as %Y%m%d-%H%M%S, not {layout!r}"))
    return now.strftime(layout)


def make_resolvers(
    environment: Mapping[str, str], now: datetime, shipped: Callable[[str], Path], python: str
) -> dict[str, Resolver]:
    """Every resolver by name.

    `environment` answers `oc.env`, `now` is the plan's time for `oc.timestring` (and Hydra's `now`), `shipped` finds
    files that come with the program, `python` is the interpreter that plans.
    """

    def env(name: Any, default: Any = _MISSING) -> Any:
        if not isinstance(name, str) or not name.strip() or "=" in name:
            raise ConfigError(Problem(f"oc.env needs the name of an environment variable, not {shortened(name)}"))
        if environment.get(name) or (name in environment and default is _MISSING):
            if not is_utf8(environment[name]):
                raise ConfigError(Problem(f"the value of the environment variable {name} is not UTF-8 text"))
            return environment[name]  # one that is set but empty gives way to a default
        if default is _MISSING:
            raise ConfigError(Problem(f"the environment variable {name} is not set", hint=f"export {name}=…"))
        return default if default is None else str(default)

    def of_the_program(relative: Any) -> str:
        if not isinstance(relative, str):
            raise ConfigError(Problem(f"autoexp.shipped needs a path, not {shortened(relative)}"))
        return str(shipped(relative))

    resolvers: dict[str, Resolver] = {
        "oc.env": env,
        "oc.decode": _decode,
        "oc.create": lambda value: value,
        "oc.eval": _eval,
        "oc.if": _if,
        "oc.mul": _numeric("oc.mul", _product),
        "oc.muli": _integral("oc.muli", _product),
        "oc.add": _numeric("oc.add", _sum),
        "oc.addi": _integral("oc.addi", _sum),
        "oc.sub": _numeric("oc.sub", _difference),
        "oc.subi": _integral("oc.subi", _difference),
        "oc.div": _numeric("oc.div", lambda a, b: a / b),
        "oc.divi": _integral("oc.divi", lambda a, b: a // b),
        "oc.cdivi": _integral("oc.cdivi", lambda a, b: -(-a // b)),
        "oc.sqrt": _numeric("oc.sqrt", math.sqrt),
        "oc.mul_round_int": _numeric("oc.mul_round_int", _to_multiple),
        "oc.slice": _slice,
        "oc.concat": _concat,
        "oc.join": _join,
        "oc.int": _numeric("oc.int", _truncated),
        "oc.len": _len,
        "oc.dict_merge": _dict_merge,
        "oc.timestring": lambda layout="%Y%m%d-%H%M%S": _time("oc.timestring", now, layout),
        "now": lambda layout: _time("now", now, layout),
        "oc.slurmtime": _numeric("oc.slurmtime", format_time),
        "autoexp.shipped": of_the_program,
        "autoexp.python": lambda: python,
    }
    return {name: counted(name, function) for name, function in resolvers.items()}
