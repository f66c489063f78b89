"""The precision of numbers: fp16, bf16, fp8, fp4. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, problem


def precision(arguments: JobArguments) -> Found:
    """Formats that exclude each other, and what needs one of them."""
    if arguments.on("fp16") and arguments.on("bf16"):  # A:1173
        yield problem("fp16", "fp16 and bf16 exclude each other", "set one of them to false")
    if arguments.on("fp8") and arguments.on("fp4"):  # A:1066
        yield problem("fp4", "fp8 and fp4 exclude each other", "set one of them to null")
    if arguments.on("fp4_param_gather") and not arguments.on("fp4"):  # A:1070
        yield problem("fp4_param_gather", "it needs fp4", "set fp4: e2m1, or switch it off")
    sharded = ("use_distributed_optimizer", "use_torch_fsdp2", "use_megatron_fsdp")
    if arguments.on("fp8_param_gather") and not any(map(arguments.on, sharded)):  # A:1062
        yield problem("fp8_param_gather", "it needs a sharded optimizer", "set use_distributed_optimizer: true")
    if arguments.on("fp16_lm_cross_entropy") and not arguments.on("fp16"):  # A:1333
        yield problem("fp16_lm_cross_entropy", "it needs fp16", "set fp16: true, or switch it off")
    if arguments.on("fp32_residual_connection") and not (arguments.on("fp16") or arguments.on("bf16")):  # A:1335
        yield problem("fp32_residual_connection", "it needs fp16 or bf16", "set bf16: true, or switch it off")
