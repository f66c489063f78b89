"""What a job's script leaves in `marks/`: when it started, and its exit code. Anything may garble these files.

We leave there for the script: an attempt was replaced by a newer one, and must not run again.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oellm_autoexp.core.errors import StateError
from oellm_autoexp.core.text import printable
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic

Kind = Literal["start", "exit"]
_MOST_BYTES = 4096
_IN_THE_MAKING_SECONDS = 10.0
_SKEW_SECONDS = 3600.0  # by which the clock of a node may be ahead of ours
_HIGHEST_CODE = 255
_ID = re.compile(r"\d{1,12}(_\d{1,12})?", re.ASCII)
TOKEN_AT_END = re.compile(r"\.[0-9a-f]{8}\Z")
"""A submission's token in the name that a job ran by; a site may have given it another name."""


@dataclass(frozen=True)
class Mark:
    """The number in a status file: seconds since 1970, or an exit code; None if unusable, `wrong` says why.

    A file that is missing, or being written, is not wrong.
    """

    number: int | None = None
    wrong: str = ""
    name: str = ""
    """The last line of a start mark: the name that the job ran by. Between are its host and process, and the folder."""


def read(path: Path, kind: Kind, now: float) -> Mark:
    """Read a status file; `now` is in seconds since 1970. Never raises, never blocks."""
    try:
        with trust.open_file(path, most=trust.SMALL, lenient=True) as file:
            first, _, rest = file.read(_MOST_BYTES).partition(b"\n")
            written = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return Mark()
    except StateError as error:
        return Mark(wrong=_ignored(path, error.problems[0].what))
    except OSError as error:
        return Mark(wrong=_ignored(path, error.strerror or "can't be read"))
    line, name = first.strip(), _name(["", *rest.decode(errors="replace").splitlines()])
    if not line:
        young = abs(time.time() - written) < _IN_THE_MAKING_SECONDS
        return Mark() if young else Mark(wrong=_ignored(path, "empty"))
    number = int(line) if line.isdigit() and len(line) <= len(str(2**63)) else None
    if kind == "exit":
        fits = number is not None and number <= _HIGHEST_CODE
        return Mark(number) if fits else Mark(wrong=_ignored(path, "no exit code"))
    if number is None or number == 0:
        return Mark(wrong=_ignored(path, "no time"), name=name)
    late = number > now + _SKEW_SECONDS
    return Mark(wrong=_ignored(path, "a time in the future"), name=name) if late else Mark(number, name=name)


def started(folder: Path) -> dict[str, str]:
    """The jobs that wrote a start file into a folder: id → the name that each ran by; not copies from other folders.

    People copy output directories, with the marks in them.
    """
    found: dict[str, str] = {}
    for path in folder.glob("*.start"):
        lines = _lines(path) if _ID.fullmatch(path.stem) else []  # not those of a job's steps
        if lines and (len(lines) < 4 or lines[2] == str(folder)):
            found[path.stem] = _name(lines)
    return found


def _name(lines: list[str]) -> str:
    """The name in a start mark: its fourth line, and the last one of a mark of an older version."""
    return lines[3] if len(lines) > 3 else lines[-1]


def under_way(folder: Path) -> dict[str, str]:
    """Our submissions that have started but wrote no exit code: id → token. They run, or were killed."""
    begun = started(folder).items()
    tokens = {id: found[0][1:] for id, name in begun if (found := TOKEN_AT_END.search(name)) is not None}  # noqa: A001
    return {id: token for id, token in tokens.items() if not (folder / f"{id}.exit").exists()}  # noqa: A001


def refused(folder: Path, scheduler_id: str, token: str) -> str:
    """The id of the job that kept the script of a submission from starting its program; '' if none did."""
    lines = _lines(folder / f"{scheduler_id}.refused")
    ours = len(lines) == 2 and lines[1].endswith(f".{token}")
    return lines[0] if ours and _ID.fullmatch(lines[0]) else ""


@dataclass(frozen=True)
class ChainEnd:
    """How a link has ended its chain, so that no later one is to begin, and why."""

    how: Literal["complete", "stopped", "failed"]
    why: str


def chain_end(folder: Path, token: str, scheduler_id: str) -> ChainEnd | None:
    """How the link with this id, or one before, has ended its chain; None if none has.

    `token` is that of the chain's submission; the file may be of an earlier one.
    """
    lines = _lines(folder / "chain.end")
    if len(lines) < 4 or lines[0] != token or not (_ID.fullmatch(lines[1]) and _ID.fullmatch(scheduler_id)):
        return None
    if _task(lines[1]) > _task(scheduler_id):
        return None
    match lines[2]:
        case "complete" | "stopped" | "failed" as how:
            return ChainEnd(how, lines[3])
    return None


def _task(scheduler_id: str) -> int:
    return int(scheduler_id.partition("_")[2] or 0)


@dataclass(frozen=True)
class Step:
    """One run of a program within its job (sbatch/in_job): when it began (seconds since 1970), where, and why again."""

    number: int
    most: int
    """How many steps the job may have."""
    started_at: int
    nodes: str
    """The names of its nodes, joined by commas."""
    log_bytes: int
    """The size of the job's log as it began."""
    why: str = ""


def steps_after(folder: Path, scheduler_id: str, number: int) -> list[Step]:
    """The steps of a job that began after step `number`, in order; a file that is damaged ends the list."""
    found: list[Step] = []
    while True:
        number += 1
        lines = _lines(folder / f"{scheduler_id}.step{number}.start")
        counts = [lines[index] for index in (0, 2, 3)] if len(lines) >= _LINES_OF_STEP else []
        if not counts or not all(_COUNT.fullmatch(count) for count in counts):
            return found
        started_at, most, size = map(int, counts)
        nodes, why = printable(lines[1]), printable(lines[4]) if len(lines) > _LINES_OF_STEP else ""
        found.append(Step(number, most, started_at, nodes, size, why))


_LINES_OF_STEP = 4
_COUNT = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True)
class SickNode:
    """A node that a job's script left out: by which check (sbatch/in_job/preflight.py; `answer`, `slurm`), and why."""

    node: str
    check: str
    reason: str


def sick_nodes(folder: Path, scheduler_id: str) -> tuple[SickNode, ...]:
    """The nodes that the script of a job left out, in order; one may be there more than once."""
    parts = (line.split("\t", 2) for line in _lines(folder / f"{scheduler_id}.sick", _MOST_BYTES_OF_SICK))
    return tuple(SickNode(*map(printable, each)) for each in parts if len(each) == 3 and _NODE.fullmatch(each[0]))


_NODE = re.compile(r"[\w.-]{1,255}", re.ASCII)
_MOST_BYTES_OF_SICK = 8 << 20
"""A line has at most about 600 bytes, and a cluster may have 10,000 nodes."""


def _lines(path: Path, most: int = trust.SMALL) -> list[str]:
    """The lines of a status file; none if it is missing, larger than `most` bytes, or can't be read."""
    with contextlib.suppress(OSError, StateError):
        return trust.read(path, most=most, lenient=True).decode(errors="replace").splitlines()
    return []


def replace(folder: Path, scheduler_id: str, token: str) -> None:
    """Write the file that keeps an attempt from running again after `scontrol requeue`. Raises OSError, StateError."""
    trust.check_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{scheduler_id}.replaced", f"{token}\n")


def _ignored(path: Path, why: str) -> str:
    return f"{path} is ignored: {why}"
