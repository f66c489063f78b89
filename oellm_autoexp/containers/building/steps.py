"""Runs a program as one step of a build: output to a log, progress to the screen, and the cause of a failure."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from oellm_autoexp.containers.failures import explain
from oellm_autoexp.containers.limits import limits
from oellm_autoexp.core.errors import BackendError, Problem
from oellm_autoexp.core.text import printable

Say = Callable[[str], None]
_KEPT_LINES = 200
_SHOWN_LINES = 15
_REPORT_SECONDS = 30.0
_TERM_SECONDS = 10.0


def run(
    title: str,
    words: Sequence[str],
    *,
    log: IO[str],
    env: Mapping[str, str],
    cwd: Path,
    say: Say,
    watched: Path | None = None,
    verbose: bool = False,
) -> None:
    """Run a program until it ends; it is killed with its children if this process is interrupted.

    Its output goes to `log` (with `verbose` also to the screen); every half minute `say` gets its running time, the
    size of the folder `watched`, and its last line. Raises BackendError with the cause of a failure.
    """
    log.write(f"\n$ {shlex.join(words)}\n")
    log.flush()
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    begun = time.monotonic()
    try:
        child = subprocess.Popen(
            words,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise BackendError(Problem(f"{title}: can't run {words[0]}: {error.strerror}")) from None
    try:
        reported_at = begun
        for line in _lines(child):
            if line is not None:
                last.append(line)
                log.write(f"{line}\n")
                log.flush()
                if verbose:
                    say(f"    {printable(line)}")
            if time.monotonic() - reported_at >= _REPORT_SECONDS:
                reported_at = time.monotonic()
                say(f"    {_progress(reported_at - begun, watched, last)}")
        code = child.wait()
    except BaseException:
        _end(child)
        raise
    if code:
        what, hint = explain(code, list(last), limits())
        shown = "".join(f"\n    | {printable(line)}" for line in list(last)[-_SHOWN_LINES:])
        raise BackendError(
            Problem(f"{title}: {what}", hint=f"{hint}\n    its last lines ({log.name}):{shown}".lstrip())
        )


def _lines(child: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """The lines that a program prints, and None once a second while it prints none."""
    output = cast("IO[bytes]", child.stdout)
    rest = b""
    while True:
        ready, _, _ = select.select([output], [], [], 1.0)
        if not ready:
            yield None
            continue
        data = os.read(output.fileno(), 1 << 16)
        if not data:
            break
        *whole, rest = (rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _TERM_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            return


def _progress(seconds: float, watched: Path | None, last: deque[str]) -> str:
    minutes, rest = divmod(int(seconds), 60)
    size = f", {folder_size(watched)[0] / (1 << 30):.1f} GiB written" if watched else ""
    line = next((line.strip() for line in reversed(last) if line.strip()), "")
    return f"{minutes}:{rest:02d} min{size}{f': {printable(line)[:90]}' if line else ''}"


def folder_size(path: Path) -> tuple[int, int]:
    """Bytes and number of the files and folders in a folder, or of a file; those that can't be read are not counted."""
    if not path.is_dir():
        with suppress(OSError):
            return path.lstat().st_size, 1
        return 0, 0
    total, count = 0, 1
    for place, folders, files in os.walk(path):
        count += len(folders) + len(files)
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118
    return total, count


def to_stderr(text: str) -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
