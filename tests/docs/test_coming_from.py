"""What the page for people from other tools says of its examples holds."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from oellm_autoexp.config.loader import Source
from oellm_autoexp.config.values.other_names import instead
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.testing.plans import plan_of
from tests.docs.test_documents import ROOT, blocks, run_as_user

PAGE = (ROOT / "docs" / "coming_from.md").read_text()
FILES = {match[1]: block for block in blocks(PAGE, "yaml") if (match := re.match(r"# (\w+\.yaml)\n# @package", block))}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))

    def plan(name: str) -> Plan:
        Path(name).write_text(FILES[name])
        return plan_of(Source(f"./{name}"))

    return plan


def directives(script: str) -> set[str]:
    found = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}
    return {line for line in found if not line.startswith(("--job-name", "--output", "--chdir", "--open-mode"))}


@pytest.mark.parametrize("name", FILES)
def test_the_commands_of_the_page_work_as_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    (line,) = (line for line in PAGE.splitlines() if line.startswith("python scripts/") and name in line)
    reported = run_as_user(line, tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert "#SBATCH" in reported.stdout


def test_a_file_that_chooses_every_group_plans_as_it_is(planned: Any) -> None:
    plan = planned("dense.yaml")
    assert [job.name for job in plan.manifest.jobs] == ["dense_0.0001", "dense_0.0005"]
    assert Path(plan.manifest.base_output_dir) == Path.cwd() / "out"
    assert {"--nodes=2", "--gpus-per-node=4", "--ntasks-per-node=1"} <= directives(plan.scripts[0])


def test_the_jobs_are_those_that_hydra_would_start(planned: Any) -> None:
    (line,) = (line for line in PAGE.splitlines() if line.startswith("python train.py -m"))
    application, launcher = ["python", "train.py"], yaml.safe_load(blocks(PAGE, "yaml")[1])["hydra"]["launcher"]
    axes = [
        [f"{parsed.key_or_group}={value}" for value in parsed.sweep_string_iterator()]
        for parsed in OverridesParser.create().parse_overrides(line.split()[3:])
    ]
    wanted = {(*application, lr, seed) for lr in axes[0] for seed in axes[1]}
    plan = planned("sweep.yaml")
    assert {tuple(map(number_as_hydra, job.argv)) for job in plan.manifest.jobs} == {
        tuple(map(number_as_hydra, words)) for words in wanted
    }
    asked = directives(plan.scripts[0])
    assert asked == {
        f"--partition={launcher['partition']}",
        f"--nodes={launcher['nodes']}",
        f"--ntasks-per-node={launcher['tasks_per_node']}",
        f"--gpus-per-node={launcher['gpus_per_node']}",
        f"--cpus-per-task={launcher['cpus_per_task']}",
        f"--time={launcher['timeout_min'] // 60:02}:00:00",
    }
    assert plan.manifest.slurm["array_task_limit"] == launcher["array_parallelism"]


def number_as_hydra(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{key}={float(value)}" if equals else word


def test_the_script_of_a_job_does_what_the_script_of_the_page_does(planned: Any) -> None:
    (theirs,) = (block for block in blocks(PAGE, "bash") if block.startswith("#!"))
    plan = planned("runs.yaml")
    (ours,) = (script for job, script in zip(plan.manifest.jobs, plan.scripts, strict=True) if "0.0003" in job.name)
    assert directives(ours) == directives(theirs)
    for line in theirs.splitlines():
        if line.startswith(("module", "export")):
            assert ran(f"{STUBS}{line}") in ran(f"{STUBS}{ours_before_srun(ours)}"), line
    job = next(job for job in plan.manifest.jobs if "0.0003" in job.name)
    assert [*map(str, job.argv)] == ["python", "train.py", "--lr", "0.0003", "--out", job.output_dir]
    assert re.search(r"srun [^\n]*--wait=60", ours)


STUBS = """
module() { echo "module $*"; }
scontrol() { printf 'node1\\nnode2\\n'; }
export SLURM_JOB_NODELIST='node[1-2]' SLURM_JOB_ID=1
trap 'env | grep -E "^(WANDB_MODE|MASTER_ADDR)=" | sort' EXIT
"""


def ours_before_srun(script: str) -> str:
    return script.partition("# What became of this job")[0].partition("# SLURM opens the log")[0]


def ran(script: str) -> str:
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}
    ).stdout


def test_each_key_that_has_another_name_is_refused_with_what_the_page_says() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)`(?:, `([a-z_.]+)`)?[^|]* \| (.*) \|$", PAGE, re.MULTILINE)
    keys = [(key, reported) for *names, reported in rows for key in names if key and instead(key)]
    assert len(keys) >= 10
    for key, reported in keys:
        named = re.search(r"`([a-z_.-]+)`", reported)
        assert named is None or named[1] in instead(key) or "leave it out" in instead(key), key
