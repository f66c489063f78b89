"""Every way to start a job: in a terminal, by a session, by hand; never two of one job at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.planning import manifest as manifests
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User, until
from tests.folders import remove

pytestmark = pytest.mark.slow

STATE = Path("outputs", "monitoring_state")
PROGRAM = 'echo x >> ran; echo up; until [ -e go ]; do sleep 0.1; done; exit "$2"'
"""Notes in the working directory that it runs, and ends with its option `code` when there is a file `go`."""


def config(user: User, *names: str, name: str = "p", **sections: object) -> str:
    content = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": names[0]},
        "backend": {"argv": ["sh", "-c", PROGRAM, "x"], "options": {"code": 0}},
        "monitoring": {"poll_interval_seconds": 0.2},
        "sweep": {"grids": [{"project.name": list(names)}]},
        **sections,
    }
    (user.home / f"{name}.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(content)}")
    return f"./{name}.yaml"


def planned(user: User, *names: str) -> str:
    """Plan jobs of these names; the manifest's path."""
    assert user.run("plan", "--config-ref", config(user, *names), "--plan-id", "p").returncode == 0
    return "outputs/manifests/p.json"


def runs(user: User) -> int:
    """How often the program has begun."""
    path = user.home / "ran"
    return len(path.read_text().splitlines()) if path.exists() else 0


def in_terminal(user: User, index: int = 0) -> subprocess.Popen[str]:
    """Run an entry in a terminal, until its program is up."""
    before = runs(user)
    started = user.start("run_sweep_entry", "--index", str(index))
    until(lambda: runs(user) > before, "the program")
    return started


def state(user: User, job: str) -> str:
    path = SessionFiles.named(user.home / STATE, "p").path
    return Session.load(path).jobs[job].state if path.exists() else ""


def test_what_a_terminal_runs_is_neither_submitted_nor_run_a_second_time(user: User) -> None:
    manifest = planned(user, "a")
    terminal = in_terminal(user)
    for words in (("submit", "--manifest", manifest), ("run", "--config-ref", "./p.yaml", "--plan-id", "other")):
        refused = user.run(*words)
        assert refused.returncode == 2
        assert f"run_sweep_entry.py runs it in a terminal: process {terminal.pid} on " in refused.stderr
    again = user.run("run_sweep_entry", "--index", "0")
    assert again.returncode == 2
    assert f"the output directory of a is in use by process {terminal.pid} on " in again.stderr
    (user.home / "go").touch()
    assert terminal.wait() == 0
    assert runs(user) == 1
    assert user.run("submit", "--manifest", manifest).returncode == 0
    assert runs(user) == 2


def test_a_job_that_a_session_has_in_hand_is_not_run_in_a_terminal(user: User) -> None:
    watcher = user.start("submit", "--manifest", planned(user, "a"))
    until(lambda: state(user, "a") == "running" and runs(user), "a running job")
    refused = user.run("run_sweep_entry", "--index", "0")
    assert refused.returncode == 2
    assert f"belongs to the session 'p', watched by process {watcher.pid} on " in refused.stderr
    assert "its job a is running (job 1)" in refused.stderr
    assert "--cmd cancel --job a" in refused.stderr
    (user.home / "go").touch()
    assert watcher.wait() == 0
    assert runs(user) == 1


def test_a_new_attempt_waits_for_the_terminal_that_runs_the_job_meanwhile(user: User) -> None:
    manifest = planned(user, "a", "b")
    assert user.run("submit", "--manifest", manifest, "--no-monitor").returncode == 0
    until(lambda: user.run("monitor", "--session", "p", "--once") and runs(user) == 2, "the jobs")
    assert user.run("monitor", "--session", "p", "--cmd", "cancel", "--job", "a").returncode == 0
    until(lambda: user.run("monitor", "--session", "p", "--once") and state(user, "a") == "cancelled", "its end")
    terminal = in_terminal(user)
    restarted = user.run("monitor", "--session", "p", "--cmd", "restart", "--job", "a")
    assert restarted.returncode == 0, restarted.stderr
    until(lambda: user.run("monitor", "--session", "p", "--once") and state(user, "a") == "waiting", "the new attempt")
    status = user.run("monitor", "--session", "p", "--cmd", "status").stdout
    assert f"run_sweep_entry.py runs it in a terminal: process {terminal.pid}" in status
    (user.home / "go").touch()
    assert terminal.wait() == 0
    assert user.run("monitor", "--session", "p").returncode == 0
    assert runs(user) == 4


def test_two_plans_of_one_output_directory_know_of_each_other_wherever_their_sessions_are(user: User) -> None:
    watcher = user.start("submit", "--manifest", planned(user, "a"))
    until(lambda: state(user, "a") == "running", "a running job")
    own = ("project.base_output_dir=elsewhere", f"project.output_dir={user.outputs}/a", "--plan-id", "q")
    assert user.run("plan", "--config-ref", "./p.yaml", *own).returncode == 0
    for words in (
        ("run_sweep_entry", "--sweep", "elsewhere/sweep.json", "--index", "0"),
        ("submit", "--manifest", "elsewhere/manifests/q.json"),
    ):
        refused = user.run(*words)
        assert refused.returncode == 2, refused.stdout
        assert "session 'p'" in refused.stderr
    (user.home / "go").touch()
    assert watcher.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_a_terminals_run_ends_its_program(user: User, number: int) -> None:
    planned(user, "a")
    terminal = in_terminal(user)
    terminal.send_signal(number)
    assert terminal.wait() == 128 + number
    (user.home / "go").touch()
    assert user.run("run_sweep_entry", "--index", "0").returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# Plans for SLURM, in a terminal


SHOW = 'echo "world $SLURM_NTASKS rank $SLURM_PROCID own $OWN nodes $SLURM_JOB_NUM_NODES"; exit 4'


@pytest.fixture
def for_slurm(user: User) -> User:
    """Somebody with a plan for SLURM, and an srun that must not be called."""
    sbatch = {"nodes": 2, "ntasks_per_node": 4, "gpus_per_node": 2, "partition": "gpu", "hint": "nomultithread"}
    sbatch |= {"dependency": "singleton", "contiguous": True, "mem": None}
    slurm = {"env": {"OWN": "a b"}, "srun": {"cpus_per_task": 2}, "sbatch": sbatch}
    backend = {"argv": ["sh", "-c", SHOW, "x"]}
    ref = config(user, "a", slurm=slurm, backend=backend)
    assert user.run("plan", "--config-ref", ref, "--plan-id", "p", "slurm=base").returncode == 0
    (user.home / "bin").mkdir()
    srun = user.home / "bin" / "srun"
    srun.write_text("#!/bin/sh\ntouch called\n")
    srun.chmod(0o755)
    return User(user.home, {**user.environment, "PATH": f"{srun.parent}:{os.environ['PATH']}"})


def test_a_plan_for_slurm_runs_in_a_terminal_as_one_task_without_srun(for_slurm: User) -> None:
    result = for_slurm.run("run_sweep_entry", "--index", "0", SLURM_JOB_ID="7", SLURM_NTASKS="8")
    assert (result.returncode, result.stdout) == (4, "world 1 rank 0 own a b nodes 1\n")
    note = (
        "note: the job runs here as one task, on this machine and without its launcher (srun --cpus-per-task=2) "
        "(it asks for 2 nodes, 8 tasks, 4 GPUs); without --partition=gpu --nodes=2 --ntasks-per-node=4 "
        "--gpus-per-node=2 --time=01:00:00 --contiguous --dependency=singleton --hint=nomultithread\n"
    )
    assert note in result.stderr
    assert not (for_slurm.home / "called").exists()


def test_the_command_of_a_dry_run_does_the_same(for_slurm: User) -> None:
    shown = json.loads(for_slurm.run("run_sweep_entry", "--index", "0", "--dry-run", "--json").stdout)["command"]
    done = subprocess.run(shown, env=for_slurm.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "world 1 rank 0 own a b nodes 1\n")
    assert not (for_slurm.home / "called").exists()


def test_a_script_for_slurm_that_is_run_by_hand_outside_of_a_job_says_so(for_slurm: User) -> None:
    script = for_slurm.outputs / "a" / "job.sbatch"
    done = subprocess.run(["bash", script], env=for_slurm.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "srun would ask for an allocation of its own" in done.stderr
    assert not (for_slurm.home / "called").exists()


def test_a_template_that_calls_srun_itself_is_not_run_in_a_terminal(for_slurm: User) -> None:
    template = for_slurm.home / "own.template"
    template.write_text("#!/bin/bash\n{{directives}}\n{{env}}\ncd {{work_dir}}\nexec srun {{command}}\n")
    words = ("slurm=base", "slurm.template_path=own.template", "slurm.launcher_cmd=null", "--plan-id", "q")
    assert for_slurm.run("plan", "--config-ref", "./p.yaml", *words).returncode == 0
    refused = for_slurm.run("run_sweep_entry", "--index", "0")
    assert refused.returncode == 2
    assert "the script calls srun itself" in refused.stderr
    assert not (for_slurm.home / "called").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Where no SLURM is


NO_SLURM = ("slurm=base", "slurm.submit_cmd=no-sbatch", "slurm.squeue_cmd=no-squeue")


def test_where_no_scheduler_is_no_session_is_left_that_would_block_the_next_run(user: User) -> None:
    ref = config(user, "a", "b")
    for plan_id in ("p", "q"):
        result = user.run("run", "--config-ref", ref, *NO_SLURM, "--plan-id", plan_id)
        assert result.returncode == 3
        assert "no-sbatch: No such file or directory" in result.stderr
        assert "nothing was submitted: run this" in result.stderr
        assert f"manifests/{plan_id}.json" in result.stderr
        assert (user.outputs / "manifests" / f"{plan_id}.json").exists()
    assert not list((user.home / STATE).glob("*"))
    (user.home / "go").touch()
    assert user.run("run", "--config-ref", ref).returncode == 0


def test_a_session_that_never_began_blocks_nobody(user: User) -> None:
    manifest = planned(user, "a")
    abandoned = Session.create(manifests.load(user.home / manifest), user.home / manifest)
    (user.outputs / "a" / "session.json").write_text(json.dumps({"version": 1, "session": str(abandoned.path)}))
    (user.home / "go").touch()
    assert user.run("run_sweep_entry", "--index", "0").returncode == 0
    assert user.run("run", "--config-ref", "./p.yaml", "--plan-id", "q").returncode == 0


def test_a_job_of_a_session_that_was_removed_with_its_scheduler_has_its_directory_alone(user: User) -> None:
    watcher = user.start("submit", "--manifest", planned(user, "a"))
    until(lambda: state(user, "a") == "running", "a running job")
    watcher.kill()
    watcher.wait()
    remove(user.home / STATE)
    watcher = user.start("run", "--config-ref", "./p.yaml", "--plan-id", "q", "monitoring.poll_interval_seconds=0.2")
    said = user.home / "output.txt"
    reported = "its script has not begun, as job 1 runs in its output directory"
    until(lambda: reported in said.read_text(), "its refusal")
    (user.home / "go").touch()
    assert watcher.wait() == 0
    job = Session.load(SessionFiles.named(user.home / STATE, "q").path).jobs["a"]
    assert (job.state, job.attempt, job.answer.exit_code) == ("success", 1, 0)


def test_a_copied_output_directory_is_another_one(user: User) -> None:
    watcher = user.start("submit", "--manifest", planned(user, "a"))
    until(lambda: state(user, "a") == "running", "a running job")
    shutil.copytree(user.outputs / "a", user.outputs / "b", symlinks=True)
    assert user.run("run", "--config-ref", config(user, "b"), "--no-monitor").returncode == 0
    (user.home / "go").touch()
    assert watcher.wait() == 0
    assert user.run("monitor", "--session", user.plan_id).returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# A second look


def test_a_second_monitor_shows_what_the_first_records_and_writes_nothing(user: User) -> None:
    watcher = user.start("submit", "--manifest", planned(user, "a"))
    until(lambda: state(user, "a") == "running", "a running job")
    with (user.home / "look.txt").open("w") as output:
        look = subprocess.Popen(
            user.words("monitor", "--session", "p"), cwd=user.home, env=user.environment, stdout=output, stderr=output
        )
    text = user.home / "look.txt"
    until(lambda: "a: running" in text.read_text(), "what is recorded")
    assert f"read-only: process {watcher.pid} on " in text.read_text()
    lease = json.loads((user.home / STATE / "p.lease").read_text())
    assert lease["pid"] == watcher.pid
    look.send_signal(signal.SIGINT)
    assert look.wait() == 130
    document = user.words("monitor", "--session", "p", "--json")
    with subprocess.Popen(document, cwd=user.home, env=user.environment, stdout=subprocess.PIPE, text=True) as other:
        (user.home / "go").touch()
        facts = json.loads(other.communicate()[0])
    assert (other.returncode, [job["state"] for job in facts["jobs"]]) == (0, ["success"])
    assert watcher.wait() == 0


def test_a_second_monitor_takes_over_when_the_first_is_killed(user: User) -> None:
    watcher = user.start("submit", "--manifest", planned(user, "a"))
    until(lambda: state(user, "a") == "running", "a running job")
    document = user.words("monitor", "--session", "p")
    with subprocess.Popen(document, cwd=user.home, env=user.environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert "read-only" in other.stdout.readline()
        watcher.kill()
        watcher.wait()
        until(lambda: json.loads((user.home / STATE / "p.lease").read_text())["pid"] == other.pid, "the new watcher")
        (user.home / "go").touch()
        assert "nobody watches the session any more" in other.communicate()[0]
    assert other.returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# Signals before the end


TRAPS = ["sh", "-c", "trap 'exit 7' USR1; echo up; while :; do sleep 0.1; done", "x"]


def test_the_local_scheduler_sends_a_shells_signal_on_to_the_program(user: User) -> None:
    slurm = {"sbatch": {"signal": "B:USR1@598", "time": "00:10:00"}}
    ref = config(user, "a", slurm=slurm, backend={"argv": TRAPS})
    result = user.run("run", "--config-ref", ref, "--plan-id", "p")
    assert result.returncode == 1, result.stderr
    (job,) = user.session().values()
    assert (job["state"], job["exit_code"]) == ("crash", 7)


def test_a_new_attempt_with_another_signal_gets_a_script_that_sends_it_on(user: User) -> None:
    ref = config(user, "a", backend={"argv": TRAPS}, slurm={"sbatch": {"time": "00:10:00"}})
    assert user.run("run", "--config-ref", ref, "--plan-id", "p", "--no-monitor").returncode == 0
    assert user.run("monitor", "--session", "p", "--cmd", "cancel").returncode == 0
    until(lambda: user.run("monitor", "--session", "p", "--once") and state(user, "a") == "cancelled", "its end")
    own = ("--job", "a", "--override", "slurm.sbatch.signal=B:USR1@598")
    assert user.run("monitor", "--session", "p", "--cmd", "restart", *own).returncode == 0
    assert user.run("monitor", "--session", "p").returncode == 1
    (job,) = user.session().values()
    assert (job["state"], job["exit_code"], job["attempt"]) == ("crash", 7, 2)


@pytest.mark.parametrize("template", [None, "own.template"])
def test_a_signal_that_no_trap_takes_is_a_mistake_of_the_plan(user: User, template: str | None) -> None:
    (user.home / "own.template").write_text("#!/bin/bash\n{{directives}}\n{{env}}\ncd {{work_dir}}\n{{command}}\n")
    ref = config(user, "a")
    own = (f"slurm.template_path={template}", "slurm.sbatch.signal=B:USR1@20")
    refused = user.run(
        "plan", "--config-ref", ref, "slurm=base", *(own if template else ("slurm.sbatch.signal=B:TERM",))
    )
    assert refused.returncode == 2
    assert ("the script has no trap for it" if template else "srun does not pass TERM on") in refused.stderr
    assert not user.outputs.exists()


def test_a_script_that_was_changed_since_it_was_planned_is_not_run_in_a_terminal(user: User) -> None:
    planned(user, "a")
    entry = json.loads((user.home / "outputs/sweep.json").read_text())["entries"][0]
    script = Path(entry["script_path"])
    text = script.read_text()
    script.unlink()
    script.write_text(text + "touch intruder\n")
    (user.home / "go").touch()
    refused = user.run("run_sweep_entry", "--index", "0")
    assert refused.returncode == 2
    assert str(script) in refused.stderr
    assert "plan again" in refused.stderr
    assert not runs(user)
    assert not (user.home / "intruder").exists()


def test_a_local_job_runs_the_script_that_was_checked_and_none_put_in_its_place(user: User) -> None:
    planned(user, "a")
    (user.home / "go").touch()
    (user.home / "p.yaml").write_text(
        (user.home / "p.yaml").read_text().replace("echo x >> ran", "ps -ww -o args= -p $PPID > ran")
    )
    assert user.run("run", "--config-ref", "./p.yaml", "--plan-id", "q").returncode == 0
    run = (user.home / "ran").read_text()
    assert ".script" in run
    assert "job.sbatch" not in run
    assert not list((user.home / STATE).rglob("*.script"))
