"""The signal that a job asks for before its end (`--signal`), and how a script passes it to its program. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.sbatch.directives import DIRECTIVE, directive_lines
from oellm_autoexp.sbatch.launch import LAUNCHER_VARIABLE, is_launched_by_srun
from oellm_autoexp.sbatch.options import written_options


@dataclass(frozen=True)
class Signal:
    """What --signal asks for: a signal, so many seconds before the time limit, to the batch shell or to all others."""

    number: int
    seconds: int
    to_batch_shell: bool


# The names are those that sbatch takes, in large or small letters (tried with 22.05).
_SIGNAL = re.compile(
    r"(?:(?P<flags>R|R?B|BR):)?"
    r"(?:(?:SIG)?(?P<name>HUP|INT|QUIT|ABRT|KILL|ALRM|TERM|USR[12]|URG|CONT|STOP|TSTP|TTIN|TTOU|XCPU)|(?P<number>\d{1,9}))"
    r"(?:@(?P<seconds>\d{0,9}))?",
    re.ASCII | re.IGNORECASE,
)
_USUAL_WARNING_SECONDS, _LONGEST_WARNING_SECONDS = 60, 65535


def signal_before_end(lines: Sequence[str]) -> Signal | None:
    """The signal that directives ask for by `--signal=[{R|B}:]<number or name>[@<seconds>]` (sbatch(1)), if any.

    Raises ValueError, with sbatch's message, for what sbatch refuses and for numbers that are no signals.
    """
    named = (line.removeprefix(DIRECTIVE) for line in lines if "--s" in line)  # sbatch takes `--sig` as well
    options = (option for line in named for option in written_options(line))
    found = [_signal(option.value) for option in options if option.key == "signal"]
    return found[-1] if found else None


def _signal(text: str) -> Signal:
    match = _SIGNAL.fullmatch(text)
    if match is not None:
        number = int(match["number"] or signal.Signals[f"SIG{match['name'].upper()}"])
        seconds = _USUAL_WARNING_SECONDS if match["seconds"] is None else int(match["seconds"] or 0)
        if number in signal.valid_signals() and seconds <= _LONGEST_WARNING_SECONDS:
            return Signal(number, seconds, "B" in (match["flags"] or "").upper())
    raise ValueError("Invalid --signal specification")


_NEVER_TRAPPED = (signal.SIGKILL, signal.SIGSTOP)
_KEPT_BY_SRUN = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals that srun does not pass on: it kills its tasks, or prints their state (srun(1), SIGNALS)."""
_FORWARDING = """\
# --signal=B:{signal} is for this shell, which hands it on: bash does so only while it waits for a background process.
autoexp_command=({command})
if [ -n "${{{variable}+set}}" ]; then  # in a terminal, whose input and Ctrl-C are for the program
  "${{autoexp_command[@]}}"
else
  {begin}
  trap 'autoexp_signalled=1; [ -z "$autoexp_child" ] || kill -s {signal} "$autoexp_child"' {signal}
  "${{autoexp_command[@]}}" &
  autoexp_child=$!
  wait "$autoexp_child"
  autoexp_code=$?
  while [ "$autoexp_code" -gt 128 ] && kill -0 "$autoexp_child" 2>/dev/null; do  # a signal has ended the wait
    wait "$autoexp_child"
    autoexp_code=$?
  done
  if [ -n "$autoexp_signalled" ] && [ "$autoexp_code" -gt 128 ]; then  # perhaps the program ended as the signal came
    wait "$autoexp_child" 2>/dev/null
    autoexp_again=$?
    [ "$autoexp_again" -eq 127 ] || autoexp_code=$autoexp_again
  fi
  {end}
  (exit "$autoexp_code")
fi"""


def signal_to_shell(script: str) -> signal.Signals | None:
    """The signal that a script asks for its shell (`--signal=B:…`), if a shell can handle this signal."""
    try:
        asked = signal_before_end(directive_lines(script))
    except ValueError:  # sbatch refuses it
        return None
    if asked is None or not asked.to_batch_shell or asked.number in _NEVER_TRAPPED:
        return None
    return signal.Signals(asked.number)


def forwarding(command: str, asked: signal.Signals | None, *, again: bool = False) -> str:
    """A command with the lines that pass a signal of the script's shell on to it.

    `again`: it may be run more than once. Between two runs the signal is noted, and no run follows (`noting`).
    """
    if asked is None:
        return command
    name = asked.name.removeprefix("SIG")
    begin, end = (
        ("autoexp_child=''", noting(asked)) if again else ("autoexp_child='' autoexp_signalled=''", f"trap - {name}")
    )
    return _FORWARDING.format(signal=name, command=command, variable=LAUNCHER_VARIABLE, begin=begin, end=end)


def noting(asked: signal.Signals) -> str:
    """The line by which the script's shell notes a signal while no command runs that could get it."""
    return f"trap 'autoexp_signalled=1' {asked.name.removeprefix('SIG')}"


def signal_problems(script: str) -> list[Problem]:
    """Why the signal of `--signal=B:…` would end the job and not reach the program.

    A user's own template handles the signal by a trap, or by `exec`, which replaces the shell by the program.
    """
    where = CONFIG / "slurm.sbatch.signal"
    try:
        signal_before_end(directive_lines(script))
    except ValueError as error:
        return [Problem(str(error), where, "write [B:]<signal>[@<seconds, at most 65535>], as in B:USR1@120")]
    asked = signal_to_shell(script)
    if asked is None:
        return []
    name = asked.name.removeprefix("SIG")
    usual = "without B: SLURM sends it directly to the program that srun starts"
    body = [line.strip() for line in script.split("\n") if not line.lstrip().startswith("#")]
    traps = [line for line in body if re.match(r"trap\s", line)]
    if not any(re.search(rf"\b(?:SIG)?{name}\b|\b{int(asked)}\b|\$\{{?\w+\}}?[\"']?$", line) for line in traps):
        if any(re.match(r"exec\s+(?!\d*[<>])", line) for line in body):
            return []
        hint = f"use {{{{run}}}} in the template, as the shipped one does, or trap it there and send it on; {usual}"
        return [
            Problem(f"B:{name} is sent to the script's shell and ends it: the script has no trap for it", where, hint)
        ]
    if is_launched_by_srun(script) and asked in _KEPT_BY_SRUN and "autoexp_signalled" in script:
        what = f"B:{name} would not reach the program: srun does not pass {name} on to its tasks"
        return [Problem(what, where, f"{usual}; or choose USR1 or USR2")]
    return []
