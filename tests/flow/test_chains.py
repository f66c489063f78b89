"""Chains on this machine: the same script, the same states, and what a plan says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.flow.chains import folder, job, overlapped, reached, write
from tests.flow.conftest import User


def planned(user: User, *words: str) -> Any:
    return user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p", *words)


def test_a_chain_runs_to_its_goal_on_this_machine(user: User) -> None:
    write(user)
    done = planned(user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a: goes on with link 2 of 6" in done.stdout
    assert (job(user).state, job(user).attempt, reached(user)) == ("success", 3, 8)
    assert not overlapped(user)
    shown = user.run("monitor", "--session", "p", "--cmd", "status")
    assert "link 3 of 6" in shown.stdout


def test_a_chain_without_a_goal_is_complete_with_its_first_link_that_ends_well(user: User) -> None:
    write(user, steps=20, chain={"until": None, "progress_file": None})
    (folder(user) / "then").write_text('[ "$SLURM_ARRAY_TASK_ID" = 3 ] || exit 5')
    done = planned(user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert job(user).attempt == 3
    assert "no file shows how far the run is" in done.stderr + done.stdout


def test_a_chain_whose_links_are_used_up_has_not_succeeded(user: User) -> None:
    write(user, steps=2, chain={"links": 3})
    done = planned(user)
    assert done.returncode == 1
    assert (job(user).state, job(user).attempt, reached(user)) == ("timeout", 3, 6)
    assert job(user).reason == "link 3 of 3 has ended before 8 was reached"
    again = user.run("monitor", "--session", "p", "--cmd", "restart")
    assert again.returncode == 0, again.stderr
    assert user.run("monitor", "--session", "p").returncode == 0
    assert (job(user).state, job(user).attempt, reached(user)) == ("success", 4, 8)


def test_the_same_failure_twice_without_progress_ends_a_chain_that_is_watched(user: User) -> None:
    write(user, steps=0, chain={"until": None, "progress_file": None})
    (folder(user) / "then").write_text("echo 'AssertionError: wrong shape' >&2; exit 1")
    assert planned(user).returncode == 1
    assert (job(user).state, job(user).attempt) == ("crash", 2)
    assert "2 attempts in a row failed in the same way" in job(user).reason


def test_the_budget_of_a_plan_is_that_of_all_links(user: User) -> None:
    write(user, scheduler="base", slurm={"sbatch": {"time": "02:00:00", "gpus_per_node": 4, "nodes": 2}})
    done = user.run("plan", "--config-ref", "./e.yaml", "--plan-id", "p", "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((user.home / "outputs" / "manifests" / "p.json").read_text())
    (planned_job,) = manifest["jobs"]
    assert planned_job["gpu_hours"] == 6 * 2 * 8
    assert planned_job["chain"]["until"] == 8
    assert planned_job["log_path"].endswith("%A_%a.out")
    script = (folder(user) / "job.sbatch").read_text()
    assert "#SBATCH --no-requeue" in script


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({"until": "backend.nosuch"}, "e.yaml"),
        ({"until": "backend.nosuch"}, "'backend.nosuch' is no key of the config with a number"),
        ({"progress_file": None}, "no file shows how far the run is"),
        ({"until": -5}, "$.job.chain.until): the goal -5 must be above 0 and below 1e+18"),
        ({"until": ".inf"}, "no key of the config with a number"),
        ({"until": "inf"}, "$.job.chain.until): the goal inf must be above 0 and below 1e+18"),
        ({"links": 0}, "$.job.chain.links): must be at least 1, not 0"),
        ({"linkz": 3}, "unknown key 'linkz'"),
    ],
)
def test_a_chain_that_can_not_be_is_an_error_with_its_place(user: User, chain: dict[str, Any], message: str) -> None:
    write(user, chain=chain)
    done = user.run("plan", "--config-ref", "./e.yaml")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_template_without_what_a_chain_needs_is_refused(user: User) -> None:
    (user.home / "own.template").write_text("#!/bin/bash\n{{directives}}\n{{env}}\n{{command}}\n")
    write(user, slurm={"template_path": str(user.home / "own.template")})
    done = user.run("plan", "--config-ref", "./e.yaml")
    assert done.returncode == 2
    assert "job.chain needs {{run}} in the template" in done.stderr


def test_a_megatron_chain_takes_its_goal_and_its_progress_from_the_arguments(user: User) -> None:
    (user.home / "m.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backend: megatron\n  - override /backend/megatron: 300M\n"
        "  - override /slurm: four_gpus\nproject: {name: m}\njob: {chain: {links: 4}}\n"
        "backend: {megatron: {train_iters: 5000, save: '${project.output_dir}/ck', save_interval: 100}}\n"
    )
    done = user.run("plan", "--config-ref", "./m.yaml", "--plan-id", "p")
    assert done.returncode == 0, done.stderr
    (planned_job,) = json.loads((user.home / "outputs" / "manifests" / "p.json").read_text())["jobs"]
    assert planned_job["chain"]["until"] == 5000
    assert planned_job["chain"]["progress_file"].endswith("/m/ck/latest_checkpointed_iteration.txt")


def test_the_run_of_the_page_on_chains_ends_after_its_third_link(user: User) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "chains.md").read_text()
    experiment = re.findall(r"```yaml\n(# @package _global_\n.*?)```", page, re.DOTALL)[0]
    (user.home / "counting.yaml").write_text(experiment)
    assert "python scripts/run_autoexp.py --config-ref ./counting.yaml" in page
    done = user.run("run", "--config-ref", "./counting.yaml", "--plan-id", "p", "monitoring.poll_interval_seconds=0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "counting: goes on with link 2 of 6" in done.stdout
    assert (job(user, "counting").state, job(user, "counting").attempt) == ("success", 3)
