"""The clusters that other tests rely on are real, private, and gone afterwards."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.machine import ClusterError, processes, wait

MakeCluster = Callable[..., Cluster]


def states(cluster: Cluster) -> list[str]:
    return cluster.run("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%t").stdout.split()


def submit(cluster: Cluster, script: Path, body: str, *options: str) -> str:
    """Job id of a script whose output goes nowhere unless an option says otherwise."""
    script.write_text(f"#!/bin/bash\n{body}\n")
    return cluster.run("sbatch", "--parsable", "--output=/dev/null", *options, str(script)).stdout.strip()


def test_starts_with_four_idle_nodes_and_every_partition(slurm_cluster: Cluster) -> None:
    assert states(slurm_cluster) == ["idle"] * 4
    partitions = slurm_cluster.run("sinfo", "--noheader", "--format=%R").stdout.split()
    assert sorted(partitions) == ["debug", "high", "low", "lowrq", "short"]


def test_a_job_on_two_nodes_runs_four_tasks_on_each_and_sees_its_gpus(slurm: Cluster, tmp_path: Path) -> None:
    script, output = tmp_path / "job", tmp_path / "output"
    script.write_text("#!/bin/bash\nsrun sh -c 'echo $SLURMD_NODENAME $SLURM_PROCID $CUDA_VISIBLE_DEVICES'\n")
    shape = ["--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4"]
    # no --parsable and no help from the cluster: the fixture has pointed SLURM's own commands to it
    subprocess.run(["sbatch", "--wait", *shape, f"--output={output}", script], check=True, stdout=subprocess.DEVNULL)
    first, second = slurm.node_names[:2]
    expected = [f"{first if rank < 4 else second} {rank} 0,1,2,3" for rank in range(8)]
    assert sorted(output.read_text().splitlines()) == sorted(expected)


def test_srun_finds_the_cluster_in_a_job_that_exports_nothing(slurm: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "output"
    submit(slurm, tmp_path / "job", "srun /bin/echo here", "--export=NONE", "--wait", f"--output={output}")
    assert output.read_text() == "here\n"


def test_accounting_answers_and_remembers_over_an_outage(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path / "job", "exit 7", "--comment=remember me")
    question = ("sacct", "--jobs", job, "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode")
    wait(f"job {job} in sacct", lambda: slurm.run(*question).stdout == "FAILED|7:0\n")

    slurm.stop_accounting()
    refused = slurm.run(*question, check=False)
    assert refused.returncode == 1
    assert "Connection refused" in refused.stderr

    slurm.start_accounting()
    assert slurm.run(*question).stdout == "FAILED|7:0\n"


def test_without_accounting_sacct_says_that_it_is_disabled(slurm_no_accounting: Cluster) -> None:
    sacct = subprocess.run(["sacct"], capture_output=True, text=True, check=False)
    assert sacct.returncode == 1
    assert "Slurm accounting storage is disabled" in sacct.stderr


def test_a_frozen_controller_answers_nothing_until_it_is_thawed(make_slurm_cluster: MakeCluster) -> None:
    cluster = make_slurm_cluster(nodes=1, extra=("MessageTimeout=2",))
    cluster.freeze_controller()
    assert "timed out" in cluster.run("squeue", check=False).stderr
    cluster.thaw_controller()
    assert cluster.run("squeue").returncode == 0


def test_jobs_go_on_while_the_controller_is_stopped(slurm_no_accounting: Cluster, tmp_path: Path) -> None:
    cluster, done = slurm_no_accounting, tmp_path / "done"
    job = submit(cluster, tmp_path / "job", f"until [ -e {tmp_path}/go ]; do sleep 0.1; done; touch {done}")
    state = ("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
    wait(f"job {job} to run", lambda: cluster.run(*state).stdout == "RUNNING\n")

    cluster.stop_controller()
    assert cluster.run("scontrol", "ping", check=False).returncode == 1
    (tmp_path / "go").touch()
    wait("the job's file", done.exists)

    cluster.start_controller()
    wait(f"job {job} to be known as completed", lambda: cluster.run(*state).stdout == "COMPLETED\n")


def test_a_killed_node_takes_its_jobs_along_and_comes_back(make_slurm_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_slurm_cluster(nodes=2)
    node = cluster.node_names[1]
    job = submit(cluster, tmp_path / "job", f"touch {tmp_path}/up; sleep 1000", "--no-requeue", f"--nodelist={node}")
    wait("the job to run", (tmp_path / "up").exists)

    cluster.kill_node(node)
    marks = {f"SLURM_JOB_ID={job}", f"SLURM_CLUSTER_NAME={cluster.name}"}
    assert [process for process in processes() if marks <= process.environment] == []
    # the controller would notice by itself, a while after SlurmdTimeout
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=power")
    assert states(cluster)[1].startswith("down")
    cluster.start_node(node)
    assert states(cluster) == ["idle", "idle"]


def test_two_clusters_side_by_side_know_nothing_of_each_other(make_slurm_cluster: MakeCluster, tmp_path: Path) -> None:
    one, two = make_slurm_cluster(nodes=2), make_slurm_cluster(nodes=3)
    submit(one, tmp_path / "job", "sleep 1000", "--hold", "--job-name=only-in-one")
    two.reset()
    assert "only-in-one" in one.run("squeue", "--format=%j").stdout
    assert (len(states(one)), len(states(two))) == (2, 3)

    two.clean()
    assert states(one) == ["idle"] * 2


def test_stopping_leaves_no_process_behind_whatever_state_it_was_in(
    make_slurm_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster = make_slurm_cluster(nodes=2)
    stubborn = f"trap '' TERM; setsid sleep 1000 & touch {tmp_path}/up; wait; wait"
    submit(cluster, tmp_path / "job", stubborn, f"--nodelist={cluster.node_names[0]}")
    wait("the job to run", (tmp_path / "up").exists)
    cluster.kill_node(cluster.node_names[0], jobs=False)
    cluster.freeze_controller()

    cluster.stop()
    assert not any(cluster.daemons().values())
    marked = f"SLURM_CLUSTER_NAME={cluster.name}"
    assert [process for process in processes() if marked in process.environment] == []


def test_a_stopped_cluster_starts_again_and_counts_on(make_slurm_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_slurm_cluster(nodes=1)
    first = submit(cluster, tmp_path / "job", "true", "--hold")
    cluster.stop()
    cluster.start()
    assert int(submit(cluster, tmp_path / "job", "true", "--hold")) > int(first)


def test_a_start_that_fails_shows_the_log_and_stops_what_it_started(
    make_slurm_cluster: MakeCluster, slurm_directory: Path
) -> None:
    broken = slurm_directory / "broken"
    with pytest.raises(ClusterError, match="NoSuchOption"):
        make_slurm_cluster(directory=broken, extra=("NoSuchOption=1",))
    assert not any(Cluster(broken).daemons().values())


def test_a_running_cluster_refuses_to_be_started_with_other_knobs(make_slurm_cluster: MakeCluster) -> None:
    cluster = make_slurm_cluster(nodes=1)
    with pytest.raises(ClusterError, match="a cluster with nodes=1 runs"):
        Cluster(cluster.directory, accounting=False, nodes=2).start()


def test_a_directory_that_holds_something_else_is_never_removed(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("d")
    (directory / "thesis.tex").touch()
    with pytest.raises(ClusterError, match="something else"):
        Cluster(directory).clean()
    assert (directory / "thesis.tex").exists()


def test_a_directory_of_somebody_else_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("d")
    if os.getuid() == 0:
        os.chown(directory, 54321, -1)
    else:
        directory = Path("/usr")
    with pytest.raises(ClusterError, match="belongs"):
        Cluster(directory).clean()
    assert directory.exists()


def test_a_directory_whose_sockets_would_have_too_long_names_is_refused() -> None:
    with pytest.raises(ClusterError, match="too long"):
        Cluster(Path("/tmp") / ("x" * 80))
