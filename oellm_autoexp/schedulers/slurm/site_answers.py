"""What scontrol, sinfo and sacctmgr print about a cluster and its accounts. Pure; formats of 22.05 and 24.11."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from oellm_autoexp.sbatch.times import time_limit
from oellm_autoexp.schedulers.site import Association, ClusterNodes, Partition, Qos, Shape, Site, count


def partitions(text: str) -> dict[str, Partition]:
    """The partitions by name in what `scontrol show partition -o` prints."""
    found = {}
    for line in text.splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split())
        name = fields.get("PartitionName")
        if name:
            qos = fields.get("QoS", "N/A").replace("N/A", "").lower()
            limits = (count(fields.get(key, "")) for key in ("MaxNodes", "TotalNodes"))
            nodes = [limit for limit in limits if limit is not None]
            found[name] = Partition(
                name,
                fields.get("Default") == "YES",
                None if qos else time_limit(fields.get("MaxTime", "")),  # the QOS may lift what is shown here
                None if qos else min(nodes, default=None),
                qos,
                _names(fields.get("AllowAccounts", "")),
                _names(fields.get("AllowQos", "")),
                None if qos else count(fields.get("MinNodes", "")),
                _names(fields.get("DenyAccounts", "")),
                _names(fields.get("DenyQos", "")),
                frozenset(filter(None, fields.get("AllowGroups", "").replace("ALL", "").split(","))),
                fields.get("State", "UP"),
            )
    return found


SHAPE_FIELDS = "%R|%c|%m|%G"


def shapes(text: str) -> dict[str, tuple[Shape, ...]]:
    """The shapes of nodes by partition in what `sinfo -h -a -e -o '%R|%c|%m|%G'` prints."""
    found: dict[str, list[Shape]] = {}
    for line in text.splitlines():
        name, cpus, memory, resources = (*line.split("|"), "", "", "")[:4]
        cpu_count, mebibytes = count(cpus), count(memory)
        if cpu_count is not None and mebibytes is not None:
            gpus = re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", resources)
            found.setdefault(name, []).append(Shape(cpu_count, mebibytes, sum(map(int, gpus))))
    return {name: tuple(each) for name, each in found.items()}


QOS_FIELDS = "format=Name,Flags,MaxWall,MaxTRES,MinTRES"


def qualities(text: str) -> dict[str, Qos]:
    """The QOS by name in what `sacctmgr -n -P show qos format=Name,Flags,MaxWall,MaxTRES,MinTRES` prints."""
    found = {}
    for line in text.splitlines():
        name, flags, wall, most, least = (*line.split("|"), "", "", "", "", "")[:5]
        name = name.lower()
        if name and "|" in line:
            lifts = {"PartitionTimeLimit", "PartitionMaxNodes"} & {*flags.split(",")}
            found[name] = Qos(
                name,
                _limit(wall),
                _nodes_in(most),
                _nodes_in(least),
                "PartitionTimeLimit" in lifts,
                "PartitionMaxNodes" in lifts,
            )
    return found


ASSOCIATION_FIELDS = "format=Account,Partition,QOS,DefaultQOS,MaxWall,MaxTRES"


def associations(text: str) -> tuple[Association, ...]:
    """A user's accounts in what `sacctmgr -n -P show assoc format=Account,Partition,QOS,DefaultQOS,MaxWall,MaxTRES`
    prints.
    """
    rows = [(*line.split("|"), "", "", "", "", "")[:6] for line in text.splitlines() if "|" in line]
    return tuple(
        Association(
            account.lower(),
            partition,
            _names(qos),
            default.lower(),
            _limit(wall),
            _nodes_in(most),
        )
        for account, partition, qos, default, wall, most in rows
    )


def read(ask: Callable[[str, Sequence[str]], str], user: str, groups: frozenset[str] | None = None) -> Site:
    """The limits that SLURM shows to a user. `groups` as in Site.

    `ask` runs `scontrol`, `sinfo` or `sacctmgr` and returns its output, '' if it fails. After a controller that does
    not answer, no other command is run.
    """
    known = partitions(ask("scontrol", ("-a", "show", "partition", "-o")))
    if not known:
        return Site()
    of_nodes = shapes(ask("sinfo", ("-h", "-a", "-e", "-o", SHAPE_FIELDS)))
    known = {name: replace(each, nodes=of_nodes.get(name, ())) for name, each in known.items()}
    settings = _settings(ask("scontrol", ("show", "config")))
    enforced = {*settings.get("AccountingStorageEnforce", "").split(",")}
    if not enforced & {"associations", "limits", "qos", "safe", "all"}:  # any account and any QOS will do
        return Site(known, complete=True, accounting="off", groups=groups)
    qos = qualities(ask("sacctmgr", ("-n", "-P", "show", "qos", QOS_FIELDS)))
    if not qos:
        return Site(known, complete=True, accounting="silent", groups=groups)
    own = associations(ask("sacctmgr", ("-n", "-P", "show", "assoc", f"user={user}", ASSOCIATION_FIELDS)))
    if not enforced & {"limits", "safe", "all"}:
        own = tuple(replace(each, max_seconds=None, max_nodes=None) for each in own)
    default = (
        ask("sacctmgr", ("-n", "-P", "show", "user", user, "format=DefaultAccount")).strip().lower() if own else ""
    )
    return Site(known, qos, own, default, complete=True, groups=groups)


NODE_FIELDS = "%P|%N"


def cluster_nodes(settings: str, lines: str) -> ClusterNodes:
    """The nodes of a cluster in what `scontrol show config` and `sinfo -h -a -N -o '%P|%N'` print.

    sinfo marks the default partition with `*`.
    """
    found: dict[str, set[str]] = {}
    default = ""
    for line in lines.splitlines():
        partition, _, node = line.strip().partition("|")
        name = partition.removesuffix("*")
        default = name if name != partition else default
        if name and node:
            found.setdefault(name, set()).add(node)
    partitions = {name: frozenset(nodes) for name, nodes in found.items()}
    return ClusterNodes(_settings(settings).get("ClusterName", ""), partitions, default)


def _settings(text: str) -> dict[str, str]:
    """The settings in what `scontrol show config` prints."""
    rows = (line.partition("=")[::2] for line in text.splitlines())
    return {key.strip(): value.strip() for key, value in rows}


def max_array_size(text: str) -> int | None:
    """The largest number of tasks of an array, by what `scontrol show config` prints.

    It is MaxArraySize, or max_array_tasks of SchedulerParameters where that is less (slurm.conf(5)).
    """
    size = re.search(r"^MaxArraySize\s*=\s*([0-9]{1,9})$", text, re.MULTILINE)
    tasks = re.search(r"^SchedulerParameters\s*=(?:.*,)?\s*max_array_tasks=([0-9]{1,9})\b", text, re.MULTILINE)
    found = [int(limit[1]) for limit in (size, tasks) if limit]
    return min(found) if found else None


def _names(text: str) -> frozenset[str]:
    return frozenset(name.lower() for name in text.split(",") if name and name not in ("ALL", "N/A", "(null)"))


def _limit(text: str) -> int | None:
    """A time limit of accounting in seconds; None for no limit, which accounting shows as an empty field."""
    return time_limit(text) if text else None


def _nodes_in(resources: str) -> int | None:
    """The nodes in a list of resources (`cpu=4,node=8`); None if it does not say."""
    found = re.search(r"(?:^|,)node=(\d{1,9})(?:,|$)", resources)
    return int(found[1]) if found else None
