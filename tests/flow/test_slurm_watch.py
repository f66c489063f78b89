"""The watch on a real SLURM: jobs that are begun again after their end, or that SLURM no longer knows."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.cli.steps import session_steps
from oellm_autoexp.decisions import lifecycle
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import QUICK, User, until
from tests.flow.test_slurm_run import slurm

NAMED = "++sweep.base_values={project.name:'run_${backend.options.step_seconds}'}"
ON_SLURM = (*QUICK, "slurm=base", "--plan-id", "x", NAMED)
QUICK_AND_LONG = "sweep.grids=[{backend.options.step_seconds:[0,1000]}]"
LONG = "sweep.grids=[{backend.options.step_seconds:[1000]}]"


def jobs(user: User, plan: str = "x") -> list[JobState]:
    return list(Session.load(SessionFiles.named(user.outputs / "monitoring_state", plan).path).jobs.values())


@pytest.mark.slurm
def test_a_job_that_is_requeued_after_its_end_is_watched_on(slurm_user: User) -> None:
    watcher = slurm_user.start("run", *ON_SLURM, QUICK_AND_LONG, "slurm.sbatch.requeue=true")
    state = slurm_user.outputs / "monitoring_state" / "x.json"
    until(lambda: state.exists() and [job.state for job in jobs(slurm_user)] == ["success", "running"], "an end")
    slurm(slurm_user, "scontrol", "requeue", jobs(slurm_user)[0].newest.scheduler_id)
    until(lambda: jobs(slurm_user)[0].state == "pending", "the scheduler to list it again")
    until(lambda: jobs(slurm_user)[0].state == "success", "the end of the second run")
    again = jobs(slurm_user)[0]
    assert (again.attempt, again.newest.runs) == (1, 2)
    assert slurm_user.run("monitor", "--session", "x", "--cmd", "cancel").returncode == 0
    assert watcher.wait() == 1


TWICE = "if [ -e ran ]; then sleep 6; echo well; else touch ran; sleep 2; exit 3; fi"


@pytest.mark.slurm
def test_a_failed_job_that_is_requeued_while_its_new_attempt_is_on_its_way_runs_alone(slurm_user: User) -> None:
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "a"},
        "backend": {"argv": ["sh", "-c", TWICE]},
        "slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50, "requeue": True}},
        "monitoring": {
            "poll_interval_seconds": 0.5,
            "state_events": {"crash": {"actions": [{"class_name": "RestartAction", "max_attempts": 1}]}},
        },
    }
    (slurm_user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "x")
    state = slurm_user.outputs / "monitoring_state" / "x.json"
    until(lambda: state.exists() and jobs(slurm_user)[0].restart is not None, "a new attempt on its way")
    slurm(slurm_user, "scontrol", "requeue", jobs(slurm_user)[0].newest.scheduler_id)
    assert watcher.wait() == 0
    job = jobs(slurm_user)[0]
    assert (job.state, job.attempt, job.newest.runs) == ("success", 1, 2)


STUBBORN = "trap 'sleep 2; exit 143' TERM; echo > ready; sleep 60 & wait"


@pytest.mark.slurm
def test_a_job_that_is_ending_has_no_exit_code_yet(slurm_user: User) -> None:
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "a"},
        "backend": {"argv": ["sh", "-c", STUBBORN]},
        "slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50}},
        "monitoring": {"poll_interval_seconds": 0.2},
    }
    (slurm_user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "x")
    until(lambda: (slurm_user.home / "ready").exists() and jobs(slurm_user)[0].state == "running", "a running job")
    slurm(slurm_user, "scancel", "--full", jobs(slurm_user)[0].newest.scheduler_id)
    seen: set[tuple[str, str, int | None]] = set()
    while watcher.poll() is None:
        job = jobs(slurm_user)[0]
        seen.add((job.state, job.answer.scheduler_state, job.answer.exit_code))
    assert {code for state, _, code in seen if state == "running"} == {None}
    assert jobs(slurm_user)[0].state == "cancelled"


ALONE = "mkdir busy || touch two; sleep 3; rmdir busy; if [ -e ran ]; then echo well; else touch ran; exit 3; fi"


@pytest.mark.slurm
@pytest.mark.parametrize(("cooldown_seconds", "attempt"), [(20, 1), (0, 2)], ids=["waits", "is in the queue"])
def test_of_an_attempt_that_is_requeued_and_a_newer_one_the_newer_one_goes_on_only_if_it_is_submitted(
    slurm_user: User, cooldown_seconds: int, attempt: int
) -> None:
    action = {"class_name": "RestartAction", "max_attempts": 1, "cooldown_seconds": cooldown_seconds}
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "a"},
        "backend": {"argv": ["sh", "-c", ALONE]},
        "slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50, "requeue": True}},
        "monitoring": {"poll_interval_seconds": 0.5, "state_events": {"crash": {"actions": [action]}}},
    }
    (slurm_user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "x")
    state = slurm_user.outputs / "monitoring_state" / "x.json"
    until(
        lambda: state.exists() and jobs(slurm_user)[0].attempt == attempt and jobs(slurm_user)[0].past.earlier,
        "between",
    )
    slurm(slurm_user, "scontrol", "requeue", jobs(slurm_user)[0].past.earlier[0].scheduler_id)
    assert watcher.wait() == 0
    job = jobs(slurm_user)[0]
    assert (job.state, job.attempt, job.past.begun_again) == ("success", attempt, ())
    assert not (slurm_user.home / "two").exists()
    reported = "was restarted: it is cancelled" if attempt == 2 else "no new attempt: the scheduler has restarted job"
    assert any(reported in entry.message for entry in job.history)
    assert reported in (slurm_user.home / "output.txt").read_text()


@pytest.mark.slurm
def test_an_earlier_attempt_that_is_requeued_while_nobody_watches_does_not_run_its_program_again(
    slurm_user: User,
) -> None:
    action = {"class_name": "RestartAction", "max_attempts": 1}
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "a"},
        "backend": {"argv": ["sh", "-c", "echo >> begun; if [ -e ran ]; then sleep 60; else touch ran; exit 3; fi"]},
        "slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50, "requeue": True}},
        "monitoring": {"poll_interval_seconds": 0.5, "state_events": {"crash": {"actions": [action]}}},
    }
    (slurm_user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "x")
    state = slurm_user.outputs / "monitoring_state" / "x.json"
    begun = slurm_user.home / "begun"
    until(lambda: state.exists() and begun.exists() and begun.stat().st_size == 2, "the second attempt to run")
    watcher.kill()
    watcher.wait()
    first = jobs(slurm_user)[0].past.earlier[0].scheduler_id
    slurm(slurm_user, "scontrol", "requeue", first)
    log = Path(jobs(slurm_user)[0].logs.resolved_log_path).with_name(f"{first}.out")
    until(lambda: "is not run again: a newer attempt is in its place" in log.read_text(), "its second run")
    slurm(slurm_user, "scancel", jobs(slurm_user)[0].newest.scheduler_id)
    assert begun.stat().st_size == 2


def sleeper(user: User, name: str) -> Path:
    """The config of one job that notes each of its starts in `begun` and ends as soon as there is a file `go`."""
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "a"},
        "backend": {"argv": ["sh", "-c", "echo >> begun; until [ -e go ]; do sleep 0.2; done"]},
        "slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50}},
        "monitoring": {"poll_interval_seconds": 0.5},
    }
    path = user.home / f"{name}.yaml"
    path.write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    return path


@pytest.mark.slurm
def test_a_script_that_is_submitted_by_hand_beside_its_running_job_does_not_begin(slurm_user: User) -> None:
    sleeper(slurm_user, "e")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "x")
    begun = slurm_user.home / "begun"
    until(begun.exists, "the session's job")
    job = jobs(slurm_user)[0]
    script = Path(job.logs.resolved_log_path).parents[1] / "job.sbatch"
    by_hand = slurm(slurm_user, "sbatch", "--parsable", str(script)).strip()
    log = Path(job.logs.resolved_log_path).with_name(f"{by_hand}.out")
    reported = f"job {by_hand} is not run: job {job.newest.scheduler_id} runs already and has the same output directory"
    until(lambda: log.exists() and reported in log.read_text(), "its refusal")
    (slurm_user.home / "go").touch()
    assert watcher.wait() == 0
    assert begun.stat().st_size == 1
    again = slurm(slurm_user, "sbatch", "--parsable", str(script)).strip()
    until(lambda: begun.stat().st_size == 2, f"job {again}, which may run as the other one has ended")


@pytest.mark.slurm
def test_a_job_whose_directory_one_submitted_by_hand_has_waits_and_loses_no_attempt(slurm_user: User) -> None:
    path = sleeper(slurm_user, "e")
    action = {"class_name": "RestartAction", "max_attempts": 1}
    config = yaml.safe_load(path.read_text())
    config["monitoring"]["state_events"] = {"crash": {"actions": [action]}}
    path.write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    assert slurm_user.run("run", "--config-ref", "./e.yaml", "--plan-id", "w", "--no-submit").returncode == 0
    by_hand = slurm(slurm_user, "sbatch", "--parsable", str(slurm_user.outputs / "a" / "job.sbatch")).strip()
    begun = slurm_user.home / "begun"
    until(begun.exists, "the one by hand")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "x")
    state = slurm_user.outputs / "monitoring_state" / "x.json"
    reported = f"its script has not begun, as job {by_hand} runs in its output directory"
    until(lambda: state.exists() and reported in jobs(slurm_user)[0].reason, "its refusal")
    (slurm_user.home / "go").touch()
    assert watcher.wait() == 0
    job = jobs(slurm_user)[0]
    assert (job.state, job.attempt, job.past.restarts, begun.stat().st_size) == ("success", 1, {}, 2)


@pytest.mark.slurm
def test_what_was_begun_in_an_allocation_at_a_terminal_keeps_no_job_from_its_directory(slurm_user: User) -> None:
    sleeper(slurm_user, "e")
    (slurm_user.home / "go").touch()
    words = ["salloc", "--job-name=a", "--ntasks=1", "--mem=50", "--time=5", "sleep", "60"]
    with subprocess.Popen(words, env=slurm_user.environment, cwd=slurm_user.home, stderr=subprocess.DEVNULL):
        try:
            running = ("squeue", "--noheader", "--name=a", "--states=RUNNING", "--format=%i")
            until(lambda: slurm(slurm_user, *running).strip(), "the allocation")
            marks = slurm_user.outputs / "a" / "marks"
            marks.mkdir(parents=True)
            (marks / f"{slurm(slurm_user, *running).strip()}.start").write_text("1\na\n")
            assert slurm_user.run("run", "--config-ref", "./e.yaml", "--plan-id", "x").returncode == 0
        finally:
            slurm(slurm_user, "scancel", "--name=a")
    assert jobs(slurm_user)[0].state == "success"


@pytest.mark.slurm
def test_a_new_session_waits_for_the_jobs_of_one_whose_file_was_removed(slurm_user: User) -> None:
    sleeper(slurm_user, "e")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "x")
    begun = slurm_user.home / "begun"
    until(begun.exists, "the first session's job")
    first = jobs(slurm_user)[0].newest.scheduler_id
    watcher.kill()
    watcher.wait()
    shutil.rmtree(slurm_user.outputs / "monitoring_state")
    watcher = slurm_user.start("run", "--config-ref", "./e.yaml", "--plan-id", "y")
    state = slurm_user.outputs / "monitoring_state" / "y.json"
    until(
        lambda: (
            state.exists()
            and f"waits until job {first}, which runs in its output directory, has ended"
            in jobs(slurm_user, "y")[0].reason
        ),
        "the wait",
    )
    (slurm_user.home / "go").touch()
    assert watcher.wait() == 0
    assert begun.stat().st_size == 2
    assert jobs(slurm_user, "y")[0].newest.scheduler_id != first


@pytest.mark.slurm
def test_a_job_of_which_slurm_tells_nothing_any_more_has_ended_before_its_next_attempt_begins(
    slurm_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = slurm_user.home / "commands"
    folder.mkdir()
    hidden, alive = folder / "hidden", folder / "alive"
    hidden.touch()
    for name in ("scontrol", "sinfo", "sacctmgr"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name in ("squeue", "sacct"):
        (folder / name).write_text(f'#!/bin/sh\n{shutil.which(name)} "$@" | grep -v -w -F -f "{hidden}"\ntrue\n')
    (folder / "sbatch").write_text(f'#!/bin/sh\nsqueue -h --me -t R,CG -o %i >> "{alive}"\nexec sbatch "$@"\n')
    for name in ("squeue", "sacct", "sbatch"):
        (folder / name).chmod(0o755)
    monkeypatch.setattr(lifecycle, "VANISHED_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(lifecycle, "BEGUN_VANISHED_AFTER_SECONDS", 1.0)
    monkeypatch.setattr(lifecycle, "GONE_AFTER_SECONDS", 8.0)  # longer than the cluster's KillWait
    monkeypatch.setenv("SLURM_CONF", slurm_user.environment["SLURM_CONF"])
    monkeypatch.chdir(slurm_user.home)
    commands = [f"slurm.{role}_cmd={folder / name}" for role, name in (("squeue", "squeue"), ("sacct", "sacct"))]
    rule = "++monitoring.state_events.crash.actions=[{class_name:RestartAction,max_attempts:1}]"
    words = (*ON_SLURM, LONG, *commands, f"slurm.submit_cmd={folder / 'sbatch'}", rule)
    made = slurm_user.run("run", *words, "--no-monitor")
    assert made.returncode == 0, made.stderr
    path = Path(slurm_user.outputs / "manifests" / "x.json")
    with session_steps.session(session_steps.load_manifest(path), path) as monitor:

        def job() -> JobState:
            monitor.cycle()
            return next(iter(monitor.session.jobs.values()))

        until(lambda: job().state == "running", "a running job")
        first = job().newest.scheduler_id
        hidden.write_text(f"{first}\n")
        alive.write_text("")
        until(lambda: job().attempt == 2, "its second attempt")
        assert alive.read_text() == "", "nothing of ours ran when it was submitted"
        assert first in slurm(slurm_user, "squeue", "-h", "--me", "-t", "CA", "-o", "%i").split()
        monitor.cancel(monitor.session.jobs, "the test is over")
        until(lambda: job().over, "the end")
