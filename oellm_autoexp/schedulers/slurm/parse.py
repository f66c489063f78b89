"""Reads what squeue, sacct, sbatch and `scontrol show job` print of jobs. Pure; formats of 22.05 and 24.11."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Usage

_AFTER_WORDS = "@+@"
SQUEUE_FIELDS = (
    "JobArrayID:@,State:@,exit_code:@,DerivedEC:@,RestartCnt:@,NodeList:@,BatchHost:@,"
    f"Reason:{_AFTER_WORDS},Comment:{_AFTER_WORDS},Name:@"
)
"""For `squeue -O`. `@` ends a field; `@+@` ends a field that may hold an `@` itself. A shell behind a wrapper (ssh)
leaves both as they are."""
SQUEUE_TOKEN_FORMAT = "%F@%k@%j@%T@%r"  # noqa: S105  a submission's token is no secret
"""For `squeue -o`: id of the job or its array, comment, name, state, reason."""
SACCT_FIELDS = "JobID,State,ExitCode,NodeList,Comment,JobName"
"""Asked for with the lines of steps: only those show whether a step ran out of memory."""
SACCT_USAGE_FIELDS = "JobID,State,ElapsedRaw,AllocTRES,Comment,JobName"
SACCT_TOKEN_FIELDS = "JobID,Comment,JobName,State,NodeList"  # noqa: S105
COMMENT_PREFIX = "autoexp:"


@dataclass(frozen=True)
class JobReport:
    """What a command reports of one job or array task, with the texts that hold the token of its submission."""

    status: JobStatus
    comment: str = ""
    name: str = ""

    def of(self, token: str) -> bool:
        """Whether the job is that of this submission; true for an empty token, which can't be compared."""
        return not token or token in tokens_in(self.comment, self.name)


def squeue(text: str) -> dict[str, JobReport]:
    """Jobs and array tasks by id from `squeue -h -r -O SQUEUE_FIELDS`.

    An array whose tasks were cancelled one by one before they began is listed once more, by its own id.
    Raises ValueError if there is text without any job: that is not the same as an empty queue.
    """
    jobs = {}
    others = []
    for line in text.splitlines():
        fields = line.strip().removesuffix("@").split("@", 7)
        if len(fields) == 8 and _ID.fullmatch(fields[0]):
            job, state, code, steps_code, restarts, nodes, host, words = fields
            reason, comment, name = (*words.split(_AFTER_WORDS, 2), "", "")[:3]
            times = _number(restarts)
            status = replace(
                _status(state, raw_exit_code(code), nodes, reason),
                # SLURM keeps the worst exit code of a step when a job is requeued: it may be that of an earlier run.
                out_of_memory=_is_out_of_memory(steps_code) and not times,
                restarts=times,
                batch_host=host if state == "RUNNING" and host not in NO_NODES else "",
            )
            jobs[job] = JobReport(status, comment, name)
        elif line.strip() and not line.startswith("CLUSTER:"):  # a header where there are several clusters
            others.append(line.strip())
    if others and not jobs:
        raise ValueError(others[0])
    return jobs


def array_of(job: str) -> str:
    """The id of a task's array: `7` for `7_2`; for a job that is no task, its own id."""
    return job.partition("_")[0]


def known(reports: Iterable[tuple[str, JobReport]]) -> set[tuple[str, str]]:
    """The ids of jobs, tasks and their arrays, each with every token that it may have and with the empty one."""
    return {
        (name, token)
        for job, report in reports
        for token in (*tokens_in(report.comment, report.name), "")
        for name in (job, array_of(job))
    }


@dataclass(frozen=True)
class Accounts:
    """What sacct reports: jobs and tasks that have a line of their own; by array, the tasks that never began."""

    own: Mapping[str, JobReport]
    never_begun: Mapping[str, tuple[JobReport, frozenset[int] | None]]
    """With the numbers of the tasks; None where sacct prints only some of the numbers."""

    def status(self, job: str, token: str) -> JobStatus | None:
        """The status of the job of this submission; None if sacct does not report it."""
        report = self.own.get(job)
        if report is None and "_" in job:
            report, tasks = self.never_begun.get(array_of(job), (None, None))
            report = report if tasks is None or _number(job.partition("_")[2]) in tasks else None
        return report.status if report is not None and report.of(token) else None

    def arrays(self) -> Iterator[tuple[str, JobReport]]:
        """The arrays of which sacct reports a task, each with the report of that task."""
        yield from ((array_of(job), report) for job, report in self.own.items() if "_" in job)
        yield from ((array, report) for array, (report, _) in self.never_begun.items())


def sacct(text: str) -> Accounts:
    """Reads the output of `sacct -n -P -o SACCT_FIELDS`, steps included.

    A line `7_[2-5%2]` (or `7_[2,5,...]`, cut short) stands for tasks of array 7 that have no line of their own: those
    that never began. sacct does not list a single task that was cancelled before it began.
    """
    own: dict[str, JobReport] = {}
    never_begun: dict[str, tuple[JobReport, frozenset[int] | None]] = {}
    out_of_memory = set()
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) != 5:
            continue
        job, state, code, nodes, words = fields
        comment, _, name = words.rpartition("|")
        # `CANCELLED` without `by <uid>`: the job never began, or its controller lost its state and slurmdbd ended it.
        unsigned = NEVER_BEGAN if state.strip() == "CANCELLED" else ""
        report = JobReport(replace(_status(state, exit_code(code), nodes), reason=unsigned), comment, name)
        array, bracket, tasks = job.partition("_[")
        if bracket:
            never_begun[array] = (report, _task_numbers(tasks))
        elif "." not in job:
            own[job] = report
        elif report.status.scheduler_state == _OUT_OF_MEMORY:
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
    """Whether a wait status is SLURM's own for a step that ran out of memory (SIG_OOM, 253)."""
    return _number(raw_code.strip()) == 253


def _number(text: str) -> int | None:
    """A number of at most nine digits, None for any other text: SLURM prints no longer numbers."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def job_field(text: str, name: str) -> str:
    """A field in the output of `scontrol show job` (of an array: in its first record); '' if empty or missing."""
    found = re.search(rf"(?:^|\s){name}=(\S*)", text)
    return "" if found is None or found[1] in NO_NODES else found[1]


def usage(text: str, wanted: Mapping[str, str]) -> dict[str, list[Usage]]:
    """What each run of the `wanted` jobs (id → token) used, by `sacct -D -X -n -P -o SACCT_USAGE_FIELDS`.

    A job is left out while sacct reports a run of it that has not ended.
    """
    found: dict[str, list[Usage]] = {}
    open_jobs = set()
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) != 5 or fields[0] not in wanted:
            continue
        job, state, elapsed, allocated, words = fields
        comment, _, name = words.rpartition("|")
        if not JobReport(JobStatus(state), comment, name).of(wanted[job]):
            continue
        seconds = _number(elapsed)
        if state_word(state) in _OPEN or seconds is None:
            open_jobs.add(job)
        else:
            found.setdefault(job, []).append(Usage(float(seconds), _gpus(allocated)))
    return {job: runs for job, runs in found.items() if job not in open_jobs}


_OPEN = frozenset({"PENDING", "RUNNING", "SUSPENDED", "RESIZING"})
"""sacct's states (sacct(1)) of a run that has not ended; a run that was requeued has, and its successor is another
line."""


def _gpus(allocated: str) -> int | None:
    """The GPUs in `billing=8,cpu=8,gres/gpu=4,node=1`; None if the site does not account for them."""
    counts = dict(entry.rpartition("=")[::2] for entry in allocated.split(","))
    typed = [_number(count) for name, count in counts.items() if name.startswith("gres/gpu:")]
    known = [count for count in typed if count is not None]
    all_of_them = _number(counts.get("gres/gpu", ""))
    return all_of_them if all_of_them is not None else sum(known) if known else None


_ID = re.compile(r"[0-9]+(_[0-9]+)?")
NO_NODES = ("None assigned", "(null)", "n/a")


def _status(state: str, code: int | None, nodes: str, reason: str = "") -> JobStatus:
    """squeue and sacct both print the exit code 0 for a job that has none: it runs, or it was cancelled."""
    word = state_word(state)
    known = code if code or word == "COMPLETED" else None
    return JobStatus(word, _reason_of(word, reason), known, "" if nodes in NO_NODES else nodes)


_REASONLESS = frozenset({"RUNNING", "COMPLETING", "COMPLETED"})
_WHY_CANCELLED = frozenset({"DependencyNeverSatisfied", "DeadLine"})


def _reason_of(state: str, reason: str) -> str:
    """Why a job is in its state. squeue still shows why a job was pending after it has begun or was cancelled."""
    stale = state in _REASONLESS or (state == "CANCELLED" and reason not in _WHY_CANCELLED)
    return "" if stale or reason == "None" else reason


def state_word(state: str) -> str:
    """`CANCELLED by 1000` → `CANCELLED`; `RUNNING+` → `RUNNING`."""
    return state.strip().split(" ")[0].rstrip("+")


# Numbers that SLURM shows as a signal though no signal was sent: 53 for a job that could not be launched, 125 (SIG_OOM,
# 253, without its highest bit) for one that was out of memory, 126 (NO_VAL) if nothing is known.
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
    """The id in the last line of `sbatch --parsable` (`id`, or `id;cluster`); '' if there is none.

    A wrapper may print other lines before it.
    """
    last = (text.strip().splitlines() or [""])[-1].partition(";")[0].strip()
    return last if re.fullmatch(r"[0-9]+", last) else ""


_REFUSED = (["FAILED", "BadConstraints"], ["FAILED", "None assigned"])
"""A submission that SLURM refused, as SLURM still lists it for a while: state and reason (squeue), or nodes (sacct)."""


def tokens_in(comment: str, name: str) -> tuple[str, ...]:
    """The words of a comment, and the end of a name, that may be a token: a site may rewrite one of the two."""
    in_comment = (word.removeprefix(COMMENT_PREFIX) for word in comment.split() if word.startswith(COMMENT_PREFIX))
    return (*in_comment, name.rpartition(".")[2])


def tokens(text: str, separator: str, wanted: Collection[str]) -> dict[str, str]:
    """Ids by token from lines `id<separator>comment<separator>name<separator>…`, for the `wanted` tokens.

    A token stands in the comment, behind COMMENT_PREFIX, and at the end of the name, behind a dot (`tokens_in`).
    A submission that SLURM refused is left out, though SLURM still lists it (_REFUSED).
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
