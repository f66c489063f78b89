"""Whether a rule catches what the names of its groups say, in lines that a program is known to print. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from oellm_autoexp.rules.rules import LogEvent
from oellm_autoexp.search.patterns import Pattern, scan


@dataclass(frozen=True)
class Odd:
    """A value that does not look like what it is called: `what` it should be, and the line in which it was caught."""

    key: str
    value: str
    what: str
    line: str


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


_Form = tuple[str, Callable[[str], bool], frozenset[str]]
_PATH: _Form = ("path", lambda text: "/" in text, frozenset({"path", "dir", "directory", "folder", "file"}))
_COUNT: _Form = (
    "whole number",
    lambda text: text.isascii() and text.isdigit(),
    frozenset({"iteration", "iterations", "iter", "step", "steps", "epoch", "rank", "samples"}),
)
_NUMBER: _Form = (
    "number",
    _is_number,
    frozenset({"loss", "lr", "norm", "ppl", "perplexity", "tflops", "throughput", "seconds", "minutes", "tokens"}),
)
_WORDS = re.compile(r"[a-z]+")


def odd_value(rule: LogEvent, lines: Sequence[str]) -> Odd | None:
    """The first value that a rule catches in the lines and that can't be what its name says."""
    if rule.pattern is None or rule.pattern_type == "substring":
        return None
    data = "\n".join(lines).encode()
    for match in scan(data, {"": Pattern.of(rule.pattern)}).matches:
        for key, value in _named(rule, match.groups):
            for what, fits, _ in _forms(key):
                if not fits(value):
                    return Odd(key.removeprefix(_COUNTER), value, what, match.line.strip())
    return None


_COUNTER = "counter "


def _named(rule: LogEvent, groups: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What a match finds, by name; of a progress rule also the number."""
    yield from rule.extracted(groups).items()
    if rule.pattern_type == "progress" and (counter := rule.counter or "1") in groups:
        yield f"{_COUNTER}{counter}", groups[counter]


def _forms(key: str) -> Iterator[_Form]:
    """What a value of this name has to look like; by the last word of the name."""
    if key.startswith(_COUNTER):
        yield _NUMBER
    words = _WORDS.findall(key.lower())
    yield from (form for form in (_PATH, _COUNT, _NUMBER) if words and words[-1] in form[2])
