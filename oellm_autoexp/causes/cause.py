"""What is concluded about a failed attempt: one root cause, of one of these categories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Category = Literal[
    "oom-gpu",
    "oom-host",
    "nan",
    "data",
    "checkpoint",
    "code",
    "config",
    "network",
    "gpu-hardware",
    "node",
    "filesystem",
    "time",
    "preempted",
    "killed",
    "unknown",
]
CATEGORIES: tuple[str, ...] = get_args(Category)
MEANINGS: dict[str, str] = {
    "oom-gpu": "a GPU has no memory left",
    "oom-host": "a node has no memory left, or the job has used what it asked for",
    "nan": "the loss or a gradient is NaN or infinite",
    "data": "training data are missing, damaged or used up",
    "checkpoint": "a checkpoint can't be read, is incomplete, or does not fit the model",
    "code": "an error in the program: an exception, an assertion, a crash of native code",
    "config": "arguments, environment or container do not fit: an unknown option, a missing module",
    "network": "ranks can't reach each other",
    "gpu-hardware": "a GPU or its driver is broken",
    "node": "a node is broken or gone",
    "filesystem": "a file system is full, unreachable, or denies access",
    "time": "the time limit was reached",
    "preempted": "the scheduler has taken the nodes for another job",
    "killed": "a person or a program has ended it",
    "unknown": "neither the logs nor the scheduler show why",
}
"""Each category in a few words."""
BLAMES_NODES = frozenset({"gpu-hardware", "node"})
"""Categories for which the node is at fault, so that a new attempt should not use it."""


LASTING = frozenset({"oom-gpu", "oom-host", "nan", "data", "checkpoint", "code", "config"})
"""Categories of the workload: a new attempt of the same job, wherever it runs, most likely fails in the same way."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The root cause of a failed attempt.

    `text` is one line for people; `line` is the log's line that shows the cause ('' if none does), at byte `offset` of
    the file `path`. `fingerprint` is equal for the same failure in other ranks, attempts and jobs. `rank` and `node`
    are where it happened, as far as that is known; `blamed_nodes` are nodes that are themselves at fault. `rule` is the
    rule of `monitoring.causes` that found the line, '' if the scheduler's answer alone shows the cause.
    """

    category: str
    text: str
    fingerprint: str
    rule: str = ""
    line: str = ""
    path: str = ""
    offset: int = 0
    rank: int | None = None
    node: str = ""
    blamed_nodes: tuple[str, ...] = ()
