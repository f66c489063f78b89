"""`python -m oellm_autoexp.notifiers.alive`: gives one signal that a monitor is alive, or takes its file away.

It reads JSON `{"url", "file", "remove", "timeout_seconds"}` from standard input: the file gets the present time (or is
removed), then the address in the variable `url` is fetched. It says what went wrong, a line for each, and ends by
itself also where a file system or a server does not answer.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from oellm_autoexp.core.errors import NotifyError
from oellm_autoexp.notifiers.base import address_of


def main(stdin: IO[str] | None = None) -> int:
    """Give the signal. Returns 0, or 1 if a part of it failed."""
    asked = json.load(stdin or sys.stdin)
    signal.alarm(math.ceil(asked["timeout_seconds"]) + 1)  # ends this process, as nothing handles it
    errors = list(_failures(asked))
    sys.stderr.write("".join(f"{error}\n" for error in errors))
    signal.alarm(0)
    return 1 if errors else 0


def _failures(asked: dict[str, Any]) -> Iterator[str]:
    if asked["file"]:
        try:
            _mark(Path(asked["file"]), remove=asked["remove"])
        except OSError as error:
            yield f"{asked['file']}: {error.strerror}"
    if asked["url"]:
        from oellm_autoexp.storage.http import fetch  # slow to import, and every command imports this file

        try:
            fetch(address_of(asked["url"]), asked["timeout_seconds"])
        except NotifyError as error:
            yield str(error)


def _mark(path: Path, *, remove: bool) -> None:
    if remove:
        path.unlink(missing_ok=True)
    else:
        path.touch()


if __name__ == "__main__":
    sys.exit(main())
