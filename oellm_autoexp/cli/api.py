"""What notebooks and other programs call: plan, submit, load, results. These names and fields stay as they are.

    import oellm_autoexp

    planned = oellm_autoexp.plan("experiments/mine", "backend.megatron.lr=1e-4")
    session = oellm_autoexp.submit(planned)
    for row in oellm_autoexp.results(session):
        print(row.name, row.state, row.loss)

They do what the commands of the same names do, and tell on standard output what those tell. What is wrong is raised as
an AutoexpError, whose `problems` say what, where, and what to do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session

__all__ = ["Planned", "Row", "load", "plan", "results", "submit"]


@dataclass(frozen=True)
class Planned:
    """A plan that was written: what is in its manifest, the manifest's file, and what should be known of it."""

    manifest: Manifest
    path: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """What is known of one job: what was planned of it, its state (`running`, `success`, …), what its log told last.

    `iteration` to `seconds_per_iteration` are None where the log has not told them. `gpu_hours`: what it has used.
    """

    name: str
    stage: str | None
    parameters: dict[str, Any]
    state: str
    reason: str
    attempt: int
    exit_code: int | None
    scheduler_id: str
    output_dir: str
    log_path: str
    iteration: int | None
    total: int | None
    loss: float | None
    validation_loss: float | None
    grad_norm: float | None
    throughput: float | None
    seconds_per_iteration: float | None
    gpu_hours: float


def plan(
    config_ref: str = "autoexp",
    *overrides: str,
    config_dirs: Iterable[str | Path] = (),
    plan_id: str | None = None,
) -> Planned:
    """Plan a config's jobs and write the plan; `overrides` are Hydra's. Raises AutoexpError."""
    from oellm_autoexp.cli.steps import plan_steps

    options = argparse.Namespace(
        config_ref=config_ref,
        config_dirs=[str(folder) for folder in config_dirs],
        overrides=list(overrides),
        overrides_from=None,
        plan_id=plan_id,
    )
    made = plan_steps.plan(options)
    return Planned(made.manifest, plan_steps.write_plan(made, None), made.notes)


def submit(plan: Planned | str | Path) -> Session:
    """Hand the jobs of a plan (or of the manifest at a path) to the scheduler, each once; returns at once.

    Nothing watches them then: `oellm-autoexp monitor --session ID` does. Raises AutoexpError.
    """
    from oellm_autoexp.cli.steps import session_steps, submit_steps

    path = plan.path if isinstance(plan, Planned) else Path(plan)
    manifest = session_steps.load_manifest(path)
    with session_steps.session(manifest, path) as monitor:
        if not monitor.session.finished:
            submit_steps.submit(monitor, patient=True)
        return monitor.session


def load(session: str | Path, state_dir: str | Path | None = None) -> Session:
    """A session by its file, or by its id (or the beginning of that) in a folder of sessions; nothing is written.

    `state_dir` None: where the commands look ($OELLM_MONITORING_STATE_DIR, else below $OUTPUT_DIR or ./outputs).
    Raises AutoexpError.
    """
    from oellm_autoexp.core.commands import default_state_dir
    from oellm_autoexp.session.session import Session, find_session

    folder = default_state_dir() if state_dir is None else Path(state_dir)
    path = Path(session)
    if path.suffix != ".json":
        path = find_session(folder.absolute(), str(session))
    return Session.load(path)


def results(session: Session | str | Path, state_dir: str | Path | None = None) -> list[Row]:
    """A row for each job of a session, in the order of the plan; without secrets. Raises AutoexpError."""
    from oellm_autoexp.core.redaction import redact
    from oellm_autoexp.planning.manifest import load as load_manifest
    from oellm_autoexp.session.session import Session

    found = session if isinstance(session, Session) else load(session, state_dir)
    rows = []
    for spec in load_manifest(found.manifest_path).jobs:
        job = found.jobs[spec.name]
        told = job.progress
        rows.append(
            Row(
                name=spec.name,
                stage=spec.stage,
                parameters=redact(spec.parameters),
                state=job.state,
                reason=redact(job.reason),
                attempt=job.attempt,
                exit_code=job.answer.exit_code,
                scheduler_id=job.newest.scheduler_id,
                output_dir=spec.output_dir,
                log_path=job.logs.resolved_log_path,
                iteration=told.iteration,
                total=told.total,
                loss=told.loss,
                validation_loss=told.validation_loss,
                grad_norm=told.grad_norm,
                throughput=told.throughput,
                seconds_per_iteration=told.seconds,
                gpu_hours=job.past.gpu_hours,
            )
        )
    return rows
