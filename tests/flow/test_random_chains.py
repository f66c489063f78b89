"""Many random rounds of chains on a real SLURM: links are killed, nodes lost, drained and sick, monitors absent or
killed, the controller restarted; no link runs beside another or twice, none is lost, no progress is repeated, and
nothing stays in the queue.

`AUTOEXP_CHAIN_ROUNDS` sets how many rounds there are, `AUTOEXP_FAULT_SEED` the seed.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import yaml

from oellm_autoexp.session.job_state import JobState
from tests.flow.chains import folder, job, overlapped, reached, saved, times, write
from tests.flow.conftest import User
from tests.slurm.cluster import Cluster

ROUNDS = int(os.environ.get("AUTOEXP_CHAIN_ROUNDS", "2"))
SEED = int(os.environ.get("AUTOEXP_FAULT_SEED") or random.randrange(1 << 32))
AT_ONCE = 12
BATCH_SECONDS = 500
MOST_LOST = 4
"""Links that are killed, or meet a sick node, in a round, at most: so many more than needed each chain has."""


@dataclass
class Round:
    """A chain, and what was done to it."""

    user: User
    cluster: Cluster
    seed: int
    story: list[str] = field(default_factory=list)
    monitor: subprocess.Popen[str] | None = None
    next_at: float = 0.0
    lost: int = 0
    drained: str = ""
    batch: list[Round] = field(default_factory=list)
    """All chains that run at the same time, on the same nodes."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.steps = self.chance.randint(3, 8)
        self.goal = self.steps * self.chance.randint(2, 3) - self.chance.randint(0, 2)
        self.links = -(-self.goal // self.steps) + MOST_LOST + 1
        self.checked, self.restarts = self.chance.random() < 0.4, self.chance.choice([0, 0, 1])

    def __str__(self) -> str:
        story = "\n".join(self.story)
        restarts = f"{self.restarts} restarts in the job" if self.restarts else "no restarts in the job"
        return f"seed {self.seed}: {self.steps} steps a link to {self.goal}, {self.links} links, {restarts}\n{story}"

    def say(self, text: str) -> None:
        self.story.append(f"{time.strftime('%H:%M:%S')} {text}")

    def begin(self) -> None:
        self.user.home.mkdir(parents=True)
        chain = {"links": self.links, "max_fruitless": MOST_LOST + 1}
        program = folder(self.user)
        write(self.user, scheduler="base", steps=self.steps, goal=self.goal, chain=chain)
        (program / "then").write_text("exit $((RANDOM % 3))")
        config = yaml.safe_load((self.user.home / "e.yaml").read_text())
        del config["slurm"]["launcher_cmd"]
        healthy = {"command": ["bash", "-c", f'[ ! -e "{program}/sick.$SLURMD_NODENAME" ]'], "name": "healthy"}
        config["slurm"] |= {"restarts_in_job": self.restarts, "preflight": [healthy] if self.checked else []}
        (self.user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
        if self.checked:
            self.lost += 1
            sick = self.chance.choice(self.cluster.node_names)
            (program / f"sick.{sick}").touch()
            self.say(f"{sick} is sick")
        words = ("--config-ref", "./e.yaml", "--plan-id", "p", "--no-monitor")
        done = self.user.run("run", *words)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self}"
        self.array = job(self.user).newest.scheduler_id.partition("_")[0]

    def queue(self, states: str = "PD,R,CG,S") -> list[tuple[str, str]]:
        """The links in the queue, each with its nodes."""
        words = ("squeue", "-h", "-r", "-t", states, "-j", self.array, "-o", "%i|%N")
        lines = self.cluster.run(*words, check=False).stdout.splitlines()
        return [(one, nodes) for one, _, nodes in (line.partition("|") for line in lines)]

    def completed(self) -> set[int]:
        """The links whose scripts ended well, by accounting."""
        words = ("sacct", "-n", "-X", "-P", "-j", self.array, "-o", "JobID,State")
        lines = (line.partition("|") for line in self.cluster.run(*words).stdout.splitlines())
        return {int(one.partition("_")[2]) for one, _, state in lines if state == "COMPLETED"}

    def step(self) -> bool:
        """Do something, now and then; whether the chain has left the queue."""
        now = time.monotonic()
        if now < self.next_at:
            return False
        self.next_at = now + self.chance.uniform(0.3, 2.0)
        found = self.cluster.run("squeue", "-h", "-j", self.array, "-t", "PD,R,CG,S", check=False)
        if found.returncode == 0 and not found.stdout:
            self.resume()
            return True
        self.chance.choice([self.lose, self.lose, self.watch, self.unwatch, self.drain])()
        return False

    def lose(self) -> None:
        running = self.queue("R")
        if not running or self.lost == MOST_LOST:
            return
        link, node = running[0]
        how, hit = self.chance.choice(["kill", "scancel", "down", "dead"]), [self]
        if how in ("down", "dead"):  # which ends the links of other chains, too
            there = self.cluster.run("squeue", "-h", "-t", "R,CG", "-w", node, "-o", "%F", check=False).stdout.split()
            hit = [each for each in self.batch if each is self or each.array in there]
            if any(each.lost == MOST_LOST for each in hit):
                how, hit = "kill", [self]
        for each in hit:
            each.lost += 1
            each.say(f"link {link} of {self.array} on {node}: {how}")
        match how:
            case "kill":
                self.cluster.run("scancel", "--signal=KILL", "--full", link, check=False)
            case "scancel":
                self.cluster.run("scancel", link, check=False)
            case "down":
                self.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test", check=False)
            case _:
                self.cluster.kill_node(node)
                self.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test", check=False)
                self.cluster.start_node(node)
        if how in ("down", "dead"):
            self.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)

    def drain(self) -> None:
        """Drain the node of the link that runs, until this is asked for again."""
        if self.drained:
            self.resume()
        elif running := self.queue("R"):
            self.drained = running[0][1]
            self.say(f"{self.drained} is drained")
            self.cluster.run(
                "scontrol", "update", f"nodename={self.drained}", "state=drain", "reason=test", check=False
            )

    def resume(self) -> None:
        if self.drained:
            self.say(f"{self.drained} is resumed")
            self.cluster.run("scontrol", "update", f"nodename={self.drained}", "state=resume", check=False)
            self.drained = ""

    def watch(self) -> None:
        if self.monitor is None or self.monitor.poll() is not None:
            self.monitor = self.user.start("monitor", "--session", "p")
            self.say("a monitor")

    def unwatch(self) -> None:
        if self.monitor is not None and self.monitor.poll() is None:
            self.monitor.kill()
            self.monitor.wait()
            self.say("no monitor")

    # ---- what must be so at the end

    def problems(self) -> list[str]:
        self.unwatch()
        ended = self.user.run("monitor", "--session", "p")
        state = job(self.user)
        begun = Counter(link for what, link, _ in times(self.user) if what == "begin")
        order = [link for what, link, _ in times(self.user) if what == "begin"]
        steps = saved(self.user)
        wrong = [
            "two at once" if overlapped(self.user) else "",
            f"links that ran twice: {begun}" if max(begun.values()) > 1 + self.restarts else "",
            f"progress repeated: {steps}" if steps != sorted({*steps}) else "",
            f"links that did nothing: {idle}"
            if (idle := self.completed() - {*order}) and min(idle) < max(order)
            else "",
            "links out of order" if order != sorted(order) else "",
            "something in the queue" if self.queue() else "",
            "" if reached(self.user) == self.goal else f"{reached(self.user)} of {self.goal} reached",
            "" if (state.state, ended.returncode) == ("success", 0) else f"{state.state}: {state.reason}",
            "" if state.attempt <= self.links and state.over else f"attempt {state.attempt}, over: {state.over}",
        ]
        return [f"{what}\n{self}\n{_history(state)}{ended.stderr}" for what in wrong if what]


def _history(state: JobState) -> str:
    return "".join(f"{entry.at:.1f} {entry.event} {entry.message}\n" for entry in state.history)


def go(rounds: list[Round], cluster: Cluster, chance: random.Random) -> None:
    for each in rounds:
        each.batch = rounds
        each.begin()
    end = time.monotonic() + BATCH_SECONDS
    restart_at = time.monotonic() + chance.uniform(1, 8)
    left = list(rounds)
    while left:
        left = [each for each in left if not each.step()]
        if time.monotonic() >= restart_at:
            restart_at = end
            cluster.stop_controller()
            time.sleep(chance.uniform(0, 2))
            cluster.start_controller()
        assert time.monotonic() < end, f"not over: {left[0]}\n{left[0].queue()}\n{_history(job(left[0].user))}"
        time.sleep(0.1)
    wrong = [problem for each in rounds for problem in each.problems()]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slurm
def test_chains_reach_their_goal_whatever_happens_to_their_links(
    make_slurm_cluster: Callable[..., Cluster], user: User
) -> None:
    cluster = make_slurm_cluster(accounting=True, kill_wait_seconds=2)
    chance = random.Random(SEED)
    numbers = list(range(ROUNDS))
    while numbers:
        some, numbers = numbers[:AT_ONCE], numbers[AT_ONCE:]
        rounds = [
            Round(
                User(user.home / str(number), {**user.environment, **cluster.environment()}),
                cluster,
                chance.randrange(1 << 32),
            )
            for number in some
        ]
        try:
            go(rounds, cluster, chance)
        finally:
            for each in rounds:
                each.unwatch()
            cluster.cancel_jobs()
            states = f"nodename={','.join(cluster.node_names)}"
            cluster.run("scontrol", "update", states, "state=resume", check=False)
