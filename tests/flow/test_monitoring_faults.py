"""Whatever dies, and whatever becomes of the log: each line that matches makes one event, each action runs once.

`AUTOEXP_FAULT_ROUNDS` sets how many monitors and workers are killed (32 by default), `AUTOEXP_FAULT_SEED` the seed of
the first life of a plan; each life has its own, which is shown when it fails.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.rules.events import Event
from oellm_autoexp.session.event_log import EventLog, Result
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.queue_entry import QueueEntry
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User, until
from tests.flow.monitoring_faults_programs import KeptJobs

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("AUTOEXP_FAULT_ROUNDS", "32"))
SEED = int(os.environ.get("AUTOEXP_FAULT_SEED") or random.randrange(1 << 32))
KILLS = 12
"""How many programs are killed in the life of one plan."""
MOST_LINES = 60
MOST_UNREAD = 12
LAST_WRITE = {"monitor": 90, "worker": 45}
"""A program that is not killed before, has by then passed every place where it writes."""
LIFE_SECONDS = 60
ROOT = Path(__file__).resolve().parents[2]

NOISE = (
    b"",
    b"plain",
    b"$(touch pwned) `touch pwned` ; touch pwned | \"'\\",
    b"{number} {0} {job.name} {{}} %s %(number)s ${x}",
    b"\x1b[31mred\x1b[0m\x1b]0;title\x07",
    b"\x00zero\x00",
    b"\xff\xfe\xc3( not UTF-8 \xed\xa0\x80",
    "Übergröße ✓ 漢字 🙂\u2028\u0085".encode(),
    b"checkpoint saved",
    b"checkpoint  5 saved",
    b"checkpoint 5",
    b"checkpoint {number} saved",
    b"x" * 5000,
)
ENDS = (b"\n", b"\n", b"\r\n", b"\r")


def rules(home: Path) -> dict[str, Any]:
    """Each match is logged, noted by the monitor, and noted by a worker; a crash makes a new attempt."""

    def note(where: str) -> dict[str, Any]:
        command = ["sh", "-c", 'printf "%s\\n" "$1" >> "$0"', str(home / where), "{number}"]
        return {"class_name": "RunCommandAction", "command": command}

    return {
        "poll_interval_seconds": 0.02,
        "log_events": {
            "saved": {
                "name": "saved",
                "pattern": r"checkpoint (?P<number>\d+) saved(?P<text>.*)",
                "actions": [
                    {"class_name": "LogAction", "message": "{number}{text}"},
                    note("inline"),
                    {"class_name": "EventAction", "mode": "queue", "action": note("queued")},
                ],
            }
        },
        "state_events": {
            "crash": {"name": "crash", "actions": [{"class_name": "RestartAction", "max_attempts": None}]}
        },
    }


class Nursery:
    """Starts the programs, as forks of a process that has loaded everything."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.flow.monitoring_faults_programs"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a plan of one job, to be copied."""
    home = tmp_path_factory.mktemp("planned") / "home"
    home.mkdir()
    user = User(home, {"PATH": os.environ["PATH"], "HOME": str(home)})
    result = user.run("plan", "project=default", "sweep.grids=[{stage:[a]}]", "--plan-id", "p")
    assert result.returncode == 0, result.stderr
    return home


@dataclass
class Program:
    """A monitor or a worker that is begun again whenever it was killed. `order(step)` is what begins it."""

    nursery: Nursery
    role: str
    order: Callable[[int], Mapping[str, Any]]
    chance: random.Random
    pid: int = 0
    kill_at: float = 0
    deaths: int = 0
    ended: bool = False

    def look(self, *, spare: bool) -> None:
        """Begin it if it is not there, and kill it when its time has come; one that is spared is left alone."""
        if self.ended:
            return
        if self.pid:
            code = self.nursery.ask(pid=self.pid)
            if code is None:
                if not spare and time.monotonic() >= self.kill_at:
                    os.kill(self.pid, signal.SIGKILL)
                return
            self.pid = 0
            if code != -signal.SIGKILL:
                assert code == 0, f"the {self.role} failed"
                self.ended = True
                return
            self.deaths += 1
        at_a_write = not spare and self.chance.random() < 0.7
        step = self.chance.randint(1, LAST_WRITE[self.role]) if at_a_write else 0
        longest = 0.6 if at_a_write else 0.25
        self.kill_at = time.monotonic() + self.chance.uniform(0.01, longest)
        self.pid = self.nursery.ask(role=self.role, step=step, **self.order(step))

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            while self.nursery.ask(pid=self.pid) is None:
                time.sleep(0.001)


@dataclass
class Life:
    """A plan of one job, from its submission to its end, by a seed. `troubles` are what may become of its log.

    A line of `certain` must make one event, one of `possible` at most one: it was cut away, perhaps unread.
    """

    home: Path
    nursery: Nursery
    troubles: Sequence[str]
    seed: int
    certain: set[int] = field(default_factory=set)
    possible: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.manifest = self.home / "outputs" / "manifests" / "p.json"
        self.jobs = KeptJobs(self.home / "jobs")
        self.state = SessionFiles.named(self.home / "outputs" / "monitoring_state", "p").path
        self.record = EventLog(self.state)
        self.in_file: set[int] = set()
        self.rest = b""
        self.number = 0
        self.crashes = 0
        self.log: Path | None = None
        self.big_left = 1
        sizes = {"home": str(self.home), "manifest": str(self.manifest)}

        def watching(_step: int) -> dict[str, Any]:
            more = {"journal": self.chance.random() < 0.5, "budget": self.chance.choice([None, 100])}
            return {**sizes, "more": more}

        def working(_step: int) -> dict[str, Any]:
            return {**sizes, "more": {"jobs": self.chance.randint(1, 3)}}

        self.monitor = Program(self.nursery, "monitor", watching, self.chance)
        self.worker = Program(self.nursery, "worker", working, self.chance)

    # ---- what can be seen from outside

    @property
    def job(self) -> JobState:
        (job,) = Session.load(self.state).jobs.values()
        return job

    def events(self, name: str) -> list[Event]:
        return [entry for entry in self.record.entries() if isinstance(entry, Event) and entry.name == name]

    def numbers(self) -> list[int]:
        return [int(event.metadata["number"]) for event in self.events("saved")]

    def ran(self, where: str) -> Counter[int]:
        path = self.home / where
        return Counter(map(int, path.read_text().split())) if path.exists() else Counter()

    # ---- the job and its log

    def line(self) -> bytes:
        noise, end = self.chance.choice(NOISE), self.chance.choice(ENDS)
        if self.big_left and self.chance.random() < 0.01:
            self.big_left = 0
            return b"y" * self.chance.choice([1 << 20, 1_500_000, 3 << 20, 10_000_000]) + end
        if self.number >= MOST_LINES or self.chance.random() < 0.5:
            return noise + end
        self.number += 1
        self.in_file.add(self.number)
        return noise + b" checkpoint %d saved" % self.number + self.chance.choice(NOISE) + end

    def grow(self) -> None:
        """Write up to any byte: also within a number, within \\r\\n, or within a character."""
        if len(self.in_file - {*self.numbers()}) < MOST_UNREAD:
            self.rest += b"".join(self.line() for _ in range(self.chance.randrange(4)))
        self.write(self.chance.randint(0, len(self.rest)))

    def write(self, size: int) -> None:
        assert self.log is not None
        with self.log.open("ab") as file:
            file.write(self.rest[:size])
        self.rest = self.rest[size:]

    def add_lines(self) -> None:
        """Write three whole lines that match."""
        for _ in range(3):
            self.number += 1
            self.in_file.add(self.number)
            self.rest += b"checkpoint %d saved\n" % self.number
        self.finish_line()

    def finish_line(self) -> None:
        self.write(len(self.rest))

    def begin_attempt(self) -> None:
        """The job of the newest attempt starts to write, once it was submitted."""
        taken = self.jobs.taken()
        if len(taken) > self.crashes:
            self.log = self.jobs.log_of(str(len(taken)))
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.touch()

    def crash(self) -> None:
        """The job fails; it is submitted anew, and has a new log."""
        if self.crashes == 2:
            return
        self.finish_line()
        self.certain |= self.in_file
        self.in_file = set()
        self.crashes += 1
        self.jobs.end(str(self.crashes), "FAILED")
        self.log = None

    def truncate(self) -> None:
        """Cut the log to nothing. What was in the record by then stays; the other lines of it may be lost."""
        assert self.log is not None
        self.finish_line()
        seen = {*self.numbers()}
        os.truncate(self.log, 0)
        self.certain |= self.in_file & seen
        self.possible |= self.in_file - seen
        self.in_file = set()

    def rotate(self, *, at_once: bool = False) -> None:
        """Move the log to log.1, that to log.2, …; not before it was seen at all, nor twice before that was seen."""
        assert self.log is not None
        known = self.job.logs.cursor.inode
        if not known or (not at_once and known != str(self.log.stat().st_ino)):
            return
        self.finish_line()
        names = [self.log, *(Path(f"{self.log}.{number}") for number in range(1, 99))]
        for newer, older in reversed(list(pairwise(names))):
            if newer.exists():
                newer.replace(older)
        self.log.touch()
        self.certain |= self.in_file
        self.in_file = set()

    def rotate_at_once(self) -> None:
        """Rotate, and again, whatever was seen in between."""
        self.rotate()
        self.grow()
        self.rotate(at_once=True)

    def step(self) -> None:
        if self.log is None:
            self.begin_attempt()
        elif self.chance.random() < 0.06 and self.troubles:
            getattr(self, self.chance.choice(self.troubles))()
        else:
            self.grow()

    def killed_at(self, step: int) -> bool:
        """Whether a monitor is killed before its write of that number, or has long been through with what it found."""
        self.monitor.look(spare=True)
        until(lambda: self.jobs.taken() and self.state.exists() and self.job.newest.scheduler_id, "the submission")
        self.monitor.kill()
        self.begin_attempt()
        self.add_lines()
        order = self.monitor.order(step)
        pid = self.nursery.ask(role="monitor", step=step, **{**order, "more": {**order["more"], "budget": None}})
        end = time.monotonic() + 2
        while (code := self.nursery.ask(pid=pid)) is None and time.monotonic() < end:
            time.sleep(0.005)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.nursery.ask(pid=pid) is not None, "its death")
        self.monitor.pid = 0
        self.monitor.deaths += 1
        return code is not None

    # ---- from its begin to its end

    @property
    def kills(self) -> int:
        return self.monitor.deaths + self.worker.deaths

    def live(self, step: int | None = None) -> None:
        """From the first to the last line, with random deaths, or with one: of a monitor, before that write."""
        try:
            if step is None:
                self.go(lambda: self.kills >= KILLS and self.number >= MOST_LINES // 2, spare=False)
            elif self.killed_at(step):
                for trouble in self.troubles:
                    getattr(self, trouble)()
                if self.log is not None:
                    self.add_lines()
            self.go(lambda: self.log is not None, spare=True)
            self.finish_line()
            self.certain |= self.in_file
            self.jobs.end(str(self.crashes + 1), "COMPLETED")
            self.wait(self.monitor)
            (self.home / "over").touch()
            self.wait(self.worker)
            self.check()
        except BaseException as error:
            outputs = "".join(path.read_text() for path in self.home.glob("*er.txt"))
            at = "" if step is None else f"killed at write {step}, "
            place = f"{at}AUTOEXP_FAULT_SEED={self.seed}, {', '.join(self.troubles) or 'growth alone'}, in {self.home}"
            error.add_note(f"{place}\n{outputs[-3000:]}")
            raise
        finally:
            self.monitor.kill()
            self.worker.kill()

    def go(self, enough: Callable[[], bool], *, spare: bool) -> None:
        end = time.monotonic() + LIFE_SECONDS
        while not enough():
            assert time.monotonic() < end, "it does not get on"
            self.look(spare=spare)
            if self.state.exists():
                self.step()
            time.sleep(self.chance.uniform(0, 0.01))

    def look(self, *, spare: bool) -> None:
        spare = spare or self.kills >= KILLS
        self.monitor.look(spare=spare)
        if self.state.exists():  # a worker asks for a session
            self.worker.look(spare=spare)

    def wait(self, program: Program) -> None:
        end = time.monotonic() + LIFE_SECONDS
        while not program.ended:
            assert time.monotonic() < end, f"the {program.role} does not come to an end"
            self.look(spare=True)
            time.sleep(0.005)

    # ---- what must be so then

    def check(self) -> None:
        events = self.events("saved")
        numbers = Counter(self.numbers())
        job = self.job
        assert {number: count for number, count in numbers.items() if count > 1} == {}, "two events of one line"
        assert self.certain - set(numbers) == set(), "lines without an event"
        assert set(numbers) - self.certain - self.possible == set(), "events without a line"
        self.check_queue({event.id: int(event.metadata["number"]) for event in events})
        inline = self.ran("inline")
        assert set(inline) == set(numbers), "each inline action was carried out"
        if not self.monitor.deaths:
            assert max(inline.values(), default=1) == 1
        tally = job.actions.events["saved"].count if "saved" in job.actions.events else 0
        assert tally == len(events), "the session counts as many events as the record"
        assert len(self.events("crash")) == self.crashes
        assert (job.state, job.attempt, len(self.jobs.taken())) == ("success", self.crashes + 1, self.crashes + 1)
        assert not (self.home / "pwned").exists()
        self.check_results(events)

    def check_queue(self, numbers: Mapping[str, int]) -> None:
        queue = Queue(self.state)
        assert queue.entries() == []
        finished = queue.finished()
        assert Counter(numbers[entry.event.id] for entry in finished) == Counter(numbers.values())
        ran = self.ran("queued")
        assert set(ran) == set(numbers.values()), "each queued action was carried out"
        for entry in finished:
            self.check_entry(entry, ran[numbers[entry.event.id]])
        assert sum(entry.attempts - 1 for entry in finished) <= 3 * self.worker.deaths  # up to 3 at once

    def check_entry(self, entry: QueueEntry, times: int) -> None:
        assert entry.status == "done"
        assert 1 <= times <= entry.attempts, "one that was carried out twice says that it was begun twice"

    def check_results(self, events: Sequence[Event]) -> None:
        """The record says of each action what became of it."""
        results = [entry for entry in self.record.entries() if isinstance(entry, Result)]
        reported = Counter[tuple[str, str]]((result.event_id, result.status) for result in results)
        lacking = {
            event.metadata["number"]: status
            for event in events
            for status, count in {"done": 2, "queued": 1}.items()
            if reported[event.id, status] != count
        }
        assert lacking == {}, "the record lacks results of actions"


KINDS: Mapping[str, Sequence[str]] = {
    "a log that grows": (),
    "truncation": ("truncate",),
    "rotation": ("rotate",),
    "several rotations at once": ("rotate_at_once",),
    "new attempts": ("crash",),
    "everything": ("truncate", "rotate", "crash"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_makes_one_event_and_every_action_runs_once_whoever_is_killed(
    kind: str, nursery: Nursery, planned: Path, tmp_path: Path
) -> None:
    for life in range(max(1, round(ROUNDS / KILLS / len(KINDS)))):
        home = copied(planned, tmp_path / str(life))
        Life(home, nursery, KINDS[kind], SEED + life).live()
        shutil.rmtree(home)


@pytest.mark.parametrize("trouble", ["truncate", "rotate", "crash"])
def test_a_monitor_that_is_killed_before_any_write_and_finds_another_log_has_lost_and_repeated_nothing(
    trouble: str, nursery: Nursery, planned: Path, tmp_path: Path
) -> None:
    steps = range(1, LAST_WRITE["monitor"])
    for step in steps if 2 * len(steps) <= ROUNDS else random.Random(SEED).sample(steps, max(1, ROUNDS // 8)):
        home = copied(planned, tmp_path / str(step))
        Life(home, nursery, [trouble], SEED + step).live(step)
        shutil.rmtree(home)


def copied(planned: Path, home: Path) -> Path:
    """A home of its own with the plan."""
    shutil.copytree(planned, home, symlinks=True)
    path = home / "outputs" / "manifests" / "p.json"
    data = json.loads(path.read_text().replace(str(planned), str(home)))
    data["monitoring"] |= rules(home)
    path.write_text(json.dumps(data))
    return home


def test_a_second_monitor_names_the_first_and_takes_over_when_that_is_killed(user: User) -> None:
    words = ("project=default", "sweep.grids=[{stage:[a]}]", "monitoring.poll_interval_seconds=0.1")
    slow = ("backend.options.train_iters=80", "backend.options.step_seconds=0.1", "backend.options.log_interval=1")
    event = "++monitoring.log_events.iterated={pattern:'iteration +(?P<number>[0-9]+)/'}"
    first = user.start("run", *words, *slow, event)
    until(lambda: (user.outputs / "sweep.json").exists() and "running" in user.states(), "a running job")
    second = user.run("monitor", "--session", user.plan_id, "--once")
    assert second.returncode == 2
    assert re.search(rf"in use by process {first.pid} on {re.escape(socket.gethostname())}\b", second.stderr)
    assert "Traceback" not in second.stderr
    first.kill()
    first.wait()
    again = user.run("monitor", "--session", user.plan_id)
    assert again.returncode == 0, again.stderr
    assert user.states() == ["success"]
    reported = json.loads(user.run("monitor", "--session", user.plan_id, "--cmd", "events", "--json").stdout)
    seen = [entry["metadata"]["number"] for entry in reported["events"] if entry["name"] == "iterated"]
    assert seen == [str(number) for number in range(1, 81)]
