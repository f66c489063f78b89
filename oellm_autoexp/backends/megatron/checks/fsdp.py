"""Fully sharded data parallelism: torch's FSDP2 and Megatron's own. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, note, problem


def torch_fsdp(arguments: JobArguments) -> Found:  # A:997-1015
    """What torch's FSDP2 can't do, and what is for it alone."""
    if not arguments.on("use_torch_fsdp2"):
        if arguments["ckpt_format"] == "torch_dcp":  # A:1614
            yield problem("ckpt_format", "torch_dcp is for use_torch_fsdp2 alone", "take torch_dist")
        return
    dest = "use_torch_fsdp2"
    for name, what in (("pipeline_model_parallel_size", "pipeline"), ("expert_model_parallel_size", "expert")):
        if arguments.size(name) > 1:
            yield problem(name, f"torch's FSDP2 has no {what} parallelism", f"set it to 1, or {dest} to false")
    for name, what in (("use_distributed_optimizer", "shards the optimizer itself"), ("fp16", "can't do fp16")):
        if arguments.on(name):
            yield problem(name, f"torch's FSDP2 {what}", f"set it or {dest} to false")
    if arguments.on("gradient_accumulation_fusion"):
        text = "torch's FSDP2 can't fuse the accumulation of gradients, which is on by default"
        yield problem("gradient_accumulation_fusion", text, "set it to false")
    if arguments["ckpt_format"] not in ("torch_dist", "torch_dcp"):
        yield problem("ckpt_format", f"torch's FSDP2 has no {arguments['ckpt_format']}", "take torch_dist or torch_dcp")
    if not arguments.on("untie_embeddings_and_output_weights"):
        text = "torch's FSDP2 needs output weights of their own"
        yield problem("untie_embeddings_and_output_weights", text, "set it to true")


def megatron_fsdp(arguments: JobArguments) -> Found:  # A:1101-1152
    """What Megatron's FSDP can't do, and what is for it alone."""
    if not arguments.on("use_megatron_fsdp"):
        if arguments["ckpt_format"] == "fsdp_dtensor":  # A:1622
            yield problem("ckpt_format", "fsdp_dtensor is for use_megatron_fsdp alone", "take torch_dist")
        return
    if arguments["ckpt_format"] != "fsdp_dtensor":
        text = f"use_megatron_fsdp has no {arguments['ckpt_format']}"
        yield problem("ckpt_format", text, "take fsdp_dtensor")
    if arguments["optimizer"] not in ("sgd", "adam"):
        yield problem("optimizer", f"use_megatron_fsdp can't do {arguments['optimizer']}", "take adam or sgd")
    if not arguments.on("use_distributed_optimizer"):
        yield note("use_megatron_fsdp", "Megatron switches use_distributed_optimizer on with it")
