"""Weights & Biases: an offline run for each job, which `wandb sync` sends whenever somebody wants that.

Nothing is sent from here, and no account is needed. The library (the extra `oellm-autoexp[wandb]`) writes a whole run
anew into a folder of its own, since it can't add to the file of an offline run, nor take points back; the run's file
then replaces that of before. So a run that was synced is synced whole again after it has grown.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from oellm_autoexp.core.fields import Seconds
from oellm_autoexp.core.states import FINAL, SUCCESS
from oellm_autoexp.exporters import position
from oellm_autoexp.exporters.base import Exporter, Job, Results, libraries_unwarned, not_installed
from oellm_autoexp.exporters.position import Position
from oellm_autoexp.storage import trust

_PART = ".part-"
_VARIABLES = "WANDB_"


class WandbExporter(Exporter):
    """Offline runs of Weights & Biases, one for each job, for `wandb sync`.

    They are created as `<folder>/wandb/offline-run-*`; `folder` null: the output root. `project` null: the plan's.
    The group of a run is its plan, its config what the sweep sets.
    """

    class_name: Literal["WandbExporter"]
    folder: str | None = None
    project: str | None = None
    entity: str | None = None
    """The team or user whose project it is; null: the one that syncs."""
    interval_seconds: Annotated[Seconds, Field(ge=1)] = 600

    def export(self, results: Results) -> str:
        """See Exporter.export."""
        folder = (results.output_root if self.folder is None else results.place(self.folder)) / "wandb"
        for job in results.jobs:
            if job.points or job.state in FINAL:
                self._export(folder, results, job)
        return str(folder)

    def _export(self, folder: Path, results: Results, job: Job) -> None:
        key = hashlib.sha256(f"{results.plan}/{job.name}".encode()).hexdigest()[:16]
        made_at = datetime.fromtimestamp(results.created_at, UTC)
        run = folder / f"offline-run-{made_at:%Y%m%d_%H%M%S}-{key}"
        path = run / f"run-{key}.wandb"
        done = position.read(run)
        if done is not None and done.has_all_of(job) and path.exists():
            return
        (run / "files").mkdir(parents=True, exist_ok=True)  # `wandb sync` puts the summary there
        trust.check_folders(run)
        for left in run.glob(f"{_PART}*"):  # by an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_PART, dir=run, ignore_cleanup_errors=True) as part:
            with _own_environment(Path(part)), libraries_unwarned():
                self._write(Path(part), key, results, job)
            (written,) = Path(part).glob(f"wandb/offline-run-*/{path.name}")
            os.replace(written, path)
        path.with_name(f"{path.name}.synced").unlink(missing_ok=True)  # with which `wandb sync` would skip the run
        position.write(run, Position.of(job))

    def _write(self, folder: Path, key: str, results: Results, job: Job) -> None:
        """Let the library write a whole run into a folder."""
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        run = wandb.init(
            mode="offline",
            dir=str(folder),
            id=key,
            name=job.name,
            project=self.project or results.project,
            entity=self.entity,
            group=results.plan,
            job_type=job.stage,
            config=dict(job.parameters),
            settings=settings,
        )
        for iteration, (at, values) in _rows(job):
            run.log({**values, "_timestamp": at}, step=iteration)
        run.summary.update({"state": job.state, "reason": job.reason, "attempt": job.attempt})
        run.summary.update({"gpu_hours": job.gpu_hours})
        run.finish(exit_code=1 if job.state in FINAL - {SUCCESS} else 0)
        wandb.teardown()  # returns once the file is complete

    def lacks(self) -> str:
        """See Exporter.lacks."""
        return not_installed("wandb", "wandb")


def _rows(job: Job) -> Iterator[tuple[int, tuple[float, dict[str, float]]]]:
    """The current points of all metrics by iteration, which rise; each row with the time of its first point."""
    times: dict[int, float] = {}
    rows: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for name, series in job.read().items():
        points = series.current()
        for iteration, at, value in zip(points.iterations, points.times, points.values, strict=True):
            rows[iteration][name] = value
            times[iteration] = min(at, times.get(iteration, at))
    return ((iteration, (times[iteration], rows[iteration])) for iteration in sorted(rows))


@contextlib.contextmanager
def _own_environment(folder: Path) -> Iterator[None]:
    """Without the variables by which the library would go online or write elsewhere; what it keeps is in `folder`."""
    before = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith(_VARIABLES)}
    own = {f"{_VARIABLES}{name}_DIR": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    os.environ.update(own, WANDB_ERROR_REPORTING="false")
    try:
        yield
    finally:
        for name in (*own, "WANDB_ERROR_REPORTING"):
            os.environ.pop(name, None)
        os.environ.update(before)
