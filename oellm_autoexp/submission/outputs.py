"""Ownership of output directories: only one unfinished session, or one program in a terminal, may write to each."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from oellm_autoexp.core import commands
from oellm_autoexp.core.errors import AutoexpError, Problem, StateError, raise_all
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.planning.manifest import load
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.session.waits import only_actions_wait, only_unclear, waits
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import loads, write_atomic
from oellm_autoexp.storage.lock import Holder, Lock, locked
from oellm_autoexp.storage.session_files import SessionFiles

_PATIENCE_SECONDS = 60.0
_OWNER = "session.json"
_TERMINAL = "terminal.lease"
_log = logging.getLogger(__name__)


def claim_outputs(manifest: Manifest, session: Path) -> None:
    """Mark every job's output directory as this session's; one plan of an output root does so at a time.

    Raises StateError naming the other sessions if some belong to ones that are not finished, or the processes that run
    some of the jobs in terminals; LockedError if another plan does not get done with it.
    """
    root = Path(manifest.base_output_dir)
    with locked(root / ".claiming", f"output root {root}", wait_seconds=_PATIENCE_SECONDS, waiting=_log.warning):
        try:
            with trust.each_folder_once():
                _claim_outputs(manifest, session)
        except OSError as error:
            where = str(error.filename)
            raise StateError(
                Problem(f"can't mark an output directory: {error.strerror}", where, "plan again")
            ) from None


def other_sessions(manifest: Manifest, session: Path) -> dict[Path, list[str]]:
    """The sessions beside a plan's own that its output directories are marked with, and the names of these jobs.

    Raises StateError for a mark that can't be read.
    """
    others: dict[Path, list[str]] = defaultdict(list)
    for job in manifest.jobs:
        owner = _owner(Path(job.output_dir))
        if owner is not None and owner != session:
            others[owner].append(job.name)
    return others


def _claim_outputs(manifest: Manifest, session: Path) -> None:
    others = other_sessions(manifest, session)
    problems = [_unfinished(path, names) for path, names in others.items() if not _finished(path)]
    raise_all(StateError, problems)
    in_terminals = ((job.name, job.output_dir, terminal_holder(job.output_dir)) for job in manifest.jobs)
    raise_all(StateError, [_in_terminal(name, path, holder) for name, path, holder in in_terminals if holder])
    for job in manifest.jobs:
        mark = json.dumps({"version": 1, "session": str(session), "output_dir": job.output_dir}) + "\n"
        write_atomic(Path(job.output_dir, _OWNER), mark, sync=False)


def _way_out(path: Path, jobs: Collection[JobState]) -> str:
    """What a person can do about the session that owns output directories."""
    if only_unclear(jobs):
        asked = f"ask it again: {commands.monitor(path, '--cmd', 'cancel')}"
        forced = f"remove the session without an answer: {commands.monitor(path, '--cmd', 'remove', '--force')}"
        return f"its jobs are cancelled, but the scheduler has not said whether it accepted them: {asked}; or {forced}"
    resume = f"resume it: {commands.monitor(path)}"
    if only_actions_wait(jobs):
        found = waits(jobs)
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        waiting = f"its jobs have ended, but actions still wait ({found[0].subject}: {found[0].reason}{more})"
        give_up = f"skip them: {commands.monitor(path, '--cmd', 'skip')}"
        return f"{waiting}: {resume}; or {give_up}; or change output_dir"
    end = f"or end it: {commands.monitor(path, '--cmd', 'cancel')}"
    return f"{resume}\n    {end}\n    or change project.output_dir"


def _unfinished(path: Path, names: list[str]) -> Problem:
    """The problem that output directories belong to an unfinished session, and why it is unfinished."""
    jobs = Session.load(path).jobs.values()
    whose = (
        "the output directory of" if len(names) == 1 else f"{len(names)} of the plan's output directories, as that of"
    )
    belongs = "belongs" if len(names) == 1 else "belong"
    none = ""
    if not any(job.attempt or job.newest.token for job in jobs):
        why = next((f" ({job.reason})" for job in jobs if job.reason), "")
        none = f": none of its jobs was submitted{why}"
    what = f"{whose} {names[0]} {belongs} to the session '{path.stem}', which is not finished"
    return Problem(f"{what}{none}", str(path), _way_out(path, jobs))


def _owner(output_dir: Path) -> Path | None:
    """The session that owns an output directory; None for a copy of such a directory."""
    try:
        mark = loads(trust.read(output_dir / _OWNER, most=trust.SMALL))
        return Path(mark["session"]) if mark.get("output_dir", str(output_dir)) == str(output_dir) else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise StateError(
            Problem(
                "can't determine which session owns this output directory",
                str(output_dir / _OWNER),
                "remove this file if no session uses the directory",
            )
        ) from None


def _finished(path: Path) -> bool:
    """True if a session is removed, has ended, or was never started and no process holds it."""
    if not path.exists():
        return True
    session = Session.load(path)
    return session.finished or (session.untouched and Lock(SessionFiles(path).lease).holder() is None)


# ---------------------------------------------------------------------------------------------------------------------
# Jobs that are run in a terminal


def terminal_holder(output_dir: str) -> Holder | None:
    """The process that runs the job of an output directory in a terminal, if one does."""
    return Lock(Path(output_dir, _TERMINAL)).holder()


def in_terminal(holder: Holder) -> str:
    """Why a job can't be submitted while a terminal runs it."""
    return f"run_sweep_entry.py runs it in a terminal: {holder}"


def _in_terminal(name: str, output_dir: str, holder: Holder) -> Problem:
    return Problem(f"{name}: {in_terminal(holder)}", output_dir, "wait for it, or end that process")


@contextmanager
def held_for_terminal(name: str, output_dir: Path) -> Iterator[Lock]:
    """Lock the output directory of a job while a terminal runs the job in a `with` block.

    Raises LockedError if another terminal runs it, StateError if a session runs the job.
    """
    # Lock first: a submission checks this lock last of all.
    with locked(output_dir / _TERMINAL, f"the output directory of {name}") as lock:
        _check_free(output_dir)
        yield lock


def _check_free(output_dir: Path) -> None:
    """Raise StateError if an unfinished session has a job for an output directory that has not ended."""
    owner = _owner(output_dir)
    if owner is None or _finished(owner):
        return
    session = Session.load(owner)
    job = _job_of(session, output_dir)
    if job is not None and job.over:
        return
    known = f"its job {job.name} is {job.state}" if job else "it is not finished"
    known += f" (job {job.newest.scheduler_id})" if job and job.newest.scheduler_id else ""
    watched = Lock(SessionFiles(owner).lease).holder()
    watcher = f", watched by {watched}" if watched else ""
    words = ("--job", job.name) if job else ()
    end = f"wait for it, or end it: {commands.monitor(owner, '--cmd', 'cancel', *words)}"
    what = f"this output directory belongs to the session '{owner.stem}'{watcher}: {known}"
    raise StateError(Problem(what, str(output_dir), end))


def _job_of(session: Session, output_dir: Path) -> JobState | None:
    """The job of a session that writes to an output directory; None if that is unknown."""
    try:
        specs = load(session.manifest_path).jobs
    except AutoexpError:
        return None
    return next((session.jobs.get(spec.name) for spec in specs if Path(spec.output_dir) == output_dir), None)
