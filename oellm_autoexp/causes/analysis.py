"""From the lines of an attempt's logs and the scheduler's answer to its root cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from oellm_autoexp.causes import endings
from oellm_autoexp.causes.blame import Placing, blamed, learn, of_ending, rank_of
from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.causes.endings import Ending, Verdict
from oellm_autoexp.causes.fingerprint import fingerprint
from oellm_autoexp.causes.hosts import Nodes, expand
from oellm_autoexp.causes.labels import split, stamp
from oellm_autoexp.causes.places import Clues
from oellm_autoexp.causes.rule import ROLES, CauseRule
from oellm_autoexp.causes.signs import WINDOW_BYTES, LogText, Sign, find_signs, sign_at, window
from oellm_autoexp.causes.tracebacks import Frame, Traceback, chain
from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.text import fill, printable
from oellm_autoexp.search.escapes import without_escapes

_STRENGTH = {role: number for number, role in enumerate(ROLES)}
_OF_SHELL = re.compile(r"\S+: (?:line )?\d+: (?!\s*\d+ )")
"""A message of a shell, which goes on after it (without `set -e`); that a process was killed is none."""
_FROM_SHELL = re.compile(rf"{_OF_SHELL.pattern}|(?:ModuleNotFound|Import)Error: ")
"""Another such message, or what follows where a shell could not set up an environment."""
_REPORTS = re.compile(r"\b(?:ERROR|WARN|WARNING|CRITICAL|EXCEPTION)\b|^--- Logging error ---|^Error in ")
"""What stands above the traceback of an exception that a program, or Python itself, only reports."""
_IGNORED, _IGNORED_BYTES = "Exception ignored ", 8192
"""What Python writes above one that was raised where nobody can catch it, and how far above it that is looked for."""
_TERMINATED = re.compile(r"\bTerminated\b")
_LONGEST_TEXT, _LONGEST_LINE = 240, 500  # characters


@dataclass(frozen=True)
class _Root:
    """The line that shows the cause, and where in the program it was raised."""

    sign: Sign
    traceback: Traceback | None


def find_cause(ending: Ending, logs: Iterable[LogText], rules: Mapping[str, CauseRule]) -> Cause:
    """The root cause of an attempt that failed. `logs` are the ends of its logs, one for each file.

    They are taken one by one, and only what is needed of each is kept: there may be thousands, one for each rank.
    """
    clues = Clues(Nodes(expand(ending.nodes)))
    signs: list[Sign] = []
    texts: list[LogText] = []
    for number, read in enumerate(logs):
        log = read.relabelled(clues)
        found = list(find_signs(number, log, rules, clues))
        begin = max(0, found[0].offset - WINDOW_BYTES) if found else max(0, len(log.data) - endings.TAIL_BYTES)
        texts.append(log.end(begin))
        signs += (replace(sign, offset=sign.offset - begin) for sign in found)
    clues.has_files_of(text.rank for text in texts)
    learn(signs, clues)
    if ending.cancelled_by or endings.exited_first(ending, clues) is not None:  # that it was killed follows from that
        signs = [sign for sign in signs if sign.rule.category != "killed"]
    if any((sign.rule.category, sign.rule.role) == ("oom-host", "confirms") for sign in signs):
        signs = [sign for sign in signs if sign.rule.category != "network"]  # its peers lost their connections
    if any(_is_hardware(sign.rule) for sign in signs):
        signs = [sign for sign in signs if not _follows_hardware(sign.rule)]
    signs = _before_the_end(signs, ending)
    root = _root(signs, texts, rules, clues)
    verdict = endings.verdict(ending, clues)
    if root is None or (verdict is not None and verdict.overrules(root.sign.rule)):
        return _of_ending(verdict or endings.UNKNOWN, signs, ending, clues, texts)
    return _of_root(root, signs, ending, clues, texts)


# ---------------------------------------------------------------------------------------------------------------------
# Which line


def _is_hardware(rule: CauseRule) -> bool:
    """True if such a line shows a broken GPU, whatever other lines say."""
    return (rule.category, rule.role, rule.otherwise) == ("gpu-hardware", "root", None)


def _follows_hardware(rule: CauseRule) -> bool:
    """True if a broken GPU leads to such a line: its peers lose their connections, or it can't be initialized."""
    return rule.category == "network" or (rule.category == "node" and rule.otherwise is not None)


def _before_the_end(signs: Sequence[Sign], ending: Ending) -> list[Sign]:
    """Without what a program says of itself below the line that SLURM ends it: that follows from it.

    Where SLURM's answer is not known, or another one, a step that is cancelled may be ended for a task that failed.
    """
    ended = _CANCELS if ending.scheduler_state.split(" ")[0] in _ENDED_BY_SLURM else _CANCELS_THE_JOB
    ends: dict[int, int] = {}
    for sign in signs:
        if ended.match(sign.text):
            ends.setdefault(sign.source, sign.offset)
    return [
        sign for sign in signs if sign.offset <= ends.get(sign.source, sign.offset) or sign.rule.category in _BY_OTHERS
    ]


_CANCELS = re.compile(r"slurmstepd: error: \*\*\* (?:STEP|JOB) .* CANCELLED AT ")
_CANCELS_THE_JOB = re.compile(r"slurmstepd: error: \*\*\* (?:JOB .* CANCELLED AT |.* DUE TO (?:TIME LIMIT|PREEMPTION))")
_ENDED_BY_SLURM = frozenset({"TIMEOUT", "DEADLINE", "PREEMPTED", "CANCELLED"})
_BY_OTHERS = frozenset({"killed", "time", "preempted", "oom-host", "node", "gpu-hardware"})
"""Categories of lines that the system writes, also late."""


def _root(
    signs: Sequence[Sign], texts: Sequence[LogText], rules: Mapping[str, CauseRule], clues: Clues
) -> _Root | None:
    """The sign that comes first of the strongest ones; its traceback may lead to an earlier exception."""
    strongest = next(filter(None, (_of_role(role, signs, texts, clues) for role in ROLES)), None)
    if strongest is None:
        return None
    first = _first(strongest, texts, clues)
    if first.rule.category == "killed":  # whoever does not end by SIGTERM is ended by SIGKILL
        own = (sign for sign in signs if sign.source == first.source and sign.rule.category == "killed")
        first = next((sign for sign in own if sign.offset < first.offset and _TERMINATED.search(sign.text)), first)
    start, lines, last = window(first, texts[first.source])
    tracebacks = chain(lines, last)
    if not tracebacks:
        return _Root(first, None)
    origin = tracebacks[0]
    line = without_escapes(lines[origin.exception])
    offset = start + sum(len(line.encode(errors="surrogateescape")) + 1 for line in lines[: origin.exception])
    earlier = sign_at(replace(first, offset=offset, line=line, label=split(line)), origin.places, rules)
    if earlier is None or _STRENGTH[earlier.rule.role] > _STRENGTH[first.rule.role]:
        return _Root(first, tracebacks[-1])
    return _Root(earlier, origin)


def _of_role(role: str, signs: Sequence[Sign], texts: Sequence[LogText], clues: Clues) -> Sequence[Sign]:
    """The signs of a role that may be the cause."""
    own = [sign for sign in signs if sign.rule.role == role and not _is_ignored(sign, texts[sign.source])]
    return _final(own, texts, clues)


def _is_ignored(sign: Sign, text: LogText) -> bool:
    """True if a sign is an exception that Python ignored, as in a destructor: the program goes on, whatever follows."""
    begin = text.data.find(_IGNORED.encode(), max(0, sign.offset - _IGNORED_BYTES), sign.offset)
    if begin < 0:
        return False
    lines = text.data[text.data.rfind(b"\n", 0, begin) + 1 : sign.offset].decode(errors="replace").split("\n")[:-1]
    tracebacks = chain([*lines, sign.line], len(lines))
    return bool(tracebacks) and _IGNORED in tracebacks[0].above


def _final(signs: Sequence[Sign], texts: Sequence[LogText], clues: Clues) -> Sequence[Sign]:
    """Without what a program has reported and survived, and what a script went on after, as another failure followed.

    In a log of several ranks without labels, that failure may be of another rank.
    """
    several = (clues.world_size or 1) > 1
    left: list[Sign] = []
    begun: set[tuple[int, str]] = set()
    for number, sign in enumerate(signs):
        own = sign.source, sign.label.label
        later = (other for other in signs[number + 1 :] if other.source == sign.source)
        if own in begun:
            passed = False
        elif _OF_SHELL.match(sign.text):
            passed = any(other.rule.category != "config" and not _FROM_SHELL.match(other.text) for other in later)
        else:
            follows = any(other.label.label == sign.label.label for other in later)
            passed = follows and not (several and not sign.label.label) and _is_reported(sign, texts)
        if not passed:
            begun.add(own)
            left.append(sign)
    return left


def _is_reported(sign: Sign, texts: Sequence[LogText]) -> bool:
    """True if a program's log shows an exception below a message of its own: nothing but the program knows it then."""
    _, lines, last = window(sign, texts[sign.source])
    tracebacks = chain(lines, last)
    return bool(tracebacks) and _REPORTS.search(tracebacks[0].above) is not None


def _first(signs: Sequence[Sign], texts: Sequence[LogText], clues: Clues) -> Sign:
    """The sign of the failure that came first: that of the rank which torchrun names, else by the lines' times."""
    if clues.first_rank is not None and (own := [sign for sign in signs if rank_of(sign, clues) == clues.first_rank]):
        signs = own
    if len({sign.source for sign in signs}) == 1:
        return signs[0]
    earliest = {sign.source: sign for sign in reversed(signs)}
    times = {source: _time(sign, texts[source]) for source, sign in earliest.items()}
    if all(times.values()):
        return earliest[min(sorted(times), key=times.__getitem__)]
    return signs[0]


def _time(sign: Sign, text: LogText) -> str:
    """The time of a line, or of the last line before it that has one."""
    if own := stamp(sign.line):
        return own
    _, lines, last = window(sign, text)
    return next((found for line in reversed(lines[:last]) if (found := stamp(line))), "")


# ---------------------------------------------------------------------------------------------------------------------
# What it says


def _of_root(root: _Root, signs: Sequence[Sign], ending: Ending, clues: Clues, texts: Sequence[LogText]) -> Cause:
    sign, rule = root.sign, root.sign.rule
    placed = Placing(clues, texts, signs)
    rank, node = placed.of(sign)
    text = printable(redact_text(sign.text.strip()))[:_LONGEST_LINE]
    said = _said(sign, text, root.traceback.own if root.traceback else None)
    frame = root.traceback.frame if root.traceback else None
    at_fault = blamed(sign, node, signs, ending, placed)
    category = rule.category if at_fault or rule.otherwise is None else rule.otherwise
    return Cause(
        category=category,
        text=said + _where(rank, node, clues),
        fingerprint=fingerprint(
            f"{category} {sign.name}",
            text,
            _place(frame, text) if frame else "",
            at_fault,
            of_folder=rule.category == "filesystem",
        ),
        rule=sign.name,
        line=_quoted(sign),
        path=texts[sign.source].path,
        offset=texts[sign.source].place(sign.offset),
        rank=rank,
        node=node,
        blamed_nodes=at_fault,
        repeated=rule.repeated,
    )


def _place(frame: Frame, line: str) -> str:
    """Where an exception was raised, for a fingerprint: of one without a message, by which statement."""
    return f"{frame.file} {frame.function}" + (f" {frame.statement}" if _is_bare(line) else "")


def _is_bare(line: str) -> bool:
    """True if an exception has no message: the statement that raised it says more."""
    return ":" not in line.rstrip(":")


def _quoted(sign: Sign) -> str:
    return printable(redact_text(sign.line.strip()))[:_LONGEST_LINE]


def _said(sign: Sign, line: str, frame: Frame | None) -> str:
    """The cause in words: of the rule, else the `line` without labels; with the place where an exception was raised."""
    if sign.rule.says is not None:
        text = fill(sign.rule.says, lambda key: printable(redact_text(sign.groups.get(key, "")))).strip()
    else:
        text = line if len(line) <= _LONGEST_TEXT else f"{line[: _LONGEST_TEXT - 1]}…"
    if frame is None:
        return text
    shown = printable(redact_text(frame.statement))[:_LONGEST_TEXT]
    statement = f": {shown}" if shown and _is_bare(line) else ""
    return f"{text} [{frame.file}:{frame.number} in {frame.function}{statement}]"


def _where(rank: int | None, node: str, clues: Clues) -> str:
    size = clues.world_size
    words = [
        *([f"rank {rank}{f' of {size}' if size else ''}"] if rank is not None and size != 1 else []),
        *([f"node {node}"] if node else []),
    ]
    return f" ({', '.join(words)})" if words else ""


def _of_ending(
    verdict: Verdict, signs: Sequence[Sign], ending: Ending, clues: Clues, texts: Sequence[LogText]
) -> Cause:
    """The cause as the scheduler's answer shows it, with the line of a log that confirms it, if there is one."""
    sign = next((sign for sign in signs if sign.rule.category == verdict.category), None)
    nodes = of_ending(verdict.category, signs, ending, Placing(clues, texts, signs))
    last = endings.last_words(texts) if verdict.category == "unknown" else ""
    quoted = printable(redact_text(last))[:_LONGEST_TEXT]
    text = f"{verdict.text}; its log ends with: {quoted}" if quoted else verdict.text
    return Cause(
        category=verdict.category,
        text=text + (_where(None, ", ".join(nodes), clues) if nodes else ""),
        fingerprint=fingerprint(verdict.category, f"{verdict.text}\n{last}", nodes=nodes),
        line=_quoted(sign) if sign else "",
        path=texts[sign.source].path if sign else "",
        offset=texts[sign.source].place(sign.offset) if sign else 0,
        rank=clues.first_rank,
        node=nodes[0] if len(nodes) == 1 else clues.node(clues.first_rank, clues.first_task),
        blamed_nodes=nodes,
    )
