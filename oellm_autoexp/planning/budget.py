"""What a plan may use at most, and what it may not exceed without a yes. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.text import plural


@dataclass(frozen=True)
class Expected:
    """GPU-hours of a plan by earlier runs, of those of its `jobs` with GPUs for which some are known."""

    gpu_hours: float
    low: float
    high: float
    jobs: int

    @classmethod
    def of(cls, manifest: Manifest) -> Expected | None:
        """What the plan's jobs will use, each at most until the limits of its links; None where nothing is known.

        Their times have one source, so they are too long or too short together: the bounds are sums of bounds.
        """
        found = [
            (job.resources.gpus, (job.resources.time_limit_seconds or math.inf) * _links(job), job.workload.estimate)
            for job in manifest.jobs
            if job.resources.gpus and job.workload is not None and job.workload.estimate is not None
        ]
        if not found:
            return None
        sums = {
            part: sum(gpus * min(getattr(each, part), limit) for gpus, limit, each in found) / 3600
            for part in ("seconds", "low", "high")
        }
        return cls(sums["seconds"], sums["low"], sums["high"], len(found))


def _links(job: JobSpec) -> int:
    return job.chain.links if job.chain else 1


@dataclass(frozen=True)
class Budget:
    """GPU-hours of a plan at most; `unlimited` jobs have GPUs but no time limit. `allowed` None: any number."""

    gpu_hours: float
    unlimited: int
    allowed: float | None
    expected: Expected | None = None
    with_gpus: int = 0
    """The number of jobs that have GPUs."""

    @classmethod
    def of(cls, manifest: Manifest) -> Budget:
        """The budget of a plan: nodes x GPUs x time limit of every job, and `scheduler.max_gpu_hours`."""
        hours = [job.gpu_hours for job in manifest.jobs]
        known = [hour for hour in hours if hour is not None]
        with_gpus = sum(job.resources.gpus > 0 for job in manifest.jobs)
        allowed = manifest.scheduler["max_gpu_hours"]
        return cls(sum(known), len(hours) - len(known), allowed, Expected.of(manifest), with_gpus)

    @property
    def excess(self) -> str:
        """Why a person must agree, '' if nobody need."""
        if self.allowed is None or (self.gpu_hours <= self.allowed and not self.unlimited):
            return ""
        limit = f"scheduler.max_gpu_hours is {self.allowed:,.1f}"
        if self.unlimited:
            return f"{plural(self.unlimited, 'job')} may use GPUs without a time limit, and {limit}"
        return f"the plan may use {self.gpu_hours:,.1f} GPU-hours{self._by_earlier_runs}, and {limit}"

    @property
    def summary(self) -> str:
        """`at most 480 GPU-hours (about 310, 280 to 350 by earlier runs)`; '' where earlier runs say nothing."""
        if self.expected is None:
            return ""
        most = "no limit of GPU-hours" if self.unlimited else f"at most {self.gpu_hours:,.1f} GPU-hours"
        return f"{most}{self._by_earlier_runs}"

    @property
    def _by_earlier_runs(self) -> str:
        if self.expected is None:
            return ""
        about, low, high = (
            f"{hours:,.1f}" for hours in (self.expected.gpu_hours, self.expected.low, self.expected.high)
        )
        between = "" if low == high else f", {low} to {high}"
        some = "" if self.expected.jobs == self.with_gpus else f", for {self.expected.jobs} of {self.with_gpus} jobs"
        return f" (about {about}{between} by earlier runs{some})"
