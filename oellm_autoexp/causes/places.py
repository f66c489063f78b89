"""On which node a rank runs: as launchers and programs print it, else by the order of the nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from oellm_autoexp.causes.hosts import Nodes, expand, numbers
from oellm_autoexp.causes.labels import Line

_SRUN = re.compile(r"^srun: error: (?P<nodes>[^\s:]+): tasks? (?P<tasks>[\d,\-]+): (?P<how>.*)")
"""srun(1): a line for the nodes whose tasks ended in the same bad way, in the order in which srun learned of them."""
_BY_ITSELF = re.compile(r"Exited with|Segmentation fault|Bus error|Illegal instruction|Floating point|Aborted")
_TIME = re.compile(r"^\s+time\s+: (?P<time>\S+)")
_HOST = re.compile(r"^\s+host\s+: (?P<host>\S+)")
_RANK = re.compile(r"^\s+rank\s+: (?P<rank>\d{1,9}) \(local_rank: (?P<local>\d{1,9})\)")
_EXIT = re.compile(r"^\s+exitcode\s+: (?P<code>-?\d{1,9})")
_FIRST = re.compile(r"^Root Cause \(first observed failure\):")
"""The summary of torch.distributed.elastic (errors/__init__.py, ChildFailedError)."""
_BETWEEN = r"[ ,;|/()\[\]:=\"'-]{1,3}"
_NAME = r"[A-Za-z][\w.-]*"
_RUNS_ON = re.compile(
    rf"(?<!ocal )(?<!arallel )(?<!roup )(?<!ode )\b(?P<kind>[Rr]ank|RANK|[Tt]ask)[ :=#_\"']{{0,3}}(?P<rank>\d{{1,9}})\b"
    rf"{_BETWEEN}(?:(?:of )?\d+{_BETWEEN})?(?:local[ _]rank[ :=]{{1,3}}\d+{_BETWEEN})?(?:is |runs? |running |started )?"
    rf"(?:on|at|host|hostname|node)[ :=\"']{{1,3}}(?:node |host )?(?P<node>{_NAME})(?!\w|:\d)"
)
_HOST_OF = re.compile(
    rf"\b(?:[Hh]ost|[Hh]ostname|[Nn]ode)[ :=\"']{{1,3}}(?P<node>{_NAME}){_BETWEEN}(?:global[ _])?[Rr]ank"
    r"[ :=#\"']{0,3}(?P<rank>\d{1,9})\b"
)
"""How programs print on which node a rank runs, when they begin."""
_SAYS_HOST = re.compile(rf"(?:hostname|running on|started on)[ :=]{{1,3}}(?P<node>{_NAME})\s*", re.IGNORECASE)
"""What a rank prints behind its label: `3: running on n2`."""
_ABORTED = re.compile(r"MPICH ERROR \[Rank (?P<rank>\d{1,9})\].*\[(?P<node>[A-Za-z][\w.-]*)\] - Abort")
"""Cray MPICH."""
_MPI_ABORT = re.compile(
    r"\bMPI_ABORT was invoked on rank (?P<rank>\d{1,9})\b|^Abort\(\d+\) on node (?P<node>\d{1,9}) \("
)
"""Open MPI, and MPICH, which calls a rank a node."""
_MAPPING = re.compile(r"global_rank_mapping=.*?\{(?P<pairs>.*)\}")
_PAIR = re.compile(r"'(?P<node>[^']+)': \[(?P<ranks>[\d, ]+)\]")
"""The launcher of DeepSpeed (launcher/launch.py)."""
_ADDRESS = re.compile(r"([A-Za-z][\w.-]*):\d+:\d+ \[\d{1,9}\] NCCL INFO .*?\b[a-z]\w*:(\d{1,3}(?:\.\d{1,3}){3})<")
"""NCCL: `n3:211:877 [2] NCCL INFO Bootstrap: Using ib0:10.0.0.3<0>`."""
_WORLD = re.compile(
    r"(?<!arallel )(?<!arallel_)(?<!roup )\b(?:global_|dist_)?(?:world[ _]sizes?|SLURM_NTASKS|n_?tasks)\b"
    r"[ :=.\[]+(?P<size>\d{1,7})\b|\bMEMBER: \d+/(?P<members>\d{1,7})\b"
    r"|(?<!arallel )(?<!ocal )(?<!roup )(?<!ode )\brank \d{1,7} ?(?:/|of) ?(?P<of>\d{1,7})\b",
    re.IGNORECASE,
)
_LAYOUT = re.compile(
    r"\b(?P<nodes>\d{1,7}) nodes?(?:,| x| \*| with) (?P<each>\d{1,7}) (?:GPUs|ranks|tasks)(?: each)?", re.I
)
_EACH = re.compile(
    r"\b(?:nproc[_-]per[_-]node|GPUS_PER_NODE|gpus[_-]per[_-]node|SLURM_NTASKS_PER_NODE|SLURM_TASKS_PER_NODE"
    r"|n?tasks[_-]per[_-]node)\b[ :=.]+(?P<each>\d{1,5})\b",
    re.IGNORECASE,
)
_MOST_EACH = 128
"""Ranks of a node that are thought possible."""
CLUE = (
    r"srun: error: |\s+time\s+: |\s+host\s+: |\s+rank\s+: \d|\s+exitcode\s+: |Root Cause \(first"
    r"|[Ww]orld[ _][Ss]izes?[ :=.\[]|WORLD_SIZE[ :=]|SLURM_NTASKS|SLURM_TASKS_PER_NODE|\bn_?tasks[ :=]|, MEMBER: \d"
    r"|\d nodes?(?:,| x| \*| with) \d|(?:nproc|gpus|tasks)[_-]per[_-]node[ :=.]|GPUS_PER_NODE[ :=]"
    r"|MPICH ERROR \[Rank|MPI_ABORT was invoked|Abort\(\d+\) on node|global_rank_mapping=|NCCL INFO Bootstrap ?: Using "
    r"|(?:[Rr]ank|RANK|[Tt]ask)[ :=#_\"']{0,3}\d+[ ,;|/()\[\]:=\"'-]{1,3}"
    r"(?:local[ _]rank|of |is |run|started|on|at|host|node|\d)"
    r"|(?:[Hh]ost|[Nn]ode|[Hh]ostname)[ :=\"']{1,3}[A-Za-z][\w.-]*[ ,;|/()\[\]:=\"'-]{1,3}(?:global[ _])?[Rr]ank"
    r"|(?:[Hh]ostname|[Rr]unning on|[Ss]tarted on)[ :=]{1,3}[A-Za-z][\w.-]*\s*$"
)
"""A pattern of lines that Clues may learn from."""


@dataclass
class _Summary:
    """What has been read of one failure in a summary of torchrun."""

    in_root: bool = False
    time: str = ""
    host: str = ""
    rank: int | None = None
    local: int | None = None


@dataclass
class Clues:
    """What lines of the logs say about ranks and nodes; filled line by line, with their labels taken off."""

    nodes: Nodes = field(default_factory=Nodes)
    """The allocation."""
    node_of_task: dict[int, str] = field(default_factory=dict)
    node_of_rank: dict[int, str] = field(default_factory=dict)
    """'' for a rank of which there are different reports."""
    node_of_address: dict[str, str] = field(default_factory=dict)
    local_of_rank: dict[int, int] = field(default_factory=dict)
    first_rank: int | None = None
    """The rank that failed first: by the earliest time in a summary of torchrun, else the first that aborted MPI."""
    first_exit: int | None = None
    """Its exit code; below zero: the number of a signal."""
    first_task: int | None = None
    """The task that srun reported first."""
    world_size: int | None = None
    each: int | None = None
    """Ranks of a node, as a launcher was asked for."""
    largest_rank: int = -1
    elastic: bool = False
    """Whether torchrun has launched the ranks: then srun's tasks are its agents, one for each node."""
    _first_time: str = ""
    _reported: dict[str, dict[int, None]] = field(default_factory=dict)
    """By node: the tasks that srun reported."""
    _ended: dict[str, None] = field(default_factory=dict)
    """Nodes with tasks that ended by themselves, and not as srun ended them."""
    _exited: dict[str, None] = field(default_factory=dict)
    """Nodes with tasks that ended with an exit code."""
    _summaries: dict[str, _Summary] = field(default_factory=dict)
    """By the label of their lines, as the agents of several nodes may write at once."""

    def read(self, line: Line) -> None:
        """Learn from a line."""
        if found := _SRUN.match(line.text):
            self._srun(found)
        elif not self._summary(line.text, self._summaries.setdefault(line.label, _Summary())):
            self._sizes(line.text)
            self._places(line)

    def _srun(self, found: re.Match[str]) -> None:
        nodes, tasks = expand(found["nodes"]), list(numbers(found["tasks"]))
        if len(nodes) == 1:
            self.node_of_task.update(dict.fromkeys(tasks, nodes[0]))
        elif len(nodes) == len(tasks):
            self.node_of_task.update(zip(tasks, nodes, strict=True))
        if self.first_task is None and tasks:
            self.first_task = tasks[0]
        for node in nodes:
            self._reported.setdefault(node, {}).update(dict.fromkeys(tasks))
        if _BY_ITSELF.match(found["how"]):
            self._ended.update(dict.fromkeys(nodes))
        if found["how"].startswith("Exited"):
            self._exited.update(dict.fromkeys(nodes))

    def _summary(self, text: str, now: _Summary) -> bool:
        """Read a line of torchrun's summary; False if it is none."""
        if _FIRST.match(text):
            now.in_root, now.time, now.host, now.rank, now.local = True, "", "", None, None
        elif found := _TIME.match(text):
            now.time, now.host = found["time"], ""
        elif found := _HOST.match(text):
            now.host = found["host"]
        elif found := _RANK.match(text):
            self.elastic = True
            now.rank, now.local = int(found["rank"]), int(found["local"])
            self.local_of_rank[now.rank] = now.local
            if now.host:
                self.runs_on(now.rank, now.host)
        elif found := _EXIT.match(text):
            earlier = self.first_exit is None or "" < now.time < self._first_time
            if now.in_root and now.rank is not None and earlier:
                self.first_rank, self.first_exit, self._first_time = now.rank, int(found["code"]), now.time
            now.in_root = False
        else:
            return False
        return True

    def _sizes(self, text: str) -> None:
        sizes = [int(size) for found in _WORLD.finditer(text) for size in found.groups() if size]
        sizes += [int(found["nodes"]) * int(found["each"]) for found in _LAYOUT.finditer(text)]
        if sizes:  # those of groups of ranks are smaller
            self.world_size = max(self.world_size or 0, *sizes)
        if each := [int(found["each"]) for found in _EACH.finditer(text)]:
            self.each = max(self.each or 0, *each)

    def _places(self, line: Line) -> None:
        text = line.text
        if found := _ABORTED.search(text):
            self.runs_on(int(found["rank"]), found["node"])
            self.first_rank = int(found["rank"]) if self.first_rank is None else self.first_rank
        elif found := _MPI_ABORT.search(text):
            self.first_rank = int(found["rank"] or found["node"]) if self.first_rank is None else self.first_rank
        elif found := _ADDRESS.search(text):
            self.node_of_address.setdefault(found[2], found[1])
            if line.rank is not None:
                self.runs_on(line.rank, found[1])
        elif found := _MAPPING.search(text):
            for node, ranks in _PAIR.findall(found["pairs"]):
                for rank in numbers(ranks):
                    self.runs_on(rank, node)
        elif found := _RUNS_ON.search(text) or _HOST_OF.search(text):
            self.runs_on(int(found["rank"]), found["node"], task=found.groupdict().get("kind", "").lower() == "task")
        elif found := _SAYS_HOST.fullmatch(text):
            if line.rank is not None:
                self.runs_on(line.rank, found["node"])
            elif line.task is not None:
                self.runs_on(line.task, found["node"], task=True)

    def runs_on(self, rank: int, host: str, *, task: bool = False) -> None:
        """Learn on which host a rank, or a task, runs."""
        node = self.nodes.known(host)
        if node and task:
            self.node_of_task.setdefault(rank, node)
        elif node:
            self.largest_rank = max(self.largest_rank, rank)
            self.node_of_rank[rank] = node if self.node_of_rank.get(rank, node) == node else ""

    # -----------------------------------------------------------------------------------------------------------------

    def has_files_of(self, ranks: Iterable[int | None]) -> None:
        """Learn from the ranks whose files there are: if these are all from 0 on, so many ranks there are."""
        found = {rank for rank in ranks if rank is not None}
        self.largest_rank = max([self.largest_rank, *found])
        if self.world_size is None and len(found) > 1 and found == set(range(len(found))):
            self.world_size = len(found)

    def has_rank(self, rank: int | None) -> None:
        """Learn that there is a rank."""
        self.largest_rank = max(self.largest_rank, -1 if rank is None else rank)

    def known(self, host: str) -> str:
        """A host, or its address, as SLURM calls the node; '' if the job does not have it."""
        return self.nodes.known(self.node_of_address.get(host, host)) if host else ""

    def node(self, rank: int | None, task: int | None = None) -> str:
        """The node of a rank or of a task, '' if that is not known."""
        if rank is not None and rank in self.node_of_rank:
            return self.node_of_rank[rank]
        tasks = self.node_of_task
        if task is not None and task in tasks:
            return self.known(tasks[task])
        if rank is not None and task is None and rank in tasks and not self.launched_by_node:
            return self.known(tasks[rank])
        if len(self.nodes.names) == 1:
            return self.nodes.names[0]
        if rank is not None:
            return self._in_order(rank)
        return self.nodes.names[task] if task is not None and task < len(self.nodes.names) else ""

    def rank_of(self, host: str, device: int) -> int | None:
        """The rank that uses a GPU of a host, where each node has as many ranks as GPUs."""
        number, sizes = self.nodes.index.get(self.known(host)), self._block_sizes()
        return number * sizes[0] + device if number is not None and len(sizes) == 1 and device < sizes[0] else None

    def rank_on_node(self, local: int, task: int | None) -> int | None:
        """The rank that is the local one of this number: of the node of a task, or of the one that failed first."""
        if self.first_rank is not None and self.local_of_rank.get(self.first_rank) == local:
            return self.first_rank
        sizes = self._block_sizes()
        if task is not None and len(sizes) == 1:
            return task * sizes[0] + local
        return local if len(self.nodes.names) < 2 else None

    @property
    def ended_alone(self) -> tuple[int | None, str]:
        """The rank and the node of the process that ended by itself, if srun reports such ones of one node alone."""
        for nodes in (self._exited, self._ended, self._reported):
            if len(nodes) == 1 and (node := self.known(next(iter(nodes)))):
                tasks = list(self._reported[next(iter(nodes))])
                return (tasks[0] if len(tasks) == 1 and not self.launched_by_node else None), node
        return None, ""

    @property
    def launched_by_node(self) -> bool:
        """Whether a task is a node's launcher (torchrun): there are more ranks than tasks."""
        tasks = max(self.node_of_task, default=-1) + 1
        ranks = max(self.world_size or 0, self.largest_rank + 1)
        return self.elastic or 0 < tasks <= len(self.nodes.names) < ranks

    def _in_order(self, rank: int) -> str:
        """Ranks are in blocks, node by node (srun's default distribution, and torchrun's), unless the logs differ.

        Where they do not say how many a node has, each number is tried that fits, and also that the ranks are dealt
        out to the nodes one by one; the node is known if all of that leads to the same one.
        """
        names, pairs = self.nodes.names, self._pairs()
        found = {names[rank // size] if rank // size < len(names) else "" for size in self._block_sizes()}
        undecided = self.world_size is None and self.each is None
        if undecided and names and all(other % len(names) == number for other, number in pairs.items()):
            found.add(names[rank % len(names)])
        return found.pop() if len(found) == 1 else ""

    def _block_sizes(self) -> Sequence[int]:
        """How many ranks a node may have, by all that the logs say."""
        count, pairs = len(self.nodes.names), self._pairs()
        if not count:
            return ()
        sizes: Iterable[int] = range(1, _MOST_EACH + 1)
        if self.world_size is not None and self.world_size >= count:
            sizes = (self.world_size // count,) if self.world_size % count == 0 else ()
        elif self.each is not None:
            sizes = (self.each,)
        return [size for size in sizes if self._fits(size, pairs)]

    def _fits(self, size: int, pairs: Mapping[int, int]) -> bool:
        in_place = all(rank // size == number for rank, number in pairs.items())
        local = all(rank % size == number for rank, number in self.local_of_rank.items())
        return in_place and local and self.largest_rank < size * len(self.nodes.names)

    def _pairs(self) -> Mapping[int, int]:
        """The numbers of nodes, by rank, as far as the logs say them."""
        known = {} if self.launched_by_node else {task: self.known(host) for task, host in self.node_of_task.items()}
        index = self.nodes.index
        return {rank: index[node] for rank, node in {**known, **self.node_of_rank}.items() if node in index}
