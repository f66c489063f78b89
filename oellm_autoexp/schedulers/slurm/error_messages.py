"""What the error messages of SLURM's commands mean. Pure; messages as measured on 22.05 and 24.11."""

from __future__ import annotations

import re

from oellm_autoexp.core.errors import (
    InvalidSubmissionError,
    SchedulerError,
    SubmitError,
    TooManyJobsError,
    UnreachableError,
)

_PREFIX = re.compile(r"^(?:sbatch|squeue|sacct|scancel): (?:error: |fatal: )?")
_NOT_CONFIGURED = (
    "Could not establish a configuration source",
    "Unable to process configuration file",
    "command not found",  # a wrapper's shell
)
# After these messages the job may exist all the same (seen with a slurmctld that hung: sbatch printed an error, and the
# job existed once the controller answered again). They are whole phrases: slurm_strerror's for lost connections
# (src/common/slurm_errno.c), the C library's, and ssh's. Single words of them are in refusals, too
# ("--gpus-per-socket option requires --sockets-per-node").
_UNCLEAR = (
    "unable to contact slurm controller",
    "socket timed out on send/recv operation",
    "zero bytes were transmitted or received",
    "message send failure",
    "message receive failure",
    "unexpected message received",
    "unexpected missing socket error",
    "communication connection failure",
    "communication shutdown failure",
    "protocol authentication error",
    "incompatible versions of client and server code",
    "insane message length",
    "i/o stream version number error",
    "header lengths are longer than data received",
    "slurm backup controller in standby mode",
    "controller is in standby mode",
    "transport endpoint is",  # not connected, already connected
    "connection refused",
    "connection reset by",
    "connection timed out",
    "connection aborted",
    "operation timed out",
    "no route to host",
    "network is unreachable",
    "host is down",
    "broken pipe",
    "closed by remote host",
    "not responding.",
)


_REFUSED_BY_SBATCH = 255  # sbatch's own exit code for options that it does not understand
_NO_NODE = "requested node configuration is not available"  # also where all nodes that have it are down
# slurm_strerror's messages for submissions that would be refused later, too.
_INVALID = (
    "invalid partition",
    "invalid account",
    "invalid qos",
    "invalid feature",
    "invalid generic resource",
    "invalid license",
    "invalid wckey",
    _NO_NODE,
    "requested topology configuration is not available",
    "requested time limit is invalid",
    "requested reservation is invalid",
    "access denied to requested reservation",
    "requested nodes not in this partition",
    "invalid node name",
    "invalid preferred feature",
    "node count specification invalid",
    "cpu count specification invalid",
    "more processors requested than permitted",
    "memory required by task is not available",
    "memory specification can not be satisfied",
    "group not permitted to use this partition",
    "batch script",
    "unable to open file",
)


# slurmctld's messages where a limit on the number of jobs is reached: of an association or a QOS (src/slurmctld/
# acct_policy.c), or of the whole cluster (MaxJobCount).
_TOO_MANY = re.compile(
    r"(?:assoc|qos)\w*submit\w*limit|job queue full|unable to accept job|resource temporarily unavailable"
    r"|invalid job array|job array.* too (?:big|large)"
)


def sleeps(stderr: str) -> type[SchedulerError] | None:
    """The error of an sbatch that sleeps before it repeats its request; None if its messages do not say so.

    It repeats the request for two minutes where the queue is full (MaxJobCount).
    """
    return TooManyJobsError if "sleeping and retrying" in stderr else lacks_configuration(stderr)


def lacks_configuration(stderr: str) -> type[SchedulerError] | None:
    """The error of a command that waits for its slurm.conf, for a minute; None if its messages do not say so."""
    return UnreachableError if "cannot stat file" in stderr and "retrying" in stderr else None


def is_unclear(stderr: str) -> bool:
    """Whether the messages say that an answer was lost: SLURM may have done what it was asked for."""
    text = stderr.lower()
    return any(phrase in text for phrase in _UNCLEAR)


_OF_SBATCH = re.compile(r"^(?:\S*/)?sbatch: ", re.MULTILINE)


def refusal(returncode: int, stderr: str) -> tuple[type[SchedulerError], str]:
    """The error that a failed sbatch is reported as, and its message.

    UnreachableError: SLURM was not asked; SubmitError and its subclasses: SLURM refused; SchedulerError: not known.
    """
    words = message(stderr)
    if any(phrase in stderr for phrase in _NOT_CONFIGURED) or returncode == 127:
        return UnreachableError, words
    if returncode < 0 or not stderr.strip():  # killed, or without a message: it may have submitted the job
        return SchedulerError, f"{words} (exit code {returncode})"
    text = stderr.lower()
    # A message that is not sbatch's own (of ssh, of a wrapper that was killed) says nothing about the job.
    if is_unclear(stderr) or not _OF_SBATCH.search(stderr):
        return SchedulerError, words
    if _TOO_MANY.search(text):
        return TooManyJobsError, words
    invalid = returncode == _REFUSED_BY_SBATCH or any(phrase in text for phrase in _INVALID)
    return InvalidSubmissionError if invalid else SubmitError, words


def message(stderr: str) -> str:
    """The error messages on one line; only the fatal one if there is one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if ": fatal: " in line]
    return " ".join(_PREFIX.sub("", line) for line in fatal or lines) or "failed without a message"


def advice(words: str) -> str:
    """What to do about an error of sbatch; '' if its message says enough."""
    hint = "`sinfo -N -l` shows what each node has, `sinfo -R` which of them are down or drained"
    return hint if _NO_NODE in words.lower() else ""


def only_ended_jobs(stderr: str) -> bool:
    """Whether all errors of scancel are about jobs that have ended already."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    ended = ("Invalid job id specified", "already completing or completed")
    return bool(lines) and all(any(text in line for text in ended) for line in lines)


def only_begun_jobs(stderr: str) -> bool:
    """Whether all errors of `scontrol hold` and `release` are about jobs that have begun, or ended, by now."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    begun = ("no longer pending", "Invalid job id specified", "already completing or completed", "already finished")
    return bool(lines) and all(any(text in line for text in begun) for line in lines)


def no_accounting(stderr: str) -> bool:
    """Whether sacct says that this cluster keeps no accounts (AccountingStorageType=accounting_storage/none)."""
    return "accounting storage is disabled" in stderr.lower()


def no_such_field(text: str) -> bool:
    """Whether sacct says that it does not know one of the requested fields."""
    return "invalid field requested" in text.lower()
