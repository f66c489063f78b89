"""How long people wait until they see their jobs: `monitor --cmd status` and `--cmd watch --once`.

    python bench/status.py [--jobs 1000] [--large 10000] [--points 1000]

Sessions are on a disk, with the series of each job; a seventh of the jobs ended badly, by a rule or with a last line
in their log that says why. Each command is a process of its own, at a terminal of 80 x 24 as for people, in a pipe for
programs. The baseline, in the same run: a process that loads the session's file as JSON. Processes take turns, and the
best of each counts, as noise only ever adds; `memory` is the most that one had. Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.monitor import plan
from bench.report import synthetic
from bench.rows import Rows
from oellm_autoexp.core.states import BAD_ENDS, RUNNING
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed

ROOT = Path(__file__).resolve().parents[1]
ATTEMPTS = 3
MEGABYTE = 1_000_000
USAGE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss, code, file=sys.stderr)
"""
"""A process that is small runs the command, as a child's peak of memory begins with that of its parent."""
LOAD = "import json, sys; json.load(open(sys.argv[1]))"


@dataclass(frozen=True)
class Taken:
    """CPU seconds (user and system) of a process, and the most memory that it had, in bytes."""

    seconds: float
    memory: int


def process(words: Sequence[str], *, terminal: bool) -> Taken:
    """Run a command to its end, at a terminal or in a pipe that is read."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    wrapped = [sys.executable, "-c", USAGE, *words]
    with subprocess.Popen(wrapped, stdout=theirs, stderr=subprocess.PIPE, text=True, env=environment) as running:
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: the terminal's last process has ended
            while os.read(ours, 1 << 20):
                pass
        os.close(ours)
        assert running.stderr is not None
        seconds, kilobytes, code = running.stderr.read().splitlines()[-1].split()
    assert code in ("0", "1"), words
    return Taken(float(seconds), int(kilobytes) * 1024)


def session(folder: Path, jobs: int, points: int) -> tuple[Session, int]:
    """A session of so many jobs on the disk; and how many of them ended badly."""
    source = synthetic(folder, jobs, points)
    assert source.session is not None
    slurm = plan(folder / "plan", 1)[0].slurm
    (folder / "manifest.json").write_text(
        source.manifest.model_copy(update={"slurm": slurm, "created_at": "2026-11-26T12:00:00+00:00"}).model_dump_json()
    )
    made, bad = source.session, 0
    for number, job in enumerate(list(made.jobs.values())):
        if job.state == RUNNING:
            job = changed(job, state="cancelled")  # nothing is asked of a scheduler
        if job.state in BAD_ENDS:
            bad += 1
            log = folder / "logs" / f"{job.name}.log"
            log.parent.mkdir(exist_ok=True)
            log.write_text("step 1\n" * 100 + "RuntimeError: CUDA error: unspecified launch failure\n")
            job = changed(job, exit_code=1, resolved_log_path=str(log), error_type="gpu_error" if number % 2 else "")
        made.put(job)
    made.snapshot()
    return made, bad


def measure(rows: Rows, folder: Path, jobs: int, points: int, most_seconds: float) -> None:
    """The rows of the commands for so many jobs."""
    made, bad = session(folder, jobs, points)
    asked = ["--session", made.plan_id, "--monitoring-state-dir", str(made.path.parent)]
    monitor = [sys.executable, "-m", "oellm_autoexp", "monitor", *asked]
    commands = {
        "--cmd status": ([*monitor, "--cmd", "status"], True),
        "--cmd status in a pipe": ([*monitor, "--cmd", "status"], False),
        "--cmd status --wide": ([*monitor, "--cmd", "status", "--wide"], True),
        "--cmd status --json": ([*monitor, "--cmd", "status", "--json"], False),
        "--cmd watch --once": ([*monitor, "--cmd", "watch", "--once"], True),
        "json.load": ([sys.executable, "-c", LOAD, str(made.path)], False),
    }
    taken: dict[str, list[Taken]] = {name: [] for name in commands}
    for _ in range(ATTEMPTS):
        for name, (words, terminal) in commands.items():
            taken[name].append(process(words, terminal=terminal))
    seconds = {name: min(each.seconds for each in runs) for name, runs in taken.items()}
    memory = {name: max(each.memory for each in runs) for name, runs in taken.items()}
    baseline = seconds.pop("json.load")
    size = made.path.stat().st_size / MEGABYTE
    print(
        f"{jobs:,} jobs, {bad} ended badly, {points:,} points of each of 3 metrics; a session of {size:.1f} MB, loaded"
        f" as JSON in {baseline:.2f} s with {memory['json.load'] / MEGABYTE:.0f} MB"
    )
    for name, best in seconds.items():
        value = f"{best:.2f} s, {best / baseline:.1f} x"
        rows.add(f"  {name} ({memory[name] / MEGABYTE:.0f} MB)", value, f"{most_seconds:g} s", best <= most_seconds)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=1000, help="of each metric of each job")
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="bench-status-") as name:
        for jobs, most_seconds in ((options.jobs, 1.0), (options.large, 6.0)):
            measure(rows, Path(name) / str(jobs), jobs, options.points, most_seconds)
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
