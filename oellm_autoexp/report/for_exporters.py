"""What exporters are given of a session: its jobs without secrets, and their series. Pure."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path

from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.redaction import redact
from oellm_autoexp.exporters.base import Job, Results
from oellm_autoexp.report.document import Source
from oellm_autoexp.report.rows import row
from oellm_autoexp.session.job_state import JobState


def results_of(source: Source) -> Results:
    """The results of a session. Its plan must have been submitted."""
    manifest = source.manifest
    known = {} if source.session is None else source.session.jobs
    return Results(
        plan=manifest.plan_id,
        project=redact(manifest.project),
        created_at=datetime.fromisoformat(manifest.created_at).timestamp(),
        work_dir=Path(manifest.provenance.get("work_dir") or manifest.base_output_dir),
        output_root=Path(manifest.base_output_dir),
        jobs=tuple(_job(spec, known[spec.name], source) for spec in manifest.jobs if spec.name in known),
    )


def _job(spec: JobSpec, job: JobState, source: Source) -> Job:
    known = row(spec, job, source.manifest.plan_id)
    return Job(
        name=known.name,
        stage=known.stage,
        parameters=known.parameters,
        state=known.state,
        reason=known.reason,
        attempt=known.attempt,
        gpu_hours=known.gpu_hours,
        iteration=known.iteration,
        started_at=known.started_at,
        ended_at=known.ended_at,
        output_dir=Path(spec.output_dir),
        points=job.logs.series.points,
        read=partial(source.series, job),
    )
