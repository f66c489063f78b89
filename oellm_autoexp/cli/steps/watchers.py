"""Who watches a session, in words, and how to end that: a process, or a job that a monitor was detached to."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import hints
from oellm_autoexp.core.errors import AutoexpError, LockedError, Problem

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.storage.lock import Holder

ALL = "@all"
"""The name of the detached monitor of all sessions; no plan can have this id."""


@dataclass(frozen=True)
class Watcher:
    """The holder of a session: what it is, and the command that ends it. `detached`: it may requeue itself."""

    name: str
    end: str
    detached: bool


def find(manifest: Manifest) -> Watcher | None:
    """Who holds a plan's session now; None if nobody does."""
    from oellm_autoexp.storage.lock import Lock
    from oellm_autoexp.storage.session_files import SessionFiles

    files = SessionFiles.of(manifest)
    holder = Lock(files.lease).holder()
    return None if holder is None else _described(manifest, files.path, holder)


def _described(manifest: Manifest, session: Path, holder: Holder) -> Watcher:
    from oellm_autoexp.engine.detached import of_process
    from oellm_autoexp.storage.lock import Machine

    kill = f"kill {holder.pid}" if holder.on(Machine.here()) else f"ssh {holder.host} kill {holder.pid}"
    for name in (session.stem, ALL):
        with contextlib.suppress(AutoexpError):  # a record that can't be read names nobody
            if (monitor := of_process(session.parent, name, holder)) is not None:
                if monitor.executor == "local":
                    return Watcher(f"{holder}, a detached monitor (log: {monitor.log})", kill, detached=True)
                end = shlex.join([*manifest.slurm["cancel_cmd"], monitor.job_id])
                return Watcher(f"SLURM job {monitor.job_id} on {holder.host} (log: {monitor.log})", end, detached=True)
    return Watcher(str(holder), kill if holder.pid else "", detached=False)


def locked(manifest: Manifest, watcher: Watcher) -> LockedError:
    """The error of a command that needs a session for itself."""
    resume = hints.resume_command(manifest)
    end = f"; to stop that monitor (the jobs go on): {watcher.end}" if watcher.end else ""
    what = f"session {manifest.plan_id} is in use by {watcher.name}"
    return LockedError(
        Problem(what, "", f"see its state, or send it a request: {resume} (--cmd status, cancel, restart){end}")
    )
