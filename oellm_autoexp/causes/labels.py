"""What stands before the text of a log line: colours, labels of ranks, times and levels. And the ranks in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_COLOUR = r"(?:\x1b\[[0-9;]*m)"
_RANK = (
    r"(?:\[[\w.-]{1,64}\]:\s{0,2}|\[[Rr]ank[ :=]{1,2}\d{1,9}\]:?\s{0,2}|\[\d{1,9},\d{1,9}\]<\w{1,8}>:\s{0,2}"
    r"|\[[A-Za-z][\w.-]{0,63}:\d{1,9}(?::\d{1,9}){0,3}\]\s{1,2}|[\w-]{0,40}\d:(?!\d)\s{0,2})"
)
_TIME = r"(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,]{0,8}(?:Z|[+-]\d\d:?\d\d)?\]?[ :-]{0,3})"
_LEVEL = r"(?:\[?(?:ERROR|CRITICAL|FATAL|WARNING|INFO)\]?[ :-]{1,3})"
LABELS = rf"^{_COLOUR}?\s{{0,3}}{_RANK}{{0,2}}{_COLOUR}?{_TIME}?{_LEVEL}?"
"""A pattern of all of them, for the beginning of a line.

Ranks: `3: ` of srun --label, `[rank3]: ` of PyTorch, `[default3]:` of torchrun (its local rank), `node7: ` of pdsh,
`[rank: 3] ` of Lightning, `[1,3]<stderr>:` and `[node7:4711] ` of Open MPI.
"""
_HEAD = re.compile(rf"\s{{0,3}}({_RANK}{{1,2}})")
_TASK = re.compile(r"\s*(\d+):")
_GLOBAL = re.compile(r"\[[Rr]ank[ :=]{0,2}(\d+)\]|\[\d+,(\d+)\]<")
_LOCAL = re.compile(r"\[[A-Za-z_]+(\d+)\]:")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")
_TORCH_STAMP = re.compile(r"\[[EWIF](\d{4} \d\d:\d\d:\d\d)")


@dataclass(frozen=True)
class Line:
    """A log line in parts. `label` is what srun, PyTorch or torchrun put before it; numbers None: not in the label."""

    label: str
    text: str
    task: int | None = None
    """The task of the step (SLURM_PROCID), as `srun --label` writes it."""
    rank: int | None = None
    """The global rank, as PyTorch writes it."""
    local_rank: int | None = None
    """The rank on its node, as torchrun writes it."""


def split(line: str) -> Line:
    """A line without colours, and its label apart."""
    line = without_colours(line)
    head = _HEAD.match(line)
    label = head[1] if head else ""
    rank = _number(_GLOBAL.search(label))
    local = None if rank is not None else _number(_LOCAL.search(label))
    start = head.end() if head else 0
    return Line(label.strip(), line[start:], _number(_TASK.match(label)), rank, local)


def _number(found: re.Match[str] | None) -> int | None:
    return None if found is None else int(found[found.lastindex or 1])


def without_colours(line: str) -> str:
    """A line without the escape sequences of colours."""
    return _COLOURS.sub("", line)


def stamp(line: str) -> str:
    """The time in a line, as a text that sorts by time within a year; '' if it has none."""
    if found := _STAMP.search(line):
        return found[0][5:7] + found[0][8:10] + " " + found[0][11:]
    return found[1] if (found := _TORCH_STAMP.search(line)) else ""
