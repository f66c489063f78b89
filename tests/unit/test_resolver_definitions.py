"""A second opinion on what resolvers compute: their definitions in exact fractions, on generated expressions.

The resolvers that OmegaConf has as well are compared with OmegaConf.
"""

from __future__ import annotations

import math
import random
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from oellm_autoexp.config.values.overlay import Overlay
from oellm_autoexp.config.values.resolvers import make_resolvers

HOW_MANY = 400
NOW = datetime(2026, 1, 31, 23, 59, 58, tzinfo=UTC)
ENVIRONMENT = {"WORD": "a b", "NUMBER": "12", "EMPTY": ""}
RESOLVERS = make_resolvers(ENVIRONMENT, NOW, lambda relative: Path("/shipped", relative), "/usr/bin/python3")
Expression = tuple[str, Any]
"""A text and its value: a Fraction, a text, a list, a mapping or true and false."""


def product(*values: Fraction) -> Fraction:
    return math.prod(values, start=Fraction(1))


def nearest_multiple(first: Fraction, second: Fraction, multiple: Fraction) -> Fraction:
    return Fraction(round(first * second / multiple)) * multiple


def slurm_time(seconds: Fraction) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 86400}-{whole // 3600 % 24:02}:{whole // 60 % 60:02}:{whole % 60:02}"


class Generator:
    """Random expressions of whole numbers, of fractions with few digits, of texts and of lists."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.used: Counter[str] = Counter()

    def call(self, name: str, function: Callable[..., Any], *arguments: Expression) -> Expression:
        self.used[name] += 1
        return f"${{{name}:{','.join(text for text, _ in arguments)}}}", function(*(value for _, value in arguments))

    def one_of(self, *kinds: Callable[[], Expression]) -> Expression:
        return self.random.choice(kinds)()

    def any(self) -> Expression:
        kinds = (self.whole, self.number, self.text, self.items, self.mapping, self.truth)
        return self.random.choice(kinds)(2)

    def whole(self, depth: int) -> Expression:
        if depth == 0:
            value = self.random.randint(1, 60)
            return str(value), Fraction(value)
        first, second, third = (self.whole(depth - 1) for _ in range(3))
        return self.one_of(
            lambda: self.call("oc.muli", product, first, second),
            lambda: self.call("oc.addi", sum_of, first, second, third),
            lambda: self.call("oc.subi", lambda a, b: a - b, self.call("oc.addi", sum_of, first, second), second),
            lambda: self.call("oc.divi", lambda a, b: Fraction(a // b), first, second),
            lambda: self.call("oc.cdivi", lambda a, b: Fraction(-(-a // b)), first, second),
            lambda: self.call("oc.mul_round_int", nearest_multiple, first, second, self.whole(0)),
            lambda: self.call("oc.int", lambda a: Fraction(math.trunc(a)), self.number(depth - 1)),
            lambda: self.call("oc.len", lambda a: Fraction(len(a)), self.items(depth - 1)),
            lambda: self.call("oc.if", lambda a, b, c: b if a else c, self.truth(depth - 1), first, second),
        )

    def number(self, depth: int) -> Expression:
        if depth == 0:
            value = Fraction(self.random.randint(1, 400), 8)
            return str(float(value)), value
        first, second = self.number(depth - 1), self.number(depth - 1)
        square = self.random.randint(1, 40)
        return self.one_of(
            lambda: self.call("oc.mul", product, first, second),
            lambda: self.call("oc.add", sum_of, first, second),
            lambda: self.call("oc.sub", lambda a, b: a - b, first, second),
            lambda: self.call("oc.div", lambda a, b: a / b, first, self.whole(0)),
            lambda: self.call("oc.sqrt", lambda _: Fraction(square), (str(square * square), None)),
            lambda: self.computed(first, second),
        )

    def computed(self, first: Expression, second: Expression) -> Expression:
        self.used["oc.eval"] += 1
        sign, value = self.random.choice([("+", first[1] + second[1]), ("*", first[1] * second[1])])
        return f"${{oc.eval:'{first[0]} {sign} {second[0]}'}}", value

    def truth(self, depth: int) -> Expression:
        first, second = self.whole(0), self.whole(0)
        self.used["oc.eval"] += 1
        value = first[1] < second[1]
        return (f"${{oc.eval:'{first[0]} < {second[0]}'}}", value) if depth else (str(value).lower(), value)

    def text(self, depth: int) -> Expression:
        letters = "".join(self.random.choices("abcdef", k=self.random.randint(2, 6)))
        word, items = (letters, letters), self.items(0)
        start, stop = map(n, sorted(self.random.choices(range(len(letters) + 1), k=2)))
        return self.one_of(
            lambda: self.call("oc.slice", lambda a, b, c: a[int(b) : int(c)], (letters, letters), start, stop),
            lambda: self.call("oc.concat", lambda a, b: f"{a}{b}", word, ("x", "x")),
            lambda: self.call("oc.join", lambda a, b: b.join(str(int(x)) for x in a), items, ("'-'", "-")),
            lambda: self.call("oc.slurmtime", slurm_time, self.whole(depth)),
        )

    def items(self, depth: int) -> Expression:
        values = [self.random.randint(0, 9) for _ in range(self.random.randint(1, 5))]
        written: Expression = (str(values), [Fraction(value) for value in values])
        if depth == 0:
            return self.call("oc.create", lambda a: a, written)
        return self.one_of(
            lambda: self.call("oc.concat", lambda a, b: a + b, written, self.items(0)),
            lambda: self.call("oc.slice", lambda a, b: a[int(b) :], written, n(1)),
        )

    def mapping(self, depth: int) -> Expression:  # noqa: ARG002
        first, second = self.whole(0), self.whole(0)
        left, right = (f"{{x: {first[0]}, y: 1}}", None), (f"{{x: {second[0]}}}", None)
        return self.call("oc.dict_merge", lambda *_: {"x": second[1], "y": Fraction(1)}, left, right)


def n(value: int) -> Expression:
    return str(value), Fraction(value)


def sum_of(*values: Fraction) -> Fraction:
    return sum(values, Fraction(0))


def agrees(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(agrees, found, wanted))
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(agrees(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, Fraction):
        return type(found) in (int, float) and math.isclose(found, float(wanted), rel_tol=1e-12, abs_tol=1e-12)
    return type(found) is type(wanted) and found == wanted


def test_generated_expressions_have_the_values_that_the_definitions_give() -> None:
    generator = Generator(16)
    overlay = Overlay({}, RESOLVERS)
    for _ in range(HOW_MANY):
        text, wanted = generator.any()
        found = overlay.select(overlay.apply({}), text)
        assert agrees(found, wanted), (text, found, wanted)
    of_omegaconf = {"oc.env", "oc.decode", "oc.select", "oc.dict.keys", "oc.dict.values", "oc.deprecated"}
    of_time_and_place = {"now", "oc.timestring", "autoexp.python", "autoexp.shipped"}
    assert generator.used.keys() >= RESOLVERS.keys() - of_omegaconf - of_time_and_place


CONFIG = {"a": 3, "t": "x y", "l": [1, "b", 2.5], "m": {"x": 1, "y": {"z": [True, None]}}, "k": "m"}


@pytest.mark.parametrize("seed", range(12))
def test_omegaconfs_own_resolvers_give_what_omegaconf_gives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    pick = random.Random(seed)
    choices = {
        "oc.env:{}": [*ENVIRONMENT],
        "oc.env:NOPE,{}": ["null", "x", "1.5", "${t}", "${oc.env:WORD}"],
        "oc.decode:{}": ["null", "${oc.env:NUMBER}", "'[1,2]'", "'{q: 1}'"],
        "oc.create:{}": ["[1,2]", "{b: 2}", "${l}", "${m}", "[${a},${t}]"],
        "oc.select:{}": ["a", "m.x", "m.nope", "'l[1]'", "${k}.x"],
        "oc.select:{},${t}": ["a", "m.x", "m.nope", "'l[1]'", "${k}.x"],
        "oc.select:m.nope,{}": ["${a}", "${l}", "${m}", "${l[0]}", "${oc.env:NUMBER}", "${oc.env:NONE,7}", "5", "word"],
        "oc.dict.keys:{}": ["m", "m.y", "${k}"],
        "oc.dict.values:{}": ["m.y", "m.y"],
        "oc.deprecated:{}": ["a"],
    }
    overlay = Overlay(CONFIG, make_resolvers(ENVIRONMENT, NOW, Path, "python"))
    for call, values in choices.items():
        text = f"${{{call.replace('{}', pick.choice(values))}}}"
        tree = OmegaConf.create({**CONFIG, "found": text})
        with warnings.catch_warnings(action="ignore"):  # of what is deprecated
            wanted = OmegaConf.to_container(tree, resolve=True)
        assert isinstance(wanted, dict)
        assert overlay.select(overlay.apply({}), text) == wanted["found"], text
