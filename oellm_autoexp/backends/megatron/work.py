"""What a training with Megatron-LM has to do, and which of its arguments decide how fast it does it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from oellm_autoexp.backends.base import Work

_SIZES = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels"),
    *("seq_length", "max_position_embeddings", "vocab_size", "micro_batch_size", "global_batch_size"),
    *("num_experts", "moe_router_topk", "moe_ffn_hidden_size", "moe_shared_expert_intermediate_size"),
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"),
    *("expert_model_parallel_size", "expert_tensor_parallel_size", "num_layers_per_virtual_pipeline_stage"),
)
"""Numbers by which times may be scaled."""
_SCHEDULES = ("rampup_batch_size", "step_batch_size_schedule")
"""With one of these, global batches differ in size, and so many samples have another number of iterations."""
_SIZE_FLAGS = {f"--{dest.replace('_', '-')}" for dest in _SIZES}
_SAME_SPEED = re.compile(
    r"--(?:decoupled-)?(?:min-)?lr(?:-.*)?|--(?:start-|end-)?weight-decay(?:-.*)?|--adam-.*|--sgd-momentum|--clip-grad"
    r"|--init-method-std|--seed|--.*-seed|--save|--load|--ckpt-step|--finetune|--override-opt.*|--use-checkpoint-opt.*"
    r"|--no-(?:load|save)-.*|--exit-.*|--train-(?:iters|samples)|--.*-interval|--eval-iters|--skip-train"
    r"|--(?:tensorboard|wandb|log|timing|one-logger)-.*|--no-one-logger|--(?:.*-)?data-(?:path|args-path)|--split"
    r"|--data-cache-path|--(?:tokenizer-model|vocab-file|merge-file)|--non-persistent-.*-dir|--.*-(?:dir|path)"
)
"""Flags whose values do not change the speed of an iteration."""


def work_of(
    version: str, words: Sequence[str], values: Mapping[str, Any], defaults: Mapping[str, Any], world: int
) -> Work:
    """The work of a command line of Megatron's.

    `words` are those of its arguments, `values` the same by dest, `defaults` the values of those that
    are not given. `world` is the number of ranks.
    """

    def value(dest: str) -> Any:
        found = values.get(dest)
        return defaults.get(dest) if found is None else found

    def number(dest: str) -> float:
        """A number that is given or a default; 0 where there is none, as Megatron derives it."""
        try:
            return float(value(dest) or 0)
        except (TypeError, ValueError):
            return 0.0

    sizes = {dest: size for dest in _SIZES if (size := number(dest))}
    samples = number("global_batch_size") or number("micro_batch_size") * _replicas(number, world)
    if samples:
        sizes["global_batch_size"] = samples
    iterations = number("train_iters")
    if not iterations and samples and not any(map(value, _SCHEDULES)):
        iterations = number("train_samples") // samples  # Megatron drops the last batch if it is not full
    load, step = value("load"), number("ckpt_step")
    start = 0 if value("finetune") or not load else int(step) if step else None
    return Work(
        shape=("megatron", version, *_deciding(words)),
        sizes=sizes,
        flops=_operations(number, bool(value("swiglu"))) * samples or None,
        iterations=int(iterations) or None,
        save_interval=int(number("save_interval")) or None,
        start=start,
        load=str(load or ""),
    )


def _deciding(words: Sequence[str]) -> Iterator[str]:
    """The words of flags that decide the speed, without those of sizes."""
    kept = True
    for word in words:
        if word[:2] == "--":  # of the words of each job: half as long as startswith
            kept = _decides(word)
        if kept:
            yield word


@lru_cache(maxsize=4096)
def _decides(word: str) -> bool:
    flag = word.partition("=")[0]
    return flag not in _SIZE_FLAGS and not _SAME_SPEED.fullmatch(flag)


def _replicas(number: Callable[[str], float], world: int) -> float:
    """How many copies of the model there are: the ranks over those that share one."""
    parts = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
    return max(1.0, world // math.prod(max(1.0, number(part)) for part in parts))


def _operations(number: Callable[[str], float], gated: bool) -> float:
    """Floating-point operations of one sample, forward and backward: 6 for each token and active weight, and attention.

    As in Narayanan et al. 2021, appendix; a causal mask halves the attention. Of a mixture of experts, those weights
    count that a token passes through.
    """
    layers, hidden, length = number("num_layers"), number("hidden_size"), number("seq_length")
    heads = number("num_attention_heads") or 1
    channels = number("kv_channels") or hidden / heads
    groups = number("num_query_groups") if number("num_query_groups") > 1 else heads
    width = number("ffn_hidden_size") or 4 * hidden
    if number("num_experts"):
        expert = number("moe_ffn_hidden_size") or width
        width = expert * max(1.0, number("moe_router_topk")) + number("moe_shared_expert_intermediate_size")
    attention = 2 * hidden * channels * (heads + groups)  # queries and output; keys and values
    weights = layers * (attention + (3 if gated else 2) * hidden * width) + hidden * number("vocab_size")
    scores = 2 * layers * heads * channels * length / 2
    return 6 * length * (weights + scores)
