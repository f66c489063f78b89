"""How models are divided among ranks: tensor, pipeline, context, expert and fully sharded data parallelism. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import (
    Found,
    JobArguments,
    by_pattern,
    divisors,
    mending,
    multiples,
    note,
    problem,
    take,
)
from oellm_autoexp.core.text import plural


def ranks(arguments: JobArguments) -> Found:
    """The ranks can be divided into models, and into groups of experts."""
    tp, pp = arguments.size("tensor_model_parallel_size"), arguments.size("pipeline_model_parallel_size")
    cp, world = arguments.size("context_parallel_size"), arguments.world
    shards = arguments.number("tensor_parallel_num_weight_shards")
    if isinstance(shards, int) and (shards < tp or shards % tp):  # core/model_parallel_config.py
        text = f"the weights' shards ({shards}) must be a multiple of tensor_model_parallel_size ({tp})"
        dest = "tensor_parallel_num_weight_shards"
        yield problem(dest, text, take(mending(arguments, dest, dest, shards, range(tp, world + 1, tp))))
    if arguments.data_parallel is None:  # A:430
        sizes = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp, "context_parallel_size": cp}
        # the one that is at fault, or the largest, if none is on its own
        dest = max(sizes, key=lambda name: (world % sizes[name] != 0, sizes[name]))
        least = -(-world // arguments.model_size) * arguments.model_size
        enough = arguments.best(dest, {least: arguments.but(least)})
        by_size = mending(arguments, dest, dest, sizes[dest], divisors(world))
        by_ranks = f"a multiple of {arguments.model_size} GPUs (slurm.sbatch.nodes)" if enough else ""
        yield problem(
            dest,
            f"{plural(world, 'GPU')} can't be divided into models of {arguments.model_size} (tensor {tp} x "
            f"pipeline {pp} x context {cp}{f' x weight shards {arguments.remat}' if arguments.remat > 1 else ''})",
            take(by_size or (by_ranks and "smaller sizes"), by_ranks),
        )
    experts_by = arguments.size("expert_model_parallel_size")
    expert_tp = arguments.number("expert_tensor_parallel_size") or tp
    group = experts_by * expert_tp * pp
    if experts_by > 1 and arguments.data_parallel is not None and world % group:  # core/parallel_state.py:883
        dest = "expert_model_parallel_size"
        yield problem(
            dest,
            f"{plural(world, 'GPU')} can't be divided into groups of {group} (expert {experts_by} x "
            f"expert tensor {expert_tp} x pipeline {pp})",
            take(mending(arguments, dest, dest, experts_by, divisors(world))),
        )


def pipeline(arguments: JobArguments) -> Found:
    """The layers can be divided among the stages of a pipeline, virtual ones included."""
    pp = arguments.size("pipeline_model_parallel_size")
    layers = arguments.number("num_layers") or arguments.number("encoder_num_layers")
    exclusive = ("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank")
    named = [dest for dest in (*exclusive, "pipeline_model_parallel_layout") if arguments.given(dest)]
    if len(named) > 1:  # A:899
        yield problem(named[1], f"{' and '.join(named)} exclude each other", f"set {named[0]} alone")
        return
    uneven = any(arguments.given(f"decoder_{end}_pipeline_num_layers") for end in ("first", "last"))
    per_virtual = arguments.number("num_layers_per_virtual_pipeline_stage")
    if per_virtual is not None and uneven:  # A:928
        hint = "use num_virtual_stages_per_pipeline_rank"
        yield problem(named[0], "can't be combined with first or last stages of their own size", hint)
        return
    extra = sum(arguments.on(f"account_for_{what}_in_pipeline_split") for what in ("embedding", "loss"))
    counted = not (uneven or by_pattern(arguments) or "pipeline_model_parallel_layout" in named)
    if isinstance(layers, int) and layers > 0 and counted and named != [exclusive[1]] and (layers + extra) % pp:
        what = f"{layers} layers{f' (and {extra} for embedding or loss)' if extra else ''}"
        dest, many = "pipeline_model_parallel_size", _layers_dest(arguments)
        yield problem(  # A:934, A:963
            dest,
            f"{what} can't be divided among {pp} pipeline stages",
            take(
                mending(arguments, dest, dest, pp, divisors(layers + extra)),
                mending(arguments, dest, many, layers, multiples(layers + extra, pp, extra)),
                "decoder_first_pipeline_num_layers and similar options, for stages of different sizes",
            ),
        )
        return
    stages = arguments.number("num_virtual_stages_per_pipeline_rank")
    if isinstance(per_virtual, int) and per_virtual > 0 and isinstance(layers, int):
        per_stage = (layers + extra) // pp
        if per_stage % per_virtual:  # A:938
            text = f"the {per_stage} layers of a pipeline stage can't be divided into virtual stages of {per_virtual}"
            yield problem(
                named[0], text, take(mending(arguments, named[0], named[0], per_virtual, divisors(per_stage)))
            )
            return
        stages = per_stage // per_virtual
    if isinstance(stages, int) and stages > 1:
        least = 2 if arguments.on("overlap_p2p_comm") else 3
        if pp < least:  # A:967-975
            why = "" if least == 2 else " without overlap_p2p_comm"
            text = f"virtual pipeline stages need pipeline_model_parallel_size {least} or more{why}, not {pp}"
            yield problem(named[0], text, f"take no virtual stages, or {least} pipeline stages or more")


def _layers_dest(arguments: JobArguments) -> str:
    return "num_layers" if arguments.given("num_layers") else "encoder_num_layers"


def experts(arguments: JobArguments) -> Found:
    """There are experts to be divided, and they can be."""
    size, experts = arguments.size("expert_model_parallel_size"), arguments.number("num_experts")
    split = arguments.size("tensor_model_parallel_size") > 1 and not arguments.on("sequence_parallel")
    if (
        experts and split and not arguments.on("skip_train")
    ):  # core/transformer/moe/moe_layer.py:629, when it is trained
        text = "a model with experts is trained with tensor parallelism only if this is on"
        yield problem("sequence_parallel", text, "set it to true, or tensor_model_parallel_size to 1")
    if size > 1 and not experts:  # A:1601
        dest = "expert_model_parallel_size"
        hint = take(mending(arguments, dest, dest, 1, [1]), "num_experts, as many as there are to be")
        yield problem(dest, f"{size} expert parallel groups, but the model has no experts", hint)
    elif size > 1 and isinstance(experts, int) and experts % size:  # A:1602
        text = f"{experts} experts can't be divided among {size} ranks"
        dest = "expert_model_parallel_size"
        by_size = mending(arguments, dest, dest, size, divisors(experts))
        yield problem(
            dest, text, take(by_size, mending(arguments, dest, "num_experts", experts, multiples(experts, size)))
        )


def torch_fsdp(arguments: JobArguments) -> Found:  # A:997-1015
    """What torch's FSDP2 can't do, and what is for it alone."""
    if not arguments.on("use_torch_fsdp2"):
        if arguments["ckpt_format"] == "torch_dcp":  # A:1614
            yield problem("ckpt_format", "torch_dcp is for use_torch_fsdp2 alone", "take torch_dist")
        return
    dest = "use_torch_fsdp2"
    for name, what in (("pipeline_model_parallel_size", "pipeline"), ("expert_model_parallel_size", "expert")):
        if arguments.size(name) > 1:
            yield problem(
                name, f"torch's FSDP2 does not support {what} parallelism", f"set it to 1, or {dest} to false"
            )
    for name, what in (("use_distributed_optimizer", "shards the optimizer itself"), ("fp16", "can't do fp16")):
        if arguments.on(name):
            yield problem(name, f"torch's FSDP2 {what}", f"set it or {dest} to false")
    if arguments.on("gradient_accumulation_fusion"):
        text = "torch's FSDP2 can't fuse the accumulation of gradients, which is on by default"
        yield problem("gradient_accumulation_fusion", text, "set it to false")
    if arguments["ckpt_format"] not in ("torch_dist", "torch_dcp"):
        yield problem(
            "ckpt_format", f"torch's FSDP2 does not support {arguments['ckpt_format']}", "take torch_dist or torch_dcp"
        )
    if not arguments.on("untie_embeddings_and_output_weights"):
        text = "torch's FSDP2 needs output weights of their own"
        hint = f"set it to true, which makes the model larger, or {dest} to false"
        yield problem("untie_embeddings_and_output_weights", text, hint)


def megatron_fsdp(arguments: JobArguments) -> Found:  # A:1101-1152
    """What Megatron's FSDP can't do, and what is for it alone."""
    if not arguments.on("use_megatron_fsdp"):
        if arguments["ckpt_format"] == "fsdp_dtensor":  # A:1622
            yield problem("ckpt_format", "fsdp_dtensor is for use_megatron_fsdp alone", "take torch_dist")
        return
    if arguments["ckpt_format"] != "fsdp_dtensor":
        text = f"use_megatron_fsdp does not support {arguments['ckpt_format']}"
        yield problem("ckpt_format", text, "take fsdp_dtensor")
    if arguments["optimizer"] not in ("sgd", "adam"):
        yield problem("optimizer", f"use_megatron_fsdp does not support {arguments['optimizer']}", "take adam or sgd")
    if not arguments.on("use_distributed_optimizer"):
        yield note("use_megatron_fsdp", "Megatron switches use_distributed_optimizer on with it")
