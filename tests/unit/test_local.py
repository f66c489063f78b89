"""The local scheduler with real processes: whoever dies, a job is run once, within its limits, and its end is known."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import SchedulerError, SubmitError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.core.states import ENDED
from oellm_autoexp.core.text import digest
from oellm_autoexp.schedulers.local.records import Run, no_process
from oellm_autoexp.schedulers.local.scheduler import LocalScheduler
from oellm_autoexp.schedulers.local.spool import Spool
from oellm_autoexp.storage.lock import process_started
from tests.folders import remove

PATIENCE_SECONDS = 180
ROOT = Path(__file__).resolve().parents[2]


def until(what: str, done: Callable[[], bool]) -> None:
    """Return when `done` holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Bench:
    """A folder with scripts and a spool, and a client of it. Nothing of it runs on after the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.client = self.another()
        self._count = 0

    def another(self, slots: int = 2, grace: float = 30) -> LocalScheduler:
        """One more client of the same spool, as another process would have."""
        return LocalScheduler(self.spool, slots, grace)

    def submission(self, body: str, **more: Any) -> Submission:
        self._count += 1
        script = self.folder / f"script {self._count}"
        script.write_text(f"#!/bin/bash\n{body}\n")
        log = str(self.folder / "logs" / "%j.log")
        return replace(Submission(f"token{self._count}", "name", str(script), str(self.folder), log), **more)

    def submit(self, body: str, **more: Any) -> str:
        return self.client.submit(self.submission(body, **more))

    def status(self, job: str, client: LocalScheduler | None = None) -> JobStatus:
        return (client or self.client).poll(dict.fromkeys([job], ""))[job]

    def state(self, job: str) -> str:
        return self.status(job).scheduler_state

    def end(self, job: str, client: LocalScheduler | None = None) -> JobStatus:
        """The status of a job once it has ended."""
        until(f"the end of {job}", lambda: self.status(job, client).scheduler_state in ENDED)
        return self.status(job, client)

    def log(self, job: str) -> str:
        path = self.folder / "logs" / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def says(self, job: str, text: str) -> None:
        """Wait until a job has written something."""
        until(f"{text!r} in {job}'s log", lambda: text in self.log(job))

    def run(self, job: str) -> Run:
        run = Spool(self.spool).run(job)
        assert run is not None
        return run

    def workers(self) -> list[int]:
        """The pids of this spool's workers; their forks, which have their words until they begin a job, are none."""
        found = self._alike()
        return [pid for pid, parent in found.items() if parent not in found]

    def _alike(self) -> dict[int, int]:
        """The pids of this spool's workers and of their forks, each with its parent's."""
        found: dict[int, int] = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
                parent = int(path.with_name("stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"oellm_autoexp.schedulers.local.worker" in words and os.fsencode(self.spool) in words:
                found[int(path.parent.name)] = parent
        return found

    def kill_workers(self) -> None:
        """Kill them all. A job that has not said anything yet may still be its worker's fork, and die with it."""
        killed = [*self._alike()]
        for pid in killed:
            kill(pid)
        # a dying process has no command line any more, and yet counts as one that lives
        until("the death of the workers", lambda: not any(map(process_started, [*killed, *self.workers()])))

    def let_pass(self, job: str, seconds: float) -> None:
        """Kill the workers, and make a job as much older."""
        self.kill_workers()
        path = self.spool / f"{job}.run"
        run = json.loads(path.read_text())
        path.write_text(json.dumps({**run, "at": run["at"] - seconds}))

    def close(self) -> None:
        self.kill_workers()
        begun = {json.loads(path.read_bytes() or b'{"pid": 0}')["pid"] for path in self.spool.glob("*.run")} - {0}
        for leader, members in sessions().items():
            if leader in begun:
                for member in members:
                    kill(member)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def sessions() -> dict[int, list[int]]:
    """Living processes by session."""
    found: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(ProcessLookupError):
            if process_started(int(name)) is not None:
                found.setdefault(os.getsid(int(name)), []).append(int(name))
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


# --- whoever dies -----------------------------------------------------------------------------------------------------

SUBMIT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from oellm_autoexp.core.nouns import Submission
from oellm_autoexp.schedulers.local.scheduler import LocalScheduler
folder = sys.argv[1]
submission = Submission("token", "name", sys.argv[2], folder, folder + "/logs/%j.log")
LocalScheduler(Path(folder, "spool"), 1).submit(submission)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_outlives_its_killed_submitter_and_workers_and_its_exit_code_is_known(bench: Bench) -> None:
    script = bench.submission(
        f"echo here; until [ -e {shlex.quote(str(bench.folder))}/go ]; do sleep 0.02; done; exit 7"
    ).script_path
    words = [sys.executable, "-c", SUBMIT_AND_DIE, str(bench.folder), script]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    bench.says("1", "here")
    bench.kill_workers()
    assert bench.state("1") == "RUNNING"
    (bench.folder / "go").touch()
    assert bench.end("1") == JobStatus(
        "FAILED", "NonZeroExitCode", 7, bench.run("1").host, f"{bench.folder}/logs/1.log"
    )
    assert bench.status("1", bench.another()) == bench.status("1")


def test_numbers_that_begin_anew_are_new_jobs_for_workers_of_before(bench: Bench) -> None:
    client = bench.another(slots=1)
    first = client.submit(bench.submission("exit 7"))
    assert bench.end(first, client).exit_code == 7
    remove(bench.spool)  # its worker still waits for more
    until("the worker's look at the empty folder", lambda: len(bench.workers()) == 1)
    second = bench.another(slots=1).submit(bench.submission("echo second"))
    assert (first, second) == ("1", "1")
    assert bench.end(second, bench.another()).scheduler_state == "COMPLETED"
    bench.says(second, "second")
    assert bench.status(second, client).scheduler_state == "COMPLETED"


def test_the_end_of_a_job_whose_folder_was_removed_is_not_that_of_its_numbers_next_job(bench: Bench) -> None:
    wait = "echo {0}; until [ -e {1} ]; do sleep 0.02; done; exit {0}"
    old, new = (wait.format(code, shlex.quote(str(bench.folder / f"go{code}"))) for code in (7, 3))
    client = bench.another(slots=1)
    job = client.submit(bench.submission(old, log_path=str(bench.folder / "old.log")))
    until("its start", lambda: (bench.folder / "old.log").exists() and "7" in (bench.folder / "old.log").read_text())
    remove(bench.spool)
    assert bench.another(slots=1).submit(bench.submission(new)) == job
    bench.says(job, "3")
    (bench.folder / "go7").touch()
    time.sleep(1)  # the old worker looks four times in a second
    assert bench.state(job) == "RUNNING"
    (bench.folder / "go3").touch()
    assert bench.end(job).exit_code == 3


def test_jobs_whose_worker_died_keep_filling_its_slot(bench: Bench) -> None:
    client = bench.another(slots=1)
    first, second = (client.submit(bench.submission("echo here; sleep 100")) for _ in range(2))
    bench.says(first, "here")
    bench.kill_workers()
    client = bench.another(slots=1)
    until("a new worker", lambda: bool(client.poll(dict.fromkeys([first, second], ""))) and len(bench.workers()) == 1)
    until("its claim", lambda: client._lock(0).holder() is not None)
    for _ in range(20):
        assert bench.status(second, client).scheduler_state == "PENDING"
        time.sleep(0.01)
    client.cancel(dict.fromkeys([first], ""))
    assert bench.end(first, client).scheduler_state == "CANCELLED"
    bench.says(second, "here")


def test_a_job_without_a_worker_is_held_to_its_time_limit_by_who_polls(bench: Bench) -> None:
    job = bench.submit("trap '' TERM; echo here; while true; do sleep 1; done", time_limit_seconds=1)
    bench.says(job, "here")
    bench.kill_workers()
    client = bench.another(grace=0.2)
    assert bench.end(job, client).scheduler_state == "TIMEOUT"
    assert bench.run(job).pid not in sessions()


def test_a_job_that_was_killed_with_its_shell_while_no_worker_lived_is_lost_with_its_node(bench: Bench) -> None:
    job = bench.submit("echo here; sleep 100")
    bench.says(job, "here")
    bench.kill_workers()
    os.killpg(bench.run(job).pid, signal.SIGKILL)
    status = bench.end(job)
    assert (status.scheduler_state, status.exit_code) == ("NODE_FAIL", None)


@pytest.mark.parametrize("started", ["", "earlier boot.12345"])
def test_after_a_reboot_a_job_that_had_begun_is_lost_with_its_node(bench: Bench, started: str) -> None:
    """Its pid may belong to somebody else by then: to this very process, for one."""
    spool = Spool(bench.spool)
    job = spool.add(bench.submission("true", time_limit_seconds=1), {})
    assert spool.begin(job, Run(socket.gethostname(), os.getpid(), started, 0.0, 0, os.getpid(), started))
    assert bench.state(job) == "NODE_FAIL"
    assert bench.state(job) == "NODE_FAIL"


def test_what_runs_on_another_host_is_left_to_its_worker_there(bench: Bench) -> None:
    spool = Spool(bench.spool)
    job = spool.add(bench.submission("true", time_limit_seconds=1), {})
    assert spool.begin(job, Run("elsewhere", 1, "x", 0.0, 0, 1, "x"))
    assert bench.status(job).nodes == "elsewhere"
    assert bench.state(job) == "RUNNING"
    bench.client.cancel(dict.fromkeys([job], ""))
    assert bench.state(job) == "RUNNING"
    assert spool.stopped(job) == "CANCELLED"


def test_a_killed_job_has_the_exit_code_that_a_shell_would_give_it(bench: Bench) -> None:
    shell = bench.submit("kill -9 $PPID; sleep 100")
    script = bench.submit("kill -9 $$")
    for job in (shell, script):
        status = bench.end(job)
        assert (status.scheduler_state, status.exit_code) == ("FAILED", 137)


# --- slots ------------------------------------------------------------------------------------------------------------


def test_no_more_jobs_run_at_once_than_there_are_slots_and_all_slots_are_used(bench: Bench) -> None:
    log = bench.folder / "log"
    client = bench.another(slots=3)
    place, go = shlex.quote(str(log)), shlex.quote(str(bench.folder / "go"))
    body = f"echo + >> {place}; until [ -e {go} ]; do sleep 0.02; done; echo - >> {place}"
    jobs = [client.submit(bench.submission(body)) for _ in range(15)]

    def states() -> set[str]:
        return {status.scheduler_state for status in client.poll(dict.fromkeys(jobs, "")).values()}

    until("the use of all slots", lambda: log.exists() and len(log.read_text().splitlines()) >= 3)
    for _ in range(20):
        assert states() == {"RUNNING", "PENDING"}
    (bench.folder / "go").touch()
    until("the end of all", lambda: states() == {"COMPLETED"})
    active, most = 0, 0
    for line in log.read_text().splitlines():
        active += 1 if line == "+" else -1
        most = max(most, active)
    assert most == 3


SUBMIT_MANY = """
import sys
from pathlib import Path
from oellm_autoexp.core.nouns import Submission
from oellm_autoexp.schedulers.local.scheduler import LocalScheduler
folder, script, number = sys.argv[1:]
client = LocalScheduler(Path(folder, "spool"), 2)
for count in range(50):
    submission = Submission(f"{number}-{count}", "name", script, folder, "/dev/null")
    print(client.submit(submission))
"""


@pytest.mark.slow
def test_four_submitters_at_once_start_every_job_once(bench: Bench) -> None:
    log = bench.folder / "log"
    script = bench.submission(f'echo "$SLURM_JOB_ID" >> {shlex.quote(str(log))}').script_path
    submitters = [
        subprocess.Popen(
            [sys.executable, "-c", SUBMIT_MANY, str(bench.folder), script, str(number)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    jobs = [job for submitter in submitters for job in submitter.communicate(timeout=PATIENCE_SECONDS)[0].split()]
    assert sorted(map(int, jobs)) == list(range(1, 201))
    until(
        "the end of all",
        lambda: (
            {status.scheduler_state for status in bench.client.poll(dict.fromkeys(jobs, "")).values()} == {"COMPLETED"}
        ),
    )
    assert sorted(map(int, log.read_text().split())) == list(range(1, 201))


def test_submitting_starts_no_more_workers_than_slots(bench: Bench) -> None:
    client = bench.another(slots=2)
    for _ in range(20):
        client.submit(bench.submission("sleep 100"))
    until("the workers", lambda: len(bench.workers()) >= 2)
    assert len(bench.workers()) == 2


def test_a_job_that_is_submitted_as_the_last_worker_leaves_is_not_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No poll helps here: after --no-monitor nobody polls."""
    monkeypatch.setattr("oellm_autoexp.schedulers.local.scheduler._WORKER_STAYS_SECONDS", 0.1)
    log = bench.folder / "log"
    log.touch()
    for count in range(1, 9):
        bench.submit(f"echo {count} >> {shlex.quote(str(log))}")
        until(f"job {count}", lambda: len(log.read_text().split()) == count)  # noqa: B023
        time.sleep(random.random() * 0.25)


# --- ends that are asked for ------------------------------------------------------------------------------------------


def test_a_job_that_traps_term_at_its_time_limit_and_ends_well_is_a_timeout(bench: Bench) -> None:
    job = bench.submit("trap 'echo saved; exit 0' TERM; while true; do sleep 0.05; done", time_limit_seconds=1)
    status = bench.end(job)
    assert (status.scheduler_state, status.reason, status.exit_code) == ("TIMEOUT", "TimeLimit", 0)
    assert bench.log(job).count("saved") == 1


def test_a_job_is_reported_once_to_end_however_often_it_is_looked_at(bench: Bench) -> None:
    job = bench.submit("trap 'echo signalled' TERM; echo here; while [ ! -e go ]; do sleep 0.02; done; exit 3")
    bench.says(job, "here")
    for _ in range(10):
        bench.client.cancel(dict.fromkeys([job], ""))
        bench.another().poll(dict.fromkeys([job], ""))
    bench.says(job, "signalled")
    bench.kill_workers()
    bench.another().poll(dict.fromkeys([job], ""))
    (bench.folder / "go").touch()
    status = bench.end(job)
    assert (status.scheduler_state, status.exit_code) == ("CANCELLED", 3)
    assert bench.log(job).count("signalled") == 1


def test_a_job_that_ignores_term_is_killed_after_the_grace_with_all_its_process_groups(bench: Bench) -> None:
    client = bench.another(slots=1, grace=0.3)
    body = "trap '' TERM; timeout 100 sh -c 'trap : TERM; echo here; while true; do sleep 1; done'; sleep 100"
    job = client.submit(bench.submission(body))
    bench.says(job, "here")
    assert len(sessions()[bench.run(job).pid]) >= 4
    client.cancel(dict.fromkeys([job], ""))
    status = bench.end(job, client)
    assert (status.scheduler_state, status.exit_code) == ("CANCELLED", 137)
    assert bench.run(job).pid not in sessions()


def carrying(word: str) -> list[int]:
    """The living processes in whose command line a word stands."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes() and process_started(int(path.parent.name)) is not None:
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("how", ["limit", "cancel", "end"])
def test_processes_in_a_session_of_their_own_end_with_their_job(bench: Bench, how: str) -> None:
    client = bench.another(slots=1, grace=0.3)
    number = str(random.randrange(10**6, 10**7))
    wait = "true" if how == "end" else "wait"
    body = f"setsid sh -c \"trap '' TERM; echo here; while true; do sleep 0.{number}; done\" & sleep 0.5; {wait}"
    job = client.submit(bench.submission(body, time_limit_seconds=1 if how == "limit" else None))
    bench.says(job, "here")
    assert carrying(number)
    if how == "cancel":
        client.cancel(dict.fromkeys([job], ""))
    ended = {"limit": "TIMEOUT", "cancel": "CANCELLED", "end": "COMPLETED"}
    assert bench.end(job, client).scheduler_state == ended[how]
    until("the end of all", lambda: not carrying(number))


def test_a_stopped_job_can_be_ended(bench: Bench) -> None:
    job = bench.submit("echo here; while true; do sleep 0.02; done")
    bench.says(job, "here")
    os.killpg(bench.run(job).pid, signal.SIGSTOP)
    bench.client.cancel(dict.fromkeys([job], ""))
    assert bench.end(job).scheduler_state == "CANCELLED"


def test_what_a_job_leaves_running_in_the_background_ends_with_it(bench: Bench) -> None:
    job = bench.submit("(trap '' TERM HUP; timeout 100 sleep 100) & echo here")
    assert bench.end(job).exit_code == 0
    assert bench.run(job).pid not in sessions()


@pytest.mark.slow
def test_cancelling_a_job_as_it_starts_leaves_nothing_running(bench: Bench) -> None:
    client = bench.another(slots=2, grace=0.2)
    jobs = [client.submit(bench.submission("sleep 100")) for _ in range(40)]
    until("a start", lambda: bench.status(jobs[0], client).scheduler_state == "RUNNING")
    for job in jobs:
        client.cancel(dict.fromkeys([job], ""))
        time.sleep(random.random() * 0.03)
    until(
        "the end of all",
        lambda: {status.scheduler_state for status in client.poll(dict.fromkeys(jobs, "")).values()} == {"CANCELLED"},
    )
    begun = {json.loads(path.read_text())["pid"] for path in bench.spool.glob("*.run")} - {0}
    assert begun
    assert not begun & sessions().keys()


def test_a_cancel_that_died_half_way_is_brought_to_its_end(bench: Bench) -> None:
    spool = Spool(bench.spool)
    asked, taken = (spool.add(bench.submission("echo here"), dict(os.environ)) for _ in range(2))
    spool.stop(asked, "CANCELLED")
    spool.stop(taken, "CANCELLED")
    assert spool.begin(taken, no_process())
    assert {bench.state(asked), bench.state(taken)} == {"CANCELLED"}
    third = bench.submit("true")
    bench.end(third)
    assert bench.log(asked) + bench.log(taken) == ""


def test_a_job_that_has_ended_can_not_be_cancelled_any_more(bench: Bench) -> None:
    job = bench.submit("exit 3")
    until("its exit code", lambda: (bench.spool / f"{job}.code").exists())
    bench.client.cancel(dict.fromkeys([job, "77", "77_1", "nonsense"], ""))
    assert bench.end(job) == bench.status(job)
    assert bench.state(job) == "FAILED"


# --- the signal before the time limit ---------------------------------------------------------------------------------

CHILD = """
import os, signal, time
signal.signal(signal.SIGALRM, lambda *_: os.write(1, b"child signalled\\n"))
os.write(1, b"here\\n")
while not os.path.exists("go"):
    time.sleep(0.02)
"""
ASKS = """\
#SBATCH --signal={asked}@3600
trap 'echo shell signalled' ALRM
{python} -c {child} &
while [ ! -e go ]; do sleep 0.02; done
wait
exit 3"""


def asks(asked: str) -> str:
    """A script that asks for a signal an hour before its limit; it and its child print when they get one."""
    return ASKS.format(asked=asked, python=shlex.quote(sys.executable), child=shlex.quote(CHILD))


LIMIT_SECONDS, ALMOST_SECONDS = 36_000, 34_000


@pytest.mark.parametrize(("signal_option", "message"), [("B:ALRM", "shell"), ("SIGALRM", "child"), ("R:14", "child")])
def test_a_signal_before_the_limit_reaches_once_the_script_alone_or_all_but_it(
    bench: Bench, signal_option: str, message: str
) -> None:
    job = bench.submit(asks(signal_option), time_limit_seconds=LIMIT_SECONDS)
    bench.says(job, "here")
    bench.let_pass(job, ALMOST_SECONDS)
    for _ in range(10):
        assert bench.status(job, bench.another()).scheduler_state == "RUNNING"
    bench.says(job, f"{message} signalled")
    assert bench.status(job, bench.another()).scheduler_state == "RUNNING"
    (bench.folder / "go").touch()
    status = bench.end(job)
    assert (status.scheduler_state, status.exit_code) == ("FAILED", 3)
    assert bench.log(job).count(" signalled") == 1


def test_a_worker_sends_the_signal_of_the_job_that_it_has_taken_over(bench: Bench) -> None:
    job = bench.another(slots=1).submit(bench.submission(asks("B:ALRM"), time_limit_seconds=LIMIT_SECONDS))
    bench.says(job, "here")
    bench.let_pass(job, ALMOST_SECONDS)
    bench.another(slots=1).submit(bench.submission("true"))
    bench.says(job, "shell signalled")


def test_no_signal_is_sent_before_its_time_or_without_a_time_limit(bench: Bench) -> None:
    early = bench.submit(asks("ALRM"), time_limit_seconds=LIMIT_SECONDS)
    unlimited = bench.submit(asks("B:ALRM"))
    for job in (early, unlimited):
        bench.says(job, "here")
    for job in (early, unlimited):
        bench.let_pass(job, ALMOST_SECONDS / 2)
    for _ in range(10):
        assert {
            status.scheduler_state for status in bench.another().poll(dict.fromkeys([early, unlimited], "")).values()
        } == {"RUNNING"}
    (bench.folder / "go").touch()
    for job in (early, unlimited):
        assert bench.end(job).exit_code == 3
        assert bench.log(job) == "here\n"


# --- jobs that can not be started -------------------------------------------------------------------------------------


def test_a_job_that_can_not_be_started_has_failed_and_says_why(bench: Bench) -> None:
    client = bench.another(slots=1)
    (bench.folder / "file").touch()
    first = bench.submission("while [ ! -e go ]; do sleep 0.02; done")
    gone = bench.submission("true")
    no_log = bench.submission("true", log_path=str(bench.folder / "file" / "%j.log"))
    no_folder = replace(bench.submission("true"), work_dir=str(bench.folder / "none"))
    no_program = bench.submission("true")
    Path(no_program.script_path).write_text("#!/no/such/program\n")
    jobs = [client.submit(submission) for submission in (first, gone, no_log, no_folder, no_program)]
    Path(gone.script_path).unlink()
    (bench.folder / "go").touch()
    ends = [bench.end(job, client) for job in jobs]
    assert [end.scheduler_state for end in ends] == ["COMPLETED", *["FAILED"] * 4]
    assert [end.exit_code for end in ends] == [0, None, None, None, 127]
    for end, what in zip(ends[1:4], (gone.script_path, str(bench.folder / "file"), no_folder.work_dir), strict=True):
        assert re.fullmatch(f"can't start: .*: '{what}'", end.reason)
    assert bench.log(jobs[1]) == f"job {jobs[1]} {ends[1].reason}\n"
    assert (bench.spool / "workers.log").read_text() == f"job {jobs[2]} {ends[2].reason}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Batch script is empty!"),
        (b"echo no first line\n", "does not look like a batch script"),
        (b"#!\n", "does not look like a batch script"),
        (b"#!/bin/bash\r\necho\r\n", "DOS line breaks"),
        (b"#!/bin/bash\n# \xff\n#SBATCH --signal=B:NOPE@60\n", "Invalid --signal specification"),
    ],
)
def test_what_sbatch_refuses_is_refused(bench: Bench, content: bytes, message: str) -> None:
    submission = bench.submission("")
    Path(submission.script_path).write_bytes(content)
    with pytest.raises(SubmitError, match=message):
        bench.client.submit(submission)
    assert bench.client.find([submission]) == {}


def test_a_script_may_be_of_any_language_and_need_not_be_executable(bench: Bench) -> None:
    submission = bench.submission("")
    Path(submission.script_path).write_text(
        f"#!{sys.executable} -I\nimport sys\nprint(sys.flags.isolated)\nsys.exit(5)\n"
    )
    job = bench.client.submit(submission)
    assert bench.end(job).exit_code == 5
    assert bench.log(job) == "1\n"


# --- what a job gets --------------------------------------------------------------------------------------------------


def test_a_job_gets_its_own_variables_and_none_of_a_surrounding_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "98")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("ODD", os.fsdecode(b"\xff 'x' $(touch no)\n"))
    job = bench.submit(
        'echo "$SLURM_JOB_ID" "$SLURM_ARRAY_JOB_ID" "$SLURM_CONF" "$SLURM_JOB_NAME"; printf %s "$ODD" > odd'
    )
    assert bench.end(job).exit_code == 0
    assert bench.log(job) == f"{job}  /etc/slurm.conf name.token1\n"
    assert (bench.folder / "odd").read_bytes() == b"\xff 'x' $(touch no)\n"


def test_signals_that_were_ignored_around_the_submitter_work_in_a_job(bench: Bench) -> None:
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    try:
        job = bench.submit("kill -HUP $$; echo not reached")
        assert bench.end(job).exit_code == 128 + signal.SIGHUP
    finally:
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)


def test_the_environment_in_the_spool_is_for_its_owners_eyes_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    go = bench.folder / "go"
    job = bench.submit(f"until [ -e '{go}' ]; do sleep 0.02; done")

    def holding() -> list[Path]:
        return [path for path in bench.spool.iterdir() if b"secret" in path.read_bytes()]

    assert holding() == [bench.spool / f"{job}.env"]
    assert stat.S_IMODE(holding()[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(bench.spool.stat().st_mode) == 0o700
    go.touch()
    bench.end(job)
    until("the environment to go", lambda: not holding())


def test_a_task_that_begins_late_has_the_environment_of_its_array(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAID", "hello")
    client = bench.another(slots=1)
    log = str(bench.folder / "logs" / "%A_%a.log")
    job = client.submit(bench.submission("echo $SAID", array=(0, 1, 2), log_path=log))
    for task in range(3):
        bench.end(f"{job}_{task}", client)
        assert bench.log(f"{job}_{task}") == "hello\n"
    until("the environment to go", lambda: not (bench.spool / f"{job}.env").exists())


# --- file systems -----------------------------------------------------------------------------------------------------

WORK_WITHOUT_LINKS = """
import errno, os, runpy
def refuse(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")
os.link = refuse
runpy.run_module("oellm_autoexp.schedulers.local.worker", run_name="__main__")
"""


@pytest.mark.slow
def test_everything_works_where_there_are_no_hard_links(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    log = bench.folder / "log"
    jobs = [bench.submit(f'echo "$SLURM_JOB_ID" >> {shlex.quote(str(log))}; exit 3') for _ in range(40)]
    bench.kill_workers()  # those had hard links
    with contextlib.ExitStack() as stack:
        words = [[sys.executable, "-c", WORK_WITHOUT_LINKS, str(bench.spool), str(slot), "1", "1"] for slot in range(2)]
        workers = [stack.enter_context(subprocess.Popen(argv, cwd=ROOT)) for argv in words]

        def all_ended() -> bool:
            return all(each.scheduler_state in ENDED for each in bench.client.poll(dict.fromkeys(jobs, "")).values())

        until("all", all_ended)
        lost = [job for job in jobs if bench.state(job) == "NODE_FAIL"]
        assert len(lost) <= 2, "but for what ran as its worker was killed"
        assert len(set(log.read_text().split())) == len(log.read_text().split())
        assert {bench.status(job).exit_code for job in jobs if job not in lost} == {3}
        assert [worker.wait(PATIENCE_SECONDS) for worker in workers] == [0, 0]


# --- what can't be used -----------------------------------------------------------------------------------------------


def test_a_script_that_was_changed_while_its_job_waited_is_not_run(bench: Bench) -> None:
    client = bench.another(slots=1)
    held = client.submit(bench.submission("sleep 100"))
    until("the first job", lambda: client.poll(dict.fromkeys([held], ""))[held].scheduler_state == "RUNNING")
    waits = bench.submission(f"touch {bench.folder}/planned")
    path = Path(waits.script_path)
    job = client.submit(replace(waits, script_digest=digest(path.read_text())))
    path.write_text(f"#!/bin/sh\ntouch {bench.folder}/changed\n")
    client.cancel(dict.fromkeys([held], ""))
    until("its end", lambda: client.poll(dict.fromkeys([job], ""))[job].scheduler_state == "FAILED")
    assert "this is not the script that was planned" in client.poll(dict.fromkeys([job], ""))[job].reason
    assert not (bench.folder / "changed").exists()
    with pytest.raises(SubmitError, match="this is not the script that was planned"):
        client.submit(replace(waits, script_digest=digest("another")))


def test_a_spool_that_can_not_be_written_refuses(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    client = LocalScheduler(tmp_path / "spool", 1)
    with pytest.raises(SubmitError, match="is at the place where a folder must be created"):
        client.submit(Submission("token", "name", str(script), str(tmp_path), "/dev/null"))
    asks: list[Callable[[], object]] = [
        lambda: client.poll(dict.fromkeys(["1"], "")),
        lambda: client.find([]),
        lambda: client.cancel(dict.fromkeys(["1"], "")),
    ]
    for ask in asks:
        with pytest.raises(SchedulerError, match="can't use the local scheduler's files"):
            ask()
