"""Workers as people start them: two on one queue, killed ones, on a real SLURM; and what the commands say."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.planning.manifest import load
from oellm_autoexp.rules.actions import RunCommandAction
from oellm_autoexp.rules.events import Event, event_id, queue_id
from oellm_autoexp.session.event_log import EventLog, Result
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.queue_entry import QueueEntry
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.lock import process_started
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.testing.jobs import changed
from tests.flow.conftest import User, until

pytestmark = pytest.mark.slow

COUNT = 'printf "%s\\n" "$1" >> runs'


class Queued:
    """A submitted plan of one job whose queue a test fills."""

    def __init__(self, user: User, *overrides: str) -> None:
        result = user.run("plan", "project=default", "sweep.grids=[{stage:[a]}]", "--json", *overrides)
        assert result.returncode == 0, result.stderr
        path = Path(json.loads(result.stdout)["manifest"])
        self.user = user
        self.manifest = load(path)
        Session.create(self.manifest, path)
        self.queue = Queue(SessionFiles.of(self.manifest).path)

    def put(self, *words: str, number: int = 0, name: str = "checkpoint_saved", **more: Any) -> QueueEntry:
        event = Event(
            id=event_id(name, number),
            kind="log",
            name=name,
            job=self.manifest.jobs[0].name,
            attempt=1,
            at=time.time(),
            metadata={"iteration": number},
        )
        fields = {
            "id": queue_id(event.id, name, 0),
            "plan_id": self.manifest.plan_id,
            "manifest_path": str(self.user.outputs),
            "event": event,
            "action": RunCommandAction(class_name="RunCommandAction", command=words),
            "work_dir": str(self.user.home),
            "created_at": time.time(),
            **more,
        }
        entry = QueueEntry.model_validate(fields)
        assert self.queue.put(entry)
        return entry

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.user.run("monitor", "--session", self.manifest.plan_id, *words)

    def worker(self, *words: str) -> subprocess.Popen[str]:
        return self.user.start("monitor", "--session", self.manifest.plan_id, "--cmd", "actions", *words)

    @property
    def runs(self) -> Counter[str]:
        path = self.user.home / "runs"
        return Counter(path.read_text().split()) if path.exists() else Counter()


@pytest.fixture
def queued(user: User) -> Queued:
    return Queued(user)


def test_two_workers_carry_out_each_of_200_entries_once(queued: Queued) -> None:
    for number in range(200):
        queued.put("sh", "-c", COUNT, "x", str(number), number=number)
    workers = [queued.worker(), queued.worker("--jobs", "2")]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert queued.runs == Counter(map(str, range(200)))
    finished = queued.queue.finished()
    assert Counter(entry.status for entry in finished) == {"done": 200}
    assert {entry.attempts for entry in finished} == {1}
    assert len({entry.worker for entry in finished}) == 2, "both had a share"
    assert queued.queue.entries() == []


def test_an_entry_whose_worker_is_killed_is_run_again_by_the_next_which_says_so(queued: Queued) -> None:
    script = 'echo "$$" >> runs; [ -e go ] || exec sleep 1000'
    entry = queued.put("sh", "-c", script)
    worker = queued.worker()
    until(lambda: queued.runs, "the program to begin")
    until(lambda: queued.queue.get(entry.id).process, "the worker to note it")
    worker.kill()
    worker.wait()
    shown = queued.run("--cmd", "queue")
    assert "its worker died; to be run again" in shown.stdout
    (queued.user.home / "go").touch()
    again = queued.run("--cmd", "actions")
    assert again.returncode == 0, again.stderr
    assert re.search(r"its worker \(\S+:\d+\) died in attempt 1; run again", again.stdout)
    assert len(queued.runs) == 2
    assert process_started(int(next(iter(queued.runs)))) is None, "the first run was ended"
    assert queued.queue.get(entry.id).attempts == 2


def test_a_worker_that_is_reported_to_end_leaves_its_entry_pending_and_says_how_to_go_on(queued: Queued) -> None:
    entry = queued.put("sh", "-c", 'echo "$$" >> runs; exec sleep 1000')
    worker = queued.worker()
    until(lambda: queued.runs, "the program to begin")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 130
    output = (queued.user.home / "output.txt").read_text()
    assert f"--session {queued.manifest.plan_id} --cmd actions" in output
    assert "Traceback" not in output
    assert queued.queue.get(entry.id).status == "pending"
    assert process_started(int(next(iter(queued.runs)))) is None


def test_a_worker_that_is_reported_to_end_prints_one_document_where_json_is_asked_for(queued: Queued) -> None:
    done = queued.put("true")
    queued.put("sh", "-c", 'echo "$$" >> runs; exec sleep 1000', number=1)
    words = queued.user.words("monitor", "--session", queued.manifest.plan_id, "--cmd", "actions", "--json")
    with subprocess.Popen(
        words,
        cwd=queued.user.home,
        env=queued.user.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        until(lambda: queued.runs, "the program to begin")
        worker.send_signal(signal.SIGTERM)
        reported, _ = worker.communicate()
    assert worker.returncode == 130
    assert json.loads(reported) == {"plan_id": queued.manifest.plan_id, "done": [done.id], "failed": []}


def test_follow_ends_with_the_session(queued: Queued) -> None:
    worker = queued.worker("--follow")
    queued.put("sh", "-c", COUNT, "x", "1")
    until(lambda: queued.runs, "the entry to be carried out")
    assert worker.poll() is None
    path = queued.queue.session_path
    session = Session.load(path)
    for job in list(session.jobs.values()):
        session.put(changed(job, state="success"))
    session.snapshot()
    assert worker.wait() == 0


def test_what_the_commands_say(queued: Queued) -> None:
    empty = queued.run("--cmd", "queue")
    assert (empty.returncode, empty.stderr) == (0, "")
    assert empty.stdout == f"the queue of {queued.manifest.plan_id} is empty: no action was put into it\n"
    assert "no action waits for a worker" in queued.run("--cmd", "actions").stdout

    bad = queued.put("sh", "-c", "echo from the start; echo why it failed; exit 3")
    queued.put("true", number=1)
    late = queued.put("echo", "{x} $(y)", number=2, name="run_ended")
    listed = queued.run("--cmd", "queue").stdout
    assert re.search(rf"^checkpoint_saved +{bad.id[:8]} +\S+ +sh -c .* pending +\d+ s +0 *$", listed, re.MULTILINE)
    assert "3 actions in the queue: 3 pending" in listed
    assert "run_ended" not in queued.run("--cmd", "queue", "--queue-event", "checkpoint_saved").stdout

    once = queued.run("--cmd", "actions", "--once")
    assert once.returncode == 1, once.stderr
    assert "3 actions: 2 done, 1 failed" in once.stdout
    listed = queued.run("--cmd", "queue").stdout
    assert "nothing waits in the queue" in listed
    assert "checkpoint_saved: 1 done, 1 failed" in listed
    of_event = queued.run("--cmd", "queue", "--queue-event", "checkpoint_saved").stdout
    assert re.search(rf"{bad.id[:8]}.* failed .* exit code 3: why it failed", of_event)

    hint = re.search(r"why it failed +(.*--queue-show)", of_event)
    assert hint
    assert shlex.split(hint[1])[-4:] == ["queue", "--queue-id", bad.id, "--queue-show"]
    shown = queued.run("--cmd", "queue", "--queue-id", bad.id[:10], "--queue-show").stdout
    for text in ("exit code 3", "from the start\n", "attempt 1", "with iteration 0", "--queue-retry"):
        assert text in shown
    assert "{x} $(y)" in queued.run("--cmd", "queue", "--queue-id", late.id).stdout

    again = queued.run("--cmd", "queue", "--queue-id", bad.id, "--queue-retry")
    assert (again.returncode, again.stderr) == (0, "")
    assert queued.run("--cmd", "actions").returncode == 1
    shown = queued.run("--cmd", "queue", "--queue-id", bad.id, "--queue-show").stdout
    assert re.search(r"^earlier +failed .*why it failed$", shown, re.MULTILINE)


def test_what_the_commands_say_to_programs(queued: Queued) -> None:
    entry = queued.put("sh", "-c", "echo out; exit 1")
    listed = json.loads(queued.run("--cmd", "queue", "--json").stdout)
    assert [one["id"] for one in listed["entries"]] == [entry.id]
    worked = queued.run("--cmd", "actions", "--json")
    assert json.loads(worked.stdout) == {"plan_id": queued.manifest.plan_id, "done": [], "failed": [entry.id]}
    assert worked.returncode == 1
    assert json.loads(queued.run("--cmd", "queue", "--json").stdout)["finished"] == {"checkpoint_saved": {"failed": 1}}
    shown = json.loads(queued.run("--cmd", "queue", "--queue-id", entry.id, "--json").stdout)
    assert (shown["entry"]["status"], shown["output"][-1]) == ("failed", "out")
    retried = json.loads(queued.run("--cmd", "queue", "--queue-id", entry.id, "--queue-retry", "--json").stdout)
    assert retried["entry"]["status"] == "pending"


def test_a_damaged_entry_is_named_and_hides_no_event(queued: Queued) -> None:
    damaged, whole = queued.put("true"), queued.put("true", number=1)
    record = EventLog(queued.queue.session_path)
    for entry in (damaged, whole):
        reported = {"event_id": entry.event.id, "id": entry.id, "job": entry.event.job, "action": "RunCommandAction"}
        record.add([entry.event, Result.model_validate({**reported, "status": "queued", "message": "", "at": 0})])
    assert queued.run("--cmd", "actions").returncode == 0
    path = queued.queue.place(damaged)
    (path.parent / "done" / path.name).write_text("{")
    result = queued.run("--cmd", "events", "--json")
    assert result.returncode == 0, result.stderr
    assert f"{damaged.id}.json" in result.stderr
    statuses = {row["id"]: row["actions"][0]["status"] for row in json.loads(result.stdout)["events"]}
    assert statuses == {damaged.event.id: "queued", whole.event.id: "done"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--queue-event", "x"), "--queue-event goes with --cmd queue"),
        (("--cmd", "actions", "--queue-id", "x"), "--queue-id goes with --cmd queue"),
        (("--cmd", "queue", "--follow"), "--follow goes with --cmd actions"),
        (("--cmd", "queue", "--queue-retry"), "which entry?"),
        (("--cmd", "queue", "--queue-id", "x", "--queue-show", "--queue-retry"), "one at a time"),
        (("--cmd", "queue", "--queue-event", "checkpoint_savd"), "did you mean 'checkpoint_saved'"),
        (("--cmd", "queue", "--queue-id", "zzz"), "there is no entry 'zzz' in the queue"),
        (("--cmd", "actions", "--jobs", "0"), "is not a whole number from 1 to"),
        (("--cmd", "actions", "--once", "--follow"), "go on, or stop after one pass?"),
    ],
)
def test_wrong_use_is_reported(queued: Queued, words: tuple[str, ...], why: str) -> None:
    queued.put("true")
    result = queued.run(*words)
    assert result.returncode == 2
    assert why in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slurm
def test_an_action_runs_as_a_slurm_job_once_although_its_worker_is_killed(slurm_user: User) -> None:
    queued = Queued(slurm_user, "slurm=base")
    script = "echo x >> runs; while ! [ -e go ]; do sleep 0.1; done; echo job $SLURM_JOB_ID has $SLURM_CPUS_PER_TASK"
    sbatch = {"time": "00:05:00", "cpus_per_task": 2, "mem": "200M", "nice": 1}
    entry = queued.put("sh", "-c", script, executor={"cluster": "slurm", "sbatch": sbatch})
    beside = queued.put("true", number=1)
    worker = queued.worker()
    until(lambda: queued.runs, "the job to begin")
    until(lambda: queued.queue.get(beside.id).status == "done", "the other entry, which does not wait for the job")
    until(lambda: (job := queued.queue.get(entry.id).sidecar) and job.job_id, "the id to be noted")
    worker.kill()
    worker.wait()
    listed = queued.run("--cmd", "queue").stdout
    sidecar = queued.queue.get(entry.id).sidecar
    assert sidecar is not None
    assert f"running as job {sidecar.job_id}" in listed
    (slurm_user.home / "go").touch()
    done = queued.run("--cmd", "actions")
    assert done.returncode == 0, done.stdout + done.stderr
    found = queued.queue.get(entry.id)
    assert (found.status, found.message, found.attempts) == ("done", f"job {sidecar.job_id} has 2", 1)
    assert queued.runs == {"x": 1}


@pytest.mark.slurm
def test_an_action_that_slurm_refuses_or_ends_has_failed_with_its_words(slurm_user: User) -> None:
    queued = Queued(slurm_user, "slurm=base")
    refused = queued.put("true", executor={"cluster": "slurm", "sbatch": {"partition": "none"}})
    ended = queued.put("sh", "-c", "scancel $SLURM_JOB_ID; sleep 100", number=1, executor={"cluster": "slurm"})
    failed = queued.put("sh", "-c", "echo no; exit 5", number=2, executor={"cluster": "slurm"})
    assert queued.run("--cmd", "actions").returncode == 1
    assert "invalid partition" in queued.queue.get(refused.id).message.lower()
    assert "CANCELLED" in queued.queue.get(ended.id).message
    assert queued.queue.get(failed.id).message == "exit code 5: no"
