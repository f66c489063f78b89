"""The code of a checkout, copied for the jobs of a plan, so that later edits do not change what they run."""

from __future__ import annotations

import shutil
from pathlib import Path

from oellm_autoexp.planning.jobs.code_copy import Snapshot


def take(snapshot: Snapshot) -> None:
    """Copy the files of a snapshot as they are now.

    They are copies and no hard links, as an editor may write into the file that is there. The folder appears whole;
    what a killed planner has left is begun anew. Raises OSError.
    """
    top, target = Path(snapshot.top), _part(snapshot)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    for name in snapshot.files:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(top / name, copy, follow_symlinks=False)
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
    """What to show of a snapshot that is there: how many files, and their size."""
    sizes = [path.lstat().st_size for path in Path(snapshot.folder).rglob("*") if not path.is_dir()]
    size = sum(sizes) / 1e6
    text = f"the jobs run a copy of the code in {snapshot.top}: {len(sizes)} files, {size:.1f} MB, in {snapshot.folder}"
    return f"{text} (what git ignores is not in it)"
