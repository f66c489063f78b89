"""Communication that overlaps with computation, and the connections to a GPU that it needs. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, note, problem
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG


def overlap(arguments: JobArguments) -> Found:
    """What overlaps has what it needs."""
    sharded = arguments.on("use_distributed_optimizer") or arguments.on("use_megatron_fsdp")
    if arguments.on("overlap_param_gather"):
        if not sharded and arguments["optimizer"] != "dist_muon":  # A:990
            text = "it needs a distributed optimizer"
            yield problem("overlap_param_gather", text, "set use_distributed_optimizer: true")
        if not arguments.on("overlap_grad_reduce"):  # A:995
            yield problem("overlap_param_gather", "it needs overlap_grad_reduce", "set overlap_grad_reduce: true")
    serial = arguments.size("tensor_model_parallel_size") == 1
    if arguments.on("tp_comm_overlap") and (serial or not arguments.on("sequence_parallel")):  # A:1401
        why = "which tensor_model_parallel_size 1 switches off" if serial else "which is off"
        hint = "set tensor_model_parallel_size to 2 or more and sequence_parallel: true, or switch it off"
        yield problem("tp_comm_overlap", f"it needs sequence_parallel, {why}", hint)
    elif arguments.on("sequence_parallel") and serial:  # A:1390
        yield note("sequence_parallel", "has no effect with tensor_model_parallel_size 1: Megatron switches it off")


def connections(arguments: JobArguments) -> Found:
    """CUDA_DEVICE_MAX_CONNECTIONS, of the environment, suits the parallelism."""
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    value, where = arguments.environment.get(name), CONFIG / "backend.env" / name
    sharded = next((dest for dest in ("use_torch_fsdp2", "use_megatron_fsdp") if arguments.on(dest)), None)
    split = [d for d in ("tensor_model_parallel_size", "context_parallel_size") if arguments.size(d) > 1]
    if sharded and value == "1":  # A:1014, A:1144
        yield Problem(f"{sharded} needs a value above 1, or no value", where, "set it to null")
    elif split and not sharded and not arguments.on("overlap_moe_expert_parallel_comm") and value != "1":  # A:1437
        text = f"{split[0]} {arguments.size(split[0])} needs the value 1; it is {'not set' if value is None else value}"
        yield Problem(text, where, "set it to 1 (Blackwell GPUs do not need it; it does no harm there)")
