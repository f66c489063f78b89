"""200 failures are a few messages, and none is lost: by monitors that look, are killed, and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.engine.executing.digest import MOST_AT_ONCE
from oellm_autoexp.session import requests
from oellm_autoexp.session.event_log import Result
from tests.unit.test_executor import CRASH, FOREVER, LONG, Life, Stage, log, on_line, on_state, restart

KEEPS = ["sh", "-c", "cat > $(mktemp sent.XXXXXX)"]


def notify(**more: Any) -> dict[str, Any]:
    return {"class_name": "NotifyAction", "message": "{name} ended with {exit_code}", "command": KEEPS, **more}


def reported(folder: Path) -> list[str]:
    """The messages that were sent, oldest first."""
    return [path.read_text() for path in sorted(folder.glob("sent.*"), key=lambda path: path.stat().st_mtime_ns)]


def count(messages: list[str]) -> int:
    """How many messages these stand for."""
    return sum(int(text.split(" messages of ")[0]) if " messages of " in text else 1 for text in messages)


def fails_after(looks: int) -> list[Life]:
    return [(("PENDING", *["RUNNING"] * looks, JobStatus("FAILED", exit_code=looks)), "")]


def test_what_fails_at_one_look_is_reported_in_one_message(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(notify()), {f"j{number}": fails_after(1) for number in range(3)})
    stage.finish()
    assert reported(tmp_path) == [
        "3 messages of 'crash' (plan p):\n- j0 ended with 1\n- j1 ended with 1\n- j2 ended with 1"
    ]
    assert {result.message for result in stage.results} == {"in one message with 2 others"}
    assert all(result.status == "done" for result in stage.results)


def test_a_single_message_is_reported_at_once_as_it_is(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(notify()), {"a": fails_after(1), "b": [FOREVER]})
    stage.until(lambda: bool(stage.results))
    assert reported(tmp_path) == ["a ended with 1"]
    assert stage.results[0].message == ""


@pytest.mark.slow
def test_200_failures_that_come_one_by_one_are_a_handful_of_messages_and_none_is_lost(tmp_path: Path) -> None:
    lives = {f"j{number:03}": fails_after(number // 4) for number in range(200)}  # 500 s, four at each look
    stage = Stage(tmp_path, on_state(notify()), lives)
    stage.finish(400)
    messages = reported(tmp_path)
    assert count(messages) == 200
    assert 2 <= len(messages) <= 8
    assert messages[0].startswith("4 messages of 'crash'")
    longest = max(messages, key=len)
    assert "more, of j" in longest
    assert len(longest.splitlines()) == 22
    assert {result.status for result in stage.results} == {"done"}
    assert len(stage.results) == 200


def test_a_message_says_what_was_true_when_its_event_came(tmp_path: Path) -> None:
    rules = on_state(notify(), restart(max_attempts=1))
    stage = Stage(tmp_path, rules, {"a": fails_after(1), "b": [*fails_after(2), FOREVER]})
    stage.until(lambda: stage.jobs["b"].attempt == 2 and stage.jobs["b"].state == "running")
    assert stage.jobs["b"].actions.pending[0].reason == "collected, to be sent together with others"
    stage.until(lambda: len(stage.results) == 6)  # two of each of two attempts of a, and of one of b
    assert "b ended with 2" in "".join(reported(tmp_path))


def test_what_was_collected_survives_a_monitor_that_is_killed(tmp_path: Path) -> None:
    lives = {"a": fails_after(1), "b": fails_after(3), "c": fails_after(3), "d": [FOREVER]}
    stage = Stage(tmp_path, on_state(notify()), lives)
    stage.until(lambda: stage.jobs["c"].state == "crash" and len(stage.results) == 1)
    assert reported(tmp_path) == ["a ended with 1"]
    stage.resumed()
    stage.until(lambda: len(stage.results) == 3)
    assert reported(tmp_path)[1:] == ["2 messages of 'crash' (plan p):\n- b ended with 3\n- c ended with 3"]


def test_a_message_whose_sending_was_interrupted_is_reported_again(tmp_path: Path) -> None:
    slow = ["sh", "-c", "cat > $(mktemp sent.XXXXXX); [ -e go ] || sleep 60"]
    stage = Stage(tmp_path, on_state(notify(command=slow)), {"a": fails_after(1)})
    stage.until(lambda: len(reported(tmp_path)) == 1)
    stage.monitor.close()
    (tmp_path / "go").touch()
    stage.resumed()
    stage.finish()
    assert reported(tmp_path) == ["a ended with 1"] * 2
    assert [result.status for result in stage.results] == ["done"]


def test_when_every_job_has_ended_nothing_is_waited_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(notify(digest_seconds=1e6)), {"a": fails_after(1), "b": fails_after(4)})
    stage.finish()
    assert reported(tmp_path) == ["a ended with 1", "b ended with 4"]
    assert stage.clock < 1500


def test_without_a_digest_each_message_goes_by_itself_and_a_few_at_once(tmp_path: Path) -> None:
    number = MOST_AT_ONCE + 3
    lives = {f"j{index}": fails_after(1) for index in range(number)}
    stage = Stage(tmp_path, on_state(notify(digest_seconds=0)), lives)
    while not any(job.state == "crash" for job in stage.jobs.values()):
        stage.cycle()
    assert stage.monitor.executor.at_capacity
    stage.finish()
    assert sorted(reported(tmp_path)) == sorted(f"j{index} ended with 1" for index in range(number))


def test_messages_of_other_rules_and_in_other_ways_go_by_themselves(tmp_path: Path) -> None:
    mine = [*KEEPS, "{name}"]
    rules = {"state_events": {"crash": {"actions": [notify(command=mine)]}, "timeout": {"actions": [notify()]}}}
    lives: dict[str, list[Life]] = {
        "a": fails_after(1),
        "b": fails_after(1),
        "c": [(("PENDING", "RUNNING", "TIMEOUT"), "")],
    }
    stage = Stage(tmp_path, rules, lives)
    stage.finish()
    assert len(reported(tmp_path)) == 3


def test_a_failure_of_many_messages_is_reported_once_with_its_reason_and_noted_of_each(tmp_path: Path) -> None:
    broken = ["sh", "-c", "echo 'no route' >&2; exit 3"]
    lives = {f"j{index}": fails_after(1) for index in range(20)}
    stage = Stage(tmp_path, on_state(notify(command=broken)), lives)
    stage.finish()
    assert [line for line in stage.messages if "NotifyAction" in line] == [
        "j0: NotifyAction for crash failed: exit code 3: no route"
    ]
    assert [result.status for result in stage.results] == ["failed"] * 20


def test_a_program_that_never_ends_holds_up_neither_the_looks_nor_other_rules(tmp_path: Path) -> None:
    hangs = notify(command=["sleep", "60"], timeout_seconds=0.2)
    rules = {"state_events": {"crash": {"actions": [hangs, log("crashed"), restart(max_attempts=1)]}}}
    stage = Stage(tmp_path, rules, {"a": [CRASH, (LONG, "")], "b": [FOREVER]})
    stage.until(lambda: stage.a.attempt == 2)
    assert "a: crashed" in stage.messages
    stage.until(lambda: any(isinstance(entry, Result) and entry.status == "failed" for entry in stage.results))
    assert any("did not end within 0.2 s" in line for line in stage.messages)


def test_what_is_collected_is_given_up_with_the_rest_and_what_is_being_sent_is_not(tmp_path: Path) -> None:
    slow = notify(command=["sh", "-c", "until [ -e go ]; do sleep 0.02; done"])
    stage = Stage(tmp_path, on_line(slow), {"a": [(LONG, "LINE 1\n")]})
    stage.until(lambda: bool(stage.a.actions.pending))
    stage.write("a", "LINE 2\nLINE 3\n")
    stage.cycle(2)
    assert len(stage.a.actions.pending) == 3
    requests.ask(stage.path, requests.Request(id="s", kind="skip", job="a", attempt=1, at=1.0))
    stage.cycle()
    assert len(stage.a.actions.pending) == 1
    (tmp_path / "go").touch()
    stage.until(lambda: not stage.a.actions.pending)
    assert sorted(result.status for result in stage.results) == ["done", "skipped", "skipped"]


def test_a_clock_that_is_set_back_makes_no_message_wait(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_line(notify(message="{what}")), {"a": [(LONG, "LINE 1\n")]})
    stage.until(lambda: len(stage.results) == 1)
    stage.clock -= 1e6
    stage.write("a", "LINE 2\n")
    stage.until(lambda: len(stage.results) == 2)
    assert reported(tmp_path) == ["1", "2"]


@pytest.mark.parametrize("secret", ["HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz012345"])
def test_a_message_that_waits_holds_its_secrets_back_from_the_session(tmp_path: Path, secret: str) -> None:
    stage = Stage(tmp_path, on_line(notify(message="{what}")), {"a": [(LONG, "LINE 1\n")]})
    stage.until(lambda: len(stage.results) == 1)
    stage.write("a", f"LINE {secret}\nLINE x\n")
    stage.cycle(2)
    assert "filled" in json.dumps(json.loads(stage.path.read_text()))
    assert "hf_abc" not in stage.path.read_text()
    stage.until(lambda: len(stage.results) == 3)
    assert "hf_abc" not in "".join(reported(tmp_path))
