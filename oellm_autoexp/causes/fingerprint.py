"""The fingerprint of a failure: equal for the same failure in other ranks, attempts and jobs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_LENGTH = 12
_LONGEST = 300
_PATH = re.compile(r"(?:[A-Za-z][\w+.-]*:/)?(?:~|\.{1,2})?/[^\s'\"`,;:()\[\]{}<>]+")
_RANK_IN_NAME = re.compile(r"(?i)((?<![a-z])(?:rank|task|worker|proc|tp|pp|dp|ep|shard_of)|__)[_.-]?\d+(?:_\d+)*")
_ADDRESS = re.compile(r"\b0[xX][0-9a-fA-F]+\b|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
_HOST = re.compile(r"\b[a-z][a-z-]*\d+(?:[.-][a-z0-9-]+)*\b")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,:_]\d+)*(?:[eE][-+]?\d+)?")
_BLANKS = re.compile(r"\s+")


def fingerprint(kind: str, message: str, place: str = "", nodes: Iterable[str] = ()) -> str:
    """Twelve hexadecimal digits of what the failure is: its kind, the words of its message, where it was raised.

    Addresses, hosts, times and numbers are left out, as they differ between ranks and attempts; of a path, its last
    folder and its name stay, without ranks: the same error about another file is another failure. `place` is the file
    and the function, `nodes` are those at fault.
    """
    text = "\n".join((kind, place, ",".join(nodes), plain(message)))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_LENGTH]


def plain(message: str) -> str:
    """A message without what differs between ranks and attempts."""
    names = [_RANK_IN_NAME.sub(r"\1#", "/".join(path.split("/")[-2:])) for path in _PATH.findall(message)]
    for pattern, word in ((_PATH, "<path>"), (_ADDRESS, "#"), (_HOST, "#"), (_NUMBER, "#")):
        message = pattern.sub(word, message)
    return " ".join([_BLANKS.sub(" ", message).strip()[:_LONGEST], *names])
