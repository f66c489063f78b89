"""Shell code of an experiment on a real SLURM: the script evaluates it once, and all tasks have what it printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flow.conftest import User

EXPERIMENT = """
defaults:
  - override /backend: command
  - override /slurm: base
project: {name: job}
backend:
  argv: [sh, -c, 'echo "$SLURM_PROCID $MASTER_ADDR $1"', sh, "run-$SLURM_JOB_ID"]
slurm:
  env:
    MASTER_ADDR: "$(scontrol show hostnames \\"$SLURM_JOB_NODELIST\\" | head -n1)"
  launcher_cmd: "srun --jobid=$SLURM_JOB_ID env WHERE=$(hostname)"
  srun: {job-name: "step-$SLURM_JOB_ID"}
  sbatch: {nodes: 1, ntasks: 2, time: "1", mem: "50"}
monitoring: {poll_interval_seconds: 0.5}
"""


@pytest.mark.slurm
def test_the_first_node_of_a_job_is_what_all_its_tasks_are_reported(slurm_user: User) -> None:
    (slurm_user.home / "exp.yaml").write_text(f"# @package _global_{EXPERIMENT}")
    done = slurm_user.run("run", "--config-ref", "./exp.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "slurm.env.MASTER_ADDR is shell code" in done.stdout
    (job,) = slurm_user.session().values()
    lines = sorted(Path(job["resolved_log_path"]).read_text().splitlines())
    node = job["nodes"]
    assert lines == [f"{rank} {node} run-{job['scheduler_id']}" for rank in range(2)]
