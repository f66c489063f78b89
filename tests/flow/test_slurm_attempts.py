"""Later attempts on a real SLURM: their overrides are checked as a plan is, and a refusal for good ends the job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User, until
from tests.slurm.cluster import Cluster

STATE = Path("outputs", "monitoring_state")


def job(user: User) -> JobState:
    return Session.load(SessionFiles.named(user.home / STATE, "p").path).jobs["a"]


def run(user: User, script: str, monitoring: dict[str, Any], *words: str) -> tuple[int, str]:
    """Run a plan `p` of one job `a` with rules; the exit code, and what was said."""
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "a"},
        "backend": {"argv": ["sh", "-c", script]},
        "monitoring": {"poll_interval_seconds": 0.5, **monitoring},
    }
    (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    result = user.run("run", "--config-ref", "./p.yaml", "--plan-id", "p", *words)
    return result.returncode, result.stdout + result.stderr


def on_crash(overrides: dict[str, Any], **metadata: str) -> dict[str, Any]:
    action = {"class_name": "RestartAction", "overrides": overrides}
    notify = {"class_name": "LogAction", "message": "it crashed: {reason}"}
    return {"state_events": {"crash": {"metadata": metadata, "actions": [action, notify]}}}


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("slurm.sbatch.tme=3", "sbatch has no option --tme"),
        ("slurm.sbatch.partition=nosuch", "there is no partition 'nosuch'"),
        ("slurm.sbatch.time=soon", "soon"),
        ("slurm.sbatch.nodes=99", "asks for 99 nodes"),
    ],
)
def test_an_override_that_slurm_would_refuse_is_reported_before_a_new_attempt_is_asked_for(
    slurm_user: User, override: str, message: str
) -> None:
    assert run(slurm_user, "exit 3", {})[0] == 1
    refused = slurm_user.run("monitor", "--session", "p", "--cmd", "restart", "--override", override)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert message in refused.stderr
    assert not list((slurm_user.home / STATE / "p.requests").glob("*.json"))
    assert (job(slurm_user).state, job(slurm_user).attempt, job(slurm_user).restart) == ("crash", 1, None)


@pytest.mark.slurm
def test_a_node_that_the_cluster_does_not_have_is_reported_before_a_new_attempt_is_asked_for(
    slurm: Cluster, slurm_user: User
) -> None:
    first, second, *_ = slurm.node_names
    assert run(slurm_user, "exit 3", {})[0] == 1
    words = ("monitor", "--session", "p", "--cmd", "restart", "--exclude")
    refused = slurm_user.run(*words, f"{first},nosuch")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "there is no node 'nosuch'" in refused.stderr
    assert slurm_user.run(*words, f"{first} {second}").returncode == 0
    assert slurm_user.run("monitor", "--session", "p").returncode == 1
    assert (job(slurm_user).attempt, job(slurm_user).changes.excluded) == (2, (first, second))


@pytest.mark.slurm
def test_a_later_attempt_that_slurm_refuses_for_good_ends_the_job_and_a_better_override_begins_it_anew(
    slurm_user: User,
) -> None:
    code, said = run(slurm_user, "exit 3", on_crash({"slurm.sbatch.gres": "gpu:99"}))
    assert code == 1, said
    reported = job(slurm_user)
    assert (reported.state, reported.failed, reported.over) == ("crash", True, True)
    assert "Requested node configuration is not available" in reported.reason
    assert said.count("it crashed: ") == 2, "its end is an event as any other, which begins no attempt"
    assert "no new attempt: the last one was finally refused" in said

    words = ("monitor", "--session", "p", "--cmd", "restart", "--override")
    tested = slurm_user.run(*words, "slurm.sbatch.gres=gpu:98", "--check")
    assert tested.returncode == 2
    assert "sbatch --test-only: " in tested.stderr
    begun = slurm_user.run(*words[:-1])  # what was refused is no part of it
    assert begun.returncode == 0, begun.stderr
    until(lambda: job(slurm_user).newest.scheduler_id, "the new attempt in the queue")
    assert (job(slurm_user).changes.overrides, job(slurm_user).changes.script_path) == ({}, ""), "the plan's own script"
    slurm_user.run("monitor", "--session", "p", "--cmd", "cancel")


@pytest.mark.slurm
def test_a_restart_by_hand_that_slurm_refuses_says_so(slurm_user: User) -> None:
    assert run(slurm_user, "exit 3", {})[0] == 1
    words = ("monitor", "--session", "p", "--cmd", "restart", "--override", "slurm.sbatch.constraint=nosuch")
    refused = slurm_user.run(*words)
    assert refused.returncode == 1
    assert "a: refused: sbatch: " in refused.stdout
    assert "to begin anew: nothing" in refused.stdout
    assert job(slurm_user).state == "crash"


@pytest.mark.slurm
@pytest.mark.parametrize("words", [(), ("--check",)])
def test_overrides_of_rules_are_checked_with_the_plan(slurm_user: User, words: tuple[str, ...]) -> None:
    gres = {"slurm.sbatch.gres": "gpu:99"} if words else {"slurm.sbatch.partition": "nosuch"}
    code, said = run(slurm_user, "true", on_crash(gres), *words)
    assert code == 2
    assert "monitoring.state_events.crash.actions[0].overrides" in said or "p.yaml:" in said
    assert ("sbatch --test-only: " if words else "there is no partition 'nosuch'") in said
    assert not (slurm_user.home / STATE).exists()
    assert not list(slurm_user.outputs.rglob(".attempt*"))


@pytest.mark.slurm
def test_overrides_that_an_event_fills_in_are_checked_before_the_old_attempt_is_ended(slurm_user: User) -> None:
    restart = {"class_name": "RestartAction", "overrides": {"slurm.sbatch.partition": "{where}"}}
    rules = {"log_events": {"moved": {"pattern": "GO (?P<where>.*)", "actions": [restart]}}}
    code, said = run(slurm_user, "echo GO nosuch; sleep 2; echo end", rules)
    assert code == 0, said
    assert re.search("RestartAction for moved failed: .*there is no partition 'nosuch'", said)
    assert (job(slurm_user).state, job(slurm_user).attempt) == ("success", 1)


@pytest.mark.slurm
def test_a_first_submission_that_was_refused_can_be_begun_with_a_better_override(slurm_user: User) -> None:
    code, said = run(slurm_user, "true", {}, "slurm.sbatch.gres=gpu:9")
    assert code == 3, said
    assert job(slurm_user).state == "waiting"
    words = ("monitor", "--session", "p", "--cmd", "restart", "--override", "slurm.sbatch.gres=gpu:1")
    begun = slurm_user.run(*words)
    assert begun.returncode == 0, begun.stderr
    assert slurm_user.run("monitor", "--session", "p").returncode == 0
    assert (job(slurm_user).state, job(slurm_user).attempt) == ("success", 1)


@pytest.mark.slurm
def test_a_reservation_that_does_not_exist_ends_the_job_with_slurms_words(slurm_user: User) -> None:
    code, reported = run(slurm_user, "exit 3", on_crash({"slurm.sbatch.reservation": "nosuch"}))
    assert code == 1
    assert "a: not submitted: sbatch: Batch job submission failed: Requested reservation is invalid" in reported
    assert "waits for" not in reported
    assert "Requested reservation is invalid" in job(slurm_user).reason


@pytest.mark.slurm
def test_why_a_new_attempt_of_a_job_that_ran_could_not_be_made_is_in_every_place_that_tells_of_it(
    slurm_user: User,
) -> None:
    action = {"class_name": "RestartAction", "overrides": {"slurm.sbatch.partition": "{where}"}}
    rules = {"log_events": {"moved": {"pattern": r"go to (?P<where>\w+)", "actions": [action]}}}
    why = "no new attempt: there is no partition 'nosuch'"
    code, reported = run(slurm_user, "echo go to nosuch; sleep 1; exit 3", rules)
    assert (code, f"exit 3: its log ends with: go to nosuch; {why}" in " ".join(reported.split())) == (1, True), (
        reported
    )
    for words in (("status", "--wide"), ("tail", "--failed"), ("status", "--json")):
        assert why in slurm_user.run("monitor", "--session", "p", "--cmd", *words).stdout
