"""The files of a checkout that are its code: what git tracks, in submodules, too, and what it does not ignore."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.planning.resolving.provenance import NO_PROGRAMS


def code_files(top: Path) -> Iterator[str]:
    """Paths relative to `top`, of files and links that exist. Raises ConfigError where git does not list them."""
    program = shutil.which("git") or "git"
    for words in (("--recurse-submodules",), ("--others", "--exclude-standard")):
        try:
            done = subprocess.run(
                [program, "-C", str(top), *NO_PROGRAMS, "ls-files", "-z", *words],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            what = f"git can't list the files of {top}: {error}"
            raise ConfigError(Problem(what, CONFIG / "project.code", "set project.code: inplace")) from None
        for name in filter(None, map(os.fsdecode, done.stdout.split(b"\0"))):
            path = top / name
            if path.is_symlink() or path.is_file():  # not one that was deleted, nor a submodule's folder
                yield name


def copied_files(folder: Path) -> Iterator[str]:
    """The same of a copy that exists already."""
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            yield str(path.relative_to(folder))
