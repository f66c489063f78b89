"""Nodes that die under a running step with spare nodes, on a real SLURM: sooner seen than by SLURM, or left to it."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.flow.conftest import User, until
from tests.flow.in_job import (
    HEALTHY,
    LATER,
    MONITORED,
    end,
    hosts,
    log,
    mark,
    ranks,
    restarts_by_slurm,
    saying,
    start,
    steps,
    write,
)
from tests.slurm.cluster import Cluster


@pytest.mark.slurm
@MONITORED
def test_a_killed_node_is_replaced_by_a_spare_one_without_the_queue(
    slurm: Cluster, slurm_user: User, monitored: bool
) -> None:
    write(slurm_user, f"{LATER} || sleep 300; echo trained", restarts_in_job=2, spare_nodes=1)
    running = start(slurm_user, monitored=monitored)
    until(lambda: len(ranks(slurm_user)) == 2, "two ranks")
    (_, _, first, _, _), (_, _, second, _, _) = sorted(ranks(slurm_user))
    slurm.kill_node(second)
    assert end(slurm_user, running) == 0
    (_, _, _, nodes, _), (_, size, third, _, master) = sorted(ranks(slurm_user)[2:])
    assert (nodes, size, master) == (f"{first},{third}", "2", first)
    assert third != second
    assert log(slurm_user).count("trained\n") == 2
    assert mark(slurm_user, "sick") == f"{second}\tanswer\tit gave no sign of life\n", "sooner than SLURM sees it"
    assert restarts_by_slurm(slurm_user) == 0
    if monitored:
        job = slurm_user.session()["job"]
        assert (job["state"], job["attempt"], job["restarts"], job["requeues"]) == ("success", 1, {"in job": 1}, 0)
        assert any(f"step 2 of 3 on {nodes}; {second} left out" in entry["message"] for entry in job["history"])


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("jobs", "then"),
    [(True, "while sleep 1; do echo $((k += 1)); done"), (False, "sleep 300")],
    ids=["the program still writes", "slurmd alone has died"],
)
def test_a_step_that_may_still_work_is_ended_by_slurm_only(
    slurm: Cluster, slurm_user: User, jobs: bool, then: str
) -> None:
    write(slurm_user, f"{LATER} || {then}; echo trained", restarts_in_job=1, spare_nodes=1)
    start(slurm_user, monitored=False)
    until(lambda: len(ranks(slurm_user)) == 2, "two ranks")
    second = sorted(ranks(slurm_user))[1][2]
    slurm.kill_node(second, jobs=jobs)
    assert end(slurm_user, None) == 0
    assert len(steps(slurm_user)) == 2
    assert re.fullmatch(rf"{second}\tslurm\tSLURM shows it as .+\n", mark(slurm_user, "sick"))
    assert "sign of life" not in log(slurm_user)


@pytest.mark.slurm
def test_a_node_is_replaced_also_where_the_node_of_the_script_has_no_part_in_the_step(
    slurm: Cluster, slurm_user: User
) -> None:
    first = slurm.node_names[0]
    sbatch = {"nodelist": first}
    program = f"{LATER} || sleep 300; echo trained"
    write(slurm_user, program, sbatch=sbatch, restarts_in_job=1, spare_nodes=2, preflight=[HEALTHY])
    (slurm_user.home / "done" / f"sick.{first}").touch()
    start(slurm_user, monitored=False)
    until(lambda: len(ranks(slurm_user)) == 2, "two ranks")
    last = sorted(ranks(slurm_user))[1][2]
    until(lambda: saying(slurm, last), "what says that the node is alive")
    slurm.kill_node(last)
    assert end(slurm_user, None) == 0
    assert f"{last}\tanswer\tit gave no sign of life\n" in mark(slurm_user, "sick")


@pytest.mark.slurm
def test_a_node_whose_task_that_says_so_is_stopped_is_not_lost(slurm: Cluster, slurm_user: User) -> None:
    write(slurm_user, "sleep 35; echo trained", restarts_in_job=1, spare_nodes=1)
    start(slurm_user, monitored=False)
    until(lambda: len(ranks(slurm_user)) == 2, "two ranks")
    second = sorted(ranks(slurm_user))[1][2]
    for process in until(lambda: saying(slurm, second), "what says that the node is alive"):
        os.kill(process, signal.SIGSTOP)
    assert end(slurm_user, None) == 0
    assert [code for _, code in steps(slurm_user)] == ["0"]


@pytest.mark.slurm
@pytest.mark.parametrize("watched", [True, False], ids=["while it is watched", "before somebody watches"])
def test_a_job_whose_first_node_dies_gets_a_new_attempt_at_once(
    slurm: Cluster, slurm_user: User, watched: bool
) -> None:
    actions = [{"class_name": "RestartAction"}]
    rules = {"inactivity_threshold_seconds": 3600, "state_events": {"stall": {"actions": actions}}}
    more = {"monitoring": {"poll_interval_seconds": 0.2, **rules}}
    write(slurm_user, f"{LATER} || sleep 300; echo trained", restarts_in_job=2, spare_nodes=1, more=more)
    running = start(slurm_user, monitored=watched)
    until(lambda: len(ranks(slurm_user)) == 2, "two ranks")
    first = sorted(ranks(slurm_user))[0][2]
    slurm.kill_node(first)
    if running is None:
        left = ("squeue", "--noheader", "--format=%N", "--states=R")
        until(lambda: first not in hosts(slurm_user, slurm.run(*left).stdout.strip()), "SLURM to see it")
        running = slurm_user.start("monitor", "--session", slurm_user.plan_id)
    assert running.wait(120) == 0
    assert f"job: node {first}, on which its script ran, has died: " in (slurm_user.home / "output.txt").read_text()
    job = slurm_user.session()["job"]
    assert (job["state"], job["attempt"], job["restarts"]) == ("success", 2, {"stall": 1})
    assert any(f"node {first}, on which its script ran, has died" in entry["message"] for entry in job["history"])
    assert log(slurm_user).count("trained\n") == 2


@pytest.mark.slurm
def test_a_step_that_lost_a_node_has_failed_though_its_other_tasks_ended_well(slurm: Cluster, slurm_user: User) -> None:
    waits = 'if [ $SLURM_PROCID = 0 ]; then until [ -e "$DONE/go" ]; do sleep 0.2; done; else sleep 300; fi'
    write(slurm_user, f"if {LATER}; then :; else {waits}; fi; echo trained", restarts_in_job=1, spare_nodes=1)
    start(slurm_user, monitored=False)
    until(lambda: len(ranks(slurm_user)) == 2, "two ranks")
    second = sorted(ranks(slurm_user))[1][2]
    slurm.kill_node(second)
    (slurm_user.home / "done" / "go").touch()
    assert end(slurm_user, None) == 0
    assert [code for _, code in steps(slurm_user)] == ["1", "0"]
    assert second not in steps(slurm_user)[1][0].split(",")
    assert f"step 1 has failed, though its other tasks ended with 0: {second} gave no sign of life\n" in log(slurm_user)


@pytest.mark.slurm
def test_a_program_that_notices_a_dead_node_before_slurm_runs_again_on_the_spare_one(
    slurm: Cluster, slurm_user: User
) -> None:
    waits = 'if [ $SLURM_PROCID = 0 ]; then until [ -e "$DONE/killed" ]; do sleep 0.2; done; exit 5; else sleep 300; fi'
    write(slurm_user, f"if {LATER}; then :; else {waits}; fi; echo trained", restarts_in_job=1, spare_nodes=1)
    start(slurm_user, monitored=False)
    until(lambda: len(ranks(slurm_user)) == 2, "two ranks")
    second = sorted(ranks(slurm_user))[1][2]
    slurm.kill_node(second)
    (slurm_user.home / "done" / "killed").touch()
    assert end(slurm_user, None) == 0
    assert [code for _, code in steps(slurm_user)] == ["5", "0"]
    assert second not in steps(slurm_user)[1][0].split(",")
    assert restarts_by_slurm(slurm_user) == 0
