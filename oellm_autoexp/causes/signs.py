"""Lines of a log that a rule of causes matches, without those after which the training went on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from oellm_autoexp.causes.labels import Line, split
from oellm_autoexp.causes.places import CLUE, Clues
from oellm_autoexp.causes.rule import CauseRule
from oellm_autoexp.search.patterns import Match, Pattern, scan
from oellm_autoexp.search.widening import Wide

_CLUE = "clue"
_BAR = r"[0-9]+/[0-9]+ \[[0-9]{2}:[0-9]{2}"
_PROGRESS = {
    "progress": Pattern.of(
        r"(?:\biteration\s{1,12}(\d{1,18})/\s{0,12}\d+ \||\bstep:? {1,6}(\d{1,18})\b.*\bloss"
        r"|\biter(?:ation)?:? {1,6}(\d{1,18})\b.*\bloss|\bstep[ =]{1,3}(\d{1,18})[/,| ].*\bloss)"
    ),
    "progress_bar": replace(Pattern.of(rf"\b(?=([0-9]{{1,18}})){_BAR}"), wide=Wide((_BAR,))),
}
"""Lines that say that one more iteration is done: of Megatron-LM, torchtitan, tqdm, and as many programs print them."""
_MORE_PROGRESS = 2
"""After so many more iterations a line is no cause of the end: the first one may have been under way at that moment."""
_DIGITS = 10
"""A rank has fewer; Python refuses to read numbers of thousands of digits (sys.set_int_max_str_digits)."""
WINDOW_BYTES = 1 << 16
"""How much of a log before a line is looked at for its traceback."""
_MOST_SIGNS = 200
"""Of one file, the first ones."""


@dataclass(frozen=True)
class LogText:
    """The end of a log: whole lines, from byte `start` of the file on. `rank`: whose file it is; None: of all."""

    path: str
    data: bytes
    start: int = 0
    rank: int | None = None


@dataclass(frozen=True)
class Sign:
    """A line that a rule matches; `offset` is in its text's bytes, `source` the text's number."""

    source: int
    offset: int
    name: str
    rule: CauseRule
    line: str
    groups: Mapping[str, str]
    label: Line
    file_rank: int | None = None

    @property
    def text(self) -> str:
        """The line without its labels."""
        return self.label.text

    @property
    def rank(self) -> int | None:
        """The rank that it comes from, by what the line says, its label, or its file."""
        if (named := self.groups.get("rank", "")).isdecimal() and len(named) < _DIGITS:
            return int(named)
        label = self.label
        own = (label.rank, self.file_rank, label.task if label.local_rank is None else None)
        return next((number for number in own if number is not None), None)

    @property
    def task(self) -> int | None:
        """The task of the step that it comes from."""
        return self.label.task

    @property
    def writers(self) -> Iterator[str]:
        """The host where the line was written, as its program says."""
        beginning = self.text[:_BEGINNING]
        yield from (found[1] for pattern in (NCCL, *_WRITTEN_BY) if (found := pattern.search(beginning)))

    @property
    def hosts(self) -> Iterator[str]:
        """What may be the host where the line was written: as its program says, or the label of its launcher."""
        yield from self.writers
        if (found := _HOST_LABEL.match(self.label.label)) and not _RANK_LABEL.match(found[1]):
            yield found[1]

    @property
    def device(self) -> int | None:
        """The number of the GPU on its node, where NCCL writes it."""
        return int(found[2]) if (found := NCCL.search(self.text[:_BEGINNING])) else None


NCCL = re.compile(r"(?<![\w.:-])([A-Za-z][\w.-]*):\d+:\d+ \[(\d{1,9})\] ")
"""How NCCL begins its lines, perhaps behind a time: host, process, thread, device (src/debug.cc)."""
_WRITTEN_BY = (
    re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*) kernel: "),  # syslog
    re.compile(r"\[([A-Za-z][\w.-]*):\d+(?::\d+)*\] "),  # Open MPI, UCX
    re.compile(r"^\[([A-Za-z][\w.-]*)\]\[\["),  # older ones of Open MPI
    re.compile(r"^slurm(?:step)?d[\[-]([A-Za-z][\w.-]*?)\]?: "),
    re.compile(r"^slurm(?:step)?d: error: (?: ?mpi/\w+: \w+: )?([A-Za-z][\w.-]*) \[\d+\]:? "),  # its plug-in for PMIx
)
_HOST_LABEL = re.compile(r"\[?([A-Za-z][\w.-]*\d)(?::[\d:]+)?\]?:?")
_RANK_LABEL = re.compile(r"(?i:rank|default|task|worker|proc|local|trainer)[_-]?\d+$")
_BEGINNING = 300  # characters


def find_signs(source: int, text: LogText, rules: Mapping[str, CauseRule], clues: Clues) -> Iterator[Sign]:
    """The lines of a text that rules match, in order, each by the first rule that does. `clues` learn from the text."""
    patterns = {f"={name}": rule.compiled for name, rule in rules.items() if rule.place is None}
    own = {**_PROGRESS, _CLUE: Pattern.of(CLUE)}
    found: list[Sign] = []
    progress: list[tuple[int, int]] = []
    seen = -1
    for match in scan(text.data, {**patterns, **own}).matches:
        if match.rule == _CLUE:
            clues.read(split(match.line))
        elif match.rule in _PROGRESS:
            if match.offset != seen:  # an iteration without a loss, say, is a sign
                progress.append((match.offset, _number(match)))
        elif match.offset != seen:
            sign = _sign(source, match, match.rule[1:], rules[match.rule[1:]], text.rank)
            if sign is not None:
                seen = match.offset
                found.append(sign)
    yield from _unrecovered(found, progress)


def window(sign: Sign, text: LogText) -> tuple[int, list[str], int]:
    """The lines that end with a sign's: the offset of the first one, the lines, and the number of the sign's."""
    begin = max(0, sign.offset - WINDOW_BYTES)
    if begin:
        begin = text.data.find(b"\n", begin, sign.offset) + 1 or sign.offset
    lines = [line.decode(errors="surrogateescape") for line in text.data[begin : sign.offset].split(b"\n")[:-1]]
    return begin, [*lines, sign.line], len(lines)


def says_enough(data: bytes) -> bool:
    """True if the end of a log reaches back beyond what may be a cause: lines that more iterations follow."""
    found = scan(data, _PROGRESS).matches
    return _last_recovered([(match.offset, _number(match)) for match in found]) >= 0


def sign_at(sign: Sign, places: Sequence[str], rules: Mapping[str, CauseRule]) -> Sign | None:
    """The sign in the line of an exception with these frames (Traceback.places); None if no rule matches it."""
    for name, rule in rules.items():
        matched = rule.compiled.search(sign.line)
        raised_there = rule.place is None or any(rule.place.search(place) for place in places)
        if matched is not None and raised_there and not rule.excludes(sign.line):
            groups = {key: value for key, value in matched.groupdict().items() if value is not None}
            return replace(sign, name=name, rule=rule, groups=groups)
    return None


def _sign(source: int, match: Match, name: str, rule: CauseRule, rank: int | None) -> Sign | None:
    if rule.excludes(match.line):
        return None
    return Sign(source, match.offset, name, rule, match.line, match.groups, split(match.line), rank)


def _number(match: Match) -> int:
    return int(next(text for number, text in match.groups.items() if number.isdecimal()))


def _unrecovered(signs: list[Sign], progress: list[tuple[int, int]]) -> Iterator[Sign]:
    """The signs after which no more iterations follow, at most _MOST_SIGNS of them."""
    last_recovered = _last_recovered(progress)
    left = [sign for sign in signs if sign.offset > last_recovered]
    yield from left[:_MOST_SIGNS]


def _last_recovered(progress: list[tuple[int, int]]) -> int:
    """Up to which offset lines are followed by _MORE_PROGRESS rising iterations or more."""
    rising: list[tuple[int, int]] = []
    for offset, number in reversed(progress):
        if not rising or number < rising[-1][1]:
            rising.append((offset, number))
        if len(rising) == _MORE_PROGRESS:
            return offset
    return -1
