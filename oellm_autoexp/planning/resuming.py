"""Checkpoints that are there before a plan's jobs begin: what they go on from, and those that must not be there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from oellm_autoexp.backends.log_lines import MEGATRON_TRACKER
from oellm_autoexp.core.errors import AutoexpError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import plural
from oellm_autoexp.planning.plan import Checkpoints
from oellm_autoexp.storage import trust

_LISTED = 3
_MOST_DIGITS = 18


def earlier(checkpoints: Iterable[Checkpoints]) -> list[tuple[Checkpoints, str]]:
    """The places that hold something already, with the iteration of the newest checkpoint ('': not known)."""
    known: dict[Path, frozenset[str]] = {}
    found = []
    for each in checkpoints:
        output = Path(each.output_dir)
        # New plans have new folders: one listing shows that of all jobs.
        if Path(each.path).is_relative_to(output) and output.name not in _names(output.parent, known):
            continue
        if _names(Path(each.path), {}) or Path(each.path).is_file():
            found.append((each, _iteration(Path(each.path))))
    return found


def notes(found: Iterable[tuple[Checkpoints, str]]) -> Iterator[str]:
    """What jobs go on from."""
    going_on = [(each, iteration) for each, iteration in found if each.resume]
    listed = [f"{each.job} from {each.path}{_at(iteration)}" for each, iteration in going_on[:_LISTED]]
    if going_on:
        more = f" and {len(going_on) - _LISTED} more" if len(going_on) > _LISTED else ""
        hint = "project.resume=false forbids this"
        yield f"{plural(len(going_on), 'job')} may continue from old checkpoints: {'; '.join(listed)}{more} ({hint})"


def problems(found: Iterable[tuple[Checkpoints, str]]) -> list[Problem]:
    """Jobs that are to begin anew, and would not."""
    hint = "move the folder away, choose another name (project.name), or continue from them (project.resume: true)"
    return [
        Problem(
            f"job {each.job} must start at the beginning, but its folder has checkpoints{_at(iteration)}: {each.path}",
            CONFIG / "project.resume",
            hint,
        )
        for each, iteration in found
        if not each.resume
    ]


def newest_iteration(folder: str) -> int:
    """The iteration of the newest checkpoint in a folder, as Megatron-LM keeps it; 0 where there is none."""
    iteration = _iteration(Path(folder))
    return int(iteration) if iteration.isdecimal() and len(iteration) <= _MOST_DIGITS else 0


def _at(iteration: str) -> str:
    return f" (iteration {iteration})" if iteration else ""


def _names(folder: Path, known: dict[Path, frozenset[str]]) -> frozenset[str]:
    if folder not in known:
        try:
            known[folder] = frozenset(path.name for path in folder.iterdir())
        except OSError:
            known[folder] = frozenset()
    return known[folder]


def _iteration(folder: Path) -> str:
    with suppress(OSError, ValueError, AutoexpError):
        text = trust.read(folder / MEGATRON_TRACKER, most=trust.SMALL).decode().strip()
        return text if text.isdecimal() or text == "release" else ""
    return ""
