"""Whether Megatron-LM would take a set of arguments, and what it would silently make of them. Pure.

Megatron finds these mistakes one by one, and some of them only after the model is built on all GPUs. Here they are
found while planning, all at once. The comments name where Megatron (core_v0.19.0) checks the same: A is
megatron/training/arguments.py, T megatron/core/transformer/transformer_config.py, S
megatron/core/optimizer_param_scheduler.py. What is not restated here only Megatron can tell (`validate: parser`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from oellm_autoexp.backends.base import Note
from oellm_autoexp.errors import Problem
from oellm_autoexp.text import plural

WHERE = "$.backend.megatron"
_MOST_SHOWN = 6


@dataclass(frozen=True)
class Verdict:
    """What Megatron would refuse, and what it would take otherwise than it looks."""

    problems: tuple[Problem, ...]
    notes: tuple[Note, ...]


class Judge:
    """Checks the values of jobs; those of a sweep that agree in all that a check looks at get one verdict."""

    def __init__(self, default: Callable[[str], Any]) -> None:
        """`default` gives an argument's default, by its dest."""
        self._default = default
        self._read: dict[str, None] = {}
        self._asked_for: dict[str, None] = {}
        self._known: dict[Any, Verdict] = {}

    def verdict(self, values: Mapping[str, Any], world: int, environment: Mapping[str, str]) -> Verdict:
        """What is to be said of values (dest → value; null: as if not given) for a job of `world` ranks.

        `environment` is what the job exports. A value of a wrong type is left to whoever makes the words: checks that
        need it say nothing.
        """
        found = self._known.get(self._key(values, world, environment))
        if found is None:
            looked_at = len(self._read), len(self._asked_for)
            found = self._judged(values, world, environment)
            if looked_at != (len(self._read), len(self._asked_for)) or len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            if key := self._key(values, world, environment):
                self._known[key] = found
        return found

    def _key(self, values: Mapping[str, Any], world: int, environment: Mapping[str, str]) -> Any:
        """What the verdict depends on; None if it holds a list, which has no hash."""
        read = [*map(values.get, self._read)]
        given = [
            values.get(dest) is not None for dest in self._asked_for
        ]  # `save` differs in every job, but not in this
        key = world, *environment.items(), *read, *map(type, read), *given  # types, for 1, 1.0 and true are equal
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def _judged(self, values: Mapping[str, Any], world: int, environment: Mapping[str, str]) -> Verdict:
        arguments = _Arguments(values, self._default, world, environment, self._read, self._asked_for)
        found = [item for check in _CHECKS for item in check(arguments)]
        problems = tuple(item for item in found if isinstance(item, Problem))
        return Verdict(problems, tuple(item for item in found if isinstance(item, Note)))


_MOST_KNOWN = 4096
_Found = Iterator[Problem | Note]


class _Arguments:
    """The values of a config, with Megatron's defaults behind them."""

    def __init__(
        self,
        values: Mapping[str, Any],
        default: Callable[[str], Any],
        world: int,
        environment: Mapping[str, str],
        read: dict[str, None],
        asked_for: dict[str, None],
        trial: bool = False,
    ) -> None:
        self._trial = trial
        self._values = values
        self._default = default
        self._read = read
        self._asked_for = asked_for
        self.world = world
        self.environment = environment

    def __getitem__(self, dest: str) -> Any:
        self._read[dest] = None
        value = self._values.get(dest)
        return self._default(dest) if value is None else value

    def but(self, world: int | None = None, **values: int) -> _Arguments:
        """The same with other values, or on another number of ranks; to be looked at for problems alone."""
        world = self.world if world is None else world
        everything = {**self._values, **values}
        return _Arguments(everything, self._default, world, self.environment, self._read, self._asked_for, trial=True)

    @cached_property
    def places(self) -> frozenset[str]:
        """Where there is something wrong."""
        found = [item for check in _CHECKS for item in check(self if self._trial else self.but())]
        return frozenset(item.where for item in found if isinstance(item, Problem))

    def best(self, place: str, trials: Mapping[int, _Arguments]) -> list[int]:
        """Those of `trials` (value → what it comes to) that mend what is wrong at a dest's `place`.

        They do so without another problem elsewhere, but for batches, which are chosen last; and of what is wrong
        besides, none leaves more than the others.
        """
        if self._trial:  # where hints are not read
            return []
        mine, known = f"{WHERE}.{place}", self.places | {f"{WHERE}.{dest}" for dest in _BATCHES}
        left = {value: len(trial.places) for value, trial in trials.items() if trial.places <= known - {mine}}
        return [value for value in left if left[value] == min(left.values())]

    def given(self, dest: str) -> bool:
        """Whether the config says something of it."""
        self._asked_for[dest] = None
        return self._values.get(dest) is not None

    def on(self, dest: str) -> bool:
        """A switch; a text that is given counts as on."""
        return bool(self[dest])

    def number(self, dest: str) -> Any:
        """A number (a whole one as int: `1e5` in YAML is a float); None for none, and for what is refused elsewhere."""
        value = self[dest]
        return _number(value) if type(value) in _NUMERIC else None

    def size(self, dest: str) -> int:
        """A degree of parallelism: at least 1."""
        value = self.number(dest)
        return value if isinstance(value, int) and value > 0 else 1

    @property
    def remat(self) -> int:
        """Into how many further shards a weight is cut (resolve_tensor_parallel_weight_shards)."""
        return max(1, self.size("tensor_parallel_num_weight_shards") // self.size("tensor_model_parallel_size"))

    @property
    def model_size(self) -> int:
        """How many ranks hold one copy of the model (A:415-428)."""
        names = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        return self.size(names[0]) * self.size(names[1]) * self.size(names[2]) * self.remat

    @property
    def data_parallel(self) -> int | None:
        """How many copies of the model there are, or None if that is no whole number (A:446)."""
        return None if self.world % self.model_size else self.world // self.model_size


_NUMERIC = {int, float, str}


@lru_cache(maxsize=4096, typed=True)  # jobs of a sweep share most values
def _number(value: int | float | str) -> int | float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, int):
        return value
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def _problem(dest: str, what: str, hint: str = "") -> Problem:
    return Problem(what, f"{WHERE}.{dest}", hint)


def _note(dest: str, text: str) -> Note:
    return Note(f"{dest}: {text[:24]}", f"backend.megatron.{dest}: {text}")


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _multiples(value: int, unit: int, less: int = 0) -> list[int]:
    """The multiples of `unit` next to `value`, each less by so many."""
    below = value // unit * unit
    return [number - less for number in (below, below + unit) if number > less]


def _near(value: int, choices: Iterable[int]) -> str:
    """Those of `choices` that are nearest to `value`, in order."""
    nearest = sorted(choices, key=lambda choice: (abs(choice - value), choice))[:_MOST_SHOWN]
    *words, last = map(str, sorted(nearest))
    return f"{', '.join(words)} or {last}" if words else last


def _values(arguments: _Arguments, place: str, dest: str, near: int, choices: Iterable[int]) -> str:
    """`dest` with the values of it that would mend what is wrong at `place`, near to one; '' if none would."""
    trials = {value: arguments.but(**{dest: value}) for value in choices}
    fitting = arguments.best(place, trials)
    return f"{dest} {_near(near, fitting)}" if fitting else ""


def _take(*ways: str, otherwise: str = "change several of them together") -> str:
    """A hint of those ways out that there are."""
    there = [way for way in ways if way]
    return f"take {', or '.join(there)}" if there else otherwise


# ---------------------------------------------------------------------------------------------------------------------
# How the ranks are divided


_DEGREES = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
)


def _positive(arguments: _Arguments) -> _Found:
    names = (*_DEGREES, "num_layers", "hidden_size", "num_attention_heads", "seq_length", "ffn_hidden_size")
    for dest in (*names, "global_batch_size", "train_iters", "train_samples", "num_query_groups"):
        value = arguments.number(dest)
        if arguments.given(dest) and value is not None and value <= 0:
            yield _problem(dest, f"must be at least 1, not {value}")


def _ranks(arguments: _Arguments) -> _Found:
    tp, pp = arguments.size("tensor_model_parallel_size"), arguments.size("pipeline_model_parallel_size")
    cp, world = arguments.size("context_parallel_size"), arguments.world
    shards = arguments.number("tensor_parallel_num_weight_shards")
    if isinstance(shards, int) and (shards < tp or shards % tp):  # core/model_parallel_config.py
        text = f"the weights' shards ({shards}) must be a multiple of tensor_model_parallel_size ({tp})"
        dest = "tensor_parallel_num_weight_shards"
        yield _problem(dest, text, _take(_values(arguments, dest, dest, shards, range(tp, world + 1, tp))))
    if arguments.data_parallel is None:  # A:430
        sizes = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp, "context_parallel_size": cp}
        # the one that is at fault, or the largest, if none is on its own
        dest = max(sizes, key=lambda name: (world % sizes[name] != 0, sizes[name]))
        least = -(-world // arguments.model_size) * arguments.model_size
        enough = arguments.best(dest, {least: arguments.but(least)})
        by_size = _values(arguments, dest, dest, sizes[dest], _divisors(world))
        by_ranks = f"a multiple of {arguments.model_size} GPUs (slurm.sbatch.nodes)" if enough else ""
        yield _problem(
            dest,
            f"{plural(world, 'GPU')} can't be divided into models of {arguments.model_size} (tensor {tp} x "
            f"pipeline {pp} x context {cp}{f' x weight shards {arguments.remat}' if arguments.remat > 1 else ''})",
            _take(by_size or (by_ranks and "smaller sizes"), by_ranks),
        )
    experts_by = arguments.size("expert_model_parallel_size")
    expert_tp = arguments.number("expert_tensor_parallel_size") or tp
    group = experts_by * expert_tp * pp
    if experts_by > 1 and arguments.data_parallel is not None and world % group:  # core/parallel_state.py:883
        dest = "expert_model_parallel_size"
        yield _problem(
            dest,
            f"{plural(world, 'GPU')} can't be divided into groups of {group} (expert {experts_by} x "
            f"expert tensor {expert_tp} x pipeline {pp})",
            _take(_values(arguments, dest, dest, experts_by, _divisors(world))),
        )


def _by_pattern(arguments: _Arguments) -> bool:
    """Whether a pattern says which layers there are."""
    return arguments.given("hybrid_layer_pattern") or arguments.given("hybrid_override_pattern")  # A:721-731


def _layers_dest(arguments: _Arguments) -> str:
    return "num_layers" if arguments.given("num_layers") else "encoder_num_layers"


def _pipeline(arguments: _Arguments) -> _Found:
    pp = arguments.size("pipeline_model_parallel_size")
    layers = arguments.number("num_layers") or arguments.number("encoder_num_layers")
    exclusive = ("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank")
    named = [dest for dest in (*exclusive, "pipeline_model_parallel_layout") if arguments.given(dest)]
    if len(named) > 1:  # A:899
        yield _problem(named[1], f"{' and '.join(named)} exclude each other", f"set {named[0]} alone")
        return
    uneven = any(arguments.given(f"decoder_{end}_pipeline_num_layers") for end in ("first", "last"))
    per_virtual = arguments.number("num_layers_per_virtual_pipeline_stage")
    if per_virtual is not None and uneven:  # A:928
        hint = "use num_virtual_stages_per_pipeline_rank"
        yield _problem(named[0], "can't be combined with first or last stages of their own size", hint)
        return
    extra = sum(arguments.on(f"account_for_{what}_in_pipeline_split") for what in ("embedding", "loss"))
    counted = not (uneven or _by_pattern(arguments) or "pipeline_model_parallel_layout" in named)
    if isinstance(layers, int) and layers > 0 and counted and named != [exclusive[1]] and (layers + extra) % pp:
        what = f"{layers} layers{f' (and {extra} for embedding or loss)' if extra else ''}"
        dest, many = "pipeline_model_parallel_size", _layers_dest(arguments)
        yield _problem(  # A:934, A:963
            dest,
            f"{what} can't be divided among {pp} pipeline stages",
            _take(
                _values(arguments, dest, dest, pp, _divisors(layers + extra)),
                _values(arguments, dest, many, layers, _multiples(layers + extra, pp, extra)),
                "decoder_first_pipeline_num_layers and its like, by which stages differ",
            ),
        )
        return
    stages = arguments.number("num_virtual_stages_per_pipeline_rank")
    if isinstance(per_virtual, int) and per_virtual > 0 and isinstance(layers, int):
        per_stage = (layers + extra) // pp
        if per_stage % per_virtual:  # A:938
            text = f"the {per_stage} layers of a pipeline stage can't be divided into virtual stages of {per_virtual}"
            yield _problem(
                named[0], text, _take(_values(arguments, named[0], named[0], per_virtual, _divisors(per_stage)))
            )
            return
        stages = per_stage // per_virtual
    if isinstance(stages, int) and stages > 1:
        least = 2 if arguments.on("overlap_p2p_comm") else 3
        if pp < least:  # A:967-975
            why = "" if least == 2 else " without overlap_p2p_comm"
            text = f"virtual pipeline stages need pipeline_model_parallel_size of {least} or more{why}, not {pp}"
            yield _problem(named[0], text, f"take no virtual stages, or {least} pipeline stages or more")


def _experts(arguments: _Arguments) -> _Found:
    size, experts = arguments.size("expert_model_parallel_size"), arguments.number("num_experts")
    split = arguments.size("tensor_model_parallel_size") > 1 and not arguments.on("sequence_parallel")
    if (
        experts and split and not arguments.on("skip_train")
    ):  # core/transformer/moe/moe_layer.py:629, when it is trained
        text = "a model with experts is trained with tensor parallelism only if this is on"
        yield _problem("sequence_parallel", text, "set it to true, or tensor_model_parallel_size to 1")
    if size > 1 and not experts:  # A:1601
        dest = "expert_model_parallel_size"
        hint = _take(_values(arguments, dest, dest, 1, [1]), "num_experts, as many as there are to be")
        yield _problem(dest, f"{size} expert parallel groups, but the model has no experts", hint)
    elif size > 1 and isinstance(experts, int) and experts % size:  # A:1602
        text = f"{experts} experts can't be divided among {size} ranks"
        dest = "expert_model_parallel_size"
        by_size = _values(arguments, dest, dest, size, _divisors(experts))
        yield _problem(
            dest, text, _take(by_size, _values(arguments, dest, "num_experts", experts, _multiples(experts, size)))
        )


# ---------------------------------------------------------------------------------------------------------------------
# Batches


def _batches(arguments: _Arguments) -> _Found:
    micro = arguments.number("micro_batch_size")
    if micro is None:
        if not arguments.given("micro_batch_size"):  # A:675
            yield _problem("micro_batch_size", "this argument is required", "the samples of one forward pass, e.g. 1")
        return
    if micro <= 0:  # A:676
        yield _problem("micro_batch_size", f"must be at least 1, not {micro}")
        return
    if arguments.given("step_batch_size_schedule") and arguments.given("global_batch_size"):  # A:680
        text = "the schedule says the batch sizes: global_batch_size can't be set, too"
        yield _problem("step_batch_size_schedule", text, "set backend.megatron.global_batch_size to null")
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


_BATCHES = ("global_batch_size", "micro_batch_size", "eval_global_batch_size", "eval_micro_batch_size")


def _divisible(arguments: _Arguments, of: str, whole: int, micro: int, copies: int) -> Iterator[Problem]:
    """`of`: what the names of the arguments begin with."""
    unit = micro * copies
    if whole % unit == 0:
        return
    whole_dest, micro_dest = f"{of}global_batch_size", f"{of}micro_batch_size"
    place = micro_dest if of and not arguments.given(whole_dest) else whole_dest
    many = "1 copy" if copies == 1 else f"{copies} copies"
    text = f"{whole} samples can't be divided into micro batches of {micro} on {many} of the model"
    multiples = _values(arguments, place, whole_dest, whole, _multiples(whole, unit))
    micros = _divisors(whole // copies) if whole % copies == 0 else []
    hint = _take(
        f"{multiples} (a multiple of {unit})" if multiples else "",
        _values(arguments, place, micro_dest, micro, micros),
    )
    yield _problem(place, text, hint)


# ---------------------------------------------------------------------------------------------------------------------
# The model


def _required(arguments: _Arguments) -> _Found:
    if arguments.on("use_checkpoint_args"):
        return  # they may come from the checkpoint
    for dest in ("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"):  # A:1274-1277, 1924
        from_elsewhere = dest == "num_layers" and (arguments.given("encoder_num_layers") or _by_pattern(arguments))
        if arguments[dest] is None and not from_elsewhere:
            hint = "or choose a model: backend/megatron=300M"
            if dest == "max_position_embeddings":
                hint = "at least seq_length"
            yield _problem(dest, "this argument is required", hint)
    if arguments["seq_length"] is None and arguments["encoder_seq_length"] is None:  # A:1307
        yield _problem("seq_length", "this argument is required", "the tokens of one sample, e.g. 4096")
    for dest, other in (("num_layers", "encoder_num_layers"), ("seq_length", "encoder_seq_length")):  # A:1263, 1304
        if arguments.given(dest) and arguments.given(other):
            yield _problem(other, f"{dest} says the same", f"set {dest} alone")


def _attention(arguments: _Arguments) -> _Found:
    hidden, heads = arguments.number("hidden_size"), arguments.number("num_attention_heads")
    tp = arguments.size("tensor_model_parallel_size")
    if not isinstance(heads, int) or heads <= 0:
        return
    if isinstance(hidden, int) and hidden > 0 and hidden % heads and not arguments.given("kv_channels"):  # A:1292
        text = f"hidden_size {hidden} can't be divided among {heads} heads"
        dest = "num_attention_heads"
        hint = _take(
            _values(arguments, dest, dest, heads, _divisors(hidden)),
            _values(arguments, dest, "hidden_size", hidden, _multiples(hidden, heads)),
            "kv_channels, the size of a head, as you like",
        )
        yield _problem(dest, text, hint)
    if heads % tp:  # T:1324
        text = f"{heads} attention heads can't be divided among {tp} tensor parallel ranks"
        dest = "tensor_model_parallel_size"
        yield _problem(
            dest,
            text,
            _take(
                _values(arguments, dest, dest, tp, _divisors(heads)),
                _values(arguments, dest, "num_attention_heads", heads, range(tp, 2 * heads + tp, tp)),
            ),
        )
    groups = arguments.number("num_query_groups")
    if arguments.given("num_query_groups") and not arguments.on("group_query_attention"):
        if groups != 1:  # argument_utils.py sets it to None
            text = f"{groups} has no effect without group_query_attention: every head has keys and values of its own"
            yield _note("num_query_groups", text)
        return
    if not arguments.on("group_query_attention") or not isinstance(groups, int) or groups <= 0:
        return
    if groups % tp and tp % groups:  # T:1338
        text = f"{groups} query groups are neither a multiple nor a divisor of {tp} tensor parallel ranks"
        yield _problem("num_query_groups", text, _take(_groups(arguments, heads, groups)))
    elif heads % groups:  # core/transformer/attention.py divides them
        text = f"{heads} heads can't be divided into {groups} query groups"
        yield _problem("num_query_groups", text, _take(_groups(arguments, heads, groups)))


def _groups(arguments: _Arguments, heads: int, groups: int) -> str:
    return _values(arguments, "num_query_groups", "num_query_groups", groups, _divisors(heads))


def _length_dest(arguments: _Arguments) -> str:
    return "seq_length" if arguments.given("seq_length") else "encoder_seq_length"


def _lengths(arguments: _Arguments) -> _Found:
    length = arguments.number("seq_length") or arguments.number("encoder_seq_length")
    longest, cp = arguments.number("max_position_embeddings"), arguments.size("context_parallel_size")
    if length is None:
        return
    if longest is not None and length > longest:  # A:1314
        text = f"seq_length {length} is more than max_position_embeddings {longest}"
        pieces = 2 * cp if cp > 1 else 1
        fitting = [longest // pieces * pieces] if isinstance(longest, int) else []
        hint = _take(
            f"max_position_embeddings {length}", _values(arguments, "seq_length", _length_dest(arguments), 0, fitting)
        )
        yield _problem("seq_length", text, hint)
    elif cp > 1 and isinstance(length, int) and length % (2 * cp):  # A:1296
        text = f"seq_length {length} can't be cut into 2 x {cp} pieces (context_parallel_size {cp})"
        dest = _length_dest(arguments)
        by_length = _values(arguments, "seq_length", dest, length, _multiples(length, 2 * cp))
        by_cp = _values(
            arguments, "seq_length", "context_parallel_size", cp, (size for size in range(1, cp) if cp % size == 0)
        )
        yield _problem("seq_length", text, _take(by_length, by_cp))
    decoder = arguments.number("decoder_seq_length")
    if decoder is not None and longest is not None and decoder > longest:  # A:1318
        text = f"{decoder} is more than max_position_embeddings {longest}"
        yield _problem("decoder_seq_length", text, f"take at most {longest}")
    if not arguments.on("add_position_embedding") and arguments["position_embedding_type"] != "rope":
        hint = "set position_embedding_type instead"  # A:1563
        if not arguments.on("use_rotary_position_embeddings"):
            yield _problem("add_position_embedding", "can be switched off for rope alone", hint)


# ---------------------------------------------------------------------------------------------------------------------
# How long, and how fast


def _duration(arguments: _Arguments) -> _Found:
    if arguments.on("skip_train"):
        return
    iters, samples = arguments.number("train_iters"), arguments.number("train_samples")
    if iters and samples:  # A:1240
        yield _problem("train_samples", "train_iters says how long already", "set one of the two to null")
        return
    if not iters and not samples:  # megatron/training/training.py:1939
        if not (arguments.given("train_iters") or arguments.given("train_samples")):
            hint = "set train_iters (steps of global_batch_size samples) or train_samples"
            yield _problem("train_iters", "nothing says how long to train; Megatron finds out after building it", hint)
        return
    used, other = ("iters", "samples") if iters else ("samples", "iters")
    for name, wrong in (  # A:1242-1260
        ("lr_decay", arguments.given(f"lr_decay_{other}")),
        ("lr_warmup", bool(arguments.number(f"lr_warmup_{other}"))),
    ):
        if wrong:
            text = f"the training is counted in {used} (train_{used}), so this must be, too"
            yield _problem(f"{name}_{other}", text, f"set {name}_{used} instead, and it to null")
    if arguments.given("lr_warmup_fraction") and arguments.number(f"lr_warmup_{used}"):  # A:1248, A:1262
        text = f"lr_warmup_{used} says the same"
        yield _problem("lr_warmup_fraction", text, f"set it or lr_warmup_{used} to null")


def _learning_rate(arguments: _Arguments) -> _Found:
    lr, least = arguments.number("lr"), arguments.number("min_lr")
    trained = not arguments.on("skip_train")
    if lr is None:
        if trained and not arguments.given("lr"):  # S:148, after the model is built
            yield _problem("lr", "this argument is required; Megatron finds out after building the model")
        return
    if lr < 0:  # no min_lr is both at most lr and at least 0
        yield _problem("lr", f"must not be negative, as {lr} is")
        return
    if trained and least is not None and least < 0:  # S:149
        yield _problem("min_lr", f"must be at least 0, not {least}")
    elif least is not None and least > lr:  # A:1320, S:150
        yield _problem("min_lr", f"{least} is more than lr, {lr}", f"take at most {lr}; a tenth is usual: {lr / 10:g}")
    if not trained:
        return
    start = arguments.number("lr_warmup_init")
    if start is not None and start > lr:  # S:151
        yield _problem("lr_warmup_init", f"{start} is more than lr, {lr}", f"take at most {lr}")
    yield from _schedule(arguments)


def _schedule(arguments: _Arguments) -> _Found:
    unit = "iters" if arguments.number("train_iters") else "samples"
    length = arguments.number(f"train_{unit}")
    if not isinstance(length, int) or length <= 0 or (unit == "iters" and arguments.number("train_samples")):
        return
    given_decay = arguments.number(f"lr_decay_{unit}")
    decay = length if given_decay is None else given_decay
    if decay <= 0:  # S:159
        yield _problem(f"lr_decay_{unit}", f"must be at least 1, not {decay}", f"null takes train_{unit}, {length}")
        return
    fraction = arguments.number("lr_warmup_fraction")
    warmup = fraction * decay if fraction is not None else arguments.number(f"lr_warmup_{unit}") or 0
    decay_name = f"lr_decay_{unit}" if given_decay is not None else f"train_{unit}"
    if warmup >= decay:  # S:160, after the model is built
        if fraction is not None:
            yield _problem("lr_warmup_fraction", f"must be less than 1, not {fraction}")
        else:
            text = f"the warm-up of {warmup} is not shorter than {decay_name}, {decay}"
            yield _problem(f"lr_warmup_{unit}", text, f"take less than {decay}")
    if given_decay is not None and given_decay < length and arguments["lr_decay_style"] != "constant":
        text = f"{given_decay} is less than train_{unit}, {length}: all after it is trained with min_lr"
        yield _note(f"lr_decay_{unit}", text)
    wsd = arguments.number(f"lr_wsd_decay_{unit}")
    if arguments["lr_decay_style"] != "WSD":
        if wsd:
            text = f"{wsd} has no effect: lr_decay_style is {arguments['lr_decay_style']}, not WSD"
            yield _note(f"lr_wsd_decay_{unit}", text)
        return
    if wsd is None:
        if not arguments.given(f"lr_wsd_decay_{unit}"):  # S:164, after the model is built
            text = f"lr_decay_style WSD needs it: the {unit} of the decay at the end"
            yield _problem(f"lr_wsd_decay_{unit}", text, f"e.g. a fifth of train_{unit}: {max(1, int(length // 5))}")
    elif wsd > decay:
        text = f"the decay of {wsd} is longer than {decay_name}, {decay}: it begins in the middle of itself"
        yield _note(f"lr_wsd_decay_{unit}", text)
    elif warmup < decay and warmup + wsd > decay:  # the decay begins at decay - wsd, S:263
        text = f"warm-up ({warmup:g}) and decay ({wsd}) together are longer than {decay_name}, {decay}"
        yield _note(f"lr_wsd_decay_{unit}", f"{text}: the rate drops from the warm-up into the decay")


def _weight_decay(arguments: _Arguments) -> _Found:
    style = arguments["weight_decay_incr_style"]
    for dest in ("start_weight_decay", "end_weight_decay"):  # A:1353-1360
        if style == "constant" and arguments.given(dest):
            hint = "set weight_decay alone, or weight_decay_incr_style to linear or cosine"
            yield _problem(dest, "the weight decay is constant, so that it has no start and end", hint)
        elif style != "constant" and not arguments.given(dest):
            yield _problem(dest, f"weight_decay_incr_style {style} needs it", "or set the style to constant")
    start, end = arguments.number("start_weight_decay"), arguments.number("end_weight_decay")
    if style != "constant" and start is not None and end is not None and (start < 0 or end < start):  # S:167
        yield _problem("end_weight_decay", f"must grow from {start} (at least 0), not to {end}")


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints, precision, memory, optimizer


def _checkpoints(arguments: _Arguments) -> _Found:
    interval, retain = arguments.number("save_interval"), arguments.number("save_retain_interval")
    if not arguments.given("save"):
        if arguments.given("save_interval"):
            yield _note("save_interval", "without `save`, the folder, no checkpoint is written")
        return
    if interval is None:
        if not arguments.given("save_interval"):  # A:1323
            yield _problem("save_interval", "`save` needs it: after how many iterations a checkpoint is written")
        return
    if interval <= 0:  # A:1324
        yield _problem("save_interval", f"must be at least 1, not {interval}")
    elif isinstance(retain, int) and isinstance(interval, int) and (retain <= 0 or retain % interval):  # A:1326
        text = f"{retain} is no multiple of save_interval, {interval}"
        yield _problem(
            "save_retain_interval",
            text,
            f"take save_retain_interval {_near(retain, _multiples(max(retain, 1), interval))}",
        )
    if arguments.number("save_params_interval") and arguments.on("overlap_param_gather"):  # A:1328
        yield _problem("save_params_interval", "can't be combined with overlap_param_gather", "switch one of them off")


def _asynchronous(arguments: _Arguments) -> _Found:
    if not arguments.on("async_save") or arguments["ckpt_format"] == "torch":
        return
    if not arguments.on("use_persistent_ckpt_worker"):  # A:1740-1746
        text = "has no effect without use_persistent_ckpt_worker: Megatron switches it off"
        yield _note("async_save", text)


def _logging(arguments: _Arguments) -> _Found:
    every, memory = arguments.number("log_interval"), arguments.number("log_memory_interval")
    if isinstance(every, int) and every > 0 and isinstance(memory, int) and memory % every:  # A:1330
        text = f"{memory} is no multiple of log_interval, {every}"
        yield _problem(
            "log_memory_interval", text, f"take log_memory_interval {_near(memory, _multiples(max(memory, 1), every))}"
        )


def _precision(arguments: _Arguments) -> _Found:
    if arguments.on("fp16") and arguments.on("bf16"):  # A:1173
        yield _problem("fp16", "fp16 and bf16 exclude each other", "set one of them to false")
    if arguments.on("fp8") and arguments.on("fp4"):  # A:1066
        yield _problem("fp4", "fp8 and fp4 exclude each other", "set one of them to null")
    if arguments.on("fp4_param_gather") and not arguments.on("fp4"):  # A:1070
        yield _problem("fp4_param_gather", "it needs fp4", "set fp4: e2m1, or switch it off")
    sharded = ("use_distributed_optimizer", "use_torch_fsdp2", "use_megatron_fsdp")
    if arguments.on("fp8_param_gather") and not any(map(arguments.on, sharded)):  # A:1062
        yield _problem("fp8_param_gather", "it needs a sharded optimizer", "set use_distributed_optimizer: true")
    if arguments.on("fp16_lm_cross_entropy") and not arguments.on("fp16"):  # A:1333
        yield _problem("fp16_lm_cross_entropy", "it needs fp16", "set fp16: true, or switch it off")
    if arguments.on("fp32_residual_connection") and not (arguments.on("fp16") or arguments.on("bf16")):  # A:1335
        yield _problem("fp32_residual_connection", "it needs fp16 or bf16", "set bf16: true, or switch it off")


def _overlap(arguments: _Arguments) -> _Found:
    sharded = arguments.on("use_distributed_optimizer") or arguments.on("use_megatron_fsdp")
    if arguments.on("overlap_param_gather"):
        if not sharded and arguments["optimizer"] != "dist_muon":  # A:990
            text = "it needs an optimizer that is distributed"
            yield _problem("overlap_param_gather", text, "set use_distributed_optimizer: true")
        if not arguments.on("overlap_grad_reduce"):  # A:995
            yield _problem("overlap_param_gather", "it needs overlap_grad_reduce", "set overlap_grad_reduce: true")
    serial = arguments.size("tensor_model_parallel_size") == 1
    if arguments.on("tp_comm_overlap") and (serial or not arguments.on("sequence_parallel")):  # A:1401
        why = "which tensor_model_parallel_size 1 switches off" if serial else "which is off"
        hint = "set tensor_model_parallel_size to 2 or more and sequence_parallel: true, or switch it off"
        yield _problem("tp_comm_overlap", f"it needs sequence_parallel, {why}", hint)
    elif arguments.on("sequence_parallel") and serial:  # A:1390
        yield _note("sequence_parallel", "has no effect with tensor_model_parallel_size 1: Megatron switches it off")


def _recompute(arguments: _Arguments) -> _Found:
    kind = "selective" if arguments.on("recompute_activations") else arguments["recompute_granularity"]
    method, layers = arguments["recompute_method"], arguments["recompute_num_layers"]
    if kind == "full":  # T:1737, T:1742
        if method is None:
            hint = "uniform (all layers, in groups) or block (the first ones of a stage)"
            yield _problem("recompute_method", "recompute_granularity full needs it", hint)
        if layers is None:
            hint = "1, and up to the layers of a pipeline stage"
            yield _problem("recompute_num_layers", "recompute_granularity full needs it", hint)
    elif kind == "selective":  # A:1386, T:1750
        for dest, value in (("recompute_method", method), ("recompute_num_layers", layers)):
            if value is not None:
                hint = "set it to null, or recompute_granularity to full"
                yield _problem(dest, "selective recomputation has no such choice", hint)
    elif kind is None and (method is not None or layers is not None):
        dest = "recompute_method" if method is not None else "recompute_num_layers"
        yield _note(dest, "has no effect without recompute_granularity")
    if arguments.on("distribute_saved_activations"):  # A:1372-1378, T:1757
        if arguments.size("tensor_model_parallel_size") == 1:
            text = "activations are distributed among tensor parallel ranks, of which there is one"
            yield _problem("distribute_saved_activations", text, "set tensor_model_parallel_size to 2 or more")
        elif kind != "full":
            yield _problem("distribute_saved_activations", "it needs recompute_granularity full")
        elif arguments.on("sequence_parallel"):
            yield _problem("distribute_saved_activations", "it can't be combined with sequence_parallel")


def _torch_fsdp(arguments: _Arguments) -> _Found:  # A:997-1015
    if not arguments.on("use_torch_fsdp2"):
        if arguments["ckpt_format"] == "torch_dcp":  # A:1614
            yield _problem("ckpt_format", "torch_dcp is for use_torch_fsdp2 alone", "take torch_dist")
        return
    dest = "use_torch_fsdp2"
    for name, what in (("pipeline_model_parallel_size", "pipeline"), ("expert_model_parallel_size", "expert")):
        if arguments.size(name) > 1:
            yield _problem(name, f"torch's FSDP2 has no {what} parallelism", f"set it to 1, or {dest} to false")
    for name, what in (("use_distributed_optimizer", "shards the optimizer itself"), ("fp16", "can't do fp16")):
        if arguments.on(name):
            yield _problem(name, f"torch's FSDP2 {what}", f"set it or {dest} to false")
    if arguments.on("gradient_accumulation_fusion"):
        text = "torch's FSDP2 can't fuse the accumulation of gradients, which is on by default"
        yield _problem("gradient_accumulation_fusion", text, "set it to false")
    if arguments["ckpt_format"] not in ("torch_dist", "torch_dcp"):
        yield _problem(
            "ckpt_format", f"torch's FSDP2 has no {arguments['ckpt_format']}", "take torch_dist or torch_dcp"
        )
    if not arguments.on("untie_embeddings_and_output_weights"):
        text = "torch's FSDP2 needs output weights of their own"
        yield _problem("untie_embeddings_and_output_weights", text, "set it to true")


def _megatron_fsdp(arguments: _Arguments) -> _Found:  # A:1101-1152
    if not arguments.on("use_megatron_fsdp"):
        if arguments["ckpt_format"] == "fsdp_dtensor":  # A:1622
            yield _problem("ckpt_format", "fsdp_dtensor is for use_megatron_fsdp alone", "take torch_dist")
        return
    if arguments["ckpt_format"] != "fsdp_dtensor":
        text = f"use_megatron_fsdp has no {arguments['ckpt_format']}"
        yield _problem("ckpt_format", text, "take fsdp_dtensor")
    if arguments["optimizer"] not in ("sgd", "adam"):
        yield _problem("optimizer", f"use_megatron_fsdp can't do {arguments['optimizer']}", "take adam or sgd")
    if not arguments.on("use_distributed_optimizer"):
        yield _note("use_megatron_fsdp", "Megatron switches use_distributed_optimizer on with it")


def _connections(arguments: _Arguments) -> _Found:
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    value, where = arguments.environment.get(name), f"$.backend.env.{name}"
    sharded = next((dest for dest in ("use_torch_fsdp2", "use_megatron_fsdp") if arguments.on(dest)), None)
    split = [d for d in ("tensor_model_parallel_size", "context_parallel_size") if arguments.size(d) > 1]
    if sharded and value == "1":  # A:1014, A:1144
        yield Problem(f"{sharded} needs more than one connection, or none said", where, "set it to null")
    elif split and not sharded and not arguments.on("overlap_moe_expert_parallel_comm") and value != "1":  # A:1437
        text = f"{split[0]} {arguments.size(split[0])} needs 1, not {'nothing' if value is None else value}"
        yield Problem(
            text, where, "set it to 1 (only GPUs of the Blackwell generation do without; it does no harm there)"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Data


def _data(arguments: _Arguments) -> _Found:
    splits = [dest for dest in ("train_data_path", "valid_data_path", "test_data_path") if arguments[dest]]
    sources = [dest for dest in ("mock_data", "data_path") if arguments.on(dest)] + splits[:1]
    if len(sources) > 1:  # A:1624
        text = f"{' and '.join(sources)}: there can be one source of data"
        yield _problem(sources[1], text, f"set {sources[0]} or {sources[1]} to null (false)")
    for dest, other in (("data_args_path", "data_path"), ("per_split_data_args_path", "")):  # A:659, A:668
        also = other if other and arguments.on(other) else (splits[0] if not other and splits else "")
        if arguments.given(dest) and also:
            yield _problem(dest, f"{also} says the same", "set one of the two to null")
    files = ("data_args_path", "per_split_data_args_path", "dataloader_type")
    if not sources and not any(arguments.given(dest) for dest in files) and not arguments.on("skip_train"):
        yield _note("data_path", "no data is named (data_path, train_data_path, or mock_data: true for a speed test)")
    if arguments["tokenizer_type"] == "NullTokenizer" and not arguments["vocab_size"]:
        # core/tokenizers/text/libraries/null_tokenizer.py takes it as its only argument
        yield _problem("vocab_size", "the NullTokenizer needs it: it has no vocabulary of its own", "e.g. 131072")
    split = arguments["split"]
    if isinstance(split, str) and 0 < len([part for part in split.split(",") if part.strip()]) < 3:
        # core/datasets/utils.py fills it up
        yield _note("split", f"'{split}' has fewer than three parts (train, valid, test): the others get nothing")


# ---------------------------------------------------------------------------------------------------------------------
# What is taken, and does something else than it says


_GONE = {
    "batch_size": "micro_batch_size",
    "warmup": "lr_warmup_fraction",
    "model_parallel_size": "tensor_model_parallel_size",
    "checkpoint_activations": "recompute_granularity",
}
"""Arguments that the parser takes and Megatron then ends on (A:552-566), and what has replaced them."""

_DEPRECATED = {
    "use_dist_ckpt_deprecated": "has no effect: ckpt_format decides",
    "dist_ckpt_format_deprecated": "has no effect: set ckpt_format",
    "ckpt_fully_parallel_save_deprecated": "has no effect: it is on; ckpt_fully_parallel_save: false switches it off",
    "disable_msc_deprecated": "is deprecated: set enable_msc",
    "deprecated_use_mcore_models": "has no effect: there are no others",
    "cuda_graph_scope_deprecated": "is deprecated: set cuda_graph_modules",
    "no_weight_decay_cond_type": "is deprecated: set apply_wd_to_qk_layernorm",
    "hybrid_override_pattern": "is deprecated: set hybrid_layer_pattern",
    "use_rotary_position_embeddings": "is deprecated: set position_embedding_type: rope",
    "enable_cuda_graph": "is deprecated: set cuda_graph_impl: local",
    "external_cuda_graph": "is deprecated: set cuda_graph_impl: transformer_engine",
}


def _gone(arguments: _Arguments) -> _Found:
    for dest, instead in _GONE.items():
        if arguments.on(dest):
            yield _problem(dest, "Megatron does not take this any more", f"set {instead}")


def _silent(arguments: _Arguments) -> _Found:
    for dest, what in _DEPRECATED.items():
        if arguments.given(dest) and arguments[dest] is not False:
            yield _note(dest, what)
    if arguments.given("rampup_batch_size"):  # global_vars.py:127 does not pass it on
        text = "is taken and has no effect any more: the batch size is constant; set step_batch_size_schedule"
        yield _note("rampup_batch_size", text)


_CHECKS: tuple[Callable[[_Arguments], _Found], ...] = (
    _positive,
    _required,
    _ranks,
    _pipeline,
    _experts,
    _batches,
    _attention,
    _lengths,
    _duration,
    _learning_rate,
    _weight_decay,
    _checkpoints,
    _asynchronous,
    _logging,
    _precision,
    _overlap,
    _recompute,
    _torch_fsdp,
    _megatron_fsdp,
    _connections,
    _data,
    _gone,
    _silent,
)
