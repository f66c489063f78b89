"""What a site allows: sbatch's options and its partitions' limits, against what a script asks for. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from oellm_autoexp.errors import ConfigError, Problem
from oellm_autoexp.slurm.times import format_time, parse_time
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


@dataclass(frozen=True)
class Partition:
    """A partition's limits for one job; None: there is none."""

    name: str
    default: bool
    max_seconds: int | None
    max_nodes: int | None


def partitions(text: str) -> dict[str, Partition]:
    """The partitions by name in what `scontrol show partition -o` prints."""
    found = {}
    for line in text.splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split())
        name = fields.get("PartitionName")
        if name:
            limit = fields.get("MaxNodes", "")
            nodes = fields.get("TotalNodes", "") if limit == "UNLIMITED" else limit
            ruled = fields.get("QoS", "N/A") != "N/A"  # by a QOS of its own, whose limits are not shown here
            found[name] = Partition(
                name,
                fields.get("Default") == "YES",
                None if ruled else _seconds(fields.get("MaxTime", "")),
                int(nodes) if re.fullmatch("[0-9]{1,18}", nodes) and not ruled else None,
            )
    return found


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


def limit_problems(asked: Mapping[str, str], site: Mapping[str, Partition], where: str) -> list[Problem]:
    """Why a job would wait for ever, by what its directives ask for (by long option, `_` for `-`).

    A QOS may lift a partition's limits, so that nothing is said of a job that names one.
    """
    names = asked["partition"].split(",") if asked.get("partition") else [p.name for p in site.values() if p.default]
    unknown = [name for name in names if name not in site]
    if unknown:
        return [
            Problem(f"there is no partition '{name}'", where, did_you_mean(name, site) or f"known: {', '.join(site)}")
            for name in unknown
        ]
    if not names or asked.get("qos"):
        return []
    reasons = [_over(asked, site[name]) for name in names]  # one of them that takes the job is enough
    return [Problem(f"{reason}: the job would wait for ever", where) for reason in reasons if reason] * all(reasons)


def _over(asked: Mapping[str, str], partition: Partition) -> str:
    """What a job asks for beyond a partition's limits, '' if nothing."""
    if "time" in asked and partition.max_seconds is not None:
        seconds = _seconds(asked["time"])
        if seconds is None or seconds > partition.max_seconds:
            wanted = "no time limit" if seconds is None else format_time(seconds)
            return f"asks for {wanted}, and partition {partition.name} allows {format_time(partition.max_seconds)}"
    nodes = re.match(r"\d{1,9}", asked.get("nodes", ""))  # of `2-4`, two are needed
    if nodes and partition.max_nodes is not None and int(nodes[0]) > partition.max_nodes:
        return f"asks for {nodes[0]} nodes, and partition {partition.name} gives {partition.max_nodes}"
    return ""


def _seconds(text: str) -> int | None:
    """A time in seconds; None for no limit, and for what is no time."""
    try:
        return parse_time(text)
    except ConfigError:
        return None
