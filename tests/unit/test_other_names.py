"""Keys of other tools are refused with what takes their place here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_declared import reported

CASES = {
    "sweep: {store_sweep_json: true, params: {metadata.x: [1]}}\nmetadata: {x: 0}": "outputs/sweep.json leads to",
    "sweep: {name_template: x, params: {metadata.x: [1]}}\nmetadata: {x: 0}": "write project.name in sweep.base_values",
    "slurm: {nodes: 2}": "write slurm.sbatch.nodes",
    "slurm: {gpus_per_node: 2}": "write slurm.sbatch.gpus_per_node",
    "slurm: {log_dir: x}": "write project.log_path",
    "slurm: {script_dir: x}": "a job's script is in its output directory",
    "slurm: {test_only: true}": "`--check` asks `sbatch --test-only`",
    "slurm: {launcher_env_passthrough: true}": "reach every task",
    "monitoring: {check_interval_seconds: 5}": "write monitoring.poll_interval_seconds",
    "monitoring: {log_path: x}": "write project.log_path",
    "job: {name: x}": "write project.name",
}


@pytest.mark.parametrize("text", CASES)
def test_a_key_of_another_tool_is_refused_with_what_takes_its_place(tmp_path: Path, text: str) -> None:
    (problem,) = reported(tmp_path, f"{text}\n")
    assert "unknown key" in problem
    assert CASES[text] in problem
