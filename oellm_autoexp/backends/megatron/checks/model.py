"""The model: what it needs, its attention, the lengths of its samples. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM, T its
megatron/core/transformer/transformer_config.py.
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


def required(arguments: JobArguments) -> Found:
    """The sizes that a model needs are given, and none of them twice."""
    if arguments.on("use_checkpoint_args"):
        return  # they may come from the checkpoint
    for dest in ("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"):  # A:1274-1277, 1924
        from_elsewhere = dest == "num_layers" and (arguments.given("encoder_num_layers") or by_pattern(arguments))
        if arguments[dest] is None and not from_elsewhere:
            hint = "or choose a model: backend/megatron=300M"
            if dest == "max_position_embeddings":
                hint = "at least seq_length"
            yield problem(dest, "this argument is required", hint)
    if arguments["seq_length"] is None and arguments["encoder_seq_length"] is None:  # A:1307
        yield problem("seq_length", "this argument is required", "the tokens of one sample, e.g. 4096")
    for dest, other in (("num_layers", "encoder_num_layers"), ("seq_length", "encoder_seq_length")):  # A:1263, 1304
        if arguments.given(dest) and arguments.given(other):
            yield problem(other, f"{dest} sets the same", f"set {dest} alone")


def attention(arguments: JobArguments) -> Found:
    """Heads can be divided: the hidden size among them, they among ranks and query groups."""
    hidden, heads = arguments.number("hidden_size"), arguments.number("num_attention_heads")
    tp = arguments.size("tensor_model_parallel_size")
    if not isinstance(heads, int) or heads <= 0:
        return
    if isinstance(hidden, int) and hidden > 0 and hidden % heads and not arguments.given("kv_channels"):  # A:1292
        text = f"hidden_size {hidden} can't be divided among {heads} heads"
        dest = "num_attention_heads"
        hint = take(
            mending(arguments, dest, dest, heads, divisors(hidden)),
            mending(arguments, dest, "hidden_size", hidden, multiples(hidden, heads)),
            "kv_channels, the size of a head, as you like",
        )
        yield problem(dest, text, hint)
    if heads % tp:  # T:1324
        text = f"{heads} attention heads can't be divided among {tp} tensor parallel ranks"
        dest = "tensor_model_parallel_size"
        yield problem(
            dest,
            text,
            take(
                mending(arguments, dest, dest, tp, divisors(heads)),
                mending(arguments, dest, "num_attention_heads", heads, range(tp, 2 * heads + tp, tp)),
            ),
        )
    groups = arguments.number("num_query_groups")
    if arguments.given("num_query_groups") and not arguments.on("group_query_attention"):
        if groups != 1:  # argument_utils.py sets it to None
            text = f"{groups} has no effect without group_query_attention: every head has keys and values of its own"
            yield note("num_query_groups", text)
        return
    if not arguments.on("group_query_attention") or not isinstance(groups, int) or groups <= 0:
        return
    if groups % tp and tp % groups:  # T:1338
        text = f"{groups} query groups are neither a multiple nor a divisor of {tp} tensor parallel ranks"
        yield problem("num_query_groups", text, take(_groups(arguments, heads, groups)))
    elif heads % groups:  # core/transformer/attention.py divides them
        text = f"{heads} heads can't be divided into {groups} query groups"
        yield problem("num_query_groups", text, take(_groups(arguments, heads, groups)))


def _groups(arguments: JobArguments, heads: int, groups: int) -> str:
    return mending(arguments, "num_query_groups", "num_query_groups", groups, divisors(heads))


def lengths(arguments: JobArguments) -> Found:
    """Samples are no longer than their positions, and can be cut among ranks."""
    length = arguments.number("seq_length") or arguments.number("encoder_seq_length")
    longest, cp = arguments.number("max_position_embeddings"), arguments.size("context_parallel_size")
    if length is None:
        return
    if longest is not None and length > longest:  # A:1314
        text = f"seq_length {length} is more than max_position_embeddings {longest}"
        pieces = 2 * cp if cp > 1 else 1
        fitting = [longest // pieces * pieces] if isinstance(longest, int) else []
        hint = take(
            f"max_position_embeddings {length}", mending(arguments, "seq_length", _length_dest(arguments), 0, fitting)
        )
        yield problem("seq_length", text, hint)
    elif cp > 1 and isinstance(length, int) and length % (2 * cp):  # A:1296
        text = f"seq_length {length} can't be cut into 2 x {cp} pieces (context_parallel_size {cp})"
        dest = _length_dest(arguments)
        by_length = mending(arguments, "seq_length", dest, length, multiples(length, 2 * cp))
        by_cp = mending(
            arguments, "seq_length", "context_parallel_size", cp, (size for size in range(1, cp) if cp % size == 0)
        )
        yield problem("seq_length", text, take(by_length, by_cp))
    decoder = arguments.number("decoder_seq_length")
    if decoder is not None and longest is not None and decoder > longest:  # A:1318
        text = f"{decoder} is more than max_position_embeddings {longest}"
        yield problem("decoder_seq_length", text, f"take at most {longest}")
    if not arguments.on("add_position_embedding") and arguments["position_embedding_type"] != "rope":
        hint = "set position_embedding_type instead"  # A:1563
        if not arguments.on("use_rotary_position_embeddings"):
            yield problem("add_position_embedding", "can be switched off for rope alone", hint)


def _length_dest(arguments: JobArguments) -> str:
    return "seq_length" if arguments.given("seq_length") else "encoder_seq_length"
