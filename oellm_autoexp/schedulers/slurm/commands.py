"""Runs SLURM's commands: with a time limit, English messages, and without what a user has set to shape their output."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from oellm_autoexp.core.errors import MissingCommandError, Problem, SchedulerError, UnreachableError
from oellm_autoexp.schedulers.base import outside_jobs
from oellm_autoexp.schedulers.slurm.error_messages import lacks_configuration, message, no_accounting

CONFIGURATION_HINT = "set it to the cluster's own slurm.conf, or unset it on a login node where SLURM finds that itself"
_PER_COMMAND = 500  # ids or names; one argument of a command may have 128 KiB
_FORK_TRIES = 5
_CHECK_SECONDS = 0.1
_FIRST_SLEEP_SECONDS = 1.0  # the shortest time for which a command sleeps before it tries again
_log = logging.getLogger(__name__)

Retries = Callable[[str], type[SchedulerError] | None]
"""Says of the errors of a command so far whether the command sleeps before it tries again: the error to raise if so."""


class Commands:
    """The commands as words, so that a wrapper (`ssh login1 sbatch`) works as well."""

    def __init__(
        self,
        sbatch: Sequence[str],
        squeue: Sequence[str],
        sacct: Sequence[str],
        scancel: Sequence[str],
        timeout_seconds: float,
    ) -> None:
        self.sbatch = tuple(sbatch)
        self.squeue = tuple(squeue)
        self.scancel = tuple(scancel)
        self.scontrol = beside(squeue, "scontrol")
        self.sinfo = beside(squeue, "sinfo")
        self.sacctmgr = beside(squeue, "sacctmgr")
        self._sacct = tuple(sacct)
        self._timeout = timeout_seconds
        self._warned_of_no_accounts = False

    @property
    def sbatch_is_wrapped(self) -> bool:
        """Whether another program (ssh) starts sbatch: ending that program does not end sbatch."""
        return len(self.sbatch) > 1

    def output(self, words: Sequence[str]) -> str:
        """What a command prints. Raises SchedulerError if it fails."""
        result = self.run(words)
        if result.returncode != 0:
            raise SchedulerError(Problem(f"{words[0]}: {message(result.stderr)}"))
        return result.stdout

    def output_or_nothing(self, words: Sequence[str]) -> str:
        """What a command prints; '' if it fails."""
        try:
            return self.output(words)
        except SchedulerError as error:
            _log.info("%s", error)
            return ""

    def accounts(self, *words: str, steps: bool = False) -> str:
        """The lines of sacct, those of steps only if asked for; none where SLURM keeps no accounts.

        Raises SchedulerError.
        """
        try:
            result = self.run([*self._sacct, *(() if steps else ("-X",)), "-n", "-P", *words])
        except MissingCommandError as error:
            if not self._warned_of_no_accounts:
                self._warned_of_no_accounts = True
                _log.warning(
                    "%s: without sacct, the end of a job is known only from squeue and the job's own files",
                    error.problems[0].what,
                )
            return ""
        if result.returncode == 0 or no_accounting(result.stderr):
            return result.stdout
        raise SchedulerError(Problem(f"sacct: {message(result.stderr)}"))

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
        *,
        retries: Retries = lacks_configuration,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command until it ends. One that sleeps before it tries again is killed, as `retries` says.

        `environment` is that of queries by default. Raises UnreachableError if the command can't be started,
        SchedulerError if it exceeds the time limit, and the error that `retries` names.
        """
        _log.debug("run %s", words)
        environment = _query_environment() if environment is None else environment
        for attempt in range(_FORK_TRIES):
            try:
                return _completed(words, environment, cwd, self._timeout, retries)
            except BlockingIOError:  # fork: this login node runs too many processes
                time.sleep(0.2 * 2**attempt)
            except subprocess.TimeoutExpired:
                limit = f"no answer within {self._timeout:g} s (slurm.client.timeout_seconds)"
                raise SchedulerError(Problem(f"{words[0]}: {limit}")) from None
            except OSError as error:
                missing = isinstance(error, FileNotFoundError)
                hint = "SLURM is not installed here, or not in PATH; slurm=local needs none" if missing else ""
                kind = MissingCommandError if missing else UnreachableError
                raise kind(Problem(f"{words[0]}: {error.strerror}", hint=hint)) from None
        raise UnreachableError(Problem(f"{words[0]}: this machine can't start another process just now"))


def beside(command: Sequence[str], name: str) -> tuple[str, ...]:
    """Another of SLURM's commands, called as the given one is: `ssh login /opt/slurm/bin/squeue` → `… scontrol`."""
    for index, word in reversed(list(enumerate(command))):
        folder, slash, last = word.rpartition("/")
        if last == "squeue":
            return (*command[:index], f"{folder}{slash}{name}")
    return (name,)


def chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    """Ids or names in parts of which each fits into one call of a command."""
    return (items[start : start + _PER_COMMAND] for start in range(0, len(items), _PER_COMMAND))


def configuration_problem() -> str:
    """What is wrong with the file that $SLURM_CONF names; '' if nothing is, or if the variable is not set."""
    named = os.environ.get("SLURM_CONF")
    if not named or (os.path.isfile(named) and os.access(named, os.R_OK)):  # noqa: PTH113  it may be any text
        return ""
    if not os.path.lexists(named):
        return f"$SLURM_CONF names a file that is not there: {named}"
    why = "can't be read" if os.path.isfile(named) else "is not a file"  # noqa: PTH113
    return f"$SLURM_CONF names a path that {why}: {named}"


def unreachable_hint() -> str:
    """What to do where SLURM's commands find no configuration of a cluster."""
    problem = configuration_problem()
    return f"{problem}; {CONFIGURATION_HINT}" if problem else ""


def _query_environment() -> dict[str, str]:
    """The environment of queries: English messages, and no variables by which a user filters or formats output."""
    # The formats that a user prefers must not hide jobs, nor change what our submissions ask for.
    shown = ("SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
    habits = (*shown, "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_CLUSTERS")
    kept = {name: value for name, value in outside_jobs(os.environ).items() if not name.startswith(habits)}
    return {**kept, "LC_ALL": "C"}


def _completed(
    words: Sequence[str], environment: Mapping[str, str], cwd: str | None, timeout: float, retries: Retries
) -> subprocess.CompletedProcess[str]:
    """Like subprocess.run, in a process group of its own.

    So Ctrl-C at the terminal does not kill an sbatch in the middle of a submission, and a wrapper that exceeds the
    time limit is killed with its children (which hold its pipes: subprocess.run would wait for them beyond the limit).
    """
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment,
        cwd=cwd,
        process_group=0,
    ) as process:
        try:
            output, errors = _communicate(process, Path(words[0]).name, timeout, retries)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def _communicate(process: subprocess.Popen[str], name: str, timeout: float, retries: Retries) -> tuple[str, str]:
    """The output and errors of a process that has ended.

    Raises TimeoutExpired, and the error that `retries` names if the process was killed while it slept.
    """
    deadline = time.monotonic() + timeout
    while True:
        checked_at = time.monotonic()
        try:
            return process.communicate(timeout=min(_CHECK_SECONDS, max(0, deadline - checked_at)))
        except subprocess.TimeoutExpired as error:
            printed = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
            if (kind := retries(printed)) is not None:
                os.killpg(process.pid, signal.SIGKILL)
                # The message was not there at the last check; the process surely still slept if it was killed at once.
                if time.monotonic() - checked_at < _FIRST_SLEEP_SECONDS / 2:
                    raise kind(Problem(f"{name}: {message(printed)}", hint=unreachable_hint())) from None
                raise
            if time.monotonic() >= deadline:
                raise
