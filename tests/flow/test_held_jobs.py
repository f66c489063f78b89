"""Jobs that are held because several others failed in the same way, and their release: locally, and on a real SLURM."""

from __future__ import annotations

import json
import signal
from collections import Counter
from typing import Any

import pytest
import yaml

from oellm_autoexp.core.states import HELD_BY_PLAN
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User, until
from tests.flow.test_slurm_run import slurm

pytestmark = pytest.mark.slow

IMAGE = "FATAL:   could not open image /scratch/images/torch.sif: no such file or directory"
MOST_STARTED = 8


def write(user: User, jobs: int, **sections: Any) -> None:
    """A plan of jobs that fail as with a broken image, until there is a file `mended`."""
    program = f'echo x >> started; if [ -e mended ]; then exit 0; fi; sleep 2; echo "{IMAGE}" >&2; exit 255'
    config: dict[str, Any] = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "job_${backend.options.number}"},
        "backend": {"argv": ["sh", "-c", program], "options": {"number": 0}},
        "sweep": {"grids": [{"backend.options.number": list(range(jobs))}]},
        "monitoring": {"poll_interval_seconds": 0.3},
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")


def session(user: User) -> Session:
    return Session.load(SessionFiles.named(user.outputs / "monitoring_state", "p").path)


def started(user: User) -> int:
    path = user.home / "started"
    return len(path.read_text().splitlines()) if path.exists() else 0


def running(user: User) -> bool:
    """Look at the jobs once; whether one of them runs still."""
    once = user.run("monitor", "--session", "p", "--once")
    assert once.returncode == 0, once.stderr
    return any(job.state == "running" for job in session(user).jobs.values())


def held_and_released(user: User) -> int:
    """Watch the plan until the rest is held; mend the image, and release the jobs. How many had started when held."""
    watching = user.start("run", "--config-ref", "./e.yaml", "--plan-id", "p")
    until(lambda: "are held, " in (user.home / "output.txt").read_text(), "the hold")
    until(lambda: session(user).hold.asked, "the scheduler to be asked")
    watching.send_signal(signal.SIGKILL)
    watching.wait()
    until(lambda: not running(user), "the jobs that had begun before the hold to end")
    at_hold = started(user)
    assert at_hold <= MOST_STARTED
    shown = user.run("monitor", "--session", "p", "--cmd", "status")
    assert "held, until --cmd release: " in shown.stdout
    assert "could not open image /scratch/images/torch.sif" in shown.stdout
    assert "--cmd release" in shown.stdout
    assert not running(user)
    if "pending" in ends(user):
        rows = json.loads(user.run("monitor", "--session", "p", "--cmd", "status", "--json").stdout)["jobs"]
        assert {row["reason"] for row in rows if row["state"] == "pending"} == {HELD_BY_PLAN}
        wide = user.run("monitor", "--session", "p", "--cmd", "status", "--wide").stdout
        assert "scontrol release" not in wide
        assert HELD_BY_PLAN in " ".join(wide.split())
    assert started(user) == at_hold
    (user.home / "mended").touch()
    released = user.run("monitor", "--session", "p", "--cmd", "release")
    assert released.returncode == 0, released.stderr
    assert not session(user).hold.fingerprint
    return at_hold


def ends(user: User) -> Counter[str]:
    return Counter(job.state for job in session(user).jobs.values())


@pytest.mark.parametrize("max_jobs", [None, 2])
def test_jobs_of_a_broken_image_are_held_and_released_by_one_command(user: User, max_jobs: int | None) -> None:
    slots = {"client": {"class_name": "LocalClient", "slots": 2}}
    write(user, 40, slurm=slots, scheduler={"max_jobs": max_jobs})
    failed = held_and_released(user)
    assert user.run("monitor", "--session", "p").returncode == 1  # by those that had failed
    assert ends(user) == {"crash": failed, "success": 40 - failed}
    assert started(user) == 40


def test_a_process_that_watches_releases_the_jobs_when_it_is_asked(user: User) -> None:
    write(user, 6, scheduler={"max_jobs": 1})
    watching = user.start("run", "--config-ref", "./e.yaml", "--plan-id", "p")
    until(lambda: "are held, " in (user.home / "output.txt").read_text(), "the hold")
    (user.home / "mended").touch()
    assert user.run("monitor", "--session", "p", "--cmd", "release").returncode == 0
    assert watching.wait() == 1
    assert ends(user) == {"crash": 3, "success": 3}


def test_without_a_limit_nothing_is_held(user: User) -> None:
    write(user, 6, monitoring={"poll_interval_seconds": 0.3, "hold_after_same_failures": None})
    assert user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p").returncode == 1
    assert started(user) == 6
    refused = user.run("monitor", "--session", "p", "--cmd", "release")
    assert refused.returncode == 2
    assert "no job of this session is held" in refused.stderr


def test_what_is_held_is_in_the_facts_for_programs(user: User) -> None:
    write(user, 5, scheduler={"max_jobs": 1})
    watching = user.start("run", "--config-ref", "./e.yaml", "--plan-id", "p")
    until(
        lambda: SessionFiles.named(user.outputs / "monitoring_state", "p").path.exists() and session(user).hold.asked,
        "the hold",
    )
    reported = json.loads(user.run("monitor", "--session", "p", "--cmd", "status", "--json").stdout)
    assert reported["held"].startswith("3 jobs failed in the same way: ")
    waiting = [job["reason"] for job in reported["jobs"] if job["state"] == "waiting"]
    assert len(waiting) == 2
    assert all(reason.startswith("held: 3 jobs failed") for reason in waiting)
    assert user.run("monitor", "--session", "p", "--cmd", "cancel").returncode in (0, 1)
    assert watching.wait() == 1


def test_the_others_wait_until_one_of_the_first_jobs_has_succeeded_or_they_are_released(user: User) -> None:
    (user.home / "mended").touch()
    write(user, 6, scheduler={"first_jobs": 2})
    watched = user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p")
    assert (watched.returncode, started(user)) == (0, 6)
    assert "waits until one of the first jobs" in watched.stdout
    (user.home / "mended").unlink()
    write(user, 6, scheduler={"first_jobs": 2})
    assert user.run("run", "--config-ref", "./e.yaml", "--plan-id", "q", "--no-monitor").returncode == 0
    until(lambda: started(user) == 8, "the first jobs")
    once = user.run("monitor", "--session", "q", "--once")
    while "2 crash" not in once.stdout:
        once = user.run("monitor", "--session", "q", "--once")
    assert started(user) == 8
    assert "--cmd release lets the others go" in user.run("monitor", "--session", "q", "--once").stdout
    (user.home / "mended").touch()
    assert user.run("monitor", "--session", "q", "--cmd", "release").returncode == 0
    assert user.run("monitor", "--session", "q").returncode == 1
    assert started(user) == 12


@pytest.mark.slurm
@pytest.mark.parametrize("array", [False, True], ids=["jobs", "array"])
def test_of_200_jobs_on_slurm_few_have_started_when_the_rest_is_held(slurm_user: User, array: bool) -> None:
    write(
        slurm_user,
        200,
        defaults=[{"override /backend": "command"}, {"override /slurm": "base"}],
        slurm={"launcher_cmd": None, "array": array, "sbatch": {"time": 5, "mem": 50}},
        scheduler={"first_jobs": 4},
    )
    failed = held_and_released(slurm_user)
    until(lambda: started(slurm_user) > failed, "a released job")
    assert slurm_user.run("monitor", "--session", "p", "--cmd", "cancel").returncode in (0, 1)
    until(lambda: not slurm(slurm_user, "squeue", "-h", "--me", "-t", "PD,R"), "an empty queue")
