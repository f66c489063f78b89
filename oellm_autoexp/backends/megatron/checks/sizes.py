"""Sizes and counts of all topics: each is at least 1. Pure."""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, problem

_DEGREES = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
)


def positive(arguments: JobArguments) -> Found:
    """What is given is at least 1."""
    names = (*_DEGREES, "num_layers", "hidden_size", "num_attention_heads", "seq_length", "ffn_hidden_size")
    for dest in (*names, "global_batch_size", "train_iters", "train_samples", "num_query_groups"):
        value = arguments.number(dest)
        if arguments.given(dest) and value is not None and value <= 0:
            yield problem(dest, f"must be at least 1, not {value}")
