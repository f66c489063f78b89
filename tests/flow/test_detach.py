"""--detach: a monitor that is a job of its own, on SLURM and as a process of this machine."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.engine.detached import Wishes
from tests.flow.conftest import QUICK, User, until

pytestmark = pytest.mark.slow

ONE = (*QUICK, "sweep.grids=[{backend.options.seed:[1]}]", "--plan-id", "one")
GATED = (*ONE, "job.start_condition_cmd=[test,-e,go]", "job.start_condition_interval_seconds=0.2")
"""Its job is submitted when there is a file `go`."""
HELD = (*ONE, "slurm=base", "slurm.sbatch.hold=true")


def plan(user: User, *words: str, **detach: Any) -> str:
    """Plan, and set `monitoring.detach`; the manifest's path."""
    path = user.outputs / "manifests" / "one.json"
    assert user.run("plan", *words).returncode == 0
    manifest = json.loads(path.read_text())
    manifest["monitoring"]["detach"] = detach
    path.write_text(json.dumps(manifest))
    return str(path)


def folder(user: User, name: str = "one") -> Path:
    return user.outputs / "monitoring_state" / f"{name}.detached"


def result(user: User, job: str, name: str = "one") -> Any:
    """What submitit keeps of a monitor's end, as soon as it is there."""
    path = folder(user, name) / f"{job}_0_result.pkl"
    until(path.exists, "the monitor's end")
    return pickle.loads(path.read_bytes())  # noqa: S301  our own


def reported(done: subprocess.CompletedProcess[str], kind: str) -> str:
    """The number of the monitor's job or process, from what was printed."""
    assert done.returncode == 0, done.stderr + done.stdout
    match = re.search(rf"monitor {kind} (\d+)", done.stdout)
    assert match, done.stdout
    return match[1]


def squeue(user: User, job: str, fields: str = "%T %r") -> str:
    words = ("squeue", "-h", "-j", job, "-o", fields)
    return subprocess.run(words, env=user.environment, capture_output=True, text=True, check=False).stdout.strip()


def slurm(user: User, *words: str) -> str:
    return subprocess.run(words, env=user.environment, capture_output=True, text=True, check=True).stdout


def restarts(user: User, job: str) -> int:
    match = re.search(r"Restarts=(\d+)", slurm(user, "scontrol", "show", "job", job))
    return int(match[1]) if match else 0


def lease(user: User) -> Path:
    return user.outputs / "monitoring_state" / "one.lease"


def test_a_local_monitor_outlives_the_terminal_and_is_never_doubled(user: User) -> None:
    terminal = subprocess.run(
        user.words("run", *GATED, "--detach", "local"),
        cwd=user.home,
        env=user.environment,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    monitor = int(reported(terminal, "process"))
    assert os.getsid(monitor) == os.getpgid(monitor) != os.getsid(0), "no hang-up or Ctrl-C of a terminal reaches it"
    again = user.run("monitor", "--session", "one", "--detach", "local")
    assert int(reported(again, "process")) == monitor
    assert "already (RUNNING); nothing was submitted" in again.stdout
    until(lease(user).exists, "the monitor at work")
    plain = user.run("monitor", "--session", "one", "--once")
    assert plain.returncode == 2
    assert f"in use by process {monitor} on" in plain.stderr
    assert "a detached monitor (log: " in plain.stderr
    assert f"to stop that monitor (the jobs go on): kill {monitor}" in plain.stderr
    (user.home / "go").touch()
    assert result(user, "1") == ("success", 0)
    assert user.states() == ["success"]
    assert "1 job: 1 success" in (folder(user) / "1_0_log.out").read_text()
    late = user.run("monitor", "--session", "one", "--detach", "local")
    assert (late.returncode, "nothing to watch" in late.stdout) == (0, True)


def test_a_local_monitor_that_is_ended_leaves_the_session_to_the_next_one(user: User) -> None:
    words = (*GATED, "backend.options.misbehave=exit:3@3")
    monitor = int(reported(user.run("run", *words, "--detach", "local"), "process"))
    until(lease(user).exists, "the monitor at work")
    os.kill(monitor, signal.SIGTERM)
    assert result(user, "1") == ("success", 130)
    assert not lease(user).exists()
    reported(user.run("monitor", "--session", "one", "--detach", "local"), "process")
    (user.home / "go").touch()
    assert result(user, "2") == ("success", 1)
    assert user.states() == ["crash"]


def test_all_sessions_by_one_local_monitor(user: User) -> None:
    assert user.run("run", *GATED, "--no-monitor").returncode == 0
    reported(user.run("monitor", "--all", "--detach", "local"), "process")
    (user.home / "go").touch()
    assert result(user, "1", "@all") == ("success", 0)
    assert user.states() == ["success"]
    assert "no unfinished sessions" in user.run("monitor", "--all", "--detach", "local").stdout


def test_a_session_that_is_watched_is_not_handed_over(user: User) -> None:
    watcher = user.start("run", *GATED)
    until(lambda: (user.outputs / "monitoring_state" / "one.json").exists(), "the session")
    refused = user.run("monitor", "--session", "one", "--detach", "local")
    assert refused.returncode == 2
    assert f"session one is in use by process {watcher.pid}" in refused.stderr
    assert not (folder(user) / "monitor.json").exists()
    (user.home / "go").touch()
    assert watcher.wait() == 0


def test_without_sbatch_nothing_is_planned_or_submitted(user: User, tmp_path: Path) -> None:
    refused = user.run("run", *ONE, "slurm=base", "--detach", "slurm", PATH=str(tmp_path))
    assert refused.returncode == 3
    assert "there is no sbatch here" in refused.stderr
    assert not user.outputs.exists()


def test_a_state_directory_that_submitit_can_not_use_is_refused_before_anything_is_planned(user: User) -> None:
    refused = user.run("run", *ONE, "--detach", "local", OUTPUT_DIR=str(user.home / "50%j"))
    assert refused.returncode == 2
    assert "would read the % in this path" in refused.stderr
    assert not (user.home / "50%j").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--once",), "--once can't be beside it"),
        (("--json",), "--json can't be beside it"),
        (("--cmd", "status"), "--cmd status can't be beside it"),
    ],
)
def test_options_that_do_not_go_together(user: User, words: tuple[str, ...], message: str) -> None:
    refused = user.run("monitor", "--session", "one", "--detach", "local", *words)
    assert refused.returncode == 2
    assert message in refused.stderr


def test_a_job_of_a_monitor_is_made_of_defaults_the_plans_account_and_the_section() -> None:
    plain = Wishes.of({}, {"account": "mine", "partition": "gpu", "gpus_per_node": "4", "time": "3"})
    assert plain.options == {"account": "mine", "partition": "gpu", "cpus-per-task": "1"}
    assert (plain.limit_seconds, plain.lead_seconds) == (12 * 3600, 120)
    own = {"partition": None, "qos": "low", "mem": "2G", "time": 90, "nodelist": ["a", "b"]}
    asked = Wishes.of(own, {"partition": "gpu", "qos": "high"})
    assert asked.options == {"qos": "low", "cpus-per-task": "1", "mem": "2G", "nodelist": "a,b"}
    assert asked.limit_seconds == 90 * 60


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"time": "UNLIMITED"}, "a monitor's job needs a time limit"),
        ({"time": None}, "a monitor's job needs a time limit"),
        ({"time": "soon"}, "'soon' is not a time"),
        ({"time": "00:02:59"}, "120 can't be"),
        ({"requeue_seconds_before_end": "x"}, "'x' can't be"),
        ({"gpus": 1}, "'gpus' is not an option here"),
        ({"mem": {"a": 1}}, "must be one value"),
    ],
)
def test_what_a_job_of_a_monitor_can_not_be(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Wishes.of(section, {})
    assert message in str(caught.value)
    assert "$.monitoring.detach." in str(caught.value)


@pytest.mark.slurm
def test_a_monitor_on_slurm_requeues_itself_until_the_session_has_ended(slurm_user: User) -> None:
    manifest = plan(slurm_user, *HELD, time="00:02:00", requeue_seconds_before_end=60, mem="200M")
    handed = slurm_user.run("submit", "--manifest", manifest, "--detach", "slurm")
    monitor = reported(handed, "job")
    assert f"scancel {monitor}    (the jobs go on)" in handed.stdout
    again = slurm_user.run("monitor", "--session", "one", "--detach", "slurm")
    assert reported(again, "job") == monitor
    assert "nothing was submitted" in again.stdout
    until(lease(slurm_user).exists, "the monitor at work")
    refused = slurm_user.run("submit", "--manifest", manifest)
    assert refused.returncode == 2
    assert f"session one is in use by SLURM job {monitor} on " in refused.stderr
    assert f"(log: {folder(slurm_user) / f'{monitor}_0_log.out'})" in refused.stderr
    assert f"scancel {monitor}" in refused.stderr
    look = slurm_user.start("monitor", "--session", "one")
    until(lambda: restarts(slurm_user, monitor) == 1 and squeue(slurm_user, monitor, "%T") == "RUNNING", "its requeue")
    until(lease(slurm_user).exists, "the second run at work")
    (job,) = slurm_user.session().values()
    slurm(slurm_user, "scontrol", "release", job["scheduler_id"])
    assert result(slurm_user, monitor) == ("success", 0)
    assert look.wait() == 0
    seen = (slurm_user.home / "output.txt").read_text()
    assert f"read-only: SLURM job {monitor} on " in seen
    assert "1 job: 1 success" in seen
    until(lambda: squeue(slurm_user, monitor) == "" or squeue(slurm_user, monitor, "%T") == "COMPLETED", "its end")
    (job,) = slurm_user.session().values()
    assert (job["state"], job["attempt"], job["progress"]["iteration"]) == ("success", 1, 12)
    assert not lease(slurm_user).exists()
    log = (folder(slurm_user) / f"{monitor}_0_log.out").read_text()
    assert "Traceback" not in log
    assert "1 job: 1 success" in log


@pytest.mark.slurm
def test_a_monitor_on_slurm_submits_what_is_still_to_go_in_the_users_environment(slurm_user: User) -> None:
    words = ("slurm=base", "sweep.grids=[{stage:[a,b]}]", "++sweep.base_values={project.name:'s${index}'}")
    more = (
        "backend.argv=[sh,-c,env,sh]",
        "scheduler.max_jobs=1",
        "monitoring.poll_interval_seconds=0.2",
        "--plan-id",
        "one",
    )
    done = slurm_user.run("run", "project=default", *words, *more, "--detach", "slurm", MINE="1")
    monitor = reported(done, "job")
    assert result(slurm_user, monitor) == ("success", 0)
    jobs = slurm_user.session().values()
    assert [job["state"] for job in jobs] == ["success"] * 2
    by_user, by_monitor = (Path(job["resolved_log_path"]).read_text() for job in jobs)
    assert "MINE=1" in by_monitor.splitlines()
    names = [set(re.findall(r"^([A-Za-z_]\w*)=", text, re.MULTILINE)) for text in (by_user, by_monitor)]
    assert names[0] == names[1]


@pytest.mark.slurm
def test_scancel_ends_the_monitor_and_not_the_jobs(slurm_user: User) -> None:
    assert slurm_user.run("run", *HELD, "--no-monitor").returncode == 0
    killed = reported(slurm_user.run("monitor", "--session", "one", "--detach", "slurm"), "job")
    until(lease(slurm_user).exists, "the monitor at work")
    os.kill(int((folder(slurm_user) / f"{killed}.pid").read_text().split()[0]), signal.SIGKILL)
    until(lambda: squeue(slurm_user, killed, "%T") in ("", "FAILED", "CANCELLED"), "its end for SLURM")
    assert lease(slurm_user).exists()
    monitor = reported(slurm_user.run("monitor", "--session", "one", "--detach", "slurm"), "job")
    assert monitor != killed
    log = folder(slurm_user) / f"{monitor}_0_log.out"
    until(lambda: log.exists() and re.search("pending", log.read_text()), "its first look")
    slurm(slurm_user, "scancel", monitor)
    until(lambda: not lease(slurm_user).exists(), "the monitor's end")
    assert slurm_user.states() == ["pending"]
    until(lambda: squeue(slurm_user, monitor, "%T") in ("", "CANCELLED"), "its end for SLURM")
    other = reported(slurm_user.run("monitor", "--all", "--detach", "slurm"), "job")
    assert other != monitor
    (job,) = slurm_user.session().values()
    slurm(slurm_user, "scontrol", "release", job["scheduler_id"])
    assert result(slurm_user, other, "@all") == ("success", 0)


@pytest.mark.slurm
def test_a_monitor_that_slurm_refuses_or_the_config_asks_wrongly(slurm_user: User) -> None:
    manifest = plan(slurm_user, *HELD, partitoin="debug")
    refused = slurm_user.run("submit", "--manifest", manifest, "--detach", "slurm")
    assert refused.returncode == 2
    assert "$.monitoring.detach.partitoin" in refused.stderr
    assert "'partition'" in refused.stderr
    assert "cpus_per_task" in refused.stderr
    path = Path(manifest)
    path.write_text(path.read_text().replace('"partitoin": "debug"', '"partition": "nowhere"'))
    refused = slurm_user.run("submit", "--manifest", manifest, "--detach", "slurm")
    assert refused.returncode == 3
    assert "invalid partition specified: nowhere" in refused.stderr.lower()
    assert "the jobs go on" in refused.stderr
    assert slurm_user.states() == ["pending"]
    assert not (folder(slurm_user) / "monitor.json").exists()
