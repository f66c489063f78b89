"""How fast jobs go to SLURM and are watched there, against SLURM's own commands.

    python bench/submit.py [--jobs 1000] [--large 10000]

On a SLURM of its own (tests/slurm/cluster.py), which is gone afterwards; its jobs are held, so that none ever runs. The
baselines, in the same run: a loop that calls `sbatch` for the same scripts, and the one `squeue` that a look at the
queue takes. Attempts and baselines alternate, and the best of each counts, as noise only ever adds. Exits 1 if a target
is missed. Where SLURM is not installed nothing is measured; AUTOEXP_REQUIRE_SLURM=1 makes that a failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Rows
from oellm_autoexp.cli.steps import plan_steps, session_steps
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.states import PENDING
from oellm_autoexp.engine.loop import Monitor
from oellm_autoexp.schedulers.slurm.parse import SQUEUE_FIELDS
from tests.slurm.cluster import Cluster
from tests.slurm.fixtures import CLIENT_VARIABLES

ATTEMPTS = 3
CYCLES = 7
SQUEUE = ("squeue", "--me", "-h", "-a", "-t", "all", "-r", "-O", SQUEUE_FIELDS)
"""As scheduler/slurm.py asks it."""


@contextmanager
def lab(folder: Path) -> Iterator[Cluster]:
    """A fresh cluster, to which SLURM's commands speak for the time of a block."""
    cluster = Cluster(folder, accounting=False, nodes=1)
    cluster.start()
    os.environ.update(cluster.environment())
    try:
        yield cluster
    finally:
        cluster.clean()


def plan(folder: Path, jobs: int, *, array: bool) -> tuple[Manifest, Path]:
    """Plan and write so many held jobs, with everything that is theirs in `folder`."""
    folder.mkdir()
    experiment = folder / "bench.yaml"
    experiment.write_text(
        "# @package _global_\ndefaults:\n  - override /slurm: base\n"
        'project: {name: "job_${backend.options.number}", '
        f"base_output_dir: {folder}/out, monitoring_state_dir: {folder}/state}}\n"
        f"slurm: {{array: {str(array).lower()}, sbatch: {{hold: true}}}}\n"
        "backend: {argv: [train], options: {number: 0}}\n"
        f"sweep: {{params: {{backend.options.number: {list(range(jobs))}}}}}\n"
    )
    made = plan_steps.plan(
        argparse.Namespace(config_ref=str(experiment), config_dirs=[], overrides=[], overrides_from=None)
    )
    return made.manifest, plan_steps.write_plan(made, None)


def timed(what: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def submit(monitor: Monitor) -> float:
    """Seconds to submit a session's jobs, all of them."""
    seconds = timed(monitor.submitter.submit_ready)
    assert {job.state for job in monitor.session.jobs.values()} == {PENDING}
    return seconds


def submission(folder: Path, jobs: int, *, array: bool) -> tuple[float, Manifest]:
    """Seconds to submit so many jobs of a new plan; and the plan."""
    manifest, path = plan(folder, jobs, array=array)
    with session_steps.session(manifest, path) as monitor:
        return submit(monitor), manifest


def bare_submission(manifest: Manifest) -> float:
    """Seconds of a loop that hands each script to sbatch, and does nothing else."""

    def loop() -> None:
        for job in manifest.jobs:
            subprocess.run(["sbatch", "--parsable", job.script_path], capture_output=True, check=True)

    return timed(loop)


def watching(folder: Path, jobs: int) -> tuple[float, float, float]:
    """Seconds of the first cycle of a monitor over so many jobs in the queue, of a later one, and of squeue alone."""
    manifest, path = plan(folder, jobs, array=True)
    with session_steps.session(manifest, path) as monitor:
        submit(monitor)
        cycles, squeues = [], []
        for _ in range(CYCLES):
            cycles.append(timed(monitor.cycle))
            squeues.append(timed(lambda: subprocess.run(SQUEUE, capture_output=True, check=True)))
        assert not monitor.scheduler_error
        assert {job.answer.scheduler_state for job in monitor.session.jobs.values()} == {"PENDING"}
    return cycles[0], min(cycles[1:]), min(squeues)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    options = parser.parse_args()
    rows = Rows()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the cluster is gone then, too
    for name in [name for name in os.environ if name.startswith(CLIENT_VARIABLES)]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="bench-submit-") as name:
        folder = Path(name)
        if reason := Cluster(folder / "slurm", accounting=False).missing():
            print(f"nothing is measured: {reason}")
            return int(os.environ.get("AUTOEXP_REQUIRE_SLURM") == "1")
        arrays, singles, loops = [], [], []
        with lab(folder / "slurm") as cluster:
            for attempt in range(ATTEMPTS):  # in turn, so that a slow spell of the machine meets them all
                arrays.append(submission(folder / f"array{attempt}", options.jobs, array=True)[0])
                cluster.cancel_jobs()
                seconds, manifest = submission(folder / f"single{attempt}", options.jobs, array=False)
                singles.append(seconds)
                cluster.cancel_jobs()
                loops.append(bare_submission(manifest))
                cluster.cancel_jobs()
        rows.add(f"{options.jobs} jobs as arrays", f"{min(arrays):.2f} s", "2 s", min(arrays) <= 2)
        ratio = min(singles) / min(loops)
        rows.add(f"{options.jobs} jobs singly", f"{ratio:.2f} x {min(loops):.2f} s", "1.5 x sbatch alone", ratio <= 1.5)
        with lab(folder / "slurm"):
            first, later, squeue = watching(folder / "watched", options.large)
        own = later - squeue
        rows.add(
            f"a cycle over {options.large} queued jobs", f"{squeue:.2f} s + {own:.2f} s", "squeue + 0.5 s", own <= 0.5
        )
        print(f"  the first one, to which every job is news: {squeue:.2f} s + {first - squeue:.2f} s")
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
