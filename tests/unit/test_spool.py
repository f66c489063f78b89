"""The local scheduler's files: first come first served, made once, read once, and never guessed at."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import CorruptError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.sbatch.signals import Signal
from oellm_autoexp.schedulers.local.interpreter import interpreter
from oellm_autoexp.schedulers.local.records import Job, Run, no_process
from oellm_autoexp.schedulers.local.scheduler import LocalScheduler
from oellm_autoexp.schedulers.local.spool import Spool
from oellm_autoexp.storage.lock import UNREADABLE_AFTER_SECONDS, Lock

SOMEBODY = Run("elsewhere", 1, "x", 0.0, 0, 1, "x")


def submission(token: str = "", array: tuple[int, ...] = (), limit: int | None = None) -> Submission:
    return Submission(token, "name", "/bin/true", "/", "/dev/null", array=array, array_limit=limit)


def waiting(spool: Spool) -> list[str]:
    return [job.id for job in spool.waiting(spool.names())]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def test_jobs_are_numbered_over_all_submitters(spool: Spool) -> None:
    other = Spool(spool.directory)
    assert [spool.add(submission(), {}), other.add(submission(), {}), spool.add(submission(), {})] == ["1", "2", "3"]
    assert Spool(spool.directory).add(submission(), {}) == "4"


def test_what_is_spooled_comes_back_as_it_was(spool: Spool) -> None:
    odd = Submission("t", "na é me", "/a 'b' \udcff", "/work", "/logs/%j", 60, (3, 1), 2)
    environment = {"A": os.fsdecode(b"\xff\n"), "B": ""}
    number = spool.add(odd, environment, Signal(10, 60, to_batch_shell=True))
    job = Spool(spool.directory).job(f"{number}_3")
    assert job is not None
    assert (job.submission, job.signal) == (odd, Signal(10, 60, to_batch_shell=True))
    assert spool.environment(job) == environment


def test_a_job_that_was_spooled_before_there_were_signals_asks_for_none(spool: Spool) -> None:
    spool.add(submission(), {}, Signal(10, 60, to_batch_shell=True))
    path = spool.path("1", "job")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "signal"}))
    assert spool.job("1") == Job("1", submission())


def test_ids_that_nobody_gave_out_are_no_jobs(spool: Spool) -> None:
    spool.add(submission(), {})
    spool.add(submission(array=(1, 2)), {})
    for job in ("3", "1_1", "2", "2_3", "2_", "", "x", "٣", "1/../1"):
        assert spool.job(job) is None
    assert list(spool.tasks("2")) == ["2_1", "2_2"]


def test_jobs_wait_in_the_order_of_their_numbers(spool: Spool) -> None:
    for _ in range(11):
        spool.add(submission(), {})
    spool.add(submission(array=(5, 2)), {})
    assert waiting(spool) == [*map(str, range(1, 12)), "12_5", "12_2"]
    assert spool.begin("2", SOMEBODY)
    spool.stop("3", "CANCELLED")
    assert spool.begin("12_5", SOMEBODY)
    assert waiting(spool) == ["1", *map(str, range(4, 12)), "12_2"]


def test_an_array_keeps_its_limit_as_tasks_begin_and_end(spool: Spool) -> None:
    spool.add(submission(array=(0, 1, 2, 3), limit=2), {})
    assert waiting(spool) == ["1_0", "1_1"]
    spool.begin("1_0", SOMEBODY)
    assert waiting(spool) == ["1_1"]
    spool.begin("1_1", SOMEBODY)
    assert waiting(spool) == []
    spool.end("1_0", JobStatus("COMPLETED"))
    assert waiting(spool) == ["1_2"]


def test_what_was_decided_first_stays(spool: Spool) -> None:
    spool.add(submission(), {})
    assert spool.begin("1", SOMEBODY)
    assert not spool.begin("1", no_process())
    spool.stop("1", "TIMEOUT")
    spool.stop("1", "CANCELLED")
    spool.record_code("1", 3)
    spool.record_code("1", 4)
    spool.end("1", JobStatus("FAILED"))
    spool.end("1", JobStatus("COMPLETED"))
    assert (spool.record_term("1"), spool.record_term("1")) == (True, False)
    assert (spool.record_signal("1"), spool.record_signal("1")) == (True, False)
    again = Spool(spool.directory)
    assert again.run("1") == SOMEBODY
    assert (again.stopped("1"), again.code("1"), again.ended("1")) == ("TIMEOUT", 3, JobStatus("FAILED"))


def test_polling_hundreds_of_waiting_jobs_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    jobs = [spool.add(submission(), dict(os.environ)) for _ in range(400)]
    client = LocalScheduler(tmp_path, slots=2)
    slots = [Lock(tmp_path / f"slot-{slot}") for slot in range(2)]
    assert [slot.acquire() for slot in slots] == [None, None]
    spool.begin(jobs[0], SOMEBODY)
    spool.begin(jobs[1], SOMEBODY)
    spool.end(jobs[1], JobStatus("COMPLETED"))
    states = [status.scheduler_state for status in client.poll(dict.fromkeys(jobs, "")).values()]
    assert states == ["RUNNING", "COMPLETED", *["PENDING"] * 398]

    calls: list[str] = []

    def noting(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def noted(path: Any) -> Any:
            calls.append(Path(path).name)
            return call(path)

        return noted

    monkeypatch.setattr(Path, "read_bytes", noting(Path.read_bytes))
    monkeypatch.setattr(Path, "read_text", noting(Path.read_text))
    monkeypatch.setattr(os, "listdir", noting(os.listdir))
    client.poll(dict.fromkeys(jobs, ""))
    assert calls.count(tmp_path.name) <= 2, "listings of the spool"
    assert len(calls) < 10
    assert not [name for name in calls if name.endswith((".job", ".run", ".end"))]


@pytest.mark.parametrize("kind", ["job", "run", "end"])
@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"version": 99}', b'{"version": 1}', b'{"version": 1, "submission": {}, "pid": 1}']
)
def test_a_file_that_is_not_right_is_an_error_that_names_it(spool: Spool, kind: str, content: bytes) -> None:
    spool.add(submission(), {})
    path = spool.path("1", kind)
    path.write_bytes(content)
    with pytest.raises(CorruptError) as raised:
        LocalScheduler(spool.directory).poll(dict.fromkeys(["1"], ""))
    assert str(path) in str(raised.value)


def test_a_submission_that_never_got_its_content_does_not_exist(spool: Spool) -> None:
    """What a writer leaves that dies on a file system without hard links."""
    spool.add(submission("first"), {})
    spool.path("2", "job").touch()
    client = LocalScheduler(spool.directory)
    assert client.find([submission("first"), submission("second")]) == {"first": "1"}
    assert client.poll(dict.fromkeys(["2"], "")) == {}
    assert spool.add(submission("second"), {}) == "3"
    assert client.find([submission("second")]) == {"second": "3"}


def test_a_job_whose_process_never_said_who_it_is_runs_for_a_moment_and_is_then_lost(spool: Spool) -> None:
    spool.add(submission(), {})
    path = spool.path("1", "run")
    path.touch()
    client = LocalScheduler(spool.directory)
    assert client.poll(dict.fromkeys(["1"], ""))["1"].scheduler_state == "RUNNING"
    past = time.time() - UNREADABLE_AFTER_SECONDS - 1
    os.utime(path, (past, past))
    assert client.poll(dict.fromkeys(["1"], ""))["1"].scheduler_state == "NODE_FAIL"


def test_an_environment_goes_with_the_last_task_whoever_has_died_before(spool: Spool) -> None:
    spool.add(submission(array=(0, 1)), {"A": "a"})
    spool.end("1_0", JobStatus("COMPLETED"))
    spool.tidy()
    job = spool.job("1_1")
    assert job is not None
    assert spool.environment(job) == {"A": "a"}
    spool._create("1_1", "end", {"scheduler_state": "COMPLETED"})  # and died
    spool.add(submission(), {})
    spool.tidy()
    assert sorted(name for name in spool.names() if name.endswith(".env")) == ["2.env"]
    with pytest.raises(OSError, match="its environment file is missing"):
        spool.environment(job)


def test_an_environment_whose_submitter_died_before_it_made_the_job_goes_after_a_while(spool: Spool) -> None:
    spool.add(submission(), {})
    spool.path("1", "job").unlink()
    spool.tidy()
    assert "1.env" in spool.names()
    assert Spool(spool.directory).add(submission(), {}) == "2", "it may be about to make it"
    long_ago = time.time() - UNREADABLE_AFTER_SECONDS - 1
    os.utime(spool.path("1", "env"), (long_ago, long_ago))
    spool.tidy()
    assert spool.names() == {"2.env", "2.job"}


def test_a_spool_that_is_not_there_holds_nothing(spool: Spool) -> None:
    client = LocalScheduler(spool.directory)
    assert client.poll(dict.fromkeys(["1"], "")) == {}
    assert client.find([submission()]) == {}
    client.cancel(dict.fromkeys(["1"], ""))
    assert waiting(spool) == []
    assert not spool.directory.exists()


def test_every_file_carries_a_version(spool: Spool) -> None:
    spool.add(submission(), {})
    spool.begin("1", SOMEBODY)
    spool.end("1", JobStatus("COMPLETED"))
    assert [json.loads(spool.path("1", kind).read_text())["version"] for kind in ("job", "run", "end")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"#!/bin/bash\n", ["/bin/bash"]),
        (b"#! /usr/bin/env  python3 -u \nx", ["/usr/bin/env", "python3 -u"]),
        (b"#!/bin/sh", ["/bin/sh"]),
    ],
)
def test_a_script_is_run_by_what_its_first_line_names(tmp_path: Path, first: bytes, words: list[str]) -> None:
    (tmp_path / "script").write_bytes(first)
    assert interpreter(tmp_path / "script") == words


def test_a_folder_that_was_removed_and_filled_anew_has_no_job_of_before(tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text("#!/bin/sh\n")
    old, new = (Submission(token, "a", str(script), str(tmp_path), "/log") for token in ("old", "new"))
    client, folder = LocalScheduler(tmp_path / "spool", slots=1), Spool(tmp_path / "spool")
    assert folder.add(old, {}) == "1"
    assert client._spool.job("1", "old") is not None
    shutil.rmtree(tmp_path / "spool")
    assert client.poll({"1": "old"}) == {}
    assert Spool(tmp_path / "spool").add(new, {}) == "1"
    assert client.poll({"1": "old"}) == {}
    assert client._spool.job("1", "new") is not None


def test_a_number_that_began_anew_has_its_own_script_and_its_own_exit_code(spool: Spool) -> None:
    old, new = submission("old"), submission("new")
    number = spool.add(old, {})
    assert [job.submission for job in spool.waiting(spool.names())] == [old]
    shutil.rmtree(spool.directory)
    Spool(spool.directory).add(new, {})
    assert [job.submission for job in spool.waiting(spool.names())] == [new]
    assert not spool.has(Job(number, old))
    spool.begin(number, SOMEBODY)
    spool.path(number, "code").write_text("7 99\n")  # left by the shell of the old job
    assert spool.code(number) is None
    spool.record_code(number, 3)
    assert spool.code(number) == 3
