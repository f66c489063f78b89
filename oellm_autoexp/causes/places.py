"""On which node a rank runs: from what srun, torchrun, NCCL and Megatron-LM print, else from the order of the nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

_SRUN = re.compile(r"^srun: error: (?P<nodes>[^\s:]+): tasks? (?P<tasks>[\d,\-]+): (?P<how>.*)")
"""srun(1): a line per node whose tasks ended badly, in the order in which srun learned of them."""
_HOST = re.compile(r"^\s+host\s+: (?P<host>\S+)")
_RANK = re.compile(r"^\s+rank\s+: (?P<rank>\d{1,9}) \(local_rank: (?P<local>\d{1,9})\)")
_EXIT = re.compile(r"^\s+exitcode\s+: (?P<code>-?\d{1,9})")
_FIRST = re.compile(r"^Root Cause \(first observed failure\):")
"""The summary of torch.distributed.elastic (errors/__init__.py, ChildFailedError)."""
_NAMED = re.compile(r"\brank (?P<rank>\d{1,9}), node (?P<node>[\w.-]+), device \d+", re.IGNORECASE)
"""Megatron-LM's rerun state machine."""
_WORLD = re.compile(r"\b(?:world[ _]size|SLURM_NTASKS|n_?tasks)\b[ :=]+(?P<size>\d{1,9})", re.IGNORECASE)
_LAYOUT = re.compile(r"\b(?P<nodes>\d{1,9}) nodes?(?:,| x| with) (?P<each>\d{1,9}) GPUs(?: each)?")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_GROUP = re.compile(r"^(?P<head>[^\[\],]*)\[(?P<ranges>[\d,-]+)\](?P<tail>[^\[\],]*)$")
_MOST_NODES = 10000
CLUE = (
    r"srun: error: |\s+host\s+: |\s+rank\s+: \d|\s+exitcode\s+: |Root Cause \(first|, device \d+"
    r"|[Ww]orld[ _][Ss]ize|WORLD_SIZE|SLURM_NTASKS|\d nodes, \d"
)
"""A pattern of lines that Clues may learn from."""


def expand(nodes: str) -> list[str]:
    """The nodes of a list of SLURM's: `n[1-3,7],login1` is n1, n2, n3, n7, login1. Leading zeros are kept."""
    found: list[str] = []
    for word in re.split(r",(?![^\[]*\])", nodes.replace(" ", "")):
        group = _GROUP.match(word)
        if group is None:
            found += [word] if word and "[" not in word else []
            continue
        for first, last in _RANGE.findall(group["ranges"]):
            for number in range(int(first), int(last or first) + 1)[: _MOST_NODES - len(found)]:
                found.append(f"{group['head']}{number:0{len(first)}d}{group['tail']}")
    return found


def numbers(text: str) -> Iterator[int]:
    """The numbers of a list: `0-3,7`."""
    for first, last in _RANGE.findall(text):
        yield from range(int(first), min(int(last or first), int(first) + _MOST_NODES) + 1)


@dataclass
class Clues:
    """What lines of the logs say about ranks and nodes; filled line by line, with their labels taken off."""

    nodes: Sequence[str] = ()
    """The allocation, in SLURM's order."""
    node_of_task: dict[int, str] = field(default_factory=dict)
    node_of_rank: dict[int, str] = field(default_factory=dict)
    hosts: dict[str, None] = field(default_factory=dict)
    """Hosts that the logs name."""
    first_rank: int | None = None
    """The rank that torchrun observed to fail first."""
    first_exit: int | None = None
    """Its exit code; below zero: the number of a signal."""
    first_task: int | None = None
    """The task that srun reported first."""
    world_size: int | None = None
    _host: str = ""
    _rank: int | None = None
    _in_root: bool = False

    def read(self, text: str) -> None:
        """Learn from a line."""
        if found := _SRUN.match(text):
            self._srun(found)
        elif _FIRST.match(text):
            self._in_root, self._host = True, ""
        elif found := _HOST.match(text):
            self._host = found["host"]
            self.hosts[self._host] = None
        elif found := _RANK.match(text):
            self._rank = int(found["rank"])
            if self._host:
                self.node_of_rank.setdefault(self._rank, self._host)
            if self._in_root and self.first_rank is None:
                self.first_rank = self._rank
        elif found := _EXIT.match(text):
            if self._in_root and self.first_exit is None:
                self.first_exit = int(found["code"])
            self._in_root = False
        else:
            if found := _NAMED.search(text):
                self.node_of_rank.setdefault(int(found["rank"]), found["node"])
                self.hosts[found["node"]] = None
            if self.world_size is None and (found := _WORLD.search(text)):
                self.world_size = int(found["size"])
            elif self.world_size is None and (found := _LAYOUT.search(text)):
                self.world_size = int(found["nodes"]) * int(found["each"])

    def _srun(self, found: re.Match[str]) -> None:
        nodes, tasks = expand(found["nodes"]), list(numbers(found["tasks"]))
        if len(nodes) == 1:
            self.node_of_task.update(dict.fromkeys(tasks, nodes[0]))
        elif len(nodes) == len(tasks):
            self.node_of_task.update(zip(tasks, nodes, strict=True))
        if self.first_task is None and tasks:
            self.first_task = tasks[0]

    # -----------------------------------------------------------------------------------------------------------------

    def named(self, line: str) -> str:
        """The node of the allocation that a line names, if it is one alone; else ''."""
        found = [node for node in self.nodes if re.search(rf"(?<![\w.-]){re.escape(node)}(?![\w-])", line)]
        return found[0] if len(found) == 1 else ""

    def node(self, rank: int | None, task: int | None = None) -> str:
        """The node of a rank or of a task, '' if that is not known."""
        if rank is not None and rank in self.node_of_rank:
            return self.node_of_rank[rank]
        if task is not None and task in self.node_of_task:
            return self.node_of_task[task]
        if rank is not None and task is None and rank in self.node_of_task and not self._launched_by_node:
            return self.node_of_task[rank]
        if len(self.nodes) == 1:
            return self.nodes[0]
        return self._in_order(rank, self.world_size) if rank is not None else self._in_order(task, len(self.nodes))

    def rank_of(self, host: str, device: int) -> int | None:
        """The rank that uses a GPU of a host, where each node has as many ranks as GPUs."""
        node, size = known_node(host, self.nodes), self.world_size
        if node not in self.nodes or not size or size % len(self.nodes) or device >= size // len(self.nodes):
            return None
        return self.nodes.index(node) * (size // len(self.nodes)) + device

    @property
    def _launched_by_node(self) -> bool:
        """Whether a task is a node's launcher (torchrun): there are more ranks than tasks."""
        most = max(self.node_of_task, default=-1) + 1
        return bool(self.node_of_rank) or (
            self.world_size is not None and 0 < most <= len(self.nodes) < self.world_size
        )

    def _in_order(self, number: int | None, count: int | None) -> str:
        """Ranks are in blocks, node by node (srun's default distribution, and torchrun's)."""
        if number is None or not self.nodes or not count or count % len(self.nodes) or number >= count:
            return ""
        return self.nodes[number // (count // len(self.nodes))]


def known_node(name: str, nodes: Iterable[str]) -> str:
    """A host name as SLURM calls the node: without its domain; '' if the allocation does not have it."""
    found = {node: node for node in nodes}
    short = name.partition(".")[0]
    return name if not found else found.get(name, found.get(short, ""))
