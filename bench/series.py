"""What the series of metrics cost: while logs are read, and when they are shown.

    python bench/series.py [--megabytes 16] [--jobs 1000] [--points 10000]

The log is that of bench/monitor.py, almost all of whose lines hold an iteration with ten numbers. It is read as a
monitor reads it: searched for the rules of `monitoring: megatron_production` alone (the baseline), with the numbers of
known programs, with those written to the job's file, and with one more metric of `monitoring.metrics`. Then each job's
file of two metrics is read for one of them, with the points that newer ones replace left out; the baseline is reading
the same files as bytes. CPU time; parts alternate, and the best of several attempts counts, as noise only ever adds.
Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.monitor import plan, write_log
from bench.rows import Rows
from oellm_autoexp.core.states import RUNNING
from oellm_autoexp.decisions import detect
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.session import series
from oellm_autoexp.session.job_state import Actions, Attempt, JobState
from oellm_autoexp.session.series import Point, Written
from oellm_autoexp.storage.log_tail import Cursor, read_added

ATTEMPTS = 5
METRICS = {"consumed": r"consumed samples: +(?P<value>\d+) \|"}
LINES = 1000
MOST_OF_A_CORE = 0.02
MOST_ON_TOP, MOST_FOR_A_METRIC = 7, 3.5
"""See docs/decisions/015-numbers-of-logs.md."""


def reading(detector: Detector, path: Path, *, measured: bool, points: Path | None = None) -> float:
    """CPU seconds in which a log is read; `points`: the file to which its numbers are written."""
    job = JobState(name="a", state=RUNNING, newest=Attempt(started_at=0.0))
    written, cursor, now = Written(), Cursor(), 1.0
    if points is not None:
        points.unlink(missing_ok=True)
    start = time.process_time()
    while True:
        data, cursor = read_added(path, cursor)
        job = detect.see_log(job, data, cursor, now)
        if not data:
            break
        if measured:
            job = detector.measured(job, data, now, own=True)
        if points is not None:
            written = series.append(points, written, 1, job.logs.unwritten)
        job, _ = detector.lines(job, data, cursor, now)
        job = replace(job, actions=Actions(), logs=replace(job.logs, unwritten=()))
    seconds = time.process_time() - start
    assert cursor.offset == path.stat().st_size
    assert bool(written.size) == (points is not None)
    return seconds


def measure_reading(rows: Rows, folder: Path, megabytes: int) -> None:
    """The rows of a log that is read."""
    manifest, _ = plan(folder / "plan", 1)
    section: Mapping[str, Any] = manifest.jobs[0].monitoring or manifest.monitoring
    bare, named = Detector(Rules.of_section(section)), Detector(Rules.of_section({**section, "metrics": METRICS}))
    log, file = folder / "train.log", folder / "a.points"
    write_log(log, megabytes << 20)
    parts: Mapping[str, Callable[[], float]] = {
        "search": lambda: reading(bare, log, measured=False),
        "numbers": lambda: reading(bare, log, measured=True),
        "written": lambda: reading(bare, log, measured=True, points=file),
        "named": lambda: reading(named, log, measured=True, points=file),
    }
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(ATTEMPTS):
        for name, part in parts.items():
            best[name] = min(best[name], part())
    search, size = best["search"], log.stat().st_size
    ratio, own = best["written"] / search, best["named"] / best["written"]
    print(f"{megabytes} MB of iterations, searched alone: {search:.2f} s, {size / search / 1e6:.0f} MB/s")
    print(f"  its numbers read: {best['numbers'] / search:.1f} x; and written: {size / best['written'] / 1e6:.0f} MB/s")
    rows.add("all numbers of a log, on top of its search", f"{ratio:.2f} x", f"{MOST_ON_TOP} x", ratio <= MOST_ON_TOP)
    rows.add(
        "a metric of monitoring.metrics, on top of those",
        f"{own:.2f} x",
        f"{MOST_FOR_A_METRIC} x",
        own <= MOST_FOR_A_METRIC,
    )
    lines = log.read_bytes().count(b"] iteration ")
    share = (best["written"] - search) / lines * LINES
    what = f"{LINES} jobs with a line a second: of one core"
    rows.add(what, f"{share:.1%}", f"{MOST_OF_A_CORE:.0%} or less", share <= MOST_OF_A_CORE)


def measure_showing(rows: Rows, folder: Path, jobs: int, points: int) -> None:
    """The row of series that are read again."""
    all_points = [
        point
        for step in range(points)
        for point in (Point("loss", step, 1e9 + step, 2 + 1 / (1 + step)), Point("grad_norm", step, 1e9 + step, 0.5))
    ]
    first = folder / "0.points"
    written = series.append(first, Written(), 1, all_points)
    paths = [first, *(folder / f"{number}.points" for number in range(1, jobs))]
    for path in paths[1:]:
        shutil.copyfile(first, path)

    def bare() -> None:
        for path in paths:
            assert len(path.read_bytes()) == written.size

    def read() -> None:
        for path in paths:
            assert len(series.read(path, written, ["loss"])["loss"].current()) == points

    taken = {bare: float("inf"), read: float("inf")}
    for _ in range(ATTEMPTS):
        for part in taken:
            start = time.process_time()
            part()
            taken[part] = min(taken[part], time.process_time() - start)
    what = f"the loss of {jobs:,} jobs, {points:,} points each"
    value = f"{taken[read]:.2f} s, {taken[read] / taken[bare]:.0f} x bytes"
    rows.add(what, value, "2 s or less", taken[read] <= 2)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=16, help="size of the log")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10_000)
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="bench-series-") as name:
        measure_reading(rows, Path(name), options.megabytes)
        measure_showing(rows, Path(name), options.jobs, options.points)
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
