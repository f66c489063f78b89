"""The chain that a job runs as: what `job.chain` leaves open is taken from its backend. Pure."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from oellm_autoexp.backends.base import Command, Note
from oellm_autoexp.config.schema import AutoexpConfig, ChainSection
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import Chain
from oellm_autoexp.core.text import did_you_mean, dotted

_WHERE = CONFIG / "job.chain"
_HIGHEST = 1e18
"""What the shell of a script can compare is below 2**63."""
_OWN_ID = re.compile("(%%)|%j")


def chain_of(
    config: AutoexpConfig, tree: Mapping[str, Any], command: Command, output_dir: str, absolute: Callable[[str], str]
) -> Chain | None:
    """The chain of a job with this resolved config (`tree`); None if it is one job of the scheduler.

    Raises ConfigError: a goal that is no number or can't be one, or that no file could show to be reached; links that
    would not go on from where the one before has ended.
    """
    section = config.job.chain
    if section is None:
        return None
    if section.links > 1:
        _check_going_on(command, absolute)
    file = section.progress_file or command.progress_file
    work = command.work if command.progress_file and not section.progress_file else None
    goal = work.iterations if work is not None and section.until is None else _goal(section, tree)
    if goal is not None and not file:
        what = "it can't be found out whether the goal is reached: no file shows how far the run is"
        hint = "name it: progress_file, which begins with a whole number; or leave until out, then exit code 0 counts"
        raise ConfigError(Problem(what, _WHERE / "progress_file", hint))
    if goal is not None and not 0 < goal < _HIGHEST:  # not even an infinite one, or NaN
        raise ConfigError(Problem(f"the goal {goal:g} must be above 0 and below {_HIGHEST:g}", _WHERE / "until"))
    return Chain(
        links=section.links,
        until=math.ceil(goal) if goal is not None else None,
        progress_file=absolute(file) if file else "",
        max_fruitless=section.max_fruitless,
        stop_file=absolute(section.stop_file) if section.stop_file else f"{output_dir}/STOP",
    )


def _check_going_on(command: Command, absolute: Callable[[str], str]) -> None:
    """Raises ConfigError for a program that is known not to go on from its own checkpoints."""
    work, saved = command.work, posixpath.dirname(command.progress_file)
    if work is None or not saved:
        return
    hint = "a chain needs load to be the folder of save, and neither finetune nor ckpt_step"
    if not work.load or absolute(work.load) != absolute(saved):
        what = f"each link would begin anew: it loads from '{work.load}', and saves to '{saved}'"
        hint = f"{hint}; what the first link begins from is pretrained_checkpoint"
        raise ConfigError(Problem(what, _WHERE, hint))
    if work.start is not None:
        raise ConfigError(Problem(f"each link would begin at iteration {work.start} again", _WHERE, hint))


def _goal(section: ChainSection, tree: Mapping[str, Any]) -> float | None:
    if section.until is None:
        return None
    with suppress(ValueError):
        return float(section.until)
    values = dotted(tree)
    value = values.get(section.until)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    numbers = [key for key, found in values.items() if isinstance(found, int | float) and not isinstance(found, bool)]
    what = f"'{section.until}' is no key of the config with a number"
    raise ConfigError(Problem(what, _WHERE / "until", did_you_mean(section.until, numbers)))


def by_task(path: str) -> str:
    """A log's path in SLURM's notation with the id that we know of a link, `%A_%a`, in place of `%j`.

    `%j` of an array's task is a number of its own (sbatch(1)).
    """
    return _OWN_ID.sub(lambda found: found[1] or "%A_%a", path)


def notes(chain: Chain, directives: Mapping[str, str]) -> Iterator[Note]:
    """What a person should know of a chain with these directives in its script."""
    if not chain.progress_file:
        text = "no file shows how far the run is, so that a chain without progress runs to its last link"
        yield Note("chain progress", f"job.chain: {text}; set job.chain.progress_file")
    if chain.until is None and _is_unseen(directives.get("signal", "B:")):
        text = "a program that saves at this signal and then ends with exit code 0 completes the chain"
        yield Note("chain signal", f"slurm.sbatch.signal: {text}; set job.chain.until, or send it to the script: B:…")
    if [option for option in directives if option in ("requeue", "no_requeue")][-1:] == ["requeue"]:
        text = "a link that SLURM requeues may run after the next one"
        yield Note("chain requeue", f"slurm.sbatch.requeue: {text}; leave it out: the next link goes on")


def _is_unseen(signal: str) -> bool:
    """Whether the script does not see this signal before the time limit: SLURM sends it to the program alone."""
    flags, colon, _ = signal.partition(":")
    return not (colon and "B" in flags.upper())
