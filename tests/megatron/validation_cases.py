"""Configs for Megatron-LM, wrong and right, that our checks (tests/unit) and Megatron's own (tests/megatron) judge.

Each is what differs from `BASE`, for a job of so many ranks; null takes a key out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from oellm_autoexp.backends.megatron.arguments import Arguments

BASE: dict[str, Any] = {
    "num_layers": 8,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "seq_length": 1024,
    "max_position_embeddings": 1024,
    "position_embedding_type": "rope",
    "swiglu": True,
    "add_bias_linear": False,
    "micro_batch_size": 4,
    "global_batch_size": 64,
    "train_iters": 1000,
    "lr": 1e-3,
    "min_lr": 1e-4,
    "lr_decay_style": "cosine",
    "lr_warmup_iters": 100,
    "bf16": True,
    "mock_data": True,
    "tokenizer_type": "NullTokenizer",
    "vocab_size": 32000,
}
ENVIRONMENT = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


@dataclass(frozen=True)
class Case:
    """One config, and what is to be said of it: where, and words of it in their order."""

    name: str
    changes: dict[str, Any]
    where: str = ""
    says: tuple[str, ...] = ()
    world: int = 8
    environment: dict[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))
    asked: bool = True
    """Whether Megatron itself can be asked: not for what is in the environment, or comes after the model is built."""

    @property
    def values(self) -> dict[str, Any]:
        return {**BASE, **self.changes}


_OFFERED = re.compile(r"\b([a-z_]{4,}) ((?:\d+(?:, | or )?)+)")


def offered(case: Case, hint: str) -> Iterator[Case]:
    """What becomes of a case by each value that a hint offers."""
    for dest, values in _OFFERED.findall(hint):
        for value in re.findall(r"\d+", values) if dest in Arguments.of().dests else ():
            yield replace(case, changes={**case.changes, dest: int(value)})


def wrong(name: str, where: str, says: str | tuple[str, ...], world: int = 8, **changes: Any) -> Case:
    return Case(name, changes, where, (says,) if isinstance(says, str) else says, world)


def untold(
    name: str, where: str, says: str | tuple[str, ...], env: dict[str, str] | None = None, /, **changes: Any
) -> Case:
    """A wrong config that the real parser can't be asked about here."""
    given = dict(ENVIRONMENT) if env is None else env
    return Case(name, changes, where, (says,) if isinstance(says, str) else says, 8, given, asked=False)


TP, PP, CP = "tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"
EP, ETP = "expert_model_parallel_size", "expert_tensor_parallel_size"
MOE: dict[str, Any] = {"num_experts": 8}
FSDP2: dict[str, Any] = {
    "use_torch_fsdp2": True,
    "gradient_accumulation_fusion": False,
    "untie_embeddings_and_output_weights": True,
}
FSDP: dict[str, Any] = {"use_megatron_fsdp": True, "use_distributed_optimizer": True, "ckpt_format": "fsdp_dtensor"}

WRONG = [
    # ranks
    wrong(
        "tp of no divisor",
        TP,
        ("8 GPUs", "3", "1 or 2, or a multiple"),
        num_attention_heads=6,
        hidden_size=510,
        **{TP: 3},
    ),
    wrong("pp of no divisor", PP, ("8 GPUs", "take pipeline_model_parallel_size 1, or"), num_layers=9, **{PP: 3}),
    wrong("cp of no divisor", CP, ("8 GPUs", "multiple of 3"), seq_length=960, **{CP: 3}),
    wrong(
        "more parts than ranks", TP, ("16", "multiple of 32 GPUs"), world=16, num_attention_heads=16, **{TP: 8, PP: 4}
    ),
    wrong("experts that are none", EP, ("no experts", "num_experts"), **{EP: 2}),
    wrong(
        "experts that do not divide",
        EP,
        ("6 experts", "4 ranks", "1 or 2, or num_experts 4 or 8"),
        num_experts=6,
        **{EP: 4},
    ),
    wrong(
        "fewer weight shards than tp",
        "tensor_parallel_num_weight_shards",
        "multiple",
        tensor_parallel_num_weight_shards=3,
        **{TP: 2},
    ),
    # pipelines
    wrong("layers over stages", PP, ("10 layers", "4 pipeline stages", "1 or 2", "8 or 12"), num_layers=10, **{PP: 4}),
    wrong(
        "layers and loss over stages",
        PP,
        ("8 layers (and 1 for", "num_layers 7 or 9"),
        account_for_loss_in_pipeline_split=True,
        num_layers=8,
        **{PP: 2},
    ),
    wrong(
        "two virtual options",
        "num_virtual_stages_per_pipeline_rank",
        "exclude",
        num_layers_per_virtual_pipeline_stage=2,
        num_virtual_stages_per_pipeline_rank=2,
        **{PP: 2},
    ),
    wrong(
        "virtual stages of no divisor",
        "num_layers_per_virtual_pipeline_stage",
        ("4 layers", "3", "1, 2 or 4"),
        num_layers_per_virtual_pipeline_stage=3,
        **{PP: 2},
    ),
    wrong(
        "virtual stages without pipeline",
        "num_layers_per_virtual_pipeline_stage",
        ("2 or more", "not 1"),
        num_layers_per_virtual_pipeline_stage=2,
    ),
    wrong(
        "virtual stages without overlap",
        "num_layers_per_virtual_pipeline_stage",
        ("3 or more", "overlap_p2p_comm"),
        num_layers_per_virtual_pipeline_stage=2,
        overlap_p2p_comm=False,
        **{PP: 2},
    ),
    wrong(
        "virtual and uneven",
        "num_layers_per_virtual_pipeline_stage",
        "num_virtual_stages",
        num_layers_per_virtual_pipeline_stage=2,
        decoder_first_pipeline_num_layers=2,
        **{PP: 2},
    ),
    # batches
    wrong("no micro batch", "micro_batch_size", "required", micro_batch_size=None),
    wrong("micro batch of nothing", "micro_batch_size", "at least 1", micro_batch_size=0),
    wrong("batch over copies", "global_batch_size", ("60 samples", "8 copies", "32 or 64"), global_batch_size=60),
    wrong("batch smaller than copies", "global_batch_size", ("take global_batch_size 32 (",), global_batch_size=16),
    wrong(
        "batch by micro size", "global_batch_size", ("micro_batch_size 1, 2",), global_batch_size=48, micro_batch_size=4
    ),
    wrong("eval batch", "eval_global_batch_size", ("40 samples", "32 or 64"), eval_global_batch_size=40),
    wrong("eval micro batch", "eval_micro_batch_size", ("64 samples",), eval_micro_batch_size=3),
    wrong(
        "two batch schedules",
        "step_batch_size_schedule",
        ("can't be set as well", "null"),
        step_batch_size_schedule="0:32 1000:64",
    ),
    # the model
    wrong("no layers", "num_layers", "required", num_layers=None),
    wrong("no hidden size", "hidden_size", "required", hidden_size=None),
    wrong("no heads", "num_attention_heads", "required", num_attention_heads=None),
    wrong("no positions", "max_position_embeddings", "required", max_position_embeddings=None),
    wrong("no length", "seq_length", "required", seq_length=None),
    wrong("layers twice", "encoder_num_layers", "num_layers", encoder_num_layers=8),
    wrong("length twice", "encoder_seq_length", "seq_length", encoder_seq_length=1024),
    wrong(
        "heads of no divisor",
        "num_attention_heads",
        ("512", "13 heads", "8, 16", "507 or 520", "kv_channels"),
        num_attention_heads=13,
    ),
    wrong("heads over tp", TP, ("6 attention heads", "4", "1 or 2"), num_attention_heads=6, hidden_size=510, **{TP: 4}),
    wrong(
        "query groups over tp",
        "num_query_groups",
        ("3 query groups", "2 tensor"),
        num_attention_heads=12,
        hidden_size=768,
        group_query_attention=True,
        num_query_groups=3,
        **{TP: 2},
    ),
    wrong("longer than positions", "seq_length", ("2048", "1024"), seq_length=2048),
    wrong("decoder longer than positions", "decoder_seq_length", "1024", decoder_seq_length=2048),
    wrong("length over cp", "seq_length", ("1020", "2 x 4", "1016 or 1024"), seq_length=1020, **{CP: 4}),
    wrong(
        "no position embedding",
        "add_position_embedding",
        "rope",
        add_position_embedding=False,
        position_embedding_type="learned_absolute",
    ),
    # how long
    wrong("iterations and samples", "train_samples", "train_iters", train_samples=64000, lr_warmup_iters=0),
    wrong("neither", "train_iters", "the length of the training", train_iters=None, lr_warmup_iters=0),
    wrong("decay in samples", "lr_decay_samples", "iters", lr_decay_samples=6400),
    wrong("decay of no samples", "lr_decay_samples", "iters", lr_decay_samples=0),
    wrong("less than no iterations", "train_iters", "at least 1, not -5", train_iters=-5),
    wrong("warm-up in samples", "lr_warmup_samples", "lr_warmup_iters", lr_warmup_samples=640, lr_warmup_iters=0),
    wrong("warm-up in iterations", "lr_warmup_iters", "lr_warmup_samples", train_iters=None, train_samples=64000),
    wrong("warm-up twice", "lr_warmup_fraction", "lr_warmup_iters", lr_warmup_fraction=0.1),
    # the learning rate
    wrong("no rate", "lr", "required", lr=None),
    wrong("a negative rate", "lr", "must not be negative: it is -0.001", lr=-1e-3, min_lr=None),
    wrong("least above rate without training", "min_lr", "0.0001", skip_train=True, lr=1e-4, min_lr=1e-3),
    wrong("least above rate", "min_lr", ("0.01", "0.001"), min_lr=1e-2),
    wrong("least below zero", "min_lr", "at least 0", min_lr=-1e-4),
    wrong("first above rate", "lr_warmup_init", ("0.1", "at most 0.001"), lr_warmup_init=0.1),
    wrong("warm-up of it all", "lr_warmup_iters", ("1000", "train_iters"), lr_warmup_iters=1000),
    wrong("warm-up beyond decay", "lr_warmup_iters", ("100", "lr_decay_iters, 50"), lr_decay_iters=50),
    wrong("warm-up fraction of one", "lr_warmup_fraction", "less than 1", lr_warmup_fraction=1.0, lr_warmup_iters=0),
    wrong("no WSD decay", "lr_wsd_decay_iters", ("WSD", "200"), lr_decay_style="WSD"),
    wrong(
        "no WSD decay in samples",
        "lr_wsd_decay_samples",
        "WSD",
        lr_decay_style="WSD",
        train_iters=None,
        train_samples=64000,
        lr_warmup_iters=0,
    ),
    # weight decay
    wrong("start of a constant", "start_weight_decay", "constant", start_weight_decay=0.1),
    wrong("growth without end", "end_weight_decay", "linear", weight_decay_incr_style="linear", start_weight_decay=0.1),
    wrong(
        "growth downwards",
        "end_weight_decay",
        "0.1",
        weight_decay_incr_style="linear",
        start_weight_decay=0.1,
        end_weight_decay=0.0,
    ),
    # checkpoints and logs
    wrong("save without interval", "save_interval", "iterations", save="/c"),
    wrong("interval of nothing", "save_interval", "at least 1", save="/c", save_interval=0),
    wrong(
        "retain of no multiple",
        "save_retain_interval",
        ("250", "200 or 300"),
        save="/c",
        save_interval=100,
        save_retain_interval=250,
    ),
    wrong("dcp without fsdp", "ckpt_format", "torch_dist", ckpt_format="torch_dcp"),
    wrong("fsdp format without fsdp", "ckpt_format", "use_megatron_fsdp", ckpt_format="fsdp_dtensor"),
    wrong("memory log", "log_memory_interval", ("150", "100 or 200"), log_interval=100, log_memory_interval=150),
    # precision, memory, optimizer
    wrong("two precisions", "fp16", "exclude", fp16=True),
    wrong("fp8 and fp4", "fp4", "exclude", fp8="hybrid", fp4="e2m1"),
    wrong("fp4 gather alone", "fp4_param_gather", "fp4", fp4_param_gather=True, use_distributed_optimizer=True),
    wrong("fp8 gather unsharded", "fp8_param_gather", "sharded", fp8="hybrid", fp8_param_gather=True),
    wrong(
        "gather undistributed",
        "overlap_param_gather",
        "use_distributed_optimizer",
        overlap_param_gather=True,
        overlap_grad_reduce=True,
    ),
    wrong(
        "gather without reduce",
        "overlap_param_gather",
        "overlap_grad_reduce",
        overlap_param_gather=True,
        use_distributed_optimizer=True,
    ),
    wrong("full without method", "recompute_method", "uniform", recompute_granularity="full", recompute_num_layers=1),
    wrong(
        "full without layers", "recompute_num_layers", "stage", recompute_granularity="full", recompute_method="uniform"
    ),
    wrong(
        "selective with method",
        "recompute_method",
        "selective",
        recompute_granularity="selective",
        recompute_method="uniform",
    ),
    wrong(
        "selective with layers", "recompute_num_layers", "selective", recompute_activations=True, recompute_num_layers=1
    ),
    wrong(
        "distributed at tp 1",
        "distribute_saved_activations",
        "tensor",
        distribute_saved_activations=True,
        recompute_granularity="full",
        recompute_method="uniform",
        recompute_num_layers=1,
    ),
    wrong("tp overlap without sp", "tp_comm_overlap", "sequence_parallel", tp_comm_overlap=True, **{TP: 2}),
    wrong("tp overlap at tp 1", "tp_comm_overlap", "switches off", tp_comm_overlap=True, sequence_parallel=True),
    # data
    wrong("mock and data", "data_path", ("mock_data", "one source"), data_path=["/d"]),
    wrong(
        "data and per split", "train_data_path", "one source", mock_data=False, data_path=["/d"], train_data_path=["/t"]
    ),
    wrong("data twice", "data_args_path", "data_path", mock_data=False, data_path=["/d"], data_args_path="/a"),
    wrong(
        "per split twice",
        "per_split_data_args_path",
        "train_data_path",
        mock_data=False,
        train_data_path=["/t"],
        per_split_data_args_path="/a",
    ),
    # arguments that are gone
    wrong("batch_size", "batch_size", "micro_batch_size", batch_size=4),
    wrong("warmup", "warmup", "lr_warmup_fraction", warmup=10),
    wrong("model_parallel_size", "model_parallel_size", TP, model_parallel_size=2),
    # where only some of the sizes that divide one number fit the others
    wrong(
        "tp for the heads and the GPUs",
        TP,
        ("tensor_model_parallel_size 1, 2 or 4, or a multiple of 3 GPUs",),
        num_attention_heads=12,
        hidden_size=768,
        **{TP: 3},
    ),
    wrong(
        "heads for tp and the GPUs",
        TP,
        ("12 attention heads", "tensor_model_parallel_size 1, 2 or 4, or num_attention_heads 8, 16"),
        num_attention_heads=12,
        hidden_size=768,
        **{TP: 8},
    ),
    wrong(
        "stages for the layers and the GPUs",
        PP,
        ("10 layers", "pipeline_model_parallel_size 1 or 2, or num_layers 8 or 12"),
        num_layers=10,
        **{PP: 4},
    ),
    wrong(
        "ranks for a batch",
        CP,
        ("8 GPUs", "context_parallel_size 4 or 8, or"),
        seq_length=960,
        global_batch_size=8,
        **{CP: 3},
    ),
    wrong(
        "experts for the ranks",
        EP,
        ("8 experts", "expert_model_parallel_size 1, 2, 4 or 8, or"),
        world=24,
        num_experts=8,
        global_batch_size=96,
        **{EP: 3},
    ),
    wrong(
        "length for cp and the positions",
        "seq_length",
        ("take seq_length 1016, or context_parallel_size 1 or 2"),
        seq_length=1020,
        max_position_embeddings=1020,
        **{CP: 4},
    ),
    # what the real parser is not asked, or finds only later
    untold(
        "ep of no divisor", EP, ("8 GPUs", "groups of 16"), num_experts=16, **{EP: 16}
    ),  # found when the ranks form groups
    untold("ep x tp of no divisor", EP, ("8 GPUs", "groups of 16"), **MOE, sequence_parallel=True, **{EP: 8, TP: 2}),
    untold(
        "checkpoint_activations", "checkpoint_activations", "recompute_granularity", checkpoint_activations=True
    ),  # exit() closes the standard input by which it is asked
    untold("experts and tp alone", "sequence_parallel", ("experts", "true"), **MOE, **{TP: 2}),
    untold("null tokenizer without size", "vocab_size", "NullTokenizer", vocab_size=None),
    untold("query groups over heads", "num_query_groups", "8 heads", group_query_attention=True, num_query_groups=3),
    untold("tp without connections", "$.backend.env.CUDA_DEVICE_MAX_CONNECTIONS", "set it to 1", {}, **{TP: 2}),
    untold(
        "cp with many connections",
        "$.backend.env.CUDA_DEVICE_MAX_CONNECTIONS",
        "it is 8",
        {"CUDA_DEVICE_MAX_CONNECTIONS": "8"},
        **{CP: 2},
    ),
    untold("fsdp2 with one connection", "$.backend.env.CUDA_DEVICE_MAX_CONNECTIONS", "null", **FSDP2),
    untold("fsdp with one connection", "$.backend.env.CUDA_DEVICE_MAX_CONNECTIONS", "null", **FSDP),
    untold("fsdp2 and pipeline", PP, "FSDP2", {}, **FSDP2, **{PP: 2}),
    untold("fsdp2 and experts", EP, "FSDP2", {}, **FSDP2, **MOE, **{EP: 2}),
    untold("fsdp2 and optimizer", "use_distributed_optimizer", "FSDP2", {}, **FSDP2, use_distributed_optimizer=True),
    untold("fsdp2 and fp16", "fp16", "FSDP2", {}, **FSDP2, fp16=True, bf16=False),
    untold(
        "fsdp2 and fusion",
        "gradient_accumulation_fusion",
        "default",
        {},
        **{**FSDP2, "gradient_accumulation_fusion": None},
    ),
    untold("fsdp2 and format", "ckpt_format", "torch_dist or torch_dcp", {}, **FSDP2, ckpt_format="torch"),
    untold(
        "fsdp2 and ties",
        "untie_embeddings_and_output_weights",
        "true",
        {},
        **{**FSDP2, "untie_embeddings_and_output_weights": False},
    ),
    untold("fsdp and format", "ckpt_format", "fsdp_dtensor", {}, **{**FSDP, "ckpt_format": "torch_dist"}),
    untold("fsdp and muon", "optimizer", "adam or sgd", {}, **FSDP, optimizer="muon"),
]


def right(name: str, world: int = 8, **changes: Any) -> Case:
    return Case(name, changes, world=world)


RIGHT = [
    right("the base"),
    right("one rank", world=1),
    right("many ranks", world=64, global_batch_size=256),
    right("tp", sequence_parallel=True, **{TP: 2}),
    right("pp", **{PP: 2}),
    right("cp", **{CP: 4}),
    right("tp, pp and cp", world=16, sequence_parallel=True, **{TP: 2, PP: 2, CP: 2}),
    right("all ranks for one copy", **{TP: 8}),
    right("weight shards", tensor_parallel_num_weight_shards=4, **{TP: 2}),
    right("virtual stages by layers", num_layers_per_virtual_pipeline_stage=2, **{PP: 2}),
    right("virtual stages by number", num_virtual_stages_per_pipeline_rank=2, **{PP: 4}),
    right("virtual stages of one", num_layers_per_virtual_pipeline_stage=8),
    right(
        "uneven stages",
        num_layers=10,
        decoder_first_pipeline_num_layers=3,
        decoder_last_pipeline_num_layers=3,
        **{PP: 4},
    ),
    right(
        "embedding and loss as layers",
        num_layers=6,
        account_for_loss_in_pipeline_split=True,
        account_for_embedding_in_pipeline_split=True,
        **{PP: 2},
    ),
    right("experts", **MOE, **{EP: 4}),
    right("experts and tp", **MOE, sequence_parallel=True, **{EP: 2, TP: 2}),
    right("experts of one tp", **MOE, sequence_parallel=True, **{EP: 4, TP: 2, ETP: 1}),
    right("a batch that follows", global_batch_size=None),
    right(
        "a batch that is rounded", decrease_batch_size_if_needed=True, global_batch_size=60, eval_global_batch_size=64
    ),
    right("an eval batch", eval_global_batch_size=32, eval_micro_batch_size=2),
    right("batches in steps", global_batch_size=None, step_batch_size_schedule="0:32 1000000:64"),
    right("query groups", group_query_attention=True, num_query_groups=2),
    right("fewer query groups than tp", group_query_attention=True, num_query_groups=2, **{TP: 4}),
    right("heads of their own size", num_attention_heads=13, kv_channels=64),
    right("more positions", max_position_embeddings=4096),
    right("learned positions", position_embedding_type="learned_absolute"),
    right("samples", train_iters=None, train_samples=64000, lr_warmup_iters=0, lr_warmup_samples=640),
    right("a fraction", lr_warmup_fraction=0.1, lr_warmup_iters=0),
    right("WSD", lr_decay_style="WSD", lr_wsd_decay_iters=200),
    right("a constant rate", lr_decay_style="constant", min_lr=None),
    right("numbers as YAML gives them", train_iters=1e3, lr_warmup_iters=100.0, global_batch_size="64"),
    right("a growing weight decay", weight_decay_incr_style="cosine", start_weight_decay=0.0, end_weight_decay=0.1),
    right("checkpoints", save="/c", load="/c", save_interval=100, save_retain_interval=200),
    right(
        "checkpoints beside the training",
        save="/c",
        save_interval=100,
        async_save=True,
        use_persistent_ckpt_worker=True,
    ),
    right("layers by a pattern", num_layers=None, hybrid_layer_pattern="M-M*-M-M*-"),
    right("layers by a pattern, and stages", num_layers=None, hybrid_layer_pattern="M-M*-M-M*-", **{PP: 4}),
    right("no rate and no training", skip_train=True, lr=None, lr_warmup_iters=0),
    right("fp16", fp16=True, bf16=False),
    right("overlap", use_distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True),
    right("full recomputation", recompute_granularity="full", recompute_method="block", recompute_num_layers=1),
    right("selective recomputation", recompute_activations=True),
    right("data", mock_data=False, data_path=["0.3", "/a", "0.7", "/b"], split="990,9,1"),
    right("data by split", mock_data=False, train_data_path=["/t"], valid_data_path=["/v"]),
]
RIGHT_UNASKED = [
    Case("fsdp2", FSDP2, environment={}),
    Case("fsdp", FSDP, environment={}),
    Case(
        "tp and overlapped experts",
        {**MOE, EP: 2, TP: 2, "sequence_parallel": True, "overlap_moe_expert_parallel_comm": True},
        environment={},
    ),
    Case("no training at all", {"skip_train": True, "lr": None, "train_iters": None, "lr_warmup_iters": 0}),
]


def silent(name: str, where: str, says: str, world: int = 8, **changes: Any) -> Case:
    return Case(name, changes, where, (says,), world)


SILENT = [
    silent(
        "groups that are ignored", "num_query_groups", "no effect without group_query_attention", num_query_groups=2
    ),
    silent(
        "a decay longer than all",
        "lr_wsd_decay_iters",
        "longer than train_iters",
        lr_decay_style="WSD",
        lr_wsd_decay_iters=2000,
    ),
    silent(
        "warm-up into decay", "lr_wsd_decay_iters", "together are longer", lr_decay_style="WSD", lr_wsd_decay_iters=950
    ),
    silent("a decay of another style", "lr_wsd_decay_iters", "cosine, not WSD", lr_wsd_decay_iters=100),
    silent("a decay that ends early", "lr_decay_iters", "trained with min_lr", lr_decay_iters=500),
    silent("sequence parallel at tp 1", "sequence_parallel", "switches it off", sequence_parallel=True),
    silent("a split of two", "split", "fewer than three", split="980,10"),
    silent("a ramp that is none", "rampup_batch_size", "step_batch_size_schedule", rampup_batch_size=[16, 16, 1000]),
    silent("dist ckpt", "use_dist_ckpt_deprecated", "ckpt_format", use_dist_ckpt_deprecated=True),
    silent("dist ckpt format", "dist_ckpt_format_deprecated", "ckpt_format", dist_ckpt_format_deprecated="torch_dist"),
    silent(
        "parallel save", "ckpt_fully_parallel_save_deprecated", "it is on", ckpt_fully_parallel_save_deprecated=True
    ),
    silent("msc", "disable_msc_deprecated", "enable_msc", disable_msc_deprecated=True),
    silent("mcore", "deprecated_use_mcore_models", "no effect", deprecated_use_mcore_models=True),
    silent(
        "old rope", "use_rotary_position_embeddings", "position_embedding_type", use_rotary_position_embeddings=True
    ),
    silent("a method without its kind", "recompute_method", "no effect", recompute_method="uniform"),
    silent("an interval without a folder", "save_interval", "no checkpoint", save_interval=100),
    silent(
        "a save that waits",
        "async_save",
        "no effect without use_persistent_ckpt_worker",
        save="/c",
        save_interval=100,
        async_save=True,
    ),
    silent(
        "layers by an old pattern",
        "hybrid_override_pattern",
        "set hybrid_layer_pattern",
        num_layers=None,
        hybrid_override_pattern="M-M*-M-M*-",
        **{PP: 4},
    ),
    silent("no data", "data_path", "no data is named", mock_data=False),
]
