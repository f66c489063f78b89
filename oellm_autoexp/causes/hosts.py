"""Names of nodes: lists of SLURM's, and what hosts are called in logs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_GROUP = re.compile(r"\[([\d,-]+)\]")
_MOST_NODES = 10000
_INTERFACE = re.compile(r"(?<=\d)-?(?:ib|hsn|opa|eth|en|roce|bond|mgmt|data|i)\d{0,2}$")
"""What clusters append to the name of a node to name one of its network interfaces: `n3-ib0`, `jwb0003i`."""
_ELASTIC = re.compile(r"_\d+_\d+$")
"""torchrun's agents call themselves by host, process and number: `n3.site.org_4711_0`."""
_TOKEN = re.compile(r"(?<![\w./-])[A-Za-z][\w-]*(?:\[[\d,-]+\][\w-]*)*(?:\.[\w-]+)*")
_REPORTER = re.compile(r"\bON \S+ CANCELLED AT\b")
"""slurmstepd names the node on which it itself runs."""
_ABOVE = re.compile(
    r"(?:(?<!to )(?<!from )\b(?i:host|hostname|node|node_?name|machine|server)\b[\"']?[ :=]{1,3}[\"']?"
    r"|\b(?i:(?:on|of|checking|testing) |syslogd@))(?P<node>[A-Za-z][\w.-]*)"
)
_BELOW = re.compile(
    r"(?<!emote )\b(?i:host|hostname|node|node_?name|machine|server)[\"']?\s*[:=]\s*[\"']?(?P<node>[A-Za-z][\w.-]*)"
)
_FAILS = re.compile(r"(?i:\b(?:fail\w*|bad|error|unhealthy|broken|lost|dead|down|not ok)\b)")
_NO_SUBJECT = re.compile(
    r"^s(?:run|lurmstepd|alloc): |(?i:master|\b(?:head|main|first|login|batch)[ _-]?(?:node|host)|\bconnect)"
    r"|\bremote=|\baddr="
)
"""Lines that name a node as the other end of a connection, or as the one that runs the batch script."""
_HEADING = re.compile(r"[\s\-=#*>:\[\]<]*(?P<node>[A-Za-z][\w.-]*?)[\s\-=#*<:\[\]>]*")
"""A line that is nothing but the name of a host, as `dshbak` and `clush -b` write it above a host's output."""


def expand(nodes: str) -> list[str]:
    """The nodes of a list of SLURM's: `n[1-3,7],login1` is n1, n2, n3, n7, login1. Leading zeros are kept.

    A name may have several ranges: `r[1-2]n[1-2]` is r1n1, r1n2, r2n1, r2n2.
    """
    found: list[str] = []
    for word in re.split(r",(?![^\[]*\])", nodes.replace(" ", "")):
        texts = [[text] for text in _GROUP.split(word)]
        texts[1::2] = [_in_range(ranges) for [ranges] in texts[1::2]]
        if word and not any("[" in text or "]" in text for [text] in texts[::2]):
            found += map("".join, islice(product(*texts), _MOST_NODES - len(found)))
    return found


def _in_range(ranges: str) -> list[str]:
    """The numbers of `01-03,7`, with their leading zeros."""
    return [
        f"{number:0{len(first)}d}"
        for first, last in _RANGE.findall(ranges)
        for number in range(int(first), int(last or first) + 1)[:_MOST_NODES]
    ]


def numbers(text: str) -> Iterator[int]:
    """The numbers of a list: `0-3,7`."""
    for first, last in _RANGE.findall(text):
        yield from range(int(first), min(int(last or first), int(first) + _MOST_NODES) + 1)


@dataclass(frozen=True)
class Nodes:
    """The nodes of a job, in SLURM's order; none if they are not known."""

    names: Sequence[str] = ()

    @cached_property
    def index(self) -> Mapping[str, int]:
        """The number of each node."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def _by_host(self) -> Mapping[str, str]:
        """Nodes by what they are called: as SLURM does, and without the domain if that is not ambiguous."""
        found: dict[str, str] = {}
        for name in self.names:
            short = name.partition(".")[0].lower()
            found[short] = "" if short in found else name
        return found | {name.lower(): name for name in self.names}

    def known(self, host: str) -> str:
        """A host as SLURM calls the node; '' if the job does not have it. Without any nodes, each host is one."""
        if not self.names:
            return host
        host = _ELASTIC.sub("", host.lower().rstrip("."))
        short = host.partition(".")[0]
        address = f"ip-{host.replace('.', '-')}"  # nodes of clouds are called by their address
        ways = (host, short, _INTERFACE.sub("", short), address)
        return next((node for way in ways if (node := self._by_host.get(way))), "")

    def of_list(self, text: str) -> list[str]:
        """The nodes of a list of SLURM's that the job has."""
        return list(dict.fromkeys(node for host in expand(text) if (node := self.known(host))))

    def named(self, text: str) -> list[str]:
        """The nodes of the job that a text names."""
        if not self.names:
            return []
        tokens = _TOKEN.findall(_REPORTER.sub("", text))
        return list(dict.fromkeys(node for token in tokens for node in self.of_list(token)))

    def alone(self, text: str) -> str:
        """The node of the job that a text names, if it is one alone; else ''."""
        found = self.named(text)
        return found[0] if len(found) == 1 else ""

    def failing(self, text: str) -> list[str]:
        """Of the nodes that a text names, those behind whose names it says that they fail: `n1: ok, n2: FAIL`."""
        tokens = [(found.start(), node) for found in _TOKEN.finditer(text) for node in self.of_list(found[0])]
        ends = [*(start for start, _ in tokens[1:]), len(text)]
        return [node for (start, node), end in zip(tokens, ends, strict=True) if _FAILS.search(text, start, end)]

    def around(self, before: Sequence[str], after: Sequence[str]) -> str:
        """The node that the lines around a line say it is about, '' if none does.

        That is the one of the last line above it that speaks of one node (`GPU check on n3:`), of a heading, or of a
        line below it (`Local host: n3`).
        """
        if not self.names:
            return ""
        for distance, line in enumerate(reversed(before[-_UNDER_HEADING:])):
            heading = _HEADING.fullmatch(line)
            if heading and (node := self.known(heading["node"])):
                return node
            if distance < _NEAR and (found := self._speaks_of(line, _ABOVE)):
                return found[0] if len(found) == 1 else ""
        below = {node for line in after[:_NEAR] for node in self._speaks_of(line, _BELOW)}
        return below.pop() if len(below) == 1 else ""

    def _speaks_of(self, line: str, pattern: re.Pattern[str]) -> list[str]:
        if _NO_SUBJECT.search(line):
            return []
        found = list(dict.fromkeys(node for each in pattern.finditer(line) if (node := self.known(each["node"]))))
        return self.named(line) if found else []  # `on n1, n2` is about both of them


_NEAR, _UNDER_HEADING = 6, 40  # lines
