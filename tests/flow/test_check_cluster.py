"""check_cluster on a real SLURM: it passes where all is well, and says what is wrong where something is."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import PATIENCE_SECONDS, User, until
from tests.slurm.cluster import Cluster

QUICK = "monitoring.poll_interval_seconds=0.3"
NAMES = ("OUTPUT_DIR", "DATA_DIR", "HF_HOME", "CONTAINER_CACHE_DIR")


def at_home(user: User, **more: str) -> User:
    """A user whose variables are set."""
    folders = {name: str(user.home / name.lower()) for name in NAMES}
    for folder in folders.values():
        Path(folder).mkdir()
    return User(user.home, {**user.environment, **folders, **more})


def findings(result: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, str]]]:
    """What was found, by topic."""
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        found.setdefault(finding["topic"], []).append(finding)
    return found


def failed(found: dict[str, list[dict[str, str]]]) -> list[tuple[str, str]]:
    return [(each["topic"], each["text"]) for some in found.values() for each in some if each["verdict"] == "failed"]


def test_it_passes_on_a_cluster_where_all_is_well_with_a_job_from_plan_to_end(slurm_user: User) -> None:
    user = at_home(slurm_user)
    result = user.run("check_cluster", "--submit", QUICK, "--json")
    assert result.returncode == 0, result.stderr + result.stdout
    found = findings(result)
    assert failed(found) == []
    topics = {"SLURM", "controller", "accounting", "partition", "output root", "job", "shared files", "submission"}
    assert topics | set(NAMES) | {"clocks", "compute node", "containers"} <= set(found)
    assert found["partition"][0]["text"].startswith("debug (default): ")
    assert "ran to its end" in found["job"][-1]["text"]
    assert found["submission"][0]["verdict"] == "ok"
    assert len([*Path(user.environment["OUTPUT_DIR"]).glob("check_cluster_*/facts")]) == 1
    assert not [*Path(user.environment["OUTPUT_DIR"]).glob(".check_cluster*")]


def test_it_tells_that_slurm_does_not_answer_and_goes_on_with_the_rest(slurm: Cluster, slurm_user: User) -> None:
    slurm.stop_controller()
    result = at_home(slurm_user).run("check_cluster", "--submit")
    assert result.returncode == 3
    assert "slurmctld does not answer" in result.stdout
    assert "output root:" in result.stdout
    absent = slurm_user.run("check_cluster", PATH="/nowhere")
    assert absent.returncode == 3
    assert "its commands are not here" in absent.stdout


def test_it_tells_what_is_wrong_with_the_file_that_slurm_conf_names(user: User) -> None:
    for conf, said in (
        ("/no/slurm.conf", "a file that is not there: /no/slurm.conf"),
        ("/dev", "a path that is not a file: /dev"),
    ):
        result = user.run("check_cluster", SLURM_CONF=conf)
        assert result.returncode == 3
        assert f"failed   SLURM:               $SLURM_CONF names {said}\n" in result.stdout
        assert "set it to the cluster's own slurm.conf" in result.stdout
        assert "commands are not here" not in result.stdout


def test_it_tells_that_accounts_are_off_or_do_not_answer(
    slurm: Cluster, slurm_user: User, slurm_cluster_without_accounting: Cluster
) -> None:
    off = User(slurm_user.home, {**slurm_user.environment, **slurm_cluster_without_accounting.environment()})
    result = off.run("check_cluster")
    assert result.returncode == 0
    assert "warning  accounting:          off" in result.stdout
    slurm.stop_accounting()
    down = slurm_user.run("check_cluster")
    assert down.returncode == 1
    assert "failed   accounting:          slurmdbd does not answer" in down.stdout


def test_it_tells_which_variables_are_missing_and_how_to_set_them(slurm_user: User) -> None:
    wrong = str(slurm_user.home / "absent")
    result = slurm_user.run("check_cluster", "slurm=juwels", "--submit", CONTAINER_CACHE_DIR=wrong, HF_HOME="")
    assert result.returncode == 1
    assert "warning  OUTPUT_DIR:          not set" in result.stdout
    assert "warning  HF_HOME:             not set" in result.stdout
    assert "export HF_HOME=" in result.stdout
    assert f"failed   CONTAINER_CACHE_DIR: {wrong} is not a folder here" in result.stdout
    assert "failed   job:                 no account is set" in result.stdout
    assert "export SLURM_ACCOUNT=NAME; to list yours: jutil user projects" in result.stdout
    assert not [*slurm_user.outputs.glob("manifests/*")], "nothing was planned"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a file system")
@pytest.mark.parametrize("full", [True, False], ids=["full", "not seen by compute nodes"])
def test_it_tells_that_the_output_root_is_full_or_of_this_machine_alone(slurm_user: User, full: bool) -> None:
    user = at_home(slurm_user)
    root = user.environment["OUTPUT_DIR"]
    fill = f"head -c 5M /dev/zero > {root}/data 2> /dev/null" if full else ":"
    inside = f'mount -t tmpfs -o size=4m none {root} && {{ {fill}; "$@"; }}'
    words = user.words("check_cluster", "--submit", QUICK, "--json")
    # a file system that this process alone sees; SLURM's daemons, and so its jobs, see the empty folder below it
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside, "sh", *words],
        cwd=user.home,
        env=user.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert result.returncode == 1, result.stderr + result.stdout
    found: dict[str, list[dict[str, Any]]] = findings(result)
    if full:
        topic, text = failed(found)[0]
        assert topic == "output root"
        assert "No space left on device" in text
    else:
        (shared,) = failed(found)
        assert shared[0] == "shared files"
        assert "wrote nothing to" in shared[1]
        assert any("file system of one machine" in each["text"] for each in found["output root"])


def test_it_tells_that_a_compute_nodes_clock_is_ahead(slurm_user: User) -> None:
    programs = slurm_user.home / "bin"
    programs.mkdir()
    (programs / "date").write_text("#!/bin/sh\necho $(($(/bin/date +%s) + 3600))\n")
    (programs / "date").chmod(0o755)
    user = at_home(slurm_user, PATH=f"{programs}:{slurm_user.environment['PATH']}")
    result = user.run("check_cluster", "--submit", QUICK)
    assert result.returncode == 1
    assert "failed   clocks:              the compute node is at least 3" in result.stdout


WAITS = {
    "nodes": (
        "create reservation=m starttime=now duration=1-0 user=nobody nodes=ALL flags=maint",
        "delete reservation=m",
        (),
        "nodes that it needs are down, drained or reserved",
        "`scontrol show reservation`",
    ),
    "partition": (
        "update partitionname=debug state=down",
        "update partitionname=debug state=up",
        (),
        "PartitionDown (its partition starts no jobs now)",
        "slurm.sbatch.partition",
    ),
    "held": ("", "", ("+slurm.sbatch.hold=true",), "JobHeldUser (it is held)", "release it: scontrol release "),
}


@pytest.mark.parametrize("why", WAITS)
def test_a_job_that_waits_for_ever_is_ended_with_the_reason_that_slurm_tells(
    slurm: Cluster, slurm_user: User, why: str
) -> None:
    change, undo, words, reason, advice = WAITS[why]
    if change:
        slurm.run("scontrol", *change.split())
    try:
        result = at_home(slurm_user).run("check_cluster", "--submit", "--patience", "0:05", QUICK, *words)
        left = slurm.run("squeue", "--noheader").stdout
    finally:
        slurm.cancel_jobs()
        if undo:
            slurm.run("scontrol", *undo.split())
    assert result.returncode == 1, result.stderr + result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("failed   job:")]
    assert "has been PENDING for 0-00:00:05 and was cancelled: " in line
    assert reason in line
    assert advice in result.stdout.split(line)[1]
    assert "--patience TIME waits longer" in result.stdout
    assert left == "", "the job was cancelled"


def test_nodes_that_are_all_drained_are_reported_with_the_command_that_lists_them(
    slurm: Cluster, slurm_user: User
) -> None:
    slurm.run("scontrol", "update", "nodename=ALL", "state=drain", "reason=maintenance")
    try:
        result = at_home(slurm_user).run("check_cluster", "--submit", QUICK)
    finally:
        slurm.run("scontrol", "update", "nodename=ALL", "state=resume")
    assert result.returncode == 1
    assert "failed   job:                 sbatch --test-only: " in result.stdout
    assert "`sinfo -R` which of them are down or drained" in result.stdout


def test_a_slurm_that_stops_to_answer_is_given_up_after_the_patience(slurm: Cluster, slurm_user: User) -> None:
    user = at_home(slurm_user)
    words = ("--submit", "--patience", "0:05", QUICK, "+slurm.sbatch.hold=true")
    child = user.start("check_cluster", *words)
    until(lambda: "JobHeldUser" in (user.home / "output.txt").read_text(), "the job to be seen")
    slurm.stop_controller()
    try:
        assert child.wait(PATIENCE_SECONDS) == 1
    finally:
        slurm.start_controller()
    said = (user.home / "output.txt").read_text()
    assert "failed   job:                 SLURM has not answered for 0-00:00:05" in said
    assert "--cmd cancel" in said


def test_what_is_no_time_is_no_patience(user: User) -> None:
    result = user.run("check_cluster", "--patience", "soon")
    assert result.returncode == 2
    assert "--patience: 'soon' is not a time that sbatch knows: write minutes" in result.stderr


def test_it_looks_at_a_slurm_only(user: User) -> None:
    result = user.run("check_cluster", "slurm=local")
    assert result.returncode == 2
    assert "choose slurm=base or a profile" in result.stderr


def test_it_tells_what_keeps_jobs_from_their_container(slurm_user: User) -> None:
    result = at_home(slurm_user).run("check_cluster", "--submit", "container=base", "container.image=no.sif", QUICK)
    assert result.returncode == 1
    assert "failed   container:           $.container.image" in result.stdout
    assert "there is no image here" in result.stdout
    assert not [*slurm_user.home.glob("output_dir/manifests/*")], "nothing was planned"
