"""Sites with a SLURM that is not the usual one: limits, no arrays, nodes that can't start a job, no slurm.conf."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flow.conftest import User, until
from tests.slurm.cluster import Cluster
from tests.slurm.machine import user_name

MakeCluster = Callable[..., Cluster]


def on(cluster: Cluster, user: User) -> User:
    """The user on another cluster."""
    return User(user.home, {**user.environment, **cluster.environment()})


def write(user: User, jobs: int, **sbatch: Any) -> str:
    """An experiment of so many jobs, each of which adds a line to the file `ran`; the option that names it."""
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "j${metadata.number}"},
        "metadata": {"number": 0},
        "backend": {"argv": ["sh", "-c", "echo ${metadata.number} >> ran; echo printed"]},
        "slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50, **sbatch}},
        "monitoring": {"poll_interval_seconds": 0.3},
        "sweep": {"grids": [{"metadata.number": [*range(jobs)]}]},
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    return "--config-ref=./e.yaml"


@pytest.mark.slurm
def test_where_a_user_may_have_few_jobs_all_go_in_turn_and_where_none_exit_code_3_says_so(
    make_slurm_cluster: MakeCluster, user: User
) -> None:
    enforced = "AccountingStorageEnforce=associations,limits"
    cluster = make_slurm_cluster(accounting=True, nodes=1, max_array_size=4, extra=(enforced,))
    me = user_name()
    cluster.run("sacctmgr", "-i", "add", "account", "acc")
    cluster.run("sacctmgr", "-i", "add", "user", me, "account=acc", check=False)

    def allow(jobs: int) -> None:
        cluster.run("sacctmgr", "-i", "modify", "user", me, "set", f"MaxSubmitJobs={jobs}")
        until(
            lambda: re.search(rf"MaxSubmitJobs=.*\b{jobs}\(", cluster.run("scontrol", "show", "assoc_mgr").stdout),
            "the controller to know of it",
        )

    user = on(cluster, user)
    words = ["run", write(user, 7, account="acc"), "slurm.array=true"]
    allow(0)
    refused = user.run(*words, "--plan-id", "none", "--no-monitor")
    assert refused.returncode == 3, refused.stdout
    assert "the scheduler accepts no job now: sbatch: AssocMaxSubmitJobLimit" in refused.stderr
    assert "no job was submitted" in refused.stderr
    allow(2)
    done = user.run("submit", "--manifest", str(user.outputs / "manifests/none.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "scheduler.max_jobs says how many jobs may be in the queue at once (sbatch: AssocMaxSubmitJobLimit"
        in done.stdout
    )
    assert sorted((user.home / "ran").read_text().split()) == [str(number) for number in range(7)]


@pytest.mark.slurm
def test_where_a_site_has_no_arrays_jobs_go_alone_and_their_logs_are_read(
    make_slurm_cluster: MakeCluster, user: User
) -> None:
    user = on(make_slurm_cluster(nodes=1, max_array_size=0), user)
    rule = "++monitoring.log_events.printed={pattern:printed}"
    done = user.run("run", write(user, 2), "--plan-id", "x", "slurm.array=true", rule)
    assert done.returncode == 0, done.stdout + done.stderr
    reported = user.run("monitor", "--session", "x", "--cmd", "events", "--json")
    assert sorted(event["job"] for event in json.loads(reported.stdout)["events"]) == ["j0", "j1"]
    assert [(user.outputs / name / "current_0.log").exists() for name in ("j0",)] == [True]


@pytest.mark.slurm
def test_a_node_whose_prolog_fails_is_reported_and_is_not_taken_for_a_person_who_cancels(
    make_slurm_cluster: MakeCluster, user: User, tmp_path: Path
) -> None:
    prolog = tmp_path / "prolog.sh"
    prolog.write_text("#!/bin/sh\nexit 1\n")
    prolog.chmod(0o755)
    cluster = make_slurm_cluster(nodes=2, extra=(f"Prolog={prolog}",))
    user = on(cluster, user)
    failed = user.run("run", write(user, 1, no_requeue=True), "--plan-id", "once", "project.name=once")
    assert failed.returncode == 1
    assert "node_fail (job 1, the prolog of its node failed" in failed.stdout, failed.stdout
    watcher = user.start("run", write(user, 1, requeue=True), "--plan-id", "again")
    output = user.home / "output.txt"
    until(lambda: "held" in output.read_text(), "a held job")
    said = re.search(r"requeued.held: it waits until `scontrol release (\d+)`(.*)", output.read_text())
    assert said is not None
    assert "a node could not start it" in said[2]
    cluster.run("scancel", said[1])
    assert watcher.wait() == 1
    assert "1 job: 1 cancelled" in output.read_text()


@pytest.mark.slurm
def test_a_slurm_conf_that_is_not_there_is_named_and_not_waited_for(slurm_user: User) -> None:
    nowhere = {"SLURM_CONF": "/nosuch/slurm.conf"}
    done = slurm_user.run("run", write(slurm_user, 1), "--plan-id", "x", **nowhere)
    assert done.returncode == 3
    assert "cannot stat file /nosuch/slurm.conf" in done.stderr
    assert "$SLURM_CONF names a file that is not there: /nosuch/slurm.conf; set it to" in done.stderr
    assert "nothing was submitted: run this" in done.stderr
    assert slurm_user.run("submit", "--manifest", str(slurm_user.outputs / "manifests/x.json")).returncode == 0
