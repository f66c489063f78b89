"""Which program runs a script, by its first line."""

from __future__ import annotations

import os
from pathlib import Path

from oellm_autoexp.storage import trust


def interpreter(script: Path) -> list[str]:
    """The program in a script's `#!` line, and its argument if there is one, as the kernel and sbatch read them.

    Raises OSError, and ValueError with sbatch's message for a script that sbatch would refuse.
    """
    with trust.open_file(script, most=trust.LINE) as file:
        first = file.readline(4096)
    if not first:
        raise ValueError("Batch script is empty!")
    if not first.startswith(b"#!") or not first[2:].strip():
        raise ValueError("This does not look like a batch script (no '#!' in its first line)")
    if first.endswith(b"\r\n"):
        raise ValueError("Batch script contains DOS line breaks (\\r\\n)")
    return os.fsdecode(first[2:].strip()).split(maxsplit=1)
