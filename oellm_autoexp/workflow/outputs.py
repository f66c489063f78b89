"""Whose an output directory is: at most one unfinished session writes into it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from oellm_autoexp import trust
from oellm_autoexp.claims import claimed
from oellm_autoexp.errors import Problem, StateError
from oellm_autoexp.files import loads, write_atomic
from oellm_autoexp.model import Manifest
from oellm_autoexp.monitor.session import Session

_PATIENCE_SECONDS = 60.0
_OWNER = "session.json"


def claim_outputs(manifest: Manifest, session: Path) -> None:
    """Mark every job's output directory as this session's; one plan of an output root does so at a time.

    Raises StateError naming the other sessions if some belong to ones that are not finished, LockedError if another
    plan does not get done with it.
    """
    root = Path(manifest.base_output_dir)
    with claimed(root / ".claiming", f"output root {root}", patience_seconds=_PATIENCE_SECONDS):
        try:
            _claim_outputs(manifest, session)
        except OSError as error:
            where = str(error.filename)
            raise StateError(
                Problem(f"can't mark an output directory: {error.strerror}", where, "plan again")
            ) from None


def _claim_outputs(manifest: Manifest, session: Path) -> None:
    others: dict[Path, list[str]] = defaultdict(list)
    for job in manifest.jobs:
        owner = _owner(Path(job.output_dir))
        if owner is not None and owner != session:
            others[owner].append(job.name)
    problems = [
        Problem(
            f"{len(names)} of the plan's output directories (first: {names[0]}) belong to the session "
            f"'{path.stem}', which is not finished",
            str(path),
            f"resume it (monitor_autoexp.py --session {path.stem}), end it (… --cmd cancel), or change output_dir",
        )
        for path, names in others.items()
        if not _finished(path)
    ]
    if problems:
        raise StateError(*problems)
    mark = json.dumps({"version": 1, "session": str(session)}) + "\n"
    for job in manifest.jobs:
        write_atomic(Path(job.output_dir, _OWNER), mark, sync=False)


def _owner(output_dir: Path) -> Path | None:
    try:
        return Path(loads(trust.read(output_dir / _OWNER, most=trust.SMALL))["session"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError):
        raise StateError(
            Problem(
                "can't tell whose output directory this is", str(output_dir / _OWNER), "remove this file if it is free"
            )
        ) from None


def _finished(path: Path) -> bool:
    return not path.exists() or Session.load(path).finished
