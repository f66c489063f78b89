"""Many random rounds on a real SLURM: what is concluded of each job is what its own record says happened to it.

Each round is a plan of some jobs, single or as an array, whose monitor is stopped, killed and resumed, whose tasks are
cancelled by a person or by the command, and whose lease gets clocks of other hosts. In some batches the controller
loses its state, and a stranger's jobs get the ids of ours. `AUTOEXP_FAULT_ROUNDS` sets how many rounds there are (5
by default), `AUTOEXP_FAULT_SEED` the seed.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from oellm_autoexp.schedulers.slurm.parse import COMMENT_PREFIX
from oellm_autoexp.session import series
from oellm_autoexp.session.session import Session
from tests.flow.conftest import User
from tests.slurm.cluster import Cluster

ROUNDS = int(os.environ.get("AUTOEXP_FAULT_ROUNDS", "5"))
SEED = int(os.environ.get("AUTOEXP_FAULT_SEED") or random.randrange(1 << 32))
AT_ONCE = 5
"""Plans that are watched at the same time."""
KINDS = ("good", "dots", "quiet", "fails", "fails_once", "hangs")
ROOT = Path(__file__).parents[2]
WITNESS = Path(__file__).with_name("witness.sh")
SILENCE_SECONDS = 4
KILL_WAIT_SECONDS = 2
BATCH_SECONDS = 240
SKEWED = """
import sys, time
here = time.time
time.time = lambda: here() + float(sys.argv[1])
from oellm_autoexp.cli.main import main

sys.exit(main(sys.argv[2:]))
"""
MONITOR = """
import sys
from oellm_autoexp.decisions import lifecycle

lifecycle.VANISHED_AFTER_SECONDS, lifecycle.BEGUN_VANISHED_AFTER_SECONDS, lifecycle.GONE_AFTER_SECONDS = 15.0, 20.0, 8.0
from oellm_autoexp.cli.main import main

sys.exit(main(sys.argv[1:]))
"""
"""A monitor with little patience for jobs of which SLURM knows nothing; more than the cluster's KillWait."""
UNDISTURBED = {
    "good": ("success", 1),
    "dots": ("success", 1),
    "quiet": ("success", 1),
    "fails": ("crash", 3),
    "fails_once": ("success", 2),
    "hangs": ("stall", 2),
}
"""How a job of each kind ends if nobody does anything to it: its state, and how many runs it has had."""


def experiment(home: Path, kinds: list[str]) -> str:
    """A plan of one job for each kind. A crash has two new attempts, a stall one."""
    restart = {"class_name": "RestartAction"}
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "job_${metadata.number}_${metadata.kind}"},
        "backend": {"argv": ["bash", str(WITNESS), f"{home}/record/{{metadata.number}}", "{metadata.kind}"]},
        "metadata": {"number": 0, "kind": "good"},
        "slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 10}},
        "sweep": {"configs": [{"metadata.number": i, "metadata.kind": kind} for i, kind in enumerate(kinds)]},
        "monitoring": {
            "poll_interval_seconds": 0.5,
            "metrics": {"step": r"step (\d+)"},
            "inactivity_threshold_seconds": SILENCE_SECONDS,
            "startup_seconds": 30,
            "state_events": {
                "crash": {"name": "crash", "actions": [{**restart, "max_attempts": 2}]},
                "stall": {"name": "stall", "actions": [{**restart, "max_attempts": 1}]},
                "cancelled": {"name": "cancelled", "actions": [{"class_name": "LogAction", "message": "cancelled"}]},
            },
        },
    }
    return f"# @package _global_\n{yaml.safe_dump(config)}"


class Cancelled(NamedTuple):
    """That a person cancels a job: asked at `at`, answered at `answered` (seconds since the epoch)."""

    at: float
    answered: float
    known: bool
    """Whether by the command, which knows of a new attempt to come."""

    @property
    def valid_from(self) -> float:
        """From when on no new attempt may begin: the command takes seconds to start before it asks."""
        return self.answered if self.known else self.at


@dataclass
class Round:
    """One plan, its monitor, and what was done to it."""

    user: User
    cluster: Cluster
    seed: int
    amnesia: bool
    cancelled: dict[int, list[Cancelled]] = field(default_factory=dict)
    unknowable: set[int] = field(default_factory=set)
    """Jobs that a person ended and whose end nobody had seen when the controller lost its state."""
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.kinds = [self.chance.choice(KINDS) for _ in range(self.chance.randint(2, 4))]
        self.array = self.chance.random() < 0.6
        self.monitor: subprocess.Popen[str] | None = None
        self.stopped_until = 0.0
        self.next_at = 0.0
        self.left = self.chance.randint(1, 4)
        self.by_person: set[int] = set()

    # ---- what is so

    @property
    def session_path(self) -> Path:
        return self.user.outputs / "monitoring_state" / "p.json"

    def jobs(self) -> list[dict[str, Any]]:
        result = self.user.run("monitor", "--session", "p", "--cmd", "status", "--json")
        assert result.returncode in (0, 1), f"{result.stderr}\n{self}"
        return list(json.loads(result.stdout)["jobs"])

    def record(self, number: int) -> list[list[str]]:
        path = self.user.home / "record" / str(number) / "runs"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def __str__(self) -> str:
        reported = "\n".join(self.story)
        return f"seed {self.seed}, {'array' if self.array else 'single jobs'}: {self.kinds}\n{reported}"

    def say(self, text: str) -> None:
        self.story.append(f"{time.strftime('%H:%M:%S')} {text}")

    # ---- what is done

    def begin(self) -> None:
        self.user.home.mkdir(parents=True)
        for number in range(len(self.kinds)):
            (self.user.home / "record" / str(number)).mkdir(parents=True)
        (self.user.home / "e.yaml").write_text(experiment(self.user.home, self.kinds))
        words = ["--config-ref", "./e.yaml", "--plan-id", "p", "--no-monitor", f"slurm.array={str(self.array).lower()}"]
        result = self.user.run("run", *words)
        assert result.returncode == 0, f"{result.stderr}\n{self}"
        self.watch()

    def watch(self) -> None:
        words = [sys.executable, "-c", MONITOR, "monitor", "--session", "p"]
        environment = {**self.user.environment, "PYTHONPATH": str(ROOT)}
        with (self.user.home / "output.txt").open("w") as output:
            self.monitor = subprocess.Popen(
                words,
                cwd=self.user.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
            )
        self.next_at = time.monotonic() + self.chance.uniform(0, 4)

    def step(self) -> bool:
        """Do something, now and then; whether the round is over."""
        assert self.monitor is not None
        now = time.monotonic()
        if self.stopped_until:
            if now < self.stopped_until:
                return False
            self.stopped_until = 0.0
            self.monitor.send_signal(signal.SIGCONT)
            self.say("the monitor goes on")
        if self.monitor.poll() is not None:
            if self.monitor.returncode in (0, 1):
                return True
            if self.monitor.returncode != -signal.SIGKILL:
                said = (self.user.home / "output.txt").read_text()
                raise AssertionError(f"the monitor ended with {self.monitor.returncode}: {said}\n{self}")
            self.watch()
        elif now >= self.next_at and self.left:
            self.left -= 1
            self.next_at = now + self.chance.uniform(0.5, 5)
            self.chance.choice([self.stop, self.kill, self.scancel, self.scancel, self.cancel, self.skew])()
        return False

    def stop(self) -> None:
        """A laptop that sleeps for longer than what counts as silence."""
        assert self.monitor is not None
        self.monitor.send_signal(signal.SIGSTOP)
        self.stopped_until = time.monotonic() + self.chance.uniform(1, 3) * SILENCE_SECONDS
        self.say("the monitor sleeps")

    def kill(self) -> None:
        assert self.monitor is not None
        self.monitor.kill()
        self.monitor.wait()
        self.say("the monitor is killed")

    def skew(self) -> None:
        """Another host, whose clock is hours away from ours, looks at the session while its monitor lives."""
        there = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec timeout -s KILL 6 "$@"', "sh"]
        skew = str(self.chance.choice([-7200, -300, 300, 7200]))
        beside = [*there, sys.executable, "-c", SKEWED, skew, "monitor", "--session", "p", "--once"]
        environment = {**self.user.environment, "PYTHONPATH": str(ROOT)}
        subprocess.run(beside, cwd=self.user.home, env=environment, capture_output=True, check=False)
        self.say(f"another host looks at the session, its clock {skew} s ahead")

    def scancel(self) -> None:
        """A person ends a job that is in the queue."""
        listed = self.listed()
        if not listed:
            return
        waiting = [each for each in listed if each[2] == "PENDING"]
        number, job, state = self.chance.choice(waiting or listed)
        at = time.time()
        self.cluster.run("scancel", job)
        self.cancelled.setdefault(number, []).append(Cancelled(at, time.time(), False))
        self.by_person.add(number)
        self.say(f"scancel {job} (job {number}, {state})")

    def listed(self) -> list[tuple[int, str, str]]:
        """Our jobs in the queue: number, id, state.

        By their tokens: once the controller has lost its state, an id may be that of another job of ours.
        """
        lines = self.cluster.run("squeue", "-h", "-r", "-t", "PD,R", "-o", "%i|%T|%k").stdout.splitlines()
        here = {(job, comment): state for job, state, comment in (line.split("|") for line in lines)}
        jobs = Session.load(self.session_path).jobs
        ours = [
            (int(name.split("_")[1]), job.newest.scheduler_id, f"{COMMENT_PREFIX}{job.newest.token}")
            for name, job in jobs.items()
        ]
        return [(number, job, here[job, comment]) for number, job, comment in ours if (job, comment) in here]

    def cancel(self) -> None:
        """The command, while a monitor watches or none does."""
        number = self.chance.randrange(len(self.kinds))
        name = f"job_{number}_{self.kinds[number]}"
        before = {job["name"]: job for job in self.jobs()}[name]
        at = time.time()
        result = self.user.run("monitor", "--session", "p", "--cmd", "cancel", "--job", name)
        assert result.returncode == 0, f"{result.stderr}\n{self}"
        self.say(f"--cmd cancel {name} ({before['state']})")
        if before["state"] in ("waiting", "pending", "running", "submitting") or before["restart"]:
            self.cancelled.setdefault(number, []).append(Cancelled(at, time.time(), True))

    def forget(self) -> None:
        """Call this before the controller loses its state: what only the controller knows is lost with it."""
        ended = {int(job["name"].split("_")[1]) for job in self.jobs() if job["state"] == "cancelled"}
        self.unknowable = self.by_person - ended

    # ---- what must be so at the end

    def problems(self) -> list[str]:
        reported = [*map(self.problem, self.jobs()), *(() if self.amnesia else map(self.told_of_steps, self.jobs()))]
        return list(filter(None, reported))

    def told_of_steps(self, job: dict[str, Any]) -> str:
        """How a job's series differs from its logs, '' if it does not."""
        state = Session.load(self.session_path).jobs[job["name"]]
        kept = series.read(series.file_of(self.session_path, job["name"]), state.logs.series).get("step")
        logs = sorted(Path(job["resolved_log_path"]).parent.glob("*.out"), key=lambda log: int(log.stem.split("_")[0]))
        lines = [line for log in logs for line in log.read_text().splitlines() if re.fullmatch(r"step \d+", line)]
        reported = [f"step {value:g}" for value in (kept.values if kept else ())]
        return "" if reported == lines else f"{job['name']}: the series has {reported}, the logs {lines}\n{self}\n"

    @staticmethod
    def given_up(job: dict[str, Any]) -> tuple[str, ...]:
        """What a job may be called beside `cancelled`: a rule was ending it when a person cancelled it."""
        return ("stall",) if any(entry["event"] == "restart" for entry in job["history"]) else ()

    @staticmethod
    def being_ended(job: dict[str, Any], at: float) -> bool:
        """Whether a rule was just ending a silent job, to begin it anew, when a person cancelled it, too."""
        restarts = (entry for entry in job["history"] if entry["event"] == "restart" and "'stall'" in entry["message"])
        return any(at - KILL_WAIT_SECONDS - 3 <= entry["at"] <= at + 2 for entry in restarts)

    @staticmethod
    def ended_before(at: float, starts: list[list[str]], ends: list[list[str]]) -> bool:
        """Whether the run that somebody wanted to cancel had just ended by itself, so that a new one may begin."""
        begun = [words[1] for words in starts if float(words[2]) <= at]
        return bool(begun) and any(words[1] == begun[-1] and float(words[2]) <= at + 1 for words in ends)

    def ended_meanwhile(self, number: int, ends: list[list[str]]) -> bool:
        """Whether a job ended by itself just when SLURM was asked to cancel it, and so is CANCELLED for SLURM."""
        return bool(ends) and any(abs(each.at - float(ends[-1][2])) <= 2 for each in self.cancelled.get(number, ()))

    def problem(self, job: dict[str, Any]) -> str:
        """What was concluded of a job that its own record does not bear out, '' if nothing."""
        number = int(job["name"].split("_")[1])
        record = self.record(number)
        starts = [words for words in record if words[0] == "start"]
        ends = [words for words in record if words[0] == "end"]
        well = bool(ends) and ends[-1][3] == "0"
        state = job["state"]
        wrong = ""
        if (self.user.home / "record" / str(number) / "doubles").exists():
            wrong = "two runs at once"
        elif state not in ("success", "crash", "stall", "cancelled"):
            wrong = "no end"
        elif len(starts) > job["attempt"]:
            wrong = "more runs than attempts"
        elif (state == "success") != well and not (state == "cancelled" and self.ended_meanwhile(number, ends)):
            wrong = "a false end"
        elif number in self.unknowable:
            pass  # it may be called a crash, and be begun anew
        elif number in self.cancelled:
            met = [
                each.valid_from
                for each in self.cancelled[number]
                if each.known or not self.ended_before(each.at, starts, ends)
            ]
            before = any(float(words[2]) <= self.cancelled[number][0].answered + 1 for words in ends)
            late = [at for at in met if any(float(words[2]) > at + 2 for words in starts)]
            anew = any(not self.being_ended(job, at) for at in late)
            if anew and (state == "cancelled" or not before):
                wrong = "begun anew after it was cancelled"
            elif state not in ("cancelled", *self.given_up(job)) and not before:
                wrong = "cancelled, and not called so"
        elif not self.amnesia:
            if (state, job["attempt"]) != UNDISTURBED[self.kinds[number]]:
                wrong = f"not {UNDISTURBED[self.kinds[number]]}"
            elif len(starts) != job["attempt"]:
                wrong = "an attempt that never ran"
        if not wrong:
            return ""
        history = "\n".join(f"{entry['at']:.1f} {entry['event']} {entry['message']}" for entry in job["history"])
        reported = f"{job['name']}: {state} ({job['reason']}), attempt {job['attempt']}"
        return f"{wrong}: {reported}\n{record}\n{self}\n{history}\n"


def lose_state(cluster: Cluster) -> None:
    """The controller forgets every job, and a stranger's jobs get their ids."""
    cluster.lose_state()
    for _ in range(40):
        cluster.run("sbatch", "--parsable", "-o", "/dev/null", "--mem=10", "--wrap", "sleep 1; exit 0")


def go(rounds: list[Round], cluster: Cluster, *, amnesia: bool) -> None:
    """Play rounds at the same time, to their ends."""
    disturb = partial(lose_state, cluster) if amnesia else None
    for each in rounds:
        each.begin()
    end = time.monotonic() + BATCH_SECONDS
    open_rounds = list(rounds)
    disturb_at, resume_at = time.monotonic() + 3, 0.0
    while open_rounds:
        if disturb is not None and time.monotonic() >= disturb_at:
            for each in rounds:
                each.forget()
            disturb()
            disturb = None
            for each in rounds:
                each.say("the controller has lost its state")
        if amnesia and disturb is None and time.monotonic() >= resume_at:
            resume_at = time.monotonic() + 2  # nodes whose jobs the controller does not know are drained
            cluster.run("scontrol", "update", f"nodename={','.join(cluster.node_names)}", "state=resume", check=False)
            held = cluster.run("squeue", "-h", "-r", "-t", "PD", "-o", "%i|%r").stdout.splitlines()
            for job in (line.partition("|")[0] for line in held if line.endswith("requeued held")):
                cluster.run("scontrol", "release", job, check=False)  # as the monitor says to a person
        open_rounds = [each for each in open_rounds if not each.step()]
        assert time.monotonic() < end, f"not over: {open_rounds[0]}\n{json.dumps(open_rounds[0].jobs(), indent=1)}"
        time.sleep(0.1)
    wrong = [problem for each in rounds for problem in each.problems()]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slurm
@pytest.mark.parametrize("accounting", [True, False], ids=["with accounting", "without accounting"])
@pytest.mark.parametrize("amnesia", [False, True], ids=["a sound controller", "a controller that loses its state"])
def test_what_is_concluded_of_each_job_is_what_happened_to_it(
    make_slurm_cluster: Callable[..., Cluster], user: User, accounting: bool, amnesia: bool
) -> None:
    cluster = make_slurm_cluster(
        accounting=accounting, kill_wait_seconds=KILL_WAIT_SECONDS, memory_mb=4000, nodes=2, cpus=3
    )
    chance = random.Random(f"{SEED} {accounting} {amnesia}")
    count = max(1, ROUNDS // 10) if amnesia else max(1, -(-ROUNDS * 4 // 10))
    numbers = list(range(count))
    while numbers:
        some, numbers = numbers[:AT_ONCE], numbers[AT_ONCE:]
        rounds = [
            Round(
                User(user.home / str(number), {**user.environment, **cluster.environment()}),
                cluster,
                chance.randrange(1 << 32),
                amnesia,
            )
            for number in some
        ]
        try:
            go(rounds, cluster, amnesia=amnesia)
        finally:
            for each in rounds:
                if each.monitor is not None and each.monitor.poll() is None:
                    each.monitor.kill()
                    each.monitor.wait()
            cluster.cancel_jobs()
