"""The code of a checkout laid aside for the jobs of a plan, so that later edits do not change what they run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.planning.jobs.code_copy import Snapshot
from oellm_autoexp.planning.resolving.provenance import NO_PROGRAMS

_WHERE = CONFIG / "project.code"


def take(snapshot: Snapshot, without: Path) -> None:
    """Copy what git tracks, in submodules, too, and what it does not ignore, as it is now; nothing below `without`.

    They are copies and no hard links, as an editor may write into the file that is there. The folder appears whole;
    what a killed planner has left is begun anew. Raises ConfigError where git does not tell, OSError.
    """
    top, target = Path(snapshot.top), _part(snapshot)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    for name in _files(top):
        source, copy = top / name, target / name
        if source.is_relative_to(without) or not (source.is_symlink() or source.is_file()):  # deleted, or a submodule
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy, follow_symlinks=False)
    target.rename(snapshot.folder)
    Path(snapshot.work_dir).mkdir(parents=True, exist_ok=True)


def _part(snapshot: Snapshot) -> Path:
    """The folder while it is in the making."""
    return Path(f"{snapshot.folder}.part")


def remove(snapshot: Snapshot) -> None:
    """Remove a snapshot, as far as it is there."""
    for folder in (snapshot.folder, _part(snapshot)):
        shutil.rmtree(folder, ignore_errors=True)


def summary(snapshot: Snapshot) -> str:
    """What to tell of a snapshot that is there: how many files, and their size."""
    sizes = [path.lstat().st_size for path in Path(snapshot.folder).rglob("*") if not path.is_dir()]
    size = sum(sizes) / 1e6
    text = f"the jobs run a copy of the code in {snapshot.top}: {len(sizes)} files, {size:.1f} MB, in {snapshot.folder}"
    return f"{text} (what git ignores is not in it)"


def _files(top: Path) -> Iterator[str]:
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
            what = f"git does not tell the files of {top}: {error}"
            raise ConfigError(Problem(what, _WHERE, "set project.code: inplace")) from None
        yield from (os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
