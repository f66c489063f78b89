"""Shell code in values: which parts of a text are code, and which `$` and quotes are plain text. Pure.

Code is what stands literally in the `slurm.env` or `slurm.launcher_cmd` of a YAML file: `$(command)`, `$((1 + 1))` and
`` `command` ``. While a config is composed, each such part is between two marks (`mark_code`). Text from elsewhere (an
interpolation, an override, an action, the environment) has no marks, so it can't become code.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from oellm_autoexp.core.text import Raw
from oellm_autoexp.sbatch.environment import REFERENCE, expanded

Parts = tuple[str, ...]
"""The parts of a text: parts with an odd index are code, the others are text."""

_BEGIN, _END = "\ufdd3", "\ufdd4"  # noncharacters of Unicode, which no text has
_MARKED = re.compile(f"{_BEGIN}([^{_BEGIN}{_END}]*){_END}")
_MARKS = re.compile(f"[{_BEGIN}{_END}]")
_INTERPOLATION = re.compile(r"(\\*)\$\{")
_DEEPEST = 30
CODE_PLACES = ("slurm.env", "slurm.launcher_cmd")
"""The keys below which a YAML file may hold code."""


def has_marks(text: str) -> bool:
    """Whether a text holds one of the marks, which no input may have."""
    return _MARKS.search(text) is not None


# ---------------------------------------------------------------------------------------------------------------------
# Which parts of a text are code


def code_spans(text: str) -> list[tuple[int, int]]:
    """Begin and end of each `$(…)` and `` `…` `` that a shell would evaluate. Raises ValueError if one has no end."""
    spans = []
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text.startswith("$(", at):
            end = _behind(text, at + 2, ")", 0)
            spans.append((at, end))
            at = end
        elif text[at] == "`":
            closing = re.compile(r"(?:[^`\\]|\\.)*`", re.DOTALL).match(text, at + 1)
            if closing is None:
                raise ValueError("the ` is not closed")
            spans.append((at, closing.end()))
            at = closing.end()
        else:
            at += 1
    return spans


def _behind(text: str, at: int, closing: str, depth: int) -> int:
    """The index after the `)` or `"` that closes the bracket or quote before `at`, as a shell reads them."""
    if depth > _DEEPEST:
        raise ValueError("the $( is nested too deeply")
    while at < len(text):
        sign = text[at]
        if sign == closing:
            return at + 1
        if sign == "\\":
            at += 2
        elif sign == "'" and closing == ")":
            at = text.find("'", at + 1) + 1 or len(text)
        elif sign == '"':
            at = _behind(text, at + 1, '"', depth + 1)
        elif text.startswith("$(", at):
            at = _behind(text, at + 2, ")", depth + 1)
        elif sign == "(" and closing == ")":
            at = _behind(text, at + 1, ")", depth + 1)
        else:
            at += 1
    raise ValueError("the $( is not closed, or a quote in it is not closed")


def mark_code(tree: Any, place: str) -> Any:
    """The content of a YAML file with its code marked; its place in the config is a dotted key ('': the root)."""
    if not any(f"{code}.".startswith(f"{place}." if place else "") or f"{place}.".startswith(f"{code}.")
               for code in CODE_PLACES):  # fmt: skip
        return tree
    if isinstance(tree, dict):
        return {key: mark_code(value, f"{place}.{key}" if place else str(key)) for key, value in tree.items()}
    if not any(f"{place}.".startswith(f"{code}.") for code in CODE_PLACES):
        return tree
    if isinstance(tree, list):
        return [mark_code(value, place) for value in tree]
    return _marked(tree) if isinstance(tree, str) else tree


def _marked(text: str) -> str:
    if has_marks(text):  # a mark in the file itself: no code, and removed like all marks
        return text
    try:
        spans = code_spans(text)
    except ValueError:  # reported when the config is composed
        return text
    for begin, end in reversed(spans):
        text = f"{text[:begin]}{_BEGIN}{text[begin:end]}{_END}{text[end:]}"
    return text


def without_marks(tree: Any) -> Any:
    """The tree without marks in its texts."""
    if isinstance(tree, dict):
        return {key: without_marks(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [without_marks(value) for value in tree]
    return _MARKS.sub("", tree) if isinstance(tree, str) and has_marks(tree) else tree


def taken_out(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Parts]]:
    """A composed config without marks, and its code: the parts of each value that has code, by dotted key."""
    slurm = tree.get("slurm")
    code: dict[str, Parts] = {}
    if isinstance(slurm, dict):
        env, launcher = slurm.get("env"), slurm.get("launcher_cmd")
        values = {f"slurm.env.{name}": value for name, value in env.items()} if isinstance(env, dict) else {}
        if isinstance(launcher, list):
            values |= {f"slurm.launcher_cmd.{index}": value for index, value in enumerate(launcher)}
        else:
            values["slurm.launcher_cmd"] = launcher
        code = {
            key: tuple(_MARKED.split(value))
            for key, value in values.items()
            if isinstance(value, str) and _MARKED.search(value)
        }
    return {key: without_marks(value) for key, value in tree.items()}, code


def as_shell_reads(code: str) -> str:
    """Code as a shell gets it: `\\${NAME}` is the shell's `${NAME}`.

    Raises ValueError for an interpolation: its value would become code.
    """

    def escaped(match: re.Match[str]) -> str:
        count = len(match[1])
        if count % 2 == 0:
            what = "a value of the config would become shell code"
            raise ValueError(what)
        return "\\" * ((count - 1) // 2) + "${"

    return _INTERPOLATION.sub(escaped, code)


# ---------------------------------------------------------------------------------------------------------------------
# Code in a script


def in_script(parts: Parts) -> Raw:
    """The parts of a value as one word of a script; code is evaluated, and what it prints is one word."""
    words = (f'"{part}"' if index % 2 else expanded(part) for index, part in enumerate(parts) if part)
    return Raw("".join(words))


def split(text: str) -> list[str]:
    """A launcher's text as words: as a shell splits it, each `$(…)` within one word. No shell runs it.

    Raises ValueError for text that can't be split, and for operators of a shell (`;`, `|`, `&&`, `>`).
    """
    return [_plain(word) for word in _split(_parts(text))]


def split_parts(parts: Parts) -> list[str | Raw]:
    """The parts of a launcher's text as words of a script, with the code in them. Raises as `split`."""
    return [word[0] if len(word) == 1 else in_script(word) for word in _split(parts)]


def _parts(text: str) -> Parts:
    found: list[str] = []
    at = 0
    for begin, end in code_spans(text):
        found += (text[at:begin], text[begin:end])
        at = end
    return (*found, text[at:])


def _plain(parts: Parts) -> str:
    return "".join(parts)


def _split(parts: Parts) -> Iterator[Parts]:
    text = "".join(f"{_BEGIN}{index}{_END}" if index % 2 else without_marks(part) for index, part in enumerate(parts))
    if sign := _operator(text):
        what = f"'{sign}' is shell syntax, but no shell reads this: it is one command"
        raise ValueError(what)
    for word in shlex.split(text):
        pieces = _MARKED.split(word)
        yield tuple(parts[int(piece)] if index % 2 else piece for index, piece in enumerate(pieces))


_OPERATOR = re.compile(r"&&|\|\||[;|&<>]+|\n(?=\s*\S)")
_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"|\\.", re.DOTALL)


def _operator(text: str) -> str:
    """The first operator of a shell outside of quotes that would end the command or redirect its output."""
    found = _OPERATOR.search(_QUOTED.sub(lambda match: "x" * len(match.group()), text))
    return "" if found is None else found.group().replace("\n", "a new line")


# ---------------------------------------------------------------------------------------------------------------------
# Texts with a shell's signs that no shell reads

_SHELLS = frozenset(("sh", "bash", "dash", "ksh", "zsh"))
_OF_JOBS = re.compile(r"\$(?:SLURM_[A-Z0-9_]+|\{SLURM_[A-Z0-9_]+\})")


def read_by_a_shell(words: Iterable[str]) -> frozenset[int]:
    """The indices of words that are scripts of a shell: those after `bash -c`."""
    return _read_by_a_shell(tuple(words))


@lru_cache(maxsize=8)  # a job's program is asked about by several checks
def _read_by_a_shell(words: tuple[str, ...]) -> frozenset[int]:
    found = set()
    for index in [index for index, word in enumerate(words) if word[-2:] == "sh"]:
        if words[index].rpartition("/")[2] in _SHELLS:
            at = index + 1
            while at < len(words) and words[at].startswith("-"):
                if re.fullmatch(r"-[a-zA-Z]*c[a-zA-Z]*", words[at]):
                    found.add(at + 1)
                    break
                at += 1
    return frozenset(found)


def with_variables(words: Sequence[str], *, of_slurm_alone: bool = False) -> list[str | Raw]:
    """Words in which `$NAME` is a variable of the job (`of_slurm_alone`: of SLURM), except in scripts of a shell."""
    pattern = _OF_JOBS if of_slurm_alone else REFERENCE
    found: list[str | Raw] = [*words]
    if meant := [index for index, word in enumerate(words) if "$" in word and pattern.search(word)]:
        shells = read_by_a_shell(words)
        for index in meant:
            if index not in shells:
                found[index] = Raw(expanded(words[index], pattern))
    return found


def stays_text(text: str) -> str:
    """The first `$(` or backtick outside of single quotes in a text that no shell reads; '' if there is none."""
    if "$(" not in text and "`" not in text:
        return ""
    found = re.search(r"(?<!\\)(?:\$\(|`)", re.sub(r"'[^']*'", "", text))
    return found.group() if found else ""
