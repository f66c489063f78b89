"""Files and folders that a build reads, copies and removes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.storage.files import write_atomic


def read_input(path: Path, where: str) -> str:
    """The text of a file that the user has written; `where` names its option. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else f"can't read it: {error.strerror}"
        raise ConfigError(Problem(what, f"{where} {path}")) from None
    except UnicodeDecodeError as error:
        what = f"can't read it: it is not UTF-8 text (byte {error.start})"
        raise ConfigError(Problem(what, f"{where} {path}")) from None


def digest(*texts: str) -> str:
    """The SHA-256 of some texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def identity(path: Path) -> str:
    """The path and the identity_facts of an image as one text."""
    return json.dumps([str(path), identity_facts(path)])


def identity_facts(path: Path) -> dict[str, Any]:
    """Size and time of change: they differ if another image takes the path, and need no reading of many GB."""
    status = path.stat()
    return {"bytes": status.st_size, "changed_at": int(status.st_mtime)}


def write_program(path: Path, text: str) -> None:
    """Write an executable file."""
    path.unlink(missing_ok=True)  # the file of the base may be a link
    write_atomic(path, text, 0o755)
    path.chmod(0o755)


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder, without the folders that Python and git make in it."""
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", ".git", "*.egg-info")
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def remove(path: Path) -> None:
    """Remove a file or folder if it exists, also the folders of an image that are not writable."""

    def open_and_retry(function: Callable[..., Any], name: str, _error: object) -> None:
        for place in (os.path.dirname(name), name):  # noqa: PTH120
            with suppress(OSError):
                if not os.path.islink(place):  # noqa: PTH114
                    os.chmod(place, stat.S_IRWXU)  # noqa: PTH101
        function(name)

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=open_and_retry)
    else:
        path.unlink(missing_ok=True)
