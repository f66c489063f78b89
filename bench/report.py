"""How long a report takes and how large it is: 1,000 jobs with curves of 1,000 points, and 10,000 jobs.

    python bench/report.py [--jobs 1000] [--points 1000] [--keep DIR]

The baseline, in the same run, is reading the series as they are. Where Chromium and Playwright are installed, it is
also measured how long a browser takes until the page can be used. Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Rows
from oellm_autoexp.cli.reporting import exports
from oellm_autoexp.core.nouns import Series
from oellm_autoexp.report.document import Source
from oellm_autoexp.session import series
from oellm_autoexp.session.job_state import HistoryEntry, JobState
from oellm_autoexp.session.series import Point, Written
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.testing.jobs import changed
from oellm_autoexp.testing.plans import job_spec, manifest

CHROMIUM = "/usr/bin/chromium"
MEGABYTE = 1_000_000
BEGAN = 1.79e9


def synthetic(folder: Path, jobs: int, points: int) -> Source:
    """A session of a sweep over three axes, with the curves of three metrics."""
    rates, sizes = [1e-4 * 2**step for step in range(10)], [16, 32, 64, 128]
    specs = [
        job_spec(
            folder,
            f"sweep_lr{rates[number % 10]:g}_bs{sizes[number // 10 % 4]}_seed{number // 40}",
            index=number,
            stage="train",
            argv=("python", "train.py", "--seq-length", "4096", "--lr", str(rates[number % 10])),
            parameters=(
                swept := {"lr": rates[number % 10], "batch_size": sizes[number // 10 % 4], "seed": number // 40}
            ),
            coords=swept,
            gpu_hours=8.0,
        )
        for number in range(jobs)
    ]
    plan = manifest(folder, specs)
    (folder / "state").mkdir(parents=True, exist_ok=True)
    session = Session.create(plan, folder / "manifest.json")
    chance = random.Random(0)  # noqa: S311
    for number, spec in enumerate(specs):
        session.put(_filled(session.path, spec.name, swept_rate=rates[number % 10], points=points, chance=chance))
    path = SessionFiles.named(folder / "state", plan.plan_id).path

    def read(job: JobState) -> dict[str, Series]:
        return series.read(series.file_of(path, job.name), job.logs.series)

    return Source(plan, session, read)


def _filled(path: Path, name: str, *, swept_rate: float, points: int, chance: random.Random) -> JobState:
    ends = chance.choices(["success", "crash", "timeout", "running"], [80, 8, 6, 6])[0]
    points_written = [
        point
        for step in range(1, points + 1)
        for point in (
            Point("loss", step, BEGAN + 2.5 * step + chance.random(), _loss(step, swept_rate, chance)),
            Point("grad_norm", step, BEGAN + 2.5 * step, 0.3 + chance.random() / 5),
            Point("samples", step, BEGAN + 2.5 * step, 64.0 * step),
        )
    ]
    written = series.append(series.file_of(path, name), Written(), 1, points_written)
    last = BEGAN + 2.5 * points
    history = [("submitted", 0.0, "as 7"), ("running", 60.0, ""), (ends, last - BEGAN, "COMPLETED")]
    job = changed(
        JobState(name=name),
        state=ends,
        attempt=1,
        series=written,
        scheduler_id="7",
        submitted_at=BEGAN,
        started_at=BEGAN + 60,
        ended_at=None if ends == "running" else last,
        gpu_hours=6.5,
    )
    entries = tuple(HistoryEntry(at=BEGAN + at, event=event, message=text) for event, at, text in history)
    progress = job.progress.model_copy(
        update={"iteration": points, "total": points, "loss": points_written[-3].value if points_written else None}
    )
    return replace(job, history=entries, progress=progress)


def _loss(step: int, rate: float, chance: random.Random) -> float:
    return 2 + 9 * math.exp(-step * rate * 30) + abs(math.log(rate / 8e-4)) / 10 + chance.gauss(0, 0.03)


def seconds_in_browser(path: Path) -> float | None:
    """Seconds until the page can be used; None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    if not Path(CHROMIUM).exists():
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        start = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("html[data-ready]", timeout=120_000)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        taken = time.perf_counter() - start
        browser.close()
    return taken


def measure(rows: Rows, folder: Path, jobs: int, points: int, most_seconds: float) -> None:
    """Build one report and print its rows."""
    source = synthetic(folder, jobs, points)
    assert source.session is not None
    start = time.perf_counter()
    for job in source.session.jobs.values():
        source.series(job)
    baseline = time.perf_counter() - start
    start = time.perf_counter()
    text = exports.html([source])
    taken = time.perf_counter() - start
    path = exports.write(folder / "report.html", text, "--output")
    size = path.stat().st_size / MEGABYTE
    what = f"{jobs:,} jobs, {points:,} points"
    times = taken / max(baseline, 1e-9)
    rows.add(f"{what}: to make it", f"{taken:.1f} s, {times:.1f} x reading", "20 s or less", taken <= 20)
    rows.add(f"{what}: its size", f"{size:.1f} MB", "10 MB or less", size <= 10 or jobs > 1000)
    if (opened := seconds_in_browser(path)) is None:
        print("no browser here: not opened")
    else:
        rows.add(
            f"{what}: until it can be used", f"{opened:.1f} s", f"{most_seconds:g} s or less", opened <= most_seconds
        )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="a folder in which the pages are kept")
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory() as temporary:
        for jobs, points, most in ((options.jobs, options.points, 3.0), (10 * options.jobs, 10, 15.0)):
            folder = (options.keep or Path(temporary)) / str(jobs)
            measure(rows, folder, jobs, points, most)
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
