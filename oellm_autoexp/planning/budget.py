"""What a plan may use at most, and what it may not exceed without a yes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.text import plural


@dataclass(frozen=True)
class Budget:
    """GPU-hours of a plan at most; `unlimited` jobs have GPUs but no time limit. `allowed` None: any number."""

    gpu_hours: float
    unlimited: int
    allowed: float | None

    @classmethod
    def of(cls, manifest: Manifest) -> Budget:
        """The budget of a plan: nodes x GPUs x time limit of every job, and `scheduler.max_gpu_hours`."""
        hours = [job.gpu_hours for job in manifest.jobs]
        known = [hour for hour in hours if hour is not None]
        return cls(sum(known), len(hours) - len(known), manifest.scheduler["max_gpu_hours"])

    @property
    def excess(self) -> str:
        """Why a person must agree, '' if nobody need."""
        if self.allowed is None or (self.gpu_hours <= self.allowed and not self.unlimited):
            return ""
        limit = f"scheduler.max_gpu_hours is {self.allowed:,.1f}"
        if self.unlimited:
            return f"{plural(self.unlimited, 'job')} may use GPUs without a time limit, and {limit}"
        return f"the plan may use {self.gpu_hours:,.1f} GPU-hours, and {limit}"
