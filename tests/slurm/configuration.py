"""The configuration files of a tests.slurm.cluster.Cluster: the templates in conf/, filled in."""

import dataclasses
import json
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tests.slurm.machine import user_name

if TYPE_CHECKING:
    from tests.slurm.cluster import Cluster

TEMPLATES = Path(__file__).parent / "conf"
USUAL_PARTITIONS = (
    "debug Default=YES DefaultTime=60",
    "short MaxTime=5 DefaultTime=1",
    "low PriorityTier=1 PreemptMode=CANCEL",
    "lowrq PriorityTier=1 PreemptMode=REQUEUE",
    "high PriorityTier=10",
)


def write_files(cluster: "Cluster", port: int) -> None:
    """Write what the daemons read, for a cluster whose block of ports begins at `port`."""
    top = cluster.directory
    spools = (f"spool/{name}" for name in ("ctld", *cluster.node_names))
    for folder in ("", "etc", "run", "log", "dev", "tmp", "spool", *spools):
        (top / folder).mkdir(exist_ok=True)
        (top / folder).chmod(0o755)  # munged refuses more, and clients need to pass
    knobs = dataclasses.asdict(dataclasses.replace(cluster, port=port)) | {"directory": str(top)}
    (top / "cluster.json").write_text(json.dumps(knobs, indent=2))
    for number in range(cluster.gpus):
        gpu = top / f"dev/gpu{number}"
        gpu.unlink(missing_ok=True)
        gpu.symlink_to("/dev/null")  # slurmd insists on a device
    if not (top / "run/munge.key").exists():
        _write(top, "run/munge.key", secrets.token_hex(512), 0o400)
    for template in TEMPLATES.iterdir():
        mode = 0o600 if template.name == "slurmdbd.conf" else 0o644  # slurmdbd refuses more
        _write(top, f"etc/{template.name}", template.read_text().format_map(_settings(cluster, port)), mode)
    # without it `sbatch --export=NONE` would leave srun inside the job without a configuration
    export = f"#!/bin/sh\necho export SLURM_CONF={cluster.environment()['SLURM_CONF']}\n"
    _write(top, "etc/task_prolog", export, 0o755)


def _settings(cluster: "Cluster", port: int) -> dict[str, object]:
    """What the templates in conf/ name. Ports: slurmctld +0, slurmdbd +1, the nodes from +2."""
    optional = {
        "cgroup": cluster.cgroups, "linuxproc": not cluster.cgroups,
        "slurmdbd": cluster.accounting, "no_slurmdbd": not cluster.accounting,
        "gres": bool(cluster.gpus),
    }  # fmt: skip
    return {
        **{field.name: getattr(cluster, field.name) for field in dataclasses.fields(cluster)},
        **{f"if_{name}": "" if holds else "# " for name, holds in optional.items()},
        "name": cluster.name,
        "user": user_name(),
        "host": socket.gethostname().split(".")[0],
        "port": port,
        "dbd_port": port + 1,
        "node_list": f"{cluster.node_names[0].removesuffix('1')}[1-{cluster.nodes}]",
        "node_ports": f"{port + 2}-{port + 1 + cluster.nodes}",
        "last_gpu": cluster.gpus - 1,
        "extra": "\n".join(cluster.extra),
        "node": cluster.node or f"Sockets=1 CoresPerSocket={cluster.cpus} ThreadsPerCore=1",
        "partitions": "\n".join(f"PartitionName={text}" for text in cluster.partitions or USUAL_PARTITIONS),
    }


def _write(top: Path, file: str, text: str, mode: int = 0o644) -> None:
    path = top / file
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
