"""What fails for a moment is tried again by a submission, with a word; what lasts is reported, and nothing is lost."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.cli.main import main
from oellm_autoexp.cli.steps import backoff
from oellm_autoexp.schedulers import fake
from oellm_autoexp.schedulers.fake import FakeScheduler
from tests.flow.conftest import User

pytestmark = pytest.mark.slow

JOBS = 4
COMMON = ("project=default", "slurm=fake")


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, FakeScheduler]:
    """A plan's manifest, and the scheduler that all submissions go to; pauses pass at once."""
    scheduler = FakeScheduler()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "outputs"))
    monkeypatch.setattr(fake, "FakeScheduler", lambda *_, **__: scheduler)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert main(["plan", "--plan-id", "K", *COMMON]) == 0
    return str(tmp_path / "outputs/manifests/K.json"), scheduler


def failing(first: int, times: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writes fail: from the one of that number on, so many."""
    count = 0

    def scarce(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *words: Any, **named: Any) -> Any:
            nonlocal count
            writes = function is not real_open or (words and words[0] & (os.O_WRONLY | os.O_RDWR))
            if writes and "outputs" in str(path):
                count += 1
                if first <= count < first + times:
                    raise OSError(code, os.strerror(code), str(path))
            return function(path, *words, **named)

        return call

    real_open = os.open
    for name in ("open", "replace", "link", "utime"):
        monkeypatch.setattr(os, name, scarce(getattr(os, name)))


@pytest.mark.parametrize("first", range(1, 40, 4))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ESTALE])
def test_a_moment_without_writes_costs_a_submission_a_moment_and_a_word(
    first: int, code: int, planned: tuple[str, FakeScheduler], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    manifest, scheduler = planned
    with monkeypatch.context() as patched:
        failing(first, 3, code, patched)
        assert main(["submit", "--no-monitor", "--manifest", manifest]) == 0
    reported = capsys.readouterr().err
    assert len(scheduler.submissions) == JOBS
    if first < 10:
        assert os.strerror(code) in reported
        assert "trying again in 0.5 s" in reported


def test_a_disk_that_stays_full_is_reported_and_the_next_submission_does_what_is_left(
    planned: tuple[str, FakeScheduler], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    manifest, scheduler = planned
    for first in (1, 8, 14, 20, 26):
        with monkeypatch.context() as patched:
            failing(first, 10_000, errno.EDQUOT, patched)
            with suppress(OSError):
                assert main(["submit", "--no-monitor", "--manifest", manifest]) in (0, 2)
        reported = capsys.readouterr().err
        tries = reported.count("trying again")  # of the submission and, where that is too late, of leaving the session
        assert tries % len(backoff.PAUSES_SECONDS) == 0
        assert tries or first > 20
        assert "Traceback" not in reported
    assert main(["submit", "--no-monitor", "--manifest", manifest]) == 0
    assert len(scheduler.submissions) == JOBS


@pytest.mark.parametrize("first", [2, 5, 9, 14, 20, 24])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_moment_without_writes_costs_a_plan_a_moment_and_a_word(
    first: int, code: int, planned: tuple[str, FakeScheduler], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with monkeypatch.context() as patched:
        failing(first, 2, code, patched)
        assert main(["plan", "--plan-id", "L", *COMMON]) == 0
    reported = capsys.readouterr().err
    assert "trying again in 0.5 s" in reported or first == 20  # a link, in whose place a copy does
    manifest = planned[0].replace("K.json", "L.json")
    assert main(["submit", "--no-monitor", "--manifest", manifest]) == 0


@pytest.mark.parametrize("command", ["submit", "status", "once"])
def test_a_moment_without_reads_costs_a_command_a_moment_and_a_word(
    command: str, planned: tuple[str, FakeScheduler], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    manifest, scheduler = planned
    words = {
        "submit": ["submit", "--no-monitor", "--manifest", manifest],
        "status": ["monitor", "--session", "K", "--cmd", "status"],
        "once": ["monitor", "--session", "K", "--once"],
    }[command]
    assert command == "submit" or main(["submit", "--no-monitor", "--manifest", manifest]) == 0
    opened = os.open
    read: set[str] = set()

    def stale_at_first(path: Any, flags: int, *more: Any, **named: Any) -> int:
        kind = Path(path).suffix  # of each kind of file the first one
        if kind in (".json", ".sbatch", ".journal") and not flags & (os.O_WRONLY | os.O_RDWR) and kind not in read:
            read.add(kind)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return opened(path, flags, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", stale_at_first)
        assert main(words) == 0
    assert ".json" in read
    assert capsys.readouterr().err.count("trying again in 0.5 s") >= 1
    assert len(scheduler.submissions) == JOBS


def test_what_does_not_pass_by_itself_is_reported_at_once(
    planned: tuple[str, FakeScheduler], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    manifest, scheduler = planned
    failing(1, 10_000, errno.EACCES, monkeypatch)
    assert main(["submit", "--no-monitor", "--manifest", manifest]) == 2
    assert "trying again" not in capsys.readouterr().err
    assert scheduler.submissions == []


def test_a_moved_output_root_is_named_with_the_old_place_the_new_one_and_what_to_do(user: User) -> None:
    assert user.run("run", "--no-monitor", "--plan-id", "K", *COMMON).returncode == 0
    assert user.run("plan", "--plan-id", "L", *COMMON).returncode == 0
    old, new = user.outputs, user.home / "moved"
    old.rename(new)
    manifest = str(new / "manifests/L.json")
    for words in (
        ["submit", "--no-monitor", "--manifest", manifest],
        ["submit", "--dry-run", "--manifest", manifest],
        ["monitor", "--manifest", manifest],
    ):
        result = user.run(*words)
        assert result.returncode == 2
        assert f"the plan was made in {old}" in result.stderr
        assert f"moved to {new}" in result.stderr
        assert "ln -s" in result.stderr
    watched = user.run("monitor", "--session", "K", "--monitoring-state-dir", str(new / "monitoring_state"))
    assert watched.returncode == 2
    assert f"was the output root {old} moved?" in watched.stderr
    entry = user.run("run_sweep_entry", "--sweep", str(new / "sweep.json"), "--index", "0")
    assert entry.returncode == 2
    assert "moved" in entry.stderr
    old.symlink_to(new)  # as the message says
    assert user.run("submit", "--no-monitor", "--manifest", manifest, "--dry-run").returncode == 0
