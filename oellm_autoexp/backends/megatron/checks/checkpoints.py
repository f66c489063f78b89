"""Checkpoints and logs: when they are written. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, multiples, nearest, note, problem


def checkpoints(arguments: JobArguments) -> Found:
    """Checkpoints have a folder, and intervals that fit each other."""
    interval, retain = arguments.number("save_interval"), arguments.number("save_retain_interval")
    if not arguments.given("save"):
        if arguments.given("save_interval"):
            yield note("save_interval", "no checkpoint is written: `save` (the folder) is not set")
        return
    if interval is None:
        if not arguments.given("save_interval"):  # A:1323
            yield problem("save_interval", "`save` needs it: after how many iterations a checkpoint is written")
        return
    if interval <= 0:  # A:1324
        yield problem("save_interval", f"must be at least 1, not {interval}")
    elif isinstance(retain, int) and isinstance(interval, int) and (retain <= 0 or retain % interval):  # A:1326
        text = f"{retain} is not a multiple of save_interval, {interval}"
        yield problem(
            "save_retain_interval",
            text,
            f"take save_retain_interval {nearest(retain, multiples(max(retain, 1), interval))}",
        )
    if arguments.number("save_params_interval") and arguments.on("overlap_param_gather"):  # A:1328
        yield problem("save_params_interval", "can't be combined with overlap_param_gather", "switch one of them off")


def asynchronous_saving(arguments: JobArguments) -> Found:
    """Checkpoints are written on the side only by a worker that stays."""
    if not arguments.on("async_save") or arguments["ckpt_format"] == "torch":
        return
    if not arguments.on("use_persistent_ckpt_worker"):  # A:1740-1746
        text = "has no effect without use_persistent_ckpt_worker: Megatron switches it off"
        yield note("async_save", text)


def log_intervals(arguments: JobArguments) -> Found:
    """What is logged less often is logged with the rest."""
    every, memory = arguments.number("log_interval"), arguments.number("log_memory_interval")
    if isinstance(every, int) and every > 0 and isinstance(memory, int) and memory % every:  # A:1330
        text = f"{memory} is not a multiple of log_interval, {every}"
        yield problem(
            "log_memory_interval", text, f"take log_memory_interval {nearest(memory, multiples(max(memory, 1), every))}"
        )
