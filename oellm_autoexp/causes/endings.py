"""What the end of an attempt shows by itself: the scheduler's state and the exit code."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from oellm_autoexp.causes.labels import split
from oellm_autoexp.causes.places import Clues
from oellm_autoexp.causes.rule import CauseRule
from oellm_autoexp.causes.signs import LogText

TAIL_BYTES = 4096
"""How much of the end of a log is looked at for its last words."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended, as the scheduler reports it (core.nouns.JobStatus); `exit_code` as a shell sees it.

    `nodes` and `failed_nodes` are node lists of SLURM's. `cancelled_by` is why the tool has ended it, '' if it did not.
    """

    scheduler_state: str = ""
    exit_code: int | None = None
    nodes: str = ""
    failed_nodes: str = ""
    out_of_memory: bool = False
    cancelled_by: str = ""


@dataclass(frozen=True)
class Verdict:
    """A category and a text. `beats`: roles of lines that it overrules."""

    category: str
    text: str
    beats: frozenset[str] = frozenset()

    def overrules(self, rule: CauseRule) -> bool:
        """True if the ending says more than a line of this rule. Connections break when a node fails."""
        return rule.role in self.beats or (self.category == "node" and rule.category == "network")


_ANY = frozenset({"root", "confirms", "either", "follows"})
_WEAK = frozenset({"either", "follows"})
_FALLOUT = frozenset({"follows"})
UNKNOWN = Verdict("unknown", "neither its logs nor the scheduler show why it ended")

_BY_STATE = {
    "PREEMPTED": Verdict("preempted", "the scheduler has given its nodes to another job", _ANY),
    "TIMEOUT": Verdict("time", "the time limit was reached", _WEAK),
    "DEADLINE": Verdict("time", "its deadline was reached", _WEAK),
    "NODE_FAIL": Verdict("node", "a node failed", _WEAK),
    "BOOT_FAIL": Verdict("node", "a node did not start", _ANY),
    "OUT_OF_MEMORY": Verdict("oom-host", "the job used more memory than it asked for", _WEAK),
    "CANCELLED": Verdict("killed", "it was cancelled", _WEAK),
}
"""sacct(1), JOB STATE CODES."""
_OF_VALIDATION = {
    16: Verdict("nan", "Megatron-LM wants a bad result to be computed again on another GPU (exit code 16)", _FALLOUT),
    17: Verdict("nan", "Megatron-LM has rejected a bad result (exit code 17)", _FALLOUT),
}
"""Exit codes of megatron/core/rerun_state_machine.py; with 17, only a line shows which of model and GPU is at fault."""


def verdict(ending: Ending, clues: Clues) -> Verdict | None:
    """What the end shows; None if it shows nothing."""
    state = ending.scheduler_state.split(" ")[0]
    if state == "CANCELLED" and ending.cancelled_by:
        return Verdict("unknown", f"ended by the tool: {ending.cancelled_by}")
    if known := _BY_STATE.get(state):
        return known
    if ending.out_of_memory:
        return _BY_STATE["OUT_OF_MEMORY"]
    code = clues.first_exit if clues.first_exit is not None else ending.exit_code
    if clues.megatron and code in _OF_VALIDATION:
        return _OF_VALIDATION[code]
    if (own := exited_first(ending, clues)) is not None and code is not None and _by_code(code).category == "killed":
        code = own
    return None if code is None else _by_code(code)


def exited_first(ending: Ending, clues: Clues) -> int | None:
    """The exit code of a task that ended by itself before srun ended the others; None if there is none."""
    known = ending.scheduler_state.split(" ")[0] in _BY_STATE or clues.first_exit is not None
    return None if known else clues.own_exit


def _by_code(code: int) -> Verdict:
    """By exit codes of shells (128 and the signal) and of torchrun (the signal, below zero)."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        return Verdict("killed", "killed by SIGKILL, and nothing shows by whom: memory, a person, or the system")
    if number == signal.SIGABRT:
        return Verdict("code", "the program aborted itself")
    if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        return Verdict("code", f"the program crashed: {signal.Signals(number).name}", _FALLOUT)
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        return Verdict("killed", f"ended by {signal.Signals(number).name}", _FALLOUT)
    if code in (126, 127):
        return Verdict("config", "a command can't be run" if code == 126 else "a command does not exist")
    return Verdict("unknown", f"exit code {code}")


def last_words(texts: Sequence[LogText]) -> str:
    """The last line of the first log that says something, but for what SLURM and the job's script add."""
    for text in texts:
        lines = text.data[-TAIL_BYTES:].decode(errors="replace").splitlines()
        for line in reversed(lines):
            words = split(line).text.strip()
            if words and not words.startswith(("srun: ", "slurmstepd: ", "oellm-autoexp: ")):
                return words
    return ""
