"""What a site allows one job: its partitions, QOS and accounts with their limits. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

VARIABLES = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
}
"""Variables by which users choose account and partition; in sbatch they overrule the script (sbatch(1))."""
_COUNT = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Shape:
    """What each of some nodes of a partition has: CPUs as SLURM counts them, memory in MiB, GPUs."""

    cpus: int
    memory: int
    gpus: int


@dataclass(frozen=True)
class Partition:
    """A partition's limits for one job; None: there is no limit. An empty set of allowed names allows all."""

    name: str
    default: bool = False
    max_seconds: int | None = None
    max_nodes: int | None = None
    qos: str = ""
    """A QOS whose limits apply to all jobs of the partition."""
    accounts_allowed: frozenset[str] = frozenset()
    qos_allowed: frozenset[str] = frozenset()
    min_nodes: int | None = None
    accounts_denied: frozenset[str] = frozenset()
    qos_denied: frozenset[str] = frozenset()
    groups_allowed: frozenset[str] = frozenset()
    state: str = "UP"
    """As in scontrol(1): in UP, jobs are accepted and run; in DOWN, accepted and wait; else they are refused."""
    nodes: tuple[Shape, ...] = ()
    """The shapes of its nodes."""


@dataclass(frozen=True)
class ClusterNodes:
    """The nodes of a cluster, by partition. `default`: the partition of jobs that name none; '' if there is none."""

    name: str
    partitions: Mapping[str, frozenset[str]]
    default: str = ""

    @property
    def names(self) -> frozenset[str]:
        """The nodes of all partitions."""
        return frozenset().union(*self.partitions.values())

    def of(self, partition: str) -> frozenset[str] | None:
        """The nodes of a partition, or of several (`a,b`), '' for the default one; None if one of them is not known."""
        known = [self.partitions.get(name) for name in (partition or self.default).split(",")]
        found = [nodes for nodes in known if nodes is not None]
        return frozenset().union(*found) if len(found) == len(known) else None


@dataclass(frozen=True)
class Qos:
    """The limits of a QOS for one job; None: there is no limit. `lifts_*`: they replace those of the partition."""

    name: str
    max_seconds: int | None = None
    max_nodes: int | None = None
    min_nodes: int | None = None
    lifts_time: bool = False
    lifts_nodes: bool = False


@dataclass(frozen=True)
class Association:
    """An account that a user may use, with its QOS, and its partition if it is not for all partitions."""

    account: str
    partition: str = ""
    qos: frozenset[str] = frozenset()
    default_qos: str = ""
    max_seconds: int | None = None
    max_nodes: int | None = None


@dataclass(frozen=True)
class Site:
    """What is known of a cluster; empty fields are not known. Accounts and QOS are in lower case.

    `complete`: SLURM itself reported the partitions, and there are no others. `accounting`: SLURM reported QOS and
    accounts ("told"), does not enforce them ("off"), or its accounting did not answer ("silent"). `groups` are those of
    the user; None: the user may use the partitions of every group.
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


def count(text: str) -> int | None:
    """A count as SLURM writes it; None for any other text."""
    return int(text) if _COUNT.fullmatch(text) else None
