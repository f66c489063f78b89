"""Arguments that the parser still takes, but Megatron ignores, or soon will. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, note, problem

_GONE = {
    "batch_size": "micro_batch_size",
    "warmup": "lr_warmup_fraction",
    "model_parallel_size": "tensor_model_parallel_size",
    "checkpoint_activations": "recompute_granularity",
}
"""Arguments that the parser takes and Megatron then ends on (A:552-566), and what has replaced them."""

_DEPRECATED = {
    "use_dist_ckpt_deprecated": "has no effect: ckpt_format decides",
    "dist_ckpt_format_deprecated": "has no effect: set ckpt_format",
    "ckpt_fully_parallel_save_deprecated": "has no effect: it is on; ckpt_fully_parallel_save: false switches it off",
    "disable_msc_deprecated": "is deprecated: set enable_msc",
    "deprecated_use_mcore_models": "has no effect: there are no others",
    "cuda_graph_scope_deprecated": "is deprecated: set cuda_graph_modules",
    "no_weight_decay_cond_type": "is deprecated: set apply_wd_to_qk_layernorm",
    "hybrid_override_pattern": "is deprecated: set hybrid_layer_pattern",
    "use_rotary_position_embeddings": "is deprecated: set position_embedding_type: rope",
    "enable_cuda_graph": "is deprecated: set cuda_graph_impl: local",
    "external_cuda_graph": "is deprecated: set cuda_graph_impl: transformer_engine",
}


def gone(arguments: JobArguments) -> Found:
    """Arguments that Megatron ends on."""
    for dest, instead in _GONE.items():
        if arguments.on(dest):
            yield problem(dest, "Megatron does not take this any more", f"set {instead}")


def silent(arguments: JobArguments) -> Found:
    """Arguments that Megatron takes, and does something else than they say."""
    for dest, what in _DEPRECATED.items():
        if arguments.given(dest) and arguments[dest] is not False:
            yield note(dest, what)
    if arguments.given("rampup_batch_size"):  # global_vars.py:127 does not pass it on
        text = "is taken and has no effect any more: the batch size is constant; set step_batch_size_schedule"
        yield note("rampup_batch_size", text)
