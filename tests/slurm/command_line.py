"""The commands of tests/slurm/cluster.py."""

import argparse
import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.slurm import cluster as clusters
from tests.slurm.cluster import Cluster, default_directory
from tests.slurm.machine import ClusterError

PACKAGES = (
    "slurmctld", "slurmd", "slurmdbd", "slurm-client", "munge", "mariadb-server-core", "mariadb-client-core",
)  # fmt: skip


def install() -> None:
    """Install the Debian packages that are missing; needs root only then."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *PACKAGES]
    try:
        known = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        raise ClusterError("install works on Debian and its descendants only") from None
    absent = [package for package in PACKAGES if f"{package} installed" not in known]
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *absent]
    if not absent:
        return
    if os.getuid() != 0:
        raise ClusterError(f"to be run as root: {shlex.join(command)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise ClusterError(f"{shlex.join(command)}: exit code {done.returncode} (apt-get update?)\n{done.stdout}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=clusters.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="install|start|stop|status|clean|env")
    commands.add_parser("install", help="install the Debian packages that are missing (as root)")
    start = commands.add_parser("start", help="start whatever does not run yet; the options are the cluster's knobs")
    parsers = {
        "start": start,
        "stop": commands.add_parser("stop", help="cancel all jobs and stop; `start` goes on with the same job numbers"),
        "status": commands.add_parser("status", help="daemons and nodes; exit code 1 unless everything runs"),
        "clean": commands.add_parser("clean", help="stop, and remove the directory"),
        "env": commands.add_parser("env", help="print the shell line that makes SLURM commands use the cluster"),
    }
    for command in parsers.values():
        command.add_argument(
            "--dir", type=Path, default=default_directory(), metavar="DIR", help="where it lives (default: %(default)s)"
        )
    for knob in dataclasses.fields(Cluster)[1:]:
        _add_option(start, knob)
    return parser


def _add_option(parser: argparse.ArgumentParser, knob: "dataclasses.Field[Any]") -> None:
    options: dict[str, Any] = {"dest": knob.name, "default": argparse.SUPPRESS}
    text = knob.metadata["help"]
    if knob.default not in (dataclasses.MISSING, None, ()):
        text += f" (default: {knob.default})"
    if knob.type is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif knob.type == tuple[str, ...]:
        options |= {"action": "append", "metavar": "LINE"}
    else:
        options |= {"type": str if knob.name in ("node", "node_prefix") else int, "metavar": "X"}
    parser.add_argument(f"--{knob.name.replace('_', '-')}", help=text, **options)


def _status(cluster: Cluster) -> int:
    daemons = cluster.daemons()
    lines = [f"{f'up, process {pid}' if pid else 'down':20}{name}\n" for name, pid in daemons.items()]
    if daemons["slurmctld"]:
        lines.append(cluster.run("sinfo", "--Node", "--long", check=False).stdout)
    sys.stdout.write("".join(lines))
    return 0 if all(daemons.values()) else 1


def _obey(command: str, cluster: Cluster) -> int:
    match command:
        case "start":
            cluster.start()
        case "stop":
            cluster.stop()
        case "clean":
            cluster.clean()
        case "status":
            return _status(cluster)
        case "env":
            sys.stdout.write(f"export SLURM_CONF={shlex.quote(cluster.environment()['SLURM_CONF'])}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: `status` found something that does not run; 2: it cannot be done."""
    knobs = vars(_parser().parse_args(arguments))
    command = knobs.pop("command")
    try:
        if command == "install":
            install()
            return 0
        directory = Path(knobs.pop("dir")).absolute()
        extra, partitions = (tuple(knobs.pop(name, ())) for name in ("extra", "partitions"))
        cluster = Cluster(directory, extra=extra, partitions=partitions, **knobs)
        cluster.check_directory()
        return _obey(command, cluster if command == "start" else Cluster.load(directory) or cluster)
    except ClusterError as error:
        sys.stderr.write(f"cluster.py: {error}\n")
        return 2
