"""How far a training is, read from its log lines (Megatron-LM's formats, training.py: training_log). Pure."""

from __future__ import annotations

import re

from oellm_autoexp.model import Record

_NUMBER = rb"[-+]?\d{1,32}(?:\.\d{1,32})?(?:[eE][-+]?\d{1,4})?"
_ITERATION = re.compile(rb"\] iteration\s+(\d{1,18})/\s*(\d{1,18}) \|(.*)")
_LOSS = re.compile(rb" lm loss: (" + _NUMBER + rb"|nan|inf) \|")
_VALIDATION = re.compile(rb"validation\S* loss at iteration (\d{1,18}).*?\| lm loss value: (" + _NUMBER + rb")")
_LOADED = re.compile(rb"successfully loaded checkpoint from .* at iteration (\d{1,18})")


class Progress(Record):
    """The newest of what a log told. `loss` None after an iteration: it was not a number (Megatron omits it then)."""

    iteration: int | None = None
    total: int | None = None
    loss: float | None = None
    validation_loss: float | None = None


def read(progress: Progress, data: bytes) -> Progress:
    """`progress` after some more whole log lines. Of each kind of line only the newest counts."""
    found = [
        line for mark in (b"] iteration", b" loss at iteration", b" at iteration ") for line in _newest(data, mark)
    ]
    update: dict[str, int | float | None] = {}
    for _, line in sorted(found):
        if match := _ITERATION.search(line):
            loss = _LOSS.search(match[3])
            update |= {
                "iteration": int(match[1]),
                "total": int(match[2]),
                "loss": float(loss[1]) if loss else None,
            }
        elif match := _VALIDATION.search(line):
            update |= {"iteration": int(match[1]), "validation_loss": float(match[2])}
        elif match := _LOADED.search(line):
            update["iteration"] = int(match[1])
    return progress.model_copy(update=update) if update else progress


_FEW = 3  # lines that are looked at for one that fits: a mark may also stand in a line of another kind


def _newest(data: bytes, mark: bytes) -> list[tuple[int, bytes]]:
    """The newest lines that hold a mark, with their places."""
    found: list[tuple[int, bytes]] = []
    end = len(data)
    while len(found) < _FEW and (position := data.rfind(mark, 0, end)) >= 0:
        start = data.rfind(b"\n", 0, position) + 1
        newline = data.find(b"\n", position)
        found.append((start, data[start : newline if newline >= 0 else len(data)]))
        end = start
    return found
