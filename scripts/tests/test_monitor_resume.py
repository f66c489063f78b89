"""Try out on this machine or on your cluster what monitoring promises: jobs that crash, hang, run out of time or are
cancelled, a monitor that is killed; each with a real, tiny training, and each outcome checked.

Every scenario runs the real commands (run_autoexp.py, monitor_autoexp.py). Without options it takes about a minute on
this machine and needs no SLURM. On a cluster the jobs are small (1 node, no GPU, some minutes), but they wait in the
queue like any others; give your account and partition as overrides.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.tests.lab import Lab
from scripts.tests.scenarios import JOBS, PLANS, Outcome, play_jobs, play_plan

EXAMPLES = """\
examples:
  python scripts/tests/test_monitor_resume.py                                  all, on this machine
  python scripts/tests/test_monitor_resume.py --list                           which there are
  python scripts/tests/test_monitor_resume.py --only crash hang                these two
  python scripts/tests/test_monitor_resume.py --slurm slurm.sbatch.partition=debug slurm.sbatch.account=me
  python scripts/tests/test_monitor_resume.py --slurm metadata.patience_seconds=60     where new lines show late

Overrides are Hydra's, and go to every plan. What they start from: config/experiments/scenarios/*.yaml.
The exit code is 0 if all went as it should, else 1."""


def say(text: str) -> None:
    """A line for people, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of every plan")
    made.add_argument("--slurm", action="store_true", help="on SLURM: the same as the override slurm=base")
    made.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these scenarios; --list shows the names")
    made.add_argument("--list", action="store_true", help="show which scenarios there are")
    made.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where everything is written, kept afterwards (default: a temporary folder, removed if all went well; "
        "on SLURM a new folder below $OUTPUT_DIR or ./outputs, as all nodes must see it)",
    )
    made.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="the longest wait (default: 180; on SLURM 3600, for the queue)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Play the scenarios; returns the exit code."""
    options = parser().parse_intermixed_args(argv)
    # `--only crash slurm=base`: a word with = is an override wherever it stands.
    words = [*options.overrides, *(word for word in options.only if "=" in word)]
    names = [word for word in options.only if "=" not in word] or [*JOBS, *PLANS]
    if options.list:
        shown = {name: job.shows for name, job in JOBS.items()} | {name: plan.shows for name, plan in PLANS.items()}
        for name, shows in shown.items():
            say(f"{name:21} {shows}")
        return 0
    if unknown := [name for name in names if name not in JOBS and name not in PLANS]:
        parser().error(f"no scenario is called {', '.join(unknown)}; --list shows them")
    lab = _lab(options, words)
    say(f"{len(names)} scenarios {'on SLURM' if lab.on_slurm else 'on this machine'}, in {lab.root}")
    started = time.monotonic()
    failed = []
    for outcome in play(lab, names):
        say(line(outcome))
        if not outcome.ok:
            failed.append(outcome.name)
    seconds = time.monotonic() - started
    if failed:
        say(f"\n{len(failed)} of {len(names)} went wrong after {seconds:.0f} s: {', '.join(failed)}")
        say(f"what was written is in {lab.root}: of each plan, output.txt is what its monitor said")
        return 1
    say(f"\nall {len(names)} as they should be, after {seconds:.0f} s")
    if options.output is None and not lab.on_slurm:
        _remove(lab.root)
    return 0


def _remove(folder: Path) -> None:
    """Remove what was written; the embedded scheduler may be tidying up in it for a moment longer."""
    for _ in range(_TRIES):
        try:
            return shutil.rmtree(folder)
        except OSError:
            time.sleep(1)
    return say(f"left where it is: {folder}")


_TRIES = 10


def _lab(options: argparse.Namespace, words: list[str]) -> Lab:
    if options.slurm and not any(word.startswith("slurm=") for word in words):
        words.insert(0, "slurm=base")
    on_slurm = any(word.startswith("slurm=") and word != "slurm=local" for word in words)
    if options.output is not None:
        root = options.output.absolute()
    elif on_slurm:
        root = Path(os.environ.get("OUTPUT_DIR", "outputs"), time.strftime("scenarios-%Y%m%d-%H%M%S")).absolute()
    else:
        root = Path(tempfile.mkdtemp(prefix="autoexp-scenarios-"))
    if root.exists() and any(root.iterdir()):
        parser().error(f"{root} is not empty")
    return Lab(root, tuple(words), on_slurm, options.patience or (3600 if on_slurm else 180))


def play(lab: Lab, names: Sequence[str], at_once: int | None = None) -> Iterator[Outcome]:
    """Play scenarios; each outcome as it comes.

    `at_once` plans are at work at a time, by default as many as there are cores, on SLURM all.
    """
    jobs = [name for name in names if name in JOBS]
    parts: list[Callable[[], list[Outcome]]] = [lambda: play_jobs(lab, jobs)] if jobs else []
    parts += [partial(_alone, lab, name) for name in names if name in PLANS]
    with ThreadPoolExecutor(at_once or (len(parts) if lab.on_slurm else max(2, os.cpu_count() or 1))) as pool:
        futures: list[Future[list[Outcome]]] = [pool.submit(part) for part in parts]
        for future in as_completed(futures):
            yield from future.result()


def _alone(lab: Lab, name: str) -> list[Outcome]:
    return [play_plan(lab, name)]


def line(outcome: Outcome) -> str:
    """An outcome for people."""
    seen = " ".join(outcome.seen.split())
    return f"{'ok  ' if outcome.ok else 'FAIL'}  {outcome.name:21} {outcome.seconds:5.1f} s  {seen}"


if __name__ == "__main__":
    sys.exit(main())
