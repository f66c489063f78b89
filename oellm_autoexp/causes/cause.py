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
    "oom-host": "the memory of a node, or of the job, is used up, shared memory included",
    "nan": "the loss or a gradient is NaN or infinite",
    "data": "training data are missing, damaged or used up",
    "checkpoint": "a checkpoint is missing, damaged, or of another model",
    "code": "an error in the program: an exception, an import, an assertion, a crash of native code",
    "config": "settings or environment can't work: arguments, sizes, containers, modules, commands",
    "network": "connections between ranks fail by themselves",
    "gpu-hardware": "a GPU is broken or gone",
    "node": "a node failed, or can't start tasks",
    "filesystem": "no space, quota, permission, or input and output errors",
    "time": "the time limit was reached",
    "preempted": "the scheduler has given the nodes to another job",
    "killed": "ended by a signal or a person, and nothing shows why",
    "unknown": "neither the logs nor the scheduler show why",
}
"""Each category in a few words."""
BLAMES_NODES = frozenset({"gpu-hardware", "node"})
"""Categories for which the node is at fault, so that a new attempt should not use it."""

INFRASTRUCTURE = BLAMES_NODES | {"network", "filesystem"}
"""Categories that can be the fault of a node, whatever runs there."""
LASTING = frozenset({"oom-gpu", "oom-host", "nan", "data", "checkpoint", "code", "config"})
"""Categories of the workload: a new attempt of the same job, wherever it runs, most likely fails in the same way."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The root cause of a failed attempt.

    `text` is one line for people; `line` is the log's line that shows the cause ('' if none does), at byte `offset` of
    the file `path`. `fingerprint` is equal for the same failure in other ranks, attempts and jobs. `rank` and `node`
    are where it happened, as far as that is known; `blamed_nodes` are nodes that are themselves at fault. `rule` is the
    rule of `monitoring.causes` that found the line, '' if the scheduler's answer alone shows the cause. `repeated`:
    whether the line says that it failed in the same way on another node.
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
    repeated: bool = False
