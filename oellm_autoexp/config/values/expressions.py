"""The small expression language of `oc.eval` and of filters: arithmetic on values, and nothing else.

Operators, comparisons, `and or not in is`, conditionals, literals, comprehensions, indexing, and the functions of
FUNCTIONS. No attributes (`a.b` is a name that was given, or nothing), no other names, no keyword arguments: an
expression can compute, and can't do anything. Its work is bounded: every step, and every item that a step looks at or
makes, is paid from one budget.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.text import did_you_mean

_BUDGET = 100_000  # steps and items of one expression: nothing a config needs takes more, and it lasts well below 1 s
_LONGEST = 100_000  # characters of an expression
_BITS = 4096  # of the largest integer
_DIGITS = 300  # behind the point that round() takes
_CHARACTERS_PER_STEP = 64


def _round(number: Any, digits: int | None = None) -> Any:
    if digits is not None and abs(digits) > _DIGITS:
        raise ValueError(f"round takes at most {_DIGITS} digits")
    return round(number, digits)


def _sum(items: Any, start: Any = 0) -> Any:
    if not isinstance(start, int | float):
        raise TypeError("sum adds numbers")
    return sum(items, start)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "round": _round,
    "min": min,
    "max": max,
    "abs": abs,
    "len": len,
    "sum": _sum,
    "sqrt": math.sqrt,
    "log": math.log,
    "ceil": math.ceil,
    "floor": math.floor,
    "range": range,
}
_SEQUENCES = (str, list, tuple)


def _multiply(left: Any, right: Any) -> Any:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, _SEQUENCES) and isinstance(count, int) and len(sequence) * count > _BUDGET:
            raise ValueError("the repetition is too large")
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > _BITS:
        raise ValueError("the power is too large")
    return left**right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):  # that would be formatting
        raise TypeError("% takes numbers")
    return left % right


_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _multiply,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: _modulo,
    ast.Pow: _power,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_CONSTANTS = {"true": True, "false": False, "null": None}
_DOTTED = re.compile(r"\w+(?:\.\w+)+")


@lru_cache(maxsize=4096)
def _parse(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ConfigError(Problem(f"the expression has {len(text)} characters, which is too long"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about text that Python finds odd, such as '\d'
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        what = f"the expression does not parse: {_shortened(text)} ({error.args[0]})"
        raise ConfigError(Problem(what, hint=_of_another_language(text))) from None
    except (RecursionError, MemoryError):
        raise ConfigError(Problem(f"the expression is nested too deeply: {_shortened(text)}")) from None


_OF_OTHERS = (
    (re.compile(r"&&"), "write 'and'"),
    (re.compile(r"\|\|"), "write 'or'"),
    (re.compile(r"!(?!=)"), "write 'not'"),
    (re.compile(r"(?<![=!<>])=(?!=)"), "write '==' to compare"),
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def _of_another_language(text: str) -> str:
    """What is written here for operators of a shell, of C or of SQL."""
    plain = _QUOTED.sub("", text)
    values = [f"write ${{{name}}}" for name in re.findall(r"\$(\w+(?:\.\w+)*)", plain)]
    return ", ".join([*dict.fromkeys(values), *(hint for pattern, hint in _OF_OTHERS if pattern.search(plain))])


def is_constant(text: str) -> bool:
    """Whether an expression comes to the same whatever the config holds. Raises ConfigError if it does not parse."""
    names = {node.id for node in ast.walk(_parse(text)) if isinstance(node, ast.Name)}
    return "${" not in text and names <= FUNCTIONS.keys()


def evaluate(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """The value of an expression, as plain data, for reading only; `names` are variables, which may hold dots.

    Raises ConfigError if it does not parse, uses anything outside the language, fails (division by zero), or takes
    more work than any config needs.
    """
    return _evaluate(text, names) if names else _evaluate_alone(text)


@lru_cache(maxsize=4096)
def _evaluate_alone(text: str) -> Any:
    return _evaluate(text, {})


def _evaluate(text: str, names: Mapping[str, Any]) -> Any:
    try:
        return _plain(_Evaluator(names, {}, _Budget()).value(_parse(text)))
    except (ArithmeticError, TypeError, ValueError, LookupError, RecursionError, MemoryError) as error:
        raise ConfigError(Problem(f"the expression {_shortened(text)} fails: {error}")) from None


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}…")


def _plain(value: Any) -> Any:
    """A value as YAML could hold it: every kind of sequence as a list, sets in order."""
    if isinstance(value, set):
        value = sorted(value)
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


Made = TypeVar("Made")


class _Budget:
    """What work an expression may still do."""

    def __init__(self) -> None:
        self._left = _BUDGET

    def spend(self, value: Any = None) -> None:
        """Pay for one step, and for everything that `value` holds. Raises ValueError when nothing is left."""
        self._left -= 1
        if isinstance(value, str):
            self._left -= len(value) // _CHARACTERS_PER_STEP
        elif isinstance(value, range):
            self._left -= len(value)
        elif isinstance(value, int):
            if value.bit_length() > _BITS:
                raise ValueError("the number is too large")
        elif isinstance(value, complex):
            raise ValueError("the result is not a real number")
        if self._left < 0:
            raise ValueError("it takes too many steps")
        if isinstance(value, list | tuple | set | dict):
            for item in value.values() if isinstance(value, dict) else value:
                self.spend(item)


class _Evaluator:
    def __init__(self, names: Mapping[str, Any], bound: Mapping[str, Any], budget: _Budget) -> None:
        self._names = names  # look-ups may be dear: only what the expression names is asked for
        self._bound = bound  # by comprehensions
        self._budget = budget

    def value(self, node: ast.expr) -> Any:
        """The value of a part of the expression."""
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise ConfigError(Problem(f"'{ast.unparse(node)}' is not part of the expression language"))
        self._budget.spend()
        return method(node)

    def _apply(self, function: Callable[..., Any], *operands: Any) -> Any:
        """The value of a function, all that it reads and makes being paid for."""
        for operand in operands:
            self._budget.spend(operand)
        result = function(*operands)
        self._budget.spend(result)
        return result

    def _constant(self, node: ast.Constant) -> Any:
        if not (node.value is None or isinstance(node.value, bool | int | float | str)):
            raise ConfigError(Problem(f"'{ast.unparse(node)}' is not part of the expression language"))
        self._budget.spend(node.value)
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id in self._bound:
            return self._bound[node.id]
        return _CONSTANTS[node.id] if node.id in _CONSTANTS else self._named(node.id)

    def _attribute(self, node: ast.Attribute) -> Any:
        name = ast.unparse(node)
        if not _DOTTED.fullmatch(name) or name.split(".")[0] in self._bound:
            raise ConfigError(Problem(f"'{name}' is not part of the expression language"))
        return self._named(name)

    def _named(self, name: str) -> Any:
        try:
            return self._names[name]
        except KeyError:
            hint = did_you_mean(name, (*FUNCTIONS, *self._names)) or "quote it if it is text"
            raise ConfigError(Problem(f"'{name}' is not a known name in an expression", hint=hint)) from None

    def _binop(self, node: ast.BinOp) -> Any:
        if type(node.op) not in _BINARY:
            raise ConfigError(Problem(f"the operator in '{ast.unparse(node)}' is not part of the expression language"))
        return self._apply(_BINARY[type(node.op)], self.value(node.left), self.value(node.right))

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        if type(node.op) not in _UNARY:
            raise ConfigError(Problem(f"the operator in '{ast.unparse(node)}' is not part of the expression language"))
        return self._apply(_UNARY[type(node.op)], self.value(node.operand))

    def _boolop(self, node: ast.BoolOp) -> Any:
        wanted = isinstance(node.op, ast.Or)
        result: Any = None
        for operand in node.values:
            result = self.value(operand)
            if bool(result) is wanted:
                break
        return result

    def _compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for kind, operand in zip(node.ops, node.comparators, strict=True):
            right = self.value(operand)
            if not self._apply(_COMPARE[type(kind)], left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            name = ast.unparse(node.func)
            raise ConfigError(Problem(f"'{name}' is not a known function", hint=did_you_mean(name, FUNCTIONS)))
        if node.keywords:
            raise ConfigError(Problem(f"'{ast.unparse(node)}': functions take no keyword arguments"))
        return self._apply(FUNCTIONS[node.func.id], *(self.value(argument) for argument in node.args))

    def _list(self, node: ast.List) -> list[Any]:
        return self._made([self.value(item) for item in node.elts])

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return self._made(tuple(self.value(item) for item in node.elts))

    def _set(self, node: ast.Set) -> set[Any]:
        return set(self._made([self.value(item) for item in node.elts]))

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        if None in node.keys:
            raise ConfigError(Problem(f"'{ast.unparse(node)}' is not part of the expression language"))
        keys = self._made([self.value(key) for key in node.keys if key is not None])
        return self._made(dict(zip(keys, [self.value(item) for item in node.values], strict=True)))

    def _made(self, value: Made) -> Made:
        """A new container, paid for with all it holds: a value that it holds many times counts as often."""
        self._budget.spend(value)
        return value

    def _subscript(self, node: ast.Subscript) -> Any:
        return self._apply(operator.getitem, self.value(node.value), self.value(node.slice))

    def _slice(self, node: ast.Slice) -> slice:
        return slice(*(None if part is None else self.value(part) for part in (node.lower, node.upper, node.step)))

    def _listcomp(self, node: ast.ListComp) -> list[Any]:
        return self._made(list(self._comprehend(node.elt, node.generators)))

    def _generatorexp(self, node: ast.GeneratorExp) -> list[Any]:
        return self._made(list(self._comprehend(node.elt, node.generators)))

    def _setcomp(self, node: ast.SetComp) -> set[Any]:
        return set(self._made(list(self._comprehend(node.elt, node.generators))))

    def _comprehend(self, element: ast.expr, loops: list[ast.comprehension]) -> Iterator[Any]:
        if not loops:
            yield self.value(element)
            return
        loop, *inner = loops
        if not isinstance(loop.target, ast.Name) or loop.is_async:
            raise ConfigError(Problem("a comprehension binds one name"))
        for item in self.value(loop.iter):
            self._budget.spend()
            scope = _Evaluator(self._names, {**self._bound, loop.target.id: item}, self._budget)
            if all(scope.value(condition) for condition in loop.ifs):
                yield from scope._comprehend(element, inner)
