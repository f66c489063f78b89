"""What `monitor --cmd events` takes of a record of 100,000 lines: seconds, memory, and the width of its rows.

    python bench/events.py [--lines 100000]

The baseline, in the same run, is reading the lines as JSON. Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Rows

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """\
# @package _global_
defaults: [override /backend: command]
project: {name: a}
backend: {argv: ["true"]}
monitoring: {poll_interval_seconds: 0.2}
"""
LINE = (
    " [2026-01-31 12:00:00] iteration {0}/ 50000 | consumed samples: {0} | elapsed time per iteration (ms): 1234.5 | "
    "learning rate: 1.0E-4 | global batch size: 16 | lm loss: 2.1E+00 | loss scale: 1.0 | grad norm: 0.455 |"
)


def fill(path: Path, lines: int) -> None:
    """Write a record of events and of what became of their actions."""
    from oellm_autoexp.rules.events import Event
    from oellm_autoexp.session.event_log import EventLog, Result

    record = EventLog(path)
    entries: list[Event | Result] = []
    for number in range(lines // 2):
        metadata = {"line": LINE.format(number), "iteration": number}
        seen = Event(
            id=f"saved-{number:012x}",
            kind="log",
            name="saved",
            job="a",
            attempt=1,
            at=1.7e9 + number,
            metadata=metadata,
        )
        of = {"event_id": seen.id, "job": "a", "action": "LogAction"}
        entries += [seen, Result(**of, id=f"r{number}", status="done", message="said", at=0)]  # type: ignore[arg-type]
        if len(entries) >= 1000:  # few at once: what this process holds would count for those that it starts
            record.add(entries)
            entries.clear()
    record.add(entries)


def run(words: list[str], folder: Path) -> tuple[float, float, list[str]]:
    """Wall seconds, peak memory in MB, and the lines that it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for variable in ("OUTPUT_DIR", "PROJECT_DIR", "OELLM_MONITORING_STATE_DIR"):
        environment.pop(variable, None)
    output = folder / "output"
    start = time.perf_counter()
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "oellm_autoexp", *words], cwd=folder, env=environment, stdout=file
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {words}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, output.read_text().splitlines()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="bench-events-") as name:
        folder = Path(name)
        (folder / "a.yaml").write_text(CONFIG)
        run(["run", "--config-ref", "a.yaml", "--plan-id", "p"], folder)
        state = folder / "outputs" / "monitoring_state"
        fill(state / "p.json", options.lines)
        start = time.perf_counter()
        with (state / "p.events.jsonl").open("rb") as file:
            for line in file:
                json.loads(line)
        baseline = time.perf_counter() - start
        command = ["monitor", "p", "--cmd", "events"]
        seconds, megabytes, printed = run([*command, "--lines", "20"], folder)
        rows.add(f"the newest 20 events of {options.lines} lines", f"{seconds:.2f} s", "3 s", seconds <= 3)
        print(f"    against reading them as JSON: {seconds / baseline:.1f} x {baseline:.2f} s")
        rows.add("  peak memory", f"{megabytes:.0f} MB", "120 MB", megabytes <= 120)
        seconds, megabytes, printed = run(command, folder)
        widest = max(map(len, printed))
        rows.add("all of them, into a file", f"{seconds:.2f} s", "12 s", seconds <= 12)
        rows.add("  peak memory", f"{megabytes:.0f} MB", "120 MB", megabytes <= 120)
        rows.add("  characters of the widest row", str(widest), "200", widest <= 200)
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
