"""What it takes to conclude why an attempt failed: CPU seconds for the logs of 64 ranks of 5 MB each.

    python bench/causes.py [--ranks 64] [--megabytes 5]

The main log has lines of iterations, and at its end the traceback of one rank; the files of the ranks have warnings, as
real ones do. A second row is for logs without any iteration, so that all of each file is looked at. The baseline, in
the same run, is reading the same bytes. Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Rows
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.states import CRASH
from oellm_autoexp.engine.observing.cause_finder import CauseFinder
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec

ATTEMPTS = 3
MOST_SECONDS = 2.0
MEGABYTE = 1_000_000
ITERATION = (
    " [2026-01-31 12:00:00.919] iteration {0:8}/   50000 | consumed samples: {0:12} | elapsed time per iteration (ms): "
    "2891.9 | throughput per GPU (TFLOP/s/GPU): 491.9 | learning rate: 2.990810E-04 | global batch size:   512 | "
    "lm loss: 2.919000E+00 | loss scale: 1.0 | grad norm: 0.919 | number of skipped iterations:   0 | "
    "number of nan iterations:   0 |\n"
)
WARNINGS = (
    "/opt/venv/lib/python3.12/site-packages/torch/distributed/c10d_logger.py:83: FutureWarning: barrier() {0}\n"
    "WARNING:megatron.core.utils:fused kernel {0} is not there, the slow one is used\n"
    "[rank{0}]:[W131 12:00:00.123 ProcessGroupNCCL.cpp:4115] Guessing device ID {0} based on global rank\n"
    "n7:211:{0} [2] NCCL INFO Channel 03/0 : 3[3] -> 2[2] via P2P/CUMEM/read\n"
    "INFO:train:batch {0}: 412.3 documents per second\n"
)
FAILURE = """\
[rank{0}]: Traceback (most recent call last):
[rank{0}]:   File "/scratch/project/train.py", line 40, in <module>
[rank{0}]:     train()
[rank{0}]:   File "/scratch/project/train.py", line 31, in train
[rank{0}]:     assert batch.shape[0] == size
[rank{0}]: AssertionError
"""


def fill(text: Callable[[int], str], size: int) -> str:
    """About `size` characters of numbered lines."""
    made, length, number = [], 0, 0
    while length < size:
        number += 1
        made.append(text(number))
        length += len(made[-1])
    return "".join(made)


def attempt(folder: Path, ranks: int, size: int, *, iterations: bool) -> tuple[CauseFinder, JobState, list[Path]]:
    """A failed attempt whose logs are in a folder."""
    folder.mkdir()
    main, files = folder / "main.log", [folder / f"rank_{rank}.log" for rank in range(ranks - 1)]
    warnings = fill(WARNINGS.format, size)
    main.write_text((fill(ITERATION.format, size) if iterations else warnings) + FAILURE.format(3))
    for path in files:
        path.write_text(warnings)
    files[3].write_text(warnings + FAILURE.format(3))
    spec: JobSpec = job_spec("a").model_copy(update={"output_paths": tuple(map(str, files))})
    job = changed(job_state("a"), state=CRASH, attempt=1, exit_code=1, resolved_log_path=str(main), runs=1)
    return CauseFinder({"a": spec}, {"a": {}}), job, [main, *files]


def best(call: Callable[[], object]) -> float:
    """CPU seconds of the fastest of some calls, as noise only ever adds."""
    seconds = []
    for _ in range(ATTEMPTS):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return min(seconds)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--megabytes", type=float, default=5, help="of each log")
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="bench-causes-") as name:
        for what, iterations in (("with iterations", True), ("without any", False)):
            folder, size = Path(name) / what.replace(" ", "_"), int(options.megabytes * MEGABYTE)
            finder, job, files = attempt(folder, options.ranks, size, iterations=iterations)
            began = time.process_time()
            cause = finder.cause(job)
            first = time.process_time() - began
            assert (cause.category, cause.rank) == ("code", 3), cause
            reading = best(lambda files=files: [path.read_bytes() for path in files])  # type: ignore[misc]
            taken = best(lambda finder=finder, job=job: finder.cause(job))  # type: ignore[misc]
            value = f"{taken:.2f} s, {taken / reading:.1f} x"
            rows.add(f"{options.ranks} logs of {options.megabytes:g} MB, {what}", value, "2 s", taken <= MOST_SECONDS)
            if iterations:
                value = f"{first:.2f} s, {first / reading:.1f} x"
                rows.add("  the first one of a process, which reads the rules", value, "2 s", first <= MOST_SECONDS)
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
