"""What earlier runs took decides what later plans say of their time, and automatic time limits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User
from tests.flow.test_slurm_run import slurm

TRAIN = """
for i in $(seq 1 $1); do
  echo "made up] iteration $i/ $1 | elapsed time per iteration (ms): {metadata.ms} | lm loss: 2 |"
done
"""
SECONDS = 60
ITERATIONS = 30
GPUS = 2


def experiment(user: User, **more: Any) -> tuple[str, ...]:
    """The words that plan a program which says that each of its iterations took a minute."""
    config = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "job"},
        "metadata": {"ms": SECONDS * 1000},
        "backend": {
            "argv": ["bash", "-c", TRAIN],
            "prints": "megatron",
            "options": {"train_iters": ITERATIONS, "lr": 0.1, "width": 8},
        },
        "slurm": {"sbatch": {"time": "01:00:00", "gpus_per_node": GPUS}},
        "monitoring": {"poll_interval_seconds": 0.2},
        **more,
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config, sort_keys=False)}")
    return "--config-ref", "./e.yaml"


def planned(user: User, *words: str) -> tuple[dict[str, Any], str]:
    """What a plan says as JSON, and the script of its first job."""
    done = user.run("plan", "--json", *words)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    manifest = json.loads(Path(facts["manifest"]).read_text())
    return facts, Path(manifest["jobs"][0]["script_path"]).read_text()


def first_run(user: User, *more: str) -> tuple[str, ...]:
    """An experiment that was run once."""
    words = experiment(user)
    done = user.run("run", *words, *more)
    assert done.returncode == 0, done.stderr + done.stdout
    return words


@pytest.mark.slow
def test_a_second_plan_has_the_time_limit_that_the_first_run_implies(user: User) -> None:
    words = first_run(user)
    again = (
        "project.name=again",
        "backend.options.lr=0.2",
        "slurm.sbatch.time=auto",
        "+slurm.env.LIMIT=${slurm.sbatch.time}",
    )
    facts, script = planned(user, *words, *again)
    seconds = SECONDS * ITERATIONS * 1.25  # 37.5 min: 40 in whole steps
    assert "#SBATCH --time=0-00:40:00\n" in script
    assert "export LIMIT=0-00:40:00\n" in script  # what refers to the limit follows it
    found = facts["estimates"]["again"]
    assert found["seconds"] == pytest.approx(SECONDS * ITERATIONS, rel=0.05)
    assert found["low"] <= found["seconds"] <= found["high"] <= seconds
    assert (found["runs"], found["scaled"], found["links"]) == (1, False, 1)
    assert found["limit_seconds"] == 2400
    assert re.fullmatch(r"auto: 1.25 x 30 min, which is enough for 9 of 10 runs by 1 earlier run", found["limit_from"])
    assert facts["gpu_hours"]["at_most"] == pytest.approx(GPUS * 2400 / 3600)
    assert facts["gpu_hours"]["expected"]["gpu_hours"] == pytest.approx(GPUS * 0.5, rel=0.05)
    twice, script = planned(user, *words, *again, "backend.options.train_iters=62", "slurm.sbatch.time=auto*2")
    assert "#SBATCH --time=0-02:05:00\n" in script  # 62 min twice, in whole steps
    assert twice["estimates"]["again"]["limit_from"].startswith("auto*2: 2 x 62 min")


@pytest.mark.slow
def test_a_time_limit_that_is_too_small_is_noted_and_the_budget_names_what_is_expected(user: User) -> None:
    words = first_run(user)
    done = user.run("plan", *words, "project.name=again", "slurm.sbatch.time=00:20:00", "stage=train")
    assert done.returncode == 0, done.stderr
    assert (
        "note: train: needs about 30 min (from 1 run), has 20 min: 2 links; the time limit is too short" in done.stdout
    )
    assert re.search(r"^at most 0\.7 GPU-hours \(about 0\.7 by earlier runs\)$", done.stdout, re.MULTILINE)
    enough = user.run("plan", *words, "project.name=again", "stage=train")
    assert "note: train: needs about 30 min (from 1 run), has 60 min\n" in enough.stdout
    assert "at most 2.0 GPU-hours (about 1.0 by earlier runs)\n" in enough.stdout
    refused = user.run("run", *words, "project.name=again", "scheduler.max_gpu_hours=1")
    assert refused.returncode == 2
    assert (
        "the plan may use 2.0 GPU-hours (about 1.0 by earlier runs), and scheduler.max_gpu_hours is 1.0"
        in refused.stderr
    )
    drawn = user.run("visualize_plan", *words, "project.name=again")
    assert "needs about 30 min (from 1 run), has 60 min" in drawn.stdout


@pytest.mark.slow
def test_without_a_known_run_an_automatic_limit_is_refused_and_nothing_is_said(user: User) -> None:
    words = experiment(user)
    refused = user.run("plan", *words, "slurm.sbatch.time=auto")
    assert refused.returncode == 2
    folder = user.outputs / "monitoring_state"
    what = f"'auto' needs an earlier run of this model and these resources; none is known in {folder}"
    assert what in refused.stderr
    assert 'slurm.sbatch.time: "02:00:00"' in refused.stderr
    assert "slurm.sbatch.time" in refused.stderr.partition(what)[0]
    plain = user.run("plan", *words)
    assert "needs about" not in plain.stdout
    assert "earlier runs" not in plain.stdout
    assert planned(user, *words)[0]["estimates"] == {}
    first_run(user)
    for other in ("backend.options.width=16", "slurm.sbatch.gpus_per_node=4", "metadata.ms=1"):
        assert user.run("plan", *words, "project.name=again", "slurm.sbatch.time=auto", other).returncode == 2


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("slurm.sbatch.time=[auto]",), "$.slurm.sbatch.time"),
        (
            ("slurm.sbatch.time=null", "slurm.sbatch_extra_directives=['--time=auto']"),
            "$.slurm.sbatch_extra_directives[0]",
        ),
    ],
)
def test_an_automatic_limit_never_reaches_a_script(user: User, words: tuple[str, ...], where: str) -> None:
    done = user.run("plan", *first_run(user), *words)
    assert done.returncode == 2
    assert where in done.stderr
    assert "'auto' is found only when a plan is made, for slurm.sbatch.time" in done.stderr


@pytest.mark.parametrize("number", ["-5", "NaN", "Infinity", "1e300"])
def test_a_file_of_runs_with_impossible_times_is_not_used_and_said_to_be_so(user: User, number: str) -> None:
    words = first_run(user)
    (path,) = (user.outputs / "monitoring_state").glob("*.measured.jsonl")
    path.write_text(re.sub(r'("middle": )[0-9.]+', rf"\g<1>{number}", path.read_text()))
    done = user.run("plan", *words, "slurm.sbatch.time=auto")
    assert done.returncode == 2
    assert "'auto' needs an earlier run" in done.stderr
    assert f"{path.name}:1: this line does not describe attempts" in done.stderr


@pytest.mark.slow
def test_runs_of_other_state_folders_are_used_if_they_are_named_and_ours(user: User) -> None:
    words = first_run(user, "project.base_output_dir=elsewhere")
    refused = user.run("plan", *words, "slurm.sbatch.time=auto")
    assert refused.returncode == 2
    named = "project.learn_from=[elsewhere/monitoring_state]"
    assert "#SBATCH --time=0-00:40:00\n" in planned(user, *words, "slurm.sbatch.time=auto", named)[1]
    (file,) = (user.home / "elsewhere" / "monitoring_state").glob("*.measured.jsonl")
    file.symlink_to(file.rename(user.home / "moved"))
    distrusted = user.run("plan", *words, named)
    assert distrusted.returncode == 0
    assert "needs about" not in distrusted.stdout
    assert f"note: earlier runs are not used: {file}: is a link" in distrusted.stdout


@pytest.mark.slow
def test_a_new_attempt_with_other_values_keeps_the_limit_that_was_found(user: User) -> None:
    words = first_run(user)
    again = ("project.name=again", "slurm.sbatch.time=auto", "--plan-id", "p")
    assert user.run("run", *words, *again).returncode == 0
    session = ("monitor", "--session", "p")
    asked = user.run(*session, "--cmd", "restart", "--job", "again", "--override", "backend.options.lr=0.7")
    assert asked.returncode == 0, asked.stderr
    assert user.run(*session).returncode == 0
    script = (user.outputs / "again" / "provenance" / "p" / "attempt_2" / "job.sbatch").read_text()
    assert "--lr 0.7" in script
    assert "#SBATCH --time=0-00:40:00\n" in script


@pytest.mark.slurm
def test_slurm_gets_the_limit_that_the_first_run_implies(slurm_user: User) -> None:
    experiment(slurm_user)
    on_slurm = ("slurm=base", "slurm.launcher_cmd=null", "slurm.sbatch.gpus_per_node=null", "slurm.sbatch.mem=50")
    words = ("--config-ref", "./e.yaml", *on_slurm)
    first = slurm_user.run("run", *words, "slurm.sbatch.time=00:45:00")
    assert first.returncode == 0, first.stderr + first.stdout
    again = slurm_user.run("run", *words, "project.name=again", "slurm.sbatch.time=auto", "--plan-id", "p")
    assert again.returncode == 0, again.stderr + again.stdout
    job = Session.load(SessionFiles.named(slurm_user.outputs / "monitoring_state", "p").path).jobs["again"]
    asked = slurm(slurm_user, "scontrol", "--oneliner", "show", "job", job.newest.scheduler_id)
    assert "TimeLimit=00:40:00 " in asked
