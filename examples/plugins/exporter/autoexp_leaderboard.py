"""An exporter for oellm-autoexp: the jobs of a session by their best value of a metric, as a table in Markdown."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Literal

from oellm_autoexp.exporters.base import Exporter, Results


class LeaderboardExporter(Exporter):
    """Writes `<folder>/<plan>.md`; a relative path is in the directory where the plan was made."""

    class_name: Literal["LeaderboardExporter"]
    folder: str
    metric: str = "loss"

    def export(self, results: Results) -> str:
        """Write the table under another name first: who opens it finds a whole one, also after a kill."""
        path = results.place(self.folder) / f"{results.plan}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        lines = [f"| job | lowest {self.metric} | iteration | state |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {value:g} | {iteration} | {state} |" for value, iteration, name, state in self._best(results)
        ]
        part.write_text("".join(f"{line}\n" for line in lines))
        os.replace(part, path)
        return str(path)

    def _best(self, results: Results) -> Iterator[tuple[float, int, str, str]]:
        """The lowest value of each job that has one, the best first."""
        found = []
        for job in results.jobs:
            series = job.read().get(self.metric) if self.metric in job.points else None
            if series is not None:
                points = series.current()
                pairs = zip(points.values, points.iterations, strict=True)
                found += (
                    [(*min(known), job.name, job.state)]
                    if (known := [p for p in pairs if not math.isnan(p[0])])
                    else []
                )
        yield from sorted(found)
