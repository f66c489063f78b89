"""A plan in memory: its manifest, and the files that are to be written beside it. Pure data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.redaction import LEAST_KNOWN

if TYPE_CHECKING:  # a session is shown without what plans are made of
    from oellm_autoexp.backends.base import Probe
    from oellm_autoexp.planning.jobs.code_copy import Snapshot


@dataclass(frozen=True)
class PlannedFile:
    """A file to write: where, its text and its mode."""

    path: Path
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Checkpoints:
    """Where a job keeps how far it is, its folder of checkpoints or its chain's file.

    `resume` (project.resume) says whether it may go on from what is there.
    """

    job: str
    output_dir: str
    path: str
    resume: bool


@dataclass(frozen=True)
class Plan:
    """A manifest, and what is to be written beside it. Nothing has been written yet.

    `shared` are the files that all jobs of the plan have in common. `scripts` and `configs` (resolved, without secrets)
    are those of the jobs; a config has the size of its experiment, so many are kept packed (`jobs.packing`).
    """

    manifest: Manifest
    shared: tuple[PlannedFile, ...]
    scripts: tuple[str, ...]
    configs: tuple[bytes, ...]
    notes: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    """What the programs themselves are to be asked before the plan is written, each question once."""
    secrets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What was taken out of the files of the record, by file and place (`planning.record.side_file`)."""
    known_secrets: tuple[str, ...] = ()
    """Texts that are secrets wherever they stand: those of the planning environment."""
    needs: tuple[str, ...] = ()
    """Files that the commands read where they run."""
    snapshot: Snapshot | None = None
    """The copy of the code that the jobs run, which is made when the plan is written."""
    checkpoints: tuple[Checkpoints, ...] = ()
    """Where the jobs keep checkpoints, as far as their arguments say so."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The version of Megatron-LM that some of them are to be of, by their paths."""

    @property
    def manifest_path(self) -> Path:
        """Where the manifest goes."""
        return manifest_path(self.manifest)

    @property
    def for_others(self) -> Manifest:
        """The manifest without secrets, as it is written and shown."""
        from oellm_autoexp.planning.record import side_file

        return side_file.concealed(self.manifest, self.known_secrets)[0]

    @property
    def sweep_path(self) -> Path:
        """Where the expanded sweep goes."""
        return self.manifest_path.with_suffix(".sweep.json")

    def sweep_file(self) -> PlannedFile:
        """The expanded sweep."""
        from oellm_autoexp.planning.record.recording import sweep_json

        return PlannedFile(self.sweep_path, sweep_json(self.manifest))

    def job_files(self, number: int) -> tuple[PlannedFile, ...]:
        """The files of one job's own: its script, and its resolved config without secrets.

        Only the owner may read the script: its environment may hold secrets.
        """
        from oellm_autoexp.planning.jobs.packing import Packer

        job = self.manifest.jobs[number]
        script_path = Path(job.script_path)
        config = Packer.unpacked(self.configs[number])
        return (
            PlannedFile(script_path, self.scripts[number], 0o700),
            PlannedFile(script_path.with_name("config.json"), config),
        )


def manifest_path(manifest: Manifest) -> Path:
    """`<base_output_dir>/manifests/<plan_id>.json`."""
    return Path(manifest.base_output_dir, "manifests", f"{manifest.plan_id}.json")


def for_others(manifest: Manifest) -> Manifest:
    """A manifest that was read, without its secrets, also those that its side file alone knows. Raises nothing."""
    from oellm_autoexp.planning.record import side_file

    text = side_file.kept(manifest)
    places = json.loads(text).get(side_file.MANIFEST) if text else None
    values = places.values() if isinstance(places, dict) else ()
    known = [value for value in values if isinstance(value, str) and len(value) >= LEAST_KNOWN]
    return side_file.concealed(manifest, known)[0]
