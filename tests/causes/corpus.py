"""The labelled failed attempts of `corpus/`: what the scheduler and the logs said, and the cause that is right.

Rules are written from `seen` alone; all other halves only measure them (see corpus/README.md).
"""

from enum import StrEnum
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

FOLDER = Path(__file__).parent / "corpus"


class Half(StrEnum):
    SEEN = "seen"
    HELD_OUT = "held_out"
    FRESH = "fresh"
    UNSEEN = "unseen"
    LATER = "later"
    LATEST = "latest"


class Category(StrEnum):
    OOM_GPU = "oom-gpu"
    OOM_HOST = "oom-host"
    NAN = "nan"
    DATA = "data"
    CHECKPOINT = "checkpoint"
    CODE = "code"
    CONFIG = "config"
    NETWORK = "network"
    GPU_HARDWARE = "gpu-hardware"
    NODE = "node"
    FILESYSTEM = "filesystem"
    TIME = "time"
    PREEMPTED = "preempted"
    KILLED = "killed"
    UNKNOWN = "unknown"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Expected(_Record):
    category: Category
    nodes: tuple[str, ...]  # nodes at fault; () where none is, or none can be named
    rank: int | None  # the rank of the root cause, where the log names one and one alone
    line: str  # a part of the root cause's line; '' where no line names it
    same_as: str = ""  # cases of one group are the same failure, cases of two groups are not


class Case(_Record):
    name: str
    folder: Path
    origin: Literal["own_run", "gpu_run", "synthesised"]
    how: str
    scheduler_state: str  # as sacct says it, without "by UID"
    exit_code: int | None  # as a shell sees it
    nodes: str  # the allocation as SLURM writes it; '' if unknown
    failed_nodes: str
    cancelled_by: str  # the tool's own reason if it ended the job
    expect: Expected

    @property
    def logs(self) -> tuple[Path, ...]:
        """main.log first, then the files of ranks in the order of their numbers."""
        ranks = self.folder.glob("rank_*.log")
        return self.folder / "main.log", *sorted(ranks, key=lambda path: int(path.stem.removeprefix("rank_")))


def cases(half: Half | str) -> list[Case]:
    """All cases of one half, by name.

    Raises pydantic.ValidationError for a case.yaml with a missing, unknown or wrong key.
    """
    files = sorted((FOLDER / Half(half)).glob("*/case.yaml"))
    return [
        Case.model_validate({"name": file.parent.name, "folder": file.parent, **yaml.safe_load(file.read_text())})
        for file in files
    ]
