"""Lists of nodes as SLURM writes them (`n[1,3-4],m7`). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BETWEEN_NODES = re.compile(r"[,\s]+(?![^\[]*\])")


def node_union(present: str, nodes: Iterable[str]) -> str:
    """A list of nodes as SLURM writes it (`n[1,3-4],m7`), and behind it those `nodes` that it does not name so."""
    return ",".join(dict.fromkeys(name for text in (present, *nodes) for name in node_names(text)))


def node_names(text: str) -> tuple[str, ...]:
    """The nodes that a list names, by commas or spaces; `n[1,3-4]` stays one."""
    return tuple(name for name in _BETWEEN_NODES.split(text) if name)
