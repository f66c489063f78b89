"""The worker: each kind of action does what it says, its result is kept, and nothing in words reaches a shell."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.engine import worker as worker_module
from oellm_autoexp.engine.worker import Worker
from oellm_autoexp.rules.actions import (
    CancelAction,
    LogAction,
    NotifyAction,
    PublishEventAction,
    RestartAction,
    RunAutoexpAction,
    RunCommandAction,
)
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.queue_entry import Process, QueueEntry
from oellm_autoexp.session.requests import waiting
from oellm_autoexp.storage import world
from oellm_autoexp.storage.lock import process_started
from tests.unit.test_programs import HOSTILE
from tests.unit.test_queue import make_entry, make_manifest

SHOW = "import json, sys; print(json.dumps(sys.argv[1:]))"


class Work:
    """A queue and its worker, and what the worker said."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.reported: list[AutoexpError] = []
        self.queue = Queue(folder / "p.json")
        manifest = make_manifest(folder)
        self.worker = Worker(self.queue, manifest, log=self.said.append, report=self.reported.append, **options)

    def result(self, action: Any, **more: Any) -> QueueEntry:
        """What became of an action."""
        entry = make_entry(self.folder, action, **more)
        assert self.queue.put(entry)
        self.worker.run()
        return self.queue.get(entry.id)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_a_command_that_ends_well_is_done_with_its_last_line(work: Work) -> None:
    found = work.result(("sh", "-c", "echo one; echo; echo two >&2; echo"))
    assert (found.status, found.message, found.attempts) == ("done", "two", 1)
    assert found.finished_at is not None
    log = Path(found.output_path).read_text()
    assert log.startswith("--- attempt 1, ")
    assert log.endswith("one\n\ntwo\n\n")
    assert work.worker.tally.done == [found.id]
    assert work.said == [f"saved/{found.id[:8]}: done: two"]


def test_a_command_that_fails_says_its_code_and_its_last_line(work: Work) -> None:
    found = work.result(("sh", "-c", "echo no such thing; exit 3"))
    assert (found.status, found.message) == ("failed", "exit code 3: no such thing")
    found = work.result(("sh", "-c", "kill -9 $$"), number=1)
    assert (found.status, found.message) == ("failed", "killed by SIGKILL")
    found = work.result(("no such program",), number=2)
    assert (found.status, found.message) == ("failed", "can't be run: No such file or directory")
    assert len(work.worker.tally.failed) == 3


def test_words_arrive_as_they_are(work: Work) -> None:
    found = work.result((sys.executable, "-c", SHOW, *HOSTILE))
    assert json.loads(found.message) == HOSTILE
    assert not list(work.folder.rglob("pwned"))


def test_a_nul_is_refused(work: Work) -> None:
    found = work.result(("echo", "a\0b"))
    assert (found.status, found.message) == ("failed", "can't be run: embedded null byte")


def test_the_environment_and_the_directory_are_those_of_the_action(work: Work) -> None:
    (work.folder / "below").mkdir()
    action = RunCommandAction(
        class_name="RunCommandAction",
        command=("sh", "-c", 'echo "$PWD $OWN"'),
        cwd="below",
        env={"OWN": "$(x)"},
    )
    assert work.result(action).message == f"{work.folder / 'below'} $(x)"


def test_a_message_goes_to_a_command(work: Work) -> None:
    found = work.result(NotifyAction(class_name="NotifyAction", message="a 'b' {c}\n", command=("cat",)))
    assert found.message == "a 'b' {c}"


def test_a_command_that_takes_too_long_is_ended(work: Work) -> None:
    action = RunCommandAction(class_name="RunCommandAction", command=("sleep", "1000"), timeout_seconds=0.2)
    found = work.result(action)
    assert (found.status, found.message) == ("failed", "did not end within 0.2 s")


def test_what_only_the_monitor_can_do_is_handed_to_it_or_refused(work: Work) -> None:
    assert work.result(LogAction(class_name="LogAction", message="hello")).message == "hello"
    restart = RestartAction(class_name="RestartAction", reason="r", overrides={"a": 1}, max_attempts=None)
    assert work.result(restart, number=1).message == "handed to the monitor"
    assert work.result(CancelAction(class_name="CancelAction", scope="plan"), number=2).status == "done"
    asked = [request for _, request in waiting(work.queue.session_path)]
    assert [(one.kind, one.job, one.attempt) for one in asked] == [("restart", "a", 1), ("cancel", None, 1)]
    assert [one.restart for one in asked] == [restart.model_copy(update={"cause": "saved"}), None]
    found = work.result(PublishEventAction(class_name="PublishEventAction", event_name="x"), number=3)
    assert (found.status, found.message) == ("failed", "only the monitor can publish an event: use mode: inline")


def test_a_run_that_can_not_be_made_says_why(work: Work) -> None:
    found = work.result(RunAutoexpAction(class_name="RunAutoexpAction"))
    assert found.status == "failed"
    assert found.message.startswith("this file is missing in the record of the job's plan")


def test_entries_are_carried_out_oldest_first_and_one_by_one(tmp_path: Path) -> None:
    work = Work(tmp_path)
    script = 'echo "begin $1" >> order; sleep 0.05; echo "end $1" >> order'
    for number in (2, 0, 1):
        work.queue.put(make_entry(tmp_path, ("sh", "-c", script, "x", str(number)), number=number))
    tally = work.worker.run()
    assert len(tally.done) == 3
    lines = (tmp_path / "order").read_text().split("\n")[:-1]
    assert lines == [f"{what} {number}" for number in range(3) for what in ("begin", "end")]


def test_several_run_at_once_if_told_so(tmp_path: Path) -> None:
    work = Work(tmp_path, jobs=3)
    script = "touch $1; while ! [ -e 0 -a -e 1 -a -e 2 ]; do sleep 0.01; done"
    for number in range(3):
        work.queue.put(make_entry(tmp_path, ("sh", "-c", script, "x", str(number)), number=number))
    assert len(work.worker.run().done) == 3


def test_an_entry_that_can_not_be_read_is_reported_and_the_others_go_on(work: Work) -> None:
    entry = make_entry(work.folder, number=1)
    work.queue.put(entry)
    bad = work.queue.place(entry).with_name("bad.json")
    bad.write_text("{")
    assert work.result(("true",)).status == "done"
    assert work.queue.get(entry.id).status == "done"
    assert [str(error.problems[0].where) for error in work.reported] == [str(bad)]


def test_an_interrupted_worker_ends_its_program_and_leaves_the_entry_pending(work: Work) -> None:
    entry = make_entry(work.folder, ("sh", "-c", "echo $$ > pid; exec sleep 1000"))
    work.queue.put(entry)

    def interrupt() -> None:
        while not ((work.folder / "pid").exists() and (work.folder / "pid").read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        work.worker.run()
    thread.join()
    found = work.queue.get(entry.id)
    assert (found.status, found.message) == ("pending", "its worker was asked to end; run again")
    assert process_started(int((work.folder / "pid").read_text())) is None
    assert work.queue.worker_of(entry) is None


def test_a_worker_that_is_interrupted_while_a_program_starts_leaves_none_behind(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            started.append(self.pid)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    entry = make_entry(work.folder, ("sleep", "1000"))
    work.queue.put(entry)
    with pytest.raises(KeyboardInterrupt):
        work.worker.run()
    assert [process_started(pid) for pid in started] == [None]
    assert work.queue.get(entry.id).status == "pending"
    with pytest.raises(KeyboardInterrupt):  # whoever starts one without noting it
        world.Subprocess(["sleep", "1000"], cwd=work.folder)
    assert [process_started(pid) for pid in started] == [None, None]


def test_the_program_of_a_worker_that_died_is_ended_before_it_is_run_again(work: Work) -> None:
    orphan = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    process = Process(host=socket.gethostname(), pid=orphan.pid, started=process_started(orphan.pid) or "")
    found = work.result(("true",), status="running", attempts=1, worker="h:1", process=process)
    assert orphan.wait(10) == -signal.SIGKILL
    assert (found.status, found.attempts) == ("done", 2)
    assert work.said[0].endswith("its worker (h:1) died in attempt 1; run again")


def test_follow_goes_on_until_the_session_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_FOLLOW_SECONDS", 0.01)
    work = Work(tmp_path)
    asked: list[int] = []

    def finished() -> bool:
        asked.append(1)
        if len(asked) == 2:
            work.queue.put(make_entry(tmp_path))
        return len(asked) == 3

    assert len(work.worker.follow(finished).done) == 1
    assert len(asked) == 3


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_an_executor_runs_the_action_as_a_job(work: Work, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = (sys.executable, "-c", f"import os; print(os.environ.get('PYTHONPATH')); {SHOW}", *HOSTILE)
    found = work.result(command, executor={"cluster": cluster})
    assert found.status == "done", found.message
    assert json.loads(found.message) == HOSTILE
    assert "\nNone\n" in Path(found.output_path).read_text()
    found = work.result(("sh", "-c", "echo bad; exit 4"), executor={"cluster": cluster}, number=1)
    assert (found.status, found.message) == ("failed", "exit code 4: bad")


def test_a_job_goes_on_without_its_worker_and_is_found_again(tmp_path: Path) -> None:
    work = Work(tmp_path)
    script = "echo x >> runs; while ! [ -e go ]; do sleep 0.02; done; echo went"
    entry = make_entry(tmp_path, ("sh", "-c", script), executor={"cluster": "local"})
    work.queue.put(entry)
    work.worker.run_once()
    found = work.queue.get(entry.id)
    assert found.status == "running"
    assert found.sidecar is not None
    assert found.sidecar.job_id
    until((tmp_path / "runs").exists)
    # A worker that died between the submission and noting the id:
    work.queue.place(entry).write_text(
        found.model_copy(update={"sidecar": found.sidecar.model_copy(update={"job_id": ""})}).model_dump_json()
    )
    (tmp_path / "go").touch()
    Work(tmp_path).worker.run()
    found = work.queue.get(entry.id)
    assert (found.status, found.message, found.attempts) == ("done", "went", 1)
    assert (tmp_path / "runs").read_text() == "x\n"


@pytest.mark.parametrize(
    ("sbatch", "why"),
    [
        ({"output": "x"}, "set by the program"),
        ({"time": "soon"}, "not a time that sbatch knows"),
        ({"mem": "1\n#SBATCH --x"}, "line break"),
    ],
)
def test_wrong_options_of_an_executor_are_reported(work: Work, sbatch: dict[str, Any], why: str) -> None:
    found = work.result(("true",), executor={"cluster": "local", "sbatch": sbatch})
    assert found.status == "failed"
    assert why in found.message


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
