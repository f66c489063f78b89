"""What people see of jobs and actions that wait, for what, since when, until when; and how these are abandoned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User, until
from tests.flow.single import planned

pytestmark = pytest.mark.slow

STATE = Path("outputs", "monitoring_state")
SAVED = "  successfully saved checkpoint from iteration      20 to /ckpt"
"""Megatron's own line."""
MISSION: dict[str, Any] = {
    "log_events": [
        {
            "name": "checkpoint_saved",
            "pattern": r"saved checkpoint (?P<path>\S+)",
            "pattern_type": "regex",
            "metadata": {"kind": "checkpoint"},
            "extract_groups": {"checkpoint_path": "path"},
            "actions": [
                {
                    "class_name": "EventAction",
                    "mode": "queue",
                    "conditions": [
                        {"class_name": "FileExistsCondition", "path": "{checkpoint_path}", "blocking": True}
                    ],
                    "action": {"class_name": "RunCommandAction", "command": "echo {checkpoint_path}"},
                }
            ],
        }
    ]
}
LINE = re.compile(
    r"x: RunCommandAction of checkpoint_saved: waits for FileExists: from "
    r"\(since \d\d:\d\d:\d\d, until [\d: -]+, then skipped\)"
)


def session(user: User) -> Session:
    return Session.load(SessionFiles.named(user.home / STATE, "x").path)


@pytest.fixture
def waiting(user: User) -> User:
    """A session whose job has succeeded, and whose action waits for a file that does not come."""
    planned(user, "x", MISSION, argv=["echo", SAVED])
    until(lambda: user.run("monitor", "--session", "x", "--once") and session(user).jobs["x"].state == "success", "end")
    return user


def monitor(user: User, *words: str) -> tuple[int, str]:
    result = user.run("monitor", "--session", "x", *words)
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout + result.stderr


def test_an_action_that_waits_after_the_end_of_its_job_is_shown_wherever_people_look(waiting: User) -> None:
    _, status = monitor(waiting, "--cmd", "status")
    assert re.search(r"^x +success .*1 action waits", status, re.MULTILINE)
    assert "1 job: 1 success; 1 action waits" in status
    assert LINE.search(status)
    assert re.search(r"give actions up +\S.* --cmd skip$", status, re.MULTILINE)
    for words in (["--cmd", "queue"], ["--cmd", "events"], ["--cmd", "actions"], ["--once"]):
        reported = monitor(waiting, *words)[1]
        assert LINE.search(reported), reported
    assert "is empty: no action was put into it yet" in monitor(waiting, "--cmd", "queue")[1]
    assert "RunCommandAction: waiting (waits for FileExists: from, until" in monitor(waiting, "--cmd", "events")[1]
    for words in (["--cmd", "status"], ["--cmd", "queue"], ["--cmd", "events"], ["--once"]):
        (found,) = json.loads(monitor(waiting, *words, "--json")[1])["waiting"]
        assert found["until"] - found["since"] == 3600
        del found["since"], found["until"]
        assert found == {
            "job": "x",
            "kind": "action",
            "action": "RunCommandAction",
            "event": "checkpoint_saved",
            "reason": "waits for FileExists: from",
            "then": "skipped",
        }
    (row,) = json.loads(monitor(waiting, "--cmd", "events", "--json")[1])["events"]
    assert (row["actions"][0]["status"], row["actions"][0]["action"]) == ("waiting", "RunCommandAction")


def test_what_an_action_that_waits_keeps_people_from_names_it_and_the_command_that_gives_it_up(waiting: User) -> None:
    code, removed = monitor(waiting, "--cmd", "remove")
    assert code == 2
    assert "its jobs have ended, and actions wait" in removed
    assert LINE.search(removed)
    assert "--cmd skip" in removed
    again = waiting.run("run", "--config-ref", "./x.yaml", "--plan-id", "y")
    assert again.returncode == 2
    assert "x: RunCommandAction of checkpoint_saved: waits for FileExists: from" in again.stderr
    assert "--cmd skip" in again.stderr


@pytest.mark.parametrize(("command", "reason"), [("skip", "skipped by hand"), ("cancel", "cancelled by hand")])
def test_one_command_gives_up_what_waits_and_the_session_is_finished(waiting: User, command: str, reason: str) -> None:
    code, reported = monitor(waiting, "--cmd", command)
    assert code == 0
    assert f"x: RunCommandAction of checkpoint_saved: abandoned: {reason}" in reported
    assert ("ended: nothing" in reported) == (command == "cancel")
    assert session(waiting).finished
    assert f"RunCommandAction: skipped (abandoned: {reason})" in monitor(waiting, "--cmd", "events")[1]
    assert monitor(waiting, "--cmd", "remove")[0] == 0


def test_a_watch_that_waits_for_actions_alone_says_so_once_and_ends_when_they_are_given_up(waiting: User) -> None:
    watcher = waiting.start("monitor", "--session", "x")
    output = waiting.home / "output.txt"
    alone = "every job has ended: this waits for actions alone"
    until(lambda: alone in output.read_text(), "the watch to say so")
    asked = monitor(waiting, "--cmd", "skip")[1]
    assert re.search(rf"asked the process that watches the session \(.*\b{watcher.pid}\b.*\) to abandon", asked)
    assert watcher.wait() == 0
    reported = output.read_text()
    assert reported.count(alone) == 1
    assert len(LINE.findall(reported)) == 1
    assert "RunCommandAction of checkpoint_saved: abandoned: skipped by hand" in reported


def test_entries_that_no_worker_takes_are_shown_and_can_be_given_up(user: User) -> None:
    rules = {"log_events": {"seen": {"pattern": "LINE", "actions": [{"class_name": "EventAction", "mode": "queue"}]}}}
    rules["log_events"]["seen"]["actions"][0]["action"] = {"class_name": "RunCommandAction", "command": "true"}  # type: ignore[index]
    planned(user, "x", rules, argv=["echo", "LINE"])
    assert user.run("monitor", "--session", "x").returncode == 0
    status = monitor(user, "--cmd", "status")[1]
    assert "x: RunCommandAction of seen: in the queue, waits for a worker (--cmd actions) (since " in status
    assert "--cmd skip" in monitor(user, "--cmd", "remove")[1]
    (found,) = json.loads(monitor(user, "--cmd", "status", "--json")[1])["waiting"]
    assert (found["until"], found["kind"]) == (None, "action")
    assert "abandoned: 1 action" in monitor(user, "--cmd", "skip")[1]
    assert json.loads(monitor(user, "--cmd", "status", "--json")[1])["waiting"] == []
    assert monitor(user, "--cmd", "remove")[0] == 0


def test_a_job_that_waits_is_shown_with_the_time_at_which_it_is_given_up(user: User) -> None:
    condition = "job.start_conditions=[{class_name:FileExistsCondition,path:go,timeout_seconds:900}]"
    words = ("backend=command", "backend.argv=[echo,hi]", "project.name=x", condition)
    result = user.run("run", *words, "--plan-id", "x", "--no-monitor")
    assert result.returncode == 0, result.stderr
    status = monitor(user, "--cmd", "status")[1]
    assert re.search(r"^  x: waits for FileExists: go \(since .*, until .*, then cancelled\)$", status, re.MULTILINE)
    (found,) = json.loads(monitor(user, "--cmd", "events", "--json")[1])["waiting"]
    assert (found["kind"], found["until"] - found["since"], found["then"]) == ("job", 900, "cancelled")
    skipped = monitor(user, "--cmd", "skip")[1]
    assert "abandoned: 0 actions" in skipped
    assert re.search(r"^1 job still to be submitted; to cancel them: .* --cmd cancel$", skipped, re.MULTILINE)
    assert "x: waits for FileExists: go" in skipped
    monitor(user, "--cmd", "cancel")
