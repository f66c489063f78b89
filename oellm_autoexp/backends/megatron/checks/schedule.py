"""The schedule of a training: how long, how fast, with what weight decay. Pure.

In comments, A is megatron/training/arguments.py of Megatron-LM, S its
megatron/core/optimizer_param_scheduler.py.
"""

from __future__ import annotations

from oellm_autoexp.backends.megatron.checks.base import Found, JobArguments, note, problem


def duration(arguments: JobArguments) -> Found:
    """Something says how long to train, and all is counted as it is: in iterations or in samples."""
    if arguments.on("skip_train"):
        return
    iters, samples = arguments.number("train_iters"), arguments.number("train_samples")
    if iters and samples:  # A:1240
        yield problem(
            "train_samples", "train_iters already sets the length of the training", "set one of the two to null"
        )
        return
    if not iters and not samples:  # megatron/training/training.py:1939
        if not (arguments.given("train_iters") or arguments.given("train_samples")):
            hint = "set train_iters (steps of global_batch_size samples) or train_samples"
            yield problem(
                "train_iters",
                "the length of the training is not set; Megatron would stop only after building the model",
                hint,
            )
        return
    used, other = ("iters", "samples") if iters else ("samples", "iters")
    for name, wrong in (  # A:1242-1260
        ("lr_decay", arguments.given(f"lr_decay_{other}")),
        ("lr_warmup", bool(arguments.number(f"lr_warmup_{other}"))),
    ):
        if wrong:
            text = f"the length of the training is given in {used} (train_{used}); give this in {used}, too"
            yield problem(f"{name}_{other}", text, f"set {name}_{used} instead, and it to null")
    if arguments.given("lr_warmup_fraction") and arguments.number(f"lr_warmup_{used}"):  # A:1248, A:1262
        text = f"lr_warmup_{used} sets the same"
        yield problem("lr_warmup_fraction", text, f"set it or lr_warmup_{used} to null")


def learning_rate(arguments: JobArguments) -> Found:
    """The learning rate is there, and goes where it can."""
    lr, least = arguments.number("lr"), arguments.number("min_lr")
    trained = not arguments.on("skip_train")
    if lr is None:
        if trained and not arguments.given("lr"):  # S:148, after the model is built
            yield problem("lr", "this argument is required; Megatron would stop only after building the model")
        return
    if lr < 0:  # no min_lr is both at most lr and at least 0
        yield problem("lr", f"must not be negative: it is {lr}")
        return
    if trained and least is not None and least < 0:  # S:149
        yield problem("min_lr", f"must be at least 0, not {least}")
    elif least is not None and least > lr:  # A:1320, S:150
        yield problem("min_lr", f"{least} is more than lr, {lr}", f"take at most {lr}; a tenth is usual: {lr / 10:g}")
    if not trained:
        return
    start = arguments.number("lr_warmup_init")
    if start is not None and start > lr:  # S:151
        yield problem("lr_warmup_init", f"{start} is more than lr, {lr}", f"take at most {lr}")
    yield from _schedule(arguments)


def _schedule(arguments: JobArguments) -> Found:
    """Warm-up and decay fit into the training."""
    unit = "iters" if arguments.number("train_iters") else "samples"
    length = arguments.number(f"train_{unit}")
    if not isinstance(length, int) or length <= 0 or (unit == "iters" and arguments.number("train_samples")):
        return
    given_decay = arguments.number(f"lr_decay_{unit}")
    decay = length if given_decay is None else given_decay
    if decay <= 0:  # S:159
        yield problem(f"lr_decay_{unit}", f"must be at least 1, not {decay}", f"null takes train_{unit}, {length}")
        return
    fraction = arguments.number("lr_warmup_fraction")
    warmup = fraction * decay if fraction is not None else arguments.number(f"lr_warmup_{unit}") or 0
    decay_name = f"lr_decay_{unit}" if given_decay is not None else f"train_{unit}"
    if warmup >= decay:  # S:160, after the model is built
        if fraction is not None:
            yield problem("lr_warmup_fraction", f"must be less than 1, not {fraction}")
        else:
            text = f"the warm-up of {warmup} is not shorter than {decay_name}, {decay}"
            yield problem(f"lr_warmup_{unit}", text, f"take less than {decay}")
    if given_decay is not None and given_decay < length and arguments["lr_decay_style"] != "constant":
        text = f"{given_decay} is less than train_{unit}, {length}: the steps after it are trained with min_lr"
        yield note(f"lr_decay_{unit}", text)
    wsd = arguments.number(f"lr_wsd_decay_{unit}")
    if arguments["lr_decay_style"] != "WSD":
        if wsd:
            text = f"{wsd} has no effect: lr_decay_style is {arguments['lr_decay_style']}, not WSD"
            yield note(f"lr_wsd_decay_{unit}", text)
        return
    if wsd is None:
        if not arguments.given(f"lr_wsd_decay_{unit}"):  # S:164, after the model is built
            text = f"lr_decay_style WSD needs it: the {unit} of the decay at the end"
            yield problem(f"lr_wsd_decay_{unit}", text, f"e.g. a fifth of train_{unit}: {max(1, int(length // 5))}")
    elif wsd > decay:
        text = f"the decay of {wsd} is longer than {decay_name}, {decay}, so the decay begins in the middle"
        yield note(f"lr_wsd_decay_{unit}", text)
    elif warmup < decay and warmup + wsd > decay:  # the decay begins at decay - wsd, S:263
        text = f"warm-up ({warmup:g}) and decay ({wsd}) together are longer than {decay_name}, {decay}"
        yield note(f"lr_wsd_decay_{unit}", f"{text}: the rate drops from the warm-up into the decay")


def weight_decay(arguments: JobArguments) -> Found:
    """The weight decay is constant, or grows from a start to an end."""
    style = arguments["weight_decay_incr_style"]
    for dest in ("start_weight_decay", "end_weight_decay"):  # A:1353-1360
        if style == "constant" and arguments.given(dest):
            hint = "set weight_decay alone, or weight_decay_incr_style to linear or cosine"
            yield problem(dest, "the weight decay is constant, so that it has no start and end", hint)
        elif style != "constant" and not arguments.given(dest):
            yield problem(dest, f"weight_decay_incr_style {style} needs it", "or set the style to constant")
    start, end = arguments.number("start_weight_decay"), arguments.number("end_weight_decay")
    if style != "constant" and start is not None and end is not None and (start < 0 or end < start):  # S:167
        yield problem("end_weight_decay", f"must grow from {start} (at least 0), not to {end}")
