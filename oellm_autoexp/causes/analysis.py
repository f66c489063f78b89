"""From the lines of an attempt's logs and the scheduler's answer to its root cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from oellm_autoexp.causes import endings
from oellm_autoexp.causes.cause import BLAMES_NODES, Cause
from oellm_autoexp.causes.endings import Ending, Verdict
from oellm_autoexp.causes.fingerprint import fingerprint
from oellm_autoexp.causes.labels import split, stamp, without_colours
from oellm_autoexp.causes.places import Clues, expand, known_node
from oellm_autoexp.causes.rule import ROLES, CauseRule
from oellm_autoexp.causes.signs import LogText, Sign, find_signs, sign_at
from oellm_autoexp.causes.tracebacks import Frame, Traceback, chain
from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.text import fill, printable

_STRENGTH = {role: number for number, role in enumerate(ROLES)}
_WINDOW_BYTES = 1 << 16
"""How much of a log before an exception's line is looked at for its traceback."""
_RANK = re.compile(r"\b[Rr]ank[ :=#]{0,2}(\d{1,9})\b")
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
    clues = Clues(expand(ending.nodes))
    signs: list[Sign] = []
    texts: list[LogText] = []
    for number, log in enumerate(logs):
        found = list(find_signs(number, log, rules, clues))
        begin = max(0, found[0].offset - _WINDOW_BYTES) if found else max(0, len(log.data) - endings.TAIL_BYTES)
        texts.append(replace(log, data=log.data[begin:], start=log.start + begin))
        signs += (replace(sign, offset=sign.offset - begin) for sign in found)
    if ending.cancelled_by:  # that it was killed is our doing
        signs = [sign for sign in signs if sign.rule.category != "killed"]
    root = _root(signs, texts, rules, clues)
    verdict = endings.verdict(ending, clues)
    if root is None or (verdict is not None and verdict.overrules(root.sign.rule.role)):
        return _of_ending(verdict or endings.UNKNOWN, signs, ending, clues, texts)
    return _of_root(root, signs, ending, clues, texts)


# ---------------------------------------------------------------------------------------------------------------------
# Which line


def _root(
    signs: Sequence[Sign], texts: Sequence[LogText], rules: Mapping[str, CauseRule], clues: Clues
) -> _Root | None:
    """The sign that comes first of the strongest ones; its traceback may lead to an earlier exception."""
    best = min((_STRENGTH[sign.rule.role] for sign in signs), default=None)
    strongest = [sign for sign in signs if _STRENGTH[sign.rule.role] == best]
    if not strongest:
        return None
    first = _first(strongest, texts, clues)
    start, lines, last = _window(first, texts[first.source])
    tracebacks = chain(lines, last)
    if not tracebacks:
        return _Root(first, None)
    origin = tracebacks[0]
    line = lines[origin.exception]
    offset = start + sum(len(line.encode(errors="surrogateescape")) + 1 for line in lines[: origin.exception])
    earlier = sign_at(replace(first, offset=offset, line=line, label=split(line)), origin.places, rules)
    if earlier is None or _STRENGTH[earlier.rule.role] > _STRENGTH[first.rule.role]:
        return _Root(first, tracebacks[-1])
    return _Root(earlier, origin)


def _first(signs: Sequence[Sign], texts: Sequence[LogText], clues: Clues) -> Sign:
    """The sign of the failure that came first: that of the rank which torchrun names, else by the lines' times."""
    if clues.first_rank is not None and (own := [sign for sign in signs if sign.rank == clues.first_rank]):
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
    _, lines, last = _window(sign, text)
    return next((found for line in reversed(lines[:last]) if (found := stamp(line))), "")


def _window(sign: Sign, text: LogText) -> tuple[int, list[str], int]:
    """The lines that end with a sign's: the offset of the first one, the lines, and the number of the sign's."""
    begin = max(0, sign.offset - _WINDOW_BYTES)
    if begin:
        begin = text.data.find(b"\n", begin, sign.offset) + 1 or sign.offset
    lines = [line.decode(errors="surrogateescape") for line in text.data[begin : sign.offset].split(b"\n")[:-1]]
    return begin, [*lines, sign.line], len(lines)


# ---------------------------------------------------------------------------------------------------------------------
# What it says


def _of_root(root: _Root, signs: Sequence[Sign], ending: Ending, clues: Clues, texts: Sequence[LogText]) -> Cause:
    sign, rule = root.sign, root.sign.rule
    rank, node = _place(sign, clues)
    text = printable(redact_text(sign.text.strip()))[:_LONGEST_LINE]
    said = _said(sign, text, root.traceback.own if root.traceback else None)
    frame = root.traceback.frame if root.traceback else None
    blamed = _blamed(sign, node, signs, ending, clues)
    return Cause(
        category=rule.category,
        text=said + _where(rank, node, clues),
        fingerprint=fingerprint(
            f"{rule.category} {sign.name}", text, f"{frame.file} {frame.function}" if frame else "", blamed
        ),
        rule=sign.name,
        line=_quoted(sign),
        path=texts[sign.source].path,
        offset=texts[sign.source].start + sign.offset,
        rank=rank,
        node=node,
        blamed_nodes=blamed,
    )


def _quoted(sign: Sign) -> str:
    return printable(redact_text(without_colours(sign.line).strip()))[:_LONGEST_LINE]


def _place(sign: Sign, clues: Clues) -> tuple[int | None, str]:
    """The rank and the node of a line: as it says, else those of the process that was reported to fail first."""
    rank, rule = sign.rank, sign.rule
    if rank is None and sign.device is not None:
        rank = clues.rank_of(sign.host, sign.device)
    if rank is None and (found := _RANK.search(sign.text)):
        rank = int(found[1])
    if rank is None:
        rank = clues.first_task if clues.first_rank is None and rule.category == "oom-host" else clues.first_rank
    named = known_node(sign.groups.get("node", ""), clues.nodes)
    node = named or clues.node(rank, sign.task) or (known_node(sign.host, clues.nodes) if sign.host else "")
    node = node or (clues.named(sign.line) if rule.at_fault else "")
    return rank, node


def _blamed(root: Sign, node: str, signs: Sequence[Sign], ending: Ending, clues: Clues) -> tuple[str, ...]:
    """The nodes at fault: those that the scheduler names as failed, else the one of the line, if its rule blames that.

    What several nodes report of the network, or of a file system, is the fault of none of them.
    """
    if root.rule.category == "node" and ending.failed_nodes:
        return tuple(expand(ending.failed_nodes))
    if root.rule.category not in ("network", "filesystem"):
        return (node,) if node and root.rule.at_fault else ()
    places = {_place(sign, clues) for sign in signs if sign.name == root.name}
    alone = {name for _, name in places} == {node} and len(clues.nodes) > 1
    at_fault = root.rule.at_fault
    if root.rule.category == "network":
        at_fault = at_fault and alone
    elif root.rule.category == "filesystem":
        at_fault = at_fault or (alone and len(places) > 1)
    return (node,) if node and at_fault else ()


def _said(sign: Sign, line: str, frame: Frame | None) -> str:
    """The cause in words: of the rule, else the `line` without labels; with the place where an exception was raised."""
    if sign.rule.says is not None:
        text = fill(sign.rule.says, lambda key: printable(redact_text(sign.groups.get(key, "")))).strip()
    else:
        text = line if len(line) <= _LONGEST_TEXT else f"{line[: _LONGEST_TEXT - 1]}…"
    if frame is None:
        return text
    bare = ":" not in line.rstrip(":")  # an exception without a message: the statement says more
    statement = f": {printable(redact_text(frame.statement))[:_LONGEST_TEXT]}" if bare and frame.statement else ""
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
    nodes = expand(ending.failed_nodes) if verdict.category in BLAMES_NODES else []
    sign = next((sign for sign in signs if sign.rule.category == verdict.category), None)
    last = endings.last_words(texts) if verdict.category == "unknown" else ""
    quoted = printable(redact_text(last))[:_LONGEST_TEXT]
    text = f"{verdict.text}; its log ends with: {quoted}" if quoted else verdict.text
    return Cause(
        category=verdict.category,
        text=text + (_where(None, ", ".join(nodes), clues) if nodes else ""),
        fingerprint=fingerprint(verdict.category, f"{verdict.text}\n{last}", nodes=nodes),
        line=_quoted(sign) if sign else "",
        path=texts[sign.source].path if sign else "",
        offset=texts[sign.source].start + sign.offset if sign else 0,
        rank=clues.first_rank,
        node=nodes[0] if len(nodes) == 1 else clues.node(clues.first_rank, clues.first_task),
        blamed_nodes=tuple(nodes),
    )
