"""monitor --all: every unfinished session by one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User, until

ONE = (*QUICK, "sweep.grids=[{backend.options.seed:[1]}]")


def named(name: str) -> str:
    return f"++sweep.base_values={{project.name:{name}}}"


def submit(user: User, name: str, *words: str) -> str:
    """Submit a plan of one job, and watch it not; its id."""
    result = user.run("run", *ONE, "--no-monitor", "--plan-id", name, named(name), *words)
    assert result.returncode == 0, result.stderr
    return name


def test_all_sessions_are_watched_to_their_ends_and_one_that_fails_is_told_by_the_exit_code(user: User) -> None:
    submit(user, "good")
    submit(user, "bad", "backend.options.misbehave=exit:3@3")
    result = user.run("monitor", "--all")
    assert result.returncode == 1, result.stderr
    assert "good: success" in result.stdout
    assert "bad: crash" in result.stdout
    assert next(line.split()[0] for line in result.stdout.splitlines() if "success" in line) == "good"
    again = user.run("monitor", "--all")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_a_session_that_somebody_holds_or_that_is_broken_keeps_no_other_from_being_watched(user: User) -> None:
    submit(user, "mine")
    held = user.start("run", *ONE, "--plan-id", "held", named("held"), "backend.options.step_seconds=0.5")
    state = user.outputs / "monitoring_state"
    until(lambda: (state / "held.lease").exists(), "the other monitor")
    (state / "broken.json").write_text("{")
    result = user.run("monitor", "--all")
    assert result.returncode == 0, result.stderr
    assert "mine: success" in result.stdout
    assert f"in use by process {held.pid}" in result.stderr
    assert "broken.json" in result.stderr
    assert held.wait() == 0


def test_one_round_for_cron_and_what_is_recorded_for_programs(user: User) -> None:
    submit(user, "a", "backend.options.step_seconds=0.5")
    submit(user, "b", "backend.options.step_seconds=0.5")
    result = user.run("monitor", "--all", "--once", "--json")
    assert result.returncode == 0, result.stderr
    assert {session["plan_id"] for session in json.loads(result.stdout)["sessions"]} == {"a", "b"}
    shown = user.run("monitor", "--all", "--cmd", "status")
    assert "a: 1 job: 1 " in shown.stdout
    assert "b: 1 job: 1 " in shown.stdout
    assert user.run("monitor", "--all", "--cmd", "cancel").returncode == 2
    assert user.run("monitor", "--all").returncode == 0
    assert "no unfinished sessions" in user.run("monitor", "--all", "--cmd", "status").stdout


@pytest.mark.slurm
def test_squeue_is_asked_once_for_all_sessions(slurm_user: User) -> None:
    count = slurm_user.home / "asked"
    squeue = slurm_user.home / "squeue"
    squeue.write_text(f'#!/bin/sh\necho x >> "{count}"\nexec squeue "$@"\n')
    squeue.chmod(0o755)
    words = ("slurm=base", f"slurm.squeue_cmd={squeue}", "slurm.sbatch.hold=true")
    for name in ("a", "b", "c"):
        submit(slurm_user, name, *words)
    Path(count).unlink(missing_ok=True)
    assert slurm_user.run("monitor", "--all", "--once").returncode == 0
    assert count.read_text() == "x\n"
    shown = slurm_user.run("monitor", "--all", "--cmd", "status", "--json")
    assert [s["jobs"][0]["reason"] for s in json.loads(shown.stdout)["sessions"]] == ["JobHeldUser"] * 3
