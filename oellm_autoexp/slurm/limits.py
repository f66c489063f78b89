"""The options that sbatch knows, against those that a script has. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from oellm_autoexp.errors import Problem
from oellm_autoexp.text import did_you_mean

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


def options_in_help(text: str) -> frozenset[str]:
    """The long options that `sbatch --help` lists."""
    return frozenset(re.findall(r"--([a-z][a-z0-9-]+)", text))


@lru_cache(maxsize=4096)
def unknown_option(name: str, known: frozenset[str] = OPTIONS) -> bool:
    """Whether sbatch would not know an option. It takes short ones, and any beginning of a long one (getopt_long)."""
    word = name.replace("_", "-")
    return len(word) > 1 and not any(option.startswith(word) for option in known)


def option_problems(asked: Collection[str], known: frozenset[str], where: str) -> list[Problem]:
    """The options that sbatch does not know."""
    return [
        Problem(f"sbatch has no option --{name.replace('_', '-')}", where, did_you_mean(name.replace("_", "-"), known))
        for name in asked
        if unknown_option(name, known)
    ]
