"""On which node a rank runs: as launchers and programs print it (maps.py), else by the order of the nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from oellm_autoexp.causes import maps
from oellm_autoexp.causes.hosts import Nodes, expand, numbers
from oellm_autoexp.causes.labels import Line

_SRUN = re.compile(r"^srun: error: (?P<nodes>[^\s:]+): tasks? (?P<tasks>[\d,\-]+): (?P<how>.*)")
"""srun(1): a line for the nodes whose tasks ended in the same bad way, in the order in which srun learned of them."""
_AGREED = frozenset({16, 17})
"""Exit codes with which all ranks of Megatron-LM end at once, as one of them has found a bad result: nothing follows
from the order in which they end (megatron/core/rerun_state_machine.py)."""
_EXITED = re.compile(r"Exited with exit code (\d{1,3})$")
_SIGNALS = 128
"""Exit codes above it are those of signals."""
_BY_ITSELF = re.compile(r"Exited with|Segmentation fault|Bus error|Illegal instruction|Floating point|Aborted")
_TIME = re.compile(r"^\s+time\s+: (?P<time>\S+)")
_HOST = re.compile(r"^\s+host\s+: (?P<host>\S+)")
_RANK = re.compile(r"^\s+rank\s+: (?P<rank>\d{1,9}) \(local_rank: (?P<local>\d{1,9})\)")
_EXIT = re.compile(r"^\s+exitcode\s+: (?P<code>-?\d{1,9})")
_FIRST = re.compile(r"^Root Cause \(first observed failure\):")
"""The summary of torch.distributed.elastic (errors/__init__.py, ChildFailedError)."""
_MEGATRON = re.compile(r"RerunStateMachine|rerun_state_machine:|\bpretrain_\w+\.py FAILED")
_ABORTED = re.compile(r"MPICH ERROR \[Rank (?P<rank>\d{1,9})\].*\[(?P<node>[A-Za-z][\w.-]*)\] - Abort")
"""Cray MPICH."""
_MPI_ABORT = re.compile(
    r"\bMPI_ABORT was invoked on rank (?P<rank>\d{1,9})\b|^Abort\(\d+\) on node (?P<node>\d{1,9}) \("
)
"""Open MPI, and MPICH, which calls a rank a node."""
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
_TASKS = re.compile(
    r"\bSLURM_NTASKS\b[ :=]+(?P<all>\d{1,7})\b"
    r"|(?:\b|SLURM_)n?tasks[_-]per[_-]node\b[ :=]+(?P<each>\d{1,5})(?!\S*,)",
    re.IGNORECASE,
)
"""Tasks of the job, or of each of its nodes (sbatch(1), OUTPUT ENVIRONMENT VARIABLES): `4(x2)` is 4 on both nodes."""
_MOST_EACH = 128
"""Ranks of a node that are thought possible."""
CLUE = (
    r"RerunStateMachine|rerun_state_machine:|pretrain_\w+\.py FAILED"
    r"|srun: error: |\s+time\s+: |\s+host\s+: |\s+rank\s+: \d|\s+exitcode\s+: |Root Cause \(first"
    r"|[Ww]orld[ _][Ss]izes?[ :=.\[]|WORLD_SIZE[ :=]|SLURM_NTASKS|SLURM_TASKS_PER_NODE|\bn_?tasks[ :=]|, MEMBER: \d"
    r"|\d nodes?(?:,| x| \*| with) \d|(?:nproc|gpus|tasks)[_-]per[_-]node[ :=.]|GPUS_PER_NODE[ :=]"
    r"|MPICH ERROR \[Rank|MPI_ABORT was invoked|Abort\(\d+\) on node|NCCL INFO Bootstrap ?: Using "
    rf"|{maps.CLUE}"
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
    own_exit: int | None = None
    """Its exit code, if it ended by itself: with a code that is no signal's, and before any line about an end."""
    killed: bool = False
    """Whether a line has said that the job, or a process of it, is ended."""
    world_size: int | None = None
    each: int | None = None
    """Ranks of a node, as a launcher was asked for."""
    tasks_each: set[int] = field(default_factory=set)
    """Tasks of a node, as SLURM's variables and options say; several of them if steps differ."""
    largest_rank: int = -1
    largest_task: int = -1
    megatron: bool = False
    """Whether Megatron-LM is the program, by its lines."""
    elastic: bool = False
    """Whether torchrun has launched the ranks: then srun's tasks are its agents, one for each node."""
    _maps: maps.Maps = field(init=False)
    _first_time: str = ""
    _reported: dict[str, dict[int, None]] = field(default_factory=dict)
    """By node: the tasks that srun reported."""
    _ended: dict[str, None] = field(default_factory=dict)
    """Nodes with tasks that ended by themselves, and not as srun ended them."""
    _exited: dict[str, None] = field(default_factory=dict)
    """Nodes with tasks that ended with an exit code."""
    _summaries: dict[str, _Summary] = field(default_factory=dict)
    """By the label of their lines, as the agents of several nodes may write at once."""

    def __post_init__(self) -> None:
        self._maps = maps.Maps(self.nodes)

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
        if (exited := _EXITED.match(found["how"])) and int(exited[1]) in _AGREED:
            self.first_exit = int(exited[1]) if self.first_exit is None else self.first_exit
            return
        self.has_tasks(tasks)
        if self.first_task is None and tasks:
            self.first_task = tasks[0]
            code = int(exited[1]) if exited else _SIGNALS
            self.own_exit = code if code < _SIGNALS and not self.killed else None
        for node in nodes:
            self._reported.setdefault(node, {}).update(dict.fromkeys(tasks))
        if _BY_ITSELF.match(found["how"]):
            self._ended.update(dict.fromkeys(nodes))
        if found["how"].startswith("Exited"):
            self._exited.update(dict.fromkeys(nodes))

    def _summary(self, text: str, now: _Summary) -> bool:
        """Read a line of torchrun's summary; False if it is none."""
        if _MEGATRON.search(text):
            self.megatron = True
        elif _FIRST.match(text):
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
                self.first_exit, self._first_time = int(found["code"]), now.time
                self.first_rank = None if self.first_exit in _AGREED else now.rank
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
        count = len(self.nodes.names)
        for found in _TASKS.finditer(text):
            if found["each"]:
                self.tasks_each.add(int(found["each"]))
            elif count and int(found["all"]) % count == 0:
                self.tasks_each.add(int(found["all"]) // count)

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
        elif ranks := maps.ranks_of_agent(text):
            self.elastic = True
            node = self.nodes.known(line.label.strip("[]: ")) if self.nodes.names else ""
            for rank in ranks:
                self.runs_on(rank, node or self.node(None, line.task))
        else:
            self._learn(self._maps.read(line))

    def read_table(self, head: Line, rows: Iterable[str]) -> None:
        """Learn from a table of ranks and hosts, if a line is the head of one, and the lines below it."""
        self._learn(self._maps.table(head.text, rows))

    def _learn(self, places: Iterable[maps.Place]) -> None:
        for place in places:
            self.runs_on(place.number, place.host, task=place.task)

    def runs_on(self, rank: int, host: str, *, task: bool = False) -> None:
        """Learn on which host a rank, or a task, runs."""
        node = self.known(host)
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

    def has_tasks(self, tasks: Iterable[int]) -> None:
        """Learn that there are tasks of a step."""
        self.largest_task = max([self.largest_task, *tasks])

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

    def of_task(self, task: int) -> str:
        """The node of a task that could not be launched, '' if that is not known.

        srun's default distribution gives tasks to nodes in blocks. As many tasks as a node has GPUs are only supposed
        where there are more tasks than nodes: else each may be the launcher of a node's ranks.
        """
        names = self.nodes.names
        if task in self.node_of_task or len(names) == 1:
            return self.known(self.node_of_task.get(task, names[0] if names else ""))
        if len(self.tasks_each) == 1:
            (size,) = self.tasks_each
            return names[task // size] if size > 0 and task // size < len(names) else ""
        return self._in_order(task) if not self.tasks_each and self.largest_task >= len(names) else ""

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
