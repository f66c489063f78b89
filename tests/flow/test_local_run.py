"""The main job on one machine: plan → submit → monitor, interrupted in every way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User, until

SLOW = (*QUICK, "backend.options.step_seconds=0.15")


def events(user: User, name: str) -> list[str]:
    return [entry["event"] for entry in user.session()[name]["history"]]


def test_the_default_sweep_trains_four_models_and_says_what_is_next(user: User) -> None:
    result = user.run("run", *QUICK)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    table = [
        line for line in result.stdout.splitlines() if re.match(r"tiny_lm_lr\S+ +success +\S+ +12/12 +\d\.\d{4} ", line)
    ]
    assert len(table) == 4
    assert "4 jobs: 4 success" in result.stdout
    assert "next:" in result.stdout
    for name, job in user.session().items():
        log = Path(job["resolved_log_path"])
        assert (user.outputs / name / "current.log").resolve() == log
        assert "iteration       12/      12" in log.read_text()
        assert job["progress"]["loss"] == pytest.approx(last_loss(log), rel=1e-9)
        assert events(user, name)[-1] == "success"


def last_loss(log: Path) -> float:
    return float(re.findall(r"lm loss: (\S+) \|", log.read_text())[-1])


def test_plan_writes_everything_and_submit_needs_no_config(user: User) -> None:
    planned = user.run("plan", "--manifest", "demo.json", *QUICK)
    assert planned.returncode == 0, planned.stderr
    assert not (user.outputs / "monitoring_state").exists()
    provenance = user.outputs / "tiny_lm_lr0.01" / "provenance" / user.plan_id
    assert {path.name for path in provenance.iterdir()} == {"config.json", "job.sbatch", "plan"}
    assert {path.name for path in (provenance / "plan").iterdir()} == {
        "command_line.json",
        "config_unresolved.yaml",
        "environment.json",
        "git.diff",
        "git.json",
        "manifest.json",
        "planning.yaml",
        "overrides.txt",
    }
    assert json.loads((provenance / "config.json").read_text())["backend"]["options"]["lr"] == 0.01
    submitted = user.run("submit", "--manifest", "demo.json")
    assert submitted.returncode == 0, submitted.stderr
    assert user.states() == ["success"] * 4
    again = user.run("submit", "--manifest", "demo.json")
    assert again.returncode == 0
    assert "submitted before" in again.stdout
    assert [job["attempt"] for job in user.session().values()] == [1] * 4


def test_a_killed_monitor_is_resumed_with_nothing_repeated_and_nothing_lost(user: User) -> None:
    monitor = user.start("run", *SLOW)
    until(lambda: (user.outputs / "sweep.json").exists() and "running" in user.states(), "a running job")
    monitor.kill()
    monitor.wait()
    assert set(user.states()) & {"pending", "running"}
    resumed = user.run("monitor", "--session", user.plan_id)
    assert resumed.returncode == 0, resumed.stderr
    for name, job in user.session().items():
        assert (job["state"], job["attempt"]) == ("success", 1)
        assert job["progress"]["iteration"] == 12
        assert len(list((user.outputs / name / "logs").iterdir())) == 1
        seen = events(user, name)
        assert len(seen) == len(set(seen)), seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_jobs_running_and_prints_a_command_that_resumes(user: User, number: int) -> None:
    monitor = user.start("run", *SLOW)
    until(lambda: (user.outputs / "sweep.json").exists() and "running" in user.states(), "a running job")
    monitor.send_signal(number)
    assert monitor.wait() == 130
    output = (user.home / "output.txt").read_text()
    assert "Traceback" not in output
    command = output.splitlines()[output.splitlines().index("interrupted: the jobs go on. Resume with:") + 1]
    python = f"{os.path.dirname(subprocess.sys.executable)}:{user.environment['PATH']}"  # type: ignore[attr-defined]  # noqa: PTH120
    resumed = subprocess.run(
        ["bash", "-c", command],
        cwd=user.home,
        env={**user.environment, "PATH": python},
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert user.states() == ["success"] * 4


def test_a_failed_job_does_not_stop_the_others_and_the_exit_code_says_so(user: User) -> None:
    kinds = "sweep.grids=[{backend.options.misbehave:[null,'exit:7@3','crash@3']}]"
    result = user.run("run", *QUICK, kinds, "++sweep.base_values={project.name:'m${index}'}")
    assert result.returncode == 1, result.stderr + result.stdout
    states = {name: (job["state"], job["exit_code"]) for name, job in user.session().items()}
    assert sorted(states.values()) == [("crash", 1), ("crash", 7), ("success", 0)]
    assert "why did it fail" in result.stdout


def test_a_job_over_its_time_limit_ends_as_timeout(user: User) -> None:
    result = user.run(
        "run", *SLOW, "slurm.sbatch.time='0:02'", "backend.options.train_iters=1000", "sweep.grids=[{stage: [a]}]"
    )
    assert result.returncode == 1
    assert user.states() == ["timeout"]
    # It was warned in time: Megatron's way of ending is to save and leave.
    log = Path(next(iter(user.session().values()))["resolved_log_path"]).read_text()
    assert "exiting program after receiving SIGTERM" in log


def test_cancel_ends_running_and_waiting_jobs(user: User) -> None:
    started = user.run("run", *SLOW, "--no-monitor", "slurm.client.slots=1", "backend.options.train_iters=1000")
    assert started.returncode == 0, started.stderr
    until(
        lambda: user.run("monitor", "--session", user.plan_id, "--once").returncode == 0 and "running" in user.states(),
        "a start",
    )
    assert user.run("monitor", "--session", user.plan_id, "--cmd", "cancel").returncode == 0
    ended = user.run("monitor", "--session", user.plan_id)
    assert ended.returncode == 1
    assert user.states() == ["cancelled"] * 4


def test_max_jobs_bounds_what_is_in_the_queue(user: User) -> None:
    assert user.run("run", *SLOW, "scheduler.max_jobs=1", "--no-monitor").returncode == 0
    assert sorted(user.states()) == ["pending", "waiting", "waiting", "waiting"]
    assert user.run("monitor", "--session", user.plan_id).returncode == 0
    assert user.states() == ["success"] * 4


def test_a_plan_over_directories_of_an_unfinished_session_is_refused_by_its_name(user: User) -> None:
    assert user.run("run", *SLOW, "--no-monitor").returncode == 0
    first = user.plan_id
    refused = user.run("run", *SLOW)
    assert refused.returncode == 2
    assert f"session '{first}', which is not finished" in refused.stderr
    assert user.run("monitor", "--session", first).returncode == 0


def test_a_rerun_keeps_the_earlier_log_script_and_provenance(user: User) -> None:
    assert user.run("run", *QUICK).returncode == 0
    first = user.plan_id
    job = user.outputs / "tiny_lm_lr0.01"
    before = {path: path.read_bytes() for path in job.rglob("*") if path.is_file() and "provenance" in path.parts}
    log = next((job / "logs").iterdir()).read_bytes()
    rerun = user.run("run", *QUICK, "backend.options.train_iters=15")
    assert rerun.returncode == 0, rerun.stderr
    assert user.plan_id != first
    assert {path: path.read_bytes() for path in before} == before
    assert log in [path.read_bytes() for path in (job / "logs").iterdir()]
    assert len(list((job / "logs").iterdir())) == 2
    assert "successfully loaded checkpoint" in (job / "current.log").read_text()


def test_a_second_look_says_who_holds_the_session(user: User) -> None:
    monitor = user.start("run", *SLOW)
    until(lambda: (user.outputs / "sweep.json").exists() and "running" in user.states(), "a running job")
    second = user.run("monitor", "--session", user.plan_id, "--once")
    assert second.returncode == 2
    assert f"is in use by process {monitor.pid}" in second.stderr
    assert monitor.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["a 0", 'a"=0"', "a'; touch pwned; echo foo", "$(touch pwned)", "50% äöü", "{x}"])
def test_hostile_output_paths_are_only_paths(user: User, folder: str) -> None:
    result = user.run("run", *QUICK, "sweep.grids=[{stage: [a]}]", OUTPUT_DIR=str(user.home / folder))
    assert result.returncode == 0, result.stderr
    assert not list(user.home.rglob("pwned"))
    name = next((user.home / folder).glob("tiny*"))
    assert "training" in (name / "current.log").read_text()


def test_secrets_reach_neither_manifest_nor_provenance_nor_log(user: User) -> None:
    secrets = {
        "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz",
        "WANDB_API_KEY": "0123456789abcdef",
        "DB_PASSWORD": "hunter22",
    }
    words = ("slurm.env.MY_SECRET_TOKEN=opensesame", "backend.env.OTHER_API_KEY=opensesame")
    swept = "sweep.grids=[{slurm.env.SWEPT_TOKEN: [opensesame]}]"
    result = user.run("run", *QUICK, *words, swept, **secrets)
    assert result.returncode == 0, result.stderr
    for path in user.outputs.rglob("*"):
        kept = path.name in ("job.sbatch", "secrets.json") or path.suffix in (".job", ".env", ".secrets")
        if path.is_file() and not kept:
            text = path.read_text(errors="replace")
            for secret in (*secrets.values(), "opensesame"):
                assert secret not in text, path
        elif path.is_file():
            assert path.stat().st_mode & 0o077 == 0, f"{path} may hold secrets and is readable by others"


def test_run_sweep_entry_runs_the_same_command_here_and_now(user: User) -> None:
    assert user.run("plan", *QUICK).returncode == 0
    shown = user.run("run_sweep_entry", "--index", "1", "--dry-run")
    assert "--lr 0.01" in shown.stdout
    result = user.run("run_sweep_entry", "--sweep", "outputs/sweep.json", "--index", "1")
    assert result.returncode == 0, result.stderr
    assert "iteration       12/      12" in result.stdout


def test_json_output_is_one_document_and_nothing_else(user: User) -> None:
    planned = json.loads(user.run("plan", "--json", *QUICK).stdout)
    assert planned["plan_id"] == user.plan_id
    assert len(planned["jobs"]) == 4
    config = json.loads(user.run("render_config", "--json", "--job", "2", "project=default").stdout)
    assert config["backend"]["options"]["lr"] == 0.03
    sessions = json.loads(user.run("monitor", "--cmd", "list", "--json").stdout)
    assert sessions["sessions"] == []


def test_a_dry_run_writes_nothing(user: User) -> None:
    result = user.run("run", "--dry-run", *QUICK)
    assert result.returncode == 0
    assert "#SBATCH --job-name=tiny_lm_lr0.003" in result.stdout
    assert not user.outputs.exists()


def test_array_subset_plans_only_those_jobs(user: User) -> None:
    assert user.run("plan", "--array-subset", "0,2-3", *QUICK).returncode == 0
    entries = json.loads((user.outputs / "sweep.json").read_text())["entries"]
    assert [entry["index"] for entry in entries] == [0, 2, 3]


STAGES = (
    "--config-ref",
    "examples/stable_decay",
    "monitoring.poll_interval_seconds=0.2",
    "backend.options.log_interval=1",
    "backend.options.batch_size=16",
)


def test_each_decay_starts_at_its_own_stables_checkpoint_and_goes_on_from_its_loss(user: User) -> None:
    result = user.run("run", *STAGES)
    assert result.returncode == 0, result.stderr + result.stdout
    check_stages(user)


def check_stages(user: User) -> None:
    """Each decay waited for the checkpoint of its own stable run, loaded it, and continued its loss."""
    session = user.session()
    assert {name: job["state"] for name, job in session.items()} == {
        "stable_lr0.01": "success",
        "decay_lr0.01": "success",
        "stable_lr0.03": "success",
        "decay_lr0.03": "success",
    }
    for rate in ("0.01", "0.03"):
        jobs = [session[f"{stage}_lr{rate}"] for stage in ("stable", "decay")]
        stable, decay = (Path(job["resolved_log_path"]).read_text() for job in jobs)
        assert f"stable_lr{rate}/checkpoints [" in decay
        assert "at iteration 80" in decay
        first = re.search(r"iteration +81/ +100 .*? lm loss: (\S+)", decay)
        assert first is not None
        before = [float(loss) for loss in re.findall(r"lm loss: (\S+) \|", stable)]
        assert abs(float(first[1]) - sum(before[-5:]) / 5) < 0.5 < before[0] - float(first[1])
        waited = (user.outputs / f"stable_lr{rate}" / "checkpoints" / "iter_0000080").stat().st_mtime
        assert session[f"decay_lr{rate}"]["submitted_at"] >= waited - 1


def test_a_decay_whose_stable_run_fails_is_cancelled_and_says_why(user: User) -> None:
    result = user.run("run", *STAGES, "backend.options.misbehave=exit:3@20")
    assert result.returncode == 1
    session = user.session()
    assert session["stable_lr0.01"]["state"] == "crash"
    assert session["decay_lr0.01"]["state"] == "cancelled"
    assert "SlurmState: stable_lr0.01" in session["decay_lr0.01"]["reason"]
    assert session["decay_lr0.01"]["attempt"] == 0


def test_a_job_that_is_already_done_is_not_run(user: User) -> None:
    done = "job.done_conditions=[{class_name: GlobExistsCondition, pattern: 'outputs/*/checkpoints/iter_0000012'}]"
    assert user.run("run", *QUICK, "sweep.grids=[{stage: [a]}]").returncode == 0
    again = user.run("run", *QUICK, "sweep.grids=[{stage: [a]}]", done)
    assert again.returncode == 0, again.stderr
    (job,) = user.session().values()
    assert (job["state"], job["attempt"]) == ("success", 0)
    assert job["reason"].startswith("already done: GlobExists")
    assert "1 job: already done: GlobExists" in again.stdout
    assert "every job was submitted before" not in again.stdout


@pytest.mark.slow
def test_an_interrupt_in_the_middle_of_submitting_is_resumed_without_repeating(user: User) -> None:
    monitor = user.start("run", *QUICK, "scheduler.submit_rate_limit_seconds=1.5")
    until(lambda: (user.outputs / "sweep.json").exists() and set(user.states()) > {"waiting"}, "the first submission")
    monitor.send_signal(signal.SIGINT)
    assert monitor.wait() == 130
    assert "Resume with:" in (user.home / "output.txt").read_text()
    assert "waiting" in user.states()
    resumed = user.run("monitor", "--session", user.plan_id)
    assert resumed.returncode == 0, resumed.stderr
    assert [(job["state"], job["attempt"]) for job in user.session().values()] == [("success", 1)] * 4
    spooled = [path for path in (user.outputs / "monitoring_state" / "local").iterdir() if path.suffix == ".job"]
    assert len(spooled) == 4
