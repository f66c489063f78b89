"""What a site allows one job: partitions, QOS and accounts with their limits, against what a script asks for. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.text import did_you_mean, plural
from oellm_autoexp.sbatch.times import format_time, parse_time

VARIABLES = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
}
"""Variables by which people tell sbatch whom they are; it would let them overrule the script (sbatch(1))."""
_COUNT = re.compile("[0-9]{1,18}")
_LISTED = 12


@dataclass(frozen=True)
class Shape:
    """What some nodes of a partition have each: CPUs as SLURM counts them, memory in MiB, GPUs."""

    cpus: int
    memory: int
    gpus: int


@dataclass(frozen=True)
class Partition:
    """A partition's limits for one job; None: there is none. Of `accounts` and `qos`, an empty set means all."""

    name: str
    default: bool = False
    max_seconds: int | None = None
    max_nodes: int | None = None
    qos: str = ""
    """A QOS whose limits hold for all jobs of the partition."""
    accounts_allowed: frozenset[str] = frozenset()
    qos_allowed: frozenset[str] = frozenset()
    min_nodes: int | None = None
    accounts_denied: frozenset[str] = frozenset()
    qos_denied: frozenset[str] = frozenset()
    groups_allowed: frozenset[str] = frozenset()
    state: str = "UP"
    """Of scontrol(1): in UP jobs are taken and run, in DOWN they are taken and wait, in the others none is taken."""
    nodes: tuple[Shape, ...] = ()
    """The shapes of its nodes."""


@dataclass(frozen=True)
class Qos:
    """The limits of a QOS for one job; None: there is none. `lifts_*`: in place of the partition's, not beside them."""

    name: str
    max_seconds: int | None = None
    max_nodes: int | None = None
    min_nodes: int | None = None
    lifts_time: bool = False
    lifts_nodes: bool = False


@dataclass(frozen=True)
class Association:
    """An account that a user may use, with which QOS and, where it is not for all partitions, in which."""

    account: str
    partition: str = ""
    qos: frozenset[str] = frozenset()
    default_qos: str = ""
    max_seconds: int | None = None
    max_nodes: int | None = None


@dataclass(frozen=True)
class Site:
    """What is known of a cluster; of what is empty, nothing is. Accounts and QOS have small letters.

    `complete`: the cluster has no partitions but these, which SLURM itself told. `accounting`: so it is with QOS and
    accounts ("told"), they count for nothing there ("off"), or accounting did not answer ("silent"). `groups` are the
    user's; None: any group will do.
    """

    partitions: Mapping[str, Partition] = field(default_factory=dict)
    qos: Mapping[str, Qos] = field(default_factory=dict)
    associations: tuple[Association, ...] = ()
    default_account: str = ""
    complete: bool = False
    accounting: Literal["told", "off", "silent"] = "told"
    groups: frozenset[str] | None = None

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts of the user, each once."""
        return tuple(dict.fromkeys(association.account for association in self.associations))


def partitions(text: str) -> dict[str, Partition]:
    """The partitions by name in what `scontrol show partition -o` prints."""
    found = {}
    for line in text.splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split())
        name = fields.get("PartitionName")
        if name:
            qos = fields.get("QoS", "N/A").replace("N/A", "").lower()
            nodes = [int(fields[key]) for key in ("MaxNodes", "TotalNodes") if _COUNT.fullmatch(fields.get(key, ""))]
            found[name] = Partition(
                name,
                fields.get("Default") == "YES",
                None if qos else _seconds(fields.get("MaxTime", "")),  # the QOS may lift what is shown here
                None if qos else min(nodes, default=None),
                qos,
                _names(fields.get("AllowAccounts", "")),
                _names(fields.get("AllowQos", "")),
                None if qos else _count(fields.get("MinNodes", "")),
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
        if _COUNT.fullmatch(cpus) and _COUNT.fullmatch(memory):
            gpus = re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", resources)
            found.setdefault(name, []).append(Shape(int(cpus), int(memory), sum(map(int, gpus))))
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
                _seconds(wall) if wall else None,
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
            account.lower(), partition, _names(qos), default.lower(), _seconds(wall) if wall else None, _nodes_in(most)
        )
        for account, partition, qos, default, wall, most in rows
    )


def read(ask: Callable[[str, Sequence[str]], str], user: str, groups: frozenset[str] | None = None) -> Site:
    """What SLURM tells a user of the cluster. `ask` runs `scontrol`, `sinfo` or `sacctmgr` and gives what it prints, ''
    if it can't; nothing more is asked of a controller that does not answer. `groups` as in Site.
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


def _settings(text: str) -> dict[str, str]:
    """The settings in what `scontrol show config` prints."""
    rows = (line.partition("=")[::2] for line in text.splitlines())
    return {key.strip(): value.strip() for key, value in rows}


def problems(asked: Mapping[str, str], site: Site, place: str = "") -> list[Problem]:
    """Why a site would refuse a job, or let it wait for ever, by what its directives ask for (`_` for `-`).

    `place` is where the directives stand; by default each option has its place in the config. Nothing is said of limits
    of a QOS that is not known.
    """

    # SLURM compares accounts and QOS, but not partitions, in small letters.
    asked = {option: value.lower() if option in ("account", "qos") else value for option, value in asked.items()}

    def where(option: str) -> str:
        return place or f"$.slurm.sbatch.{option}"

    names = asked["partition"].split(",") if asked.get("partition") else _usual(site)
    unknown = [name for name in names if site.complete and site.partitions and name not in site.partitions]
    if unknown:
        return [
            Problem(f"there is no partition '{name}'", where("partition"), _nearest(name, site.partitions))
            for name in unknown
        ]
    if found := _account_problems(asked, site, where):
        return found
    qos = asked.get("qos") or _default_qos(asked, site)
    reasons = [
        _over(asked, site.partitions[name], site, qos, where)
        for name in names
        if name in site.partitions or site.complete
    ] or [_over(asked, Partition(""), site, qos, where)]
    return [reason for reason in reasons if reason] * all(reasons)  # one partition that takes the job is enough


def _usual(site: Site) -> list[str]:
    return [partition.name for partition in site.partitions.values() if partition.default]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    more = ", …" if len(names) > _LISTED else ""
    return did_you_mean(name, names) or f"known: {', '.join(names[:_LISTED])}{more}"


def _account_problems(asked: Mapping[str, str], site: Site, where: Callable[[str], str]) -> list[Problem]:
    """What is wrong with an account and a QOS by what accounting lets the user use."""
    qos = asked.get("qos")
    if qos and site.complete and site.accounting == "told" and site.qos and qos not in site.qos:
        return [Problem(f"there is no QOS '{qos}'", where("qos"), _nearest(qos, site.qos))]
    if not site.associations:
        return []
    account = asked.get("account") or site.default_account
    if not account:
        return []
    own = [association for association in site.associations if association.account == account]
    if not own:
        yours = ", ".join(site.accounts[:_LISTED])
        return [Problem(f"account '{account}' is none of yours", where("account"), f"yours: {yours}")]
    allowed = frozenset[str]().union(*(association.qos for association in own))
    if qos and allowed and qos not in allowed:
        return [Problem(f"account '{account}' may not use QOS '{qos}'", where("qos"), _nearest(qos, sorted(allowed)))]
    return []


def _default_qos(asked: Mapping[str, str], site: Site) -> str:
    account = asked.get("account") or site.default_account
    found = [each.default_qos for each in site.associations if each.account == account and each.default_qos]
    return found[0] if found else ""


def _over(
    asked: Mapping[str, str], partition: Partition, site: Site, qos_name: str, where: Callable[[str], str]
) -> Problem | None:
    """What a job asks for beyond the limits of a partition and its QOS, if anything."""
    account = asked.get("account") or site.default_account
    if account and partition.accounts_allowed and account not in partition.accounts_allowed:
        what = f"partition {partition.name} is not for account '{account}'"
        return Problem(what, where("partition"), f"it is for {', '.join(sorted(partition.accounts_allowed)[:_LISTED])}")
    if account in partition.accounts_denied:
        return Problem(f"partition {partition.name} is not for account '{account}'", where("partition"))
    if partition.groups_allowed and site.groups is not None and not partition.groups_allowed & site.groups:
        groups = ", ".join(sorted(partition.groups_allowed)[:_LISTED])
        return Problem(f"partition {partition.name} is for the groups {groups} alone", where("partition"))
    if partition.state not in ("UP", "DOWN"):
        return Problem(f"partition {partition.name} takes no jobs: it is {partition.state}", where("partition"))
    if qos_name in partition.qos_denied:
        return Problem(f"partition {partition.name} does not take QOS '{qos_name}'", where("qos"))
    if qos_name and partition.qos_allowed and qos_name not in partition.qos_allowed:
        what = f"partition {partition.name} does not take QOS '{qos_name}'"
        return Problem(what, where("qos"), f"it takes {', '.join(sorted(partition.qos_allowed)[:_LISTED])}")
    qos = site.qos.get(qos_name)
    if asked.get("qos") and qos is None:
        return None
    return (
        _too_long(asked, partition, site, qos, where)
        or _too_wide(asked, partition, site, qos, where)
        or _too_large(asked, partition, where)
    )


def _own_limits(asked: Mapping[str, str], partition: Partition, site: Site) -> Iterator[Association]:
    """The user's own limits for an account, or those for it in this partition."""
    account = asked.get("account") or site.default_account
    own = [each for each in site.associations if each.account == account and each.partition in ("", partition.name)]
    yield from [each for each in own if each.partition] or own


def _too_long(
    asked: Mapping[str, str], partition: Partition, site: Site, qos: Qos | None, where: Callable[[str], str]
) -> Problem | None:
    if "time" not in asked:
        return None
    seconds = _seconds(asked["time"])
    limits = [] if qos is not None and qos.lifts_time else [(f"partition {partition.name}", partition.max_seconds)]
    rulers = _rulers(partition, site, qos)
    limits += [(f"QOS {ruler.name}", ruler.max_seconds) for ruler in rulers]
    if all(ruler.max_seconds is None for ruler in rulers):  # a QOS counts more than an association
        limits += [(f"your account {own.account}", own.max_seconds) for own in _own_limits(asked, partition, site)]
    for name, limit in limits:
        if limit is not None and (seconds is None or seconds > limit):
            wanted = "no time limit" if seconds is None else format_time(seconds)
            return _beyond(f"asks for {wanted}, and {name} allows {format_time(limit)}", where("time"))
    return None


def _too_wide(
    asked: Mapping[str, str], partition: Partition, site: Site, qos: Qos | None, where: Callable[[str], str]
) -> Problem | None:
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?.*", asked.get("nodes", ""))  # of `2-4`, two are needed
    if found is None:
        return None
    least, most = int(found[1]), int(found[2] or found[1])
    limits = [] if qos is not None and qos.lifts_nodes else [(f"partition {partition.name}", partition.max_nodes)]
    rulers = _rulers(partition, site, qos)
    limits += [(f"QOS {ruler.name}", ruler.max_nodes) for ruler in rulers]
    if all(ruler.max_nodes is None for ruler in rulers):
        limits += [(f"your account {own.account}", own.max_nodes) for own in _own_limits(asked, partition, site)]
    if partition.min_nodes is not None and most < partition.min_nodes:
        what = f"asks for {plural(most, 'node')}, and partition {partition.name} wants {partition.min_nodes}"
        return Problem(what, where("nodes"))
    for name, limit in limits:
        if limit is not None and least > limit:
            return _beyond(f"asks for {least} nodes, and {name} gives {limit}", where("nodes"))
    for ruler in rulers:
        if ruler.min_nodes is not None and most < ruler.min_nodes:
            return _beyond(f"asks for {most} nodes, and QOS {ruler.name} wants {ruler.min_nodes}", where("nodes"))
    return None


def _too_large(asked: Mapping[str, str], partition: Partition, where: Callable[[str], str]) -> Problem | None:
    """What a job asks for on each node beyond what any node of the partition has."""
    if not partition.nodes or "overcommit" in asked:
        return None
    tasks, cpus = _count(asked.get("ntasks_per_node", "1")), _count(asked.get("cpus_per_task", "1"))
    gpus = _count(asked.get("gpus_per_node", "").rpartition(":")[2])

    def times(*numbers: int | None) -> int | None:
        return None if None in numbers else math.prod(number for number in numbers if number is not None)

    most = Shape(*(max(getattr(each, name) for each in partition.nodes) for name in ("cpus", "memory", "gpus")))
    wanted = {
        "cpus_per_task": (times(tasks, cpus), most.cpus, "CPUs"),
        "mem": (_mebibytes(asked.get("mem", "")), most.memory, "MiB of memory"),
        "mem_per_cpu": (times(_mebibytes(asked.get("mem_per_cpu", "")), tasks, cpus), most.memory, "MiB of memory"),
        "mem_per_gpu": (times(_mebibytes(asked.get("mem_per_gpu", "")), gpus), most.memory, "MiB of memory"),
        "gpus_per_node": (gpus, most.gpus, "GPUs"),
    }
    for option, (count, limit, what) in wanted.items():
        if count is not None and count > limit:
            sentence = f"asks for {count} {what} on each node, and nodes of partition {partition.name} have {limit}"
            return Problem(sentence, where(option))
    return None


_UNITS = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


def _mebibytes(text: str) -> int | None:
    """An amount of memory of sbatch's (`600G`; without a unit: MiB); None for another, and for 0, which means all."""
    found = re.fullmatch(r"(\d{1,15})([KMGT]?)", text, re.IGNORECASE)
    return math.ceil(int(found[1]) * _UNITS[found[2].upper()]) or None if found else None


def _count(text: str) -> int | None:
    return int(text) if _COUNT.fullmatch(text) else None


def _rulers(partition: Partition, site: Site, qos: Qos | None) -> list[Qos]:
    """The QOS whose limits hold: the job's and its partition's."""
    return [found for found in (qos, site.qos.get(partition.qos)) if found is not None]


def _beyond(what: str, where: str) -> Problem:
    return Problem(f"{what}: the job would wait for ever", where)


def _names(text: str) -> frozenset[str]:
    return frozenset(name.lower() for name in text.split(",") if name and name not in ("ALL", "N/A", "(null)"))


def _nodes_in(resources: str) -> int | None:
    """The nodes in a list of resources (`cpu=4,node=8`); None if it does not say."""
    found = re.search(r"(?:^|,)node=(\d{1,9})(?:,|$)", resources)
    return int(found[1]) if found else None


def _seconds(text: str) -> int | None:
    """A time in seconds; None for no limit, and for what is no time."""
    try:
        return parse_time(text)
    except ConfigError:
        return None
