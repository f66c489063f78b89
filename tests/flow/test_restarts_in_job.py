"""Restarts in the job, spare nodes and preflight checks on a real SLURM; the job's id never changes."""

from __future__ import annotations

import re
import subprocess
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


def end(user: User, running: subprocess.Popen[str] | None) -> int:
    """The exit code that the job left; the monitor, if there is one, has then seen its end."""
    code = int(until(lambda: mark(user, "exit"), "the job's exit code"))
    assert running is None or running.wait(60) == (code != 0)
    return code


def scontrol(user: User, *words: str) -> str:
    """What scontrol prints."""
    return subprocess.run(["scontrol", *words], env=user.environment, capture_output=True, text=True, check=True).stdout


def restarts_by_slurm(user: User) -> int:
    """How often SLURM has put the only job into its queue again."""
    (found,) = (user.outputs / "job" / "marks").glob("[0-9]*.sick") if mark(user, "sick") else [None]
    ids = {path.name.split(".")[0] for path in (user.outputs / "job" / "marks").glob("[0-9]*")}
    assert len(ids) == 1, found
    shown = re.search(r"Restarts=(\d+)", scontrol(user, "show", "job", *ids))
    assert shown is not None
    return int(shown[1])


@pytest.mark.slurm
@MONITORED
def test_a_program_that_fails_once_is_begun_again_in_its_job(slurm_user: User, monitored: bool) -> None:
    write(slurm_user, f"{LATER} || [ $SLURM_PROCID = 0 ] && sleep 1 || exit 3; echo trained", restarts_in_job=3)
    running = start(slurm_user, monitored=monitored)
    assert end(slurm_user, running) == 0
    first, second = steps(slurm_user)
    assert (first[1], second[1]) == ("3", "0")
    assert f"oellm-autoexp: restart 1 of 3 in the job: on {second[0]}, as step 1 ended with exit code 3\n" in log(
        slurm_user
    )
    assert restarts_by_slurm(slurm_user) == 0
    if monitored:
        job = slurm_user.session()["job"]
        assert (job["state"], job["attempt"], job["restarts"], job["requeues"]) == ("success", 1, {"in job": 1}, 0)
        (said,) = [entry["message"] for entry in job["history"] if entry["event"] == "in job"]
        assert said == f"restarted in the job: step 2 of 4 on {second[0]}: step 1 ended with exit code 3"


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
    assert re.fullmatch(rf"{second}\t(slurm|answer)\t.+\n", mark(slurm_user, "sick"))
    assert restarts_by_slurm(slurm_user) == 0
    if monitored:
        job = slurm_user.session()["job"]
        assert (job["state"], job["attempt"], job["restarts"], job["requeues"]) == ("success", 1, {"in job": 1}, 0)
        assert any(f"step 2 of 3 on {nodes}; {second} left out" in entry["message"] for entry in job["history"])


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


@pytest.mark.slurm
@MONITORED
def test_a_node_that_fails_its_preflight_is_left_out_where_there_is_a_spare_one(
    slurm: Cluster, slurm_user: User, monitored: bool
) -> None:
    sick = slurm.node_names[0]
    write(slurm_user, "echo trained", spare_nodes=1, preflight=["scratch", "clock", HEALTHY], sbatch={"nodelist": sick})
    (slurm_user.home / "done" / f"sick.{sick}").touch()
    running = start(slurm_user, monitored=monitored)
    assert end(slurm_user, running) == 0
    assert f"oellm-autoexp: node {sick} is left out: healthy: not today\n" in log(slurm_user)
    assert mark(slurm_user, "sick") == f"{sick}\thealthy\tnot today\n"
    found = ranks(slurm_user)
    assert len(found) == 2
    assert sick not in {node for _, _, node, _, _ in found}
    assert {master for _, _, _, _, master in found} == {found[0][3].split(",")[0]}, "not the batch node"
    assert restarts_by_slurm(slurm_user) == 0
    if monitored:
        job = slurm_user.session()["job"]
        assert (job["state"], job["restarts"], [*job["sick_nodes"]]) == ("success", {}, [sick])


@pytest.mark.slurm
@MONITORED
def test_without_spare_nodes_a_failed_preflight_costs_one_requeue(
    slurm: Cluster, slurm_user: User, monitored: bool
) -> None:
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"requeue": True, "ntasks_per_node": 2})
    for sick in slurm.node_names[:2]:
        (slurm_user.home / "done" / f"sick.{sick}").touch()
    running = start(slurm_user, monitored=monitored)
    assert end(slurm_user, running) == 0
    assert restarts_by_slurm(slurm_user) == 1
    sick_ones = [line.split("\t")[0] for line in mark(slurm_user, "sick").splitlines()]
    assert sorted(sick_ones) == sorted(slurm.node_names[:2])
    assert {node for _, _, node, _, _ in ranks(slurm_user)} == set(slurm.node_names[2:])
    if monitored:
        job = slurm_user.session()["job"]
        assert (job["state"], job["attempt"], job["requeues"]) == ("success", 1, 1)


@pytest.mark.slurm
def test_a_job_is_requeued_for_its_preflight_once_at_most(slurm: Cluster, slurm_user: User) -> None:
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"requeue": True})
    for sick in slurm.node_names:
        (slurm_user.home / "done" / f"sick.{sick}").touch()
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 75
    assert restarts_by_slurm(slurm_user) == 1
    assert "the job is not requeued without them: it was requeued before" in log(slurm_user)
    assert ranks(slurm_user) == []


@pytest.mark.slurm
def test_a_job_that_may_not_be_requeued_ends_with_a_failed_preflight(slurm: Cluster, slurm_user: User) -> None:
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"requeue": False})
    for sick in slurm.node_names:
        (slurm_user.home / "done" / f"sick.{sick}").touch()
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 75
    assert "SLURM may not requeue it (slurm.sbatch.requeue)" in log(slurm_user)
    assert restarts_by_slurm(slurm_user) == 0


@pytest.mark.slurm
def test_no_more_restarts_than_the_limit_and_the_code_is_the_programs(slurm_user: User) -> None:
    write(slurm_user, "[ $SLURM_PROCID = 0 ] && sleep 300 || exit 7", restarts_in_job=2)
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 7
    assert [code for _, code in steps(slurm_user)] == ["7", "7", "7"]
    assert "oellm-autoexp: no restart in the job: step 3 was the last of 3\n" in log(slurm_user)


@pytest.mark.slurm
@pytest.mark.parametrize(("code", "why"), [(93, "exit code 93 asks for no restart"), (16, "there are none")])
def test_exit_codes_that_end_a_job(slurm_user: User, code: int, why: str) -> None:
    write(slurm_user, f"[ $SLURM_PROCID = 0 ] && sleep 300 || exit {code}", restarts_in_job=2)
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == code
    assert len(steps(slurm_user)) == 1
    assert why in log(slurm_user)


@pytest.mark.slurm
def test_exit_code_16_of_megatron_gets_other_nodes(slurm_user: User) -> None:
    write(slurm_user, f"{LATER} && exit 0; exit 16", restarts_in_job=2, spare_nodes=1, sbatch={"nodes": 1})
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 0
    (first, _), (second, _) = steps(slurm_user)
    assert first != second


@pytest.mark.slurm
def test_a_cancelled_job_is_not_begun_again(slurm_user: User) -> None:
    write(slurm_user, "sleep 300", restarts_in_job=2)
    running = start(slurm_user, monitored=True)
    until(lambda: len(ranks(slurm_user)) == 2 and slurm_user.states() == ["running"], "two ranks")
    subprocess.run(["scancel", slurm_user.session()["job"]["scheduler_id"]], env=slurm_user.environment, check=True)
    assert running is not None
    assert running.wait(60) == 1
    job = slurm_user.session()["job"]
    assert (job["state"], job["restarts"]) == ("cancelled", {})
    assert len(steps(slurm_user)) == 1
    assert "restart 1" not in log(slurm_user)


@pytest.mark.slurm
@pytest.mark.parametrize("before", ["B:USR1@50", "USR1@50", None], ids=["to the script", "to the tasks", "no signal"])
def test_the_time_limit_ends_a_job_without_a_restart(slurm_user: User, before: str | None) -> None:
    saves = "trap 'echo saved; exit 4' USR1; while :; do sleep 0.2; done"
    all_of_them = {"kill_on_bad_exit": 0}  # each rank saves
    write(slurm_user, saves, restarts_in_job=2, sbatch={"time": "1", "signal": before}, srun=all_of_them)
    start(slurm_user, monitored=False)
    job = slurm_user.session()["job"]["scheduler_id"]
    if before is None:  # sooner than a limit in minutes
        until(lambda: len(steps(slurm_user)) == 1, "the step")
        subprocess.run(["scontrol", "update", f"jobid={job}", "endtime=now+2"], env=slurm_user.environment, check=True)
    until(lambda: re.search(r"JobState=(TIMEOUT|FAILED)", scontrol(slurm_user, "show", "job", job)), "its end")
    assert len(steps(slurm_user)) == 1
    if before is not None:
        assert log(slurm_user).count("saved\n") == 2
        assert mark(slurm_user, "exit") == "4\n"
        assert "no restart in the job: the " in log(slurm_user)


@pytest.mark.slurm
def test_tasks_of_an_array_are_begun_again_each_in_its_own_allocation(slurm_user: User) -> None:
    names = {"sweep": {"grids": [{"stage": ["a", "b"]}], "base_values": {"project.name": "job_{stage}"}}}
    once = '[ -e "$DONE/$SLURM_JOB_ID" ] || { touch "$DONE/$SLURM_JOB_ID"; exit 3; }'.replace("{", "{{").replace(
        "}", "}}"
    )
    write(slurm_user, once, restarts_in_job=1, array=True, sbatch={"nodes": 1}, more=names)
    result = slurm_user.run("run", "--config-ref", "./e.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    jobs = slurm_user.session().values()
    assert [(job["state"], job["attempt"], job["restarts"]) for job in jobs] == [("success", 1, {"in job": 1})] * 2
    assert {job["scheduler_id"].partition("_")[2] for job in jobs} == {"0", "1"}


@pytest.mark.slurm
def test_a_new_attempt_with_other_nodes_has_the_spare_ones_on_top(slurm_user: User) -> None:
    restart = {"class_name": "RestartAction", "overrides": {"slurm.sbatch.nodes": 2}, "max_attempts": 1}
    rules = {"poll_interval_seconds": 0.2, "state_events": {"crash": {"actions": [restart]}}}
    write(
        slurm_user,
        "[ $SLURM_NTASKS = 2 ]",
        spare_nodes=1,
        preflight=["clock"],
        sbatch={"nodes": 1},
        more={"monitoring": rules},
    )
    result = slurm_user.run("run", "--config-ref", "./e.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    job = slurm_user.session()["job"]
    assert (job["state"], job["attempt"]) == ("success", 2)
    assert "NumNodes=3 " in scontrol(slurm_user, "show", "job", job["scheduler_id"])


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
def test_a_new_attempt_runs_on_other_nodes_than_those_that_were_left_out(slurm: Cluster, slurm_user: User) -> None:
    rules = {"poll_interval_seconds": 0.2, "state_events": {"crash": {"actions": [{"class_name": "RestartAction"}]}}}
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"requeue": False}, more={"monitoring": rules})
    for sick in slurm.node_names[:2]:
        (slurm_user.home / "done" / f"sick.{sick}").touch()
    result = slurm_user.run("run", "--config-ref", "./e.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    job = slurm_user.session()["job"]
    assert (job["state"], job["attempt"], sorted(job["excluded"])) == ("success", 2, sorted(slurm.node_names[:2]))
    assert {node for _, _, node, _, _ in ranks(slurm_user)} == set(slurm.node_names[2:])
