"""What exporters have written, read back by the libraries that it is for; and jobs to export."""

from __future__ import annotations

import os
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oellm_autoexp.core.nouns import Series
from oellm_autoexp.exporters.base import Job, Results, libraries_unwarned

Point = tuple[str, int, float, float, int]
"""Metric, iteration, time, value, attempt."""
Curves = dict[str, list[tuple[int, float, float]]]
"""Of each metric iteration, time and value of its points."""
BEGAN = 1.7e9


@dataclass
class Reporting:
    """What the logs of a job have reported so far, in the order of their lines."""

    points: list[Point] = field(default_factory=list)
    reads: int = 0

    def more(self, iterations: Iterable[int], attempt: int = 1, metrics: Sequence[str] = ("loss", "lr")) -> Reporting:
        """Go on, from the times where it stands."""
        for iteration in iterations:
            at = BEGAN + len(self.points)
            self.points += [(name, iteration, at, iteration + attempt / 8, attempt) for name in metrics]
        return self

    def series(self) -> dict[str, Series]:
        """The series by metric."""
        self.reads += 1
        found: dict[str, Series] = {}
        for name in dict.fromkeys(point[0] for point in self.points):
            own = [point for point in self.points if point[0] == name]
            found[name] = Series(
                [point[1] for point in own],
                [point[2] for point in own],
                [point[3] for point in own],
                [point[4] for point in own],
            )
        return found

    def current(self) -> Curves:
        """What counts of it."""
        found = {}
        for name, series in self.series().items():
            points = series.current()
            found[name] = list(zip(points.iterations, points.times, points.values, strict=True))
        return found

    def job(self, folder: Path, name: str = "job", **more: Any) -> Job:
        """The job as an exporter gets it."""
        counts: dict[str, int] = {}
        for point in self.points:
            counts[point[0]] = counts.get(point[0], 0) + 1
        facts = {
            "stage": "stable",
            "parameters": {"backend.lr": 1e-3, "+data": ["a", "b"], "model": "130M"},
            "state": "running",
            "reason": "",
            "attempt": 1,
            "gpu_hours": 1.5,
            "iteration": max((point[1] for point in self.points), default=None),
            "started_at": BEGAN,
            "ended_at": None,
            **more,
        }
        return Job(name=name, output_dir=folder / name, points=counts, read=self.series, **facts)


def results(folder: Path, *jobs: Job, plan: str = "plan-1") -> Results:
    """A session with these jobs, whose output root is `folder`."""
    made = {"plan": plan, "project": "proj", "created_at": BEGAN, "work_dir": folder, "output_root": folder}
    return Results(jobs=jobs, **made)  # type: ignore[arg-type]


def single(curves: Mapping[str, Iterable[tuple[int, float, float]]]) -> Curves:
    """Curves with values as 32-bit floats."""
    return {name: [(step, at, _single(value)) for step, at, value in points] for name, points in curves.items()}


def _single(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


# ---------------------------------------------------------------------------------------------------------------------


def of_tensorboard(folder: Path) -> Curves:
    """The scalars of a run, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(event.step, event.wall_time, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def of_mlflow(uri: str) -> dict[str, tuple[Any, Curves]]:
    """The runs in a tracking store that are not deleted, by name, with their points."""
    with libraries_unwarned():
        return _of_mlflow(uri)


def _of_mlflow(uri: str) -> dict[str, tuple[Any, Curves]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = {}
    for run in client.search_runs([each.experiment_id for each in client.search_experiments()]):
        assert run.info.run_name not in found
        curves: Curves = {}
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            curves[key] = [(each.step, each.timestamp / 1000, each.value) for each in history]
        found[run.info.run_name] = (run, curves)
    return found


@dataclass
class WandbRun:
    """An offline run: its record, its rows by step (as JSON texts), its summary, its exit code."""

    run: Any
    rows: dict[int, dict[str, str]]
    summary: dict[str, str]
    exit_code: int


def of_wandb(path: Path) -> WandbRun:
    """What `wandb sync` would read in a file: records of wandb's own type, in blocks as of LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, part, records = 7, b"", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            records.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    assert part == b""
    found = WandbRun(None, {}, {}, -1)
    for record in records:
        match record.WhichOneof("record_type"):
            case "run":
                found.run = record.run
            case "history":
                row = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                assert record.history.step.num not in found.rows
                found.rows[record.history.step.num] = row
            case "summary":
                for each in record.summary.update:
                    found.summary[".".join(each.nested_key) or each.key] = each.value_json
            case "exit":
                found.exit_code = record.exit.exit_code
    return found


# ---------------------------------------------------------------------------------------------------------------------

_CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def killed_at_change(number: int, act: Callable[[], object], *names: str) -> bool:
    """Run something in a process that is killed (SIGKILL) before its change of that number to the file system.

    `names`: only changes of paths that hold one of these texts count. False if it ended before.
    """
    pid = os.fork()
    if pid == 0:
        _act_until_killed(number, act, names)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _act_until_killed(number: int, act: Callable[[], object], names: Sequence[str]) -> None:
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _CHANGES or (event == "open" and not (isinstance(args[2], int) and args[2] & 3)):
            return
        if not names or any(name in str(arg) for name in names for arg in args):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(hook)
        act()
        os._exit(0)
    except BaseException:  # pytest's own must not run here
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)
