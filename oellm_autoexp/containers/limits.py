"""The limits of this session, such as those of a login node."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

from oellm_autoexp.containers.failures import Limits

_NO_LIMIT = 1 << 60  # cgroup v1 writes a number near 2^63 for none


def limits() -> Limits:
    """The memory that this session may use, by its cgroup (v1 or v2) and its rlimits."""
    found: list[tuple[int, str]] = []
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append((soft, "ulimit -v"))
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            top = Path("/sys/fs/cgroup/memory") if "memory" in controllers.split(",") else Path("/sys/fs/cgroup")
            name = "memory.limit_in_bytes" if "memory" in controllers.split(",") else "memory.max"
            folder = top / place.lstrip("/")
            for at in (folder, *folder.parents):
                with suppress(OSError, ValueError):
                    found.append((int((at / name).read_text()), f"the cgroup {at.name or at}"))
                if at == top:
                    break
    found = [(value, source) for value, source in found if value < _NO_LIMIT]
    return Limits(*min(found)) if found else Limits()
