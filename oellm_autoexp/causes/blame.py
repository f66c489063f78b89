"""On which rank and node a line was written, or of which one it speaks, and which nodes are at fault."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from oellm_autoexp.causes.cause import BLAMES_NODES, INFRASTRUCTURE
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.fingerprint import PATH, plain
from oellm_autoexp.causes.hosts import expand, numbers
from oellm_autoexp.causes.labels import split
from oellm_autoexp.causes.places import Clues
from oellm_autoexp.causes.rule import CauseRule
from oellm_autoexp.causes.signs import LogText, Sign, window

_RANK = re.compile(
    r"(?<!ocal )(?<!arallel )(?<!roup )(?<!ode )(?:\b|(?<=global_))(?i:rank)[ :=#_-]{0,2}(\d{1,9})\b(?!\.[a-z])"
)
_OF_THE_JOB = re.compile(r"^(?:srun|salloc): | DUE TO ")
"""Lines of the scheduler about the whole job: they speak of other nodes than the one where they were written."""
_BATCH_SCRIPT = re.compile(r"^\S*/slurm_script: line \d+: ")
"""What the shell writes that runs the batch script, which is on the first node (sbatch(1))."""
_PEER = re.compile(
    r"(?:\bpeer|\b[Cc]onnect(?:ion)? to|\bremote(?:[ _](?:host|peer|address))?[ :=]) ?\[?"
    r"(?P<host>[A-Za-z][\w.-]*|\d{1,3}(?:\.\d{1,3}){3})"
)
_BY_PROCESS = re.compile(r"(?i:refused|reset|closed)")
"""The other end of a connection is there, and only the process is not."""
_OTHER_PROCESS = re.compile(r"\bProcess (?P<pid>\d{1,9}) has (?P<size>[\d.]+) (?P<unit>[KMG])iB memory in use")
_THIS_PROCESS = re.compile(r"\bthis process has (?P<size>[\d.]+) (?P<unit>[KMG])iB memory in use")
"""PyTorch, of a GPU without memory (c10/cuda/CUDACachingAllocator.cpp)."""
_UNITS = {"K": 2**-20, "M": 2**-10, "G": 1.0}
_IN_NAME = re.compile(r"[_.]+|-(?=\D)")
"""What stands around the name of a node in that of a file."""
_AFTER_BYTES = 1000


def rank_of(sign: Sign, clues: Clues) -> int | None:
    """The rank of a line, by what itself says."""
    if sign.rank is not None:
        return sign.rank
    if sign.device is not None:
        return next((rank for host in sign.hosts if (rank := clues.rank_of(host, sign.device)) is not None), None)
    if sign.label.local_rank is not None and not any(clues.nodes.names and clues.known(host) for host in sign.hosts):
        return clues.rank_on_node(sign.label.local_rank, sign.task)
    words = PATH.sub(" ", sign.text)  # the rank in the name of a file may be that of another one, which wrote it
    return int(found[1]) if (found := _RANK.search(words)) else None


def learn(signs: Iterable[Sign], clues: Clues) -> None:
    """Let clues learn from lines in which a program names its host, behind a label that names its rank."""
    for sign in signs:
        rank = sign.label.rank if sign.label.rank is not None else sign.file_rank
        clues.has_rank(rank if rank is not None else sign.rank)
        clues.has_tasks(numbers(sign.groups.get("tasks", "")))
        if rank is not None and clues.nodes.names and (host := next(sign.writers, "")):
            clues.runs_on(rank, host)


@dataclass(frozen=True)
class Placing:
    """Finds the place of a line, by all that the logs say."""

    clues: Clues
    texts: Sequence[LogText]
    signs: Sequence[Sign] = ()

    def of(self, sign: Sign) -> tuple[int | None, str]:
        """The rank and the node of a line: as it says, else those of the process that was reported to fail first."""
        clues, rule = self.clues, sign.rule
        node = self._written(sign)
        if rule.category == "node" and _OF_THE_JOB.search(sign.text):  # whoever has written it is well
            return None, node or clues.node(None)
        rank = rank_of(sign, clues)
        if not node and rank is None and sign.task is None and (node := self._reported(rule)):
            return None, node
        first = clues.first_task if clues.first_rank is None and rule.category == "oom-host" else clues.first_rank
        if rank is None and (not node or clues.node(first) == node):
            rank = first
        if rank is None and node and clues.ended_alone[1] == node:
            rank = clues.ended_alone[0]
        if node and rank is not None and clues.node(rank) not in ("", node):
            rank = None  # a rank that writes about another node
        node = node or clues.node(rank, sign.task) or self._of_file(sign.source)
        if node or not rule.at_fault or rank in clues.node_of_rank:
            return rank, node
        node = clues.nodes.alone(sign.line) or clues.nodes.around(*self._around(sign))
        if not node and not sign.label.label and _BATCH_SCRIPT.search(sign.text):
            node = next(iter(clues.nodes.names), "")
        return clues.ended_alone if not node and rank is None else (rank, node)

    def is_nowhere(self, sign: Sign) -> bool:
        """Whether neither a line nor its file says who has written it."""
        own = self._written(sign) or rank_of(sign, self.clues) is not None or sign.task is not None
        return not (own or sign.label.label or self._of_file(sign.source))

    def named(self, sign: Sign) -> list[str]:
        """The nodes in the group `node` of its rule, that of the number `node_number`, or those of `tasks`."""
        names = self.clues.nodes.names
        if tasks := sign.groups.get("tasks"):
            nodes = dict.fromkeys(map(self.clues.of_task, numbers(tasks)))
            return [] if "" in nodes else list(nodes)
        number = sign.groups.get("node_number", "")
        if number.isdecimal() and len(number) <= len(str(len(names))) and int(number) < len(names):
            return [names[int(number)]]
        group = sign.groups.get("node", "")
        node = "" if "," in group or "[" in group else self.clues.known(group)
        return [node] if node else self.clues.nodes.of_list(group)

    def _written(self, sign: Sign) -> str:
        """The node that a line names: one that is at fault, else that of the program that has written it."""
        named = self.named(sign)
        if not named and sign.rule.at_fault and (sign.rule.category in BLAMES_NODES or sign.rule.role == "confirms"):
            named = self.clues.nodes.named(sign.text)
        if len(named) > 1:
            named = self.clues.nodes.failing(sign.text)
        if len(named) == 1:
            return named[0]
        return next((node for host in sign.hosts if (node := self.clues.known(host))), "")

    def _reported(self, rule: CauseRule) -> str:
        """The node that lines which name their node say is at fault, such as the kernel's, if it is one.

        It goes before what follows from the order of events: the rank that was the first to end may not have been
        where a line without a label was written.
        """
        if rule.category not in INFRASTRUCTURE or rule.blames_node is False:
            return ""
        alike = (sign for sign in self.signs if sign.rule.category == rule.category and sign.rule.at_fault)
        nodes = {node for sign in alike if (node := self._written(sign))}
        return nodes.pop() if len(nodes) == 1 else ""

    def _of_file(self, source: int) -> str:
        """The node that the name of a file says, where there are files of several nodes."""
        nodes = self._nodes_of_files
        return nodes[source] if len({*nodes} - {""}) > 1 else ""

    @cached_property
    def _nodes_of_files(self) -> Sequence[str]:
        return [self.clues.nodes.alone(_IN_NAME.sub(" ", text.path.rpartition("/")[2])) for text in self.texts]

    def _around(self, sign: Sign) -> tuple[list[str], list[str]]:
        """Lines before a line and after it, of the same label or without one."""
        text = self.texts[sign.source]
        _, lines, last = window(sign, text)
        after = text.data[sign.offset : sign.offset + len(sign.line) + _AFTER_BYTES].decode(errors="replace")
        before, below = ([split(line) for line in part] for part in (lines[:last], after.split("\n")[1:-1]))
        own = ("", sign.label.label)
        return [line.text for line in before if line.label in own], [line.text for line in below if line.label in own]


def blamed(root: Sign, node: str, signs: Sequence[Sign], ending: Ending, placed: Placing) -> tuple[str, ...]:
    """The nodes at fault: those that the scheduler names as failed, else those of the line, if its rule blames them."""
    category = root.rule.category
    failed = tuple(expand(ending.failed_nodes))
    if root.rule.blames_node == "several":
        return _of_several(root, signs, placed) or failed
    if root.rule.blames_node == "alone":
        alone = _of_several(root, signs, placed) or _of_one(root, node, signs, placed)
        return alone or _of_others(root, signs, placed) or failed
    if root.rule.blames_node == "other_process":
        return _of_other_process(root, node, signs, placed) or failed
    if root.rule.blames_node == "former":
        return _of_former(root, node, signs, placed) or failed
    if category == "node" and failed:
        return failed
    if category == "network":
        return _of_network(root, signs, placed) or failed
    if category == "filesystem":
        return _of_filesystem(root, node, signs, placed) or failed
    if root.rule.at_fault:
        return _of_rule(root, node, signs, placed) or failed
    if root.rule.blames_node is None:  # nothing clears the node: another line of this failure may blame one
        return _of_others(root, signs, placed) or failed
    return failed


def of_ending(category: str, signs: Sequence[Sign], ending: Ending, placed: Placing) -> tuple[str, ...]:
    """The nodes at fault where the scheduler's answer shows the cause: those it or a line names, or the only one."""
    if category not in BLAMES_NODES:
        return ()
    named = [node for sign in signs if sign.rule.category == category for node in placed.named(sign)]
    names = placed.clues.nodes.names
    return tuple(expand(ending.failed_nodes)) or tuple(dict.fromkeys(named)) or tuple(names if len(names) == 1 else ())


def _of_several(root: Sign, signs: Sequence[Sign], placed: Placing) -> tuple[str, ...]:
    """The node of which several ranks report this, where no other node does: by their labels, else by srun."""
    rule = root.rule
    alike = [s for s in signs if (s.rule.blames_node, s.rule.category) == (rule.blames_node, rule.category)]
    if len(placed.clues.nodes.names) < 2 or len(alike) < 2:
        return ()
    places = {placed.of(sign) for sign in alike}
    nodes = {node for _, node in places}
    if nodes == {""} and {rank for rank, _ in places} == {None}:
        rank, node = placed.clues.ended_alone
        return (node,) if node and rank is None else ()
    return tuple(nodes - {""}) if len(nodes) == 1 and len(places) > 1 else ()


def _of_one(root: Sign, node: str, signs: Sequence[Sign], placed: Placing) -> tuple[str, ...]:
    """The node that alone reports this, where ranks of another one show that they wait for those that ended."""
    alike = {placed.of(sign)[1] for sign in signs if sign.name == root.name}
    waiting = (sign for sign in signs if sign.rule.category in ("network", "unknown") and sign.name != root.name)
    return (node,) if node and alike == {node} and any(placed.of(sign)[1] not in ("", node) for sign in waiting) else ()


def _of_other_process(root: Sign, node: str, signs: Sequence[Sign], placed: Placing) -> tuple[str, ...]:
    """The node of the only rank whose GPU another process holds, which is none of the job's by what its logs say."""
    alike = [sign for sign in signs if sign.rule.category == root.rule.category]
    own = _THIS_PROCESS.search(root.text)
    others = list(_OTHER_PROCESS.finditer(root.text))
    if not node or own is None or len({placed.of(sign) for sign in alike}) != 1:
        return ()
    pids = "|".join(each["pid"] for each in others)
    of_job = re.compile(
        rf"(?:(?i:\bpid|\bprocess)[ :=(]{{1,3}}|[\w-]:)(?:{pids})\b(?! has)(?![^\n]*\d ?[MG]iB)".encode()
    )
    if any(of_job.search(text.data) for text in placed.texts):
        return ()
    return (node,) if sum(map(_gibibytes, others)) > _gibibytes(own) else ()


def _gibibytes(found: re.Match[str]) -> float:
    return float(found["size"]) * _UNITS[found["unit"]]


def _of_network(root: Sign, signs: Sequence[Sign], placed: Placing) -> tuple[str, ...]:
    """The node with which connections fail.

    It alone reports failures, or alone one that is not about a peer, or it is the peer that several others can't reach.
    """
    if len(placed.clues.nodes.names) < 2:
        return ()
    reports = [(sign, placed.of(sign)[1]) for sign in signs if sign.rule.category == "network"]
    every = {node for sign, node in reports if sign.rule.at_fault}
    own = {node for sign, node in reports if sign.rule.at_fault and not _PEER.search(sign.text)}
    confirmed = {node for sign, node in reports if sign.rule.at_fault and sign.rule.role == "confirms"}
    alike = {node for sign, node in reports if sign.name == root.name}
    if len({node for _, node in reports} - {""}) > 1 and placed.is_nowhere(root):
        return ()  # it may come from any of those that report failures
    for nodes in (every, own, confirmed, alike):
        if len(nodes) == 1 and (root.rule.at_fault or nodes is confirmed):
            return tuple(nodes - {""})
    peers: dict[str, set[str]] = {}
    for sign, node in reports:
        found = None if _BY_PROCESS.search(sign.text) else _PEER.search(sign.text)
        peers.setdefault(placed.clues.known(found["host"]) if found else "", set()).add(node)
    (peer,) = peers if len(peers) == 1 else ("",)
    return (peer,) if peer and len(peers[peer] - {"", peer}) > 1 and peer not in peers[peer] else ()


def _of_filesystem(root: Sign, node: str, signs: Sequence[Sign], placed: Placing) -> tuple[str, ...]:
    """The node of which several ranks can't do what those of other nodes can, or whose own disk or client is broken."""
    places = {placed.of(sign) for sign in signs if sign.name == root.name} or {(None, node)}
    alone = {name for _, name in places} == {node}
    several = len(placed.clues.nodes.names) > 1 and len(places) > 1
    if node and alone and (root.rule.at_fault or several):
        return (node,)
    return _of_others(root, signs, placed)


def _of_former(root: Sign, node: str, signs: Sequence[Sign], placed: Placing) -> tuple[str, ...]:
    """The node that lines above it in its file blame, as those of an attempt before, if it is one and another one."""
    above = (s for s in signs if s.source == root.source and s.offset < root.offset and s.rule.at_fault)
    nodes = {each for sign in above if (each := placed.of(sign)[1])} - {node}
    return tuple(nodes) if len(nodes) == 1 else ()


def _of_rule(root: Sign, node: str, signs: Sequence[Sign], placed: Placing) -> tuple[str, ...]:
    """The nodes that the lines of a rule name, else the one of other lines of its category."""
    same = [sign for sign in signs if sign.name == root.name and plain(sign.text) == plain(root.text)]
    named = tuple(dict.fromkeys(each for sign in [root, *same] for each in placed.named(sign)))
    if len(named) > 1:  # what all of them have is the fault of none
        return named if len(named) < len(placed.clues.nodes.names) else ()
    reports = [sign for sign in signs if sign.name == root.name and not _OF_THE_JOB.search(sign.text)] or [root]
    everywhere = {placed.of(sign)[1] for sign in reports}
    if len(everywhere) > 1 and everywhere >= {*placed.clues.nodes.names}:
        return ()
    if node:
        return (node,)
    return _of_others(root, signs, placed)


def _of_others(root: Sign, signs: Sequence[Sign], placed: Placing) -> tuple[str, ...]:
    """The node that is blamed by other lines of this category, if it is one."""
    alike = [sign for sign in signs if sign.rule.category == root.rule.category and sign.rule.at_fault]
    nodes = {node for sign in alike if (node := placed.of(sign)[1])}
    return tuple(nodes) if len(nodes) == 1 else ()
