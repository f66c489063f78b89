"""Experiment files as people bring them along, and what each comes to: its jobs, and what Megatron reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.planning.make_plan import make_plan
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.resolving.provenance import gather
from oellm_autoexp.storage.files import shipped
from tests.megatron.parser import Parser

FILES = Path(__file__).parent
ON_A_CLUSTER = {"num_layers": 16, "mock_data": True, "tokenizer_type": "NullTokenizer"}
EXPECTED: dict[str, dict[str, dict[str, Any]]] = {
    "cooldown_by_action": {"trunk": {"train_iters": 10000, "save_interval": 2000, "save": "/out/trunk/checkpoints"}},
    "dense_lr": {
        f"dense_{lr}_pretrain": {"lr": lr, "train_iters": 5000, "global_batch_size": 64, "num_layers": 20}
        for lr in (0.0001, 0.0005, 0.001)
    },
    "grid_and_groups": {
        f"g_{lr}_{decay}_{batch}": {"lr": lr, "global_batch_size": batch, "weight_decay": decay}
        for lr in (0.001, 0.002)
        for batch in (256, 512)
        for decay in (0.1, 0.0)
        if not (lr > 1e-3 and batch > 256)
    },
    "older_megatron": {"run": {}},
    "on_juwels": {"juwels_1B": ON_A_CLUSTER},
    "on_jupiter": {"jupiter_1B": ON_A_CLUSTER},
    "on_leonardo": {"leonardo_1B": ON_A_CLUSTER},
    "on_lumi": {"lumi_1B": ON_A_CLUSTER},
    "on_marenostrum": {"marenostrum_1B": ON_A_CLUSTER},
    "own_places": {
        f"own_{length}": {
            "seq_length": length,
            "max_position_embeddings": length,
            "save": f"/out/own_{length}/checkpoints",
        }
        for length in (1024, 2048)
    },
    "resolvers": {
        f"r_{batch}": {
            "global_batch_size": batch,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "ffn_hidden_size": 2752,  # 1024 · 2.667 = 2731.008, of which the nearest multiple of 64
            "train_iters": -(-4_000_000_000 // (batch * 2048)),
            "lr_warmup_iters": -(-4_000_000_000 // (batch * 2048)) // 10,
            "min_lr": 1e-4,
        }
        for batch in (512, 1024)
    },
    "several_choices": {"nd_24x512": {"num_layers": 24, "hidden_size": 512, "num_attention_heads": 8}},
    "stable_decay": {
        f"wsd_{lr}_{stage}": {
            "lr": lr,
            "train_iters": iterations,
            "save": f"/out/wsd_{lr}_{stage}/checkpoints",
            **({"load": f"/out/wsd_{lr}_stable/checkpoints"} if stage == "decay" else {}),
        }
        for lr in (0.001, 0.002)
        for stage, iterations in (("stable", 1000), ("decay", 1200))
    },
}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OUTPUT_DIR", "/out")
    monkeypatch.setenv("SLURM_ACCOUNT", "project_1")
    monkeypatch.setenv("SLURM_QOS", "acc_debug")
    monkeypatch.setenv("CONTAINER_CACHE_DIR", "/images")

    def plan(name: str) -> Plan:
        return make_plan(
            load(Source(str(FILES / f"{name}.yaml"))),
            gather([]),
            read_template=lambda path: (path or shipped("oellm_autoexp/sbatch/job.sbatch.template")).read_text(),
        )

    return plan


def of_megatron(job: JobSpec) -> list[str]:
    """The arguments of Megatron in a job's command."""
    argv = [*map(str, job.argv)]
    return argv[next(index for index, word in enumerate(argv) if word.endswith("pretrain_gpt.py")) + 1 :]


def test_every_file_is_tried() -> None:
    assert {path.stem for path in FILES.glob("*.yaml")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_comes_to_the_jobs_that_its_author_means(name: str, planned: Any) -> None:
    jobs = planned(name).manifest.jobs
    assert sorted(job.name for job in jobs) == sorted(EXPECTED[name])


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"older_megatron"}))
def test_megatron_reads_of_a_file_what_its_author_means(name: str, planned: Any, megatron_parser: Parser) -> None:
    for job in planned(name).manifest.jobs:
        answer = megatron_parser.parse(of_megatron(job))
        assert "error" not in answer
        read = {dest: answer["changed"].get(dest) for dest in EXPECTED[name][job.name]}
        assert read == EXPECTED[name][job.name]


def test_a_decay_waits_for_its_stable_run_and_is_cancelled_with_it(planned: Any) -> None:
    for job in planned("stable_decay").manifest.jobs:
        if job.stage == "decay":
            stable = job.name.replace("decay", "stable")
            assert job.start_conditions[0]["path"] == f"/out/{stable}/checkpoints/iter_0001000"
            assert job.cancel_conditions[0]["job_name"] == stable
            assert job.start_condition_interval_seconds == 60


def test_places_of_jobs_are_theirs_and_the_plans_is_one(planned: Any) -> None:
    manifest = planned("own_places").manifest
    assert [job.output_dir for job in manifest.jobs] == ["/out/own_1024/own_1024", "/out/own_2048/own_2048"]
    assert (manifest.base_output_dir, manifest.monitoring_state_dir) == ("/out", "/out/monitor")


@pytest.mark.parametrize(
    ("name", "gpus", "cores"),
    [("juwels", 4, 48), ("jupiter", 4, 288), ("leonardo", 4, 32), ("lumi", 8, 56), ("marenostrum", 4, 80)],
)
def test_torchrun_is_one_task_on_each_node_with_all_of_its_cores_and_gpus(
    name: str, gpus: int, cores: int, planned: Any
) -> None:
    (script,) = planned(f"on_{name}").scripts
    asked = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {f"--gpus-per-node={gpus}", "--ntasks-per-node=1", f"--cpus-per-task={cores}", "--nodes=4"} <= asked
    assert f"--nproc-per-node={gpus}" in script
    assert "mask_cpu" not in script  # the masks are for a task for each GPU


def test_what_a_log_tells_goes_into_the_run_that_an_action_starts(planned: Any) -> None:
    events = planned("cooldown_by_action").manifest.monitoring["log_events"]
    (action,) = events["checkpoint"]["actions"]
    assert action["conditions"][0]["within"] == [4000, 8000]
    assert action["action"].get("config_ref") is None
    assert action["action"].get("config_path") is None
    assert (
        "project.base_output_dir={project.base_output_dir}_decay{checkpoint_iteration}" in action["action"]["overrides"]
    )
    assert events["checkpoint"]["extract_groups"]["checkpoint_line"] == "match"
    assert events["checkpoint_2"]["pattern"] == "successfully loaded checkpoint"
    assert events["silence"].get("pattern") is None


def test_arguments_of_an_older_megatron_are_taken_for_what_they_were(planned: Any) -> None:
    (job,) = planned("older_megatron").manifest.jobs
    words = of_megatron(job)
    assert "--use-mcore-models" in words
    assert "--log-throughput" in words
    assert "--recompute-granularity" not in words
