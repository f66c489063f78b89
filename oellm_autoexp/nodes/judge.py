"""Which nodes are left out of a job, by what they were blamed for, and what of that can't be. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from oellm_autoexp.causes.hosts import expand
from oellm_autoexp.core.text import plural
from oellm_autoexp.nodes.entry import BY_HAND, PREFLIGHT, Entry
from oellm_autoexp.sbatch.directives import OWN, options

AT_ONCE = frozenset({BY_HAND, PREFLIGHT})
"""Categories of which one report is enough."""
_MOST_OF_UNKNOWN = 1
"""How many nodes are left out of a partition whose nodes are not known."""
_SHORT, _FEW = 120, 5
"""Characters of a reason, and nodes, in a job's history: a plan may have thousands of jobs."""
_FUTURE_SECONDS = 86400.0
"""By how much the clock of whoever wrote an entry may be ahead; later entries would never expire."""


@dataclass(frozen=True)
class Limits:
    """`monitoring.nodes` of a plan, in seconds."""

    exclude_after: int | None = 2
    expires_after_seconds: float = 168 * 3600.0
    max_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a node of a cluster.

    `counted`: blames that have neither expired nor been forgiven, the oldest first; `past`: the others. `until`: when
    it is no longer left out, seconds since 1970; None: it is not.
    """

    node: str
    cluster: str
    counted: tuple[Entry, ...] = ()
    past: tuple[Entry, ...] = ()
    forgiven: Entry | None = None
    """The last time that it was forgiven."""
    until: float | None = None

    @property
    def attempts(self) -> int:
        """How many attempts have blamed it; a report by hand counts as one."""
        return len({_attempt(entry) for entry in self.counted})

    @property
    def newest(self) -> Entry | None:
        """The last blame, whether it counts or not."""
        return max((*self.counted, *self.past), key=lambda entry: entry.at, default=None)

    @property
    def causes(self) -> dict[str, int]:
        """How often it was blamed for what, of the blames that count, else of all; the most frequent first."""
        return dict(Counter(entry.category for entry in self.counted or self.past).most_common())

    @property
    def summary(self) -> str:
        """`blamed 2 times, last: gpu-hardware: a GPU has fallen off the bus`."""
        newest = self.newest
        if newest is None:
            return ""
        by = f" by {newest.user}" if newest.category == BY_HAND and newest.user else ""
        reason = newest.reason if len(newest.reason) <= _SHORT else f"{newest.reason[: _SHORT - 1]}…"
        return f"blamed {plural(self.attempts, 'time')}, last: {newest.category}{by}: {reason}"


def records(entries: Iterable[Entry], now: float, limits: Limits) -> dict[tuple[str, str], Record]:
    """What is known of each node, by cluster and node. An entry without a cluster counts on each (`on_cluster`)."""
    of_node: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.at <= now + _FUTURE_SECONDS:
            of_node.setdefault(entry.node, []).append(entry)
    return {
        (cluster, node): _record(
            node, cluster, [entry for entry in found if entry.cluster in (cluster, "")], now, limits
        )
        for node, found in sorted(of_node.items())
        for cluster in sorted({entry.cluster for entry in found})
    }


def on_cluster(found: Mapping[tuple[str, str], Record], cluster: str) -> list[Record]:
    """What is known of the nodes of one cluster; of those that no entry names with it, what counts on each cluster."""
    return [
        record
        for (name, node), record in found.items()
        if name in (cluster, *(() if (cluster, node) in found else [""]))
    ]


def _record(node: str, cluster: str, entries: Sequence[Entry], now: float, limits: Limits) -> Record:
    forgiven = max((entry for entry in entries if entry.kind == "forgiven"), key=lambda entry: entry.at, default=None)
    blames = sorted((entry for entry in entries if entry.kind == "blamed"), key=lambda entry: entry.at)
    since = now - limits.expires_after_seconds
    if forgiven is not None:
        since = max(since, forgiven.at)
    counted = [entry for entry in blames if entry.at > since]
    return Record(
        node=node,
        cluster=cluster,
        counted=tuple(counted),
        past=tuple(blames[: len(blames) - len(counted)]),
        forgiven=forgiven,
        until=_until(counted, limits),
    )


def _until(counted: Sequence[Entry], limits: Limits) -> float | None:
    """When so many blames have expired that a node is below the limit; None if it is."""
    if limits.exclude_after is None:
        return None
    newest = {_attempt(entry): entry.at for entry in counted}  # of each attempt, as they are in the order of time
    ends = sorted(newest.values(), reverse=True)[limits.exclude_after - 1 :][:1]
    ends += [entry.at for entry in counted if entry.category in AT_ONCE]
    return max(ends) + limits.expires_after_seconds if ends else None


def _attempt(entry: Entry) -> tuple[str, str, int] | tuple[str, float]:
    return (entry.user, entry.at) if entry.category == BY_HAND else entry.of


# ---------------------------------------------------------------------------------------------------------------------
# One job


@dataclass(frozen=True)
class Asked:
    """What a job's script asks of nodes; `others`: its other options, which jobs of one sweep share."""

    partition: str = ""
    count: int = 1
    named: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    by_file: bool = False
    """Whether a file names the nodes that it wants, or those that it does not."""
    others: frozenset[tuple[str, str]] = frozenset()


def asked_by(script: str, count: int | None, environment: Mapping[str, str]) -> Asked:
    """What a script asks of nodes; `count`: how many; `environment`: options that variables set (SBATCH_PARTITION)."""
    found = options(script)
    lists = (found.get("nodelist", ""), found.get("exclude", ""))
    return Asked(
        partition=found.get("partition") or environment.get("partition", ""),
        count=count or 1,
        named=frozenset(expand(lists[0])),
        excluded=frozenset(expand(lists[1])),
        by_file="nodefile" in found or any("/" in text for text in lists),
        others=frozenset((key, value) for key, value in found.items() if key not in OWN),
    )


@dataclass(frozen=True)
class Choice:
    """The nodes that are left out of a job, and those that should be and can't, each with why."""

    left_out: Mapping[str, str]
    kept: Mapping[str, str]


def choose(
    found: Iterable[Record],
    pool: Collection[str] | None,
    asked: Asked,
    max_share: float,
    already: Collection[str] = (),
) -> Choice:
    """Which nodes are left out of a job, beside those that `already` are. `pool`: its partition's nodes; None: unknown.

    In all never more than `max_share` of the partition (one, where that is less), and never so many that too few remain
    for the job: the worst ones go first.
    """
    gone = asked.excluded.union(already)
    suited = [record for record in found if record.until is not None and record.node not in gone]
    suited = [record for record in suited if pool is None or record.node in pool]
    if asked.by_file:
        why = "a file names the nodes of the job (nodelist, exclude or nodefile)"
        return Choice({}, {record.node: why for record in suited})
    if pool is None:
        most, why = _MOST_OF_UNKNOWN, "the nodes of the job's partition are not known"
    else:
        share = max(1, int(max_share * len(pool))) if max_share else 0
        spare = max(0, len(set(pool) - gone) - asked.count) + len(already)
        most = min(share, spare)
        why = (
            f"at most {share} of the {len(pool)} nodes of its partition may be (monitoring.nodes.max_share)"
            if share <= spare
            else f"the job needs {asked.count} of the {len(pool)} nodes of its partition"
        )
    left_out: dict[str, str] = {}
    kept: dict[str, str] = {}
    for record in sorted(suited, key=_badness, reverse=True):
        if record.node in asked.named:
            kept[record.node] = "the job names it itself (nodelist)"
        elif len(left_out) + len(already) < most:
            left_out[record.node] = record.summary
        else:
            kept[record.node] = why
    return Choice(left_out, kept)


def _badness(record: Record) -> tuple[bool, int, float]:
    """What sorts nodes: those reported by a person or a check, then those of the most attempts, then the newest."""
    newest = record.newest
    return any(entry.category in AT_ONCE for entry in record.counted), record.attempts, newest.at if newest else 0.0


def in_words(left_out: Mapping[str, str]) -> str:
    """`left out n3 (blamed 2 times, last: …), n5 (…)`."""
    named = [f"{node} ({why})" for node, why in left_out.items()]
    return "left out " + ", ".join(named[:_FEW]) + (f" and {len(named) - _FEW} more" if len(named) > _FEW else "")
