"""What a script asks for beyond the limits of a site: SLURM would refuse the job, or let it wait for ever. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import did_you_mean, plural
from oellm_autoexp.sbatch.times import format_time, time_limit
from oellm_autoexp.schedulers.site import Association, Partition, Qos, Shape, Site, count

_LISTED = 12
_Where = Callable[[str], Location | str]


def problems(asked: Mapping[str, str], site: Site, place: Location | str = "") -> list[Problem]:
    """Why a site would refuse a job, or let it wait for ever; `asked` are its options by name (`_` for `-`).

    `place` is the location of all problems; by default each problem is located at its option in the config. Limits of
    a QOS that is not known are not checked.
    """

    asked = _lower(asked)

    def where(option: str) -> Location | str:
        return place or CONFIG / "slurm.sbatch" / option

    names = asked["partition"].split(",") if asked.get("partition") else _default_partitions(site)
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


def longest(asked: Mapping[str, str], site: Site) -> int | None:
    """The longest time limit in seconds that a site allows a job in one of its partitions; None: no limit is known."""
    asked = _lower(asked)
    names = asked["partition"].split(",") if asked.get("partition") else _default_partitions(site)
    qos = site.qos.get(asked.get("qos") or _default_qos(asked, site))
    found: list[int | None] = []
    for name in names or [""]:
        limits = _time_limits(asked, site.partitions.get(name, Partition(name)), site, qos)
        found.append(min((limit for _, limit in limits if limit is not None), default=None))
    return None if None in found else max(limit for limit in found if limit is not None)


def _lower(asked: Mapping[str, str]) -> dict[str, str]:
    """For SLURM, upper and lower case are the same in accounts and QOS, but not in partitions."""
    return {option: value.lower() if option in ("account", "qos") else value for option, value in asked.items()}


def _default_partitions(site: Site) -> list[str]:
    return [partition.name for partition in site.partitions.values() if partition.default]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    more = ", …" if len(names) > _LISTED else ""
    return did_you_mean(name, names) or f"known: {', '.join(names[:_LISTED])}{more}"


def _account_problems(asked: Mapping[str, str], site: Site, where: _Where) -> list[Problem]:
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
        return [Problem(f"account '{account}' is not one of your accounts", where("account"), f"yours: {yours}")]
    allowed = frozenset[str]().union(*(association.qos for association in own))
    if qos and allowed and qos not in allowed:
        return [Problem(f"account '{account}' may not use QOS '{qos}'", where("qos"), _nearest(qos, sorted(allowed)))]
    return []


def _default_qos(asked: Mapping[str, str], site: Site) -> str:
    account = asked.get("account") or site.default_account
    found = [each.default_qos for each in site.associations if each.account == account and each.default_qos]
    return found[0] if found else ""


def _over(asked: Mapping[str, str], partition: Partition, site: Site, qos_name: str, where: _Where) -> Problem | None:
    """What a job asks for beyond the limits of a partition and its QOS, if anything."""
    account = asked.get("account") or site.default_account
    if account and partition.accounts_allowed and account not in partition.accounts_allowed:
        what = f"partition {partition.name} does not allow account '{account}'"
        return Problem(what, where("partition"), f"it is for {', '.join(sorted(partition.accounts_allowed)[:_LISTED])}")
    if account in partition.accounts_denied:
        return Problem(f"partition {partition.name} does not allow account '{account}'", where("partition"))
    if partition.groups_allowed and site.groups is not None and not partition.groups_allowed & site.groups:
        groups = ", ".join(sorted(partition.groups_allowed)[:_LISTED])
        return Problem(f"partition {partition.name} is only for the groups {groups}", where("partition"))
    if partition.state not in ("UP", "DOWN"):
        return Problem(f"partition {partition.name} accepts no jobs: it is {partition.state}", where("partition"))
    if qos_name in partition.qos_denied:
        return Problem(f"partition {partition.name} does not accept QOS '{qos_name}'", where("qos"))
    if qos_name and partition.qos_allowed and qos_name not in partition.qos_allowed:
        what = f"partition {partition.name} does not accept QOS '{qos_name}'"
        return Problem(what, where("qos"), f"it accepts {', '.join(sorted(partition.qos_allowed)[:_LISTED])}")
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
    asked: Mapping[str, str], partition: Partition, site: Site, qos: Qos | None, where: _Where
) -> Problem | None:
    if "time" not in asked:
        return None
    seconds = time_limit(asked["time"])
    for name, limit in _time_limits(asked, partition, site, qos):
        if limit is not None and (seconds is None or seconds > limit):
            wanted = "no time limit" if seconds is None else format_time(seconds)
            return _beyond(f"asks for {wanted}; {name} allows {format_time(limit)}", where("time"))
    return None


def _time_limits(
    asked: Mapping[str, str], partition: Partition, site: Site, qos: Qos | None
) -> list[tuple[str, int | None]]:
    """The limits on a job's time, in seconds, and whose they are; None: no limit."""
    limits = [] if qos is not None and qos.lifts_time else [(f"partition {partition.name}", partition.max_seconds)]
    in_force = _qos_in_force(partition, site, qos)
    limits += [(f"QOS {each.name}", each.max_seconds) for each in in_force]
    if all(each.max_seconds is None for each in in_force):  # a QOS counts more than an association
        limits += [(f"your account {own.account}", own.max_seconds) for own in _own_limits(asked, partition, site)]
    return limits


def _too_wide(
    asked: Mapping[str, str], partition: Partition, site: Site, qos: Qos | None, where: _Where
) -> Problem | None:
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?.*", asked.get("nodes", ""))  # of `2-4`, two are needed
    if found is None:
        return None
    least, most = int(found[1]), int(found[2] or found[1])
    limits = [] if qos is not None and qos.lifts_nodes else [(f"partition {partition.name}", partition.max_nodes)]
    in_force = _qos_in_force(partition, site, qos)
    limits += [(f"QOS {each.name}", each.max_nodes) for each in in_force]
    if all(each.max_nodes is None for each in in_force):
        limits += [(f"your account {own.account}", own.max_nodes) for own in _own_limits(asked, partition, site)]
    if partition.min_nodes is not None and most < partition.min_nodes:
        what = f"asks for {plural(most, 'node')}; partition {partition.name} requires at least {partition.min_nodes}"
        return Problem(what, where("nodes"))
    for name, limit in limits:
        if limit is not None and least > limit:
            return _beyond(f"asks for {least} nodes; {name} allows {limit}", where("nodes"))
    for each in in_force:
        if each.min_nodes is not None and most < each.min_nodes:
            return _beyond(f"asks for {most} nodes; QOS {each.name} requires at least {each.min_nodes}", where("nodes"))
    return None


def _too_large(asked: Mapping[str, str], partition: Partition, where: _Where) -> Problem | None:
    """What a job asks for on each node beyond what any node of the partition has."""
    if not partition.nodes or "overcommit" in asked:
        return None
    tasks, cpus = count(asked.get("ntasks_per_node", "1")), count(asked.get("cpus_per_task", "1"))
    gpus = count(asked.get("gpus_per_node", "").rpartition(":")[2])

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
    for option, (number, limit, what) in wanted.items():
        if number is not None and number > limit:
            sentence = (
                f"asks for {number} {what} on each node; nodes of partition {partition.name} have at most {limit}"
            )
            return Problem(sentence, where(option))
    return None


_UNITS = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


def _mebibytes(text: str) -> int | None:
    """An amount of memory of sbatch's (`600G`; without a unit: MiB); None for another, and for 0, which means all."""
    found = re.fullmatch(r"(\d{1,15})([KMGT]?)", text, re.IGNORECASE)
    return math.ceil(int(found[1]) * _UNITS[found[2].upper()]) or None if found else None


def _qos_in_force(partition: Partition, site: Site, qos: Qos | None) -> list[Qos]:
    """The QOS whose limits apply to a job: its own and that of its partition."""
    return [found for found in (qos, site.qos.get(partition.qos)) if found is not None]


def _beyond(what: str, where: Location | str) -> Problem:
    return Problem(f"{what}: the job would wait for ever", where)
