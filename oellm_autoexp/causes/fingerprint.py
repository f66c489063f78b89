"""The fingerprint of a failure: equal for the same failure in other ranks, attempts and jobs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_LENGTH = 12
_LONGEST = 300
PATH = re.compile(r"(?:[A-Za-z][\w+.-]*:/)?(?:~|\.{1,2})?/[^\s'\"`,;:()\[\]{}<>]+")
_RANK_IN_NAME = re.compile(r"(?i)((?<![a-z])(?:rank|task|worker|proc|tp|pp|dp|ep|shard_of)|__)[_.-]?\d+(?:_\d+)*")
_PASSING = re.compile(
    r"(?i)(?<![a-z])(job|slurm|pid|attempt)[_.-]?\d+(?:[_.]\d+)*(?![a-z0-9])|(?<![a-z])(tmp)[_.-]?[a-z0-9_]{6,12}(?=/|\.|$)"
    r"|\b()[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|(?<=/)()\d+(?=\.script$)"
)
"""What a job, a process or a temporary file is called by: `job01123/slurm_script`, `tmpq_w2k1x9`, `48.script`."""
_OF_NODE = re.compile(r"/(?:tmp|var|run|dev/shm|local\w*|lscratch|jobfs|ssd\w*|nvme\w*|flash|raid)/")
"""Where the folders of a node's own disks begin, whose numbers are those of jobs, as is a name that is a number."""
_NUMBERED = re.compile(r"\d+(?=[^/]*/)|(?<=/)\d+$")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?")
_ID = re.compile(
    r"(?i)\b(?:GPU-|MIG-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b"
)
"""UUIDs, of GPUs, too, and addresses of IPv6."""
_ADDRESS = re.compile(r"\b0[xX][0-9a-fA-F]+\b|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
_HOST = re.compile(r"\b[a-z][a-z-]*\d+(?:[.-][a-z0-9-]+)*\b")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,:_]\d+)*(?:[eE][-+]?\d+)?")
_COUNT = re.compile(r"(?<![\w./])\d+/\d+(?![\w/])")
"""`3/4 clients joined` is no path."""
_SIZE = re.compile(r"#\s?(?:[kKMGTP]i?)?[bB](?:ytes?)?\b")
"""A size in any unit: what is too little is so by MiB and by GiB."""
_SEVERAL = re.compile(r"#(?:\s?[,x]\s?#)+")
"""Numbers of a list or a shape, of any length."""
_DIGITS = re.compile(r"\d+")
_BLANKS = re.compile(r"\s+")


def fingerprint(kind: str, message: str, place: str = "", nodes: Iterable[str] = (), *, of_folder: bool = False) -> str:
    """Twelve hexadecimal digits of what the failure is: its kind, the words of its message, where it was raised.

    Addresses, hosts, times and numbers are left out, as they differ between ranks and attempts; of a path, its last
    folder and its name stay, without ranks and ids of jobs: the same error about another file is another failure.
    `place` is the file and the function, `nodes` are those at fault. `of_folder`: the numbers in the names of files do
    not count, as of a file system that is full it does not matter which file is written.
    """
    text = "\n".join((kind, place, ",".join(nodes), plain(message, of_folder=of_folder)))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_LENGTH]


def plain(message: str, *, of_folder: bool = False) -> str:
    """A message without what differs between ranks and attempts."""
    message = _COUNT.sub("#", message)
    names = [_lasting(path) for path in PATH.findall(message)]
    names = [_DIGITS.sub("#", name) for name in names] if of_folder else names
    for pattern, word in _LEFT_OUT:
        message = pattern.sub(word, message)
    return " ".join([_BLANKS.sub(" ", message).strip()[:_LONGEST], *names])


_LEFT_OUT = (
    *((PATH, "<path>"), (_TIME, "#"), (_ID, "#"), (_ADDRESS, "#"), (_HOST, "#"), (_NUMBER, "#")),
    *((_SIZE, "# bytes"), (_SEVERAL, "#")),
)
"""What is left out, in this order, and what stands for it."""


def _lasting(path: str) -> str:
    """The last two parts of a path, without what differs between ranks, attempts and jobs."""
    name = "/".join(path.split("/")[-2:])
    name = _NUMBERED.sub("#", name) if _OF_NODE.match(path) else name
    name = _PASSING.sub(lambda found: f"{''.join(filter(None, found.groups()))}#", name)
    return _RANK_IN_NAME.sub(r"\1#", name)
