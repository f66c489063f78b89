"""SLURM, by its own commands. One squeue per poll; sacct only for what squeue no longer lists."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from oellm_autoexp.core.errors import (
    InvalidSubmissionError,
    MissingCommandError,
    Problem,
    SchedulerError,
    StateError,
    SubmitError,
    UnreachableError,
)
from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Submission, Usage
from oellm_autoexp.core.states import UNKNOWN
from oellm_autoexp.core.text import did_you_mean
from oellm_autoexp.sbatch import known_options
from oellm_autoexp.sbatch.directives import options
from oellm_autoexp.sbatch.environment import SRUN_INPUTS
from oellm_autoexp.sbatch.nodes import node_union
from oellm_autoexp.schedulers import site as sites
from oellm_autoexp.schedulers.base import job_name, outside_jobs, understood
from oellm_autoexp.schedulers.slurm import parse
from oellm_autoexp.storage import trust

_ALL_OF_MINE = ("--me", "-h", "-a", "-t", "all")  # -a: in hidden partitions, too; -t all: those that ended lately, too
_SACCT_WINDOW = "now-30days"
_PER_COMMAND = 500  # ids or names; one argument of a command may have 128 KiB
_FORK_TRIES = 5
_RETRYING_SECONDS = 120.0  # for so long an sbatch goes on trying where the queue is full (MAX_RETRIES in sbatch.c)
_FIRST_SLEEP_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_AROUND_THE_END = timedelta(seconds=5)  # between the end of a job and what SLURM notes of the node that ended it
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._+=@,:%/-]+")
_USUAL_ARRAY_SIZE = 1001  # slurm.conf(5): MaxArraySize
_log = logging.getLogger(__name__)


def _own_groups() -> frozenset[str] | None:
    """The names of this user's groups; None for root, to whom no partition is closed (AllowGroups of slurm.conf)."""
    if os.getuid() == 0:
        return None
    names = set()
    for number in {os.getgid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(number).gr_name)
    return frozenset(names)


class SlurmScheduler:
    """The real commands. `*_cmd` are words, so that a wrapper (`ssh login1 sbatch`) works as well."""

    poll_interval_seconds = 60.0
    longest_poll_interval_seconds = 180.0
    log_lag_seconds = 5.0  # nodes write to shared file systems, which show it here a few seconds later
    native_dependencies = True

    def __init__(
        self,
        submit_cmd: Sequence[str] = ("sbatch",),
        squeue_cmd: Sequence[str] = ("squeue",),
        sacct_cmd: Sequence[str] = ("sacct",),
        cancel_cmd: Sequence[str] = ("scancel",),
        timeout_seconds: float = 60,
        settle_seconds: float = 30,
    ) -> None:
        # An sbatch behind a wrapper (ssh) can't be ended from here: it may submit as long as it tries.
        self.settle_seconds = settle_seconds if len(submit_cmd) == 1 else max(settle_seconds, _RETRYING_SECONDS)
        self._scontrol = beside(squeue_cmd, "scontrol")
        self._sinfo = beside(squeue_cmd, "sinfo")
        self._sacctmgr = beside(squeue_cmd, "sacctmgr")
        self._accounts_tell_failed_node = True
        self._told_no_accounts = False
        self._failed_nodes: dict[tuple[str, str], str] = {}
        self._listed: Mapping[str, parse.Told] = {}
        self._array_size: int | None = None
        self._submit = tuple(submit_cmd)
        self._squeue = tuple(squeue_cmd)
        self._sacct = tuple(sacct_cmd)
        self._cancel = tuple(cancel_cmd)
        self._timeout = timeout_seconds

    def submit(self, submission: Submission) -> str:
        """See Scheduler.submit."""
        if not os.access(submission.work_dir, os.X_OK):
            raise SubmitError(Problem(f"the working directory {submission.work_dir} is gone", submission.name))
        if problems := self._path_problems(submission.script_path):
            raise InvalidSubmissionError(*problems)
        words = [
            *self._submit,
            "--parsable",
            f"--job-name={job_name(submission)}",
            f"--comment={parse.COMMENT_PREFIX}{submission.token}",
        ]
        if submission.array:
            words.append(f"--array={_array(submission)}")
        if submission.dependency:
            # One that can't be fulfilled any more would wait for ever.
            words += [f"--dependency={submission.dependency}", "--kill-on-invalid-dep=yes"]
        words.append(submission.script_path)
        result = self._run(
            words,
            _submission_environment(submission.script_path),
            submission.work_dir,
            ended_if=parse.sleeps if len(self._submit) == 1 else _never,
        )
        job = parse.submitted_id(result.stdout)
        if result.returncode != 0:
            kind, message = parse.refusal(result.returncode, result.stderr)
            if job:  # what failed came after it
                kind = SchedulerError
            hint = _unreachable_hint() if kind is UnreachableError else parse.advice(message)
            raise kind(Problem(f"sbatch: {message}", submission.name, hint))
        if not job:
            raise SchedulerError(Problem(f"sbatch answered {result.stdout.strip()!r}, not a job id", submission.name))
        return job

    def check(self, scripts: Mapping[str, str], *, test: bool = False) -> list[Problem]:
        """See Scheduler.check: options by `sbatch --help`, limits by `scontrol`, and `sbatch --test-only`."""
        known = known_options.OPTIONS | known_options.options_in_help(self._told([*self._submit, "--help"]))
        allowed = self.site()
        problems: list[Problem] = []
        for path, text in scripts.items():
            problems += self._path_problems(path)
            asked = options(text)
            problems += known_options.option_problems(asked, known, path)
            problems += sites.problems({**_told_by_environment(), **asked}, allowed, path)
            problems += self._node_problems(asked, path)
        if test and not problems:
            problems = [problem for path in scripts for problem in self._tested(path)]
        return problems

    def site(self) -> sites.Site:
        """What SLURM tells of the cluster and of this user's accounts; what it can't tell now is left out."""
        commands = {"scontrol": self._scontrol, "sacctmgr": self._sacctmgr, "sinfo": self._sinfo}
        try:
            user = pwd.getpwuid(os.getuid()).pw_name  # $USER may be anything
        except KeyError:
            user = str(os.getuid())
        return sites.read(lambda name, words: self._told([*commands[name], *words]), user, _own_groups())

    def _node_problems(self, asked: Mapping[str, str], path: str) -> list[Problem]:
        """The nodes that a script names and the cluster does not have: sbatch refuses it for them."""
        lists = [asked[key] for key in ("exclude", "nodelist") if asked.get(key) and "/" not in asked[key]]
        if not lists:
            return []
        named = self._told([*self._scontrol, "show", "hostnames", ",".join(lists)]).split()
        known = self._told([*self._sinfo, "-a", "-h", "-N", "-o", "%N"]).split()
        unknown = dict.fromkeys(name for name in named if name not in set(known)) if known else {}
        return [Problem(f"there is no node '{name}'", path, did_you_mean(name, known)) for name in unknown]

    def _path_problems(self, path: str) -> list[Problem]:
        """What keeps a path from sbatch: behind a wrapper (ssh) may be another shell, which would take it apart."""
        if len(self._submit) == 1 or _PLAIN_PATH.fullmatch(path):
            return []
        hint = "a path of letters, digits and . _ - + = @ , : % / alone comes through as it is"
        return [Problem(f"{self._submit[0]} may hand this path to a shell: {path}", "$.project.output_dir", hint)]

    def _told(self, words: Sequence[str]) -> str:
        """What a command says, '' if it can't."""
        try:
            return self._answer(words)
        except SchedulerError as error:
            _log.info("%s", error)
            return ""

    def _tested(self, path: str) -> list[Problem]:
        try:
            result = self._run([*self._submit, "--test-only", path], _submission_environment(path))
        except SchedulerError as error:
            _log.info("%s", error)
            return []
        if result.returncode == 0 or parse.is_unclear(result.stderr):
            return []
        words = parse.message(result.stderr)
        return [Problem(f"sbatch --test-only: {words}", path, parse.advice(words))]

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        """See Scheduler.find: squeue knows every live job and those that ended lately, sacct the older ones."""
        names = {submission.token: job_name(submission) for submission in submissions}
        if not names:
            return {}
        if _sbatch_runs(names):
            raise SchedulerError(Problem("the sbatch of an earlier submission is still at work"))
        lines = self._answer([*self._squeue, *_ALL_OF_MINE, "-o", parse.SQUEUE_TOKEN_FORMAT])
        found = parse.tokens(lines, "@", names)
        # A job that ended before it was eligible is only listed with its state named.
        for states in ((), ("-s", "PD,CA")):
            for some in _chunks([name for token, name in names.items() if token not in found]):
                window = ("-S", _SACCT_WINDOW, "-E", "now", *states)
                lines = self._accounts("--name", ",".join(some), *window, "-o", parse.SACCT_TOKEN_FIELDS)
                found |= parse.tokens(lines, "|", names)
        return found

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.poll. Jobs that only sacct can tell of are UNKNOWN while it does not answer."""
        if not jobs:
            return {}
        self._listed = listed = self._ask_squeue()
        seen = {job: listed[job].status for job, token in jobs.items() if job in listed and listed[job].of(token)}
        missing = {job: token for job, token in jobs.items() if job not in seen}
        present = parse.known(listed.items())
        ever = set(present)
        try:
            # sacct has tasks that never began under their array's id alone, and is late: what squeue lists of an
            # array tells of all of its tasks but those that have begun.
            for some in _chunks(sorted({parse.array_of(job) for job in missing})):
                accounts = parse.sacct(self._accounts("-j", ",".join(some), "-o", parse.SACCT_FIELDS, steps=True))
                for job, token in missing.items():
                    speaks = job in accounts.own or (parse.array_of(job), token) not in present
                    if speaks and (status := accounts.status(job, token)) is not None:
                        seen[job] = understood(status)
                ever |= parse.known(accounts.arrays())
        except SchedulerError as error:
            seen |= dict.fromkeys(jobs.keys() - seen.keys(), JobStatus(UNKNOWN, error.problems[0].what))
        for job, token in missing.items():
            if "_" in job and job not in seen and (parse.array_of(job), token) in ever:
                seen[job] = JobStatus("CANCELLED", NEVER_BEGAN)
        for job, status in seen.items():
            if status.scheduler_state == "NODE_FAIL":
                seen[job] = replace(status, failed_nodes=self._failed_nodes_of(job, jobs[job], status.nodes))
        return seen

    def listed(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        """See Scheduler.listed: squeue tells of all jobs of this user."""
        found = ((job, self._listed.get(job), token) for job, token in jobs.items())
        return {job: told.status for job, told, token in found if told is not None and told.of(token)}

    def _ask_squeue(self) -> dict[str, parse.Told]:
        """The jobs and array tasks in squeue's list, by id: those that live, and those that ended lately."""
        text = self._answer([*self._squeue, *_ALL_OF_MINE, "-r", "-O", parse.SQUEUE_FIELDS])
        try:
            listed = parse.squeue(text)
            return {job: replace(told, status=understood(told.status)) for job, told in listed.items()}
        except ValueError as error:
            raise SchedulerError(Problem(f"squeue: can't understand {error}")) from None

    def _failed_nodes_of(self, job: str, token: str, nodes: str) -> str:
        """The nodes whose failure ended a job, as far as anybody tells. What was once told is kept: nodes come back."""
        if (job, token) not in self._failed_nodes:
            one = nodes and not re.search(r"[,\[]", nodes)
            found = nodes if one else self._told_by_accounts(job) or self._out_of_service(job, nodes)
            if not found:
                return ""
            self._failed_nodes[job, token] = found
        return self._failed_nodes[job, token]

    def _told_by_accounts(self, job: str) -> str:
        if self._accounts_tell_failed_node:
            try:
                return parse.failed_node(self._accounts("-j", job, "-o", parse.SACCT_FAILURE_FIELDS))
            except SchedulerError as error:
                self._accounts_tell_failed_node = not parse.no_such_field(str(error))
                _log.info("%s", error)
        return ""

    def _out_of_service(self, job: str, nodes: str) -> str:
        """Those of a job's nodes that are out of service now, else those that were taken out as the job ended."""
        if nodes and (
            bad := parse.bad_nodes(self._told([*self._sinfo, "-h", "-N", "-n", nodes, "-o", parse.SINFO_FORMAT]))
        ):
            return ",".join(bad)
        try:
            end = parse.job_end(self._accounts("-j", job, "-o", parse.SACCT_END_FIELDS))
        except SchedulerError as error:
            _log.info("%s", error)
            return ""
        if end is None:
            return ""
        begin, last = end[1] - _AROUND_THE_END, end[1] + _AROUND_THE_END
        which = (f"nodes={end[0]}", f"start={begin.isoformat()}", f"format={parse.EVENT_FIELDS}")
        return ",".join(
            parse.fallen_nodes(self._told([*self._sacctmgr, "-n", "-P", "show", "event", *which]), begin, last)
        )

    def max_array_size(self) -> int:
        """See Scheduler.max_array_size: by slurm.conf(5), as the controller tells it."""
        if self._array_size is None:
            with contextlib.suppress(SchedulerError):
                self._array_size = parse.max_array_size(self._answer([*self._scontrol, "show", "config"]))
        return _USUAL_ARRAY_SIZE if self._array_size is None else self._array_size

    def usage(self, jobs: Mapping[str, str]) -> Mapping[str, Sequence[Usage]]:
        """See Scheduler.usage: by accounting, with the runs that a job was requeued from (`-D`)."""
        found: dict[str, list[Usage]] = {}
        for some in _chunks(sorted({parse.array_of(job) for job in jobs})):
            lines = self._accounts("-D", "-j", ",".join(some), "-o", parse.SACCT_USAGE_FIELDS)
            found |= parse.usage(lines, jobs)
        return found

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """See Scheduler.cancel. An id that squeue lists with another token is another job's.

        One that it does not list is cancelled all the same: an answer may be incomplete, and a job that runs on in
        secret would run beside its next attempt.
        """
        ours = [*jobs]
        if any(jobs.values()):
            present = parse.known(self._ask_squeue().items())
            ours = [job for job, token in jobs.items() if (job, token) in present or (job, "") not in present]
        for some in _chunks(sorted(ours)):
            result = self._run([*self._cancel, *some], _query_environment())
            if result.returncode != 0 and not parse.only_ended_jobs(result.stderr):
                raise SchedulerError(Problem(f"scancel: {parse.message(result.stderr)}"))

    def exclude(self, jobs: Mapping[str, str], nodes: Collection[str]) -> None:
        """See Scheduler.exclude: by ExcNodeList of scontrol(1), with what a job excludes already."""
        for job, token in sorted(jobs.items()) if nodes else ():
            told = self._waiting(job, token)
            if not told:
                continue
            present = parse.job_field(told, "ExcNodeList")
            union = node_union(present, nodes)
            if union == present:
                continue
            result = self._run(
                [*self._scontrol, "update", f"jobid={job}", f"ExcNodeList={union}"], _query_environment()
            )
            if result.returncode != 0 and self._waiting(job, token):  # else it has begun just now
                raise SchedulerError(Problem(f"scontrol: {parse.message(result.stderr)}", f"job {job}"))

    def _waiting(self, job: str, token: str) -> str:
        """What scontrol tells of a job that waits in the queue, '' of any other. Raises SchedulerError."""
        result = self._run([*self._scontrol, "show", "job", job], _query_environment())
        if result.returncode != 0 and not parse.only_ended_jobs(result.stderr):
            raise SchedulerError(Problem(f"scontrol: {parse.message(result.stderr)}", f"job {job}"))
        comment, name = parse.job_field(result.stdout, "Comment"), parse.job_field(result.stdout, "JobName")
        own = parse.Told(JobStatus(""), comment, name).of(token)
        return result.stdout if own and parse.job_field(result.stdout, "JobState") == "PENDING" else ""

    def _accounts(self, *words: str, steps: bool = False) -> str:
        """sacct's lines, of steps only if asked for, and none where no accounts are kept. Raises SchedulerError."""
        try:
            result = self._run([*self._sacct, *(() if steps else ("-X",)), "-n", "-P", *words], _query_environment())
        except MissingCommandError as error:
            if not self._told_no_accounts:
                self._told_no_accounts = True
                _log.warning("%s: how jobs ended is known from squeue and from what they leave", error.problems[0].what)
            return ""
        if result.returncode == 0 or parse.no_accounting(result.stderr):
            return result.stdout
        raise SchedulerError(Problem(f"sacct: {parse.message(result.stderr)}"))

    def _answer(self, words: Sequence[str]) -> str:
        """What a command says. Raises SchedulerError if it fails."""
        result = self._run(words, _query_environment())
        if result.returncode != 0:
            raise SchedulerError(Problem(f"{words[0]}: {parse.message(result.stderr)}"))
        return result.stdout

    def _run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        cwd: str | None = None,
        *,
        ended_if: Callable[[str], type[SchedulerError] | None] = parse.lacks_configuration,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, or until its errors say that it sleeps before it tries again (`ended_if`).

        Raises UnreachableError if it can't be started, SchedulerError if it hangs, and what `ended_if` says if it was
        ended in its sleep.
        """
        _log.debug("run %s", words)
        for attempt in range(_FORK_TRIES):
            try:
                return _output(words, environment, cwd, self._timeout, ended_if)
            except BlockingIOError:  # fork: a crowded login node
                time.sleep(0.2 * 2**attempt)
            except subprocess.TimeoutExpired:
                limit = f"no answer within {self._timeout:g} s (slurm.client.timeout_seconds)"
                raise SchedulerError(Problem(f"{words[0]}: {limit}")) from None
            except OSError as error:
                missing = isinstance(error, FileNotFoundError)
                hint = "is SLURM on this machine? slurm=local needs none" if missing else ""
                kind = MissingCommandError if missing else UnreachableError
                raise kind(Problem(f"{words[0]}: {error.strerror}", hint=hint)) from None
        raise UnreachableError(Problem(f"{words[0]}: this machine can't start another process just now"))


def configuration_problem() -> str:
    """What is wrong with the file that $SLURM_CONF names, '' if nothing is or none is named."""
    named = os.environ.get("SLURM_CONF")
    if not named or (os.path.isfile(named) and os.access(named, os.R_OK)):  # noqa: PTH113  it may be any text
        return ""
    if not os.path.lexists(named):
        return f"$SLURM_CONF names a file that is not there: {named}"
    why = "may not be read by you" if os.path.isfile(named) else "is no file"  # noqa: PTH113
    return f"$SLURM_CONF names what {why}: {named}"


CONFIGURATION_HINT = "set it to the cluster's own slurm.conf, or unset it on a login node where SLURM finds that itself"


def _unreachable_hint() -> str:
    """What to do where SLURM's commands do not know of a cluster."""
    problem = configuration_problem()
    return f"{problem}; {CONFIGURATION_HINT}" if problem else ""


def _never(_errors: str) -> None:
    """For a command that a wrapper (ssh) starts elsewhere: ending it here would not end it there."""


def _output(
    words: Sequence[str],
    environment: Mapping[str, str],
    cwd: str | None,
    timeout: float,
    ended_if: Callable[[str], type[SchedulerError] | None],
) -> subprocess.CompletedProcess[str]:
    """Like subprocess.run, in a process group of its own.

    So a Ctrl-C at the terminal does not cut an sbatch in two, and a wrapper that hangs is ended with its children
    (which hold its pipes: subprocess.run would wait for them beyond the timeout).
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
            output, errors = _told_at_the_end(process, Path(words[0]).name, timeout, ended_if)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def _told_at_the_end(
    process: subprocess.Popen[str], name: str, timeout: float, ended_if: Callable[[str], type[SchedulerError] | None]
) -> tuple[str, str]:
    """The output and errors of a process that has ended.

    Raises TimeoutExpired, and the error that `ended_if` names if the process was ended in its sleep.
    """
    deadline = time.monotonic() + timeout
    while True:
        asked = time.monotonic()
        try:
            return process.communicate(timeout=min(_LOOK_SECONDS, max(0, deadline - asked)))
        except subprocess.TimeoutExpired as error:
            said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
            if (kind := ended_if(said)) is not None:
                os.killpg(process.pid, signal.SIGKILL)
                # It had not said so before: that it still slept is sure only if this was quick.
                if time.monotonic() - asked < _FIRST_SLEEP_SECONDS / 2:
                    raise kind(Problem(f"{name}: {parse.message(said)}", hint=_unreachable_hint())) from None
                raise
            if time.monotonic() >= deadline:
                raise


def _sbatch_runs(tokens: Iterable[str]) -> bool:
    """Whether an sbatch with one of these tokens runs on this machine: it outlives a submitter that is killed."""
    marks = [f"{parse.COMMENT_PREFIX}{token}".encode() for token in tokens]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if any(mark in line for mark in marks):
                return True
    return False


def _told_by_environment() -> dict[str, str]:
    """What these variables ask for, by option."""
    return {option: os.environ[name] for name, option in sites.VARIABLES.items() if os.environ.get(name)}


def _submission_environment(script_path: str) -> dict[str, str]:
    """The user's environment for a submission, without what would make another one of it than the script says.

    The job gets it, too (sbatch's --export), and with it what srun would heed there.
    """
    try:
        asked = options(trust.read_script(Path(script_path)))
    except (OSError, StateError):
        asked = {}
    kept = {name for name, option in sites.VARIABLES.items() if option not in asked}
    return {
        name: value
        for name, value in outside_jobs(os.environ).items()
        if name in kept or not (name in SRUN_INPUTS or name.startswith(("SBATCH_", "SRUN_", "SLURM_CLUSTERS")))
    }


def _query_environment() -> dict[str, str]:
    """The environment for questions: English messages, and no variables by which a user narrows or shapes answers."""
    # What a user likes to see must not hide jobs from us, nor make another kind of submission of ours.
    shown = ("SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
    habits = (*shown, "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_CLUSTERS")
    kept = {name: value for name, value in outside_jobs(os.environ).items() if not name.startswith(habits)}
    return {**kept, "LC_ALL": "C"}


def beside(command: Sequence[str], name: str) -> tuple[str, ...]:
    """Another of SLURM's commands, reached as a given one is: `ssh login /opt/slurm/bin/squeue` → `… scontrol`."""
    for index, word in reversed(list(enumerate(command))):
        folder, slash, last = word.rpartition("/")
        if last == "squeue":
            return (*command[:index], f"{folder}{slash}{name}")
    return (name,)


def _array(submission: Submission) -> str:
    limit = f"%{submission.array_limit}" if submission.array_limit else ""
    return ranges(submission.array) + limit


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    return (items[start : start + _PER_COMMAND] for start in range(0, len(items), _PER_COMMAND))
