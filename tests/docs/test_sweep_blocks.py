"""Every sweep block of the README, as it stands there, plans to the jobs that the README says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.testing.plans import plan_of

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```yaml\n(sweep:\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
HEADER = "# @package _global_\ndefaults:\n  - override /backend: tiny_megatron\n"
NAMED = 'project:\n  name: "${stage}_lr${backend.megatron.lr}_bs${backend.megatron.global_batch_size}"\n'
KINDS = ["grid", "groups", "multi_stage", "filter", "nested_filter"]


def planned(text: str, folder: Path, *overrides: str) -> Manifest:
    """The manifest of an experiment given as text."""
    file = folder / "experiment.yaml"
    file.write_text(text)
    composed = load(Source(str(file), overrides=(f"project.base_output_dir={folder}/out", *overrides)))
    return plan_of(composed).manifest


def plan_block(kind: str, folder: Path, *, block: str | None = None) -> Manifest:
    text = block or BLOCKS[KINDS.index(kind)]
    return planned(HEADER + ("" if "project.name" in text else NAMED) + text, folder)


def set_by(job: JobSpec) -> dict[str, Any]:
    """What the sweep set for a job, by the last part of its key, but for its name and conditions."""
    parameters = {key.rsplit(".", 1)[-1]: value for key, value in job.parameters.items()}
    return {key: value for key, value in parameters.items() if key != "name" and not key.endswith("_conditions")}


def test_the_readme_has_the_five_blocks() -> None:
    assert len(BLOCKS) == len(KINDS)


@pytest.mark.parametrize(
    ("kind", "count"), [("grid", 9), ("groups", 14), ("multi_stage", 18), ("filter", 18), ("nested_filter", 18)]
)
def test_a_block_plans_to_the_number_of_jobs_that_the_text_says(kind: str, count: int, tmp_path: Path) -> None:
    manifest = plan_block(kind, tmp_path)
    assert len(manifest.jobs) == count
    assert [job.index for job in manifest.jobs] == list(range(count))
    assert len({job.name for job in manifest.jobs}) == count


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_experiment_is_the_block(kind: str, tmp_path: Path) -> None:
    text = (ROOT / "config" / "experiments" / "sweeps" / f"{kind}.yaml").read_text()
    assert text.endswith(BLOCKS[KINDS.index(kind)])


def test_three_jobs_of_the_grid(tmp_path: Path) -> None:
    jobs = plan_block("grid", tmp_path).jobs
    model = {"num_layers": 20, "hidden_size": 896}
    assert jobs[0].name == "experiment_0.0001_64"
    assert set_by(jobs[0]) == {**model, "lr": 1e-4, "global_batch_size": 64}
    assert jobs[1].name == "experiment_0.0001_128"
    assert set_by(jobs[1]) == {**model, "lr": 1e-4, "global_batch_size": 128}
    assert jobs[8].name == "experiment_0.001_256"
    assert set_by(jobs[8]) == {**model, "lr": 1e-3, "global_batch_size": 256}
    assert jobs[8].argv[jobs[8].argv.index("--batch-size") + 1] == "256"


def test_three_jobs_of_the_groups(tmp_path: Path) -> None:
    jobs = plan_block("groups", tmp_path).jobs
    assert jobs[0].name == "tuning_0.0001_64_small_batch"
    assert set_by(jobs[0]) == {"stage": "small_batch", "train_iters": 5000, "lr": 1e-4, "global_batch_size": 64}
    assert jobs[7].name == "tuning_0.0005_512_large_batch"
    assert set_by(jobs[7]) == {"stage": "large_batch", "train_iters": 5000, "lr": 5e-4, "global_batch_size": 512}
    assert jobs[13].name == "tuning_0.001_128_production"
    assert set_by(jobs[13]) == {"stage": "production", "train_iters": 100000, "lr": 1e-3, "global_batch_size": 128}


def test_each_decay_of_the_multi_stage_block_has_its_own_stable(tmp_path: Path) -> None:
    manifest = plan_block("multi_stage", tmp_path)
    stable, decay = manifest.jobs[:9], manifest.jobs[9:]
    assert {job.stage for job in stable} == {"stable"}
    for one, other in zip(stable, decay, strict=True):
        assert other.stage == "decay6B"
        assert other.depends_on == (one.name,)
        assert (one.coords, one.depends_on) == (other.coords, ())
        assert other.start_conditions == (
            {"class_name": "FileExistsCondition", "path": f"{one.output_dir}/checkpoints/done.txt"},
        )
        assert other.cancel_conditions == (
            {"class_name": "SlurmStateCondition", "job_name": one.name, "state": ["FAILED"]},
        )
        assert other.argv[other.argv.index("--load") + 1] == f"{one.output_dir}/checkpoints"
    assert decay[4].name == "decay6B_lr0.0005_bs128"
    assert set_by(stable[4]) == {"stage": "stable", "train_iters": 18000, "lr": 5e-4, "global_batch_size": 128}
    assert set_by(decay[4])["train_iters"] == 36000


def test_the_job_block_lets_each_decay_wait_for_its_own_stable(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (job,) = re.findall(r"```yaml\n(job:\n.*?)```", readme, re.DOTALL)
    sweep = re.sub(r"\n +# [^\n]*\n      job\.\w+:\n(?: {8,}[^\n]*\n)+", "\n", BLOCKS[KINDS.index("multi_stage")])
    assert "conditions" not in sweep
    jobs = planned(HEADER + NAMED + job + sweep, tmp_path).jobs
    for stable, decay in zip(jobs[:9], jobs[9:], strict=True):
        assert (stable.start_conditions, stable.cancel_conditions) == ((), ())
        assert decay.start_conditions[0]["path"] == f"{stable.output_dir}/checkpoints/done.txt"
        assert decay.cancel_conditions[0]["job_name"] == stable.name
        assert {stable.inactivity_threshold_seconds, decay.inactivity_threshold_seconds} == {1800}


def test_the_filter_drops_the_two_large_batches_at_the_large_rate(tmp_path: Path) -> None:
    jobs = plan_block("filter", tmp_path).jobs
    points = {(set_by(job)["lr"], set_by(job)["global_batch_size"]) for job in jobs}
    every = {(lr, size) for lr in (1e-4, 5e-4, 1e-3, 2e-3) for size in (64, 128, 256, 512, 1024)}
    assert every - points == {(2e-3, 512), (2e-3, 1024)}
    assert (jobs[0].name, jobs[17].name) == ("experiment_0.0001_64", "experiment_0.002_256")


def test_the_nested_filter_keeps_6_11_and_1_and_with_lower_thresholds_6_8_and_1(tmp_path: Path) -> None:
    def counts(manifest: Manifest) -> list[int]:
        stages = ("small_batch", "large_batch", "production")
        return [sum(job.stage == stage for job in manifest.jobs) for stage in stages]

    block = BLOCKS[KINDS.index("nested_filter")]
    assert counts(plan_block("nested_filter", tmp_path)) == [6, 11, 1]
    lower = block.replace("> 2e-3", "> 1e-3").replace("> 512", "> 256")
    assert lower != block
    assert counts(plan_block("nested_filter", tmp_path, block=lower)) == [6, 8, 1]


def test_the_worked_example_has_75_jobs_in_five_stages_each_decay_with_its_own_stable(tmp_path: Path) -> None:
    manifest = planned((ROOT / "config/experiments/examples/wsd_75.yaml").read_text(), tmp_path)
    assert len(manifest.jobs) == 75
    jobs = {job.name: job for job in manifest.jobs}
    for job in manifest.jobs:
        if job.stage != "stable":
            (parent,) = job.depends_on
            assert jobs[parent].stage == "stable"
            assert jobs[parent].coords == job.coords
            branch = int(str(job.stage).removeprefix("decay"))
            assert job.start_conditions[0]["path"] == f"{jobs[parent].output_dir}/checkpoints/iter_{branch:07}"
            assert job.argv[job.argv.index("--train-iters") + 1] == str(branch + 20)
