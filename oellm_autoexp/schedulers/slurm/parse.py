"""From the text that SLURM's commands print to facts. Pure; formats as measured on 22.05 and 24.11."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from oellm_autoexp.core.errors import (
    InvalidSubmissionError,
    SchedulerError,
    SubmitError,
    TooManyJobsError,
    UnreachableError,
)
from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Usage

_AFTER_WORDS = "@+@"
SQUEUE_FIELDS = (
    "JobArrayID:@,State:@,exit_code:@,DerivedEC:@,RestartCnt:@,NodeList:@,"
    f"Reason:{_AFTER_WORDS},Comment:{_AFTER_WORDS},Name:@"
)
"""For `squeue -O`. `@` ends a field, `@+@` one that may hold an `@` itself: that means nothing to a shell, to which a
wrapper (ssh) may hand it."""
SQUEUE_TOKEN_FORMAT = "%F@%k@%j@%T@%r"  # noqa: S105  a submission's token is no secret
"""For `squeue -o`: id of the job or its array, comment, name, state, reason."""
SACCT_FIELDS = "JobID,State,ExitCode,NodeList,Comment,JobName"
"""With the lines of steps, too, of which some may have run out of memory."""
SACCT_FAILURE_FIELDS = "JobID,FailedNode"
"""FailedNode is not known to every SLURM (22.05 has none)."""
SACCT_END_FIELDS = "JobID,NodeList,End"
SINFO_FORMAT = "%N %T"
EVENT_FIELDS = "NodeName,TimeStart"
"""For `sacctmgr show event`: when nodes went out of service."""
SACCT_USAGE_FIELDS = "JobID,State,ElapsedRaw,AllocTRES,Comment,JobName"
SACCT_TOKEN_FIELDS = "JobID,Comment,JobName,State,NodeList"  # noqa: S105
COMMENT_PREFIX = "autoexp:"


@dataclass(frozen=True)
class Told:
    """What a command tells of one job or array task, with the words by which the submission is known."""

    status: JobStatus
    comment: str = ""
    name: str = ""

    def of(self, token: str) -> bool:
        """Whether it is the job of this submission; an empty token can't be compared."""
        return not token or token in tokens_in(self.comment, self.name)


def squeue(text: str) -> dict[str, Told]:
    """Jobs and array tasks by id from `squeue -h -r -O SQUEUE_FIELDS`.

    An array whose tasks were cancelled one by one before they began is listed once more, by its own id.
    Raises ValueError if there is text, but not a job in it: that is not the same as no jobs.
    """
    jobs = {}
    others = []
    for line in text.splitlines():
        fields = line.strip().removesuffix("@").split("@", 6)
        if len(fields) == 7 and _ID.fullmatch(fields[0]):
            job, state, code, steps_code, restarts, nodes, words = fields
            reason, comment, name = (*words.split(_AFTER_WORDS, 2), "", "")[:3]
            times = _number(restarts)
            status = replace(
                _status(state, raw_exit_code(code), nodes, reason),
                # The worst code of a step is kept when a job is requeued: it may be an earlier run's.
                out_of_memory=_is_out_of_memory(steps_code) and not times,
                restarts=times,
            )
            jobs[job] = Told(status, comment, name)
        elif line.strip() and not line.startswith("CLUSTER:"):  # a header where there are several clusters
            others.append(line.strip())
    if others and not jobs:
        raise ValueError(others[0])
    return jobs


def array_of(job: str) -> str:
    """`7` for `7_2`; a job that is no task is its own."""
    return job.partition("_")[0]


def known(told: Iterable[tuple[str, Told]]) -> set[tuple[str, str]]:
    """The ids of jobs, tasks and their arrays, each with the tokens that it may have, the empty one included."""
    return {
        (name, token)
        for job, each in told
        for token in (*tokens_in(each.comment, each.name), "")
        for name in (job, array_of(job))
    }


@dataclass(frozen=True)
class Accounts:
    """What sacct tells: of jobs and tasks that have a line of their own, and of tasks that never began, by array."""

    own: Mapping[str, Told]
    never_begun: Mapping[str, tuple[Told, frozenset[int] | None]]
    """With the numbers of the tasks; None where sacct cuts them short."""

    def status(self, job: str, token: str) -> JobStatus | None:
        """What is told of the job of this submission, if anything is."""
        told = self.own.get(job)
        if told is None and "_" in job:
            told, tasks = self.never_begun.get(array_of(job), (None, None))
            told = told if tasks is None or _number(job.partition("_")[2]) in tasks else None
        return told.status if told is not None and told.of(token) else None

    def arrays(self) -> Iterator[tuple[str, Told]]:
        """The arrays of which some task is told of, with what is told of it."""
        yield from ((array_of(job), told) for job, told in self.own.items() if "_" in job)
        yield from ((array, told) for array, (told, _) in self.never_begun.items())


def sacct(text: str) -> Accounts:
    """What `sacct -n -P -o SACCT_FIELDS` tells, steps included.

    A line `7_[2-5%2]` (or `7_[2,5,...]`, cut short) speaks for tasks of array 7 that have none of their own: those that
    never began. A task that was cancelled by itself before it began is not listed.
    """
    own: dict[str, Told] = {}
    never_begun: dict[str, tuple[Told, frozenset[int] | None]] = {}
    out_of_memory = set()
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) != 5:
            continue
        job, state, code, nodes, words = fields
        comment, _, name = words.rpartition("|")
        # `CANCELLED` without `by <uid>`: it never began, or slurmdbd has ended it for a controller that lost its state.
        unsigned = NEVER_BEGAN if state.strip() == "CANCELLED" else ""
        told = Told(replace(_status(state, exit_code(code), nodes), reason=unsigned), comment, name)
        array, bracket, tasks = job.partition("_[")
        if bracket:
            never_begun[array] = (told, _task_numbers(tasks))
        elif "." not in job:
            own[job] = told
        elif told.status.scheduler_state == _OUT_OF_MEMORY:
            out_of_memory.add(job.partition(".")[0])
    for job in out_of_memory & own.keys():
        own[job] = replace(own[job], status=replace(own[job].status, out_of_memory=True))
    return Accounts(own, never_begun)


def _task_numbers(text: str) -> frozenset[int] | None:
    """The numbers in `0-1,3%2]`; None where not all of them are there."""
    found: set[int] = set()
    for part in text.removesuffix("]").partition("%")[0].split(","):
        match = _TASKS.fullmatch(part)
        if match is None or int(match[2] or match[1]) > _MOST_TASK_NUMBER:
            return None
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1) or 1))
    return frozenset(found)


_TASKS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?(?::([0-9]{1,9}))?")
_MOST_TASK_NUMBER = 4_000_000  # slurm.conf(5): the most that MaxArraySize may be is 4000001
_OUT_OF_MEMORY = "OUT_OF_MEMORY"


def _is_out_of_memory(raw_code: str) -> bool:
    """Whether a wait status is the one that SLURM gives to what ran out of memory (SIG_OOM, 253)."""
    return _number(raw_code.strip()) == 253


def _number(text: str) -> int | None:
    """A number of at most nine digits, None for any other text: none that SLURM prints has more."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def failed_node(text: str) -> str:
    """The node whose failure ended a job, by `sacct -X -n -P -o SACCT_FAILURE_FIELDS`; '' if it tells none."""
    named = [line.partition("|")[2].strip() for line in text.splitlines()]
    return next((node for node in reversed(named) if node and node not in _NO_NODES and node != "None"), "")


def no_such_field(said: str) -> bool:
    """Whether sacct says that it does not know a field that it was asked for."""
    return "invalid field requested" in said.lower()


def bad_nodes(text: str) -> list[str]:
    """The nodes out of service in `sinfo -h -N -o SINFO_FORMAT`: down, drained, failing, or silent (`idle*`)."""
    lines = (line.split() for line in text.splitlines())
    return list(dict.fromkeys(words[0] for words in lines if len(words) == 2 and _BAD.match(words[1].lower())))


_BAD = re.compile(r"down|drain|fail|error|unknown|not_responding|inval|[a-z]+\*")


def job_end(text: str) -> tuple[str, datetime] | None:
    """A job's nodes, and when its last run ended (in SLURM's local time), by `sacct -X -n -P -o SACCT_END_FIELDS`."""
    for line in reversed(text.splitlines()):
        _, _, rest = line.partition("|")
        nodes, _, ended = rest.rpartition("|")
        with contextlib.suppress(ValueError):
            return nodes, _local_time(ended)
    return None


def _local_time(text: str) -> datetime:
    """A time as SLURM shows it: local, without a zone. Raises ValueError."""
    time = datetime.fromisoformat(text.strip())
    if time.tzinfo is not None:
        raise ValueError("SLURM shows no zones")
    return time


def fallen_nodes(text: str, earliest: datetime, latest: datetime) -> list[str]:
    """The nodes that went out of service between two times, by `sacctmgr -n -P show event format=EVENT_FIELDS`."""
    found = []
    for line in text.splitlines():
        node, _, began = line.partition("|")
        with contextlib.suppress(ValueError):
            if node and earliest <= _local_time(began) <= latest:
                found.append(node)
    return list(dict.fromkeys(found))


def job_field(text: str, name: str) -> str:
    """A field of what `scontrol show job` prints of one job (of an array: of its first record); '' if it has none."""
    found = re.search(rf"(?:^|\s){name}=(\S*)", text)
    return "" if found is None or found[1] in _NO_NODES else found[1]


def usage(text: str, wanted: Mapping[str, str]) -> dict[str, list[Usage]]:
    """What each run of the `wanted` jobs (id → token) used, by `sacct -D -X -n -P -o SACCT_USAGE_FIELDS`.

    Jobs of which a run has not ended yet, or not yet in the accounts, are left out.
    """
    found: dict[str, list[Usage]] = {}
    open_jobs = set()
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) != 5 or fields[0] not in wanted:
            continue
        job, state, elapsed, allocated, words = fields
        comment, _, name = words.rpartition("|")
        if not Told(JobStatus(state), comment, name).of(wanted[job]):
            continue
        seconds = _number(elapsed)
        if state_word(state) in _OPEN or seconds is None:
            open_jobs.add(job)
        else:
            found.setdefault(job, []).append(Usage(float(seconds), _gpus(allocated)))
    return {job: runs for job, runs in found.items() if job not in open_jobs}


_OPEN = frozenset({"PENDING", "RUNNING", "SUSPENDED", "RESIZING"})
"""sacct's states (sacct(1)) of a run that goes on; a run that was requeued is over, its successor is another line."""


def _gpus(allocated: str) -> int | None:
    """The GPUs in `billing=8,cpu=8,gres/gpu=4,node=1`; None if the site does not account for them."""
    counts = dict(entry.rpartition("=")[::2] for entry in allocated.split(","))
    typed = [_number(count) for name, count in counts.items() if name.startswith("gres/gpu:")]
    known = [count for count in typed if count is not None]
    all_of_them = _number(counts.get("gres/gpu", ""))
    return all_of_them if all_of_them is not None else sum(known) if known else None


def max_array_size(text: str) -> int | None:
    """The most tasks of an array in what `scontrol show config` prints.

    MaxArraySize, or max_array_tasks of SchedulerParameters, where that is less (slurm.conf(5)).
    """
    size = re.search(r"^MaxArraySize\s*=\s*([0-9]{1,9})$", text, re.MULTILINE)
    tasks = re.search(r"^SchedulerParameters\s*=(?:.*,)?\s*max_array_tasks=([0-9]{1,9})\b", text, re.MULTILINE)
    found = [int(limit[1]) for limit in (size, tasks) if limit]
    return min(found) if found else None


_ID = re.compile(r"[0-9]+(_[0-9]+)?")
_NO_NODES = ("None assigned", "(null)", "n/a")


def _status(state: str, code: int | None, nodes: str, reason: str = "") -> JobStatus:
    """Both commands say 0 for a job that has no exit code: it runs, or was ended by others."""
    word = state_word(state)
    known = code if code or word == "COMPLETED" else None
    return JobStatus(word, _reason_of(word, reason), known, "" if nodes in _NO_NODES else nodes)


_REASONLESS = frozenset({"RUNNING", "COMPLETING", "COMPLETED"})
_WHY_CANCELLED = frozenset({"DependencyNeverSatisfied", "DeadLine"})


def _reason_of(state: str, reason: str) -> str:
    """Why a job is in its state: squeue goes on to show why it was pending when it runs, or was cancelled."""
    stale = state in _REASONLESS or (state == "CANCELLED" and reason not in _WHY_CANCELLED)
    return "" if stale or reason == "None" else reason


def state_word(state: str) -> str:
    """`CANCELLED by 1000` → `CANCELLED`; `RUNNING+` → `RUNNING`."""
    return state.strip().split(" ")[0].rstrip("+")


# What SLURM shows as a signal where there was none: 53 when a job could not be launched, 125 (SIG_OOM, 253, without its
# highest bit) when it was out of memory, 126 when nothing is known (NO_VAL).
_NO_SIGNALS = (53, 125, 126)


def _shell_code(code: int, signal: int) -> int | None:
    if signal in _NO_SIGNALS:
        return None
    return 128 + signal if signal else code


def exit_code(text: str) -> int | None:
    """sacct's `code:signal` as a shell's exit code: `7:0` → 7, `0:9` → 137; None if it is none.

    sacct takes 128 off an exit code of 128 or more (`exit 130` → `2:0`), so a code from there may be too small.
    """
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text.strip())
    return None if match is None else _shell_code(int(match[1]), int(match[2]))


def raw_exit_code(text: str) -> int | None:
    """A wait status (squeue's exit_code: `65280`) as a shell's exit code; None if it is none."""
    code = _number(text.strip())
    return None if code is None or code > 0xFFFF else _shell_code(code >> 8, code & 0x7F)


def submitted_id(text: str) -> str:
    """The id that `sbatch --parsable` prints last (`id`, or `id;cluster`), after what a wrapper may say; else ''."""
    last = (text.strip().splitlines() or [""])[-1].partition(";")[0].strip()
    return last if re.fullmatch(r"[0-9]+", last) else ""


_REFUSED = (["FAILED", "BadConstraints"], ["FAILED", "None assigned"])
"""What SLURM keeps for a while of a submission that it refused: state and, by squeue, reason; by sacct, nodes."""


def tokens_in(comment: str, name: str) -> tuple[str, ...]:
    """What may be a token in a comment and at the end of a name: a site may rewrite one of the two."""
    said = (word.removeprefix(COMMENT_PREFIX) for word in comment.split() if word.startswith(COMMENT_PREFIX))
    return (*said, name.rpartition(".")[2])


def tokens(text: str, separator: str, wanted: Collection[str]) -> dict[str, str]:
    """Ids by token from lines `id<separator>comment<separator>name<separator>…`, for the `wanted` tokens.

    A token stands in the comment, behind COMMENT_PREFIX, and at the end of the name, behind a dot (`tokens_in`). A
    submission that SLURM refused is none, though it keeps it for a while (_REFUSED).
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        fields = line.strip().split(separator)
        job = fields[0].split("_")[0]
        if len(fields) >= 3 and _ID.fullmatch(job) and fields[3:] not in _REFUSED:
            for token in tokens_in(fields[1], fields[2]):
                if token in wanted:
                    found.setdefault(token, job)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Errors

_PREFIX = re.compile(r"^(?:sbatch|squeue|sacct|scancel): (?:error: |fatal: )?")
_NOT_CONFIGURED = (
    "Could not establish a configuration source",
    "Unable to process configuration file",
    "command not found",  # a wrapper's shell
)
# After these the controller may have created the job all the same (seen with a hung slurmctld: sbatch said error, the
# job existed once the controller went on). Whole phrases: slurm_strerror's for lost connections (src/common/
# slurm_errno.c), the C library's, and ssh's. Single words stand in refusals, too ("--gpus-per-socket option requires
# --sockets-per-node").
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


_CLIENT_SAYS_NO = 255  # sbatch's own exit code for options that it does not understand
_NO_NODE = "requested node configuration is not available"  # also where all that have it are down
# slurm_strerror's words for what no waiting mends.
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


# slurmctld's words for submissions that a limit on their number refuses: of an association or a QOS (src/slurmctld/
# acct_policy.c), of the whole cluster (MaxJobCount).
_TOO_MANY = re.compile(
    r"(?:assoc|qos)\w*submit\w*limit|job queue full|unable to accept job|resource temporarily unavailable"
    r"|invalid job array|job array.* too (?:big|large)"
)


def sleeps(stderr: str) -> type[SchedulerError] | None:
    """The error of an sbatch that says that it tries again and again; None if it does not say so.

    It does for two minutes where the queue is full (MaxJobCount).
    """
    return TooManyJobsError if "sleeping and retrying" in stderr else lacks_configuration(stderr)


def lacks_configuration(stderr: str) -> type[SchedulerError] | None:
    """The error of a command that waits for its slurm.conf, which it does for a minute; None if it does not say so."""
    return UnreachableError if "cannot stat file" in stderr and "retrying" in stderr else None


def is_unclear(stderr: str) -> bool:
    """Whether an error text says that an answer was lost."""
    said = stderr.lower()
    return any(text in said for text in _UNCLEAR)


_OF_SBATCH = re.compile(r"^(?:\S*/)?sbatch: ", re.MULTILINE)


def refusal(returncode: int, stderr: str) -> tuple[type[SchedulerError], str]:
    """What it means that sbatch failed, and its words: surely refused, surely never asked, or nobody knows."""
    words = message(stderr)
    if any(text in stderr for text in _NOT_CONFIGURED) or returncode == 127:
        return UnreachableError, words
    if returncode < 0 or not stderr.strip():  # killed, or silent: it may have come far enough
        return SchedulerError, f"{words} (exit code {returncode})"
    said = stderr.lower()
    # What sbatch did not say itself (an ssh, a wrapper that died) says nothing about the job.
    if is_unclear(stderr) or not _OF_SBATCH.search(stderr):
        return SchedulerError, words
    if _TOO_MANY.search(said):
        return TooManyJobsError, words
    invalid = returncode == _CLIENT_SAYS_NO or any(text in said for text in _INVALID)
    return InvalidSubmissionError if invalid else SubmitError, words


def message(stderr: str) -> str:
    """The words of an error text on one line; of a fatal error, only what it was."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if ": fatal: " in line]
    return " ".join(_PREFIX.sub("", line) for line in fatal or lines) or "failed without a message"


def advice(words: str) -> str:
    """What to do about an error of sbatch, where its words do not say it."""
    hint = "`sinfo -N -l` shows what each node has, `sinfo -R` which are down or drained"
    return hint if _NO_NODE in words.lower() else ""


def only_ended_jobs(stderr: str) -> bool:
    """Whether scancel complains of nothing but jobs that have ended already."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    ended = ("Invalid job id specified", "already completing or completed")
    return bool(lines) and all(any(text in line for text in ended) for line in lines)


def no_accounting(stderr: str) -> bool:
    """Whether sacct says that this cluster keeps no accounts (AccountingStorageType=accounting_storage/none)."""
    return "accounting storage is disabled" in stderr.lower()
