"""Blocked jobs on a real SLURM: where it waits for a sibling itself, where the monitor does, and in arrays."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.flow.blocked import ends, jobs, ran, write
from tests.flow.conftest import User, until
from tests.flow.test_slurm_run import slurm

BLOCKED = {"stable": "crash", "decay": "blocked", "anneal": "blocked"}
ALL_WELL = dict.fromkeys(BLOCKED, "success")


def planned(user: User, kind: str, *, native: bool = False, lrs: tuple[int, ...] = (1,), **slurm: Any) -> None:
    write(
        user,
        kind,
        defaults=[{"override /slurm": "base"}],
        slurm={"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50, "requeue": True}, **slurm},
        scheduler={"native_dependencies": native},
    )
    path = user.home / "e.yaml"
    content = yaml.safe_load(path.read_text())
    content["sweep"]["groups"][0]["params"]["backend.options.lr"] = list(lrs)
    path.write_text(f"# @package _global_\n{yaml.safe_dump(content)}")


def run(user: User, *words: str) -> Any:
    return user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p", *words)


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("kind", "native"), [("file", False), ("state", False), ("state", True)], ids=["file", "state", "native"]
)
def test_a_failed_sibling_blocks_and_its_new_attempt_unblocks(slurm_user: User, kind: str, native: bool) -> None:
    planned(slurm_user, kind, native=native)
    done = run(slurm_user)
    assert (done.returncode, ends(slurm_user)) == (1, BLOCKED), done.stderr
    assert jobs(slurm_user)["decay"].reason == "blocked: stable_lr1 has failed"
    assert jobs(slurm_user)["anneal"].reason == "blocked: decay_lr1 is blocked"
    assert not slurm(slurm_user, "squeue", "-h", "--me")
    (slurm_user.home / "well").touch()
    assert slurm_user.run("monitor", "--session", "p", "--cmd", "restart").returncode == 0
    assert slurm_user.run("monitor", "--session", "p").returncode == 0
    assert ends(slurm_user) == ALL_WELL
    assert ran(slurm_user) == ["stable", "stable", "decay", "anneal"]
    assert {stage: job.attempt for stage, job in jobs(slurm_user).items()} == {"stable": 2, "decay": 1, "anneal": 1}


@pytest.mark.slurm
@pytest.mark.parametrize("native", [False, True], ids=["monitor", "native"])
def test_a_sibling_that_is_requeued_unblocks_what_waits_for_it(slurm_user: User, native: bool) -> None:
    planned(slurm_user, "state", native=native)
    assert run(slurm_user).returncode == 1
    assert ends(slurm_user) == BLOCKED
    (slurm_user.home / "well").touch()
    slurm(slurm_user, "scontrol", "requeue", jobs(slurm_user)["stable"].newest.scheduler_id)
    assert slurm_user.run("monitor", "--session", "p").returncode == 0
    assert ends(slurm_user) == ALL_WELL
    assert jobs(slurm_user)["stable"].attempt == 1


@pytest.mark.slurm
@pytest.mark.parametrize("native", [False, True], ids=["monitor", "native"])
def test_of_siblings_in_arrays_only_what_waits_for_the_failed_one_is_blocked(slurm_user: User, native: bool) -> None:
    planned(slurm_user, "state", native=native, lrs=(1, 2, 3), array=True)
    path = slurm_user.home / "e.yaml"
    program = 'echo "$2$3" >> ran; if [ "$2$3" = stable2 ] && ! [ -e well ]; then exit 3; fi; touch "$1/checkpoint"'
    made = yaml.safe_load(path.read_text())
    made["backend"]["argv"] = [
        "sh",
        "-c",
        program,
        "x",
        "${project.output_dir}",
        "${stage}",
        "${backend.options.lr}",
    ]
    path.write_text(f"# @package _global_\n{yaml.safe_dump(made)}")
    assert run(slurm_user).returncode == 1
    reported = {name: job["state"] for name, job in slurm_user.session().items()}
    stages = ("stable", "decay", "anneal")
    assert reported == {
        f"{stage}_lr{lr}": "success" if lr != 2 else BLOCKED[stage] for stage in stages for lr in (1, 2, 3)
    }
    (slurm_user.home / "well").touch()
    assert slurm_user.run("monitor", "--session", "p", "--cmd", "restart").returncode == 0
    assert slurm_user.run("monitor", "--session", "p").returncode == 0
    assert set(slurm_user.states()) == {"success"}
    assert sorted(ran(slurm_user)).count("decay2") == 1


@pytest.mark.slurm
def test_a_monitor_that_is_killed_finds_blocked_what_slurm_has_removed_meanwhile(slurm_user: User) -> None:
    planned(slurm_user, "state", native=True)
    path = slurm_user.home / "e.yaml"
    made = yaml.safe_load(path.read_text())
    made["backend"]["argv"][2] = f"until [ -e go ]; do sleep 0.1; done; {made['backend']['argv'][2]}"
    path.write_text(f"# @package _global_\n{yaml.safe_dump(made)}")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "p")
    until(lambda: ends(slurm_user) == {"stable": "running", "decay": "pending", "anneal": "pending"}, "the queue")
    watcher.kill()
    watcher.wait()
    (slurm_user.home / "go").touch()
    until(lambda: not slurm(slurm_user, "squeue", "-h", "--me"), "the queue to be empty")
    assert slurm_user.run("monitor", "--session", "p").returncode == 1
    assert ends(slurm_user) == BLOCKED
    assert ran(slurm_user) == ["stable"]
