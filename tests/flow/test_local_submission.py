"""What must be right before anything is submitted, and what jobs wait for, on one machine."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User, until

OVERSIZED = (*QUICK, "slurm.sbatch.gpus_per_node=2", "scheduler.max_gpu_hours=7.5")
WHAT = "the plan may use 8.0 GPU-hours, and scheduler.max_gpu_hours is 7.5"


@pytest.mark.slow
def test_an_oversized_plan_is_refused_where_nobody_can_be_asked(user: User) -> None:
    result = user.run("run", *OVERSIZED)
    assert result.returncode == 2
    assert WHAT in result.stderr
    assert "--yes" in result.stderr
    assert not (user.outputs / "monitoring_state").exists()
    manifest = str(user.outputs / "manifests" / f"{user.plan_id}.json")
    assert user.run("submit", "--manifest", manifest).returncode == 2
    agreed = user.run("submit", "--manifest", manifest, "--yes", "--no-monitor")
    assert agreed.returncode == 0, agreed.stderr
    # it was agreed to
    assert user.run("submit", "--manifest", manifest).returncode == 0


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_an_oversized_plan_asks_the_person_at_the_terminal(user: User, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        user.words("run", *OVERSIZED, "--no-monitor"),
        cwd=user.home,
        env={**user.environment, "TERM": "dumb"},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 4096)
        assert WHAT in said.decode()
        os.write(ours, answer.encode() + b"\n")
        assert process.wait() == code
    os.close(ours)


@pytest.mark.parametrize("words", [["scheduler.max_gpu_hours=8"], ["slurm.sbatch.gpus_per_node=0"]])
def test_a_plan_within_its_budget_is_not_asked_about(user: User, words: list[str]) -> None:
    assert user.run("run", *OVERSIZED, *words, "--no-monitor").returncode == 0


def test_jobs_without_a_time_limit_are_over_any_budget(user: User) -> None:
    result = user.run("run", *OVERSIZED, "slurm.sbatch.time=0", "scheduler.max_gpu_hours=1e6")
    assert result.returncode == 2
    assert "4 jobs may use GPUs without a time limit" in result.stderr


def test_what_a_template_of_ones_own_asks_for_counts_too(user: User) -> None:
    (user.home / "own.sbatch").write_text(
        "#!/bin/bash\n{{directives}}\n#SBATCH --gpus=2 --time=60\n{{env}}\n{{command}}\n"
    )
    result = user.run("run", *QUICK, "scheduler.max_gpu_hours=7.5", "slurm.template_path=own.sbatch")
    assert result.returncode == 2
    assert WHAT in result.stderr


def test_a_script_that_bash_does_not_understand_is_not_submitted(user: User) -> None:
    (user.home / "broken.sbatch").write_text("#!/bin/bash\n{{directives}}\n{{env}}\nif true; then\n{{command}}\n")
    result = user.run("run", *QUICK, "slurm.template_path=broken.sbatch")
    assert result.returncode == 2
    assert "bash -n: " in result.stderr
    assert "syntax error" in result.stderr
    assert not (user.outputs / "monitoring_state").exists()


@pytest.mark.slow
def test_a_job_waits_for_its_command_to_say_yes(user: User) -> None:
    words = (*QUICK, "job.start_condition_cmd='test -e data'", "job.start_condition_interval_seconds=0.1")
    monitor = user.start("run", *words, "sweep.grids=[{stage:[a]}]")
    output = Path(user.home, "output.txt")
    until(lambda: "waits for start_condition_cmd test: not fulfilled" in output.read_text(), "a no")
    assert user.states() == ["waiting"]
    (user.home / "data").touch()
    assert monitor.wait() == 0
    assert user.states() == ["success"]


@pytest.mark.slow
def test_a_job_that_waits_too_long_is_cancelled_with_the_reason(user: User) -> None:
    condition = "job.start_conditions=[{class_name:FileExistsCondition,path:never,timeout_seconds:1}]"
    result = user.run("run", *QUICK, condition, "sweep.grids=[{stage:[a]}]")
    assert result.returncode == 1
    assert "cancelled (waited 1 s for FileExists: never)" in result.stdout


def test_the_plan_says_what_it_may_cost_by_stage_and_in_total(user: User) -> None:
    sweep = "sweep={configs:[{stage:one},{stage:two,slurm.sbatch.time:'30:00'}],defaults:{project.name:'${stage}'}}"
    result = user.run("run", "--dry-run", *OVERSIZED, "sweep=none", sweep)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[:4]]
    assert rows[1:] == [["one", "1", "1", "2", "2.0"], ["two", "1", "1", "2", "1.0"], ["total", "2", "3.0"]]
