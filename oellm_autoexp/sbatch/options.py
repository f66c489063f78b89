"""An option of sbatch or srun: its one name for all spellings, its words, its quotes, and lists of nodes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.text import CONTROL, scalar
from oellm_autoexp.sbatch.known_options import OPTIONS, TEXTS

_LONG = {
    "A": "account",
    "B": "extra_node_info",
    "C": "constraint",
    "D": "chdir",
    "F": "nodefile",
    "G": "gpus",
    "H": "hold",
    "J": "job_name",
    "L": "licenses",
    "M": "clusters",
    "N": "nodes",
    "O": "overcommit",
    "Q": "quiet",
    "S": "core_spec",
    "W": "wait",
    "a": "array",
    "b": "begin",
    "c": "cpus_per_task",
    "d": "dependency",
    "e": "error",
    "i": "input",
    "k": "no_kill",
    "m": "distribution",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "s": "oversubscribe",
    "t": "time",
    "v": "verbose",
    "w": "nodelist",
    "x": "exclude",
}
"""The options of one letter (sbatch(1))."""
_WORD = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|[^\s"'#\\])+|#""")
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,@%+\[\]*^~-]*")
_LONG_NUMBER = re.compile(r"(?<![0-9A-Za-z.])\d{19,}", re.ASCII)  # SLURM counts with 64 bits
_LONG_WORD = re.compile(r"[^\s,;:=/\[\]]{1025,}")
_BETWEEN_NODES = re.compile(r"[,\s]+(?![^\[]*\])")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Written:
    """An option in a line: its long name, its value ('': none, or in an unknown form), its begin and end."""

    key: str
    value: str
    start: int
    end: int


def options_in(line: str) -> list[tuple[str, str]]:
    """The options of a directive by their long names, each with its value ('': none, or in an unknown form)."""
    return [(option.key, option.value) for option in written_options(line)]


@lru_cache(maxsize=4096)  # most lines are the same in each job
def written_options(line: str) -> tuple[Written, ...]:
    """The options of a directive up to a `#` outside of quotes, as sbatch reads them."""
    found: list[Written] = []
    for match in _WORD.finditer(line):
        if match.group() == "#":
            break
        text = re.sub(r"""\\(.)|["']""", lambda escaped: escaped[1] or "", match.group())
        if text.startswith("--"):
            key, _, value = text[2:].partition("=")
            found.append(Written(long_name(key), value, *match.span()))
        elif text.startswith("-") and len(text) > 1:
            found.append(Written(long_name(text[1]), text[2:].removeprefix("="), *match.span()))
        elif found and not found[-1].value:
            found[-1] = Written(found[-1].key, text, found[-1].start, match.end())
    return tuple(found)


@lru_cache(maxsize=4096)
def long_name(key: str) -> str:
    """The long name of an option that is spelled by a letter or by its beginning (getopt_long(3))."""
    name = _LONG.get(key, key.replace("-", "_"))
    if len(name) < 2:
        return name
    word = name.replace("_", "-")
    found = [option for option in OPTIONS if option.startswith(word)]
    return found[0].replace("-", "_") if len(found) == 1 and word not in OPTIONS else name


def said_twice(section: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a section that repeat an option in another spelling, each with the first key of that option."""
    first: dict[str, str] = {}
    given = [key for key, value in section.items() if value is not None and value is not False]
    return {key: first[name] for key in given if first.setdefault(name := long_name(key), key) != key}


def twice_problem(key: str, other: str, where: Location) -> Problem:
    """The problem of a key that `said_twice` has found."""
    hint = f"set '{other}' alone, or '{other}: null' beside it"
    return Problem(f"'{key}' and '{other}' are the same option", where, hint)


def option_words(key: str, value: Any) -> list[tuple[str, str, str]]:
    """An option of sbatch or srun as flag, joint and text; empty for null and false. Raises ValueError."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not the name of an option")
    flag, joint = (f"-{key}", "") if len(key) == 1 else (f"--{key.replace('_', '-')}", "=")
    if value is None or value is False:
        return []
    if value is True:
        return [(flag, "", "")]
    text = ",".join(scalar(item) for item in value) if isinstance(value, list) else scalar(value)
    if CONTROL.search(text):
        raise ValueError("the value contains a line break or control character")
    if problem := too_much(key, text):
        raise ValueError(problem)
    return [(flag, joint, text)]


def too_much(key: str, text: str) -> str:
    """Why a value is too large a number for SLURM, or too long for a name; '' if it is not."""
    name = long_name(key)
    numeric = name.replace("_", "-") in OPTIONS and name not in TEXTS
    if numeric and (number := _LONG_NUMBER.search(text)):
        return f"'{number[0][:20]}…' is a number of {len(number[0])} digits, which SLURM does not take"
    if name != "export" and (word := _LONG_WORD.search(text)):
        return f"'{word[0][:20]}…' is a word of {len(word[0])} characters; a name has at most 1024"
    return ""


def quoted(text: str) -> str:
    """`text` as sbatch reads quotes in a directive (get_argument in src/sbatch/opt.c): like a shell's double quotes."""
    return text if _PLAIN.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def node_union(present: str, nodes: Iterable[str]) -> str:
    """A list of nodes as SLURM writes it (`n[1,3-4],m7`), followed by those `nodes` that are not in it by this name."""
    return ",".join(dict.fromkeys(name for text in (present, *nodes) for name in node_names(text)))


def node_names(text: str) -> tuple[str, ...]:
    """The nodes in a list with commas or spaces between them; `n[1,3-4]` stays one."""
    return tuple(name for name in _BETWEEN_NODES.split(text) if name)
