"""Chains on this machine: the same script, the same states, and what a plan says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.flow.chains import folder, job, overlapped, reached, write
from tests.flow.conftest import User, until


def planned(user: User, *words: str) -> Any:
    return user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p", *words)


@pytest.mark.slow
def test_a_chain_runs_to_its_goal_on_this_machine(user: User) -> None:
    write(user)
    done = planned(user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a: goes on with link 2 of 6" in done.stdout
    assert (job(user).state, job(user).attempt, reached(user)) == ("success", 3, 8)
    assert not overlapped(user)
    shown = user.run("monitor", "--session", "p", "--cmd", "status")
    assert "link 3 of 6" in shown.stdout


@pytest.mark.slow
def test_a_chain_without_a_goal_is_complete_with_its_first_link_that_ends_well(user: User) -> None:
    write(user, steps=20, chain={"until": None, "progress_file": None})
    (folder(user) / "then").write_text('[ "$SLURM_ARRAY_TASK_ID" = 3 ] || exit 5')
    done = planned(user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert job(user).attempt == 3
    assert "no file shows how far the run is" in done.stderr + done.stdout


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_chain_that_was_stopped_is_begun_again_once_its_stop_file_is_removed(user: User) -> None:
    write(user)
    (folder(user) / "then").write_text('touch "$folder/STOP"')
    assert planned(user).returncode == 1
    assert (job(user).state, job(user).attempt) == ("cancelled", 2)
    (folder(user) / "then").unlink()
    again = user.run("monitor", "--session", "p", "--cmd", "restart", "--job", "a")
    assert (again.returncode, job(user).attempt) == (2, 2)
    assert f"{folder(user) / 'STOP'}: a: no link of its chain begins while this file exists" in again.stderr
    (folder(user) / "STOP").unlink()
    assert user.run("monitor", "--session", "p", "--cmd", "restart", "--job", "a").returncode == 0
    assert user.run("monitor", "--session", "p").returncode == 0
    assert (job(user).state, reached(user)) == ("success", 8)


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
        "backend: {megatron: {train_iters: 5000, save_interval: 100, save: '${project.output_dir}/ck', "
        "load: '${backend.megatron.save}'}}\n"
    )
    done = user.run("plan", "--config-ref", "./m.yaml", "--plan-id", "p")
    assert done.returncode == 0, done.stderr
    (planned_job,) = json.loads((user.home / "outputs" / "manifests" / "p.json").read_text())["jobs"]
    assert planned_job["chain"]["until"] == 5000
    drawn = user.run("visualize_plan", "--manifest", "outputs/manifests/p.json")
    assert f"a chain of at most {planned_job['chain']['links']} links, until 5000 is reached" in drawn.stdout, drawn
    assert planned_job["chain"]["progress_file"].endswith("/m/ck/latest_checkpointed_iteration.txt")


@pytest.mark.parametrize(
    ("megatron", "message"),
    [
        ("load=null", "each link would begin anew: it loads from '', and saves to './outputs/m/checkpoints'"),
        ("load=/other/checkpoints", "each link would begin anew: it loads from '/other/checkpoints'"),
        ("finetune=true", "each link would begin at iteration 0 again"),
        ("ckpt_step=100", "each link would begin at iteration 100 again"),
    ],
)
def test_a_megatron_chain_whose_links_would_not_go_on_is_an_error(user: User, megatron: str, message: str) -> None:
    (user.home / "m.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backend: megatron\n  - override /backend/megatron: 300M\n"
        "  - override /slurm: four_gpus\nproject: {name: m}\njob: {chain: {links: 4}}\n"
        "backend: {megatron: {train_iters: 5000, save_interval: 100}}\n"
    )
    done = user.run("plan", "--config-ref", "./m.yaml", f"backend.megatron.{megatron}")
    assert done.returncode == 2
    assert message in done.stderr
    assert (
        user.run("plan", "--config-ref", "./m.yaml", f"backend.megatron.{megatron}", "job.chain.links=1").returncode
        == 0
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7.5", 7),
        ("8/10", 8),
        (" 8\r\n", 8),
        ("1e5", None),
        ("1.5e3", None),
        ("step 8", None),
        ("8k", None),
        ("9" * 19, None),
    ],
)
def test_a_progress_file_begins_with_its_number(user: User, text: str, number: int | None) -> None:
    write(user, steps=0, chain={"links": 1, "until": 100})
    (folder(user) / "checkpoint").write_text(text)
    (folder(user) / "then").write_text("true")
    planned(user)
    said = "no number" if number is None else number
    assert f"link 1 of 1 has ended at {said} of 100" in (folder(user) / "current.log").read_text()


def test_a_progress_file_that_is_no_file_holds_no_link_up(user: User) -> None:
    write(user, steps=0, chain={"links": 1, "progress_file": "/dev/zero"})
    assert planned(user).returncode == 1
    assert job(user).reason == "link 1 of 1 has ended before 8 was reached"


@pytest.mark.slow
def test_a_chain_that_must_begin_anew_is_refused_if_its_progress_file_is_there(user: User) -> None:
    write(user)
    (folder(user) / "checkpoint").write_text("8\n")
    refused = user.run("plan", "--config-ref", "./e.yaml", "project.resume=false")
    assert refused.returncode == 2
    assert "job a must start at the beginning" in refused.stderr
    noted = user.run("plan", "--config-ref", "./e.yaml")
    assert "1 job may continue from old checkpoints: a from" in noted.stderr + noted.stdout


@pytest.mark.slow
def test_a_chain_that_finds_its_goal_reached_says_nothing_of_how_long_a_run_takes(user: User) -> None:
    write(user)
    (folder(user) / "checkpoint").write_text("8\n")
    assert planned(user).returncode == 0
    assert "needs about" not in user.run("plan", "--config-ref", "./e.yaml").stdout


@pytest.mark.slow
@pytest.mark.parametrize("action", [None, {"class_name": "CancelAction"}], ids=["no rule", "a rule that cancels"])
def test_failures_of_early_links_do_not_end_a_chain_that_a_later_link_has_completed_meanwhile(
    user: User, action: dict[str, Any] | None
) -> None:
    event = {"name": "wrong", "pattern": "AssertionError", "actions": [action] if action else []}
    rules = {"poll_interval_seconds": 0.2, "log_events": [event]}
    write(user, steps=0, chain={"until": None, "progress_file": None}, monitoring=rules)
    fail = "{ echo 'AssertionError: wrong shape' >&2; exit 1; }"
    (folder(user) / "then").write_text(f'[ "$SLURM_ARRAY_TASK_ID" = 4 ] || {fail}')
    assert user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p", "--no-monitor").returncode == 0
    until(lambda: (folder(user) / "marks" / "chain.end").exists(), "the fourth link")
    done = user.run("monitor", "--session", "p")
    assert (done.returncode, job(user).state, job(user).attempt) == (0, "success", 4), done.stdout


@pytest.mark.slow
def test_time_limits_of_links_use_up_no_budget_of_a_rule_and_are_no_failures(user: User) -> None:
    again = {"class_name": "RestartAction", "max_attempts": 1}
    rules = {"poll_interval_seconds": 0.2, "state_events": {"limit": {"state": "timeout", "actions": [again]}}}
    write(user, steps=2, monitoring=rules)
    done = planned(user)
    assert (done.returncode, job(user).attempt) == (0, 4), done.stdout
    assert "limit" not in job(user).past.restarts
    shown = user.run("monitor", "--session", "p", "--cmd", "why")
    assert "the time limit was reached" not in shown.stdout


@pytest.mark.slow
def test_a_new_attempt_with_another_number_of_links_is_refused(user: User) -> None:
    write(user, steps=2, chain={"links": 2})
    assert planned(user).returncode == 1
    words = ("monitor", "--session", "p", "--cmd", "restart", "--override")
    for value in ("job.chain.links=9", "job.chain=null"):
        done = user.run(*words, value)
        assert done.returncode == 2
        assert "$.job.chain: a new attempt has the number of links of its plan" in done.stderr


@pytest.mark.parametrize("where", ["slurm.sbatch.requeue=true", "slurm.sbatch_extra_directives=[--requeue]"])
def test_links_that_slurm_may_requeue_are_noted(user: User, where: str) -> None:
    write(user)
    done = user.run("plan", "--config-ref", "./e.yaml", where)
    assert "a link that SLURM requeues may run after the next one" in done.stdout + done.stderr


def test_the_run_of_the_page_on_chains_ends_after_its_third_link(user: User) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "chains.md").read_text()
    experiment = re.findall(r"```yaml\n(# @package _global_\n.*?)```", page, re.DOTALL)[0]
    (user.home / "counting.yaml").write_text(experiment)
    assert "python scripts/run_autoexp.py --config-ref ./counting.yaml" in page
    done = user.run("run", "--config-ref", "./counting.yaml", "--plan-id", "p", "monitoring.poll_interval_seconds=0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "counting: goes on with link 2 of 6" in done.stdout
    assert (job(user, "counting").state, job(user, "counting").attempt) == ("success", 3)
