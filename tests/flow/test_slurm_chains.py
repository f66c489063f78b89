"""Chains on a real SLURM: a run that is longer than its time limit goes on by itself, and never twice at once."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import yaml

from tests.flow.chains import folder, job, overlapped, reached, times, write
from tests.flow.conftest import User, until
from tests.flow.test_slurm_run import slurm


def planned(user: User, *words: str, **more: Any) -> None:
    write(user, scheduler="base", **more)
    done = user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p", *words)
    assert done.returncode == 0, done.stdout + done.stderr


def queue(user: User, states: str = "all") -> list[str]:
    return slurm(user, "squeue", "-h", "--me", "-r", "-t", states, "-o", "%i").split()


def empty(user: User) -> bool:
    return not queue(user, "PD,R,CG,S")


def watched(user: User, code: int = 0) -> str:
    done = user.run("monitor", "--session", "p")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slurm
def test_a_chain_goes_on_without_a_monitor_and_a_later_one_sees_each_link(slurm_user: User) -> None:
    planned(slurm_user, "--no-monitor")
    until(lambda: empty(slurm_user), "the queue to be empty")
    assert reached(slurm_user) == 8
    assert [link for what, link, _ in times(slurm_user) if what == "begin"] == [1, 2, 3]
    said = watched(slurm_user)
    assert "goes on with link 2 of 6" in said
    ended = job(slurm_user)
    assert (ended.state, ended.attempt, ended.newest.task) == ("success", 3, 3)
    assert ended.logs.resolved_log_path.endswith("_3.out")
    assert ended.past.restarts == {"next link": 2}
    assert empty(slurm_user)


@pytest.mark.slurm
def test_a_chain_that_is_watched_ends_and_leaves_nothing_in_the_queue(slurm_user: User) -> None:
    planned(slurm_user)
    assert (job(slurm_user).state, job(slurm_user).attempt) == ("success", 3)
    assert empty(slurm_user)
    assert not overlapped(slurm_user)


@pytest.mark.slurm
def test_a_link_waits_until_the_processes_of_the_killed_one_before_are_gone(slurm_user: User) -> None:
    stubborn = "trap '' TERM; echo stubborn; while sleep 0.2; do date +%s.%N > \"$folder/alive\"; done"
    (folder(slurm_user) / "then").write_text(f'[ "$SLURM_ARRAY_TASK_ID" != 1 ] || {{ {stubborn}; }}')
    planned(slurm_user, "--no-monitor")
    until(lambda: (folder(slurm_user) / "alive").exists(), "the first link to be stubborn")
    first = queue(slurm_user, "R")[0]
    slurm(slurm_user, "scancel", first)
    until(lambda: empty(slurm_user), "the queue to be empty")
    begun = next(at for what, link, at in times(slurm_user) if (what, link) == ("begin", 2))
    assert begun > float((folder(slurm_user) / "alive").read_text())
    assert not overlapped(slurm_user)
    assert reached(slurm_user) == 8


@pytest.mark.slurm
@pytest.mark.parametrize("by", ["node", "kill"])
def test_a_link_that_is_lost_is_followed_by_the_next_one(slurm_user: User, by: str) -> None:
    (folder(slurm_user) / "then").write_text('[ "$SLURM_ARRAY_TASK_ID" != 1 ] || { touch "$folder/slow"; sleep 60; }')
    planned(slurm_user, "--no-monitor")
    until(lambda: (folder(slurm_user) / "slow").exists(), "the first link")
    first = queue(slurm_user, "R")[0]
    if by == "node":
        node = slurm(slurm_user, "squeue", "-h", "-j", first, "-o", "%N").strip()
        slurm(slurm_user, "scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    else:
        slurm(slurm_user, "scancel", "--signal=KILL", "--full", first)
    until(lambda: empty(slurm_user), "the queue to be empty")
    assert reached(slurm_user) == 8
    watched(slurm_user)
    assert (job(slurm_user).state, job(slurm_user).attempt) == ("success", 3)


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("then", "state", "why", "begun"),
    [
        ("exit 93", "crash", "exit code 93 asks for no further attempt", 1),
        ('touch "$folder/STOP"', "cancelled", "STOP is there", 1),
        ("exit 3", "crash", "2 links in a row got no further (progress: 5)", 3),
    ],
    ids=["93", "stop", "fruitless"],
)
def test_a_chain_ends_itself_where_no_further_link_makes_sense(
    slurm_user: User, then: str, state: str, why: str, begun: int
) -> None:
    limit = 'number=5; echo 5 > "$folder/checkpoint";' if "3" in then.split() else ""
    (folder(slurm_user) / "then").write_text(f"{limit}{then}")
    planned(slurm_user, "--no-monitor", steps=2)
    until(lambda: empty(slurm_user), "the queue to be empty")
    assert len([1 for what, _, _ in times(slurm_user) if what == "begin"]) == begun
    watched(slurm_user, 1)
    assert job(slurm_user).state == state
    assert why in job(slurm_user).reason


@pytest.mark.slurm
def test_cancelling_a_chain_ends_all_of_its_links(slurm_user: User) -> None:
    (folder(slurm_user) / "then").write_text('touch "$folder/slow"; sleep 60')
    planned(slurm_user, "--no-monitor")
    until(lambda: (folder(slurm_user) / "slow").exists(), "the first link")
    assert slurm_user.run("monitor", "--session", "p", "--cmd", "cancel").returncode == 0
    until(lambda: empty(slurm_user), "the queue to be empty")
    watched(slurm_user, 1)
    assert (job(slurm_user).state, len(times(slurm_user)) <= 2) == ("cancelled", True)


@pytest.mark.slurm
def test_cancelling_a_chain_whose_first_link_ended_unseen_cancels_it(slurm_user: User) -> None:
    (folder(slurm_user) / "then").write_text('[ "$SLURM_ARRAY_TASK_ID" = 1 ] || { touch "$folder/slow"; sleep 60; }')
    planned(slurm_user, "--no-monitor")
    until(lambda: (folder(slurm_user) / "slow").exists(), "the second link")
    assert slurm_user.run("monitor", "--session", "p", "--cmd", "cancel").returncode == 0
    until(lambda: empty(slurm_user), "the queue to be empty")
    watched(slurm_user, 1)
    assert job(slurm_user).state == "cancelled"


@pytest.mark.slurm
def test_a_chain_goes_on_if_a_person_cancels_one_link_and_ends_if_all_are(slurm_user: User) -> None:
    (folder(slurm_user) / "then").write_text('touch "$folder/slow$SLURM_ARRAY_TASK_ID"; sleep 60')
    planned(slurm_user, "--no-monitor")
    until(lambda: (folder(slurm_user) / "slow1").exists(), "the first link")
    watcher = slurm_user.start("monitor", "--session", "p")
    until(lambda: job(slurm_user).state == "running", "the monitor")
    slurm(slurm_user, "scancel", queue(slurm_user, "R")[0])
    until(lambda: (folder(slurm_user) / "slow2").exists(), "the second link")
    until(lambda: (job(slurm_user).state, job(slurm_user).newest.task) == ("running", 2), "the second link to be seen")
    slurm(slurm_user, "scancel", queue(slurm_user, "R")[0].partition("_")[0])
    assert watcher.wait(60) == 1
    assert (job(slurm_user).state, job(slurm_user).attempt) == ("cancelled", 2)
    assert empty(slurm_user)


@pytest.mark.slurm
def test_a_new_attempt_with_other_values_replaces_the_links_in_the_queue(slurm_user: User) -> None:
    (folder(slurm_user) / "then").write_text('[ -e "$folder/go" ] || { touch "$folder/slow"; sleep 60; }')
    planned(slurm_user, "--no-monitor")
    until(lambda: (folder(slurm_user) / "slow").exists(), "the first link")
    before = {each.partition("_")[0] for each in queue(slurm_user, "PD,R")}
    watcher = slurm_user.start("monitor", "--session", "p")
    until(lambda: job(slurm_user).state == "running", "the monitor")
    (folder(slurm_user) / "go").touch()
    words = ("monitor", "--session", "p", "--cmd", "restart", "--job", "a", "--override", "slurm.sbatch.mem=60")
    assert slurm_user.run(*words).returncode == 0
    assert watcher.wait(90) == 0
    ended = job(slurm_user)
    assert (ended.state, ended.newest.last_link) == ("success", None)
    after = ended.newest.scheduler_id.partition("_")[0]
    assert after not in before
    assert not overlapped(slurm_user)
    assert empty(slurm_user)
    shown = slurm(slurm_user, "sacct", "-X", "-n", "-P", "-j", after, "-o", "JobID").split()
    assert f"{after}_2" in shown, "the new chain has the links that were left"


@pytest.mark.slurm
@pytest.mark.parametrize("slow_link", [1, 2], ids=["while it is seen", "with its first link ended unseen"])
def test_no_link_begins_with_values_that_are_to_be_replaced(slurm_user: User, slow_link: int) -> None:
    stops = f'[ "$SLURM_ARRAY_TASK_ID" != {slow_link} ] || [ -e "$folder/go" ] || {{ touch "$folder/slow"; sleep 60; }}'
    (folder(slurm_user) / "then").write_text(stops)
    planned(slurm_user, "--no-monitor", goal=12)
    until(lambda: (folder(slurm_user) / "slow").exists(), "the link that is slow")
    before = {each.partition("_")[0] for each in queue(slurm_user, "PD,R")}
    (folder(slurm_user) / "go").touch()
    words = ("monitor", "--session", "p", "--cmd", "restart", "--job", "a")
    done = slurm_user.run(*words, "--override", "slurm.sbatch.mem=60")
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: not before & {each.partition("_")[0] for each in queue(slurm_user, "PD,R,CG,S")}, "the end of all")
    assert [link for what, link, _ in times(slurm_user) if what == "begin"] == [1, 2][:slow_link]
    watched(slurm_user)
    ended = job(slurm_user)
    assert (ended.state, reached(slurm_user)) == ("success", 12)
    assert ended.newest.scheduler_id.partition("_")[0] not in before
    shown = slurm(slurm_user, "scontrol", "--oneliner", "show", "job", ended.newest.scheduler_id)
    assert "MinMemoryNode=60M " in shown
    assert not overlapped(slurm_user)


@pytest.mark.slurm
def test_a_new_attempt_without_a_node_leaves_the_chain_and_its_links_avoid_the_node(slurm_user: User) -> None:
    (folder(slurm_user) / "then").write_text('[ -e "$folder/go" ] || { touch "$folder/slow"; sleep 60; }')
    planned(slurm_user, "--no-monitor")
    until(lambda: (folder(slurm_user) / "slow").exists(), "the first link")
    first = queue(slurm_user, "R")[0]
    node = slurm(slurm_user, "squeue", "-h", "-j", first, "-o", "%N").strip()
    watcher = slurm_user.start("monitor", "--session", "p")
    until(lambda: job(slurm_user).state == "running", "the monitor")
    (folder(slurm_user) / "go").touch()
    words = ("monitor", "--session", "p", "--cmd", "restart", "--job", "a", "--exclude", node)
    assert slurm_user.run(*words).returncode == 0
    assert watcher.wait(90) == 0
    ended = job(slurm_user)
    assert ended.state == "success"
    array = first.partition("_")[0]
    assert ended.newest.scheduler_id.partition("_")[0] == array
    ran = slurm(slurm_user, "sacct", "-X", "-n", "-P", "-j", array, "-o", "JobID,NodeList,State").splitlines()
    later = [line.split("|") for line in ran if not line.startswith(f"{array}_1|")]
    assert later
    assert node not in {nodes for _, nodes, state in later if state == "COMPLETED"}


@pytest.mark.slurm
def test_a_sibling_waits_for_the_end_of_the_chain(slurm_user: User) -> None:
    write(slurm_user, scheduler="base")
    path = slurm_user.home / "e.yaml"
    config = yaml.safe_load(path.read_text())
    config["project"]["name"] = "${stage}"
    decay = {"stage": "decay", "job.chain": None, "backend.argv": ["cat", "${sibling.stable.output_dir}/checkpoint"]}
    config["sweep"] = {"configs": [{"stage": "stable"}, decay]}
    path.write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    done = slurm_user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p", "scheduler.native_dependencies=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (slurm_user.home / "outputs" / "decay" / "current.log").read_text().strip() == "8"
    assert job(slurm_user, "stable").attempt == 3


@pytest.mark.slurm
def test_a_monitor_that_is_killed_at_any_time_is_followed_by_one_that_goes_on(slurm_user: User) -> None:
    planned(slurm_user, "--no-monitor", steps=2, goal=10, chain={"links": 8})
    for pause in (0.4, 0.9, 1.3, 0.7, 1.1):
        watcher = slurm_user.start("monitor", "--session", "p")
        time.sleep(pause)
        watcher.kill()
        watcher.wait()
    watched(slurm_user)
    assert (job(slurm_user).state, job(slurm_user).attempt, reached(slurm_user)) == ("success", 5, 10)
    assert not overlapped(slurm_user)
    assert empty(slurm_user)


@pytest.mark.slurm
def test_a_program_that_saves_at_the_signal_of_its_script_and_ends_well_has_not_completed_its_chain(
    slurm_user: User,
) -> None:
    waits = "trap 'exit 0' USR1; touch \"$folder/slow\"; while sleep 0.2; do :; done"
    (folder(slurm_user) / "then").write_text(f'[ "$SLURM_ARRAY_TASK_ID" != 1 ] || {{ {waits}; }}')
    sbatch = {"time": 5, "mem": 50, "signal": "B:USR1@60"}
    planned(slurm_user, "--no-monitor", chain={"until": None}, slurm={"launcher_cmd": None, "sbatch": sbatch})
    until(lambda: (folder(slurm_user) / "slow").exists(), "the first link")
    (mark,) = (folder(slurm_user) / "marks").glob("*_1.start")
    script = int(mark.read_text().splitlines()[1].split()[1])
    os.kill(script, signal.SIGUSR1)  # as slurmstepd does before the time limit
    until(lambda: empty(slurm_user), "the queue to be empty")
    said = watched(slurm_user)
    assert (job(slurm_user).state, job(slurm_user).attempt) == ("success", 2)
    assert "link 1 of 6 has ended at its signal" in said


@pytest.mark.slurm
def test_a_chain_whose_name_the_site_has_changed_ends_as_any_other(slurm_user: User) -> None:
    planned(slurm_user, "--no-monitor", "+slurm.sbatch.hold=true")
    array = queue(slurm_user, "PD")[0].partition("_")[0]
    slurm(slurm_user, "scontrol", "update", f"jobid={array}", "jobname=renamed.by.site")
    slurm(slurm_user, "scontrol", "release", array)
    until(lambda: empty(slurm_user), "the queue to be empty")
    assert len([1 for what, _, _ in times(slurm_user) if what == "begin"]) == 3
    watched(slurm_user)
    assert (job(slurm_user).state, job(slurm_user).attempt) == ("success", 3)


@pytest.mark.slurm
def test_a_link_does_not_begin_while_squeue_has_no_answer_about_the_one_before(slurm_user: User) -> None:
    squeue = slurm_user.home / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        "#!/bin/bash\n[[ $* != *COMPLETING* ]] || [ -e answers ] || { touch asked; exit 1; }\n"
        'echo "squeue: warning: a plugin is old" >&2; PATH=${PATH#*:} exec squeue "$@"\n'
    )
    squeue.chmod(0o755)
    path = f"{squeue.parent}:$PATH"
    slurm_settings = {"launcher_cmd": None, "sbatch": {"time": 5, "mem": 50}, "env": {"PATH": path}}
    planned(slurm_user, "--no-monitor", slurm=slurm_settings)
    until(lambda: (slurm_user.home / "asked").exists(), "the first link's question")
    time.sleep(2)
    assert not (folder(slurm_user) / "times").exists()
    (slurm_user.home / "answers").touch()
    until(lambda: empty(slurm_user), "the queue to be empty")
    assert reached(slurm_user) == 8


@pytest.mark.slurm
def test_a_restart_by_hand_of_a_chain_that_ended_unseen_begins_a_new_one(slurm_user: User) -> None:
    stuck = 'number=5; echo 5 > "$folder/checkpoint"; [ -e "$folder/mended" ] || exit 3'
    (folder(slurm_user) / "then").write_text(stuck)
    planned(slurm_user, "--no-monitor", steps=2)
    until(lambda: empty(slurm_user), "the queue to be empty")
    begun = len(times(slurm_user))
    (folder(slurm_user) / "then").unlink()
    again = slurm_user.run("monitor", "--session", "p", "--cmd", "restart", "--job", "a")
    assert again.returncode == 0, again.stderr
    watched(slurm_user)
    assert (job(slurm_user).state, reached(slurm_user)) == ("success", 8)
    assert len(times(slurm_user)) == begun + 4  # two links of the new chain
