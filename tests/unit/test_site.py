"""What a site allows a job, from what its commands print, and from what a profile says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from oellm_autoexp.config.schema import SlurmSection
from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.planning.checks.site_checks import declared, site_problems
from oellm_autoexp.sbatch.section import SiteSection
from oellm_autoexp.schedulers.site import Site
from oellm_autoexp.schedulers.site_limits import problems
from oellm_autoexp.schedulers.slurm.site_answers import associations, max_array_size, partitions, qualities, read

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
        ({"time": "1-00:00:01"}, "asks for 1-00:00:01; partition boost allows 1-00:00:00: the job would wait"),
        ({"time": "0"}, "asks for no time limit; partition boost allows 1-00:00:00"),
        ({"nodes": "3"}, "asks for 3 nodes; partition boost allows 2"),
        ({"nodes": "2-8"}, ""),
        ({"nodes": "5", "partition": "debug"}, "asks for 5 nodes; partition debug allows 4"),
        ({"time": "10", "partition": "short"}, "asks for 0-00:10:00; partition short allows 0-00:05:00"),
        ({"time": "10", "partition": "short,debug"}, ""),
        ({"time": "2-0", "partition": "short,boost"}, "partition short allows"),
        ({"time": "2-0", "qos": "long"}, ""),
        ({"partition": "shrt"}, "there is no partition 'shrt'"),
        ({"partition": "shrt", "qos": "long"}, "there is no partition 'shrt'"),
    ],
)
def test_what_would_wait_for_ever_is_reported(asked: dict[str, str], said: str) -> None:
    found = problems(asked, SITE, "job.sbatch")
    assert bool(found) == bool(said)
    assert said in (str(found[0]) if found else "")
    assert all(str(problem.where) == "job.sbatch" for problem in found)


def test_an_unknown_partition_is_reported_with_the_nearest() -> None:
    (problem,) = problems({"partition": "shrt"}, SITE, "x")
    assert problem.hint == "did you mean 'short'?"
    (problem,) = problems({"partition": "gpu"}, SITE, "x")
    assert problem.hint == "known: boost, debug, ruled, short"


QOS = qualities(
    "normal|DenyOnLimit|1-00:00:00||\nlong|DenyOnLimit,PartitionTimeLimit|4-00:00:00|cpu=64,node=1|\n"
    "big|PartitionMaxNodes|||node=3\nfree||||\n"
)
ACCOUNTS = associations("one||big,long,normal|normal\ntwo|short|normal|\n")
RULED = Site(partitions(SHOWN), QOS, ACCOUNTS, "one", complete=True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"time": "1-0"}, ""),
        ({"time": "2-0"}, "partition boost allows 1-00:00:00"),
        ({"time": "4-0", "qos": "long", "nodes": "1"}, ""),
        ({"time": "4-0:01", "qos": "LONG"}, "QOS long allows 4-00:00:00"),
        ({"nodes": "2", "qos": "long"}, "QOS long allows 1"),
        ({"nodes": "2", "qos": "big"}, "asks for 2 nodes; QOS big requires at least 3"),
        ({"nodes": "3", "qos": "big"}, ""),
        ({"nodes": "2-3", "qos": "big"}, ""),
        ({"time": "2-0", "partition": "debug"}, "QOS normal allows 1-00:00:00"),
        ({"account": "Two"}, ""),
        ({"account": "three"}, "account 'three' is not one of your accounts"),
        ({"account": "two", "qos": "long"}, "account 'two' may not use QOS 'long'"),
        ({"qos": "lung"}, "there is no QOS 'lung'"),
    ],
)
def test_qos_and_accounts_are_judged_as_slurm_does(asked: dict[str, str], said: str) -> None:
    found = problems(asked, RULED)
    assert bool(found) == bool(said)
    assert said in (str(found[0]) if found else "")
    assert all(str(problem.where).startswith("$.slurm.sbatch.") for problem in found)


def test_a_partition_for_some_accounts_and_qos_takes_no_others() -> None:
    line = "PartitionName=p Default=YES AllowAccounts=one,two AllowQos=big QoS=N/A MaxNodes=9 MaxTime=UNLIMITED\n"
    site = Site(partitions(line), QOS, associations("one||big|\nthree||big|\n"), complete=True)
    assert "does not allow account 'three'" in problems({"account": "three"}, site)[0].what
    assert (
        "does not accept QOS 'normal'"
        in problems({"account": "two", "qos": "normal"}, Site(site.partitions, QOS))[0].what
    )
    assert problems({"account": "one", "qos": "big", "nodes": "4"}, site) == []


CLOSED = """\
PartitionName=usual Default=YES AllowGroups=ALL DenyAccounts=two DenyQos=big QoS=N/A MinNodes=1 MaxNodes=9 State=UP
PartitionName=few Default=NO AllowGroups=staff,dev QoS=N/A MinNodes=4 MaxNodes=UNLIMITED State=UP TotalNodes=9
PartitionName=down Default=NO AllowGroups=ALL QoS=N/A State=DOWN TotalNodes=9
PartitionName=drained Default=NO AllowGroups=ALL QoS=N/A State=DRAIN TotalNodes=9
"""
NODES = """\
usual|56|512000|gpu:mi250:8(S:0-3),nvme:1
usual|128|256000|(null)
few|8|1000|gpu:2
"""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"account": "one", "nodes": "2", "ntasks_per_node": "8", "cpus_per_task": "16"}, ""),
        ({"account": "two"}, "partition usual does not allow account 'two'"),
        ({"qos": "big"}, "partition usual does not accept QOS 'big'"),
        ({"ntasks_per_node": "8", "cpus_per_task": "17"}, "asks for 136 CPUs on each node"),
        ({"ntasks_per_node": "8", "cpus_per_task": "17", "overcommit": ""}, ""),
        ({"mem": "600G"}, "asks for 614400 MiB of memory on each node; nodes of partition usual have at most 512000"),
        ({"mem": "0"}, ""),
        ({"gpus_per_node": "mi250:9"}, "asks for 9 GPUs on each node; nodes of partition usual have at most 8"),
        ({"gpus_per_node": "8"}, ""),
        ({"mem_per_cpu": "1T"}, "asks for 1048576 MiB of memory on each node; nodes of partition usual have at most"),
        ({"mem_per_gpu": "1T", "gpus_per_node": "8"}, "asks for 8388608 MiB of memory on each node"),
        ({"mem_per_cpu": "1T", "ntasks_per_node": "x"}, ""),
        ({"partition": "few", "nodes": "4"}, "partition few is only for the groups dev, staff"),
        ({"partition": "drained"}, "partition drained accepts no jobs: it is DRAIN"),
        ({"partition": "down"}, ""),
        ({"partition": "drained,usual"}, ""),
    ],
)
def test_partitions_that_are_closed_or_too_small_take_no_jobs(asked: dict[str, str], said: str) -> None:
    site = reported(partition=CLOSED, config="AccountingStorageEnforce = none\n", sinfo=NODES)
    found = problems(asked, replace(site, groups=frozenset({"users"})))
    assert bool(found) == bool(said)
    assert said in (str(found[0]) if found else "")
    if asked.get("partition") == "few":
        of_staff = replace(site, groups=frozenset({"staff"}))
        assert problems(asked, of_staff) == problems(asked, site) == []  # root, to whom nothing is closed
        assert "asks for 1 node; partition few requires at least 4" in problems({**asked, "nodes": "1"}, site)[0].what


def test_a_users_own_limits_hold_where_no_qos_has_any() -> None:
    shown = {"partition": SHOWN, "qos": "normal||||\nlong||1-00:00:00||\n"}
    mine = "one||normal,long|normal|00:10:00|cpu=8,node=1\none|debug|normal|normal||\n"
    limited = reported(config="AccountingStorageEnforce = associations,limits,qos\n", assoc=mine, **shown)
    assert "your account one allows 0-00:10:00" in problems({"account": "one", "time": "11"}, limited)[0].what
    assert "your account one allows 1" in problems({"account": "one", "nodes": "2"}, limited)[0].what
    assert problems({"account": "one", "time": "11", "qos": "long"}, limited) == []
    assert problems({"account": "one", "time": "11", "partition": "debug"}, limited) == []
    free = reported(config="AccountingStorageEnforce = associations,qos\n", assoc=mine, **shown)
    assert problems({"account": "one", "time": "11"}, free) == []


def test_where_accounting_is_silent_the_profile_tells_of_qos() -> None:
    live = reported(partition=SHOWN, config="AccountingStorageEnforce = associations,limits,qos\n")
    section = {"client": {"class_name": "SlurmClient"}, "site": {"qos_limits": {"dbg": {"time": "00:30:00"}}}}
    slurm = SlurmSection.model_validate(section)
    (problem,) = site_problems(slurm, {"qos": "dbg", "time": "12:00:00"}, live, {})
    assert "QOS dbg allows 0-00:30:00" in problem.what
    assert site_problems(slurm, {"qos": "another", "time": "12:00:00"}, live, {}) == []


def reported(**answers: str) -> Site:
    def ask(command: str, words: Sequence[str]) -> str:
        return next((text for key, text in answers.items() if key in (command, *words)), "")

    return read(ask, "me")


def test_where_accounts_are_not_enforced_any_account_and_qos_will_do() -> None:
    shown = {"partition": SHOWN, "qos": "normal||||\n", "assoc": "one||normal|\n"}
    free = reported(config="AccountingStorageEnforce = none\n", **shown)
    assert problems({"account": "x", "qos": "y"}, free) == []
    strict = reported(config="AccountingStorageEnforce = associations,limits,qos\n", **shown)
    assert [problem.what for problem in problems({"account": "x"}, strict)] == [
        "account 'x' is not one of your accounts"
    ]


def test_of_a_controller_that_does_not_answer_nothing_is_known() -> None:
    silent = reported(config="AccountingStorageEnforce = qos\n", qos="normal||||\n")
    assert silent == Site()
    assert problems({"partition": "x", "account": "y", "nodes": "9999", "time": "9-0"}, silent) == []


def test_what_a_profile_says_holds_for_the_names_that_it_names() -> None:
    section = {
        "partition": "a",
        "partitions": {"a": {"time": "1-00:00:00", "nodes": 4}},
        "qos_limits": {"Long": {"time": "4-00:00:00"}, "wide": {"nodes": 8, "min_nodes": 5}},
    }
    site = declared(SiteSection.model_validate(section))
    assert problems({"partition": "unknown", "nodes": "99", "time": "9-0"}, site) == []
    assert "partition a allows 4" in problems({"partition": "a", "nodes": "5"}, site)[0].what
    assert problems({"partition": "a", "time": "4-0", "qos": "long"}, site) == []
    assert problems({"partition": "a", "time": "4-0", "qos": "another"}, site) == []
    assert "QOS wide requires at least 5" in problems({"partition": "a", "nodes": "4", "qos": "wide"}, site)[0].what
    assert "QOS wide allows 8" in problems({"partition": "a", "nodes": "9", "qos": "wide"}, site)[0].what
    with pytest.raises(ConfigError, match=r"\$\.slurm\.site\.partitions\.a\.time"):
        declared(SiteSection.model_validate({"partitions": {"a": {"time": "a day"}}}))


def test_the_largest_array_is_read_from_the_configuration() -> None:
    assert max_array_size("LogTimeFormat = x\nMaxArraySize            = 10001\nMaxDBDMsgs = 2\n") == 10001
    assert max_array_size("") is None


@pytest.mark.parametrize(
    "parameters", ["max_array_tasks=500", "bf_window=10,max_array_tasks=500,defer", "a, max_array_tasks=500"]
)
def test_the_scheduler_may_have_a_limit_of_its_own_for_the_tasks_of_an_array(parameters: str) -> None:
    assert max_array_size(f"MaxArraySize = 1001\nSchedulerParameters     = {parameters}\n") == 500
    assert max_array_size(f"MaxArraySize = 100\nSchedulerParameters     = {parameters}\n") == 100
    assert max_array_size("MaxArraySize = 100\nSchedulerParameters     = (null)\n") == 100


@pytest.mark.parametrize("number", ["9" * 5000, "\N{SUPERSCRIPT TWO}", "-1", ""])
def test_what_is_no_number_is_no_limit_of_arrays(number: str) -> None:
    assert max_array_size(f"MaxArraySize = {number}\n") is None
