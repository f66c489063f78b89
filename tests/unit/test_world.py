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
from oellm_autoexp.storage.world import Check, Outcome, Subprocess


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_yes_comes_when_the_command_has_ended_well() -> None:
    check = Check(["true"], "/", 60)
    assert not check.in_progress
    until(lambda: check.says_yes(0))


def test_a_no_is_reported_and_asked_again_only_after_the_interval(tmp_path: Path) -> None:
    counter = f"echo x >> {shlex.quote(str(tmp_path / 'asked'))}; exit 3"
    check = Check(["sh", "-c", counter], "/", 60)
    until(lambda: not check.says_yes(0) and not check.in_progress)
    assert check.answer == "not fulfilled (exit code 3); run again every 60 s"
    assert not check.says_yes(59)
    assert not check.in_progress
    until(lambda: not check.says_yes(61) and not check.in_progress)
    assert (tmp_path / "asked").read_text() == "x\nx\n"


def test_a_check_waits_for_nobody_and_is_ended_with_its_children(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {shlex.quote(str(tmp_path / 'child'))}; wait"
    check = Check(["sh", "-c", script], "/", 1)
    assert not check.says_yes(0)
    until(lambda: (tmp_path / "child").exists() and bool((tmp_path / "child").read_text()))
    assert not check.says_yes(599)
    assert check.in_progress
    assert not check.says_yes(600)
    assert check.answer == "no result within 600 s"
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    until(lambda: not child.exists() or child.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_a_command_that_can_not_be_run_says_why() -> None:
    check = Check(["no such command"], "/", 60)
    assert not check.says_yes(0)
    assert check.answer == "can't be run: No such file or directory"


def test_a_clock_that_is_set_back_does_not_stop_the_asking(tmp_path: Path) -> None:
    check = Check(["sh", "-c", f"echo x >> {shlex.quote(str(tmp_path / 'asked'))}; exit 1"], "/", 60)
    for clock in (1000, 10):
        until(lambda clock=clock: not check.says_yes(clock) and not check.in_progress)  # type: ignore[misc]
    assert (tmp_path / "asked").read_text() == "x\nx\n"


# ---- subprocesses


def ended(program: Subprocess) -> Outcome:
    until(lambda: program.poll() is not None)
    outcome = program.poll()
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
def test_a_subprocess_ends_with_its_exit_code_as_a_shell_sees_it(script: str, outcome: Outcome) -> None:
    assert ended(Subprocess(["sh", "-c", script], cwd="/")) == outcome


def test_a_subprocess_gets_its_text_environment_and_directory_and_leaves_its_output(tmp_path: Path) -> None:
    log = tmp_path / "new folder" / "log"
    for number in range(2):
        script = 'cat; echo "$PWD $OWN" >&2'
        program = Subprocess(["sh", "-c", script], cwd=tmp_path, env={"OWN": "$(x)"}, log_path=log, text=f"ä{number}\n")
        assert ended(program).code == 0
    assert log.read_text() == "".join(f"ä{number}\n{tmp_path} $(x)\n" for number in range(2))


def test_a_long_text_is_no_reason_to_wait(tmp_path: Path) -> None:
    program = Subprocess(["sh", "-c", "sleep 0.2; wc -c"], cwd="/", log_path=tmp_path / "log", text="x" * 1_000_000)
    assert program.poll() is None
    assert ended(program).code == 0
    assert (tmp_path / "log").read_text().strip() == "1000000"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["no such program"], "can't be run: No such file or directory"),
        (["a\0b"], "can't be run: embedded null byte"),
        ([], "can't be run: no program is given"),
    ],
)
def test_a_subprocess_that_can_not_begin_says_why(words: list[str], why: str) -> None:
    program = Subprocess(words, cwd="/")
    assert program.poll() == Outcome(None, why)
    assert program.pid is None
    program.give_up()


def test_a_missing_directory_is_named() -> None:
    assert Subprocess(["true"], cwd="/no/where").poll() == Outcome(
        None, "can't be run: No such file or directory: /no/where"
    )


@pytest.mark.parametrize("script", ["sleep 1000", "trap '' TERM; sleep 1000 & wait; sleep 1000"])
def test_a_subprocess_that_takes_too_long_is_ended_with_its_children(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "_KILL_AFTER_SECONDS", 0.3)
    program = Subprocess(["sh", "-c", f"sleep 1000 & echo $! > child; {script}"], cwd=tmp_path, timeout_seconds=0.3)
    assert ended(program) == Outcome(None, "did not end within 0.3 s")
    child = int((tmp_path / "child").read_text())
    until(lambda: process_started(child) is None)


def test_a_subprocess_that_is_given_up_is_gone_with_its_children(tmp_path: Path) -> None:
    program = Subprocess(["sh", "-c", "sleep 1000 & echo $! > child; wait"], cwd=tmp_path)
    until(lambda: (tmp_path / "child").exists() and bool((tmp_path / "child").read_text()))
    program.give_up()
    assert program.poll() == Outcome(None, "given up")
    child = int((tmp_path / "child").read_text())
    until(lambda: process_started(child) is None)


def test_a_check_that_the_machine_has_no_room_for_is_not_answered_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **more: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    check = Check(["true"], str(tmp_path), 60)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", full)
        assert not check.says_yes(0)
        assert (check.in_progress, check.said) == (False, None)
    until(lambda: check.says_yes(1))
