"""What a person should know about a plan that is not wrong. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from oellm_autoexp.backends.base import Note
from oellm_autoexp.config.schema import AutoexpConfig
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.text import plural
from oellm_autoexp.learning import words
from oellm_autoexp.planning.checks import rule_checks, shell_texts
from oellm_autoexp.schedulers.base import client_of

_FEW = 3
_MOST_ESTIMATES = 8


def notes_of_config(config: AutoexpConfig, manifest: Manifest) -> list[str]:
    """Notes of what all jobs have in common."""
    notes = rule_checks.notes(config.monitoring, config.backend.sample_lines())
    notes += [note.text for note in shell_texts.of_rules(config.monitoring)]
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
    from oellm_autoexp.decisions.readiness import needs_monitor  # most plans are made without sessions

    needing = [f"{name} ({why})" for name, why in needs_monitor(manifest.jobs, manifest.monitoring).items()]
    if not needing:
        return []
    listed = ", ".join(needing[:_FEW]) + (f" and {len(needing) - _FEW} more" if len(needing) > _FEW else "")
    return [f"native dependencies, but {plural(len(needing), 'job')} only while a monitor watches: {listed}"]


def estimate_notes(manifest: Manifest) -> Iterator[str]:
    """How long jobs run by earlier runs, beside their time limits: each thing once, and of how many jobs it is true."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for job in manifest.jobs:
        if job.workload is not None and (found := job.workload.estimate) is not None:
            limit, links = job.resources.time_limit_seconds, job.chain.links if job.chain else 1
            memory = words.memory(found, job.workload.gpu_memory_gib)
            text = ", ".join(filter(None, (memory, words.needs(found, limit, links))))
            hint = _SITE if job.workload.limit else _SHORT
            counts[job.stage or "", text, "" if words.is_enough(found, limit, links) else hint] += 1
    for (stage, text, hint), count in [*counts.items()][:_MOST_ESTIMATES]:
        who = f"{stage}: " if stage else ""
        which = "" if count == len(manifest.jobs) else f" ({plural(count, 'job')})"
        yield f"{who}{text}{which}{hint}"
    if (more := len(counts) - _MOST_ESTIMATES) > 0:
        yield f"{more} more estimates are in the manifest (jobs: workload)"


_SHORT = "; the time limit is too short: set slurm.sbatch.time to more or to auto, or job.chain.links to so many"
_SITE = "; the site allows no longer time limit: set job.chain.links to so many"


def notes_of_jobs(by_job: Mapping[str, Sequence[Note]], jobs: int) -> list[str]:
    """Notes of single jobs: each thing once, and of how many jobs it is true."""
    return [
        notes[0].text if len(notes) == jobs else f"{notes[0].text} ({len(notes)} of {plural(jobs, 'job')})"
        for notes in by_job.values()
    ]
