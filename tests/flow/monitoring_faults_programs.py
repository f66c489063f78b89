"""The programs that test_monitoring_faults kills: a monitor and a worker that start at once, as forks of one process.

Run as a module it starts them, on order: each line of its input is a call, each line of its output the answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oellm_autoexp.cli.steps import session_steps
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.engine.observing import log_reader
from oellm_autoexp.engine.worker import Worker
from oellm_autoexp.sbatch.log_paths import resolve_log_path
from oellm_autoexp.schedulers.fake import FakeScheduler
from oellm_autoexp.session import session
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.storage.files import create_atomic
from oellm_autoexp.storage.session_files import SessionFiles

_WRITES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.truncate", "os.utime"}


class KeptJobs(FakeScheduler):
    """A scheduler whose jobs are files: `<number>.json` is a submission, `<number>.state` what became of the job."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def taken(self) -> dict[str, dict[str, Any]]:
        """The submissions by the ids of their jobs, oldest first."""
        numbers = sorted(int(path.stem) for path in self.folder.glob("[0-9]*.json"))
        return {str(number): json.loads((self.folder / f"{number}.json").read_text()) for number in numbers}

    def log_of(self, job: str) -> Path:
        """Where a job writes to."""
        return Path(resolve_log_path(self.taken()[job]["log_path"], job))

    def end(self, job: str, state: str) -> None:
        """Let a job end."""
        create_atomic(self.folder / f"{job}.state", state, sync=False)

    def submit(self, submission: Submission) -> str:
        number = len(self.taken()) + 1
        assert create_atomic(self.folder / f"{number}.json", json.dumps(asdict(submission)), sync=False)
        return str(number)

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        wanted = {submission.token for submission in submissions}
        return {reported["token"]: job for job, reported in self.taken().items() if reported["token"] in wanted}

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        return {job: self._status(job) for job in jobs if (self.folder / f"{job}.json").exists()}

    def _status(self, job: str) -> JobStatus:
        try:
            state = (self.folder / f"{job}.state").read_text()
        except FileNotFoundError:
            return JobStatus("RUNNING")
        return JobStatus(state, exit_code=0 if state == "COMPLETED" else 1)


# ---- how they die


def die_at(step: int, home: Path, role: str) -> None:
    """Have this process killed before its write or program of that number; a write that lasts is cut in two first.

    Where it died is added to the file `deaths`.
    """
    left = step
    deaths = (home / "deaths").open("ab")

    def passed(what: str) -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            deaths.write(f"{role}: {what}\n".encode())
            deaths.flush()
        return left == 0

    def audit(event: str, args: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        of_ours = str(home) in "".join(map(str, args[:2]))
        if (event == "subprocess.Popen" or ((opens or event in _WRITES) and of_ours)) and passed(
            f"{event} {place(args[1] if event in ('os.rename', 'os.link') else args[0])}"
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    real = os.fsync

    def fsync(file: int) -> None:
        if passed(f"fsync {place(os.path.realpath(f'/proc/self/fd/{file}'))}"):
            with contextlib.suppress(OSError):  # a folder, or open for reading only
                tear(file, step)
            os.kill(os.getpid(), signal.SIGKILL)
        real(file)

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(audit)


def place(path: object) -> str:
    """What kind of file a path names."""
    text = str(path)
    return "".join(Path(text).suffixes[-2:]) if "/" in text else text


def tear(file: int, chance: int) -> None:
    """Leave just a part of the last line of a file, as a write does that a crash has cut short."""
    with open(f"/proc/self/fd/{file}", "rb") as content:  # noqa: PTH123  it is not a path of the file system
        data = content.read()
    begin = data.rfind(b"\n", 0, len(data) - 1) + 1
    os.ftruncate(file, begin + (chance * 7919) % max(1, len(data) - begin))


# ---- what they do


def monitor(home: Path, manifest_path: Path, *, journal: bool, budget: int | None) -> int:
    """Watch a session to its end, in quick cycles."""
    if journal:
        session._SNAPSHOT_ALWAYS_BELOW = 0
    if budget is not None:
        log_reader._LOG_BYTES_PER_POLL = budget
    manifest = session_steps.load_manifest(manifest_path)
    with session_steps.session(manifest, manifest_path, KeptJobs(home / "jobs")) as watch:
        while True:
            watch.cycle()
            if watch.session.finished:
                return 0
            watch.wait(watch.interval_seconds)


def worker(home: Path, manifest_path: Path, *, jobs: int) -> int:
    """Carry out what is in the queue, until there is a file `over` and the queue is empty."""
    manifest = session_steps.load_manifest(manifest_path)
    queue = Queue(SessionFiles.of(manifest).path)
    errors: list[AutoexpError] = []
    while True:
        over = (home / "over").exists()
        Worker(queue, manifest, jobs=jobs, report=errors.append).run()
        if errors:
            raise errors[0]
        if over:
            return 0
        time.sleep(0.01)


ROLES: Mapping[str, Callable[..., int]] = {"monitor": monitor, "worker": worker}


def begin(role: str, home: str, manifest: str, step: int, more: Mapping[str, Any]) -> int:
    """Fork a program that dies before its write of that number (0: it does not)."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        log = os.open(f"{home}/{role}.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, file in enumerate((nothing, log, log)):
            os.dup2(file, number)
        if step:
            die_at(step, Path(home), role)
        code = ROLES[role](Path(home), Path(manifest), **more)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Do what the lines of the input ask for: begin a program, or report how it ended (null: it runs)."""
    for line in sys.stdin:
        order = json.loads(line)
        if "pid" in order:
            pid, status = os.waitpid(order["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = begin(**order)
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.modules["tests.flow.monitoring_faults_programs"] = sys.modules["__main__"]
    serve()
