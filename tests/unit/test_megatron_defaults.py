"""The shipped defaults for Megatron-LM give way to what a person says, and to the length of the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.testing.plans import plan_of

ON_GPUS = ("slurm=base", "slurm.sbatch.gpus_per_node=4", "slurm.sbatch.ntasks_per_node=4", "project.name=x")


def job(*overrides: str) -> JobSpec:
    made = load(Source(overrides=("backend=megatron", "backend/megatron=300M", *ON_GPUS, *overrides)))
    return plan_of(made).manifest.jobs[0]


def value(spec: JobSpec, flag: str) -> str | None:
    return spec.argv[spec.argv.index(flag) + 1] if flag in spec.argv else None


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        "data_path=[0.5,/a,0.5,'/b c']",
        "data_path=/a/tokens",
        "train_data_path=[/a]",
        "per_split_data_args_path=/a.json",
    ],
)
def test_data_of_a_persons_own_are_taken_instead_of_made_up_tokens(given: str) -> None:
    spec = job(f"backend.megatron.{given}")
    assert "--mock-data" not in spec.argv
    assert value(spec, "--vocab-size") == "128000"
    spec = job(f"backend.megatron.{given}", "backend.megatron.tokenizer_type=HuggingFaceTokenizer")
    assert "--vocab-size" not in spec.argv
    assert "--mock-data" in job().argv


def test_two_sources_of_data_that_a_person_names_are_refused() -> None:
    with pytest.raises(AutoexpError, match="one source of data"):
        job("backend.megatron.data_path=/a/tokens", "backend.megatron.mock_data=true")


@pytest.mark.parametrize(
    "sharded",
    [
        ("use_megatron_fsdp=true",),
        ("use_torch_fsdp2=true", "untie_embeddings_and_output_weights=true"),
    ],
)
def test_the_default_of_one_connection_gives_way_to_fsdp(sharded: tuple[str, ...]) -> None:
    words = [f"backend.megatron.{word}" for word in sharded]
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in job(*words).env
    assert job().env["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    with pytest.raises(AutoexpError, match="needs a value above 1"):
        job(*words, "backend.env.CUDA_DEVICE_MAX_CONNECTIONS=1")


@pytest.mark.parametrize(
    ("given", "ckpt_format", "there", "absent"),
    [
        ("seed=1", "torch_dist", {"--use-distributed-optimizer", "--overlap-param-gather"}, {"--use-torch-fsdp2"}),
        ("use_megatron_fsdp=true", "fsdp_dtensor", {"--use-distributed-optimizer", "--overlap-param-gather"}, set()),
        (
            "use_torch_fsdp2=true",
            "torch_dist",
            {"--no-gradient-accumulation-fusion"},
            {"--use-distributed-optimizer", "--overlap-param-gather"},
        ),
        ("use_distributed_optimizer=false", "torch_dist", {"--overlap-grad-reduce"}, {"--overlap-param-gather"}),
        ("overlap_grad_reduce=false", "torch_dist", {"--use-distributed-optimizer"}, {"--overlap-param-gather"}),
    ],
)
def test_the_defaults_of_the_optimizer_and_of_checkpoints_give_way(
    given: str, ckpt_format: str, there: set[str], absent: set[str]
) -> None:
    spec = job(f"backend.megatron.{given}", "backend.megatron.untie_embeddings_and_output_weights=true")
    assert value(spec, "--ckpt-format") == ckpt_format
    assert there <= {*spec.argv}
    assert not absent & {*spec.argv}


def test_what_a_person_sets_beside_fsdp_is_refused_at_the_persons_place() -> None:
    with pytest.raises(AutoexpError, match=r"override backend\.megatron\.ckpt_format=torch"):
        job("backend.megatron.use_megatron_fsdp=true", "backend.megatron.ckpt_format=torch")


def test_checkpoints_are_loaded_from_where_they_are_saved() -> None:
    assert value(job("backend.megatron.save=/x/ck"), "--load") == "/x/ck"
    assert value(job("backend.megatron.save=/x/ck", "backend.megatron.load=/x/start"), "--load") == "/x/start"
    assert not {"--save", "--load"} & {*job("backend.megatron.save=null").argv}


@pytest.mark.parametrize(
    ("given", "warmup", "decay"),
    [
        ("train_iters=1000", "100", "200"),
        ("train_iters=100000", "100", "200"),
        ("train_iters=100", "10", "20"),
        ("train_iters=1", "0", "1"),
        ("lr_decay_iters=100", "10", "20"),
        ("lr_warmup_fraction=0.1", None, "200"),
        ("lr_warmup_iters=50", "50", "200"),
    ],
)
def test_the_default_schedule_fits_into_a_short_training(given: str, warmup: str | None, decay: str) -> None:
    spec = job(f"backend.megatron.{given}")
    assert (value(spec, "--lr-warmup-iters"), value(spec, "--lr-wsd-decay-iters")) == (warmup, decay)


def test_a_training_that_is_counted_in_samples_has_no_defaults_in_iterations() -> None:
    spec = job(
        *(f"backend.megatron.{word}" for word in ("train_iters=null", "train_samples=9999", "lr_wsd_decay_samples=99"))
    )
    assert not {"--lr-warmup-iters", "--lr-wsd-decay-iters"} & {*spec.argv}


def test_the_size_of_a_head_is_free_where_query_groups_are_off() -> None:
    words = ("num_attention_heads=13", "kv-channels=64", "num_query_groups=4", "group_query_attention=false")
    assert value(job(*(f"backend.megatron.{word}" for word in words)), "--kv-channels") == "64"
