"""Submission on a real SLURM: chains without a monitor, arrays cut to the site's size, checks, and what was used."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User, until
from tests.flow.test_slurm_run import ON_SLURM, slurm
from tests.reports import data_of
from tests.slurm.cluster import Cluster

CHAIN = """\
# @package _global_
defaults:
  - override /backend: tiny_lm
  - override /slurm: base
project:
  name: ${stage}_${backend.options.seed}
backend:
  options: {train_iters: 12, log_interval: 1, step_seconds: 0.1}
scheduler:
  native_dependencies: true
monitoring:
  poll_interval_seconds: 0.2
sweep:
  groups:
    - params: {backend.options.seed: [1, 2, 3]}
    - configs:
        - stage: first
          backend.options.misbehave: ${oc.if:${oc.eval:${backend.options.seed} == 2},'exit:7@3',null}
        - stage: second
          metadata.of: ${sibling.first.output_dir}
"""


@pytest.mark.slurm
@pytest.mark.parametrize("array", ["false", "true"])
def test_a_chain_goes_on_with_no_monitor_alive(slurm_user: User, array: str) -> None:
    (slurm_user.home / "chain.yaml").write_text(CHAIN)
    words = ["--config-ref", "chain.yaml", f"slurm.array={array}", "--no-monitor"]
    result = slurm_user.run("run", *words)
    assert result.returncode == 0, result.stderr
    assert set(slurm_user.states()) == {"pending"}
    until(lambda: not slurm(slurm_user, "squeue", "-h", "--me"), "the queue to be empty")
    assert slurm_user.run("monitor", "--session", slurm_user.plan_id).returncode == 1
    jobs = slurm_user.session()
    assert {name: job["state"] for name, job in jobs.items()} == {
        "first_1": "success",
        "second_1": "success",
        "first_2": "crash",
        "second_2": "cancelled",
        "first_3": "success",
        "second_3": "success",
    }
    assert jobs["second_2"]["reason"] == "cancelled: first_2 ended as crash"
    for seed in (1, 3):
        marks = {stage: slurm_user.outputs / f"{stage}_{seed}" / "marks" for stage in ("first", "second")}
        (ended,) = marks["first"].glob("*.exit")
        (started,) = marks["second"].glob("*.start")
        assert int(started.read_text().split()[0]) >= int(ended.stat().st_mtime)
    if array == "true":
        assert len({job["scheduler_id"].partition("_")[0] for job in jobs.values()}) == 2


BESIDE = """\
# @package _global_
defaults:
  - override /backend: command
  - override /slurm: base
project: {name: "${stage}"}
backend:
  argv: [sh, -c, 'echo bad; until [ -e go ]; do sleep 0.1; done', x]
scheduler: {native_dependencies: true}
monitoring: {poll_interval_seconds: 0.2}
sweep:
  type: list
  groups:
    - configs:
        - stage: plain
        - stage: beside
          job.start_conditions:
            - {class_name: FileExistsCondition, path: there}
            - {class_name: SlurmStateCondition, job_name: "${sibling.plain.name}", state: [COMPLETED]}
        - stage: judged
          monitoring.log_events: {bad: {pattern: bad, state: crash, overrules_success: true}}
        - stage: after_judged
          metadata.of: ${sibling.judged.output_dir}
"""


@pytest.mark.slurm
def test_slurm_judges_what_it_can_and_what_only_rules_and_conditions_tell_is_left_to_a_monitor(
    slurm_user: User,
) -> None:
    (slurm_user.home / "beside.yaml").write_text(BESIDE)
    result = slurm_user.run("run", "--config-ref", "beside.yaml", "--no-monitor")
    assert result.returncode == 0, result.stderr
    assert "native dependencies, but 2 jobs only while a monitor watches" in result.stdout
    assert "2 jobs wait: no monitor runs: they are submitted when one is started" in result.stdout
    assert "beside: waits for FileExists: there" in result.stdout
    assert "after_judged: a rule of judged has overrules_success" in result.stdout
    (slurm_user.home / "there").touch()
    assert slurm_user.run("monitor", "--session", slurm_user.plan_id, "--once").returncode == 0
    jobs = slurm_user.session()
    assert jobs["beside"]["after"] == [jobs["plain"]["scheduler_id"]]
    assert (jobs["beside"]["state"], jobs["after_judged"]["state"]) == ("pending", "waiting")
    (slurm_user.home / "go").touch()
    assert slurm_user.run("monitor", "--session", slurm_user.plan_id).returncode == 1
    jobs = slurm_user.session()
    assert {name: job["state"] for name, job in jobs.items()} == {
        "plain": "success",
        "beside": "success",
        "judged": "crash",
        "after_judged": "cancelled",
    }
    assert jobs["after_judged"]["attempt"] == 0


TRAPS = "trap 'exit 7' USR1; echo up; while :; do sleep 0.1; done"


@pytest.mark.slurm
def test_a_signal_to_the_batch_shell_reaches_the_program_behind_srun(slurm_user: User) -> None:
    (slurm_user.home / "trap.sh").write_text(TRAPS)
    own = ("backend.argv=[sh,trap.sh]", "sweep.grids=[{stage:[a]}]", "slurm.sbatch.signal=B:USR1@20")
    assert slurm_user.run("run", *ON_SLURM, *own, "--no-monitor").returncode == 0
    (job,) = slurm_user.session().values()
    log = Path(job["resolved_log_path"])
    until(lambda: log.exists() and "up" in log.read_text(), "the program")
    slurm(slurm_user, "scancel", "--batch", "--signal=USR1", job["scheduler_id"])
    assert slurm_user.run("monitor", "--session", slurm_user.plan_id).returncode == 1
    (job,) = slurm_user.session().values()
    assert (job["state"], job["exit_code"]) == ("crash", 7)


@pytest.mark.slurm
def test_arrays_are_cut_to_the_sites_largest_and_run_so_many_at_once(
    make_slurm_cluster: Callable[..., Cluster], user: User
) -> None:
    cluster = make_slurm_cluster(max_array_size=3)
    on_slurm = User(user.home, {**user.environment, **cluster.environment()})
    words = ("slurm.array=true", "slurm.array_task_limit=1", "backend.options.train_iters=3")
    seeds = "sweep.grids=[{backend.options.seed:[1,2,3,4,5,6,7]}]"
    names = "++sweep.base_values={project.name:'s${backend.options.seed}'}"
    result = on_slurm.run("run", *ON_SLURM, *words, seeds, names)
    assert result.returncode == 0, result.stderr + result.stdout
    ids = [job["scheduler_id"].partition("_") for job in on_slurm.session().values()]
    assert [int(task) for _, _, task in ids] == [0, 1, 2, 0, 1, 2, 0]
    assert len({array for array, _, _ in ids}) == 3
    for array in {array for array, _, _ in ids}:
        shown = slurm(on_slurm, "scontrol", "show", "job", array)
        assert "ArrayTaskThrottle=1" in shown


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slurm.sbatch.partition=nowhere"], "there is no partition 'nowhere'"),
        (["slurm.sbatch.partition=shrt"], "did you mean 'short'?"),
        (["slurm.sbatch.partition=short"], "asks for 0-01:00:00; partition short allows 0-00:05:00"),
        (["slurm.sbatch.nodes=9"], "asks for 9 nodes; partition debug allows 4"),
        (["slurm.sbatch.gpu_per_node=1"], "sbatch has no option --gpu-per-node"),
        (["slurm.sbatch.gpus_per_node=9"], "asks for 9 GPUs on each node; nodes of partition debug have at most"),
        (["slurm.sbatch.gres=gpu:9", "--check"], "Requested node configuration is not available"),
    ],
)
def test_what_slurm_would_refuse_or_never_run_is_reported_before_anything_is_submitted(
    slurm_user: User, words: list[str], message: str
) -> None:
    result = slurm_user.run("run", *ON_SLURM, *words)
    assert result.returncode == 2, result.stdout
    assert message in result.stderr
    assert "job.sbatch" in result.stderr or "$.slurm.sbatch" in result.stderr
    assert not (slurm_user.outputs / "monitoring_state").exists()
    assert slurm_user.run("run", *ON_SLURM, "--no-monitor", "--check").returncode == 0


@pytest.mark.slurm
@pytest.mark.parametrize("accounting", [True, False])
def test_what_was_really_used_is_kept_and_shown(request: pytest.FixtureRequest, accounting: bool) -> None:
    on_slurm: User = request.getfixturevalue("slurm_user" if accounting else "slurm_user_no_accounting")
    words = (*QUICK, "slurm=base", "slurm.sbatch.gpus_per_node=2", "backend.options.step_seconds=0.3")
    result = on_slurm.run("run", *words, "sweep.grids=[{stage:[a]}]")
    assert result.returncode == 0, result.stderr
    (job,) = on_slurm.session().values()
    log = Path(job["resolved_log_path"])
    seconds = log.stat().st_mtime - job["started_at"]
    assert seconds > 3
    used = job["gpu_hours"] * 3600 / 2
    assert seconds - 3 <= used <= seconds + 10  # the accounts count whole seconds
    assert re.search(r"1 job: 1 success; 0\.0\d* GPU-hours used", result.stdout)
    assert on_slurm.run("report", "--session", on_slurm.plan_id).returncode == 0
    data = data_of((on_slurm.home / "report.html").read_text())
    (hours,) = data["sessions"][0]["hours"]
    assert (hours["state"], hours["used"], hours["unsettled"]) == ("success", job["gpu_hours"], 0)
    assert data["jobs"]["gpu_hours"] == [pytest.approx(job["gpu_hours"], rel=1e-6)]
    if accounting:
        sacct = ["sacct", "-nXP", "-j", job["scheduler_id"], "-o", "ElapsedRaw,State"]
        reported = subprocess.run(sacct, env=on_slurm.environment, capture_output=True, text=True, check=True).stdout
        assert reported == f"{used:.0f}|COMPLETED\n"
