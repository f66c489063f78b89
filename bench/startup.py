"""How much CPU `--help` takes, as a ratio to an empty Python: `python bench/startup.py`.

Every command is run ROUNDS times in turn with `python -c pass`, and the medians of their CPU seconds (user + system,
children included) are compared, so that a noisy machine disturbs both alike. Exits 1 if a command is over the target.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROUNDS = 9
MOST_SECONDS = 0.2
ROOT = Path(__file__).resolve().parents[1]


def cpu_seconds(words: Sequence[str]) -> float:
    """CPU seconds that a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print the table."""
    commands = {"python -c pass": [sys.executable, "-c", "pass"]}
    for script in sorted((ROOT / "scripts").glob("*.py")):
        commands[f"{script.name} --help"] = [sys.executable, str(script), "--help"]
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, words in commands.items():
            taken[name].append(cpu_seconds(words))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    baseline = medians["python -c pass"]
    print(f"{'command':<32} {'CPU s':>8} {'x pass':>8}")
    for name, seconds in medians.items():
        print(f"{name:<32} {seconds:>8.3f} {seconds / baseline:>8.1f}")
    over = [name for name, seconds in medians.items() if seconds > MOST_SECONDS]
    print(f"target {MOST_SECONDS} s: {'missed by ' + ', '.join(over) if over else 'met'}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
