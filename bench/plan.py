"""How fast planning is, against one Hydra composition and the bare writing of the same files.

    python bench/plan.py [--jobs 1000] [--large 10000]

Three configs: one made for the measurement (800 keys, 60 interpolations, any program), a shipped model for Megatron-LM,
and Megatron-LM with each of its 800 arguments set, made into words and checked for each job. The baseline, in the
same run: `python -c` composing the same config once with Hydra, plus writing as many files with as many bytes; the
best of five attempts counts for each, as noise only ever adds. Exits 1 if a target is missed. Seconds are for 2 cores
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
from oellm_autoexp.core.nouns import Workload
from oellm_autoexp.learning.estimating import ENOUGH, Run
from oellm_autoexp.learning.measuring import Measured, Spread
from oellm_autoexp.learning.past_runs import MOST_FILES, text_of

ROOT = Path(__file__).resolve().parents[1]
KEYS, INTERPOLATIONS = 800, 60
ATTEMPTS = 5


@dataclass(frozen=True)
class Taken:
    """Wall seconds, and the peak of resident memory in MB."""

    seconds: float
    megabytes: float


def any_program(out: Path) -> str:
    """An experiment over the root, whose backend has many keys."""
    keys = [f"  k{number:03}: {number}" for number in range(KEYS - INTERPOLATIONS)]
    keys += [f"  i{number:03}: ${{backend.megatron.k{number:03}}}" for number in range(INTERPOLATIONS // 2)]
    keys += [
        f"  j{number:03}: ${{oc.eval:'${{backend.megatron.k{number:03}}} * 2 + 1'}}"
        for number in range(INTERPOLATIONS // 2)
    ]
    return (
        "# @package _global_\ndefaults:\n  - override /slurm: base\n  - _self_\n\nproject:\n"
        f'  base_output_dir: {out}\n  name: "${{stage}}_${{backend.megatron.k000}}_${{backend.megatron.k001}}"\n'
        "backend:\n  argv: [train]\n"
        "  options: {lr: '${backend.megatron.k000}', load: '${backend.megatron.k200}'}\n  megatron:\n"
        + "\n".join(f"  {key}" for key in keys)
        + "\n"
    )


def megatron(out: Path, model: str, more: str = "") -> str:
    """A training with Megatron-LM."""
    return f"""\
# @package _global_
defaults:
  - override /backend: megatron
  - override /backend/megatron: {model}
  - override /slurm: base
  - _self_

project:
  base_output_dir: {out}
  name: "${{stage}}_${{backend.megatron.seed}}_${{backend.megatron.lr}}"
backend:
  megatron:
    seq_length: 4096
    max_position_embeddings: ${{backend.megatron.seq_length}}
    micro_batch_size: 2
    global_batch_size: ${{oc.eval:'${{backend.megatron.micro_batch_size}} * ${{slurm.sbatch.nodes}} * 16'}}
    train_iters: 1000
    lr_warmup_iters: ${{oc.eval:'${{backend.megatron.train_iters}} // 10'}}
    save: ${{project.output_dir}}/checkpoints
    save_interval: 100
{more}
slurm:
  sbatch: {{nodes: 4, gpus_per_node: 4, ntasks_per_node: 4}}
"""


EVERY_ARGUMENT = """\
    num_layers: 16
    hidden_size: 2048
    ffn_hidden_size: ${oc.eval:'${backend.megatron.hidden_size} * 4'}
    num_attention_heads: 16
    bf16: true
    mock_data: true
    tokenizer_type: NullTokenizer
    vocab_size: 32000
"""
"""What Megatron's defaults alone (config/backend/megatron/core_v0_19_0.yaml) lack for a training."""


@dataclass(frozen=True)
class Experiment:
    """A folder of its own with an experiment in it, and what a sweep over it varies."""

    folder: Path
    text: str
    wide: str
    """The key that takes as many values as there are tens of jobs."""
    ten: tuple[str, list[float]]
    """A key and ten values of it."""
    load: str
    """The key that refers to a sibling."""

    @classmethod
    def of_any_program(cls, folder: Path) -> Experiment:
        """See any_program."""
        ten = "backend.megatron.k001", [float(number) for number in range(10)]
        return cls(folder, any_program(folder / "out"), "backend.megatron.k000", ten, "backend.megatron.k200")

    @classmethod
    def of_megatron(cls, folder: Path, model: str, more: str = "") -> Experiment:
        """See megatron."""
        ten = "backend.megatron.lr", [number * 1e-4 for number in range(1, 11)]
        return cls(folder, megatron(folder / "out", model, more), "backend.megatron.seed", ten, "backend.megatron.load")

    def sweep(self, jobs: int, *, siblings: bool) -> str:
        """The sweep of so many jobs: of one stage, or of two halves of which the second refers to the first."""
        axes = {self.wide: list(range(jobs // 20 if siblings else jobs // 10)), self.ten[0]: self.ten[1]}
        if not siblings:
            return json.dumps({"params": axes, "defaults": {"stage": "one"}})
        later = {"stage": "two", self.load: "${sibling.one.output_dir}/checkpoints"}
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


def plan(experiment: Experiment, jobs: int, *more: str, siblings: bool = False) -> tuple[Taken, Path]:
    """Plan so many jobs, everything written; what it took, and where the output is. `more`: overrides."""
    out = experiment.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    file = experiment.folder / "bench.yaml"
    file.write_text(f"{experiment.text}\nsweep: {experiment.sweep(jobs, siblings=siblings)}\n")
    words = [sys.executable, str(ROOT / "scripts" / "plan_autoexp.py"), "--config-ref", str(file), *more]
    return measure(words, dict(os.environ)), out


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


def compose(experiment: Experiment) -> float:
    """Seconds of a process that composes the config once, with Hydra alone, and no sweep."""
    plain = experiment.folder / "plain"
    shutil.copytree(ROOT / "config", plain, dirs_exist_ok=True)
    (plain / "bench.yaml").write_text(experiment.text.replace("defaults:\n", "defaults:\n  - autoexp\n", 1))
    code = (
        "from hydra import compose, initialize_config_dir\n"
        f"with initialize_config_dir({str(plain)!r}, version_base='1.3'):\n    compose('bench')\n"
    )
    return measure([sys.executable, "-c", code], dict(os.environ)).seconds


def read_manifest(out: Path) -> float:
    """Seconds to read the manifest, in a process of its own, beyond starting it."""
    (path,) = (out / "manifests").glob("*[0-9a-f].json")
    code = (
        "import time; from pathlib import Path; from oellm_autoexp.planning.manifest import load\n"
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


def earlier_sessions(folder: Path, sessions: int, kinds: int) -> None:
    """What the attempts of so many sessions took, each of so many kinds of work that no job of the benchmark has."""
    folder.mkdir()
    pace = Spread(low=1, middle=2, high=3)
    for session in range(sessions):
        runs = [
            Run(
                Workload(shape=f"{session}/{kind}", sizes={"gpus": 8}, flops=1e15, iterations=1000),
                Measured(
                    job="a", attempt=number, at=number, iterations=100, pace=pace, startup=60, save=9, memory_gib=60
                ),
            )
            for kind in range(kinds)
            for number in range(ENOUGH)
        ]
        (folder / f"s{session}.measured.jsonl").write_text(text_of(runs))


def with_earlier_sessions(rows: Rows, experiment: Experiment, jobs: int) -> None:
    """Plan so many jobs without and with earlier sessions, in turn."""
    folder = experiment.folder / "earlier"
    earlier_sessions(folder, MOST_FILES, kinds=5)
    without, beside = [], []
    for _ in range(ATTEMPTS):
        without.append(plan(experiment, jobs)[0].seconds)
        beside.append(plan(experiment, jobs, f"project.learn_from=[{folder}]")[0].seconds)
    ratio = min(beside) / min(without)
    what = f"{jobs} jobs, compared with {MOST_FILES} sessions"
    rows.add(what, f"{ratio:.2f} x {min(without):.2f} s", "1.2 x", ratio <= 1.2)


def against_baseline(rows: Rows, what: str, experiment: Experiment, jobs: int) -> Taken:
    """Plan so many jobs, compose and write, in turn, so that a slow spell of the machine meets them all."""
    plans, compositions, writings = [], [], []
    for attempt in range(ATTEMPTS):
        taken, out = plan(experiment, jobs)
        plans.append(taken)
        compositions.append(compose(experiment))
        writings.append(write_alike(out, experiment.folder / f"copy{attempt}"))
    best = min(plans, key=lambda taken: taken.seconds)
    baseline = min(compositions) + min(writings)
    rows.add(f"{jobs} {what}", f"{best.seconds:.2f} s", "4 s", best.seconds <= 4)
    ratio = best.seconds / baseline
    rows.add("  against one composition and the writing", f"{ratio:.2f} x {baseline:.2f} s", "3 x", ratio <= 3)
    return best


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as name:
        any_program, model, every = (Path(name) / part for part in ("any", "model", "every"))
        for folder in (any_program, model, every):
            folder.mkdir()
        experiment = Experiment.of_any_program(any_program)
        small = against_baseline(rows, "jobs", experiment, options.jobs)
        against_baseline(rows, "Megatron jobs (1B)", Experiment.of_megatron(model, "1B"), options.jobs)
        whole = Experiment.of_megatron(every, "core_v0_19_0", EVERY_ARGUMENT)
        against_baseline(rows, "Megatron jobs, every argument set", whole, options.jobs)
        with_earlier_sessions(rows, experiment, options.jobs)
        large, out = plan(experiment, options.large)
        rows.add(f"{options.large} jobs", f"{large.seconds:.2f} s", "25 s", large.seconds <= 25)
        rows.add("  peak memory", f"{large.megabytes:.0f} MB", "400 MB", large.megabytes <= 400)
        growth = large.seconds / small.seconds / (options.large / options.jobs)
        rows.add("  per job, against the smaller plan", f"{growth:.2f} x", "linear: 1.2 x", growth <= 1.2)
        seconds = read_manifest(out)
        rows.add("  reading its manifest", f"{seconds:.2f} s", "1 s", seconds <= 1)
        pairs, _ = plan(experiment, options.large, siblings=True)
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
