"""The session on disk: what was saved lasts, what was cut by a crash does no harm."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import ConfigError, CorruptError
from oellm_autoexp.core.redacted_text import REDACTED
from oellm_autoexp.rules.events import Event, Pending
from oellm_autoexp.rules.metrics import known_lines
from oellm_autoexp.rules.progress import Progress, after
from oellm_autoexp.session import records, requests
from oellm_autoexp.session.job_state import JobState, Restarting
from oellm_autoexp.session.session import Session, all_sessions, find_session
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.testing.jobs import changed, job_state


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = Session(tmp_path / "p.json", "p", tmp_path / "m.json", {n: JobState(name=n) for n in "ab"}, 0)
    made.snapshot()
    return made


def states(path: Path) -> dict[str, str]:
    return {name: job.state for name, job in Session.load(path).jobs.items()}


def change(session: Session, name: str, state: str) -> None:
    session.put(changed(session.jobs[name], state=state))


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
    loss = after(Progress(), known_lines(line + b"\n")).loss
    assert loss is None or math.isnan(loss)


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
    requests.ask(session.path, requests.Request(id="x", kind="cancel", job="a", attempt=1, at=1.0))
    assert not session.finished
    (SessionFiles(session.path).requests / "x.json").write_text("{")
    assert session.finished


PLANTED = "pl4nted"


def secretive(name: str = "a") -> JobState:
    """A job with secrets in each place that is needed later, and in its words."""
    event = Event(
        id="e-1", kind="log", name="e", job=name, attempt=1, at=1, metadata={"api_key": f"{PLANTED} e", "n": 1}
    )
    job = job_state(
        name=name,
        reason=f"HF_TOKEN={PLANTED}",
        overrides={"slurm.env.HF_TOKEN": f"{PLANTED} o", "lr": 1, "url": f"https://me:{PLANTED}@host"},
        restart=Restarting(attempt=1, cause="c", overrides={"x.password": [PLANTED, PLANTED], "y": {"token": PLANTED}}),
        pending=(Pending(event=event, rule="e", binding=0, since=1),),
        unrecorded=(event,),
    )
    return job.happened(1, "refused", f"with --token {PLANTED}")


def in_clear(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if PLANTED in path.read_text()}


@pytest.mark.parametrize("way", ["journal", "snapshot"])
def test_secrets_last_in_a_file_of_their_own_and_are_gone_when_nobody_needs_them(session: Session, way: str) -> None:
    folder = session.path.parent
    session.put(secretive())
    getattr(session, way)()
    assert in_clear(folder) == {"p.secrets"}
    assert (folder / "p.secrets").stat().st_mode & 0o777 == 0o600
    again = Session.load(session.path)
    reported = {"reason": "HF_TOKEN=***", "history": again.jobs["a"].history}
    assert again.jobs["a"] == changed(secretive(), **reported)
    assert again.jobs["a"].history[-1].message == "with --token ***"
    again.snapshot()
    assert Session.load(session.path).jobs == again.jobs
    again.put(JobState(name="a"))
    again.snapshot()
    assert not (folder / "p.secrets").exists()


def test_secrets_of_a_flat_record_are_put_back_in_their_parts(session: Session) -> None:
    session.put(secretive())
    session.snapshot()
    data = json.loads(session.path.read_text())
    record = data["jobs"]["a"]
    places = dict(record["secrets"])
    for part, names in records.parts().items():
        own = record.pop(part)
        record |= {name: own[name] for name in names}
        places = {place.removeprefix(f"/{part}"): name for place, name in places.items()}
    data["jobs"]["a"] = {**record, "secrets": places}
    session.path.write_text(json.dumps({**data, "version": 1}))
    loaded = Session.load(session.path).jobs["a"]
    assert {place.split("/")[1] for place in places} == {"overrides", "restart", "pending", "unrecorded"}
    assert (loaded.changes, loaded.restart, loaded.actions) == (
        secretive().changes,
        secretive().restart,
        secretive().actions,
    )
    assert loaded.secrets == {}


def test_whoever_can_not_read_the_secrets_sees_that_there_are_some(session: Session) -> None:
    session.put(secretive())
    session.snapshot()
    session.path.with_suffix(".secrets").write_text("cut")
    assert Session.load(session.path).jobs["a"].changes.overrides["slurm.env.HF_TOKEN"] == REDACTED
    assert Session.load(session.path).jobs["a"].changes.overrides["lr"] == 1


def test_a_crash_before_the_session_is_written_leaves_its_older_secrets(session: Session) -> None:
    session.put(secretive())
    session.snapshot()
    before = session.path.read_bytes()
    session.put(changed(secretive(), overrides={"slurm.env.HF_TOKEN": f"{PLANTED} later"}))
    session.journal()
    session.path.with_suffix(".journal").unlink()  # as if the crash had come before it
    assert session.path.read_bytes() == before
    assert Session.load(session.path).jobs["a"].changes.overrides == secretive().changes.overrides


def test_a_session_that_an_earlier_version_wrote_is_read_and_loses_its_clear_secrets(session: Session) -> None:
    data = json.loads(session.path.read_text())
    old = {key: value for key, value in records.flat(secretive()).items() if key != "secrets"}
    session.path.write_text(json.dumps({**data, "jobs": {**data["jobs"], "a": old}}))
    loaded = Session.load(session.path)
    assert loaded.jobs["a"].changes.overrides == secretive().changes.overrides
    loaded.snapshot()
    assert in_clear(session.path.parent) == {"p.secrets"}
