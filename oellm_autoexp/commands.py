"""Our commands as the user would type them, for messages: they work as they are printed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path


def monitor(session: Path, *words: str) -> str:
    """The monitor command for the session in a file, wherever its folder is."""
    return command("monitor", "--session", session.stem, "--monitoring-state-dir", str(session.parent), *words)


def command(name: str, *words: str) -> str:
    """One of our commands as the user would type it, in the form in which this one was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return shlex.join([_found_as("python", sys.executable), "-m", "oellm_autoexp", name, *words])
    if called.suffix == ".py" and called.parent.name == "scripts":
        return shlex.join([_found_as("python", sys.executable), str(called.with_name(f"{name}_autoexp.py")), *words])
    return shlex.join([_found_as("oellm-autoexp", sys.argv[0]), name, *words])


def program() -> str:
    """What the user typed to reach the command at work: `run_autoexp.py`, `oellm-autoexp run`; for usage lines."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return " ".join(["python -m oellm_autoexp", *sys.argv[1:2]])
    return called.name if called.suffix == ".py" else " ".join([called.name, *sys.argv[1:2]])


def in_examples(text: str, names: Mapping[str, str]) -> str:
    """Examples that say `python scripts/NAME.py`, in the form in which this command was called.

    `names` has the command's name by that of its script.
    """
    called = Path(sys.argv[0])
    if called.suffix == ".py" and called.name != "__main__.py":
        return text
    first = "python -m oellm_autoexp" if called.name == "__main__.py" else called.name

    def typed(match: re.Match[str]) -> str:
        return f"{first} {names[match[1]]}" if match[1] in names else match[0]

    return re.sub(r"python scripts/(\w+)\.py", typed, text)


def _found_as(name: str, path: str) -> str:
    """The plain name of a program where that finds it, else its path.

    A virtual environment's Python is a link to another one, which lacks what is installed: the folder tells them apart.
    """
    found = shutil.which(name)
    if found is not None and Path(path).exists() and Path(found).parent == Path(path).absolute().parent:
        return name
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
