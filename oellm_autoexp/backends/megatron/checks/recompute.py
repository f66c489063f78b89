"""Recomputed activations: which, and how many. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM, T its
megatron/core/transformer/transformer_config.py.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, note, problem


def recompute(arguments: JobArguments) -> Found:
    """Method, layers and distribution suit what is recomputed."""
    kind = "selective" if arguments.on("recompute_activations") else arguments["recompute_granularity"]
    method, layers = arguments["recompute_method"], arguments["recompute_num_layers"]
    if kind == "full":  # T:1737, T:1742
        if method is None:
            hint = "uniform (all layers, in groups) or block (the first ones of a stage)"
            yield problem("recompute_method", "recompute_granularity full needs it", hint)
        if layers is None:
            hint = "1, and up to the layers of a pipeline stage"
            yield problem("recompute_num_layers", "recompute_granularity full needs it", hint)
    elif kind == "selective":  # A:1386, T:1750
        for dest, value in (("recompute_method", method), ("recompute_num_layers", layers)):
            if value is not None:
                hint = "set it to null, or recompute_granularity to full"
                yield problem(dest, "selective recomputation has no such choice", hint)
    elif kind is None and (method is not None or layers is not None):
        dest = "recompute_method" if method is not None else "recompute_num_layers"
        yield note(dest, "has no effect without recompute_granularity")
    if arguments.on("distribute_saved_activations"):  # A:1372-1378, T:1757
        if arguments.size("tensor_model_parallel_size") == 1:
            text = "activations are distributed among tensor parallel ranks, of which there is one"
            yield problem("distribute_saved_activations", text, "set tensor_model_parallel_size to 2 or more")
        elif kind != "full":
            yield problem("distribute_saved_activations", "it needs recompute_granularity full")
        elif arguments.on("sequence_parallel"):
            yield problem("distribute_saved_activations", "it can't be combined with sequence_parallel")
