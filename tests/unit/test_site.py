"""What a site allows a job, from what its commands print, and from what a profile says."""

from __future__ import annotations

import pytest

from oellm_autoexp.slurm.site import Site, partitions, problems

SHOWN = """\
PartitionName=debug AllowGroups=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP TotalNodes=4 TRES=cpu=32
PartitionName=boost Default=YES QoS=N/A MaxNodes=2 MaxTime=1-00:00:00 State=UP TotalCPUs=32 TotalNodes=4
PartitionName=short Default=NO MaxNodes=UNLIMITED MaxTime=00:05:00 State=UP TotalNodes=4
PartitionName=ruled Default=NO QoS=long MaxNodes=1 MaxTime=00:05:00 State=UP TotalNodes=4
"""
SITE = Site(partitions(SHOWN), complete=True)


def test_partitions_are_read_with_their_limits() -> None:
    assert [(p.name, p.default, p.max_seconds, p.max_nodes) for p in SITE.partitions.values()] == [
        ("debug", False, None, 4),
        ("boost", True, 86400, 2),
        ("short", False, 300, 4),
        ("ruled", False, None, None),
    ]
    assert partitions("") == partitions("slurm_load_partitions: Unable to contact\n") == {}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, ""),
        ({"time": "24:00:00", "nodes": "2"}, ""),
        ({"time": "1-00:00:01"}, "asks for 1-00:00:01, and partition boost allows 1-00:00:00: the job would wait"),
        ({"time": "0"}, "asks for no time limit, and partition boost allows 1-00:00:00"),
        ({"nodes": "3"}, "asks for 3 nodes, and partition boost gives 2"),
        ({"nodes": "2-8"}, ""),
        ({"nodes": "5", "partition": "debug"}, "asks for 5 nodes, and partition debug gives 4"),
        ({"time": "10", "partition": "short"}, "asks for 0-00:10:00, and partition short allows 0-00:05:00"),
        ({"time": "10", "partition": "short,debug"}, ""),
        ({"time": "2-0", "partition": "short,boost"}, "partition short allows"),
        ({"time": "2-0", "qos": "long"}, ""),
        ({"partition": "shrt"}, "there is no partition 'shrt'"),
        ({"partition": "shrt", "qos": "long"}, "there is no partition 'shrt'"),
    ],
)
def test_what_would_wait_for_ever_is_told(asked: dict[str, str], said: str) -> None:
    found = problems(asked, SITE, "job.sbatch")
    assert bool(found) == bool(said)
    assert said in (str(found[0]) if found else "")
    assert all(problem.where == "job.sbatch" for problem in found)


def test_an_unknown_partition_is_told_with_the_nearest() -> None:
    (problem,) = problems({"partition": "shrt"}, SITE, "x")
    assert problem.hint == "did you mean 'short'?"
    (problem,) = problems({"partition": "gpu"}, SITE, "x")
    assert problem.hint == "known: boost, debug, ruled, short"
