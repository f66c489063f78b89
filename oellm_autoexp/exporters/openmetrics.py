"""OpenMetrics: one text file for each plan, which the node exporter of Prometheus reads (its textfile collector).

All metrics are gauges without times, so that the file is valid both as OpenMetrics and in the older text format that
the collector reads; it takes no times, and only files whose names end in `.prom`. The library is `prometheus_client`
(the extra `oellm-autoexp[openmetrics]`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from oellm_autoexp.exporters.base import Exporter, Job, Results, not_installed
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

_PREFIX = "autoexp_job"


class OpenMetricsExporter(Exporter):
    """A text file with the state, the newest metrics and the GPU-hours of each job, for Prometheus.

    It is `<folder>/<plan>.prom`; `folder` null: the output root.
    """

    class_name: Literal["OpenMetricsExporter"]
    folder: str | None = None

    def export(self, results: Results) -> str:
        """See Exporter.export."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.openmetrics.exposition import generate_latest

        folder = results.output_root if self.folder is None else results.place(self.folder)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(list(_families(results))))
        folder.mkdir(parents=True, exist_ok=True)
        trust.check_owner(path := folder / f"{results.plan}.prom")
        write_atomic(path, generate_latest(registry), sync=False)
        return str(path)

    def lacks(self) -> str:
        """See Exporter.lacks."""
        return not_installed("openmetrics", "prometheus_client")


class _Collected:
    """What a registry of prometheus_client asks for metrics."""

    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The metrics."""
        return self._families


def _families(results: Results) -> Iterator[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    names = ("plan", "job")
    state = GaugeMetricFamily(f"{_PREFIX}_state", "1 for the state that a job is in", labels=(*names, "stage", "state"))
    attempt = GaugeMetricFamily(f"{_PREFIX}_attempt", "Number of the newest attempt of a job", labels=names)
    hours = GaugeMetricFamily(f"{_PREFIX}_gpu_hours", "GPU-hours that ended attempts have used", labels=names)
    iteration = GaugeMetricFamily(f"{_PREFIX}_iteration", "Iteration that a job has reached", labels=names)
    metric = GaugeMetricFamily(f"{_PREFIX}_metric", "Newest value of a metric", labels=(*names, "metric"))
    for job in results.jobs:
        labels = (results.plan, job.name)
        state.add_metric((*labels, job.stage or "", job.state), 1)
        attempt.add_metric(labels, job.attempt)
        hours.add_metric(labels, job.gpu_hours)
        if job.iteration is not None:
            iteration.add_metric(labels, job.iteration)
        for name, value in _newest(job):
            metric.add_metric((*labels, name), value)
    yield from (state, attempt, hours, iteration, metric)


def _newest(job: Job) -> Iterator[tuple[str, float]]:
    if job.points:
        for name, series in job.read().items():
            yield name, series.values[-1]
