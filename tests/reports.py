"""Sessions with logs that were read as a monitor reads them, for tests of reports; and what is in a page."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from oellm_autoexp.core.nouns import JobSpec, Series
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.report.document import Event, Source
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.session import series
from oellm_autoexp.session.job_state import HistoryEntry, JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed
from oellm_autoexp.testing.plans import job_spec, manifest

RUNS = Path(__file__).resolve().parent / "real_logs"
"""Logs of real runs of Megatron-LM on a GPU."""
BEGAN = 1.79e9


def read_log(path: Path, job: JobState, data: bytes, attempt: int = 1) -> JobState:
    """A job of the session at `path` after its log was read to the end by an attempt."""
    job = Detector(Rules(), None).measured(job, data, BEGAN, own=True)
    written = series.append(series.file_of(path, job.name), job.logs.series, attempt, job.logs.unwritten)
    return replace(job, logs=replace(job.logs, series=written, unwritten=()))


def megatron_session(folder: Path) -> Source:
    """Four jobs of two stages with the logs of real runs: two that succeeded, one begun again, one with NaN."""
    argv = ("python", "pretrain_gpt.py", "--seq-length", "1024", "--lr")
    specs = [
        _spec(folder, "good", "stable", 1e-3, argv),
        _spec(folder, "again", "stable", 3e-4, argv),
        _spec(folder, "nan", "stable", 1e7, argv),
        _spec(folder, "decayed", "decay", 1e-3, argv).model_copy(update={"depends_on": ("good",)}),
    ]
    plan = manifest(folder, specs, plan_id="runs")
    (folder / "state").mkdir()
    session = Session.create(plan, folder / "manifest.json")
    logs = {"good": ["success"], "again": ["killed_9", "success"], "nan": ["nan_first_exit16"]}
    for name, attempts in {**logs, "decayed": ["decay_from_sibling"]}.items():
        job = session.jobs[name]
        for number, log in enumerate(attempts, 1):
            job = read_log(session.path, job, (RUNS / f"{log}.log").read_bytes(), number)
        session.put(_ended(job, attempts=len(attempts), success=name != "nan"))
    return Source(plan, session, lambda job: _series(session.path, job), (_EVENT,), 1)


def _series(path: Path, job: JobState) -> Mapping[str, Series]:
    return series.read(series.file_of(path, job.name), job.logs.series)


def _spec(folder: Path, name: str, stage: str, rate: float, argv: tuple[str, ...]) -> JobSpec:
    swept = {"backend.megatron.lr": rate}
    return job_spec(folder, name, stage=stage, argv=(*argv, str(rate)), parameters=swept, coords=swept, gpu_hours=2.0)


def _ended(job: JobState, *, attempts: int, success: bool) -> JobState:
    history = []
    for number in range(attempts):
        history += [("submitted", f"as {number + 1}"), ("running", "")]
        history += [] if number == attempts - 1 else [("crash", "killed by SIGKILL"), ("restart", "'crash': exit 137")]
    history.append(("success" if success else "crash", "COMPLETED" if success else "FAILED"))
    return changed(
        job,
        state="success" if success else "crash",
        reason="" if success else "NonZeroExitCode",
        attempt=attempts,
        exit_code=0 if success else 16,
        scheduler_id=str(attempts),
        submitted_at=BEGAN,
        started_at=BEGAN + 60 * (4 * attempts - 3),
        ended_at=BEGAN + 60 * (4 * attempts - 2),
        gpu_hours=0.75,
        history=tuple(
            HistoryEntry(at=BEGAN + 60 * number, event=event, message=text)
            for number, (event, text) in enumerate(history)
        ),
    )


_EVENT = Event(BEGAN + 30, "good", 1, "saved", "successfully saved checkpoint", ("LogAction: done (iteration 40)",))


# ---------------------------------------------------------------------------------------------------------------------


def data_of(html: str) -> dict[str, Any]:
    """The data in a page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def curve(data: Mapping[str, Any], job: str, metric: str) -> tuple[list[int], list[float]]:
    """The iterations and values of a curve in a page, unpacked by what its documentation says."""
    number, place = data["jobs"]["name"].index(job), data["metrics"].index(metric)
    (entry,) = (entry for entry in data["curves"] if entry[:2] == [number, place])
    _, _, first, count, offset, *_ = entry
    raw = zlib.decompress(base64.b64decode(data["packed"]))
    steps = [sum(raw[offset + plane * count + index] << 8 * plane for plane in range(4)) for index in range(count)]
    iterations = [first + sum(steps[: index + 1]) for index in range(count)]
    at, drop = offset + 4 * count, 0 if data["exact"] else 1
    values: list[float] = []
    for index in range(count):
        words = bytes(drop) + bytes(raw[at + plane * count + index] for plane in range(4 - drop))
        values += struct.unpack("<f", words)
    return iterations, values
