"""How many names a job costs in the file system, and how many operations on metadata, to plan, to submit and to watch.

    python bench/names.py [--jobs 40]

Counted by strace, not timed: on the file systems of clusters each of these asks a server. The calls of two plans, of
which one has so many jobs more, are compared, so that what a plan costs once is left out. SLURM is a stand-in of two
shell scripts, whose own calls do not count. Exits 1 if a count is above its limit; docs/decisions says why the limits
are what they are.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Rows

ROOT = Path(__file__).resolve().parents[1]
FEW = 10
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)", re.DOTALL)
SBATCH = """\
#!/bin/bash
[ "$1" = --version ] && { echo slurm 23.11; exit; }
n=$(( $(cat "$STUBS/n" 2>/dev/null || echo 10) + 1 ))
echo $n > "$STUBS/n"
for word in "$@"; do
  case $word in --job-name=*) name=${word#*=} ;; --comment=*) comment=${word#*=} ;; esac
done
echo "$n@RUNNING@0@0@0@node1@node1@None@+@$comment@+@$name@" >> "$STUBS/jobs"
echo $n
"""
SQUEUE = """\
#!/bin/bash
[ "$1" = --version ] && { echo slurm 23.11; exit; }
cat "$STUBS/jobs" 2>/dev/null
exit 0
"""
LIMITS = {"plan": 10, "submit": 25, "look in between": 1}
MOST_PLANNED, MOST_SUBMITTED = 8, 10


@dataclass(frozen=True)
class Counts:
    """Calls on paths below the folder by step, and the names below a job's folder, itself included, by step."""

    calls: dict[str, Counter[str]]
    names: dict[str, int]


def traced(words: list[str], folder: Path, environment: dict[str, str]) -> Counter[str]:
    """The calls on metadata with paths below a folder that our process itself makes."""
    trace = folder.parent / "trace"
    command = ["strace", "-qq", "-e", "trace=%file", "-o", str(trace), *words]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"failed: {words}\n{result.stderr}")
    calls = Counter[str]()
    for line in trace.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match and str(folder) in match[2] and match[1] not in ("execve", "chdir", "getcwd"):
            calls[match[1]] += 1
    return calls


def count(jobs: int) -> Counts:
    """Plan, submit and look at so many jobs, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="bench-names-") as name:
        stubs, folder = Path(name, "stubs"), Path(name, "work")
        for made in (stubs, folder):
            made.mkdir()
        for program, text in {"sbatch": SBATCH, "squeue": SQUEUE}.items():
            (stubs / program).write_text(text)
            (stubs / program).chmod(0o755)
        for program in ("sacct", "scancel", "scontrol", "sinfo", "srun"):
            (stubs / program).write_text("#!/bin/sh\nexit 0\n")
            (stubs / program).chmod(0o755)
        values = ", ".join(map(str, range(jobs)))
        (folder / "x.yaml").write_text(
            "# @package _global_\ndefaults: [override /backend: command, override /slurm: base]\n"
            "project: {name: 'j${index}'}\nbackend: {argv: ['true'], options: {lr: 1}}\n"
            f"sweep: {{params: {{backend.options.lr: [{values}]}}}}\n"
        )
        environment = {**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}", "STUBS": str(stubs)}
        for variable in ("OUTPUT_DIR", "PROJECT_DIR", "OELLM_MONITORING_STATE_DIR"):
            environment.pop(variable, None)
        python = [sys.executable, "-m", "oellm_autoexp"]
        environment["PYTHONPATH"] = str(ROOT)
        steps = {
            "plan": [*python, "plan", "--config-ref", "x.yaml", "--plan-id", "p"],
            "submit": [*python, "submit", "outputs/manifests/p.json", "--no-monitor"],
            "first look": [*python, "monitor", "p", "--once"],
            "look": [*python, "monitor", "p", "--once"],
            "look in between": [*python, "monitor", "p", "--once"],
        }
        calls: dict[str, Counter[str]] = {}
        names: dict[str, int] = {}
        for step, words in steps.items():
            calls[step] = traced(words, folder, environment)
            names[step] = 1 + sum(1 for _ in (folder / "outputs" / "j0").rglob("*"))
            if step == "first look":
                for number in range(jobs):
                    log = (folder / "outputs" / f"j{number}" / "current.log").resolve()
                    log.write_text("one line\n")
        return Counts(calls, names)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40)
    options = parser.parse_args()
    if shutil.which("strace") is None:
        print("strace is not here: nothing is counted")
        return 0
    rows = Rows()
    few, many = count(FEW), count(FEW + options.jobs)
    rows.add("names of a job, planned", str(many.names["plan"]), str(MOST_PLANNED), many.names["plan"] <= MOST_PLANNED)
    submitted = many.names["submit"]
    rows.add("names of a job, submitted", str(submitted), str(MOST_SUBMITTED), submitted <= MOST_SUBMITTED)
    for step, limit in LIMITS.items():
        more = many.calls[step] - few.calls[step]
        each = sum(more.values()) / options.jobs
        kinds = ", ".join(f"{calls / options.jobs:.1f} {kind}" for kind, calls in more.most_common() if calls)
        rows.add(f"operations of a job, {step}", f"{each:.1f}", str(limit), each <= limit)
        print(f"    {kinds}")
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main())
