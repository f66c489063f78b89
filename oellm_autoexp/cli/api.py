"""What notebooks and other programs call: plan, submit, load, results. These names and fields stay as they are.

    import oellm_autoexp

    planned = oellm_autoexp.plan("experiments/mine", "backend.megatron.lr=1e-4")
    session = oellm_autoexp.submit(planned)
    for row in oellm_autoexp.results(session):
        print(row.name, row.state, row.loss)

They do what the commands of the same names do, and print what those print. What is wrong is raised as an
AutoexpError, whose `problems` say what, where, and what to do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.report.rows import Row

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
    """A row for each job of a session, in the order of the plan; without secrets. Raises AutoexpError.

    `rows = pandas.DataFrame(map(dataclasses.asdict, results(session)))` makes a table of them.
    """
    from oellm_autoexp.planning.manifest import load as load_manifest
    from oellm_autoexp.report.rows import row
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.view.jobs.evidence import quotes

    found = session if isinstance(session, Session) else load(session, state_dir)
    said = quotes(found)
    jobs = load_manifest(found.manifest_path).jobs
    return [row(spec, found.jobs[spec.name], found.plan_id, said.get(spec.name, "")) for spec in jobs]
