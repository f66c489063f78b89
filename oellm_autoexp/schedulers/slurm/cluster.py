"""What a user finds on a cluster before the first job: SLURM, limits, programs, variables, and the output root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oellm_autoexp.sbatch.times import format_time
from oellm_autoexp.schedulers.site import Partition, Site
from oellm_autoexp.storage.files import room_hint

OK, WARNING, FAILED = "ok", "warning", "failed"
_TIMEOUT_SECONDS = 30
_PROBE_BYTES = 1 << 20
_FEW_BYTES, _FEW_INODES = 10 << 30, 10_000
_OF_ONE_MACHINE = ("tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay")
_QUOTA = {"lustre": ("lfs", "quota", "-q", "-u", "{user}", "{root}"), "gpfs": ("mmlsquota", "-u", "{user}")}
_WRITABLE_HINT = "export OUTPUT_DIR=/a/folder/that/you/can/write/to"
_SHOWN = 300  # characters of what a program says
VARIABLES = {
    "OUTPUT_DIR": "output root; without it ./outputs",
    "DATA_DIR": "tokenized corpora (backend/megatron/data)",
    "HF_HOME": "models, tokenizers and data sets of Hugging Face; without it ~/.cache/huggingface",
    "CONTAINER_CACHE_DIR": "images of containers",
    "PROJECT_DIR": "",
}
"""The mission's folders: what each is for; '' for one that nobody needs."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and for what is not well, what to do."""

    topic: str
    verdict: str
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Answer:
    """How a program ended, and what it said; code None: it is not here, or did not end in time."""

    code: int | None
    output: str
    error: str = ""
    timed_out: bool = False

    @property
    def first_error(self) -> str:
        """The first line of what it said is wrong."""
        return (f"{self.error}\n{self.output}".strip().splitlines() or [f"exit code {self.code}"])[0][:_SHOWN]


Ask = Callable[[Sequence[str]], Answer]


def ask(words: Sequence[str]) -> Answer:
    """Run a program to its end, with English messages. Never raises."""
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"{words[0]} did not answer within {_TIMEOUT_SECONDS} s", timed_out=True)
    except OSError as error:
        return Answer(None, "", f"{words[0]}: {error.strerror}")
    return Answer(done.returncode, done.stdout, done.stderr)


def controller(ask: Ask, commands: Callable[[str], Sequence[str]]) -> list[Finding]:
    """Whether SLURM is here and its controller answers; the last finding says so."""
    version = ask([*commands("sinfo"), "--version"])
    if version.timed_out:
        return [Finding("SLURM", FAILED, version.first_error, "wait, or ask the site")]
    if version.code is None:
        hint = "log in to a login node of the cluster"
        return [Finding("SLURM", FAILED, f"its commands are not here: {version.first_error}", hint)]
    if version.code:
        return [Finding("SLURM", FAILED, version.first_error, "log in to a login node of the cluster")]
    found = [Finding("SLURM", OK, version.output.strip())]
    ping = ask([*commands("scontrol"), "ping"])
    if ping.code or " UP" not in ping.output:
        hint = "wait, or ask the site: no job can be submitted now"
        return [*found, Finding("controller", FAILED, f"slurmctld does not answer: {ping.first_error}", hint)]
    return [*found, Finding("controller", OK, ping.output.strip().splitlines()[0])]


def accounting(ask: Ask, commands: Callable[[str], Sequence[str]]) -> Finding:
    """Whether SLURM keeps accounts of jobs that have ended, and shows them now."""
    settings = ask([*commands("scontrol"), "show", "config"]).output
    kind = re.search(r"^AccountingStorageType\s*=\s*(\S+)", settings, re.MULTILINE)
    if kind and kind[1].endswith(("/none", "(null)")):  # so in 24.11
        text = "off: SLURM forgets an ended job after some minutes (its files show how it ended) and reports no usage"
        return Finding("accounting", WARNING, text)
    answer = ask([*commands("sacctmgr"), "-n", "-P", "show", "cluster", "format=Cluster"])
    if answer.code:
        hint = "jobs still run; their end is reported late"
        return Finding("accounting", FAILED, f"slurmdbd does not answer: {answer.first_error}", hint)
    return Finding("accounting", OK, f"cluster {', '.join(answer.output.split()) or '(no name)'}")


def partitions(site: Site) -> list[Finding]:
    """The partitions with their limits, and the user's accounts."""
    found = [_partition(partition) for partition in site.partitions.values()]
    for account in site.accounts:
        qos = sorted({name for each in site.associations if each.account == account for name in each.qos})
        usual = " (default)" if account == site.default_account else ""
        found.append(Finding("account", OK, f"{account}{usual}" + (f", QOS {', '.join(qos)}" if qos else "")))
    return found


def _partition(partition: Partition) -> Finding:
    if partition.state == "UP":
        return Finding("partition", OK, _described(partition))
    what = "jobs wait in it until it is up" if partition.state == "DOWN" else "it accepts no jobs"
    return Finding("partition", WARNING, f"{_described(partition)}; it is {partition.state}: {what}")


def _described(partition: Partition) -> str:
    time = "no time limit known" if partition.max_seconds is None else f"up to {format_time(partition.max_seconds)}"
    nodes = "" if partition.max_nodes is None else f", {partition.max_nodes} nodes"
    return f"{partition.name}{' (default)' if partition.default else ''}: {time}{nodes}"


def runtimes(ask: Ask, commands: Callable[[str], Sequence[str]] | None) -> list[Finding]:
    """The container runtimes: Apptainer or Singularity by themselves, Pyxis by srun's options, if that can be asked."""
    found = []
    for program in ("apptainer", "singularity"):
        answer = ask([program, "--version"])
        if answer.code == 0:
            found.append(Finding("containers", OK, f"{program}: {answer.output.strip()[:_SHOWN]}"))
    if commands and "--container-image" in ask([*commands("srun"), "--help"]).output:
        found.append(Finding("containers", OK, "srun takes --container-image (Pyxis)"))
    hint = "where the site has one in a module, load it: module avail apptainer singularity"
    return found or [Finding("containers", WARNING, "no runtime here: jobs run on the host", hint)]


def variables(environment: Mapping[str, str]) -> list[Finding]:
    """The variables that name folders: set, and there."""
    found = []
    for name, purpose in VARIABLES.items():
        value = environment.get(name)
        if not value and purpose:
            found.append(Finding(name, WARNING, f"not set ({purpose})", f"export {name}=/path/of/a/folder"))
        elif value and name != "OUTPUT_DIR" and not Path(value).is_dir():  # that one is made
            found.append(
                Finding(name, FAILED, f"{value} is not a folder here", f"mkdir -p {value}, or set another one")
            )
        elif value:
            found.append(Finding(name, OK, value))
    return found


def output_root(root: Path, ask: Ask, user: str) -> list[Finding]:
    """Whether the output root can be written to, and how much room it has. It is made where it is missing."""
    topic = "output root"
    try:
        root.mkdir(parents=True, exist_ok=True)
        problem = _written(root)
        space = os.statvfs(root)
    except OSError as error:
        return [Finding(topic, FAILED, f"{root}: {error.strerror}", room_hint(error, root) or _WRITABLE_HINT)]
    kind = filesystem(root)
    free, inodes = space.f_bavail * space.f_frsize, space.f_favail
    room = f"{root} ({kind}): {free / 2**30:,.1f} GiB free" + (f", {inodes:,} inodes" if space.f_files else "")
    hint = "remove files, or set OUTPUT_DIR to another file system"
    if problem is not None:
        what = f"{room}; can't write {_PROBE_BYTES >> 20} MiB: {problem.strerror}"
        found = [Finding(topic, FAILED, what, room_hint(problem, root) or _WRITABLE_HINT)]
    elif free < _FEW_BYTES or (space.f_files and inodes < _FEW_INODES):
        found = [Finding(topic, WARNING, f"{room}: little for checkpoints", hint)]
    else:
        found = [Finding(topic, OK, room)]
    if kind in _OF_ONE_MACHINE:
        text = f"{kind} is a file system of one machine: compute nodes may not see it"
        found.append(Finding(topic, WARNING, text, "use one that they share; --submit tests it"))
    words = [word.format(user=user, root=root) for word in _QUOTA.get(kind, ("quota", "-w"))]
    if shutil.which(words[0]):
        answer = ask(words)
        if lines := answer.output.strip():
            found.append(Finding("quota", OK, " ".join(lines.split())[:_SHOWN]))
    return found


def _written(root: Path) -> OSError | None:
    """Why a file of some size can't be written; None if it can. A quota shows only when blocks are really written."""
    path = root / f".check_cluster-{os.getpid()}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        return error
    try:
        left = os.urandom(_PROBE_BYTES)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
    return None


def filesystem(path: Path) -> str:
    """The type of the file system that a path lies in, as the kernel calls it (proc(5), mounts); '' if not known."""
    try:
        lines = os.fsdecode(Path("/proc/self/mounts").read_bytes()).splitlines()
    except OSError:
        return ""
    inside, best, kind = f"{path.resolve()}/", -1, ""
    for line in lines:
        _, mounted, found, *_ = line.split(" ")
        mounted = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mounted)
        if inside.startswith(f"{mounted.rstrip('/')}/") and len(mounted) >= best:
            best, kind = len(mounted), found
    return kind


# ---- what a job reports

_LATE_SECONDS = 60.0
_AHEAD_SECONDS = 2.0


def compute_node(text: str, seen_at: float) -> list[Finding]:
    """What a job reports of its compute node, in lines of `name value`; `seen_at`: when they were first seen here."""
    rows = [line.partition(" ")[::2] for line in text.splitlines()]
    values = dict(rows)
    programs = [value for name, value in rows if name == "has"]
    has = f"has {', '.join(programs)}" if programs else "has no container runtime and no python3"
    found = [Finding("compute node", OK, f"{values.get('host', '?')} ({values.get('machine', '?')}) {has}")]
    if values.get("reads") == "yes":
        found.append(
            Finding(
                "shared files",
                OK,
                "the compute node reads files of this machine, and this machine reads files of the node",
            )
        )
    else:
        unseen = "the compute node does not see files that this machine has written"
        found.append(Finding("shared files", FAILED, unseen, "set OUTPUT_DIR to a file system that both share"))
    submits = values.get("submits", "")
    if values.get("inside") == "yes":
        hint = "run it without container= to test whether a compute node can submit"
        found.append(Finding("submission", OK, "not checked: an image has no sbatch", hint))
    elif " to start at " in submits:
        found.append(Finding("submission", OK, "a compute node can submit: --detach slurm, executors of actions"))
    else:
        why = f"a compute node can't submit ({submits or 'sbatch is missing'})"
        found.append(Finding("submission", WARNING, why, "let monitors run on a login node: --detach local"))
    if values.get("time", "").isdecimal():
        found.append(_clock(int(values["time"]) - seen_at))
    return found


def _clock(ahead: float) -> Finding:
    """What the clock of the compute node says, against the time when its words were seen: later, if clocks agree."""
    if ahead > _AHEAD_SECONDS:
        return Finding("clocks", FAILED, f"the compute node is at least {ahead:.0f} s ahead", "report this to the site")
    if ahead < -_LATE_SECONDS:
        text = f"the compute node is {-ahead:.0f} s behind, or its files are seen here so late"
        return Finding("clocks", FAILED, text, "report this to the site")
    return Finding("clocks", OK, "login and compute node agree")
