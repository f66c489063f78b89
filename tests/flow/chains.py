"""A run that is longer than its time limit, for tests: a program that counts on from its checkpoint, a chain of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User

COUNTER = r"""
folder=$1 steps=$2 goal=$3
exec 9> "$folder/lock"  # its processes have it open
flock -n 9 || printf '%s\n' "overlap ${SLURM_ARRAY_TASK_ID-} 0" >> "$folder/times"
printf "%s\n" "begin ${SLURM_ARRAY_TASK_ID-} $(date +%s.%N)" >> "$folder/times"
trap 'printf "%s\n" "end ${SLURM_ARRAY_TASK_ID-} $(date +%s.%N)" >> "$folder/times"' EXIT
number=$(cat "$folder/checkpoint" 2> /dev/null || echo 0)
for ((step = 0; step < steps && number < goal; step++)); do
  number=$((number + 1))
  printf '%s\n' "step $number"
  printf '%s\n' "$number" > "$folder/checkpoint.new" && mv "$folder/checkpoint.new" "$folder/checkpoint"
  printf '%s\n' "$number" >> "$folder/saved"
  sleep 0.1
done
[ ! -e "$folder/then" ] || . "$folder/then"
"""
"""Counts `steps` further from the number in its checkpoint, at most to `goal`; then does what the file `then` says."""
STATE = Path("outputs", "monitoring_state")


def write(user: User, *, steps: int = 3, goal: int = 8, scheduler: str = "local", **more: Any) -> None:
    """The experiment e.yaml: a job `a` that is a chain, counting to `goal`, `steps` in each link."""
    program = user.home / "counter.sh"
    program.write_text(COUNTER)
    chain = {"links": 6, "until": goal, "progress_file": "${project.output_dir}/checkpoint", **more.pop("chain", {})}
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": scheduler}],
        "project": {"name": "a"},
        "backend": {"argv": ["bash", str(program), "${project.output_dir}", str(steps), str(goal)]},
        "job": {"chain": chain},
        "monitoring": {"poll_interval_seconds": 0.3},
        **({} if scheduler == "local" else {"slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50}}}),
        **more,
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")


def folder(user: User, name: str = "a") -> Path:
    """The output directory of a job, which is made."""
    place = user.home / "outputs" / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def job(user: User, name: str = "a") -> JobState:
    """A job as its session has it."""
    return Session.load(SessionFiles.named(user.home / STATE, "p").path).jobs[name]


def reached(user: User, name: str = "a") -> int:
    """The number in the checkpoint; 0 without one."""
    path = folder(user, name) / "checkpoint"
    return int(path.read_text()) if path.exists() else 0


def saved(user: User, name: str = "a") -> list[int]:
    """The numbers of its checkpoints in their order; one is missing for each program that was killed in between."""
    return [int(line) for line in (folder(user, name) / "saved").read_text().split()]


def times(user: User, name: str = "a") -> list[tuple[str, int, float]]:
    """When the program of each link began and ended: what happened, the link, seconds since 1970."""
    lines = (folder(user, name) / "times").read_text().splitlines()
    return [(words[0], int(words[1] or 0), float(words[2])) for words in map(str.split, lines)]


def overlapped(user: User, name: str = "a") -> bool:
    """Whether the programs of two links ever ran at the same time."""
    return any(what == "overlap" for what, _, _ in times(user, name))
