"""monitor --once, as cron calls it: one look, and what that starts is carried out before the process ends."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.session.session import Session
from tests.flow.conftest import User, until
from tests.flow.single import command, on_crash, planned

pytestmark = pytest.mark.slow

MARK = "echo began >> marks; sleep 2; echo ended >> marks"


def job(user: User, plan: str) -> Any:
    (found,) = Session.load(user.outputs / "monitoring_state" / f"{plan}.json").jobs.values()
    return found


WAYS = pytest.mark.parametrize("words", [("--session", "x"), ("--all",)], ids=["session", "all"])


@WAYS
def test_a_program_that_takes_seconds_is_run_once_and_to_its_end(user: User, words: tuple[str, ...]) -> None:
    planned(user, "x", on_crash(command(MARK)))
    first = user.run("monitor", *words, "--once")
    assert (user.home / "marks").read_text() == "began\nended\n", first.stdout + first.stderr
    assert first.returncode == 1, "its job has failed"
    assert job(user, "x").over
    user.run("monitor", *words, "--once")
    assert (user.home / "marks").read_text() == "began\nended\n"


@WAYS
def test_a_restart_that_a_command_has_to_allow_is_submitted_in_the_same_cycle(
    user: User, words: tuple[str, ...]
) -> None:
    restart = {"class_name": "RestartAction", "max_attempts": 1}
    allowed = {"class_name": "EventAction", "conditions": [{"class_name": "CommandCondition", "command": "sleep 1"}]}
    rules = on_crash({**allowed, "action": restart}, termination_command=["sh", "-c", "sleep 1; exit 1"])
    planned(user, "x", rules)
    result = user.run("monitor", *words, "--once")
    assert result.returncode == 0, result.stderr
    assert job(user, "x").attempt == 2


@WAYS
def test_the_time_between_single_looks_counts(user: User, words: tuple[str, ...]) -> None:
    (user.home / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /backend: command]\nproject: {name: x}\n"
        "backend: {argv: [sleep, '600']}\nmonitoring:\n  inactivity_threshold_seconds: 1\n"
        "  state_events: {stall: {actions: [{class_name: CancelAction}]}}\n"
    )
    assert user.run("run", "--config-ref", "./x.yaml", "--plan-id", "x", "--no-monitor").returncode == 0
    until(lambda: user.run("monitor", *words, "--once") and job(user, "x").over, "the job to be ended as it is silent")
    assert job(user, "x").state == "stall"


def test_a_command_that_says_no_again_and_again_is_waited_for_once(user: User) -> None:
    never = {"class_name": "CommandCondition", "command": ["sh", "-c", "sleep 0.3; exit 1"], "interval_seconds": 0.1}
    rules = on_crash({"class_name": "EventAction", "conditions": [{**never, "blocking": True}], "action": command("")})
    planned(user, "x", rules)
    result = user.run("monitor", "--session", "x", "--once")
    assert result.returncode == 0, result.stderr
    assert not job(user, "x").over, "the action still waits"


def test_what_is_waited_for_is_said_and_an_end_from_outside_leaves_no_program_behind(user: User) -> None:
    planned(user, "x", on_crash(command("echo $$ > pid; exec sleep 1000")))
    monitor = user.start("monitor", "--session", "x", "--once")
    output = user.home / "output.txt"
    until(lambda: "crash of x" in output.read_text(), "word of what is waited for")
    monitor.send_signal(signal.SIGTERM)
    assert monitor.wait() == 130
    pid = int((user.home / "pid").read_text())
    until(lambda: not Path(f"/proc/{pid}/cwd").exists(), "the program's end")
    assert not job(user, "x").over


def test_sessions_that_have_nothing_under_way_are_free_while_another_ones_program_runs(user: User) -> None:
    planned(user, "slow", on_crash(command("while ! [ -e go ]; do sleep 0.1; done")))
    planned(user, "quick", {}, argv=["sh", "-c", "sleep 0.1"])
    monitor = user.start("monitor", "--all", "--once")
    state = user.outputs / "monitoring_state"
    until(lambda: job(user, "quick").state == "success" and not (state / "quick.lease").exists(), "the quick one")
    assert (state / "slow.lease").exists()
    (user.home / "go").touch()
    assert monitor.wait() == 1
    assert job(user, "slow").over
