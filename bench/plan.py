"""How fast planning is, against one Hydra composition and the bare writing of the same files.

    python bench/plan.py [--jobs 1000] [--large 10000]

The config is made for the measurement: the size of Megatron-LM's (800 keys, 60 interpolations). The baseline, in the
same run: `python -c` composing that config once with Hydra, plus writing as many files with as many bytes; the best of
five attempts counts for each, as noise only ever adds. Exits 1 if a target is missed. Seconds are for 2 cores
and TMPDIR on a fast disk or in memory; the ratios hold anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Rows

ROOT = Path(__file__).resolve().parents[1]
KEYS, INTERPOLATIONS = 800, 60
ATTEMPTS = 5


@dataclass(frozen=True)
class Taken:
    """Wall seconds, and the peak of resident memory in MB."""

    seconds: float
    megabytes: float


def config(folder: Path) -> None:
    """Write the config: an experiment over the root, whose backend has many keys."""
    keys = [f"  k{number:03}: {number}" for number in range(KEYS - INTERPOLATIONS)]
    keys += [f"  i{number:03}: ${{backend.megatron.k{number:03}}}" for number in range(INTERPOLATIONS // 2)]
    keys += [
        f"  j{number:03}: ${{oc.eval:'${{backend.megatron.k{number:03}}} * 2 + 1'}}"
        for number in range(INTERPOLATIONS // 2)
    ]
    (folder / "bench.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /slurm: base\n\nproject:\n"
        f'  base_output_dir: {folder}/out\n  name: "${{stage}}_${{backend.megatron.k000}}_${{backend.megatron.k001}}"\n'
        "backend:\n  argv: [train]\n"
        "  options: {lr: '${backend.megatron.k000}', load: '${backend.megatron.k200}'}\n  megatron:\n"
        + "\n".join(f"  {key}" for key in keys)
        + "\n"
    )


def sweep(jobs: int, *, siblings: bool) -> str:
    """The sweep of so many jobs: of one stage, or of two halves of which the second refers to the first."""
    axes = {
        "backend.megatron.k000": list(range(jobs // 20 if siblings else jobs // 10)),
        "backend.megatron.k001": list(range(10)),
    }
    if not siblings:
        return json.dumps({"params": axes, "defaults": {"stage": "one"}})
    later = {"stage": "two", "backend.megatron.k200": "${sibling.one.output_dir}/checkpoints"}
    return json.dumps({"groups": [{"params": axes}, {"configs": [{"stage": "one"}, later]}]})


def measure(words: Sequence[str], environment: dict[str, str]) -> Taken:
    """Run a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {words}")
    return Taken(time.perf_counter() - start, usage.ru_maxrss / 1024)


def plan(folder: Path, jobs: int, *, siblings: bool = False) -> tuple[Taken, Path]:
    """Plan so many jobs, everything written; what it took, and where the output is."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    words = [sys.executable, str(ROOT / "scripts" / "plan_autoexp.py"), "--config-ref", str(folder / "bench.yaml")]
    experiment = folder / "bench.yaml"
    text = experiment.read_text().split("\nsweep:")[0]
    experiment.write_text(f"{text}\nsweep: {sweep(jobs, siblings=siblings)}\n")
    return measure(words, dict(os.environ)), folder / "out"


def write_alike(out: Path, copy: Path) -> float:
    """Seconds to write, plainly, as many files with as many bytes as there are below `out` (links count as links)."""
    files = [(path.relative_to(out), path.lstat()) for path in sorted(out.rglob("*"))]
    block = b"x" * (1 << 20)
    first_names: dict[int, Path] = {}
    start = time.perf_counter()
    for relative, status in files:
        target = copy / relative
        if (out / relative).is_symlink():
            target.symlink_to("somewhere")
        elif (out / relative).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif status.st_ino in first_names:
            os.link(first_names[status.st_ino], target)
        else:
            first_names[status.st_ino] = target
            with target.open("wb") as file:
                for offset in range(0, status.st_size, len(block)):
                    file.write(block[: status.st_size - offset])
    return time.perf_counter() - start


def compose(folder: Path) -> float:
    """Seconds of a process that composes the config once, with Hydra alone, and no sweep."""
    code = (
        "from hydra import compose, initialize_config_dir\n"
        f"with initialize_config_dir({str(folder / 'plain')!r}, version_base='1.3'):\n    compose('bench')\n"
    )
    plain = folder / "plain"
    shutil.copytree(ROOT / "config", plain, dirs_exist_ok=True)
    root = (plain / "autoexp.yaml").read_text()
    body = (folder / "bench.yaml").read_text().split("project:\n", 1)[1].split("\nsweep:")[0]
    (plain / "bench.yaml").write_text(root.replace("slurm: local", "slurm: base") + "\nproject:\n" + body)
    return measure([sys.executable, "-c", code], dict(os.environ)).seconds


def read_manifest(out: Path) -> float:
    """Seconds to read the manifest, in a process of its own, beyond starting it."""
    (path,) = (out / "manifests").glob("*[0-9a-f].json")
    code = (
        "import time; from pathlib import Path; from oellm_autoexp.workflow.manifest import load\n"
        f"start = time.perf_counter(); load(Path({str(path)!r})); print(time.perf_counter() - start)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as name:
        folder = Path(name)
        config(folder)
        plans, compositions, writings = [], [], []
        for attempt in range(ATTEMPTS):  # in turn, so that a slow spell of the machine meets them all
            taken, out = plan(folder, options.jobs)
            plans.append(taken)
            compositions.append(compose(folder))
            writings.append(write_alike(out, folder / f"copy{attempt}"))
        small = min(plans, key=lambda taken: taken.seconds)
        baseline = min(compositions) + min(writings)
        rows.add(f"{options.jobs} jobs", f"{small.seconds:.2f} s", "4 s", small.seconds <= 4)
        ratio = small.seconds / baseline
        rows.add("  against one composition and the writing", f"{ratio:.2f} x {baseline:.2f} s", "3 x", ratio <= 3)
        large, out = plan(folder, options.large)
        rows.add(f"{options.large} jobs", f"{large.seconds:.2f} s", "25 s", large.seconds <= 25)
        rows.add("  peak memory", f"{large.megabytes:.0f} MB", "400 MB", large.megabytes <= 400)
        growth = large.seconds / small.seconds / (options.large / options.jobs)
        rows.add("  per job, against the smaller plan", f"{growth:.2f} x", "linear: 1.2 x", growth <= 1.2)
        seconds = read_manifest(out)
        rows.add("  reading its manifest", f"{seconds:.2f} s", "1 s", seconds <= 1)
        pairs, _ = plan(folder, options.large, siblings=True)
        ratio = pairs.seconds / large.seconds
        rows.add(
            f"{options.large // 2} + {options.large // 2} siblings",
            f"{ratio:.2f} x {large.seconds:.2f} s",
            "1.3 x",
            ratio <= 1.3,
        )
    print(f"this process used {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
