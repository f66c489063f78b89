"""Jobs whose script runs its program in steps, for tests on a real SLURM: programs of bash, and what they left."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flow.conftest import User, until
from tests.slurm.cluster import Cluster

SAYS = 'echo "rank $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME of $SLURM_JOB_NODELIST, first $FIRST"; '
FIRST = '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
RANK = re.compile(r"^rank (\d) of (\d) on (\S+) of (\S+), first (\S+)$", re.MULTILINE)
LATER = '[ "$(ls "$DONE" | grep -c "^begun.$SLURM_PROCID")" -gt 1 ]'
BEGUN = 'mktemp "$DONE/begun.$SLURM_PROCID.XXXXXX" > /dev/null; '
HEALTHY = {"command": ["bash", "-c", 'echo "not today"; [ ! -e "$DONE/sick.$SLURMD_NODENAME" ]'], "name": "healthy"}
MONITORED = pytest.mark.parametrize("monitored", [True, False], ids=["with a monitor", "without a monitor"])


def write(
    user: User, script: str, *, sbatch: dict[str, Any] | None = None, more: dict[str, Any] | None = None, **slurm: Any
) -> None:
    """An experiment of one job whose tasks run this script of bash; `$DONE` is a folder that all nodes share."""
    (user.home / "done").mkdir(exist_ok=True)
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "job"},
        "backend": {"argv": ["bash", "-c", f"{SAYS}{BEGUN}{script}"]},
        "slurm": {
            "env": {"FIRST": FIRST, "DONE": str(user.home / "done")},
            "sbatch": {"nodes": 2, "ntasks_per_node": 1, "time": "5", **(sbatch or {})},
            **slurm,
        },
        "monitoring": {"poll_interval_seconds": 0.2},
        **(more or {}),
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")


def start(user: User, *, monitored: bool) -> subprocess.Popen[str] | None:
    """Submit the experiment, and watch it or not."""
    if monitored:
        return user.start("run", "--config-ref", "./e.yaml")
    result = user.run("run", "--config-ref", "./e.yaml", "--no-monitor")
    assert result.returncode == 0, result.stderr
    return None


def log(user: User) -> str:
    """What the job has written."""
    return "".join(path.read_text() for path in (user.outputs / "job" / "logs").glob("*.out"))


def ranks(user: User) -> list[tuple[str, ...]]:
    """Rank, size, node, nodes and first node of each task so far."""
    return RANK.findall(log(user))


def mark(user: User, kind: str) -> str:
    """The content of the only status file of this kind; '' if there is none."""
    found = [path for path in (user.outputs / "job" / "marks").glob(f"*.{kind}") if path.stem.isdigit()]
    assert len(found) < 2
    return found[0].read_text() if found else ""


def steps(user: User) -> list[tuple[str, str]]:
    """The nodes and the exit code of each step."""
    begun = sorted((user.outputs / "job" / "marks").glob("*.step*.start"))
    ended = [path.with_suffix(".exit") for path in begun]
    return [
        (first.read_text().split("\n")[1], last.read_text().split("\n")[0] if last.exists() else "")
        for first, last in zip(begun, ended, strict=True)
    ]


def saying(cluster: Cluster, node: str) -> list[int]:
    """The processes of a node that say that it is alive."""
    own = (f"SLURM_CLUSTER_NAME={cluster.name}".encode(), f"SLURMD_NODENAME={node}".encode())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            if all(each in environment for each in own) and b"autoexp_alive ()" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def end(user: User, running: subprocess.Popen[str] | None) -> int:
    """The exit code that the job left; the monitor, if there is one, has then seen its end."""
    code = int(until(lambda: mark(user, "exit"), "the job's exit code"))
    assert running is None or running.wait(60) == (code != 0)
    return code


def scontrol(user: User, *words: str) -> str:
    """What scontrol prints."""
    return subprocess.run(["scontrol", *words], env=user.environment, capture_output=True, text=True, check=True).stdout


def hosts(user: User, nodes: str) -> list[str]:
    """The nodes of a list of SLURM's."""
    return scontrol(user, "show", "hostnames", nodes).split()


def restarts_by_slurm(user: User) -> int:
    """How often SLURM has put the only job into its queue again."""
    (found,) = (user.outputs / "job" / "marks").glob("[0-9]*.sick") if mark(user, "sick") else [None]
    ids = {path.name.split(".")[0] for path in (user.outputs / "job" / "marks").glob("[0-9]*")}
    assert len(ids) == 1, found
    shown = re.search(r"Restarts=(\d+)", scontrol(user, "show", "job", *ids))
    assert shown is not None
    return int(shown[1])
