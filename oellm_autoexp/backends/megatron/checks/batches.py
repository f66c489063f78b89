"""Batches: global ones and micro ones, of training and of evaluation. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

from collections.abc import Iterator

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, divisors, mending, multiples, problem, take
from oellm_autoexp.core.errors import Problem


def batches(arguments: JobArguments) -> Found:
    """Global batches can be divided into micro batches on the copies of the model."""
    micro = arguments.number("micro_batch_size")
    if micro is None:
        if not arguments.given("micro_batch_size"):  # A:675
            yield problem("micro_batch_size", "this argument is required", "the samples of one forward pass, e.g. 1")
        return
    if micro <= 0:  # A:676
        yield problem("micro_batch_size", f"must be at least 1, not {micro}")
        return
    if arguments.given("step_batch_size_schedule") and arguments.given("global_batch_size"):  # A:680
        text = "step_batch_size_schedule sets the batch sizes; global_batch_size can't be set as well"
        yield problem("step_batch_size_schedule", text, "set backend.megatron.global_batch_size to null")
        return
    copies = arguments.data_parallel
    if copies is None or not isinstance(micro, int):
        return
    whole = arguments.number("global_batch_size")
    whole = micro * copies if whole is None else whole
    if not isinstance(whole, int) or whole <= 0:
        return
    if not arguments.given("step_batch_size_schedule") and not arguments.on("decrease_batch_size_if_needed"):
        # core/num_microbatches_calculator.py:381, called with all that hold other samples (global_vars.py:124-136)
        yield from _divisible(arguments, "", whole, micro, copies * arguments.remat)
    if not (arguments.given("eval_global_batch_size") or arguments.given("eval_micro_batch_size")):
        if arguments.on("decrease_batch_size_if_needed"):
            yield from _divisible(arguments, "", whole, micro, copies)
        return
    of_eval = arguments.number("eval_global_batch_size") or whole
    micro_of_eval = arguments.number("eval_micro_batch_size") or micro
    if isinstance(of_eval, int) and isinstance(micro_of_eval, int) and micro_of_eval > 0:  # A:694
        yield from _divisible(arguments, "eval_", of_eval, micro_of_eval, copies)


def _divisible(arguments: JobArguments, of: str, whole: int, micro: int, copies: int) -> Iterator[Problem]:
    """`of`: what the names of the arguments begin with."""
    unit = micro * copies
    if whole % unit == 0:
        return
    whole_dest, micro_dest = f"{of}global_batch_size", f"{of}micro_batch_size"
    place = micro_dest if of and not arguments.given(whole_dest) else whole_dest
    many = "1 copy" if copies == 1 else f"{copies} copies"
    text = f"{whole} samples can't be divided into micro batches of {micro} on {many} of the model"
    wholes = mending(arguments, place, whole_dest, whole, multiples(whole, unit))
    micros = divisors(whole // copies) if whole % copies == 0 else []
    hint = take(
        f"{wholes} (a multiple of {unit})" if wholes else "",
        mending(arguments, place, micro_dest, micro, micros),
    )
    yield problem(place, text, hint)
