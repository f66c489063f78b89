"""The session on disk: what was saved lasts, what was cut by a crash does no harm."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.errors import ConfigError, CorruptError
from oellm_autoexp.monitor import inbox
from oellm_autoexp.monitor.progress import Progress, read
from oellm_autoexp.monitor.session import Session, all_sessions, find_session
from oellm_autoexp.monitor.tracked import TrackedJob


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = Session(tmp_path / "p.json", "p", tmp_path / "m.json", {n: TrackedJob(name=n) for n in "ab"}, 0)
    made.snapshot()
    return made


def states(path: Path) -> dict[str, str]:
    return {name: job.state for name, job in Session.load(path).jobs.items()}


def change(session: Session, name: str, state: str) -> None:
    session.put(session.jobs[name].model_copy(update={"state": state}))


def test_journalled_changes_are_there_after_a_crash(session: Session) -> None:
    change(session, "a", "pending")
    session.journal()
    assert states(session.path) == {"a": "pending", "b": "waiting"}


def test_a_line_cut_by_a_crash_is_left_out_and_what_is_written_after_it_is_not_lost(session: Session) -> None:
    change(session, "a", "pending")
    session.journal()
    with session.path.with_suffix(".journal").open("ab") as file:
        file.write(b'{"serial": 9, "job": {"name": "b", "sta')
    resumed = Session.load(session.path)
    change(resumed, "b", "submitting")
    resumed.journal()
    assert states(session.path) == {"a": "pending", "b": "submitting"}


def test_a_journal_older_than_the_snapshot_changes_nothing(session: Session) -> None:
    change(session, "a", "pending")
    session.journal()
    old = session.path.with_suffix(".journal").read_bytes()
    change(session, "a", "running")
    session.snapshot()
    session.path.with_suffix(".journal").write_bytes(old)  # as if the crash came before it was removed
    assert states(session.path)["a"] == "running"


def test_a_broken_line_inside_the_journal_is_named(session: Session) -> None:
    session.path.with_suffix(".journal").write_text("garbage\n")
    with pytest.raises(CorruptError, match=r"p\.journal:1"):
        Session.load(session.path)


def test_the_snapshot_is_json_that_names_the_manifest(session: Session) -> None:
    data = json.loads(session.path.read_text())
    assert data["manifest_path"].endswith("m.json")
    assert set(data["jobs"]) == {"a", "b"}


def test_a_session_is_found_by_the_beginning_of_its_id(session: Session, tmp_path: Path) -> None:
    assert find_session(tmp_path, "p") == session.path
    (tmp_path / "other-2.json").write_text("{}")
    (tmp_path / "other-1.json").write_text("{}")
    with pytest.raises(ConfigError, match="several sessions begin with 'other'"):
        find_session(tmp_path, "other")
    with pytest.raises(ConfigError, match="no session 'nope'"):
        find_session(tmp_path, "nope")


def test_a_file_that_is_removed_while_the_sessions_are_listed_is_left_out(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = session.path.with_name("gone.json")
    gone.write_text("{}")
    real = Path.stat

    def stat(path: Path, **options: Any) -> Any:
        if path == gone:
            path.unlink(missing_ok=True)
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    session.path.with_name("nowhere.json").symlink_to(tmp_path / "nowhere")
    assert all_sessions(session.path.parent) == [session.path]


@pytest.mark.parametrize(
    "line",
    [
        b"x] iteration 1/ 2 | lm loss: - |",
        b"x] iteration 1/ 2 | lm loss: 1.2.3 |",
        b"x] iteration 1/ 2 | lm loss: e |",
        b"x] iteration " + b"9" * 5000 + b"/ 2 | lm loss: 1.0 |",
        b"] iteration \xff\x00/ 2 | {x} $(y)",
    ],
)
def test_an_odd_log_line_is_no_number_and_no_error(line: bytes) -> None:
    assert read(Progress(), line + b"\n").loss is None


def test_a_disk_that_is_full_leaves_a_session_that_can_be_read(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    change(session, "a", "pending")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            session.journal()
    journal = session.path.with_suffix(".journal")
    journal.write_bytes(journal.read_bytes()[:-7])
    change(session, "b", "submitting")
    session.journal()
    assert states(session.path) == {"a": "pending", "b": "submitting"}


def test_a_session_is_finished_when_its_jobs_are_over_and_no_request_that_can_be_read_waits(session: Session) -> None:
    for name in "ab":
        change(session, name, "success")
    assert session.finished
    inbox.ask(session.path, inbox.Asked(id="x", kind="restart", job="a", attempt=1, at=1.0))
    assert not session.finished
    (inbox.inbox_folder(session.path) / "x.json").write_text("{")
    assert session.finished
