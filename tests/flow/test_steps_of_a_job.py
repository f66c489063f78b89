"""Restarts in the job on the local scheduler, as a monitor sees them: each step's lines and end are its own."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.flow.conftest import User
from tests.flow.single import command, on_crash, planned

pytestmark = pytest.mark.slow

COUNT = 'echo x >> runs; n=$(wc -l < runs); echo "run $n"; '
RULES: dict[str, Any] = {
    "poll_interval_seconds": 0.2,
    "log_events": {
        "memory": {"pattern": "CUDA out of memory", "state": "oom"},
        "hang": {"pattern": "it hangs", "state": "stall"},
    },
}


def experiment(user: User, then: str, slurm: dict[str, Any], monitoring: dict[str, Any] | None = None) -> list[str]:
    config = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "job"},
        "backend": {"argv": ["bash", "-c", f"{COUNT}{then}"]},
        "slurm": slurm,
        "monitoring": {**RULES, **(monitoring or {})},
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    return ["run", "--config-ref", "./e.yaml"]


def test_what_a_step_that_failed_has_written_is_not_true_of_the_job(user: User) -> None:
    fails = "[ $n -gt 2 ] || { echo 'CUDA out of memory'; exit 1; }; sleep 1"
    result = user.run(*experiment(user, fails.replace("{", "{{").replace("}", "}}"), {"restarts_in_job": 3}))
    assert result.returncode == 0, result.stdout + result.stderr
    job = user.session()["job"]
    assert (job["state"], job["attempt"], job["restarts"], job["verdict"], job["steps"]) == (
        "success",
        1,
        {"in job": 2},
        "",
        3,
    )
    assert job["events"]["memory"]["count"] == 2
    assert "job: restarted in the job: step 3 of 4 on " in result.stdout


@pytest.mark.parametrize("poll_interval_seconds", [0.2, 30.0])
def test_why_a_job_failed_is_concluded_from_its_last_step(user: User, poll_interval_seconds: float) -> None:
    fails = "[ $n = 1 ] && echo 'CUDA out of memory' || echo \"ModuleNotFoundError: No module named 'x'\"; exit 1"
    words = experiment(user, fails, {"restarts_in_job": 1}, {"poll_interval_seconds": poll_interval_seconds})
    result = user.run(*words)
    assert result.returncode == 1, result.stderr
    job = user.session()["job"]
    assert (job["state"], job["verdict"], job["restarts"]) == ("crash", "", {"in job": 1})
    assert "ModuleNotFoundError" in job["cause"]["text"]


def test_new_attempts_and_restarts_in_the_job_have_one_limit(user: User) -> None:
    restart = {"class_name": "RestartAction", "max_attempts": 3, "max_same_failures": None}
    monitoring = {"state_events": {"crash": {"actions": [restart]}}}
    assert user.run(*experiment(user, "exit 1", {"restarts_in_job": 1}, monitoring)).returncode == 1
    job = user.session()["job"]
    assert (job["attempt"], job["restarts"]) == (2, {"in job": 2, "crash": 1})
    assert "the limit for 'crash' is reached (3 of 3)" in " ".join(entry["message"] for entry in job["history"])


def test_a_failed_preflight_keeps_the_program_from_beginning(user: User) -> None:
    checks = ["scratch", {"command": ["sh", "-c", "echo no licence; exit 1"], "name": "licence"}]
    result = user.run(*experiment(user, "exit 0", {"preflight": checks, "spare_nodes": 1, "restarts_in_job": 1}))
    assert result.returncode == 1, result.stderr
    assert "slurm.spare_nodes has no effect" in result.stdout + result.stderr
    job = user.session()["job"]
    assert (job["state"], job["exit_code"], len(job["sick_nodes"])) == ("crash", 75, 1)
    assert job["cause"]["category"] == "node"
    assert job["cause"]["text"].startswith("0 nodes of the job pass slurm.preflight, and its program needs 1")
    log = (user.outputs / "job" / "current.log").read_text()
    assert "is left out: licence: no licence\n" in log
    assert "run 1" not in log


def test_a_log_rule_that_restarts_is_not_obeyed_for_a_step_that_was_begun_again(user: User) -> None:
    restart = {"class_name": "RestartAction"}
    rules = {"log_events": {"memory": {"pattern": "CUDA out of memory", "actions": [restart]}}}
    fails = "[ $n = 1 ] && echo 'CUDA out of memory' && exit 1; sleep 2"
    result = user.run(*experiment(user, fails, {"restarts_in_job": 1}, {**rules, "poll_interval_seconds": 1.0}))
    assert result.returncode == 0, result.stderr
    job = user.session()["job"]
    assert (job["state"], job["attempt"]) == ("success", 1)


def test_a_line_that_asks_for_a_new_attempt_leaves_the_script_time_to_begin_a_step(user: User) -> None:
    restart = {"class_name": "RestartAction"}
    rules = {"log_events": {"lost": {"pattern": "Node failure", "state": "node_fail", "actions": [restart]}}}
    fails = "[ $n = 1 ] && echo 'Node failure on n2' && sleep 2 && exit 1; sleep 1"
    result = user.run(*experiment(user, fails, {"restarts_in_job": 1}, rules))
    assert result.returncode == 0, result.stderr
    job = user.session()["job"]
    assert (job["state"], job["attempt"], job["restarts"]) == ("success", 1, {"in job": 1})


def test_the_last_step_is_followed_by_the_new_attempt_that_a_line_asks_for(user: User) -> None:
    restart = {"class_name": "RestartAction", "max_same_failures": None}
    rules = {"log_events": {"lost": {"pattern": "Node failure", "state": "node_fail", "actions": [restart]}}}
    fails = "[ $n -lt 3 ] && echo 'Node failure on n2' && sleep 1 && exit 1; sleep 1"
    result = user.run(*experiment(user, fails, {"restarts_in_job": 1}, rules))
    assert result.returncode == 0, result.stderr
    job = user.session()["job"]
    assert (job["state"], job["attempt"], job["restarts"]) == ("success", 2, {"in job": 1, "lost": 1})


def test_a_job_that_nobody_watched_is_seen_with_all_of_its_steps(user: User) -> None:
    monitoring = on_crash(command("echo $AUTOEXP_EVENT"), poll_interval_seconds=0.2)
    argv = ["bash", "-c", f"{COUNT}exit $((n < 3))"]
    planned(user, "job", monitoring, argv, slurm={"restarts_in_job": 2})
    assert user.run("monitor", "--session", "job").returncode == 0
    job = user.session()["job"]
    assert (job["state"], job["restarts"], job["steps"]) == ("success", {"in job": 2}, 3)
