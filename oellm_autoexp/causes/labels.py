"""What stands before the text of a log line, around it or in it: labels of ranks, times, levels, colours, records."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from oellm_autoexp.search.escapes import ESCAPE, Replacement, Shortened, without_escapes

_RANK_ALONE = (
    r"(?:\[[\w.-]{1,64}\]:|\[[Rr]ank[ :=]{1,2}\d{1,9}\]:?|\[\d{1,9},\d{1,9}\]<\w{1,8}>:"
    r"|\[[A-Za-z][\w.-]{0,63}:\d{1,9}(?::\d{1,9}){0,3}\](?=\s)|(?:[A-Za-z][\w.-]{0,63} rank|Rank|RANK)[ _-]\d{1,9}:"
    r"|(?!python\d:)[\w-]{0,40}\d:(?!\d))"
)
_RANK = rf"(?:{_RANK_ALONE}\s{{0,2}})"
_TIME = r"(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,]{0,10}(?:Z|[+-]\d\d:?\d\d)?\]?[ :-]{0,3})"
_LEVEL = r"(?:\[?(?:ERROR|CRITICAL|FATAL|WARNING|INFO)\]?[ :-]{1,3})"
_COLLECTED = (
    r"(?:<\d{1,3}>1 (?:\S{1,255} ){5}(?:-|(?:\[[^]]{0,999}\])+)(?: |$)\ufeff?"
    r"|(?:<\d{1,3}>)?(?:\d{4}-\d\d-\d\dT[\d:.,]+(?:Z|[+-]\d\d:?\d\d)|[A-Z][a-z]{2} [ \d]\d [\d:]{8}) "
    r"(?:(?:[\w.-]+ )?std(?:out|err) [FP] |(?![A-Z]+ )[\w.-]+ (?!kernel|slurm)[\w./-]+(?:\[\d+\])?: )?"
    r"|[A-Za-z][\w.-]*[-_]\d+ +\| (?=[^|]*$))"
)
"""What collectors of logs put before each line: syslog's own form (RFC 5424); Kubernetes (CRI) time, perhaps host,
stream and F or P; syslog and journald time, host and program, but for the kernel and SLURM, whose lines name the node
at fault so; docker-compose the service. The host is where the line was collected, which need not be where a rank
runs."""
LABELS = rf"^\s{{0,3}}{_COLLECTED}?{_RANK}{{0,2}}{_TIME}?{_LEVEL}?"
"""A pattern of all of them but colours, for the beginning of a line.

Ranks: `3: ` of srun --label, `[rank3]: ` of PyTorch, `[default3]:` of torchrun (its local rank), `node7: ` of pdsh,
`[rank: 3] ` of Lightning, `[1,3]<stderr>:` and `[node7:4711] ` of Open MPI, and `node7 rank 3: `.
"""
_PREFIX = re.compile(_COLLECTED)
_HEAD = re.compile(rf"\s{{0,3}}((?:{_RANK_ALONE}\s?){{1,2}})")
"""The labels alone, with one blank at most: what comes behind it may be the indentation of a traceback."""
_TASK = re.compile(r"\s*(\d+):")
_GLOBAL = re.compile(
    r"\[[Rr]ank[ :=]{0,2}(\d+)\]|\[\d+,(\d+)\]<|^\s*(?:[A-Za-z][\w.-]* (?=rank))?(?i:rank)[ _-]?(\d+):"
)
_LOCAL = re.compile(r"\[[A-Za-z_]+(\d+)\]:")
_LEVELS = ("level", "lvl", "levelname", "loglevel", "severity", "severityText", "severity_text", "log.level")
_ERRORS = ("error", "err", "e", "fatal", "f", "critical", "crit", "c")
_TEXTS = (
    *("exc", "exc_info", "exception", "exception.stacktrace", "traceback", "stack_trace", "stacktrace", "error"),
    *("attributes", "message", "msg", "event", "body", "text"),
)
_CLASSES, _MESSAGES = ("type", "exc_type", "class"), ("message", "value", "exc_value", "msg", "text", "detail")
_CLASS_ALONE, _DETAILS = re.compile(r"[A-Za-z_][\w.]*"), ("detail", "details", "error_message", "reason")
_STREAMS, _WRITTEN = ("stdout", "stderr"), ("log", "message")
_RANKS = ("rank", "global_rank")
"""Keys and values of JSON records: of structlog, python-json-logger, loguru, OpenTelemetry, Elastic's schema, and of
collectors (Docker's json-file, fluent-bit), which put each line that a program wrote into one with its stream."""
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?::\s|$)")
_OF_INTEREST = re.compile(
    (
        rf'"(?:{"|".join(map(re.escape, _LEVELS))})": ?(?:\{{[^{{}}\n]{{0,200}}"name": ?)?"(?i:{"|".join(_ERRORS)})"'
        rf'|"stream": ?"(?:{"|".join(_STREAMS)})"'
    ).encode()
)
_HIDING = re.compile(
    ESCAPE.encode()
    + rb"|(?m:^)[^\n{]{0,100}(?P<record>\{(?=[^\n]*(?:"
    + _OF_INTEREST.pattern
    + rb"))[^\n]*\})(?=\s*(?m:$))"
)
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
    line = without_escapes(line)
    begin = found.end() if (found := _PREFIX.match(line)) else 0
    head = _HEAD.match(line, begin)
    label = head[1] if head else ""
    rank = _number(_GLOBAL.search(label))
    local = None if rank is not None else _number(_LOCAL.search(label))
    start = head.end() if head else begin
    return Line(label.strip(), line[start:], _number(_TASK.match(label)), rank, local)


def _number(found: re.Match[str] | None) -> int | None:
    return None if found is None else int(found[found.lastindex or 1])


def unhidden(data: bytes) -> Shortened:
    """The bytes of a log without what hides its text from patterns.

    Escape sequences are left out, as they may stand inside of what is looked for; a JSON record of an error becomes a
    line with the label of its rank and what it says, and one of a collector the line that it holds.
    """
    if b"\x1b" not in data and not (b"{" in data and _OF_INTEREST.search(data)):
        return Shortened(data)
    return Shortened.of(data, _hiding(data))


def _hiding(data: bytes) -> Iterator[Replacement]:
    for found in _HIDING.finditer(data):
        if found["record"] is None:
            yield *found.span(), b""
        elif (text := _unwrapped(found["record"])) is not None:
            yield *found.span("record"), text


def _unwrapped(record: bytes) -> bytes | None:
    """A record as a line: the class and the message of its exception, behind the label of its rank.

    Of a record of a collector that holds one line, that line. None if it is no record of an error, or names no
    exception, nor a program in its place.
    """
    try:
        fields = json.loads(record)
        if fields.get("stream") in _STREAMS:
            texts = [next((fields[key] for key in _WRITTEN if isinstance(fields.get(key), str)), "")]
            if len(lines := texts[0].splitlines()) == 1:
                return without_escapes(lines[0]).encode(errors="replace")
        else:
            inner = fields["record"] if isinstance(fields.get("record"), dict) else fields  # of loguru
            if not any(_level(inner.get(key)) in _ERRORS for key in _LEVELS):
                return None
            texts = [text for each in (fields, inner) for text in _texts_of(each)]
    except (ValueError, RecursionError):
        return None
    raised = next((line for text in texts for line in reversed(text.splitlines()) if _RAISED.match(line)), None)
    if raised is None:
        return None
    around = (fields, *(value for value in fields.values() if isinstance(value, dict)))
    rank = str(next((each[key] for each in around for key in _RANKS if key in each), ""))
    label = f"[rank{rank}]: " if rank.isdecimal() else ""
    return without_escapes(f"{label}{raised}").encode(errors="replace")


def _level(value: Any) -> str:
    return str(value.get("name") if isinstance(value, dict) else value).lower()


def _texts_of(fields: Mapping[str, Any]) -> Iterator[str]:
    """What a record says, the texts with an exception first."""
    kind = fields.get("error")
    if isinstance(kind, str) and _CLASS_ALONE.fullmatch(kind):  # and what it says stands beside it
        yield from (f"{kind}: {fields[key]}" for key in _DETAILS if isinstance(fields.get(key), str))
    for key in _TEXTS:
        yield from _texts(fields.get(key))


def _texts(value: Any) -> Iterator[str]:
    """A text; of an exception that is a record itself, its class and its message; of a list of them, all."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        kind, said = (next((str(value[key]) for key in keys if value.get(key)), "") for keys in (_CLASSES, _MESSAGES))
        if kind:
            yield f"{kind}: {said}"
        yield from _texts_of(value)


# ---------------------------------------------------------------------------------------------------------------------
# A layout of the log's own


_SAMPLE_BYTES, _RELABELLED_BYTES, _RELABELLED_OF_RANK = 1 << 15, 1 << 20, 1 << 17
"""How much of the end of a log its layout is learned from, and how much gets other labels: a failure is near the end,
and there may be a log for each of many ranks."""
_FEWEST_LINES = 2
"""So many lines of a sample must begin in the same way: one alone may be a sentence."""
_LONGEST_SHAPE, _MOST_INDENTED = 40, 3  # characters
_TOKENS = re.compile(
    r"(?P<T>\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d[\d.,]{0,10}(?:Z|[+-]\d\d:?\d\d)?|\d\d:\d\d:\d\d(?:[.,]\d+)?"
    r"|\d\d/\d\d/\d{4} \d\d:\d\d:\d\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|[IWEF]\d{4} \d\d:\d\d:\d\d[\d.]*)"
    r"|(?P<L>DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)(?![\w.])"
    r"|(?i:local[ _-]?rank|gpu|device)[ _:=#-]{0,2}(?P<G>\d{1,3})(?![\w.])"
    r"|(?i:(?:global[ _-]?)?rank|task|proc(?:ess)?)[ _:=#-]{0,2}(?P<R>\d{1,7})(?:/\d+)?(?![\w.])"
    r"|(?P<D>\d{1,7})(?= ?[>|]|[\])])"
    r"|(?P<N>[A-Za-z][\w-]*(?:\.[\w-]+)*)(?![\w(@=])"
)
"""By kind: T time, L level, G local rank or GPU, R rank, D a bare number of a rank, N what may be the name of a node.

Two more kinds are P, a program behind the name of its node, and W, a word that says nothing of the place.
"""
_GROUP = re.compile(r"(?<=[\[(])[\w|=.,@:# /-]{2,100}(?=[\])])")
"""What stands between brackets: `[ERROR|DP=1|n3]`, `(n3, device 2)`."""
_OPEN_MPI = re.compile(r"[\w.-]+(?::\d+)+")
_HOST = re.compile(r"[A-Za-z][\w-]*(?:\.[\w-]+)*")
_SECTION = re.compile(r"[A-Za-z][\w.:/-]*(?= \|)")
"""The name of a logger, in loguru's columns."""
_COMMAND = re.compile(r"(?!srun|slurm|error|fatal|warn|info)[a-z][\w.-]*(?=: )")
"""How a program that collects lines of nodes begins its own: `dmesg: n3: …`."""
_OPENING = re.compile(r"[\[(]?")
_CLOSING = re.compile(r"[\])>:|]{0,3}[ \t]?(?:[|-] )?")
_PROGRAM = re.compile(
    r"(?:python[\d.]*|bash|sh|torchrun|mpirun|mpiexec|accelerate|deepspeed|(kernel)(?= \|))(?![\w.-])"
)
_NAMING = "NRDGP"
"""The kinds that say where a line comes from."""
_STRONG = frozenset("])>:|")
"""Signs that end a label; behind a blank alone, a text may go on: `Rank 3 has failed`."""
_OF_TRACEBACK = re.compile(r"\s|Traceback |[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Warning)\b|$")
_BEFORE_BLANKS = "FATAL"
"""The level that Apptainer writes, with several blanks behind it, which are no indentation of a traceback."""
"""What is the indentation, the beginning or the end of a traceback: the time and the level must not stand before it."""
_OTHER_HOSTS = re.compile(r"[A-Za-z][\w-]*\d[\w.-]*")
"""The names of hosts where the nodes of the job are not known."""


@dataclass(frozen=True)
class _Prefix:
    """What stands before the text of a line in the log's own layout: which kinds of tokens, and what they say."""

    shape: str
    end: int
    of_time: int
    """Where its time ends; 0: it has none."""
    time: str = ""
    level: str = ""
    node: str = ""
    rank: str = ""
    local: str = ""
    task: str = ""
    program: str = ""
    """`kernel`, whose lines are known by it."""

    @property
    def said(self) -> str:
        """Its time and its level, as they stand behind labels."""
        return (f"{self.time} " if self.time else "") + (f"{self.level}: " if self.level else "")

    @property
    def label(self) -> str:
        """The rest in a form that `split`, or a rule, knows."""
        if self.program:
            return f"{self.node} {self.program}: "
        if self.node and self.rank:
            return f"{self.node} rank {self.rank}: "
        own = f"{self.node}: " if self.node[-1:].isdigit() else f"[{self.node}]: " if self.node else ""
        if self.rank:
            return f"[rank{self.rank}]: "
        return f"{own}{f'[default{self.local}]: ' if self.local else ''}" or f"{self.task}: "


def relabelled(
    data: bytes,
    known: Callable[[str], str],
    runs_on: Callable[[int, str], None],
    *,
    named: bool,
    one_rank: bool = False,
) -> Shortened:
    """The bytes of a log in which labels of its own layout have a form that `split` knows.

    Such are `[n3] [rank14]: `, `n3 | rank 4 | ` and `2026-12-09T13:22:00 n3 ERROR `, where several lines begin so.
    `known` tells how SLURM calls a host, '' if the job does not have it; `named`: whether the job's nodes are known.
    `runs_on` is told the rank and the node of labels that name both. `one_rank`: whether it is the log of one rank.
    """
    hosts = cache(known if named else lambda host: host if _OTHER_HOSTS.fullmatch(host) else "")
    sample = data[-_SAMPLE_BYTES:].decode(errors="replace").splitlines()
    found = ((line, prefix) for line in sample if (prefix := _prefix(line, hosts)))
    shapes = Counter(prefix.shape for line, prefix in found if not _is_known(line, prefix))
    usual = {shape for shape, count in shapes.items() if count >= _FEWEST_LINES}
    if not usual:
        return Shortened(data)
    most = _RELABELLED_OF_RANK if one_rank else _RELABELLED_BYTES
    return Shortened.of(data, _new_labels(data, most, usual, hosts, runs_on))


def _new_labels(
    data: bytes, most: int, shapes: Collection[str], known: Callable[[str], str], runs_on: Callable[[int, str], None]
) -> Iterator[Replacement]:
    begin = data.rfind(b"\n", 0, max(0, len(data) - most)) + 1
    for raw in data[begin:].splitlines(keepends=True):
        line = raw.decode(errors="replace")
        # of ASCII, as many bytes as characters are replaced
        if (found := _prefix(line, known)) and found.shape in shapes and line[: found.end].isascii():
            said = "" if found.level != _BEFORE_BLANKS and _OF_TRACEBACK.match(line, found.end) else found.said
            if found.node and found.rank:
                runs_on(int(found.rank), found.node)
            yield begin, begin + found.end, f"{found.label}{said}".encode()
        begin += len(raw)


def _is_known(line: str, prefix: _Prefix) -> bool:
    """Whether `split` knows what stands before a line's text, or a collector of logs has put it there."""
    collected = _PREFIX.match(line)
    return split(line).text == line[prefix.end :] or bool(
        collected and prefix.time and collected.end() > prefix.of_time
    )


def _prefix(line: str, known: Callable[[str], str]) -> _Prefix | None:
    """What stands before the text of a line; None if it names neither a node nor a rank."""
    said: dict[str, str] = {}
    shape, at, strong, of_time = "", len(line) - len(line.lstrip()), False, 0
    if at > _MOST_INDENTED:
        return None
    while len(shape) < _LONGEST_SHAPE and (found := _token(line, at, said, known)):
        kind, text, begin, end = found
        closed = _CLOSING.match(line, end)
        closing = closed[0] if closed else ""
        opens = line[end + len(closing) :][:1]
        clear = not _STRONG.isdisjoint(closing)
        if not closing or (kind in "RGDP" and not clear and opens != "("):
            break
        if kind == "N" and closing[-1] not in " \t" and opens.isdigit():
            break  # `n3:4711:4712 [0] NCCL INFO` and `[n3:4711] ` are known by their programs' names
        said[kind] = text
        shape += f"{line[at:begin].strip()}{kind}{closing}"
        at = end + len(closing)
        strong, of_time = strong or (clear and kind in _NAMING), at if kind == "T" else of_time
    if not said.keys() & {"N", "R", "D"} or not (strong or "T" in said):
        return None
    return _Prefix(shape, at, of_time, *(said.get(kind, "") for kind in "TLNRGDP"))


def _token(
    line: str, at: int, said: Mapping[str, str], known: Callable[[str], str]
) -> tuple[str, str, int, int] | None:
    """The next part of what stands before the text: its kind, what it says, and where it begins and ends."""
    begin = opened.end() if (opened := _OPENING.match(line, at)) else at
    if begin > at and "N" not in said and (token := _GROUP.match(line, begin)) and (node := _node_in(token[0], known)):
        return "N", node, begin, token.end()
    token = _TOKENS.match(line, begin)
    if token and token.lastgroup not in (None, "N"):
        kind = str(token.lastgroup)
        return None if kind in said else (kind, token[kind], begin, token.end())
    if token and "N" not in said and (node := known(token["N"])):
        return "N", node, begin, token.end()
    if [*said][-1:] == ["N"] and (token := _PROGRAM.match(line, begin)):
        return "P", token[1] or "", begin, token.end()
    if token := _SECTION.match(line, begin) or (None if said else _COMMAND.match(line, begin)):
        return "W", "", begin, token.end()
    return None


def _node_in(text: str, known: Callable[[str], str]) -> str:
    """The node that is named between brackets, if it is one alone; '' as Open MPI has it, whose lines are known."""
    if _OPEN_MPI.fullmatch(text):
        return ""
    found = {node for host in _HOST.findall(text) if (node := known(host))}
    return found.pop() if len(found) == 1 else ""


def stamp(line: str) -> str:
    """The time in a line, as a text that sorts by time within a year; '' if it has none."""
    if found := _STAMP.search(line):
        return found[0][5:7] + found[0][8:10] + " " + found[0][11:]
    return found[1] if (found := _TORCH_STAMP.search(line)) else ""
