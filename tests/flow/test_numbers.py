"""Numbers of jobs that fail and are begun anew: the same wherever they are shown, and those of logs and of accounts."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.cli import api
from tests.flow.conftest import User
from tests.reports import curve, data_of

TRAIN = """
n=$(ls logs/{metadata.kind} | wc -l); touch logs/{metadata.kind}/$n
first=1; [ $n = 0 ] || first=3
for i in $(seq $first 6); do
  echo " [2026-11-28 12:00:0$i] iteration $i/ 6 | lm loss: $((9 - i)).$n | grad norm: 0.$i |"
  sleep 0.3
  [ $i != 4 ] || [ {metadata.kind} = good ] || { [ {metadata.kind} = once ] && [ $n != 0 ]; } || exit 3
done
"""
ENDS = {"good": ("success", 1, 0), "once": ("success", 2, 0), "fails": ("crash", 3, 3)}
"""How a job of each kind ends: its state, its attempts, its exit code."""
GPUS = 2
POLL_SECONDS = 0.3
SLACK_SECONDS = 3.0
"""Times of a run without accounts are those of the polls that saw it begin and end."""
OFFSETS = (
    ("attempt", "attempt"),
    ("exit_code", "exit_code"),
    ("id", "scheduler_id"),
    ("iterations", "iteration"),
    ("loss", "loss"),
)
"""Columns of `status --csv`, and what the same is called elsewhere."""


def ended(user: User, *words: str) -> None:
    """Run a plan `p` of a job of each kind to its end, in which jobs failed."""
    config = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "${metadata.kind}"},
        "metadata": {"kind": "good"},
        "backend": {"argv": ["bash", "-c", TRAIN], "options": {"lr": 0.003}},
        "monitoring": {
            "poll_interval_seconds": POLL_SECONDS,
            "state_events": {"crash": {"actions": [{"class_name": "RestartAction", "max_attempts": 2}]}},
        },
        "sweep": {"params": {"metadata.kind": list(ENDS)}},
    }
    for kind in ENDS:
        (user.home / "logs" / kind).mkdir(parents=True)
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    done = user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p", *words)
    assert done.returncode == 1, done.stderr


def told_of(user: User) -> list[dict[str, Any]]:
    """The jobs as `status --json` shows them, after checking that all others show the same."""
    state = user.outputs / "monitoring_state"
    status = json.loads(user.run("monitor", "--session", "p", "--cmd", "status", "--json").stdout)["jobs"]
    shown = _table(user.run("monitor", "--session", "p", "--cmd", "status", "--csv").stdout)
    made = user.run("report", "--session", "p", "--csv", "t", "--parquet", "t", "-o", "r.html")
    assert (made.returncode, made.stderr) == (0, "")
    page, table = data_of((user.home / "r.html").read_text()), _table((user.home / "t" / "jobs.csv").read_text())
    frame = import_module("pyarrow.parquet").read_table(user.home / "t" / "jobs.parquet").to_pylist()
    points = _table((user.home / "t" / "points.csv").read_text())
    rows = api.results("p", state)
    assert len(status) == len(shown) == len(table) == len(frame) == len(rows) == len(ENDS)
    for number, (job, row) in enumerate(zip(status, rows, strict=True)):
        name = job["name"]
        assert {name, row.name} == {shown[number]["job"], table[number]["name"], frame[number]["name"], name}
        ways = (
            {key: values[number] for key, values in page["jobs"].items()},
            table[number],
            frame[number],
            vars(row),
        )
        for way in ways:
            assert (way["state"], str(way["attempt"])) == (job["state"], str(job["attempt"]))
            assert (str(way["exit_code"]), way["scheduler_id"]) == (str(job["exit_code"]), job["scheduler_id"])
            for key in ("iteration", "loss", "grad_norm", "gpu_hours", "started_at", "ended_at"):
                known = job["progress"][key] if key in job["progress"] else job[key]
                assert float(way[key]) == pytest.approx(known, rel=1e-6), (name, key)
        for column, key in OFFSETS:
            known = job["progress"][key] if key in job["progress"] else job[key]
            assert float(shown[number][column]) == pytest.approx(float(known)), (name, column)
        assert float(shown[number]["gpu_hours"]) == pytest.approx(job["gpu_hours"], abs=1e-4)
        assert float(shown[number]["time"]) == pytest.approx(job["ended_at"] - job["started_at"], abs=1e-3)
        _check_curve(page, points, job)
    return list(status)


def _table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def _check_curve(page: dict[str, Any], points: list[dict[str, str]], job: dict[str, Any]) -> None:
    """The curve of a job is what its logs say; of iterations that were repeated, the last attempt counts."""
    logs = sorted(Path(job["resolved_log_path"]).parent.glob("*.out"), key=lambda log: log.stat().st_mtime_ns)
    assert len(logs) == job["attempt"]
    known: dict[int, float] = {}
    for log in logs:
        for iteration, loss in re.findall(r"\] iteration +(\d+)/.*lm loss: (\S+) ", log.read_text()):
            known = {at: value for at, value in known.items() if at < int(iteration)} | {int(iteration): float(loss)}
    iterations, values = curve(page, job["name"], "loss")
    assert dict(zip(iterations, values, strict=True)) == pytest.approx(known)
    mine = {
        int(point["iteration"]): float(point["value"])
        for point in points
        if (point["job"], point["metric"]) == (job["name"], "loss")
    }
    assert mine == pytest.approx(known)
    assert (job["progress"]["iteration"], job["progress"]["loss"]) == list(known.items())[-1]


def runs_of(job: dict[str, Any]) -> list[str]:
    """The scheduler's ids of all attempts of a job."""
    return [
        entry["message"].removeprefix("as ").split()[0] for entry in job["history"] if entry["event"] == "submitted"
    ]


@pytest.mark.slow
def test_numbers_agree_after_failures_and_new_attempts_on_this_machine(user: User) -> None:
    ended(user, "slurm=local")
    for job in told_of(user):
        assert (job["state"], job["attempt"], job["exit_code"]) == ENDS[job["name"]]
        assert job["gpu_hours"] == 0


def test_numbers_agree_with_the_accounts_of_slurm(slurm_user: User) -> None:
    ended(slurm_user, "slurm=base", f"slurm.sbatch.gpus_per_node={GPUS}")
    for job in told_of(slurm_user):
        assert (job["state"], job["attempt"], job["exit_code"]) == ENDS[job["name"]]
        attempts = [_accounts(slurm_user, run) for run in runs_of(job)]
        states = ["FAILED"] * (len(attempts) - 1) + ["COMPLETED" if job["state"] == "success" else "FAILED"]
        assert [state for state, _, _ in attempts] == states
        assert [code for _, _, code in attempts][-1] == f"{job['exit_code']}:0"
        seconds = [taken for _, taken, _ in attempts]
        assert job["gpu_hours"] == pytest.approx(GPUS * sum(seconds) / 3600, abs=1e-9)
        assert job["ended_at"] - job["started_at"] == pytest.approx(seconds[-1], abs=SLACK_SECONDS)


def _accounts(user: User, job: str) -> tuple[str, int, str]:
    """State, seconds and exit code of a job by sacct."""
    words = ["sacct", "-nXP", "-j", job, "-o", "State,ElapsedRaw,ExitCode"]
    reported = subprocess.run(words, env=user.environment, capture_output=True, text=True, check=True).stdout
    state, seconds, code = reported.strip().split("|")
    return state, int(seconds), code
