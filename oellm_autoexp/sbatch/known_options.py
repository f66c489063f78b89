"""The options that sbatch and srun know, and which options of a script they do not know. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.text import did_you_mean

OPTIONS = frozenset(
    [
        "account",
        "acctg-freq",
        "array",
        "batch",
        "bb",
        "bbf",
        "begin",
        "chdir",
        "cluster-constraint",
        "clusters",
        "comment",
        "constraint",
        "container",
        "container-id",
        "contiguous",
        "core-spec",
        "cores-per-socket",
        "cpu-freq",
        "cpus-per-gpu",
        "cpus-per-task",
        "deadline",
        "delay-boot",
        "dependency",
        "distribution",
        "error",
        "exclude",
        "exclusive",
        "export",
        "export-file",
        "extra",
        "extra-node-info",
        "get-user-env",
        "gid",
        "gpu-bind",
        "gpu-freq",
        "gpus",
        "gpus-per-node",
        "gpus-per-socket",
        "gpus-per-task",
        "gres",
        "gres-flags",
        "hint",
        "hold",
        "ignore-pbs",
        "input",
        "job-name",
        "kill-on-invalid-dep",
        "licenses",
        "mail-type",
        "mail-user",
        "mcs-label",
        "mem",
        "mem-bind",
        "mem-per-cpu",
        "mem-per-gpu",
        "mincpus",
        "network",
        "nice",
        "no-kill",
        "no-requeue",
        "nodefile",
        "nodelist",
        "nodes",
        "ntasks",
        "ntasks-per-core",
        "ntasks-per-gpu",
        "ntasks-per-node",
        "ntasks-per-socket",
        "oom-kill-step",
        "open-mode",
        "output",
        "overcommit",
        "oversubscribe",
        "parsable",
        "partition",
        "power",
        "prefer",
        "priority",
        "profile",
        "propagate",
        "qos",
        "quiet",
        "reboot",
        "requeue",
        "reservation",
        "resv-ports",
        "segment",
        "signal",
        "sockets-per-node",
        "spread-job",
        "stepmgr",
        "switches",
        "test-only",
        "thread-spec",
        "threads-per-core",
        "time",
        "time-min",
        "tmp",
        "tres-bind",
        "tres-per-task",
        "uid",
        "use-min-nodes",
        "verbose",
        "wait",
        "wait-all-nodes",
        "wckey",
        "wrap",
    ]
)
"""The long options of sbatch(1) from 22.05 to 24.11. A site's plugins add others, which `sbatch --help` lists."""
TEXTS = frozenset(
    (
        "account", "bb", "bbf", "chdir", "cluster_constraint", "comment", "constraint", "container", "container_id",
        "cpu_bind", "error", "exclude", "export", "export_file", "extra", "gpu_bind", "input", "job_name", "mail_user",
        "mcs_label", "mem_bind", "network", "nodefile", "nodelist", "output", "partition", "prefer", "qos",
        "reservation", "tres_bind", "wckey",
    )
)  # fmt: skip
"""Options with names, texts or masks of bits; others hold numbers, alone or within (`gpu:4`, `B:USR1@60`, `now+60`)."""

_OF_SRUN = (
    "accel-bind", "bcast", "bcast-exclude", "compress", "cpu-bind", "debugger-test", "disable-status", "epilog",
    "exact", "external", "external-launcher", "help", "het-group", "immediate", "interactive", "jobid",
    "kill-on-bad-exit", "label", "mpi", "msg-timeout", "multi-prog", "no-allocate", "overlap", "pack-group",
    "preserve-env", "prolog", "pty", "quit-on-interrupt", "relative", "resv-ports", "send-libs", "slurmd-debug",
    "task-epilog", "task-prolog", "threads", "treewidth", "unbuffered", "usage", "version", "whole", "x11",
)  # fmt: skip
_OF_PYXIS = tuple(
    f"{no}container-{what}"
    for no, names in (
        ("", ("image", "mounts", "workdir", "name", "save", "entrypoint-log", "writable", "readonly", "env")),
        ("", ("mount-home", "remap-root", "entrypoint")),
        ("no-", ("mount-home", "remap-root", "entrypoint")),
    )
    for what in names
)
SRUN_OPTIONS = OPTIONS.union(_OF_SRUN, _OF_PYXIS)
"""The long options of srun(1) from 22.05 to 24.11, and those that Pyxis adds."""


def options_in_help(text: str) -> frozenset[str]:
    """The long options that `sbatch --help` lists."""
    return frozenset(re.findall(r"--([a-z][a-z0-9-]+)", text))


@lru_cache(maxsize=4096)
def unknown_option(name: str, known: frozenset[str] = OPTIONS) -> bool:
    """Whether sbatch, or srun, does not know an option.

    Both accept short options, and any beginning of a long one (getopt_long(3)).
    """
    word = name.replace("_", "-")
    return len(word) > 1 and not any(option.startswith(word) for option in known)


def option_problems(
    asked: Collection[str], known: frozenset[str], where: Location | str, program: str = "sbatch"
) -> list[Problem]:
    """The options that sbatch, or srun, does not know."""
    words = [name.replace("_", "-") for name in asked if unknown_option(name, known)]
    return [Problem(f"{program} has no option --{word}", where, did_you_mean(word, known)) for word in words]


def unknown_option_notes(
    odd: Mapping[str, Mapping[str, Location]], located: Callable[[Location], Location]
) -> Iterator[str]:
    """Notes of options that a program does not know: by program (sbatch, srun) and option, the keys.

    They need not be mistakes: a plugin of the site may know them. The submission asks the site's own sbatch.
    `located`: a key with the line where it was written.
    """
    for program, known in (("sbatch", OPTIONS), ("srun", SRUN_OPTIONS)):
        for option, place in sorted(odd.get(program, {}).items()):
            for found in option_problems([option], known, located(place), program):
                hint = f"; {found.hint}" if found.hint else ""
                yield f"{found.where}: {found.what}, unless this site adds it{hint}"
