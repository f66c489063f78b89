"""On which host a rank runs, as launchers and programs print it when they begin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from oellm_autoexp.causes.hosts import Nodes, numbers
from oellm_autoexp.causes.labels import Line, split

_NAME = r"[A-Za-z][\w.-]*"
_BETWEEN = r"[ ,;|/()\[\]:=\"'-]{0,3}"
_LOCAL = r"(?i:local|node|world)(?:[ _](?i:rank|size))?[ :=]{1,3}\d+"
_RANK = (
    r"(?<!(?i:local ))(?<!(?i:parallel ))(?<!(?i:group ))(?<!(?i:node ))(?:\b|(?<=global_)|(?<=world_))"
    r"(?P<kind>[Rr]ank|RANK|[Tt]ask|TASK)[ :=#_\"']{0,3}(?P<rank>\d{1,9})\b"
)
_OTHERS = (
    r"(?:[ ,;|/()\[\]:=\"'-]{1,3}"
    rf"(?:(?:out of |of )?\d+|(?:has |as )?{_LOCAL}|pid[ :=]\d+|I am|MPI process(?:es)?)){{0,4}}"
)
_WORD = r"(?:[Hh]ost(?:_?name)?|[Nn]ode(?:_?name)?|[Pp]rocessor|ip)"
_ON = (
    r"(?:(?:-+>|=>|→|@)[ \"']{0,2}"
    rf"|(?:(?:is |runs? |running |started |placed )?(?:on|at)\b(?: the)?(?: {_WORD})?|{_WORD}(?: is)?)[ :=\"']{{1,3}})"
)
_RUNS_ON = re.compile(rf"{_RANK}{_OTHERS}{_BETWEEN}{_ON}(?:node |host )?(?P<node>{_NAME}|\d+(?:\.\d+){{3}})(?!\w|:\d)")
_END = r"(?=[ ,;]{0,2}(?:$|[|/()\[]|of\b|out of\b|(?i:local|gpu|cuda|device|world|size|slots?)\b))"
_IS = re.compile(rf"{_RANK} ?[=:] ?(?P<node>{_NAME}){_END}")
_ALONE = re.compile(rf"{_RANK}{_OTHERS}[ ,;|/()\[\]:=\"'-]{{1,3}}(?P<node>{_NAME})\s*$")
"""Without a word between them: `RANK 3 LOCAL 1 n2`."""
_HEADING = r"(?i:ranks?|tasks?|hosts?|nodes?|map|mapping|placement|layout|topology)\b"
_IS_HOST = r"[\"']?\s?(?:[:=]|[-=]?>|→)\s?[\"']?"
_PAIRS = re.compile(rf"(?<![\w.:-])(?:(?i:r|rank|task)[ _]?)?(?P<rank>\d{{1,9}}){_IS_HOST}(?P<node>{_NAME})(?!:\d)")
_LISTS = re.compile(rf"(?<![\w.:-])(?P<node>{_NAME}){_IS_HOST}[\[({{](?P<ranks>\d[\d, -]*)[\])}}]")
"""The whole map in one line: `rank placement 0:n1 1:n1 2:n2`, `hosts n1:[0,1] n2:[2,3]`."""
_OF_RANKS = re.compile(r"(?i:(?<!node[ _])(?<!host[ _])(?<!local[ _])(?P<kind>rank|task))")
"""What a heading says of its numbers: else they are those of ranks only if a host has several of them."""
_HOST_OF = re.compile(
    rf"(?<!\w){_WORD}[ :=\"']{{1,3}}(?P<node>{_NAME}|\d+(?:\.\d+){{3}}){_OTHERS}{_BETWEEN}(?:global[ _])?{_RANK}"
)
_BEFORE = re.compile(rf"(?<![\w.-])(?P<node>{_NAME})[\]:,) ]{{1,3}}(?:global )?{_RANK}{_END}")
_OF_ANOTHER = re.compile(r"(?i:master|head|main|rdzv|rendezvous|endpoint|coordinator|connect|store|peer|remote|addr)")
"""A word before the name of a host that need not be that of the rank behind it: `MASTER_ADDR=n1 RANK=3`."""
_SAYS_HOST = re.compile(rf"(?:hostname|running on|started on)[ :=]{{1,3}}(?P<node>{_NAME})\s*", re.IGNORECASE)
"""What a rank prints behind its label: `3: running on n2`."""
_ASKS_HOSTS = re.compile(r"\bsrun (?:\S+ )*(?:-\w*l\w*|--label) (?:\S+ )*hostname\b")
"""A script that shows its commands; below it: `3: n2`."""
_MAPPING = re.compile(r"global_rank_mapping=.*?\{(?P<pairs>.*)\}")
_PAIR = re.compile(r"'(?P<node>[^']+)': \[(?P<ranks>[\d, ]+)\]")
"""The launcher of DeepSpeed (launcher/launch.py)."""
_OF_AGENT = re.compile(r"^\s*(?:global|role)_ranks=\[(?P<ranks>[\d, ]+)\]")
"""An agent of torchrun (torch/distributed/elastic/agent/server/api.py)."""
_OF_NODE = re.compile(r"Data for node: (?P<node>\S+)\s")
_OF_PROCESS = re.compile(r"Process OMPI jobid: .*Process rank: (?P<rank>\d{1,9})\b")
"""mpirun --display-map of Open MPI: a line for each node, and below it those of its processes."""
_SLOTS = re.compile(rf"^(?P<node>{_NAME}) slots=(?P<slots>\d{{1,4}})\b")
"""A file of hosts, as mpirun and DeepSpeed read it: the first ranks run on the first host."""
_RANK_COLUMN = re.compile(r"(?i:(?:global|world|mpi)?[_ ]?rank|task|procid)")
_HOST_COLUMN = re.compile(r"(?i:host|node)(?i:_? ?name)?")
_RULED = re.compile(r"[-=+|:\s]*")

CLUE = (
    r"global_rank_mapping=|\b(?:global|role)_ranks=\[|Data for node: |Process OMPI jobid: "
    r"|^[A-Za-z][\w.-]* slots=\d"
    r"|(?:[Rr]ank|RANK|[Tt]ask|TASK)[ :=#_\"']{0,3}\d+[ ,;|/()\[\]:=\"'-]{1,3}"
    r"(?:[Ll]ocal|LOCAL|[Ww]orld|WORLD|of |out of|is |run|start|placed|has "
    r"|on\b|at\b|[Hh]ost|HOST|[Nn]ode|NODE|\d|>|@|→|I am|[Pp]roc|pid|ip=|[A-Za-z][\w.-]*\s*$)"
    rf"|{_HEADING}[^\d\n]{{0,40}}?\b\d{{1,9}}{_IS_HOST}{_NAME}[\"']?[ ,;|]{{1,3}}(?i:r|rank|task)?[ _]?\d"
    rf"|{_HEADING}[^\d\n]{{0,40}}?{_NAME}{_IS_HOST}[\[({{]\d[\d, -]*[\])}}][ ,;|]"
    r"|\b[Rr]ank ?\d+ ?[=:] ?[A-Za-z]"
    r"|(?:[Hh]ost|[Nn]ode|name|[Pp]rocessor)[ :=\"']{1,3}[A-Za-z\d][\w.-]*[ ,;|/()\[\]:=\"'-]{1,3}"
    r"(?:local_rank[=:] ?\d+,? ?)?(?:global[ _]|world_)?[Rr]ank"
    r"|[A-Za-z][\w.-]*[\]:,) ]{1,3}(?:global )?[Rr]ank[ :=#]{1,2}\d+[ ,;]{0,2}"
    r"(?:$|[|/()\[]|of |out of|(?:local|gpu|GPU|world|size)\b)"
    r"|(?:[Hh]ostname|[Rr]unning on|[Ss]tarted on)[ :=]{1,3}[A-Za-z][\w.-]*\s*$"
    r"|\bsrun .*\bhostname\b"
    r"|(?i:\b(?:rank|procid)\b[^:=\d]{1,60}\b(?:host|node)(?:_? ?name)?\b[^:=\d]{0,60}$)"
    r"|(?i:\b(?:host|node)(?:_? ?name)?\b[^:=\d]{1,60}\brank\b[^:=\d]{0,60}$)"
)
"""A pattern of lines that Maps may learn from."""


class Place(NamedTuple):
    """A rank, or with `task` a task of the step, and the host on which it runs."""

    number: int
    host: str
    task: bool = False


@dataclass
class Maps:
    """Reads lines one by one; `nodes` are those of the job."""

    nodes: Nodes
    _node: str = ""
    """Of the processes whose lines follow."""
    _slots: dict[str, int] = field(default_factory=dict)

    def read(self, line: Line) -> Iterator[Place]:
        """What a line says."""
        text, whole = line.text, f"{line.label} {line.text}"
        if found := _MAPPING.search(text):
            for node, ranks in _PAIR.findall(found["pairs"]):
                yield from (Place(rank, node) for rank in numbers(ranks))
        elif found := _OF_NODE.search(text):
            self._node = found["node"]
        elif found := _OF_PROCESS.search(text):
            yield Place(int(found["rank"]), self._node)
        elif (found := _SLOTS.search(text)) and self.nodes.known(found["node"]) and found["node"] not in self._slots:
            begin = sum(self._slots.values())
            self._slots[found["node"]] = int(found["slots"])
            yield from (Place(rank, found["node"]) for rank in range(begin, begin + int(found["slots"])))
        elif places := self._whole_map(text):
            yield from places
        elif found := _RUNS_ON.search(text):
            yield Place(int(found["rank"]), found["node"], found["kind"].lower() == "task")
        elif (found := _HOST_OF.search(whole) or _BEFORE.search(whole)) and self._is_node(found["node"]):
            if not _OF_ANOTHER.search(whole, 0, found.start("node")):
                yield Place(int(found["rank"]), found["node"], found["kind"].lower() == "task")
        elif (found := _IS.search(text) or _ALONE.search(text)) and self._is_node(found["node"]):
            yield Place(int(found["rank"]), found["node"], found["kind"].lower() == "task")
        elif found := _SAYS_HOST.fullmatch(text):
            if line.rank is not None:
                yield Place(line.rank, found["node"])
            elif line.task is not None:
                yield Place(line.task, found["node"], task=True)

    def _whole_map(self, text: str) -> Sequence[Place]:
        """Several pairs of a rank and a node of the job in one line, and no other pair; else nothing."""
        kind = _OF_RANKS.search(text)
        task = bool(kind and kind["kind"].lower() == "task")
        pairs = [(int(found["rank"]), found["node"]) for found in _PAIRS.finditer(text)] or [
            (rank, found["node"]) for found in _LISTS.finditer(text) for rank in numbers(found["ranks"])
        ]
        hosts = {host for _, host in pairs}
        of_ranks = kind is not None or len(hosts) < len(pairs)
        several = len(pairs) > 1 and len({number for number, _ in pairs}) == len(pairs)
        if not (several and of_ranks and all(map(self._is_node, hosts))):
            return ()
        return [Place(number, host, task) for number, host in pairs]

    def _is_node(self, host: str) -> bool:
        return bool(self.nodes.names and self.nodes.known(host))

    def table(self, head: str, rows: Iterable[str]) -> Iterator[Place]:
        """What a table says whose head names columns of ranks and of hosts, or what srun answers if asked for hosts."""
        if _ASKS_HOSTS.search(head):
            for line in map(split, rows):
                if line.task is None or not self._is_node(line.text):
                    return
                yield Place(line.task, line.text, task=True)
        names = _cells(head)
        ranks = [number for number, name in enumerate(names) if _RANK_COLUMN.fullmatch(name)]
        hosts = [number for number, name in enumerate(names) if _HOST_COLUMN.fullmatch(name)]
        if len(ranks) != 1 or len(hosts) != 1:
            return
        for row in rows:
            if _RULED.fullmatch(row):
                continue
            ways = (_cells(split(row).text), _cells(row))  # the name of a host looks like docker-compose's of a service
            cells = next((cells for cells in ways if len(cells) == len(names)), ways[0])
            if len(cells) != len(names) or not cells[ranks[0]].isdecimal() or len(cells[ranks[0]]) > 9:
                return
            yield Place(int(cells[ranks[0]]), cells[hosts[0]])


def ranks_of_agent(text: str) -> Sequence[int]:
    """The ranks that an agent of torchrun lists as its own; () if it does not."""
    found = _OF_AGENT.search(text)
    return tuple(numbers(found["ranks"])) if found else ()


def _cells(line: str) -> list[str]:
    between = next((mark for mark in "|,\t" if mark in line), None)
    return [cell.strip() for cell in line.strip().strip("|").split(between)]
