"""A condition for oellm-autoexp: a file system has room."""

from __future__ import annotations

import shutil
from typing import Literal

from pydantic import Field

from oellm_autoexp.rules.conditions import Condition, Surroundings


class FreeSpaceCondition(Condition):
    """At least so many GiB are free on the file system of `path`, which must be there."""

    class_name: Literal["FreeSpaceCondition"]
    path: str
    at_least_gib: float = Field(gt=0)

    def holds(self, context: Surroundings) -> bool:
        """Whether there is so much room now."""
        return context.exists(self.path) and shutil.disk_usage(self.path).free >= self.at_least_gib * 2**30

    def __str__(self) -> str:
        return f"FreeSpace: {self.at_least_gib:g} GiB at {self.path}"
