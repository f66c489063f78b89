"""A session whose submission got no clear answer from a real SLURM is ended by one command, also while that is away."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable

import pytest
import yaml

from oellm_autoexp.session.session import Session
from tests.flow.conftest import User
from tests.slurm.cluster import Cluster

CONFIG = {
    "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
    "project": {"name": "a"},
    "backend": {"argv": ["true"]},
    "slurm": {"sbatch": {"hold": True}, "client": {"settle_seconds": 1.5}},
}
STATE = "my states"
AWAY = {
    "away": (Cluster.stop_controller, Cluster.start_controller, []),
    "hung": (Cluster.freeze_controller, Cluster.thaw_controller, ["p"]),
}
"""How the controller leaves and comes back, and the plans whose job it has then."""


def run(user: User, plan: str) -> subprocess.CompletedProcess[str]:
    words = ("--config-ref", "./p.yaml", "--plan-id", plan, "--no-monitor")
    return user.run("run", *words, f"project.monitoring_state_dir={user.home / STATE}")


@pytest.mark.slurm
@pytest.mark.parametrize("how", AWAY)
def test_a_session_is_ended_by_the_command_that_the_next_run_names_while_the_controller_is(
    make_slurm_cluster: Callable[..., Cluster], user: User, how: str
) -> None:
    leave, come_back, had = AWAY[how]
    cluster = make_slurm_cluster(nodes=1, extra=("MessageTimeout=2",))
    user = User(user.home, {**user.environment, **cluster.environment()})
    (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(CONFIG)}")
    leave(cluster)
    first = run(user, "p")
    assert (first.returncode, "--cmd cancel" in first.stderr) == (3, True), first.stderr
    blocked = run(user, "blocked")
    assert blocked.returncode == 2
    found = re.search(r"or end it: (.*--cmd cancel)$", blocked.stderr, re.MULTILINE)
    assert found, blocked.stderr
    ended = subprocess.run(
        shlex.split(found[1]), cwd=user.home, env=user.environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "kept: 1 job to end as soon as it answers: a" in ended.stdout
    come_back(cluster)

    again = run(user, "q")
    assert again.returncode == 0, again.stderr
    assert "session p was cancelled: waiting for the end of its jobs" in again.stderr
    lines = cluster.run("squeue", "-h", "-t", "all", "-o", "%k %T").stdout.splitlines()
    jobs = {plan: Session.load(user.home / STATE / f"{plan}.json").jobs["a"] for plan in ("p", "q")}
    tokens = {plan: job.newest.token for plan, job in jobs.items()}
    expected = [*(f"autoexp:{tokens[plan]} CANCELLED" for plan in had), f"autoexp:{tokens['q']} PENDING"]
    assert sorted(lines) == sorted(expected)
    assert (jobs["p"].state, jobs["q"].state) == ("cancelled", "pending")
