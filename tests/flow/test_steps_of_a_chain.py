"""Links of chains that run their program in steps, on a real SLURM: lost nodes, and nodes that fail their checks."""

from __future__ import annotations

import json

import pytest

from tests.flow.conftest import User, until
from tests.flow.in_job import HEALTHY, LATER, MONITORED, log, ranks, start, steps, write
from tests.slurm.cluster import Cluster


@pytest.mark.slurm
def test_a_link_of_a_chain_is_begun_again_in_its_allocation(slurm_user: User) -> None:
    chain = {"job": {"chain": {"links": 3}}}
    write(slurm_user, f"{LATER}", restarts_in_job=1, sbatch={"nodes": 1}, more=chain)
    result = slurm_user.run("run", "--config-ref", "./e.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    job = slurm_user.session()["job"]
    assert (job["state"], job["attempt"], job["restarts"]) == ("success", 1, {"in job": 1})
    assert [code for _, code in steps(slurm_user)] == ["1", "0"]


@pytest.mark.slurm
def test_a_link_that_has_lost_a_node_wastes_no_later_link(slurm: Cluster, slurm_user: User) -> None:
    chain = {"job": {"chain": {"links": 3, "until": 2, "progress_file": str(slurm_user.home / "done" / "reached")}}}
    saves = 'echo "$SLURM_ARRAY_TASK_ID" > "$DONE/reached"; echo "trained in $SLURM_ARRAY_TASK_ID"; sleep 2'
    waits = f'{LATER} || sleep 300; until [ -e "$DONE/go" ]; do sleep 0.2; done'
    write(slurm_user, f"{waits}; {saves}", restarts_in_job=2, spare_nodes=1, sbatch={"mem": 50}, more=chain)
    start(slurm_user, monitored=False)
    until(lambda: len(ranks(slurm_user)) == 2, "two ranks")
    slurm.kill_node(sorted(ranks(slurm_user))[1][2])
    until(lambda: len(ranks(slurm_user)) == 4, "the second step")
    array = slurm_user.session()["job"]["scheduler_id"].partition("_")[0]
    until(lambda: "waits for the end of link 1" in log(slurm_user), "SLURM to begin the next link beside it")
    waiting = ("squeue", "--noheader", "--array", f"--jobs={array}", "--states=PD", "--format=%r")
    until(lambda: slurm.run(*waiting).stdout.split().count("Dependency") == 2, "the links to be back in the queue")
    (slurm_user.home / "done" / "go").touch()
    ended = ("squeue", "--noheader", f"--jobs={array}", "--states=PD,R,CG,S")
    until(lambda: not slurm.run(*ended).stdout.strip(), "the end of the chain")
    assert "oellm-autoexp: link 2 waits for the end of link 1\n" in log(slurm_user), "SLURM began it beside link 1"
    assert "is not run" not in log(slurm_user)
    assert (slurm_user.home / "done" / "reached").read_text() == "2\n"
    assert log(slurm_user).count("trained in 1\n") == 2
    assert log(slurm_user).count("trained in 2\n") == 2
    assert "trained in 3" not in log(slurm_user)


@pytest.mark.slurm
@MONITORED
def test_nodes_that_fail_their_preflight_do_not_end_a_chain(slurm: Cluster, slurm_user: User, monitored: bool) -> None:
    reached = slurm_user.home / "done" / "reached"
    chain = {"job": {"chain": {"links": 4, "until": 1, "progress_file": str(reached)}}}
    write(slurm_user, 'echo 1 > "$DONE/reached"', preflight=[HEALTHY], sbatch={"nodes": 1, "mem": 50}, more=chain)
    for sick in slurm.node_names[:3]:
        (slurm_user.home / "done" / f"sick.{sick}").touch()
    running = start(slurm_user, monitored=monitored)
    until(lambda: reached.exists(), "the link on the node that works")
    if running is None:
        assert slurm_user.run("monitor", "--session", slurm_user.plan_id).returncode == 0
    else:
        assert running.wait(60) == 0
    job = slurm_user.session()["job"]
    assert (job["state"], job["attempt"]) == ("success", 4)
    recorded = json.loads(slurm_user.run("monitor", "--cmd", "nodes", "--json").stdout)["nodes"]
    assert sorted(node["node"] for node in recorded) == [*slurm.node_names[:3]]
    assert log(slurm_user).count("oellm-autoexp: the next links are kept from ") == 3
    assert [node for _, _, node, _, _ in ranks(slurm_user)] == [slurm.node_names[3]]


@pytest.mark.slurm
@pytest.mark.parametrize("state", ["drain", "down"])
def test_links_wait_for_nodes_that_slurm_has_lost_and_leave_the_one_that_fails(
    slurm: Cluster, slurm_user: User, state: str
) -> None:
    reached = slurm_user.home / "done" / "reached"
    chain = {"job": {"chain": {"links": 4, "until": 1, "progress_file": str(reached)}}}
    write(slurm_user, 'echo 1 > "$DONE/reached"', preflight=[HEALTHY], sbatch={"nodes": 1, "mem": 50}, more=chain)
    sick, *others = slurm.node_names
    (slurm_user.home / "done" / f"sick.{sick}").touch()
    update = ("scontrol", "update", f"nodename={','.join(others)}")
    slurm.run(*update, f"state={state}", "reason=test")
    try:
        start(slurm_user, monitored=False)
        until(lambda: f"oellm-autoexp: the next links are kept from {sick}\n" in log(slurm_user), "the line")
    finally:
        slurm.run(*update, "state=resume")
    until(reached.exists, "the link on a node that works")
    assert slurm_user.run("monitor", "--session", slurm_user.plan_id).returncode == 0
    job = slurm_user.session()["job"]
    assert (job["state"], job["attempt"]) == ("success", 2)


@pytest.mark.slurm
def test_the_last_link_of_a_chain_is_requeued_without_the_nodes_that_fail(slurm: Cluster, slurm_user: User) -> None:
    reached = slurm_user.home / "done" / "reached"
    chain = {"job": {"chain": {"links": 2, "until": 1, "progress_file": str(reached)}}}
    write(slurm_user, 'echo 1 > "$DONE/reached"', preflight=[HEALTHY], sbatch={"nodes": 1, "mem": 50}, more=chain)
    for sick in slurm.node_names[:2]:
        (slurm_user.home / "done" / f"sick.{sick}").touch()
    start(slurm_user, monitored=False)
    until(lambda: reached.exists(), "the link on a node that works")
    assert slurm_user.run("monitor", "--session", slurm_user.plan_id).returncode == 0
    job = slurm_user.session()["job"]
    assert (job["state"], job["attempt"], job["requeues"]) == ("success", 2, 1)
    assert log(slurm_user).count("oellm-autoexp: the next links are kept from ") == 1
    assert f"the job is requeued without {','.join(slurm.node_names[:2])}\n" in log(slurm_user)


@pytest.mark.slurm
def test_a_chain_that_slurm_has_no_other_nodes_for_ends_after_links_without_progress(
    slurm: Cluster, slurm_user: User
) -> None:
    sick = slurm.node_names[0]
    chain = {"job": {"chain": {"links": 5, "until": 1, "progress_file": str(slurm_user.home / "done" / "reached")}}}
    only = {"nodes": 1, "nodelist": sick, "mem": 50}
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch=only, more=chain)
    (slurm_user.home / "done" / f"sick.{sick}").touch()
    start(slurm_user, monitored=False)
    end_file = slurm_user.outputs / "job" / "marks" / "chain.end"
    until(end_file.exists, "the end of the chain")
    assert "2 links in a row got no further" in end_file.read_text()
    assert log(slurm_user).count("the next links are not kept from them: SLURM has no other nodes for it\n") == 2
    assert ranks(slurm_user) == []


@pytest.mark.slurm
def test_a_chain_without_a_progress_file_goes_on_beside_a_node_that_fails(slurm: Cluster, slurm_user: User) -> None:
    chain = {"job": {"chain": {"links": 3}}}
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"nodes": 1, "mem": 50}, more=chain)
    (slurm_user.home / "done" / f"sick.{slurm.node_names[0]}").touch()
    result = slurm_user.run("run", "--config-ref", "./e.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert slurm_user.session()["job"]["attempt"] == 2
    assert f"oellm-autoexp: the next links are kept from {slurm.node_names[0]}\n" in log(slurm_user)
    assert "chain.progress" not in log(slurm_user)


@pytest.mark.slurm
def test_the_script_of_a_chain_that_a_person_submits_by_itself_is_requeued_as_any_other(
    slurm: Cluster, slurm_user: User
) -> None:
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"nodes": 1, "mem": 50}, more={"job": {"chain": {}}})
    planned = slurm_user.run("plan", "--config-ref", "./e.yaml")
    assert planned.returncode == 0, planned.stderr
    (slurm_user.home / "done" / f"sick.{slurm.node_names[0]}").touch()
    script = next((slurm_user.outputs / "job").rglob("*.sbatch"))
    slurm.run("sbatch", "--requeue", "--output=by_hand.out", f"--chdir={slurm_user.home}", str(script))
    by_hand = slurm_user.home / "by_hand.out"
    until(lambda: by_hand.exists() and "trained" in by_hand.read_text(), "its run on another node")
    assert f"oellm-autoexp: the job is requeued without {slurm.node_names[0]}\n" in by_hand.read_text()
    assert "links" not in by_hand.read_text()
