"""Hydra's own settings, which have no effect here: only Hydra's composition is used, not its launcher. Pure."""

from __future__ import annotations

import re
from typing import Any

from oellm_autoexp.core.location import Location
from oellm_autoexp.core.text import dotted

SECTION = "hydra"
_INSTEAD = {
    "hydra.run": "project.output_dir",
    "hydra.sweep": "project.output_dir",
    "hydra.sweeper": "the section 'sweep'",
    "hydra.launcher": "slurm.sbatch",
    "hydra.job.name": "project.name",
    "hydra.job_logging": "--verbose or --debug",
    "hydra.hydra_logging": "--verbose or --debug",
    "hydra.verbose": "--verbose or --debug",
    "hydra.searchpath": "--config-dir",
}
"""What to use here instead of some of them."""
_SHOWN = 3


def is_hydras(key: str) -> bool:
    """Whether a dotted key or the name of a group (`hydra/launcher`) is one of Hydra's own settings."""
    return re.split(r"[./@]", key.lstrip("+~/"))[0] == SECTION


def note(key: str, where: Location | str) -> str:
    """What is said of one of these keys or groups."""
    name = key.lstrip("+~/").replace("/", ".")
    instead = next((words for known, words in _INSTEAD.items() if f"{name}.".startswith(f"{known}.")), "")
    return f"{where}: {key} has no effect here" + (f"; use {instead}" if instead else "")


def section_notes(section: Any, where: Location) -> list[str]:
    """What is said of a section `hydra` in a file."""
    keys = [*dotted(section, f"{SECTION}.")] if isinstance(section, dict) else []
    found = dict.fromkeys(note(".".join(key.split(".")[:3]), where) for key in keys)
    more = [f"{where}: {len(found) - _SHOWN} more settings of Hydra have no effect here"] if len(found) > _SHOWN else []
    return [*list(found)[:_SHOWN], *more] or [note(SECTION, where)]
