"""How far a job was exported: a small file beside what was exported, written after it and replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.exporters.base import Job
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic

NAME = ".oellm-autoexp.json"


@dataclass(frozen=True)
class Position:
    """What was exported of a job: how many points of each metric's series, its attempt and state then.

    `size`: how many bytes of a file that is appended to are complete.
    """

    points: Mapping[str, int] = field(default_factory=dict)
    attempt: int = 0
    state: str = ""
    size: int = 0

    @classmethod
    def of(cls, job: Job, size: int = 0) -> Position:
        """The position of a job of which everything was exported."""
        return cls(dict(job.points), job.attempt, job.state, size)

    @classmethod
    def parse(cls, text: str | bytes) -> Position | None:
        """What `text` wrote; None if it is something else."""
        try:
            found = json.loads(text)
            points = {str(name): int(count) for name, count in found["points"].items()}
            return cls(points, int(found["attempt"]), str(found["state"]), int(found["size"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    @property
    def text(self) -> str:
        """The position as JSON."""
        return json.dumps(asdict(self))

    def has_all_of(self, job: Job) -> bool:
        """Whether nothing has happened to a job since."""
        return self == Position.of(job, self.size)


def read(folder: Path) -> Position | None:
    """The position in a folder; None where there is none that can be used, so that all is exported anew."""
    try:
        return Position.parse(trust.read(folder / NAME, most=trust.LINE, lenient=True))
    except (OSError, AutoexpError):
        return None


def write(folder: Path, position: Position) -> None:
    """Note what a folder holds. Raises OSError."""
    write_atomic(folder / NAME, position.text, sync=False)


def forget(folder: Path) -> None:
    """Remove the position of a folder whose content is about to be replaced. Raises OSError."""
    (folder / NAME).unlink(missing_ok=True)
