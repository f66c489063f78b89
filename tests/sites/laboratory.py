"""A real SLURM that has a site's partitions, nodes, limits, accounts and QOS, in small: only a few nodes are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.fixtures import running
from tests.slurm.machine import user_name

SITES = ("lumi", "leonardo", "marenostrum", "juwels", "jupiter")
ENFORCED = ("AccountingStorageEnforce=associations,limits,qos", "EnforcePartLimits=ALL")


@dataclass(frozen=True)
class Site:
    """What a file beside this one says of a site, by its name."""

    name: str
    node: str
    memory_mb: int
    gpus: int
    absent: int
    """Nodes that are down for good: they count where SLURM compares a job with the size of a partition."""
    partitions: tuple[str, ...]
    account: str
    qos: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    """Variables beside SLURM_ACCOUNT that a user sets by the site's page."""

    @classmethod
    def load(cls, name: str) -> Site:
        """Read `<name>.yaml`."""
        data: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text())
        lists: dict[str, Any] = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        return cls(name=name, **{**data, **lists})

    def cluster(self, directory: Path) -> Cluster:
        """The cluster, not yet started."""
        absent = f"NodeName=absent[1-{self.absent}] {self.node} RealMemory={self.memory_mb} Gres=gpu:{self.gpus}"
        return Cluster(
            directory,
            memory_mb=self.memory_mb,
            gpus=self.gpus,
            node=self.node,
            partitions=self.partitions,
            extra=(*ENFORCED, f"{absent} NodeAddr=127.0.0.1 Port=1 State=DOWN"),
        )

    @contextmanager
    def running(self, directory: Path) -> Iterator[Cluster]:
        """The cluster, in which this user has the site's account and may use its QOS."""
        with running(self.cluster(directory)) as cluster:
            manage = ("sacctmgr", "--immediate", "--quiet")
            for line in self.qos:
                cluster.run(*manage, "add", "qos", *line.split())
            cluster.run(*manage, "add", "account", self.account, f"Description={self.name}", "Organization=lab")
            self.admit(cluster, user_name())
            yield cluster

    def admit(self, cluster: Cluster, user: str) -> None:
        """Let a user use the site's account and its QOS; one who may already stays."""
        names = ",".join(["normal", *(line.split()[0] for line in self.qos)])
        words = ("add", "user", user, f"account={self.account}", f"qos={names}", "defaultqos=normal")
        cluster.run("sacctmgr", "--immediate", "--quiet", *words, check=False)
