"""Commands that are asked beside us: never waited for, again after a while, ended with all that they started."""

from __future__ import annotations

import errno
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.storage import world
from oellm_autoexp.storage.lock import process_started
from oellm_autoexp.storage.world import Outcome, Question, Subprocess


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_yes_comes_when_the_command_has_ended_well() -> None:
    question = Question(["true"], "/", 60)
    assert not question.under_way
    until(lambda: question.says_yes(0))


def test_a_no_is_told_and_asked_again_only_after_the_interval(tmp_path: Path) -> None:
    counter = f"echo x >> {shlex.quote(str(tmp_path / 'asked'))}; exit 3"
    question = Question(["sh", "-c", counter], "/", 60)
    until(lambda: not question.says_yes(0) and not question.under_way)
    assert question.answer == "not fulfilled (exit code 3); run again every 60 s"
    assert not question.says_yes(59)
    assert not question.under_way
    until(lambda: not question.says_yes(61) and not question.under_way)
    assert (tmp_path / "asked").read_text() == "x\nx\n"


def test_a_question_waits_for_nobody_and_is_ended_with_its_children(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {shlex.quote(str(tmp_path / 'child'))}; wait"
    question = Question(["sh", "-c", script], "/", 1)
    assert not question.says_yes(0)
    until(lambda: (tmp_path / "child").exists() and bool((tmp_path / "child").read_text()))
    assert not question.says_yes(599)
    assert question.under_way
    assert not question.says_yes(600)
    assert question.answer == "no result within 600 s"
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    until(lambda: not child.exists() or child.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_a_command_that_can_not_be_run_says_why() -> None:
    question = Question(["no such command"], "/", 60)
    assert not question.says_yes(0)
    assert question.answer == "can't be run: No such file or directory"


def test_a_clock_that_is_set_back_does_not_stop_the_asking(tmp_path: Path) -> None:
    question = Question(["sh", "-c", f"echo x >> {shlex.quote(str(tmp_path / 'asked'))}; exit 1"], "/", 60)
    for clock in (1000, 10):
        until(lambda clock=clock: not question.says_yes(clock) and not question.under_way)  # type: ignore[misc]
    assert (tmp_path / "asked").read_text() == "x\nx\n"


# ---- errands


def ended(errand: Subprocess) -> Outcome:
    until(lambda: errand.poll() is not None)
    outcome = errand.poll()
    assert outcome is not None
    return outcome


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("exit 0", Outcome(0, "")),
        ("exit 7", Outcome(7, "exit code 7")),
        ("kill -TERM $$", Outcome(143, "killed by SIGTERM")),
    ],
)
def test_an_errand_ends_with_its_exit_code_as_a_shell_sees_it(script: str, outcome: Outcome) -> None:
    assert ended(Subprocess(["sh", "-c", script], cwd="/")) == outcome


def test_an_errand_gets_its_text_environment_and_directory_and_leaves_its_output(tmp_path: Path) -> None:
    log = tmp_path / "new folder" / "log"
    for number in range(2):
        script = 'cat; echo "$PWD $OWN" >&2'
        errand = Subprocess(["sh", "-c", script], cwd=tmp_path, env={"OWN": "$(x)"}, log_path=log, text=f"ä{number}\n")
        assert ended(errand).code == 0
    assert log.read_text() == "".join(f"ä{number}\n{tmp_path} $(x)\n" for number in range(2))


def test_a_long_text_is_no_reason_to_wait(tmp_path: Path) -> None:
    errand = Subprocess(["sh", "-c", "sleep 0.2; wc -c"], cwd="/", log_path=tmp_path / "log", text="x" * 1_000_000)
    assert errand.poll() is None
    assert ended(errand).code == 0
    assert (tmp_path / "log").read_text().strip() == "1000000"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["no such program"], "can't be run: No such file or directory"),
        (["a\0b"], "can't be run: embedded null byte"),
        ([], "can't be run: no program is given"),
    ],
)
def test_an_errand_that_can_not_begin_says_why(words: list[str], why: str) -> None:
    errand = Subprocess(words, cwd="/")
    assert errand.poll() == Outcome(None, why)
    assert errand.pid is None
    errand.give_up()


def test_a_missing_directory_is_named() -> None:
    assert Subprocess(["true"], cwd="/no/where").poll() == Outcome(
        None, "can't be run: No such file or directory: /no/where"
    )


@pytest.mark.parametrize("script", ["sleep 1000", "trap '' TERM; sleep 1000 & wait; sleep 1000"])
def test_an_errand_that_takes_too_long_is_ended_with_its_children(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "_KILL_AFTER_SECONDS", 0.3)
    errand = Subprocess(["sh", "-c", f"sleep 1000 & echo $! > child; {script}"], cwd=tmp_path, timeout_seconds=0.3)
    assert ended(errand) == Outcome(None, "did not end within 0.3 s")
    child = int((tmp_path / "child").read_text())
    until(lambda: process_started(child) is None)


def test_an_errand_that_is_given_up_is_gone_with_its_children(tmp_path: Path) -> None:
    errand = Subprocess(["sh", "-c", "sleep 1000 & echo $! > child; wait"], cwd=tmp_path)
    until(lambda: (tmp_path / "child").exists() and bool((tmp_path / "child").read_text()))
    errand.give_up()
    assert errand.poll() == Outcome(None, "given up")
    child = int((tmp_path / "child").read_text())
    until(lambda: process_started(child) is None)


def test_a_question_that_the_machine_has_no_room_for_is_not_answered_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **more: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    question = Question(["true"], str(tmp_path), 60)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", full)
        assert not question.says_yes(0)
        assert (question.under_way, question.said) == (False, None)
    until(lambda: question.says_yes(1))
