"""TensorBoard: an event file for each job, which grows by what is new.

The records and their checksums are those of the library `tensorboard` itself (the extra `oellm-autoexp[tensorboard]`),
without PyTorch or TensorFlow. A file is cut to what its position says before anything is appended, so that a killed
export leaves nothing twice.

Where a new attempt repeats iterations, a SessionLog.START event at the first of them is written, at which readers drop
all later points of all metrics (tensorboard/backend/event_processing/event_accumulator.py,
_CheckForRestartAndMaybePurge), and then the points that count from there on.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from oellm_autoexp.exporters import position
from oellm_autoexp.exporters.base import Exporter, Growth, Job, Results, not_installed
from oellm_autoexp.exporters.position import Position
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic

_FOLDER = "tensorboard"


class TensorBoardExporter(Exporter):
    """Event files for TensorBoard, one folder for each job.

    `folder`: where `<plan>/<job>/` is created; null: each job's `<output_dir>/tensorboard/<plan>/`.
    """

    class_name: Literal["TensorBoardExporter"]
    folder: str | None = None

    def export(self, results: Results) -> str:
        """See Exporter.export."""
        for job in results.jobs:
            if job.points:
                _export(self._folder(results, job), results, job)
        if self.folder is None:
            return f"{results.output_root} ({_FOLDER}/{results.plan} of each job)"
        return str(results.place(self.folder) / results.plan)

    def _folder(self, results: Results, job: Job) -> Path:
        if self.folder is None:
            return job.output_dir / _FOLDER / results.plan
        return results.place(self.folder) / results.plan / job.name

    def lacks(self) -> str:
        """See Exporter.lacks."""
        return not_installed("tensorboard", "tensorboard")


def _export(folder: Path, results: Results, job: Job) -> None:
    done = position.read(folder)
    if done is not None and done.points == job.points:
        return
    path = folder / f"events.out.tfevents.{results.created_at:.0f}.{results.plan}"
    known = done if done is not None and _size(path) >= done.size else None
    found = job.read()
    growths = {name: Growth.of(series, known.points.get(name, 0) if known else 0) for name, series in found.items()}
    if known is None:
        position.forget(folder)
        folder.mkdir(parents=True, exist_ok=True)
        trust.check_folders(folder)
        data = _encoded([*_head(results, job), *_events(growths)])
        write_atomic(path, data)
        size = len(data)
    else:
        size = _append(path, known.size, _encoded(_events(growths)))
    position.write(folder, Position.of(job, size))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _append(path: Path, size: int, data: bytes) -> int:
    """Put data behind the first `size` bytes of a file, in place of what is there; returns its new size."""
    with trust.open_to_append(path) as file:
        file.truncate(size)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # before the position says that it is there
    return size + len(data)


def _head(results: Results, job: Job) -> Iterator[Any]:
    """What a file begins with: its version, and the job's swept values for the tab HPARAMS."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    yield Event(wall_time=results.created_at, file_version="brain.Event:2")
    plain = {
        key: value if isinstance(value, str | int | float) else json.dumps(value, default=str)
        for key, value in job.parameters.items()
    }
    summary = hparams_pb(plain, trial_id=f"{results.plan}/{job.name}", start_time_secs=results.created_at)
    yield Event(wall_time=results.created_at, summary=summary)


def _events(growths: Mapping[str, Growth]) -> Iterator[Any]:
    """The events of what is new; of several metrics one after the other."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary

    repeated = [growth for growth in growths.values() if growth.replaced]
    first = min((growth.points.iterations[growth.kept] for growth in repeated), default=None)
    if first is not None:
        at = min(growth.points.times[growth.kept] for growth in repeated)
        yield Event(wall_time=at, step=first, session_log=SessionLog(status=SessionLog.START))
    for name, growth in growths.items():
        for iteration, at, value in growth.new() if first is None else growth.from_iteration(first):
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            yield Event(wall_time=at, step=iteration, summary=summary)


def _encoded(events: Iterable[Any]) -> bytes:
    """Events as the records of a file."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    data = io.BytesIO()
    writer = RecordWriter(data)
    for event in events:
        writer.write(event.SerializeToString())
    return data.getvalue()
