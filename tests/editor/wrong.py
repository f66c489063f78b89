"""Configs that are wrong, each with `«` where an editor has to mark it."""

# ruff: noqa: E501  (a line for each)
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

_MARK = "«"

WRONG = {
    "a section's name": "project: {name: x}\n«slrum:\n  array: true\n",
    "a key of a section": "slurm:\n  «sbtach:\n    nodes: 1\n",
    "an inner key": "slurm:\n  site:\n    «partion: gpu\n",
    "text for a boolean": "slurm:\n  array: «maybe\n",
    "a number below the least": "scheduler:\n  max_jobs: «0\n",
    "a list for a text": "project:\n  name: «[a, b]\n",
    "a text for a section": "slurm:\n  site: «jupiter\n",
    "a choice": "container:\n  gpu: «intel\n",
    "a scheduler": "slurm:\n  client:\n    class_name: «SlrumClient\n",
    "another backend's key": "backend:\n  class_name: TorchtitanBackend\n  «argv: [python, train.py]\n",
    "a defaults list that is none": "defaults: «{slurm: local}\n",
    "two groups in one entry": "defaults:\n  - «override /slurm: local\n    override /backend: tiny_lm\n",
    "an argument of Megatron": "backend:\n  megatron:\n    lr: 1e-4\n    «globl_batch_size: 64\n",
    "an argument's type": "backend:\n  megatron:\n    train_iters: «many\n",
    "an argument's choice": "backend:\n  megatron:\n    attention_backend: «flsah\n",
    "a word of sweeps": "sweep:\n  «parms:\n    backend.megatron.lr: [1e-4]\n",
    "a way to combine": "sweep:\n  type: «sum\n  groups: [{params: {stage: [a]}}]\n",
    "two kinds of points": "sweep:\n  params: {stage: [a]}\n  configs: «[{stage: b}]\n",
    "a key of a grid": "sweep:\n  grids:\n    - «backend.megatron.globl_batch_size: [64, 128]\n",
    "the index": "sweep:\n  params:\n    «index: [0, 1]\n",
    "a value of an axis": "sweep:\n  params:\n    backend.megatron.lr: [1e-4, «fast]\n",
    "a default of a sweep": "sweep:\n  defaults:\n    backend.megatron.bf16: «half\n",
    "a word of sweeps among defaults": "sweep:\n  defaults:\n    «params: {stage: [a]}\n",
    "an action": "monitoring:\n  state_events:\n    stall:\n      actions:\n        - class_name: «RestrtAction\n",
    "an action without its message": "monitoring:\n  log_events:\n    nan:\n      pattern: nan\n      actions:\n        - «class_name: LogAction\n",
    "an action's key": "monitoring:\n  state_events:\n    crash:\n      actions:\n        - class_name: RestartAction\n          «max_atempts: 3\n",
    "a key that an action overrides": "monitoring:\n  state_events:\n    oom:\n      actions:\n        - class_name: RestartAction\n          overrides:\n            «slurm.sbtach.time: 1\n",
    "a state": "monitoring:\n  log_events:\n    nan:\n      pattern: nan\n      state: «craash\n",
    "a condition's choice": "job:\n  start_conditions:\n    - class_name: ElapsedTimeCondition\n      seconds: 60\n      since: «begin\n",
    "a condition of a stage": "sweep:\n  configs:\n    - stage: decay\n      job.start_conditions:\n        - class_name: FileExistsCondition\n          path: x\n          «pattern: y\n",
    "no seconds": "job:\n  inactivity_threshold_seconds: «-1\n",
}  # fmt: skip


class Place(NamedTuple):
    """Where a mark stands: line and column, from 1, and the path of what begins there."""

    line: int
    column: int
    path: tuple[Any, ...]


def unmarked(marked: str) -> tuple[str, Place]:
    """A text without its mark, and where that stood."""
    before, _, after = marked.partition(_MARK)
    index = len(before)
    lines = before.split("\n")
    node = yaml.compose(before + after, yaml.SafeLoader)
    return before + after, Place(len(lines), len(lines[-1]) + 1, _path(node, index, ()))


def _path(node: Any, index: int, path: Sequence[Any]) -> tuple[Any, ...]:
    """The path of the innermost key or value at an index of a text."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.start_mark.index <= index < value.end_mark.index:
                inner = (*path, key.value)
                return inner if index < key.end_mark.index else _path(value, index, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            if item.start_mark.index <= index < item.end_mark.index:
                return _path(item, index, (*path, number))
    return tuple(path)
