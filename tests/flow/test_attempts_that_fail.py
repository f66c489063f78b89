"""Why attempts failed, and how many follow: real failures of Megatron-LM on a GPU, printed again by a small program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slow

LOGS = Path(__file__).parents[1] / "real_logs"
REPLAY = Path(__file__).with_name("replay.py")
SAME_GPU = ("nan_first_exit16.log=16", "nan_same_gpu_exit16.log=16")
ASSERTION = ("crash_on_load_assertion.log=1",)
OUT_OF_MEMORY = ("cuda_oom.log=1",)
AT_ONCE = {"megatron_basic": 0, "megatron_production": 1}
"""The place of the restart among the actions of `crash`; it waits for a minute by default."""


def run(user: User, monitoring: str, *attempts: str, **config: Any) -> str:
    """Run a plan `p` of one job `a` that fails in this way at each attempt; returns what was said."""
    counter = str(user.home / "attempts")
    argv = [sys.executable, str(REPLAY), counter, *(str(LOGS / attempt) for attempt in attempts)]
    made = {
        "defaults": [
            {"override /backend": "command"},
            {"override /monitoring": monitoring},
            *config.pop("defaults", []),
        ],
        "project": {"name": "a"},
        "backend": {"argv": argv},
        **config,
    }
    (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(made)}")
    at_once = f"monitoring.state_events.crash.actions.{AT_ONCE[monitoring]}.cooldown_seconds=0"
    words = ("--config-ref", "./p.yaml", "--plan-id", "p", at_once, "monitoring.poll_interval_seconds=0.3")
    result = user.run("run", *words)
    assert result.returncode == 1, result.stderr
    return result.stdout


def job(user: User) -> JobState:
    return Session.load(SessionFiles.named(user.outputs / "monitoring_state", "p").path).jobs["a"]


def why(user: User, *words: str) -> dict[str, Any]:
    """What `--cmd why --json` shows."""
    result = user.run("monitor", "--cmd", "why", "--json", *words)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def category(job: JobState) -> str:
    assert job.run.cause is not None
    return job.run.cause.category


@pytest.mark.parametrize("monitoring", sorted(AT_ONCE))
def test_a_result_that_is_to_be_compared_on_another_gpu_is_given_up_where_there_is_no_other_node(
    user: User, monitoring: str
) -> None:
    said = run(user, monitoring, *SAME_GPU)
    ended = job(user)
    assert (ended.state, ended.attempt, category(ended)) == ("crash", 2, "nan")
    (node,) = ended.changes.excluded
    assert ended.run.cause is not None
    assert ended.run.cause.blamed_nodes == (node,)
    expected = f"no new attempt: it ran on {node} again, which was to be excluded; no other node can be had"
    assert ended.reason == expected
    assert "no other node can be had" in said
    assert [failure.cause.blamed_nodes for failure in ended.past.failures] == [(node,)]


@pytest.mark.parametrize("monitoring", sorted(AT_ONCE))
def test_a_deterministic_assertion_has_two_attempts_and_no_third(user: User, monitoring: str) -> None:
    said = run(user, monitoring, *ASSERTION)
    ended = job(user)
    assert (ended.state, ended.attempt) == ("crash", 2)
    assert ended.reason == "no new attempt: 2 attempts in a row failed in the same way"
    assert "2 attempts in a row failed in the same way" in said
    (group,) = why(user, "--session", "p")["failures"]
    assert (group["attempts"], group["jobs"]) == (2, [{"session": "p", "job": "a"}])
    assert group["line"] == "[rank0]: AssertionError"


@pytest.mark.parametrize(
    ("monitoring", "reason"),
    [
        ("megatron_basic", "no new attempt: 2 attempts in a row failed in the same way"),
        ("megatron_production", "NonZeroExitCode"),  # its rule asks for none
    ],
)
def test_a_bad_result_that_another_gpu_has_repeated_gets_no_third_attempt(
    user: User, monitoring: str, reason: str
) -> None:
    verdict = "Rank 0, node vm, device 0, iteration #4: Correct result (but possible Application error)"
    (user.home / "again.log").write_text(f"WARNING:megatron.core.rerun_state_machine:{verdict}\n")
    run(user, monitoring, SAME_GPU[0], f"{user.home}/again.log=17")
    ended = job(user)
    assert (ended.state, ended.attempt, category(ended)) == ("crash", 2, "nan")
    assert ended.reason == reason


@pytest.mark.parametrize(("monitoring", "attempts"), [("megatron_basic", 2), ("megatron_production", 1)])
def test_what_needs_more_memory_than_a_gpu_has_is_not_tried_for_long(
    user: User, monitoring: str, attempts: int
) -> None:
    run(user, monitoring, *OUT_OF_MEMORY)
    ended = job(user)
    assert (ended.attempt, category(ended)) == (attempts, "oom-gpu")


@pytest.mark.slurm
def test_a_result_that_is_to_be_compared_on_another_gpu_is_computed_on_another_node(
    slurm: Cluster, slurm_user: User
) -> None:
    run(slurm_user, "megatron_basic", *SAME_GPU, "success.log=3", defaults=[{"override /slurm": "base"}])
    ended = job(slurm_user)
    first, *_ = ended.past.failures
    (node,) = first.cause.blamed_nodes
    assert node in slurm.node_names
    assert node in ended.changes.excluded
    assert ended.answer.nodes not in ("", node)
    assert ended.attempt == 3
    assert len(ended.changes.excluded) == 2, "the second node was left out, too"


# ---------------------------------------------------------------------------------------------------------------------
# --cmd why


def test_failures_are_shown_by_their_causes_also_those_of_earlier_attempts_and_other_sessions(user: User) -> None:
    restart = {"class_name": "RestartAction", "max_attempts": 1}
    script = "import sys; assert sys.argv[1] != '3', 'too long'; open('/nowhere/corpus.bin')"
    made = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "a_${aux.number}"},
        "aux": {"number": 0},
        "backend": {"argv": [sys.executable, "-c", script, "${aux.number}"]},
        "monitoring": {"state_events": {"crash": {"actions": [restart]}}, "poll_interval_seconds": 0.2},
        "sweep": {"params": {"aux.number": [1, 2, 3]}},
    }
    (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(made)}")
    for plan in ("p", "q"):
        words = ("--plan-id", plan, f"project.name={plan}_${{aux.number}}")
        assert user.run("run", "--config-ref", "./p.yaml", *words).returncode == 1
    data, code = why(user)["failures"]
    assert (data["category"], len(data["jobs"]), data["attempts"], data["states"]) == ("data", 4, 8, {"crash": 4})
    assert (code["category"], len(code["jobs"]), code["attempts"]) == ("code", 2, 4)
    assert {row["session"] for row in data["jobs"]} == {"p", "q"}
    (one,) = why(user, "--session", "q", "--job", "*_3")["failures"]
    assert (one["fingerprint"], one["jobs"]) == (code["fingerprint"], [{"session": "q", "job": "q_3"}])
    assert len(why(user, "--lines", "1")["failures"]) == 1

    shown = user.run("monitor", "--session", "p", "--cmd", "why", "--lines", "1").stdout.splitlines()
    assert shown[0] == f"2 jobs, 4 attempts  data  {data['fingerprint']}  now 2 crash"
    assert shown[1].startswith("  FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/corpus.bin'")
    assert shown[2].startswith("  jobs p_")
    assert shown[3].startswith(f"  {user.outputs}/p_")
    assert shown[-2:] == [
        "6 failed attempts of 3 jobs, 2 kinds of failure",
        "… and 1 more kind (--lines N, --wide, --job NAME)",
    ]
    wrong = user.run("monitor", "--cmd", "why", "--job", "nobody")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no session has a job 'nobody'" in wrong.stderr


def test_where_nothing_failed_there_is_nothing_to_show(user: User) -> None:
    assert "no sessions" in user.run("monitor", "--cmd", "why").stdout
    assert why(user) == {"failures": [], "without_cause": []}


def test_why_a_program_failed_is_shown_of_its_logs_alone(user: User) -> None:
    result = user.run("monitor", "--cmd", "why", "--log", str(LOGS / "cuda_oom.log"))
    assert (result.returncode, result.stderr) == (0, "")
    first, *more = result.stdout.splitlines()
    assert first.startswith("cause: oom-gpu: ")
    assert "CUDA out of memory" in first
    assert "  rule: gpu_out_of_memory" in more
    (user.home / "main.log").write_text("starts\n")
    (user.home / "rank_7.log").write_text("RuntimeError: CUDA error: uncorrectable ECC error encountered\n")
    found = why(user, "--log", "main.log", "--log", "rank_7.log")["cause"]
    assert (found["category"], found["rank"], found["path"]) == ("gpu-hardware", 7, "rank_7.log")
    assert not user.outputs.exists()


def test_rules_of_a_config_are_tried_on_a_log(user: User) -> None:
    (user.home / "own.log").write_text("OUR-LICENCE-SERVER 17 is gone\n")
    rule = "{category: config, pattern: '^OUR-LICENCE-SERVER (\\d+)', says: 'no licence'}"
    (user.home / "own.yaml").write_text(
        f"# @package _global_\ndefaults: [{{override /backend: command}}]\nbackend: {{argv: [x]}}\n"
        f"monitoring: {{causes: {{licence: {rule}}}}}\n"
    )
    words = ("--log", "own.log")
    assert why(user, *words)["cause"]["category"] == "unknown"
    found = why(user, *words, "--config-ref", "./own.yaml")["cause"]
    assert (found["category"], found["rule"], found["text"]) == ("config", "licence", "no licence")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cmd", "why", "--log", "absent"], "can't read absent"),
        (["--cmd", "why", "--log", "."], "is a folder"),
        (["--cmd", "why", "a=b"], "key=value goes with --log FILE"),
        (["--cmd", "why", "--all", "--log", "x"], "--all does not go with --log"),
        (["--cmd", "why", "--failed"], "--failed goes with"),
        (["--cmd", "try", "--log", "x", "--log", "y"], "one log at a time"),
        (["--cmd", "status", "--log", "x"], "--log goes with --cmd try or why"),
    ],
)
def test_what_why_can_not_do_is_one_clear_error(user: User, words: list[str], told: str) -> None:
    result = user.run("monitor", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert told in result.stderr
