"""The main job on a real SLURM: single jobs, an array, several nodes and tasks; with accounting and without."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User, until
from tests.flow.test_local_run import STAGES, check_stages

ON_SLURM = (*QUICK, "slurm=base")
SLOW = (*ON_SLURM, "backend.options.step_seconds=0.3")
SHAPES = {
    "single jobs": (),
    "an array": ("slurm.array=true",),
    "2 nodes x 4 tasks": ("slurm.sbatch.nodes=2", "slurm.sbatch.ntasks_per_node=4", "slurm.sbatch.gpus_per_node=4"),
}


@pytest.fixture(params=["with accounting", "without accounting"])
def on_slurm(request: pytest.FixtureRequest) -> User:
    """A user on each kind of cluster."""
    fixture = "slurm_user" if request.param == "with accounting" else "slurm_user_no_accounting"
    found: User = request.getfixturevalue(fixture)
    return found


def slurm(user: User, *words: str) -> str:
    """What a SLURM command prints."""
    return subprocess.run(words, env=user.environment, capture_output=True, text=True, check=True).stdout


def submitted(user: User) -> list[str]:
    """Ids and tokens of everything in SLURM's memory that this user has submitted, once per job or array."""
    lines = set(slurm(user, "squeue", "-h", "-t", "all", "-o", "%F|%k|%Z").splitlines())
    return [line for line in lines if line.endswith(f"|{user.home}") and "autoexp:" in line]


@pytest.mark.slurm
@pytest.mark.parametrize("shape", SHAPES)
def test_the_default_sweep_trains_on_slurm(on_slurm: User, shape: str) -> None:
    result = on_slurm.run("run", *ON_SLURM, *SHAPES[shape])
    assert result.returncode == 0, result.stderr + result.stdout
    assert len(re.findall(r"^tiny_lm_lr\S+ +success +\S+ +12/12 +\d\.\d{4} ", result.stdout, re.MULTILINE)) == 4
    for index, (name, job) in enumerate(on_slurm.session().items()):
        assert (job["state"], job["scheduler_state"], job["exit_code"]) == ("success", "COMPLETED", 0)
        array = shape == "an array"
        assert re.fullmatch(rf"\d+_{index}" if array else r"\d+", job["scheduler_id"])
        log = Path(job["resolved_log_path"])
        assert log.name == f"{job['scheduler_id']}.out"
        link = on_slurm.outputs / name / (f"current_{index}.log" if array else "current.log")
        assert link.resolve() == log
        text = log.read_text()
        assert len(re.findall(r"iteration +12/ +12 \|", text)) == 1, "only the last rank prints"
        assert "successfully saved checkpoint from iteration      12" in text


@pytest.mark.slurm
@pytest.mark.parametrize("shape", ["single jobs", "an array"])
def test_states_and_exit_codes_are_those_of_the_jobs(on_slurm: User, shape: str) -> None:
    kinds = "sweep.grids=[{backend.options.misbehave:[null,'exit:7@3','crash@3','exit:255@3'],stage:[a]}]"
    names = "++sweep.base_values={project.name:'m${index}'}"
    result = on_slurm.run("run", *ON_SLURM, kinds, names, *SHAPES[shape])
    assert result.returncode == 1, result.stderr
    states = [(job["state"], job["exit_code"]) for job in on_slurm.session().values()]
    assert states == [("success", 0), ("crash", 7), ("crash", 1), ("crash", 255)]


@pytest.mark.slurm
def test_a_killed_monitor_is_resumed_with_nothing_repeated_and_nothing_lost(on_slurm: User) -> None:
    monitor = on_slurm.start("run", *SLOW)
    until(lambda: (on_slurm.outputs / "sweep.json").exists() and "running" in on_slurm.states(), "a running job")
    monitor.kill()
    monitor.wait()
    assert len(submitted(on_slurm)) == 4
    resumed = on_slurm.run("monitor", "--session", on_slurm.plan_id)
    assert resumed.returncode == 0, resumed.stderr
    assert len(submitted(on_slurm)) == 4
    for name, job in on_slurm.session().items():
        assert (job["state"], job["attempt"], job["progress"]["iteration"]) == ("success", 1, 12)
        assert len(list((on_slurm.outputs / name / "logs").iterdir())) == 1


@pytest.mark.slurm
def test_a_job_that_ended_and_was_forgotten_while_nobody_watched_is_reported_from_its_own_mark(
    make_slurm_cluster: object, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_slurm_cluster(min_job_age_seconds=2)  # type: ignore[operator]
    on_slurm = User(user.home, {**user.environment, **cluster.environment()})
    assert on_slurm.run("run", *ON_SLURM, "--no-monitor", "sweep.grids=[{stage:[a]}]").returncode == 0
    until(lambda: not slurm(on_slurm, "squeue", "-h", "-t", "all"), "SLURM to forget the job")
    resumed = on_slurm.run("monitor", "--session", on_slurm.plan_id)
    assert resumed.returncode == 0, resumed.stderr
    assert on_slurm.states() == ["success"]


@pytest.mark.slurm
def test_cancel_by_hand_is_seen_as_cancelled(slurm_user: User) -> None:
    monitor = slurm_user.start("run", *SLOW, "backend.options.train_iters=1000")
    until(
        lambda: (slurm_user.outputs / "sweep.json").exists() and slurm_user.states() == ["running"] * 4,
        "4 running jobs",
    )
    slurm(slurm_user, "scancel", *(job["scheduler_id"] for job in slurm_user.session().values()))
    assert monitor.wait() == 1
    assert slurm_user.states() == ["cancelled"] * 4


@pytest.mark.slurm
def test_a_controller_that_does_not_answer_is_no_news(slurm_user: User, slurm: object) -> None:
    monitor = slurm_user.start("run", *SLOW)
    until(lambda: (slurm_user.outputs / "sweep.json").exists() and "running" in slurm_user.states(), "a running job")
    slurm.stop_controller()  # type: ignore[attr-defined]
    output = slurm_user.home / "output.txt"
    until(lambda: "the scheduler does not answer" in output.read_text(), "the screen to say so")
    if os.environ.get("AUTOEXP_SLOW") == "1":
        time.sleep(60)
    assert not set(slurm_user.states()) & {"crash", "cancelled", "timeout"}
    slurm.start_controller()  # type: ignore[attr-defined]
    assert monitor.wait() == 0
    assert "it answers again" in output.read_text()
    assert [job["attempt"] for job in slurm_user.session().values()] == [1] * 4


@pytest.mark.slurm
def test_a_refused_submission_waits_with_slurms_words_and_exit_code_3(slurm_user: User) -> None:
    result = slurm_user.run("run", *ON_SLURM, "slurm.sbatch.gres=gpu:9")
    assert result.returncode == 3
    assert "Requested node configuration is not available" in result.stderr
    assert "submit_autoexp.py --manifest" in result.stderr
    assert slurm_user.states() == ["waiting"] * 4


@pytest.mark.slurm
def test_srun_and_sbatch_options_reach_slurm(slurm_user: User) -> None:
    words = (
        "slurm.srun.label=true",
        "slurm.sbatch.cpus_per_task=2",
        "slurm.sbatch.mem=400M",
        "slurm.srun.unbuffered=true",
    )
    dry = slurm_user.run("run", "--dry-run", *ON_SLURM, *words)
    assert "-srun --label --unbuffered}" in dry.stdout
    result = slurm_user.run("run", *ON_SLURM, *words, "sweep.grids=[{stage:[a]}]")
    assert result.returncode == 0, result.stderr
    job = next(iter(slurm_user.session().values()))
    assert re.search(r"^0: .*iteration +12/", Path(job["resolved_log_path"]).read_text(), re.MULTILINE)
    shown = slurm(slurm_user, "scontrol", "show", "job", job["scheduler_id"])
    assert "CPUs/Task=2" in shown
    assert "MinMemoryNode=400M" in shown


@pytest.mark.slurm
@pytest.mark.parametrize("folder", ["a 0", 'a"=0"', "a'; touch pwned; echo foo", "$(touch pwned)", "50% j%j äöü"])
@pytest.mark.parametrize("shape", ["single jobs", "an array"])
def test_hostile_output_paths_are_only_paths(slurm_user: User, folder: str, shape: str) -> None:
    base = str(slurm_user.home / folder)
    result = slurm_user.run("run", *ON_SLURM, "sweep.grids=[{stage:[a]}]", *SHAPES[shape], OUTPUT_DIR=base)
    assert result.returncode == 0, result.stderr + result.stdout
    assert not list(slurm_user.home.rglob("pwned"))
    link = next((slurm_user.home / folder).glob("tiny*/current*.log"))
    assert "after training is done" in link.read_text()


@pytest.mark.slurm
def test_each_decay_starts_at_its_own_stables_checkpoint_and_goes_on_from_its_loss(slurm_user: User) -> None:
    result = slurm_user.run("run", *STAGES, "slurm=base")
    assert result.returncode == 0, result.stderr + result.stdout
    check_stages(slurm_user)
