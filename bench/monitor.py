"""How much a look at running jobs costs, and how fast their logs are searched.

    python bench/monitor.py [--jobs 1000] [--large 10000] [--megabytes 1024]

The rules are those of `monitoring: megatron_production`. The jobs' logs are real files, the session is on a disk, and
only the scheduler is made up: its answer is there at once, so that what is measured is all the rest. The baseline of
the search, in the same run: the same patterns, one after another, by `re` alone, over the same bytes in the same
pieces. The log is like Megatron-LM's: iterations above all, validations, checkpoints, what NCCL and PyTorch say. CPU
time, and the best of several attempts, as noise only ever adds. Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Rows
from oellm_autoexp.cli.steps import plan_steps, session_steps
from oellm_autoexp.core.nouns import JobStatus, Manifest
from oellm_autoexp.core.states import RUNNING
from oellm_autoexp.decisions import detect
from oellm_autoexp.decisions.detect import detectors
from oellm_autoexp.engine.loop import Monitor
from oellm_autoexp.schedulers.fake import FakeScheduler
from oellm_autoexp.session.job_state import Actions, Attempt, JobState
from oellm_autoexp.storage.log_tail import Cursor, read_added

LOOKS = 15
CHANGED = (10, 100, 1000)
SEARCHES = 3
PIECE = 1 << 20
BASELINE_PIECES = 64
FIRST_LINES = 20
ITERATIONS = 10_000_000


# ---------------------------------------------------------------------------------------------------------------------
# A look at running jobs


class Answers(FakeScheduler):
    """A scheduler to which every job runs, all of the time; its answer costs nothing."""

    poll_interval_seconds = longest_poll_interval_seconds = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.answer: dict[str, JobStatus] = {}

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        """See Scheduler.poll."""
        if len(self.answer) != len(ids):
            self.answer = {job: JobStatus("RUNNING", nodes=f"node{number}") for number, job in enumerate(ids)}
        return self.answer


def plan(folder: Path, jobs: int) -> tuple[Manifest, Path]:
    """Plan and write so many jobs, with everything that is theirs in `folder`."""
    folder.mkdir()
    experiment = folder / "bench.yaml"
    experiment.write_text(
        "# @package _global_\ndefaults:\n  - override /slurm: base\n  - override /monitoring: megatron_production\n"
        'project: {name: "job_${backend.options.number}", '
        f"base_output_dir: {folder}/out, monitoring_state_dir: {folder}/state}}\n"
        "slurm: {array: true}\n"
        "backend: {argv: [train], options: {number: 0}}\n"
        f"sweep: {{params: {{backend.options.number: {list(range(jobs))}}}}}\n"
    )
    made = plan_steps.plan(
        argparse.Namespace(config_ref=str(experiment), config_dirs=[], overrides=[], overrides_from=None)
    )
    return made.manifest, plan_steps.write_plan(made, None)


@contextmanager
def running(folder: Path, jobs: int) -> Iterator[Monitor]:
    """A monitor of so many jobs that run, whose logs have been read."""
    manifest, path = plan(folder, jobs)
    with session_steps.session(manifest, path, Answers()) as monitor:
        monitor.submitter.submit_ready()
        text = "".join(iteration(number) for number in range(FIRST_LINES))
        for job in monitor.session.jobs.values():
            log = Path(job.logs.resolved_log_path)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(text)
        monitor.cycle()
        monitor.cycle()
        assert not monitor.scheduler_error
        assert all(is_read(job, FIRST_LINES - 1) for job in monitor.session.jobs.values())
        yield monitor


def is_read(job: JobState, number: int) -> bool:
    """Whether a job runs, and this iteration is the last that is known of it."""
    return job.state == RUNNING and job.progress.iteration == number and not job.actions.pending


def cpu_seconds(what: Callable[[], object]) -> float:
    """CPU seconds that a call takes."""
    start = time.process_time()
    what()
    return time.process_time() - start


def look(monitor: Monitor, changed: int = 0) -> float:
    """CPU seconds of a cycle, the best of several, before each of which so many jobs have got a new line."""
    some = list(monitor.session.jobs.values())[:changed]
    last = (some[0].progress.iteration or 0) if some else 0
    taken = []
    for number in range(last + 1, last + 1 + LOOKS):
        for job in some:
            with Path(job.logs.resolved_log_path).open("a") as file:
                file.write(iteration(number))
        taken.append(cpu_seconds(monitor.cycle))
        assert all(is_read(monitor.session.jobs[job.name], number) for job in some)
    return min(taken)


# ---------------------------------------------------------------------------------------------------------------------
# The search of a log


def iteration(number: int) -> str:
    """Megatron's line for an iteration."""
    noise = number * 7919 % 1000
    return (
        f" [2026-03-01 12:{number // 60 % 60:02}:{number % 60:02}.{noise:03}] iteration {number:8d}/{ITERATIONS:8d} |"
        f" consumed samples: {number * 512:12d} |{numbers(noise)}"
    )


@functools.cache
def numbers(noise: int) -> str:
    """The rest of such a line: one of a thousand."""
    return (
        f" elapsed time per iteration (ms): {2800 + noise / 10:.1f} |"
        f" throughput per GPU (TFLOP/s/GPU): {400 + noise / 10:.1f} | learning rate: {3e-4 - noise * 1e-8:.6E} |"
        f" global batch size:   512 | lm loss: {2 + noise / 1000:.6E} | loss scale: 1.0 |"
        f" grad norm: {noise / 1000:.3f} | number of skipped iterations:   0 | number of nan iterations:   0 |\n"
    )


def validation(number: int) -> str:
    """What is printed for a validation."""
    line = f" validation loss at iteration {number} | lm loss value: 2.104711E+00 | lm loss PPL: 8.204732E+00 | \n"
    return f"{'-' * len(line)}\n{line}{'-' * len(line)}\n"


def checkpoint(number: int) -> str:
    """What is printed for a checkpoint."""
    return (
        f"[2026-03-01 12:00:00.123] saving checkpoint at iteration {number:7d} to /data/run/checkpoints in torch_dist"
        " format\nStoring distributed optimizer sharded state of type fully_sharded_model_space\n"
        f"  [2026-03-01 12:00:09.456] successfully saved checkpoint from iteration {number:7d} to /data/run/checkpoints"
        " [ t 1/1, gtp_remat 1/1, p 1/1 ]\n"
    )


def chatter(number: int) -> str:
    """What NCCL and PyTorch say now and then."""
    return "".join(
        f"node{rank // 4:03}:{48000 + rank}:{49000 + rank} [{rank % 4}] NCCL INFO Channel {rank % 8:02}/0 :"
        f" {rank}[{rank % 4}] -> {rank + 1}[{(rank + 1) % 4}] via P2P/CUMEM/read\n"
        f"[rank{rank}]:[W301 12:00:00.{number % 1000:03}000000 ProcessGroupNCCL.cpp:5072] Warning: Guessing device ID"
        " based on global rank. This can cause a hang if rank to GPU mapping is heterogeneous.\n"
        "/opt/megatron/megatron/core/optimizer/clip_grads.py:31: UserWarning: error while importing apex; CUDA out of"
        " memory was not the reason. Falling back to the local implementation.\n"
        for rank in range(8)
    )


def rare(number: int) -> str:
    """What some rule looks for."""
    return (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=4711.1. Some of the step tasks have been OOM Killed.\n"
        f"ERROR:megatron.core.rerun_state_machine:Unexpected result nan on rank 3 at iteration #{number} invocation #1"
        " (message='found NaN in local forward loss calculation')\n"
        "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB.\n"
    )


def write_log(path: Path, size: int) -> None:
    """Write a log of about so many bytes."""
    number = written = 0
    with path.open("w") as file:
        while written < size:
            number += 1
            text = iteration(number)
            if number % 100 == 0:
                text += validation(number)
            if number % 250 == 0:
                text += chatter(number)
            if number % 500 == 0:
                text += checkpoint(number)
            if number % 50_000 == 0:
                text += rare(number)
            written += file.write(text)


@dataclass(frozen=True)
class Searched:
    """Bytes per CPU second, what was found, and by how many bytes the peak of memory is above the beginning."""

    speed: float
    found: int
    growth: int


def memory(what: str) -> int:
    """Bytes of this process' memory: VmRSS is what it has now, VmHWM the most that it ever had."""
    found = re.search(rf"^{what}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def through_rules(manifest: Manifest, path: Path, *, measured: bool = True) -> Searched:
    """Read a log as a monitor does that finds all of it at once; not `measured`: its numbers are left out."""
    spec = manifest.jobs[0]
    detector = detectors(manifest)[spec.name]
    job = JobState(name=spec.name, state=RUNNING, newest=Attempt(started_at=time.time()))
    before = memory("VmRSS")
    start = time.process_time()
    found, cursor, now = 0, Cursor(), time.time()
    while True:
        data, cursor = read_added(path, cursor)
        job = detect.see_log(job, data, cursor, now)
        if not data:
            break
        if measured:
            job = detector.measured(job, data, now, own=True)
        job, events = detector.lines(job, data, cursor, now)
        found += len(events)
        logs = replace(job.logs, unwritten=())
        job = replace(job, actions=Actions(), logs=logs)  # the actions, which are carried out between two looks
    seconds = time.process_time() - start
    assert cursor.offset == path.stat().st_size
    assert not measured or job.run.readings["no_progress"].value == job.progress.iteration
    return Searched(cursor.offset / seconds, found, memory("VmHWM") - before)


def one_after_another(manifest: Manifest, path: Path) -> Searched:
    """Search a part of the log for the same patterns by `re`."""
    rules = detectors(manifest)[manifest.jobs[0].name].rules
    patterns = [
        re.compile((re.escape(event.pattern) if event.pattern_type == "substring" else event.pattern).encode(), re.M)
        for event in rules.log_events.values()
        if event.pattern is not None
    ]
    before = memory("VmRSS")
    start = time.process_time()
    found = size = 0
    with path.open("rb") as file:
        for _ in range(BASELINE_PIECES):
            data = file.read(PIECE)
            size += len(data)
            for pattern in patterns:
                for _match in pattern.finditer(data):
                    found += 1
    return Searched(size / (time.process_time() - start), found, memory("VmHWM") - before)


def alone(what: Callable[[Manifest, Path], Searched], manifest: Manifest, path: Path) -> Searched:
    """Search a log in a fresh process, whose memory holds nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(what, manifest, path).result()


# ---------------------------------------------------------------------------------------------------------------------


def measure_looks(rows: Rows, folder: Path, jobs: int, large: int) -> None:
    """The rows of a look at so many jobs, and at many more."""
    for number, target in ((jobs, 0.030 * jobs / 1000), (large, 0.300 * large / 10_000)):
        with running(folder / str(number), number) as monitor:
            idle = look(monitor)
            rows.add(
                f"a look at {number} running jobs, nothing new",
                f"{idle * 1000:.1f} ms",
                f"{target * 1000:.0f} ms",
                idle <= target,
            )
            if number == large:
                for changed in CHANGED:
                    more = look(monitor, min(changed, number)) - idle
                    print(f"  {changed:>5} of which have a new line: {more * 1000:+.1f} ms")
                snapshot = cpu_seconds(monitor.session.snapshot)
                print(f"  the whole session written, once a minute if something is new: {snapshot * 1000:.1f} ms")


def measure_search(rows: Rows, folder: Path, megabytes: int) -> None:
    """The rows of the search of a log."""
    manifest, _ = plan(folder / "search", 1)
    path = folder / "train.log"
    write_log(path, megabytes << 20)
    ours, bare, theirs = [], [], []
    for _ in range(SEARCHES):  # in turn, so that a slow spell of the machine meets both
        ours.append(alone(through_rules, manifest, path))
        bare.append(alone(functools.partial(through_rules, measured=False), manifest, path))
        theirs.append(alone(one_after_another, manifest, path))
    assert ours[0].found
    assert theirs[0].found
    speed, baseline = max(each.speed for each in ours), max(each.speed for each in theirs)
    search = max(each.speed for each in bare)
    for what, reached, target in (
        (f"{megabytes} MB of a log ({ours[0].found} events)", search, 12),
        ("  and its numbers read", speed, 2),
    ):
        figures = f"{reached / baseline:.1f} x {baseline / 1e6:.1f} MB/s"
        rows.add(what, figures, f"{target} x re alone", reached >= target * baseline)
    growth = max(each.growth for each in ours)
    rows.add("  memory that it takes", f"{growth / 1e6:.0f} MB", "100 MB", growth <= 100e6)
    each_speed = ", ".join(f"{each.speed / 1e6:.0f}" for each in ours)
    print(f"  that is {search / 1e6:.0f} MB/s, with numbers {speed / 1e6:.0f} MB/s; each attempt: {each_speed}")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the log; 64 for a quick look")
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="bench-monitor-") as name:
        measure_looks(rows, Path(name), options.jobs, options.large)
        measure_search(rows, Path(name), options.megabytes)
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
