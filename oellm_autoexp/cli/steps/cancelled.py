"""Sessions that were cancelled while their scheduler did not answer, and that a new plan finds in its way."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, session_steps
from oellm_autoexp.core.errors import AutoexpError

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session

_PATIENCE_SECONDS = 60.0
"""Longer than a job gets to end by itself (slurm.conf(5): KillWait, by default 30 s)."""
_PAUSE_SECONDS = 1.0


def see_to_their_end(manifest: Manifest) -> None:
    """Look what became of the jobs of cancelled sessions that own output directories of a plan, and have them ended.

    The wait for an answer and for the end of those jobs is reported on stderr. Raises nothing: a session that is not
    finished then is reported where the directories are claimed (`outputs.claim_outputs`).
    """
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.storage.session_files import SessionFiles
    from oellm_autoexp.submission.outputs import other_sessions

    own = SessionFiles.of(manifest).path
    with suppress(AutoexpError):
        for path in other_sessions(manifest, own):
            with suppress(AutoexpError):
                if path.exists() and _is_cancelled(found := Session.load(path)):
                    app.note(f"session {found.plan_id} was cancelled: waiting for the end of its jobs", on_stderr=True)
                    _see_to_its_end(found)


def _is_cancelled(session: Session) -> bool:
    """Whether all that is left of a session are jobs that are to end."""
    return not session.finished and all(job.over or job.cancelled_by for job in session.jobs.values())


def _see_to_its_end(session: Session) -> None:
    """Watch a session until it has finished, for a while. Raises AutoexpError, also where another process holds it."""
    with session_steps.session(session_steps.load_manifest(session.manifest_path), session.manifest_path) as monitor:
        monitor.submitter.settle_all()
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            monitor.cycle()
            if monitor.session.finished or monitor.scheduler_error or monitor.storage_error:
                return
            time.sleep(_PAUSE_SECONDS)
