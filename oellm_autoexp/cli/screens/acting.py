"""What the window of a session does when it is asked to: the commands themselves, with their messages."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor.end_jobs import cancel
from oellm_autoexp.cli.monitor.restart_jobs import restart
from oellm_autoexp.core.errors import AutoexpError

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest

ACTIONS: dict[str, Callable[[argparse.Namespace, Manifest, Path], int]] = {"restart": restart, "cancel": cancel}
"""By the name of its command: asks the process that holds the session, or does it where nobody holds that."""


def act(name: str, manifest: Manifest, path: Path, job: str) -> list[str]:
    """Restart or cancel one job as `--cmd restart --job` and `--cmd cancel --job` do; returns what they print."""
    options = argparse.Namespace(
        job=[job], failed=False, json=True, override=[], exclude="", check=False, reason="", cmd=name
    )
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            ACTIONS[name](options, manifest, path)
    except AutoexpError as error:
        return [problem.sentence for problem in error.problems]
    messages: list[str] = json.loads(out.getvalue())["messages"]
    return messages
