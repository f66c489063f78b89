"""Restarts in the job, spare nodes and preflight checks on a real SLURM; the job's id never changes."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from typing import Any

import pytest
import yaml

from tests.flow.conftest import User, until
from tests.flow.in_job import (
    HEALTHY,
    LATER,
    MONITORED,
    end,
    log,
    mark,
    ranks,
    restarts_by_slurm,
    scontrol,
    start,
    steps,
    write,
)
from tests.slurm.cluster import Cluster


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
def test_variables_of_srun_in_the_jobs_environment_hide_no_sick_node(slurm: Cluster, slurm_user: User) -> None:
    first = slurm.node_names[0]
    env = {"SLURM_LABELIO": "1", "SLURM_EXCLUSIVE": "user"}
    sbatch = {"nodelist": first}
    write(slurm_user, "echo trained", sbatch=sbatch, restarts_in_job=1, spare_nodes=1, preflight=[HEALTHY])
    config = yaml.safe_load((slurm_user.home / "e.yaml").read_text())
    config["slurm"]["env"] |= env
    (slurm_user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    (slurm_user.home / "done" / f"sick.{first}").touch()
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 0
    assert mark(slurm_user, "sick") == f"{first}\thealthy\tnot today\n"


@pytest.mark.slurm
def test_where_srun_begins_no_task_at_all_no_node_is_blamed(slurm: Cluster, slurm_user: User) -> None:
    write(slurm_user, "echo trained", restarts_in_job=1, spare_nodes=1, preflight=[HEALTHY])
    config = yaml.safe_load((slurm_user.home / "e.yaml").read_text())
    config["slurm"]["env"]["SLURM_MEM_BIND"] = "nonsense"
    (slurm_user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 75
    assert mark(slurm_user, "sick") == ""
    assert "the program is not begun: no task begins on any node: srun: error: " in log(slurm_user)


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
def test_a_controller_that_does_not_answer_makes_no_node_sick(slurm: Cluster, slurm_user: User) -> None:
    wait = '$(touch "$DONE/up"; until [ -e "$DONE/go" ]; do sleep 0.1; done)'
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"requeue": True})
    config = yaml.safe_load((slurm_user.home / "e.yaml").read_text())
    config["slurm"]["env"]["WAIT"] = wait
    (slurm_user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config, sort_keys=False)}")
    start(slurm_user, monitored=False)
    until(lambda: (slurm_user.home / "done" / "up").exists(), "the job")
    job, processes = slurm_user.session()["job"]["scheduler_id"], ["ps", "-eo", "args="]
    slurm.stop_controller()
    try:
        (slurm_user.home / "done" / "go").touch()
        asks = f"scontrol --oneliner show job {job}\n"
        until(
            lambda: asks in subprocess.run(processes, capture_output=True, text=True, check=True).stdout, "its question"
        )
    finally:
        slurm.start_controller()
    assert end(slurm_user, None) == 0, log(slurm_user)
    assert mark(slurm_user, "sick") == ""
    assert restarts_by_slurm(slurm_user) == 0


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
def test_a_requeued_job_uses_a_node_that_was_left_out_before_only_where_there_are_no_others(
    slurm: Cluster, slurm_user: User
) -> None:
    sick, other = slurm.node_names[:2]
    asked = {"nodes": 1, "nodelist": f"{sick},{other}", "requeue": True}
    write(slurm_user, f"{LATER} || sleep 300", spare_nodes=1, preflight=[HEALTHY], sbatch=asked)
    (slurm_user.home / "done" / f"sick.{sick}").touch()
    start(slurm_user, monitored=False)
    job = slurm_user.session()["job"]["scheduler_id"]
    until(lambda: len(ranks(slurm_user)) == 1, "the first run")
    (slurm_user.home / "done" / f"sick.{sick}").unlink()
    scontrol(slurm_user, "requeue", job)
    until(lambda: "JobState=PENDING" in scontrol(slurm_user, "show", "job", job), "the queue")
    scontrol(slurm_user, "update", f"jobid={job}", "starttime=now")
    assert end(slurm_user, None) == 0
    assert [node for _, _, node, _, _ in ranks(slurm_user)] == [other, other]


@pytest.mark.slurm
@pytest.mark.parametrize("sbatch", [{"nodes": 4}, {"nodes": 1, "nodelist": "FIRST"}], ids=["all nodes", "named node"])
def test_a_job_that_slurm_has_no_other_nodes_for_is_not_requeued(
    slurm: Cluster, slurm_user: User, sbatch: dict[str, Any]
) -> None:
    sick = slurm.node_names[0]
    named = {key: sick if value == "FIRST" else value for key, value in sbatch.items()}
    write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"requeue": True, **named})
    (slurm_user.home / "done" / f"sick.{sick}").touch()
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 75
    assert "the job is not requeued without them: SLURM has no other nodes for it" in log(slurm_user)
    assert restarts_by_slurm(slurm_user) == 0


@pytest.mark.slurm
def test_that_the_nodes_of_a_requeued_job_could_not_be_excluded_is_in_its_log(slurm: Cluster, slurm_user: User) -> None:
    tool = slurm_user.home / "bin" / "scontrol"
    tool.parent.mkdir()
    denied = "echo 'slurm_update error: Access/permission denied' >&2; exit 1"
    tool.write_text(f'#!/bin/bash\n[ "$1" != update ] || {{ {denied}; }}\nexec {shutil.which("scontrol")} "$@"\n')
    tool.chmod(0o755)
    write(slurm_user, "true", preflight=[HEALTHY], sbatch={"requeue": True})
    config = yaml.safe_load((slurm_user.home / "e.yaml").read_text())
    config["slurm"]["env"]["PATH"] = f"{tool.parent}:$PATH"
    (slurm_user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    (slurm_user.home / "done" / f"sick.{slurm.node_names[0]}").touch()
    start(slurm_user, monitored=False)
    words = (
        "the job may run on them again, as SLURM does not exclude them: slurm_update error: Access/permission denied"
    )
    until(lambda: words in log(slurm_user), "the line")


@pytest.mark.slurm
def test_a_job_whose_reservation_has_no_other_nodes_is_not_requeued(slurm: Cluster, slurm_user: User) -> None:
    first, second = slurm.node_names[:2]
    reserved = ("nodes=" + f"{first},{second}", "users=root", "starttime=now", "duration=30")
    slurm.run("scontrol", "create", "reservation", "reservationname=ours", *reserved)
    try:
        write(slurm_user, "echo trained", preflight=[HEALTHY], sbatch={"requeue": True, "reservation": "ours"})
        (slurm_user.home / "done" / f"sick.{second}").touch()
        start(slurm_user, monitored=False)
        assert end(slurm_user, None) == 75
        assert "the job is not requeued without them: SLURM has no other nodes for it" in log(slurm_user)
        assert restarts_by_slurm(slurm_user) == 0
    finally:
        slurm.cancel_jobs()
        slurm.run("scontrol", "delete", "reservation=ours")


@pytest.mark.slurm
def test_the_code_of_a_step_is_that_of_the_task_that_was_killed_first(slurm_user: User) -> None:
    write(slurm_user, "[ $SLURM_PROCID = 0 ] && kill -KILL $$; sleep 300", restarts_in_job=1)
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 137
    assert [code for _, code in steps(slurm_user)] == ["137", "137"]


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
def test_after_exit_code_16_the_first_of_several_nodes_is_that_of_rank_0(slurm_user: User) -> None:
    both = 'until [ "$(ls "$DONE" | grep -c "^begun")" -gt 1 ]; do sleep 0.1; done'
    write(slurm_user, f"{LATER} && exit 0; {both}; exit 16", restarts_in_job=1, spare_nodes=1)
    start(slurm_user, monitored=False)
    assert end(slurm_user, None) == 0
    of_second_step = sorted(ranks(slurm_user)[2:])
    assert [rank for rank, *_ in of_second_step] == ["0", "1"]
    node_of_rank_0 = of_second_step[0][2]
    assert {(nodes.split(",")[0], master) for *_, nodes, master in of_second_step} == {(node_of_rank_0,) * 2}
    assert steps(slurm_user)[0][0] != steps(slurm_user)[1][0]


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
def test_a_job_whose_time_is_over_but_which_slurm_has_not_ended_blames_no_node(slurm_user: User) -> None:
    write(slurm_user, 'until [ -e "$DONE/go" ]; do sleep 0.1; done; exit 4', restarts_in_job=2, preflight=["clock"])
    start(slurm_user, monitored=False)
    job = slurm_user.session()["job"]["scheduler_id"]
    until(lambda: len(ranks(slurm_user)) == 2, "the step")
    scontrol(slurm_user, "update", f"jobid={job}", "endtime=now+1")
    time.sleep(3)
    (slurm_user.home / "done" / "go").touch()
    until(lambda: re.search(r"JobState=(TIMEOUT|FAILED)", scontrol(slurm_user, "show", "job", job)), "its end")
    assert mark(slurm_user, "sick") == ""
    assert len(steps(slurm_user)) == 1
    if mark(slurm_user, "exit"):  # SLURM looks for such jobs every 30 s
        assert "no restart in the job: the time limit is reached\n" in log(slurm_user)


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
def test_a_new_attempt_runs_on_other_nodes_than_those_that_were_left_out(slurm_user: User) -> None:
    rules = {"poll_interval_seconds": 0.2, "state_events": {"crash": {"actions": [{"class_name": "RestartAction"}]}}}
    first = 'mkdir "$DONE/first" 2> /dev/null && touch "$DONE/sick.$SLURMD_NODENAME"; '
    check = {"command": ["bash", "-c", first + HEALTHY["command"][2]], "name": "healthy"}
    write(slurm_user, "echo trained", preflight=[check], sbatch={"requeue": False}, more={"monitoring": rules})
    result = slurm_user.run("run", "--config-ref", "./e.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    job = slurm_user.session()["job"]
    (sick,) = (path.name.removeprefix("sick.") for path in (slurm_user.home / "done").glob("sick.*"))
    assert (job["state"], job["attempt"], [*job["left_out"]]) == ("success", 2, [sick])
    assert sick not in {node for _, _, node, _, _ in ranks(slurm_user)}
