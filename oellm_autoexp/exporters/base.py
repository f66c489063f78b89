"""Exporters: ways to hand the metrics of a session to other programs, each a section that `class_name` chooses.

While a session is watched, each kind runs in a process of its own (`report --export`), which is ended when its time is
over: whatever an exporter does, and however long a server takes, the monitor goes on.

To add one: a subclass of Exporter in a module of this folder, or in a package of its own with an entry point
(core/registry.py).
"""

from __future__ import annotations

import bisect
import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from oellm_autoexp.core.fields import Seconds, Section
from oellm_autoexp.core.nouns import Series
from oellm_autoexp.core.registry import Registry, tags

_SUFFIX = "Exporter"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as programs outside may see it: without secrets, but for `output_dir`, which is a place for files alone.

    `parameters`: what the sweep sets, by dotted key. `gpu_hours`: what its ended attempts have used. `points`: how many
    points each metric has in its series, with those that later attempts replaced; `read` reads the series, in which
    they stand in the order of the log (Series.current: without those replaced), and raises OSError and StateError.
    Times are seconds since 1970.
    """

    name: str
    stage: str | None
    parameters: Mapping[str, Any]
    state: str
    reason: str
    attempt: int
    gpu_hours: float
    iteration: int | None
    started_at: float | None
    ended_at: float | None
    output_dir: Path
    points: Mapping[str, int]
    read: Callable[[], Mapping[str, Series]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """The jobs of a session, with its plan's id. `created_at`: when the plan was made, in seconds since 1970.

    Relative paths of a section are in `work_dir`, where the plan was made; `output_root` is `project.base_output_dir`.
    """

    plan: str
    project: str
    created_at: float
    work_dir: Path
    output_root: Path
    jobs: tuple[Job, ...]

    def place(self, path: str) -> Path:
        """A path of a section as an absolute one."""
        return Path(self.work_dir, Path(path).expanduser())


class Exporter(Section):
    """One way to hand results to another program. Its fields hold no templates.

    `interval_seconds`: how often that is done while the session is watched, at most.
    """

    place: ClassVar[str] = "folder"
    """The field that `report --export NAME=PLACE` sets."""

    interval_seconds: Annotated[Seconds, Field(ge=1)] = 60

    @property
    def kind(self) -> str:
        """The `class_name` by which the YAML knows it."""
        return tags(type(self))[0]

    def export(self, results: Results) -> str:
        """Export what is new; returns where it is, for people. Called again with the same results, it changes nothing.

        It may be killed at any instant; the next call then makes up for it. No two calls for one session run at the
        same time. Raises ExportError, OSError and StateError, whose words are shown to people and hold no secret. Of
        any other exception only the kind and the place are shown.
        """
        raise NotImplementedError

    def lacks(self) -> str:
        """What this machine lacks for it, and what to do, as asked when a plan is made; empty if nothing."""
        return ""


EXPORTERS = Registry(Exporter, "oellm_autoexp.exporters", "oellm_autoexp.exporters")


def short_name(kind: str) -> str:
    """A kind's name on the command line: `tensorboard` for TensorBoardExporter."""
    return (kind.removesuffix(_SUFFIX) or kind).lower()


def not_installed(extra: str, *modules: str) -> str:
    """What to do if one of the modules that an extra brings is not installed; empty if all are."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{absent[0]} is not installed: pip install 'oellm-autoexp[{extra}]'" if absent else ""


@contextlib.contextmanager
def libraries_unwarned() -> Iterator[None]:
    """A block in which libraries give no Python warnings: what they say of each other is for their developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Growth:
    """How a metric has changed since `before` points of its series were exported.

    Of the points that were current then, the first `kept` still are, and `replaced` after those are not: a new attempt
    has repeated their iterations. Those of `points`, the current ones of now, from `kept` on are new.
    """

    points: Series
    kept: int
    replaced: int

    @classmethod
    def of(cls, series: Series, before: int) -> Growth:
        """The growth of a series; one with fewer points than `before` was begun anew, so that all of it is new."""
        current = series.current()
        if before > len(series):
            return cls(current, 0, before)
        if current is series:  # no iteration was repeated
            return cls(current, before, 0)
        places: list[int] = []
        exported = kept = 0
        for number, iteration in enumerate(series.iterations):
            if number == before:
                exported = kept = len(places)
            while places and series.iterations[places[-1]] >= iteration:
                places.pop()
            kept = min(kept, len(places))
            places.append(number)
        if before == len(series):
            exported = kept = len(places)
        return cls(current, kept, exported - kept)

    def from_iteration(self, first: int) -> Iterator[tuple[int, float, float]]:
        """The current points from an iteration on: iteration, time, value."""
        start = bisect.bisect_left(self.points.iterations, first)
        return self._from(start)

    def new(self) -> Iterator[tuple[int, float, float]]:
        """The new points: iteration, time, value."""
        return self._from(self.kept)

    def _from(self, start: int) -> Iterator[tuple[int, float, float]]:
        points = self.points
        return zip(points.iterations[start:], points.times[start:], points.values[start:], strict=True)
