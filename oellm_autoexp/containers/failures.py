"""Why a build of an image failed, by its exit code and the last lines that it printed. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

COMPUTE_NODE_HINT = (
    "login nodes limit memory, processes and time: build on a compute node (`salloc` or `srun --pty bash`, then the "
    "same command; it goes on where it stopped). Where compute nodes have no internet, run it with --download-only "
    "on the login node first"
)
DISK_HINT = (
    "make room there (space, quota or inodes), or choose other folders: --output, and APPTAINER_TMPDIR and "
    "APPTAINER_CACHEDIR (SINGULARITY_TMPDIR, SINGULARITY_CACHEDIR) for what is temporary"
)
_FAKEROOT_HINT = "this machine does not allow it: use container/build_container_user.py, which needs no fakeroot"
_LOCAL_DISK_HINT = (
    "network file systems do not support file owners and devices of an image: set APPTAINER_TMPDIR "
    "(SINGULARITY_TMPDIR) to a folder on a local disk"
)
_SIGNALS = {6: "SIGABRT", 7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ"}


@dataclass(frozen=True)
class Limits:
    """The limits of this session: bytes of memory (None: no limit is known), and the source of that limit."""

    memory_bytes: int | None = None
    memory_from: str = ""

    def __str__(self) -> str:
        if self.memory_bytes is None:
            return ""
        return f" ({self.memory_from} allows {self.memory_bytes / (1 << 30):.1f} GiB of memory here)"


_CAUSES = (
    (r"No space left on device", "the disk is full{path}", DISK_HINT),
    (r"Disk quota exceeded", "a disk quota is used up{path}", DISK_HINT),
    (
        r"File too large|File size limit exceeded",
        "a file would be larger than a limit allows{path}",
        "ulimit -f shows the limit",
    ),
    (
        r"[Oo]ut of memory|[Cc]annot allocate memory|MemoryError|failed to reserve page summary|ENOMEM"
        r"|oom-kill|virtual memory exhausted|FATAL ERROR: Out of memory",
        "there was not enough memory{limits}",
        COMPUTE_NODE_HINT,
    ),
    (
        r"Resource temporarily unavailable|pthread_create failed|can't start new thread|newosproc",
        "no more processes or threads may be started (ulimit -u shows the limit)",
        COMPUTE_NODE_HINT,
    ),
    (
        r"[Ff]akeroot.*(?:subuid|mapping|not installed|requires)|newuidmap|/etc/subuid"
        r"|setgroups \d+ failed|not allowed to use fakeroot|user namespace.*(?:disabled|not enabled)",
        "fakeroot can't be used here",
        _FAKEROOT_HINT,
    ),
    (
        r"(?:lchown|chown|mknod|Lchown).*(?:[Oo]peration not permitted|[Ii]nvalid argument)"
        r"|copy Failed: operation not permitted|not support.*xattr",
        "file owners or devices of the image can't be created there",
        _LOCAL_DISK_HINT,
    ),
    (
        r"dial tcp|no such host|Temporary failure in name resolution|Network is unreachable|Failed to establish a new"
        r" connection|Connection refused|i/o timeout",
        "the network can't be reached",
        "run this with --download-only where there is internet (a login node), and again here; or name --base-image",
    ),
    (
        r"Invalid requirement: '(?P<line>[^']*)'",
        "pip can't read a line of the requirements: {line}",
        "write NAME, NAME>=VERSION or NAME @ URL, one on each line",
    ),
    (
        r"Cannot find command '(?P<program>\w+)'",
        "the base image has no {program}, which is needed to fetch a package of the requirements",
        "name a wheel or an archive instead, or use a base image that has it",
    ),
    (
        r"satisfies the requirement (?P<name>.+?)(?: \(from (?!versions:).*\))? \(from versions: none\)",
        "pip finds no package {name}",
        "look at its name in the requirements, and at the indexes that pip asks (pip config list); those for another "
        "Python or processor than the base image's do not count",
    ),
    (
        r"satisfies the requirement (?P<name>.+?)(?: \(from (?!versions:).*\))? \(from versions: (?:.*?, )??"
        r"(?P<newest>(?:[^,]+, ){0,4}[^,]+)\)",
        "pip finds no {name}; the newest are {newest}",
        "change the requirements; versions for another Python or processor than the base image's do not count",
    ),
    (
        r"ResolutionImpossible",
        "the requirements do not fit what the base image has (its own packages stay as they are)",
        "change the requirements, or let a package of the base image change: --unpin NAME",
    ),
    (
        r"unauthorized|authentication required|denied: ",
        "the registry requires a login",
        "apptainer registry login (singularity remote login), or name an image that is here: --base-image PATH",
    ),
)
"""Patterns of lines, what they mean, and what to do; the first that matches decides. Texts of Linux's errors
(errno(3)), of Go's runtime, mksquashfs, pip and Apptainer 1.4."""


def explain(code: int, lines: list[str], limits: Limits | None = None) -> tuple[str, str]:
    """Why a step failed, and what to do about it; `code` is negative for a signal, as in subprocess."""
    limits = limits or Limits()
    number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
    for pattern, what, hint in _CAUSES:
        if found := next(filter(None, (re.search(pattern, line) for line in reversed(lines))), None):
            place = re.search(r"(/[^\s:'\"]+)['\"]?:? ", f"{found.string} ")
            return what.format(path=f": {place[1]}" if place else "", limits=limits, **found.groupdict()), hint
    if number == 9 or any(re.search(r"signal: killed|^Killed\b|exit status 137", line) for line in lines):
        return f"it was killed, most likely for using too much memory{limits}", COMPUTE_NODE_HINT
    if number == 24:
        return (
            "it has used up the processor time that this session may use (ulimit -t shows the limit)",
            COMPUTE_NODE_HINT,
        )
    if number == 25:
        return "a file would be larger than a limit allows (ulimit -f shows the limit)", DISK_HINT
    if number in _SIGNALS:
        return f"it was ended by {_SIGNALS[number]}", COMPUTE_NODE_HINT if number in (6, 15) else ""
    telling = [line for line in lines if re.match(r"(?:FATAL|ERROR|error)\b", line)]
    return f"exit code {code}: {(telling or lines or ['it printed nothing'])[-1]}", ""
