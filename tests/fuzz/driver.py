"""Fuzzing with random inputs for a while, and for good with those that once failed.

A fuzz test calls `fuzz(name, make, check)`. Inputs that failed are kept in `tests/fuzz/kept/<name>/`, are tried first
in every run, and belong in the repository together with the mending. `AUTOEXP_FUZZ_SECONDS`: how long random ones are
tried (default 2; CI: 60; `make fuzz`: 600). `AUTOEXP_FUZZ_SEED`: where they begin (default 0, so that a test fails for
a change and not by chance; `make fuzz`: another in each run).
"""

import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

_KEPT = Path(__file__).with_name("kept")
_USUAL_SECONDS = 2.0


def fuzz(name: str, make: Callable[[random.Random], bytes], check: Callable[[bytes], None]) -> int:
    """Try `check` on the inputs that are kept, then on random ones of `make`; returns how many were tried.

    `check` raises what it finds (AssertionError, or anything that must not come out of the code). The input is then
    kept, and the test fails with its path.
    """
    folder = _KEPT / name
    tried = 0
    for path in sorted(folder.glob("*")):
        _try(path.read_bytes(), check, path)
        tried += 1
    source = random.Random(int(os.environ.get("AUTOEXP_FUZZ_SEED") or 0))
    until = time.monotonic() + float(os.environ.get("AUTOEXP_FUZZ_SECONDS") or _USUAL_SECONDS)
    while time.monotonic() < until:
        data = make(source)
        path = folder / hashlib.sha256(data).hexdigest()[:16]
        _try(data, check, path)
        tried += 1
    return tried


def _try(data: bytes, check: Callable[[bytes], None], path: Path) -> None:
    try:
        check(data)
    except Exception as error:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        raise AssertionError(f"{path}: {data[:200]!r}: {type(error).__name__}: {error}") from error
