"""Lines of a log that a rule of causes matches, without those after which the training went on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from oellm_autoexp.causes.labels import Line, relabelled, split, unhidden
from oellm_autoexp.causes.places import CLUE, Clues
from oellm_autoexp.causes.rule import CauseRule
from oellm_autoexp.search.escapes import Shortened
from oellm_autoexp.search.patterns import Match, Pattern, Search, scan
from oellm_autoexp.search.widening import Wide

_CLUE = "clue"
_MEGATRON = "progress_of_megatron"
_COUNT = r"(\d{1,18})(?![\d.])"
_STEP_KEY = r"[\"'](?:\w{1,20}_)?(?:step|iter|iteration|num_update)s?[\"']: ?[\"']?"
_BAR = r"[0-9]+/[0-9]+ \[[0-9]{2}:[0-9]{2}"
_PROGRESS = {
    _MEGATRON: Pattern.of(r"\biteration\s{1,12}(\d{1,18})/\s{0,12}\d+ \|"),
    "progress": Pattern.of(
        rf"(?i:(?:\b|_)(?:step|it|iter|iteration)s?[ :=]{{1,6}}{_COUNT}.*loss)"
        rf"|\[(?:step|batch)={_COUNT}/\d|^Train Epoch: \d+ \[ {{0,9}}{_COUNT}/\d.*[Ll]oss"
    ),
    "progress_of_records": Pattern.of(
        rf"\{{[^{{}}]{{0,400}}?{_STEP_KEY}{_COUNT}|{_STEP_KEY}{_COUNT}.*loss"
        rf"|loss[\"']: ?[\"']?[\d.].*{_STEP_KEY}{_COUNT}"
        r"|[\"']loss[\"']: ?[\"']?[\d.].*[\"']epoch[\"']: ?[\"']?(\d{1,9}\.\d{1,9})"
    ),
    "progress_bar": replace(Pattern.of(rf"\b(?=([0-9]{{1,18}})){_BAR}"), wide=Wide(((_BAR,),))),
}
"""Lines that say that one more iteration is done: of Megatron-LM, torchtitan, tqdm, OLMo, Composer, PyTorch's examples,
records of fairseq and of JSON, the trainer of Hugging Face, which prints epochs, and as many programs print them.
"""
_MORE_PROGRESS = 2
"""After so many more iterations a line is no cause of the end: the first one may have been under way at that moment."""
_DIGITS = 10
"""A rank has fewer; Python refuses to read numbers of thousands of digits (sys.set_int_max_str_digits)."""
WINDOW_BYTES = 1 << 16
"""How much of a log before a line is looked at for its traceback."""
_ABOVE_LINES, _ABOVE_BYTES = 20, 8192
"""How much above a line is looked at for what its rule wants to be there (`after`)."""
_LEFT_OUT = "oellm-autoexp: node "
"""How a job's script says which nodes it leaves out, and why: that is no cause of what becomes of the others."""
_OF_DATA = re.compile(
    r"(?i:[^\w#]{0,3}(?:samples?|prompts?|users?|assistant|human|questions?|answers?|completions?|generat(?:ed|ion)s?|documents?"
    r"|messages|conversations?|dialog(?:ue)?s?)\b[\"']?[ _#]{0,2}\d{0,9}[\])]?[\"']?\s?[:=>]|#\s?(?!#))"
)
"""How lines begin that show what a model is trained on or has written, and comments: they may say anything."""
_MOST_SIGNS = 200
"""Of one file, the first ones."""


@dataclass(frozen=True)
class LogText:
    """The end of a log: whole lines, from byte `start` of the file on. `rank`: whose file it is; None: of all."""

    path: str
    data: bytes
    start: int = 0
    rank: int | None = None
    whole: Shortened | None = None
    """What `data` is the end of, where labels were replaced in it."""
    cut: int = 0
    """How many bytes of that are not in `data`."""

    def relabelled(self, clues: Clues) -> LogText:
        """The same with labels that `split` knows; `clues` learn from them."""
        nodes = clues.nodes
        made = relabelled(
            self.data, nodes.known, clues.runs_on, named=bool(nodes.names), one_rank=self.rank is not None
        )
        return self if made.data is self.data else replace(self, data=made.data, whole=made)

    def end(self, begin: int) -> LogText:
        """The same from an offset in `data` on, where a line begins."""
        return replace(self, data=self.data[begin:], cut=self.cut + begin)

    def place(self, offset: int) -> int:
        """The place in the file of a line that begins at an offset in `data`."""
        offset += self.cut
        return self.start + (self.whole.original(offset) if self.whole else offset)


@dataclass(frozen=True)
class Sign:
    """A line that a rule matches, without colours; `offset` is in its text's bytes, `source` the text's number."""

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
    re.compile(r"(?:^|[\d:Z] )([A-Za-z][\w.-]*) kernel: "),  # syslog, behind its time
    re.compile(r"\[([A-Za-z][\w.-]*):\d+(?::\d+)*\] "),  # Open MPI, UCX
    re.compile(r"^\[([A-Za-z][\w.-]*)\]\[\["),  # older ones of Open MPI
    re.compile(r"^slurm(?:step)?d[\[-]([A-Za-z][\w.-]*?)\]?: "),
    re.compile(r"^slurm(?:step)?d: error: (?: ?mpi/\w+: \w+: )?([A-Za-z][\w.-]*) \[\d+\]:? "),  # its plug-in for PMIx
)
_HOST_LABEL = re.compile(r"\[?(?:slurm(?:step)?d-)?([A-Za-z][\w.-]*\d)(?::[\d:]+)?\]?:?")
_RANK_LABEL = re.compile(r"(?i:rank|default|task|worker|proc|local|trainer)[_-]?\d+$")
_BEGINNING = 300  # characters


def find_signs(source: int, text: LogText, rules: Mapping[str, CauseRule], clues: Clues) -> Iterator[Sign]:
    """The lines of a text that rules match, in order, each by the first rule that does. `clues` learn from the text."""
    found: list[Sign] = []
    seen = -1
    plain = unhidden(text.data)
    patterns = _patterns(rules)
    search = Search(plain.data, patterns)
    for match in search.matches(rule for rule in patterns if rule not in _PROGRESS).matches:
        if match.rule == _CLUE:
            head = split(match.line)
            clues.read(head)
            clues.read_table(head, _below(plain.data, match.offset))
        elif match.offset != seen:
            sign = _sign(source, match, match.rule[1:], rules[match.rule[1:]], text.rank)
            if sign is not None and _is_after(sign, plain.data) and not _is_source(sign, plain.data):
                seen = match.offset
                found.append(sign)
                clues.killed |= sign.rule.category == "killed"
    clues.megatron = clues.megatron or _has(search, _MEGATRON)
    recovered = _last_recovered(search, {sign.offset for sign in found})
    left = [sign for sign in found if sign.offset > recovered][:_MOST_SIGNS]
    yield from (replace(sign, offset=plain.original(sign.offset)) for sign in left)


def _patterns(rules: Mapping[str, CauseRule]) -> Mapping[str, Pattern]:
    """All that is looked for in one search: rules by `=name`, iterations and clues."""
    patterns = {f"={name}": rule.compiled for name, rule in rules.items() if rule.place is None}
    return {**patterns, **_PROGRESS, _CLUE: Pattern.of(CLUE)}


def _below(data: bytes, offset: int) -> Iterator[str]:
    """The lines below the one at an offset, read as far as they are asked for."""
    while (offset := data.find(b"\n", offset) + 1) and offset < len(data):
        end = data.find(b"\n", offset)
        yield data[offset : end if end >= 0 else len(data)].decode(errors="replace")


def window(sign: Sign, text: LogText) -> tuple[int, list[str], int]:
    """The lines that end with a sign's: the offset of the first one, the lines, and the number of the sign's."""
    begin = max(0, sign.offset - WINDOW_BYTES)
    if begin:
        begin = text.data.find(b"\n", begin, sign.offset) + 1 or sign.offset
    lines = [line.decode(errors="surrogateescape") for line in text.data[begin : sign.offset].split(b"\n")[:-1]]
    return begin, [*lines, sign.line], len(lines)


def says_enough(data: bytes) -> bool:
    """True if the end of a log reaches back beyond what may be a cause: lines that more iterations follow."""
    return _last_recovered(Search(unhidden(data).data, _PROGRESS)) >= 0


def sign_at(sign: Sign, places: Sequence[str], rules: Mapping[str, CauseRule]) -> Sign | None:
    """The sign in the line of an exception with these frames (Traceback.places); None if no rule matches it."""
    line = f"{sign.line}\n".encode(errors="replace")
    matching = {match.rule for match in scan(line, _patterns(rules)).matches}  # the search of logs, compiled by now
    for name, rule in rules.items():
        if f"={name}" not in matching and not (rule.place and any(map(rule.place.search, places))):
            continue
        matched = rule.compiled.search(sign.line)
        if matched is not None and not rule.excludes(sign.line):
            groups = {key: value for key, value in matched.groupdict().items() if value is not None}
            return replace(sign, name=name, rule=rule, groups=groups)
    return None


def _sign(source: int, match: Match, name: str, rule: CauseRule, rank: int | None) -> Sign | None:
    if rule.excludes(match.line) or match.line.startswith(_LEFT_OUT):
        return None
    label = split(match.line)
    if _OF_DATA.match(label.text):
        return None
    return Sign(source, match.offset, name, rule, match.line, match.groups, label, rank)


_FRAME = re.compile(r'\s+File "[^"]*", line \d+')
_OF_GROUP = re.compile(r"\s*(?:\|(?=\s)\s?)+")
"""What stands before each line of an exception group."""


def _is_source(sign: Sign, data: bytes) -> bool:
    """True if a sign is a statement that a traceback quotes, below the line of its frame."""
    if not _OF_GROUP.sub("", sign.text, count=1).startswith("    "):
        return False
    end = sign.offset - 1
    before = data[data.rfind(b"\n", 0, max(0, end)) + 1 : max(0, end)].decode(errors="replace")
    return _FRAME.match(_OF_GROUP.sub("", split(before).text, count=1)) is not None


def _is_after(sign: Sign, data: bytes) -> bool:
    """True if one of the lines above a sign is one that its rule asks for, and not of another rank."""
    above = sign.rule.above
    if above is None:
        return True
    lines = data[max(0, sign.offset - _ABOVE_BYTES) : sign.offset].decode(errors="replace").split("\n")
    return any(above.search(line) and not _of_another(sign, split(line)) for line in lines[-_ABOVE_LINES - 1 : -1])


def _of_another(sign: Sign, line: Line) -> bool:
    pairs = ((sign.task, line.task), (sign.rank, line.rank))
    return any(own is not None and other is not None and own != other for own, other in pairs)


def _has(search: Search, rule: str) -> bool:
    """Whether a rule matches any line."""
    found = False

    def is_last(_: Match) -> bool:
        nonlocal found
        found = True
        return True

    search.newest_first([rule], is_last)
    return found


def _last_recovered(search: Search, signs: Collection[int] = ()) -> int:
    """Up to which offset lines are followed by _MORE_PROGRESS rising iterations or more, -1 if none are.

    Lines at the offsets `signs` do not count: an iteration without a loss, say, is a sign.
    """
    progress = _Progress(signs)
    search.newest_first([*_PROGRESS], progress.is_last)
    return progress.offset


class _Progress:
    """Iterations that rise to the last one of a log, which are read from its end."""

    def __init__(self, signs: Collection[int]) -> None:
        self.offset = -1
        """That of the iteration which _MORE_PROGRESS - 1 more follow; -1: not yet read."""
        self._signs = signs
        self._rising: dict[bool, list[float]] = {False: [], True: []}
        """The numbers: of iterations, and (True) of parts of epochs, which may be another line about the same one."""

    def is_last(self, match: Match) -> bool:
        """Note a match; true as soon as there are enough."""
        if match.offset not in self._signs:
            text = next(text for number, text in match.groups.items() if number.isdecimal())
            rising, number = self._rising["." in text], float(text)
            if not rising or number < rising[-1]:
                rising.append(number)
            self.offset = match.offset if len(rising) == _MORE_PROGRESS else -1
        return self.offset >= 0
