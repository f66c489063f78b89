"""Plans for tests: one made in memory of a config, and manifests and jobs without a config."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oellm_autoexp.config.loader import Composed, Source, load
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.planning.make_plan import make_plan
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.resolving.provenance import PlanContext, gather
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import shipped

_TEMPLATE = shipped("oellm_autoexp/sbatch/job.sbatch.template")


def plan_of(config: Source | Composed, context: PlanContext | None = None, **more: Any) -> Plan:
    """The plan of a config, in memory: nothing is written, and no scheduler is asked.

    `context` None: this process, now; `more` as in `make_plan`. Raises ConfigError, SweepError, BackendError.
    """
    composed = load(config) if isinstance(config, Source) else config
    return make_plan(composed, context or gather([]), read_template=_template, **more)


def _template(path: Path | None) -> str:
    return trust.read(path or _TEMPLATE, most=trust.WHOLE).decode()


def job_spec(folder: Path | str = "/", name: str = "a", **fields: Any) -> JobSpec:
    """A job of a plan, which runs `true`, with its files in `<folder>/<name>`; other values of its fields by name.

    Nothing is made on the disk.
    """
    output = Path(folder, name)
    plain: dict[str, Any] = {
        "index": 0,
        "name": name,
        "stage": None,
        "parameters": {},
        "argv": ("true",),
        "env": {},
        "work_dir": str(folder),
        "output_dir": str(output),
        "script_path": str(output / "job.sbatch"),
        "log_path": str(output / "logs" / "%j.out"),
        "log_path_current": str(output / "current.log"),
    }
    return JobSpec(**{**plain, **fields})


def manifest(folder: Path | str = "/", jobs: Iterable[JobSpec] = (), **fields: Any) -> Manifest:
    """The plan `p` of these jobs, its sessions in `<folder>/state`; other values of its fields by name.

    No scheduler is named; jobs go one by one, without limits. Nothing is made on the disk.
    """
    plain: dict[str, Any] = {
        "plan_id": "p",
        "created_at": "",
        "project": "sweep",
        "config_ref": "",
        "overrides": (),
        "base_output_dir": str(folder),
        "monitoring_state_dir": str(Path(folder, "state")),
        "container": None,
        "slurm": {"array_task_limit": None},
        "scheduler": {"max_jobs": None, "submit_rate_limit_seconds": 0, "native_dependencies": False},
        "monitoring": {},
        "jobs": tuple(jobs),
        "provenance": {},
    }
    return Manifest(**{**plain, **fields})
