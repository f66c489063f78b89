"""What a person should know about a plan that is not wrong. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oellm_autoexp.backends.base import Note
from oellm_autoexp.config.schema import AutoexpConfig
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.text import plural
from oellm_autoexp.decisions.readiness import needs_monitor
from oellm_autoexp.planning.checks import rule_checks
from oellm_autoexp.schedulers.base import client_of

_FEW = 3


def notes_of_config(config: AutoexpConfig, manifest: Manifest) -> list[str]:
    """Notes of what all jobs have in common."""
    notes = rule_checks.notes(config.monitoring, config.backend.sample_lines())
    if config.scheduler.native_dependencies and not config.slurm.client.is_slurm:
        notes.append("only SLURM has native dependencies: here the monitor waits for siblings")
    if config.slurm.array and any(job.array_group is None and job.chain is None for job in manifest.jobs):
        notes.append(
            "jobs whose log_path holds %j, or is not in a folder of their output directory, are submitted singly"
        )
    wide = max(job.resources.nodes for job in manifest.jobs)
    if config.slurm.client.runs_here and wide > 1:
        notes.append(f"jobs run on this machine alone: those that ask for {wide} nodes run here as one process")
    if config.slurm.client.runs_here and config.slurm.spare_nodes:
        notes.append("slurm.spare_nodes has no effect: jobs run on this machine alone")
    return notes


def monitor_notes(manifest: Manifest) -> list[str]:
    """Which jobs native dependencies do not bring to their end alone."""
    if not manifest.scheduler["native_dependencies"] or not client_of(manifest).is_slurm:
        return []
    needing = [f"{name} ({why})" for name, why in needs_monitor(manifest.jobs, manifest.monitoring).items()]
    if not needing:
        return []
    listed = ", ".join(needing[:_FEW]) + (f" and {len(needing) - _FEW} more" if len(needing) > _FEW else "")
    return [f"native dependencies, but {plural(len(needing), 'job')} only while a monitor watches: {listed}"]


def notes_of_jobs(by_job: Mapping[str, Sequence[Note]], jobs: int) -> list[str]:
    """Notes of single jobs: each thing once, and of how many jobs it is true."""
    return [
        notes[0].text if len(notes) == jobs else f"{notes[0].text} ({len(notes)} of {plural(jobs, 'job')})"
        for notes in by_job.values()
    ]
