"""The lines of a script that run commands of `module` (Lmod, Environment Modules). Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from oellm_autoexp.core.text import shell


def module_lines(commands: Sequence[str]) -> str:
    """Lines that run `module` with the words of each command; the script ends where one fails.

    In a batch script `module` is a function that a site's start-up files make; a shell that has read none reads them.
    """
    if not commands:
        return ""
    lines = [f"module {shell(shlex.split(command))} || exit 1" for command in commands]
    return "\n".join(("command -v module >/dev/null || . /etc/profile", *lines, ""))
