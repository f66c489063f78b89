"""Keys in more than one spelling, and `${…}` of a shell among those of a config. Pure.

An argument of Megatron-LM is one thing, by its dest or by its flag.

Below `backend.megatron`, `train-iters` and `--train-iters` are read as `train_iters`, so that of all that say it, in
whatever file, override or sweep, the last one counts.
"""

from __future__ import annotations

import re
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


_OF_A_SHELL = re.compile(
    r"\$\{(?:([A-Z_][A-Z0-9_]*)(?:\[[^]]*\])?[}:+=?#%/^,@-]"  # ${HOME}, ${PATH:+…}, ${JOB%%_*}, ${A[0]}
    r"|[#!](\w+)\}|[#!]?(\w+)(?:\[[@*]\]|:?[-+=?]|[#%/^]))"  # ${#x}, ${!x}, ${x[@]}, ${x:-y}, ${x//a/b}
)


def of_a_shell(text: str) -> str:
    """A hint for an interpolation that does not work if a shell would take it (`${HOME}`, `${X-unset}`); else ''."""
    found = _OF_A_SHELL.search(text)
    if found is None:
        return ""
    name = found[1] or found[2] or found[3]
    return (
        f"for the shell's variable write ${name} in slurm.env or backend.env (it is the job's own there), "
        f"\\${{…}} for the text itself, or ${{oc.env:{name}}} for its value while planning"
    )
