"""Nodes that failed, on a real SLURM and by the commands of a user: blamed, left out, reported, forgiven."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow import chains
from tests.flow.conftest import User, until
from tests.slurm.cluster import Cluster

ECC = "echo 'RuntimeError: CUDA error: uncorrectable ECC error encountered'; exit 1"


def write(user: User, script: str, jobs: int = 1, monitoring: dict[str, Any] | None = None, **sbatch: Any) -> str:
    """An experiment of so many jobs that run a script; the option that names it."""
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "j${metadata.number}"},
        "metadata": {"number": 0},
        "backend": {"argv": ["sh", "-c", script]},
        "slurm": {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50, **sbatch}},
        "monitoring": {"poll_interval_seconds": 0.3, **(monitoring or {})},
        "sweep": {"grids": [{"metadata.number": [*range(jobs)]}]},
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    return "--config-ref=./e.yaml"


def run(user: User, plan: str, *arguments: str) -> str:
    """Run the experiment as the plan of this id; returns what was said."""
    words = (*arguments, "--plan-id", plan, f"project.output_dir=outputs/{plan}/${{project.name}}")
    result = user.run("run", *words)
    assert result.returncode in (0, 1), result.stderr
    return result.stdout + result.stderr


def jobs(user: User, plan: str) -> dict[str, JobState]:
    return Session.load(SessionFiles.named(user.outputs / "monitoring_state", plan).path).jobs


def await_state(user: User, plan: str, state: str) -> None:
    """Wait until the jobs of a plan are in this state."""
    path = SessionFiles.named(user.outputs / "monitoring_state", plan).path
    until(lambda: path.exists() and {job.state for job in jobs(user, plan).values()} == {state}, f"{plan} {state}")


def used(user: User, plan: str) -> list[str]:
    """The nodes on which the jobs of a plan ran, sorted."""
    return sorted(job.answer.nodes for job in jobs(user, plan).values())


def nodes(user: User, *words: str) -> dict[str, Any]:
    """What `--cmd nodes --json` prints."""
    result = user.run("monitor", "--cmd", "nodes", "--json", *words)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def states(user: User, *words: str) -> dict[str, tuple[str, int]]:
    return {each["node"]: (each["state"], each["attempts"]) for each in nodes(user, *words)["nodes"]}


def test_no_job_of_a_later_plan_gets_a_node_on_which_two_attempts_failed_until_it_is_forgiven(
    slurm: Cluster, slurm_user: User
) -> None:
    user, bad = slurm_user, slurm.node_names[1]
    for plan in ("first", "second"):
        said = run(user, plan, write(user, ECC, nodelist=bad))
        assert f"node {bad} is blamed (gpu-hardware: " in said
    assert f"node {bad} is blamed" in said
    assert "it is left out of jobs (monitor --cmd nodes)" in said
    assert states(user) == {bad: ("left_out", 2)}

    four = write(user, "sleep 2", jobs=4, exclusive=True)
    run(user, "next", four)
    assert set(used(user, "next")) == {*slurm.node_names} - {bad}
    for job in jobs(user, "next").values():
        assert job.state == "success"
        (said,) = [entry.message for entry in job.history if entry.event == "nodes"]
        assert said.startswith(f"left out {bad} (blamed 2 times, last: gpu-hardware: ")
    shown = user.run("monitor", "--session", "next", "--cmd", "status")
    assert f"left out: {bad} (--cmd nodes)" in shown.stdout
    as_json = json.loads(user.run("monitor", "--session", "next", "--cmd", "status", "--json").stdout)
    assert {tuple(job["left_out"]) for job in as_json["jobs"]} == {(bad,)}

    forgiven = user.run("monitor", "--cmd", "nodes", "--forgive", bad, "--reason", "its GPU was changed")
    assert (forgiven.returncode, forgiven.stdout.startswith(f"forgiven: {bad}; jobs may get it again")) == (0, True)
    assert states(user) == {bad: ("forgiven", 0)}
    run(user, "after", four)
    assert used(user, "after") == sorted(slurm.node_names)


def test_what_a_node_was_blamed_for_expires(slurm: Cluster, slurm_user: User) -> None:
    user, bad = slurm_user, slurm.node_names[1]
    restart = {"class_name": "RestartAction", "max_attempts": 1, "max_same_failures": None}
    run(user, "first", write(user, ECC, nodelist=bad, monitoring={"state_events": {"crash": {"actions": [restart]}}}))
    assert states(user) == {bad: ("left_out", 2)}
    soon = {"nodes": {"expires_after_hours": 1e-6}}
    run(user, "next", write(user, "sleep 2", jobs=4, exclusive=True, monitoring=soon))
    assert used(user, "next") == sorted(slurm.node_names)
    assert states(user, "--session", "next") == {bad: ("expired", 0)}


def test_an_array_and_what_a_script_excludes_by_itself(slurm: Cluster, slurm_user: User) -> None:
    user = slurm_user
    first, second, *others = slurm.node_names
    nodes(user, "--report", second, "--reason", "smells")
    run(user, "p", write(user, "sleep 1", jobs=4, exclusive=True, exclude=first), "slurm.array=true")
    assert set(used(user, "p")) == set(others)


def test_jobs_in_the_queue_get_it_too_and_jobs_that_name_the_node_run_there(slurm: Cluster, slurm_user: User) -> None:
    user, bad = slurm_user, slurm.node_names[1]
    watcher = user.start("run", write(user, "true", hold=True), "--plan-id", "waits")
    await_state(user, "waits", "pending")
    (waiting,) = jobs(user, "waits").values()
    show = ("scontrol", "show", "job", waiting.newest.scheduler_id)
    assert "ExcNodeList=(null)" in slurm.run(*show).stdout
    nodes(user, "--report", bad, "--reason", "smells of smoke")
    until(lambda: f"ExcNodeList={bad}" in slurm.run(*show).stdout, "the exclusion")
    slurm.run("scontrol", "release", waiting.newest.scheduler_id)
    assert watcher.wait() == 0, (user.home / "output.txt").read_text()
    assert used(user, "waits") != [bad]
    said = run(user, "named", write(user, "true", nodelist=bad))
    assert used(user, "named") == [bad]
    assert f"jobs may still get {bad}, which was blamed: the job names it itself (nodelist)" in said


@pytest.mark.parametrize(("count", "left_out"), [(1, True), (2, False)], ids=["another has it", "both are needed"])
def test_jobs_in_the_queue_with_a_constraint_get_it_if_other_nodes_suit_them(
    slurm: Cluster, slurm_user: User, count: int, left_out: bool
) -> None:
    user, bad = slurm_user, slurm.node_names[1]
    big = f"nodename={','.join(slurm.node_names[:2])}"
    slurm.run("scontrol", "update", big, "availablefeatures=big", "activefeatures=big")
    try:
        watcher = user.start("run", write(user, "true", hold=True, constraint="big", nodes=count), "--plan-id", "waits")
        await_state(user, "waits", "pending")
        (waiting,) = jobs(user, "waits").values()
        show = ("scontrol", "show", "job", waiting.newest.scheduler_id)
        nodes(user, "--report", bad, "--reason", "smells of smoke")
        if left_out:
            until(lambda: f"ExcNodeList={bad}" in slurm.run(*show).stdout, "the exclusion")
        else:
            words = f"jobs in the queue may still get {bad}, which was blamed: the scheduler has no other nodes"
            until(lambda: words in (user.home / "output.txt").read_text(), "why not")
        slurm.run("scontrol", "release", waiting.newest.scheduler_id)
        assert watcher.wait() == 0, (user.home / "output.txt").read_text()
    finally:
        slurm.run("scontrol", "update", big, "availablefeatures=", "activefeatures=")


def test_the_links_of_a_chain_that_are_still_to_come_are_kept_from_the_node_of_the_one_that_runs(
    slurm: Cluster, slurm_user: User
) -> None:
    user = slurm_user
    waits = 'touch "$folder/slow"; until [ -e "$folder/go" ]; do sleep 0.1; done'
    (chains.folder(user) / "then").write_text(f'[ "$SLURM_ARRAY_TASK_ID" != 1 ] || {{ {waits}; }}')
    chains.write(user, scheduler="base")
    watcher = user.start("run", "--config-ref", "./e.yaml", "--plan-id", "p")
    until(lambda: (chains.folder(user) / "slow").exists(), "the first link")
    until(lambda: chains.job(user).answer.nodes, "its node")
    bad, array = chains.job(user).answer.nodes, chains.job(user).newest.scheduler_id.partition("_")[0]
    nodes(user, "--report", bad, "--reason", "smells")
    show = ("scontrol", "show", "job", f"{array}_6")
    until(lambda: f"ExcNodeList={bad}" in slurm.run(*show).stdout, "the exclusion")
    (chains.folder(user) / "go").touch()
    assert watcher.wait() == 0, (user.home / "output.txt").read_text()
    ended = chains.job(user)
    assert (ended.state, ended.attempt, list(ended.newest.left_out)) == ("success", 3, [bad])
    assert ended.answer.nodes not in ("", bad)
    (first, *_) = [entry.message for entry in ended.history if entry.event == "nodes"]
    assert first.startswith(f"later links: left out {bad} (blamed 1 time, last: by hand by ")


def test_a_job_that_needs_all_nodes_gets_all(slurm: Cluster, slurm_user: User) -> None:
    user = slurm_user
    nodes(user, "--report", slurm.node_names[1], "--reason", "smells")
    count = len(slurm.node_names)
    said = run(user, "all", write(user, "true", nodes=count))
    assert [job.state for job in jobs(user, "all").values()] == ["success"]
    assert f"the job needs {count} of the {count} nodes of its partition" in said


def test_a_node_that_slurm_reports_as_failed_is_blamed(slurm: Cluster, slurm_user: User) -> None:
    user, bad = slurm_user, slurm.node_names[2]
    watcher = user.start("run", write(user, "sleep 1000", nodelist=bad, no_requeue=True), "--plan-id", "p")
    await_state(user, "p", "running")
    slurm.run("scontrol", "update", f"nodename={bad}", "state=down", "reason=test")
    assert watcher.wait() == 1
    (node,) = nodes(user)["nodes"]
    assert (node["node"], node["causes"], node["state"]) == (bad, {"node": 1}, "counted")
    assert node["cluster"] == re.search(r"ClusterName\s*=\s*(\S+)", slurm.run("scontrol", "show", "config").stdout)[1]  # type: ignore[index]


def test_wrong_names_are_reported_with_the_ones_that_are_meant(slurm: Cluster, slurm_user: User) -> None:
    user = slurm_user
    first = slurm.node_names[0]
    words = ("monitor", "--cmd", "nodes")
    for option, name, message in (
        ("--report", f"{first}1", f"has no node '{first}1'"),
        ("--report", "a b;", "'a b;' names no node"),
        ("--forgive", first, f"nothing is recorded of '{first}'"),
    ):
        refused = user.run(*words, option, name, "--reason", "x")
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr
    assert f"did you mean '{first}'" in user.run(*words, "--report", f"{first}1", "--reason", "x").stderr
    nodes(user, "--report", f"{first},{slurm.node_names[1]}", "--reason", "x")
    assert f"did you mean '{first}'" in user.run(*words, "--forgive", f"{first}x").stderr
    nodes(user, "--forgive", "all")
    assert {state for state, _ in states(user).values()} == {"forgiven"}


def with_check(user: User, healthy: str) -> None:
    """Give the experiment a preflight check: a command of the shell."""
    path = user.home / "e.yaml"
    config = yaml.safe_load(path.read_text())
    config["slurm"] |= {"launcher_cmd": "srun", "preflight": [{"command": ["bash", "-c", healthy], "name": "healthy"}]}
    path.write_text(f"# @package _global_\n{yaml.safe_dump(config)}")


def test_a_node_that_fails_a_preflight_is_recorded_while_the_job_that_was_requeued_waits(
    slurm: Cluster, slurm_user: User
) -> None:
    user, (sick, *others) = slurm_user, slurm.node_names
    wanted = write(user, "true", requeue=True)
    with_check(user, f'[ "$SLURMD_NODENAME" != {sick} ] || {{ echo "fan 3 stands still"; false; }}')
    words = ("--exclusive", f"--nodes={len(others)}", f"--nodelist={','.join(others)}", "--output=/dev/null")
    others_job = slurm.run("sbatch", "--parsable", *words, "--wrap=sleep 600").stdout.strip()
    watcher = user.start("run", wanted, "--plan-id", "p")
    until(lambda: states(user) == {sick: ("left_out", 1)}, "the blame")
    await_state(user, "p", "pending")
    (job,) = jobs(user, "p").values()
    assert f"left out: {sick} (healthy: fan 3 stands still)" in [entry.message for entry in job.history]
    slurm.run("scancel", others_job)
    assert watcher.wait() == 0, (user.home / "output.txt").read_text()
    assert states(user) == {sick: ("left_out", 1)}


def test_a_node_that_fails_a_preflight_costs_one_requeue_and_no_later_job_until_it_is_forgiven(
    slurm: Cluster, slurm_user: User
) -> None:
    user, sick = slurm_user, slurm.node_names[0]
    healthy = f'[ "$SLURMD_NODENAME" != {sick} ] || {{ echo "fan 3 stands still"; false; }}'
    wanted = write(user, "sleep 1", requeue=True)
    with_check(user, healthy)
    said = run(user, "first", wanted)
    assert f"node {sick} is blamed (preflight: healthy: fan 3 stands still)" in said
    (job,) = jobs(user, "first").values()
    assert (job.state, job.attempt, job.answer.requeues) == ("success", 1, 1)
    assert states(user) == {sick: ("left_out", 1)}

    four = write(user, "sleep 2", jobs=4, exclusive=True)
    run(user, "next", four)
    assert sick not in used(user, "next")
    assert user.run("monitor", "--cmd", "nodes", "--forgive", sick).returncode == 0
    run(user, "after", four)
    assert used(user, "after") == sorted(slurm.node_names)
