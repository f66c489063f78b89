"""MLflow: a run for each job, in the tracking store that a URI names; by default a file beside the plan's outputs.

The library is `mlflow-skinny`, with what it needs for a database (the extra `oellm-autoexp[mlflow]`). A store only
takes points and gives none back. So where a new attempt repeats iterations, the job's run is put among the deleted ones
(`mlflow gc` removes those for good), and a new one of the same name has the points that count.

How far a run was written is said by tags of the run itself. A run that an export which was killed was writing is read
back, and gets what it lacks.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from oellm_autoexp.core.errors import ExportError
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.states import CANCELLED, FINAL, SUCCESS
from oellm_autoexp.exporters.base import Exporter, Growth, Job, Results, libraries_unwarned, not_installed

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_TAG = "oellm_autoexp."
_PLAN, _JOB, _POINTS, _WRITING = f"{_TAG}plan", f"{_TAG}job", f"{_TAG}points", f"{_TAG}writing"
"""Tags: which plan and job a run is of, how many points of each metric's series it has, whether it is being written."""
_MOST_METRICS, _MOST_PARAMETERS, _LONGEST_VALUE = 1000, 100, 6000
"""Of one request; of a parameter's text (mlflow/utils/validation.py)."""
_LONGEST_NAME = 250
_SQLITE = "sqlite:///"
_NOT_IN_NAMES = re.compile(r"[^\w/.\- :]", re.ASCII)
_LIMITS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Variables of MLflow that are set where they are not: it sends and prints nothing else, and waits for no server for
long."""

Points = Mapping[str, Growth]


class MlflowExporter(Exporter):
    """Runs of MLflow, one for each job, with what the sweep sets as parameters.

    `tracking_uri`: the address of a server or database, `$NAME` for that in a variable, or the path of an SQLite file;
    null: the file `mlflow.db` in the output root. `experiment` null: the plan's project.
    """

    place: ClassVar[str] = "tracking_uri"
    class_name: Literal["MlflowExporter"]
    tracking_uri: str | None = None
    experiment: str | None = None

    def export(self, results: Results) -> str:
        """See Exporter.export."""
        with libraries_unwarned():
            return self._export(results)

    def _export(self, results: Results) -> str:
        for name, value in _LIMITS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for logger, level in (("mlflow", "WARNING"), ("alembic", "WARNING"), ("urllib3", "ERROR")):
            logging.getLogger(logger).setLevel(level)
        uri = self._uri(results)
        if uri.startswith(_SQLITE):
            Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        try:
            client = MlflowClient(tracking_uri=uri)
            store = _Store(client, self._experiment(client, results), results)
            for job in results.jobs:
                if job.points or job.state in FINAL:
                    store.export(job)
        except MlflowException as error:
            said = (str(error).splitlines() or [""])[0]
            raise ExportError(f"MLflow: {redact_message(said)}") from None
        return redact_message(uri)

    def _uri(self, results: Results) -> str:
        """Where the runs go. Raises ExportError."""
        if self.tracking_uri is None:
            return f"{_SQLITE}{results.output_root / 'mlflow.db'}"
        if self.tracking_uri.startswith("$"):
            name = self.tracking_uri[1:]
            if not (found := os.environ.get(name)):
                raise ExportError(f"the variable {name} with the address is not set")
            return found
        path = self.tracking_uri.removeprefix(_SQLITE)
        return self.tracking_uri if ":" in path else f"{_SQLITE}{results.place(path)}"

    def _experiment(self, client: MlflowClient, results: Results) -> str:
        """The id of the experiment, which is created if there is none. Raises ExportError."""
        name = self.experiment or results.project
        found = client.get_experiment_by_name(name)
        if found is None:
            local = None if self.tracking_uri else (results.output_root / "mlartifacts").as_uri()
            return str(client.create_experiment(name, artifact_location=local))
        if found.lifecycle_stage != "active":
            raise ExportError(f"MLflow: the experiment '{name}' is deleted: restore it, or name another 'experiment'")
        return str(found.experiment_id)

    def lacks(self) -> str:
        """See Exporter.lacks."""
        uri = self.tracking_uri or _SQLITE
        database = uri.startswith(_SQLITE) or not (":" in uri or uri.startswith("$"))
        return not_installed("mlflow", "mlflow", *(("sqlalchemy", "alembic") if database else ()))


class _Store:
    """The runs of one plan in an experiment."""

    def __init__(self, client: MlflowClient, experiment: str, results: Results) -> None:
        self._client = client
        self._experiment = experiment
        self._results = results
        self._plan = _key(results.plan)
        self._runs = {run.data.tags[_JOB]: run for run in self._search() if _JOB in run.data.tags}

    def _search(self) -> Iterator[Run]:
        token = None
        while True:
            found = self._client.search_runs(
                [self._experiment],
                f"tags.`{_PLAN}` = '{self._plan}'",
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            yield from found
            if not (token := found.token):
                return

    def export(self, job: Job) -> None:
        """Bring the run of a job up to date."""
        run = self._runs.get(_key(job.name))
        facts = _facts(job)
        if run is not None and run.data.tags | facts | {_WRITING: ""} == run.data.tags:
            return
        is_new = run is None or bool(run.data.tags.get(_WRITING))
        before = {} if run is None else _counts(run.data.tags.get(_POINTS, ""), job)
        found = job.read()
        growths = {name: Growth.of(series, before.get(name, 0)) for name, series in found.items()}
        names = _names(growths)
        if run is not None and run.data.tags.get(_WRITING):
            growths, replaced = self._reconciled(run.info.run_id, growths, names)
        else:
            replaced = any(growth.replaced for growth in growths.values())
        if run is not None and replaced:
            self._client.delete_run(run.info.run_id)
            run = None
        if run is None:
            growths = {name: Growth.of(series, 0) for name, series in found.items()}
            run, is_new = self._created(job), True
        self._write(run, job, {names[name]: growth for name, growth in growths.items()}, is_new=is_new)

    def _created(self, job: Job) -> Run:
        started = job.started_at or self._results.created_at
        tags = {
            _PLAN: self._plan,
            _JOB: _key(job.name),
            _WRITING: "yes",
            "plan": self._results.plan,
            "stage": job.stage or "",
        }
        return self._client.create_run(
            self._experiment, start_time=_milliseconds(started), tags=tags, run_name=job.name
        )

    def _write(self, run: Run, job: Job, growths: Points, *, is_new: bool) -> None:
        """Add the new points, then say so, with as few requests as can be: a server takes long for each.

        `is_new`: the run is marked as being written, and may have no parameters yet.
        """
        from mlflow.entities import Param, RunTag

        run_id, keys = run.info.run_id, _names(job.parameters)
        if is_new:
            for some in _batches((Param(keys[k], _text(v)) for k, v in job.parameters.items()), _MOST_PARAMETERS):
                self._client.log_batch(run_id, params=some)
        else:
            self._client.set_tag(run_id, _WRITING, "yes")
        for metrics in _batches(_metrics(growths), _MOST_METRICS):
            self._client.log_batch(run_id, metrics=metrics)
        if job.state in FINAL:
            ended = None if job.ended_at is None else _milliseconds(job.ended_at)
            self._client.set_terminated(run_id, _status(job), ended)
        elif run.info.status != _status(job):
            self._client.update_run(run_id, _status(job))
        facts = _facts(job) | {_WRITING: ""}
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in facts.items()])

    def _reconciled(self, run_id: str, growths: Points, names: Mapping[str, str]) -> tuple[dict[str, Growth], bool]:
        """What a run lacks of whose writing nothing is known, and whether it has a point that is current no more."""
        lacking, replaced = {}, False
        for name, growth in growths.items():
            there = {(each.step, each.timestamp) for each in self._client.get_metric_history(run_id, names[name])}
            # Points are written in their order: what is there is the beginning, if all of it still counts.
            begin = islice(growth.from_iteration(0), len(there))
            replaced = replaced or there != {(iteration, _milliseconds(at)) for iteration, at, _ in begin}
            lacking[name] = Growth(growth.points, len(there), 0)
        return lacking, replaced


def _metrics(growths: Points) -> Iterator[Metric]:
    from mlflow.entities import Metric

    for name, growth in growths.items():
        for iteration, at, value in growth.new():
            yield Metric(name, value, _milliseconds(at), iteration)


def _facts(job: Job) -> dict[str, str]:
    """The tags that say what a run has."""
    return {
        _POINTS: " ".join(map(str, job.points.values())),
        "state": job.state,
        "reason": job.reason[:_LONGEST_VALUE],
        "attempt": str(job.attempt),
        "gpu_hours": f"{job.gpu_hours:g}",
    }


def _counts(text: str, job: Job) -> dict[str, int]:
    """How many points of each metric a run has; the order of a job's metrics never changes."""
    return {name: int(count) for name, count in zip(job.points, text.split(), strict=False) if count.isdecimal()}


def _status(job: Job) -> str:
    """A job's state as MLflow has it."""
    if job.state not in FINAL:
        return "RUNNING"
    return {SUCCESS: "FINISHED", CANCELLED: "KILLED"}.get(job.state, "FAILED")


def _names(wanted: Iterable[str]) -> dict[str, str]:
    """Names as MLflow allows them, all different."""
    made: dict[str, str] = {}
    taken: set[str] = set()
    for name in wanted:
        fit = _NOT_IN_NAMES.sub("_", name)[: _LONGEST_NAME // 2]
        while fit in taken:
            fit += "_"
        taken.add(fit)
        made[name] = fit
    return made


def _batches(items: Iterable[Any], most: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, most)):
        yield some


def _text(value: Any) -> str:
    return str(value)[:_LONGEST_VALUE]


def _milliseconds(at: float) -> int:
    return round(at * 1000)


def _key(name: str) -> str:
    """What a filter can hold of any name."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]
