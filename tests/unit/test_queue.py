"""The queue on disk: an entry is put once, taken by one worker, finished once, and survives any crash in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import AutoexpError, ConfigError, CorruptError, LockedError, StateError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.rules.actions import RunCommandAction
from oellm_autoexp.rules.events import Event, event_id, queue_id
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.queue_entry import QueueEntry, Sidecar
from oellm_autoexp.session.requests import Request, ask, waiting
from oellm_autoexp.testing.plans import job_spec, manifest
from tests.unit.test_executor import restart_request


def make_event(name: str = "saved", number: int = 0, job: str = "a", **metadata: Any) -> Event:
    return Event.model_validate(
        {
            "id": event_id(name, job, number),
            "kind": "log",
            "name": name,
            "job": job,
            "attempt": 1,
            "at": 1000.0 + number,
            "metadata": metadata,
        }
    )


def make_entry(folder: Path, action: Any = ("true",), number: int = 0, name: str = "saved", **more: Any) -> QueueEntry:
    event = make_event(name, number)
    if isinstance(action, tuple):
        action = RunCommandAction(class_name="RunCommandAction", command=action)
    fields = {
        "id": queue_id(event.id, "r", 0),
        "plan_id": "p",
        "manifest_path": str(folder / "m.json"),
        "event": event,
        "action": action,
        "work_dir": str(folder),
        "created_at": 2000.0 + number,
        **more,
    }
    return QueueEntry.model_validate(fields)


def make_manifest(folder: Path, **more: Any) -> Manifest:
    script_path = str(folder / "a" / "provenance" / "p" / "job.sbatch")
    job = job_spec(
        folder, script_path=script_path, log_path=str(folder / "a" / "%j.out"), parameters=more.pop("parameters", {})
    )
    fields: dict[str, Any] = {
        "created_at": "2026-01-31T00:00:00",
        "project": "p",
        "config_ref": "autoexp",
        "base_output_dir": str(folder / "outputs"),
        "monitoring_state_dir": str(folder),
        "slurm": {"client": {"class_name": "LocalClient", "slots": 1, "kill_grace_seconds": 1}},
        "scheduler": {},
        "provenance": {"work_dir": str(folder)},
        **more,
    }
    return manifest(folder, [job], **fields)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "p.json")


def test_an_entry_is_put_once_even_when_it_is_finished(queue: Queue, tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    assert queue.entries() == queue.finished() == []
    assert queue.put(entry)
    assert not queue.put(entry)
    assert queue.entries() == [entry]
    held = queue.take(entry)
    assert held is not None
    held.finish("done", "well")
    assert not queue.put(entry)
    assert queue.entries() == []
    assert [(e.status, e.message, e.attempts) for e in queue.finished()] == [("done", "well", 1)]
    assert queue.tally() == {"saved": {"done": 1}}


def test_entries_can_only_be_read_by_their_owner(queue: Queue, tmp_path: Path) -> None:
    queue.put(make_entry(tmp_path))
    assert queue.place(make_entry(tmp_path)).stat().st_mode & 0o077 == 0


def test_an_entry_is_taken_by_one_at_a_time(queue: Queue, tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    queue.put(entry)
    held = queue.take(entry)
    assert held is not None
    assert held.entry.status == "running"
    assert queue.take(entry) is None
    with pytest.raises(LockedError, match="working on this entry now"):
        queue.retry(entry.id)
    held.put_back("later")
    again = queue.take(entry)
    assert again is not None
    assert (again.entry.attempts, again.died) == (2, "")


def test_entries_are_listed_oldest_first_and_by_event(queue: Queue, tmp_path: Path) -> None:
    for number, name in ((3, "saved"), (1, "saved"), (2, "saved_late")):
        queue.put(make_entry(tmp_path, number=number, name=name))
    assert [entry.created_at for entry in queue.entries()] == [2001, 2002, 2003]
    assert [entry.created_at for entry in queue.entries("saved")] == [2001, 2003]
    assert [entry.created_at for entry in queue.entries("saved_")] == [2002]
    assert len(queue.entries(make_event("saved", 1).id)) == 1
    assert queue.entries("nothing") == []


def test_an_entry_is_found_by_the_beginning_of_its_id_and_a_wrong_one_names_the_nearest(
    queue: Queue, tmp_path: Path
) -> None:
    entries = [make_entry(tmp_path, number=number) for number in range(3)]
    for entry in entries:
        queue.put(entry)
    assert queue.get(entries[1].id[:8]) == entries[1]
    wrong = entries[0].id[:-1] + ("0" if entries[0].id[-1] != "0" else "1")
    with pytest.raises(ConfigError, match=entries[0].id):
        queue.get(wrong)
    with pytest.raises(ConfigError, match="known: "):
        queue.get("zzz")
    with pytest.raises(ConfigError):
        queue.get("")


def test_a_result_whose_worker_died_before_moving_it_is_moved_and_not_run_again(queue: Queue, tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    queue.put(entry)
    queue.place(entry).write_text(entry.model_copy(update={"status": "done", "message": "x"}).model_dump_json())
    assert queue.take(entry) is None
    assert [e.message for e in queue.finished()] == ["x"]
    assert queue.entries() == []


def test_an_entry_whose_worker_died_is_taken_again_and_says_so(queue: Queue, tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    queue.put(entry)
    program = "import sys; from pathlib import Path; from oellm_autoexp.session.queue import Queue; import os, signal\n"
    program += "q = Queue(Path(sys.argv[1])); assert q.take(q.entries()[0]); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", program, str(queue.session_path)], check=False)
    assert queue.entries()[0].status == "running"
    held = queue.take(entry)
    assert held is not None
    assert held.died.endswith("died in attempt 1; run again")
    assert held.entry.message == held.died
    assert held.entry.attempts == 2


def test_a_job_of_a_worker_that_died_goes_on_without_a_new_attempt(queue: Queue, tmp_path: Path) -> None:
    queue.put(make_entry(tmp_path))
    held = queue.take(queue.entries()[0])
    assert held is not None
    held.change(sidecar=Sidecar.model_validate({"token": "t", "at": 1.0, "job_id": "7"}))
    held.let_go()
    again = queue.take(queue.entries()[0])
    assert again is not None
    assert (again.died, again.entry.attempts) == ("", 1)


def test_retry_keeps_what_was(queue: Queue, tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    queue.put(entry)
    with pytest.raises(ConfigError, match="this entry is pending; there is nothing to retry"):
        queue.retry(entry.id)
    for number in (1, 2):
        held = queue.take(queue.get(entry.id))
        assert held is not None
        held.finish("failed", f"no {number}")
        again = queue.retry(entry.id[:6])
        assert (again.status, again.attempts, again.message) == ("pending", number, "")
    assert [past.message for past in again.history] == ["no 1", "no 2"]
    assert queue.finished() == []
    assert queue.entries() == [again]
    assert not queue.put(entry)


def test_a_retry_that_died_half_way_is_moved_back(queue: Queue, tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    queue.put(entry)
    held = queue.take(entry)
    assert held is not None
    held.finish("failed", "no")
    os.replace(queue.place(entry).parent / "done" / queue.place(entry).name, queue.place(entry))
    assert queue.take(entry) is None
    assert queue.finished()[0].message == "no"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("{", CorruptError, "not valid JSON"),
        ("[]", CorruptError, "not a queue entry"),
        ('{"version": 99}', CorruptError, "version 99; this program reads versions up to 1"),
        ('{"version": 1}', CorruptError, "not a valid queue entry"),
    ],
)
def test_a_file_that_is_no_entry_is_named_and_hides_no_other(
    queue: Queue, tmp_path: Path, text: str, kind: type[AutoexpError], message: str
) -> None:
    queue.put(make_entry(tmp_path))
    bad = queue.folder / make_event().id / "bad.json"
    bad.write_text(text)
    with pytest.raises(kind, match=message) as caught:
        queue.entries()
    assert str(caught.value.problems[0].where) == str(bad)
    reported: list[AutoexpError] = []
    assert len(queue.entries(report=reported.append)) == 1
    assert len(reported) == 1


def test_a_copied_entry_is_no_second_one(queue: Queue, tmp_path: Path) -> None:
    queue.put(make_entry(tmp_path))
    path = queue.place(make_entry(tmp_path))
    path.with_name("copy.json").write_text(path.read_text())
    with pytest.raises(CorruptError, match="not where its entry belongs"):
        queue.entries()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_an_entry_of_another_user_is_refused(queue: Queue, tmp_path: Path) -> None:
    queue.put(make_entry(tmp_path))
    path = queue.place(make_entry(tmp_path))
    os.chown(path, 12345, 12345)
    data = json.loads(path.read_text())
    assert data["id"]
    with pytest.raises(StateError, match="belongs to user 12345"):
        queue.entries()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "done", "a\nb", "x" * 300])
def test_ids_that_are_no_file_names_are_refused(queue: Queue, tmp_path: Path, name: str) -> None:
    with pytest.raises(StateError, match="can't be the name of a file"):
        queue.put(make_entry(tmp_path, id=name))
    assert not queue.folder.exists()


def test_requests_wait_until_they_are_removed(tmp_path: Path) -> None:
    session = tmp_path / "p.json"
    assert waiting(session) == []
    late = Request(id="2", kind="cancel", job=None, attempt=1, at=2.0)
    early = restart_request("1", 3, overrides={"slurm.sbatch.time": "1"})
    assert ask(session, late)
    assert ask(session, early)
    assert not ask(session, early)
    assert [asked for _, asked in waiting(session)] == [early, late]
    waiting(session)[0][0].unlink()
    assert [asked for _, asked in waiting(session)] == [late]
    (tmp_path / "p.requests" / "x.json").write_text("{")
    with pytest.raises(CorruptError, match="not valid JSON"):
        waiting(session)
    with pytest.raises(StateError, match="can't be the name"):
        ask(session, late.model_copy(update={"id": "../x"}))
