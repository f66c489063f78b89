"""A terminal for commands: of a given size, with somebody at it who can press Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable

from tests.flow.conftest import PATIENCE_SECONDS, User

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def at_terminal(
    user: User,
    *words: str,
    rows: int = 24,
    columns: int = 80,
    term: str = "xterm",
    interrupt: Callable[[str], bool] = lambda output: False,
) -> tuple[int, str]:
    """Run a command at a terminal: its exit code, and all that it wrote.

    Ctrl-C is pressed once `interrupt` says so of what was written until then.
    """
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command, *arguments = words
    process = subprocess.Popen(
        user.words(command, *arguments),
        cwd=user.home,
        env={**user.environment, "TERM": term},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    output, end, pressed = "", time.monotonic() + PATIENCE_SECONDS, False
    with contextlib.suppress(OSError):  # EIO: the last process has closed it
        while time.monotonic() < end and (data := _read(ours)) is not None:
            output += data
            if not pressed and interrupt(output):
                pressed = True
                os.write(ours, b"\x03")
    os.close(ours)
    return process.wait(PATIENCE_SECONDS), output


def _read(descriptor: int) -> str | None:
    """What has come; None at the end."""
    if not select.select([descriptor], [], [], 0.2)[0]:
        return ""
    return os.read(descriptor, 65536).decode(errors="replace") or None


def plain(output: str) -> list[str]:
    """The lines of an output without what controls the terminal."""
    return [line.rstrip() for line in _CONTROL.sub("", output).replace("\r", "").split("\n")]
