"""Arguments of Megatron-LM have two names, the dest and the flag: keys of a config are kept with the first. Pure.

Below `backend.megatron`, `train-iters` and `--train-iters` are read as `train_iters`, so that of all that say it, in
whatever file, override or sweep, the last one counts.
"""

from __future__ import annotations

from typing import Any

_ARGUMENTS = "backend.megatron."


def spelled(key: str) -> str:
    """A dotted key, with Hydra's signs or without, as it is kept."""
    name = key.lstrip("+~")
    if not name.startswith(_ARGUMENTS):
        return key
    first, dot, rest = name.removeprefix(_ARGUMENTS).partition(".")
    dest = first.removeprefix("--").replace("-", "_")
    return f"{key[: len(key) - len(name)]}{_ARGUMENTS}{dest}{dot}{rest}"


def respelled(tree: Any, place: str = "") -> Any:
    """A part of a config, whose place in it is a dotted key ('': the whole), with its keys as they are kept.

    Two spellings in one mapping are left to whoever checks the keys: there is no last one.
    """
    if not isinstance(tree, dict) or not (_ARGUMENTS.startswith(f"{place}.") or not place):
        return tree
    prefix = f"{place}." if place else ""
    names = {key: spelled(f"{prefix}{key}") for key in tree}
    found = {}
    for key, value in tree.items():
        short = names[key].removeprefix(prefix) if isinstance(key, str) else key
        found[key if short in tree else short] = respelled(value, names[key])
    return found
