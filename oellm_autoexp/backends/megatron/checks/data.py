"""Data: its source, its vocabulary, its split. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, note, problem


def data(arguments: JobArguments) -> Found:
    """There is one source of data, with all that it needs."""
    splits = [dest for dest in ("train_data_path", "valid_data_path", "test_data_path") if arguments[dest]]
    sources = [dest for dest in ("mock_data", "data_path") if arguments.on(dest)] + splits[:1]
    if len(sources) > 1:  # A:1624
        text = f"{' and '.join(sources)}: there can be one source of data"
        yield problem(sources[1], text, f"set {sources[0]} or {sources[1]} to null (false)")
    for dest, other in (("data_args_path", "data_path"), ("per_split_data_args_path", "")):  # A:659, A:668
        also = other if other and arguments.on(other) else (splits[0] if not other and splits else "")
        if arguments.given(dest) and also:
            yield problem(dest, f"{also} sets the same", "set one of the two to null")
    files = ("data_args_path", "per_split_data_args_path", "dataloader_type")
    if not sources and not any(arguments.given(dest) for dest in files) and not arguments.on("skip_train"):
        yield note("data_path", "no data is named (data_path, train_data_path, or mock_data: true for a speed test)")
    if arguments["tokenizer_type"] == "NullTokenizer" and not arguments["vocab_size"]:
        # core/tokenizers/text/libraries/null_tokenizer.py takes it as its only argument
        yield problem("vocab_size", "the NullTokenizer needs it: it has no vocabulary of its own", "e.g. 131072")
    split = arguments["split"]
    if isinstance(split, str) and 0 < len([part for part in split.split(",") if part.strip()]) < 3:
        # core/datasets/utils.py fills it up
        yield note("split", f"'{split}' has fewer than three parts (train, valid, test): the others get nothing")
