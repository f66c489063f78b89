"""What the profiles of five clusters ask for, by the judgement of a real SLURM that has these sites' limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.planning.checks.site_checks import declared
from oellm_autoexp.sbatch.section import LimitsSection, SiteSection
from oellm_autoexp.sbatch.times import parse_time
from tests.sites.conftest import AtSite
from tests.sites.expected import ROOT, SBATCH, SRUN, masks
from tests.sites.laboratory import SITES, Site

pytestmark = pytest.mark.xdist_group("containers")  # beside the tests that run jobs there

EXPERIMENTS = (
    "megatron_auto_restart",
    "megatron_wsd_decay",
    "korbi/dense_300M_50BT_pull",
    "korbi/repro_sweep_niccolo_small",
)
DEBUG = {
    "lumi": ("dev-g", None),
    "leonardo": ("boost_usr_prod", "boost_qos_dbg"),
    "marenostrum": ("acc", "acc_debug"),
    "juwels": ("develbooster", None),
    "jupiter": ("booster", None),
}


def profile(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / f"config/slurm/{name}.yaml").read_text())
    return data


def test_the_masks_of_lumi_give_each_rank_seven_cores_of_its_own_that_jobs_may_use() -> None:
    cores = [{core for core in range(64) if int(mask, 16) >> core & 1} for mask in masks()]
    reserved = {int(core) for core in Site.load("lumi").node.rpartition("CpuSpecList=")[2].split(",")}
    assert [len(some) for some in cores] == [7] * 8
    assert set().union(*cores) == set(range(64)) - reserved


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_takes_the_shape_of_the_site_that_is_chosen(at_site: AtSite, experiment: str) -> None:
    name = at_site.site.name
    shorter = ("slurm.sbatch.time=12:00:00",) if name == "jupiter" else ()
    text = at_site.plans(experiment, f"slurm={name}", *shorter)(first=True)[0]
    assert f"--gpus-per-node={at_site.site.gpus}\n" in text
    assert f"--ntasks-per-node={at_site.site.gpus}\n" in text
    assert all(f"#SBATCH {word}\n" in text for word in SBATCH[name])
    assert set(SRUN[name]) <= set(text.partition("{AUTOEXP_LAUNCHER-srun ")[2].partition("}")[0].split())
    assert "to start at" in at_site.judged(text)


REFUSED = [
    ("account=nobody", "account 'nobody' is not one of your accounts", "Invalid account"),
    ("partition=gpu_large", "there is no partition 'gpu_large'", "Invalid partition"),
    ("qos=unheard_of", "there is no QOS 'unheard_of'", "Invalid qos"),
]
BEYOND = {
    "lumi": [("time=2-00:00:01", "partition standard-g allows 2-00:00:00"), ("nodes=1025", "standard-g allows 1024")],
    "leonardo": [
        ("time=1-00:00:01", "partition boost_usr_prod allows 1-00:00:00"),
        ("nodes=65", "partition boost_usr_prod allows 64"),
        ("qos=boost_qos_dbg time=00:31:00", "QOS boost_qos_dbg allows 0-00:30:00"),
        ("qos=boost_qos_lprod nodes=9 time=3-00:00:00", "QOS boost_qos_lprod allows 8"),
        ("qos=boost_qos_bprod nodes=8", "QOS boost_qos_bprod requires at least 65"),
    ],
    "marenostrum": [
        ("time=3-00:00:01", "QOS acc_ehpc allows 3-00:00:00"),
        ("qos=acc_debug time=02:01:00", "QOS acc_debug allows 0-02:00:00"),
    ],
    "juwels": [
        ("time=1-00:00:01", "partition booster allows 1-00:00:00"),
        ("nodes=385", "booster allows 384"),
        ("partition=develbooster time=02:01:00", "partition develbooster allows 0-02:00:00"),
    ],
    "jupiter": [("time=12:00:01", "partition booster allows 0-12:00:00")],
}
ALLOWED = {
    "lumi": ["time=2-00:00:00", "partition=small-g time=3-00:00:00"],
    "leonardo": ["qos=boost_qos_lprod time=4-00:00:00"],
    "marenostrum": ["time=3-00:00:00", "qos=acc_debug time=02:00:00"],
    "juwels": ["time=1-00:00:00", "partition=develbooster time=02:00:00"],
    "jupiter": ["time=12:00:00"],
}


def test_what_a_site_would_refuse_is_refused_at_planning_with_the_sites_reason(at_site: AtSite) -> None:
    name = at_site.site.name
    ref = f"megatron_{name}_speed_test"
    (script,) = at_site.plans(ref)(first=True)

    def judged(changes: str) -> str:
        return at_site.judged(script, *(f"--{change}" for change in changes.split()))

    def plans(changes: str) -> Callable[..., tuple[str, ...]]:
        words = [f"slurm.sbatch.{change}" for change in changes.split()]
        return at_site.plans(
            ref, *(re.sub(r"^(slurm.sbatch.nodes)=(\d+)$", r"sweep.grids=[{\1:[\2]}]", word) for word in words)
        )

    for changes, said, of_slurm in REFUSED:
        with pytest.raises(ConfigError, match=re.escape(said)):
            plans(changes)(first=True)
        assert of_slurm in judged(changes)
    for changes, said in BEYOND[name]:
        scripts = plans(changes)
        for live in (True, False):  # by SLURM's own word, and where it can't be asked by the profile's
            with pytest.raises(ConfigError, match=f"slurm.sbatch.*{re.escape(said)}"):
                scripts(live=live, first=True)
        assert "to start at" not in judged(changes), changes
    for changes in ALLOWED[name]:
        scripts = plans(changes)
        assert scripts(live=True, first=True) == scripts(live=False, first=True)
        assert "to start at" in judged(changes)


def test_what_a_profile_says_of_its_site_is_what_slurm_says(at_site: AtSite) -> None:
    live, said = at_site.live, declared(SiteSection.model_validate(profile(at_site.site.name)["site"]))
    for name, partition in said.partitions.items():
        assert live.partitions[name].max_seconds == partition.max_seconds
        assert partition.max_nodes in (None, live.partitions[name].max_nodes)
    for name, qos in said.qos.items():
        if name != "normal":
            found = live.qos[name]
            assert (found.max_seconds, found.min_nodes) == (qos.max_seconds, qos.min_nodes)
            assert qos.max_nodes in (None, found.max_nodes)


def test_debug_chooses_the_sites_partition_and_qos_for_tests(at_site: AtSite) -> None:
    ref, partition, qos = f"megatron_{at_site.site.name}_speed_test", *DEBUG[at_site.site.name]
    (script,) = at_site.plans(ref, "slurm.debug=true", SLURM_PARTITION="elsewhere")(first=True)
    assert f"#SBATCH --partition={partition}\n" in script
    assert (f"#SBATCH --qos={qos}\n" in script) if qos else ("--qos" not in script)
    usual = at_site.plans(ref, SLURM_PARTITION=partition)(first=True)[0]
    assert "mask_cpu" not in script + (usual if partition == "dev-g" else "")
    assert "to start at" in at_site.judged(script)
    with pytest.raises(ConfigError, match="no partition 'other'"):
        at_site.plans(ref, "slurm.debug=true", SLURM_PARTITION_DEBUG="other")(first=True)


def test_what_is_not_set_is_reported_with_what_the_user_has(at_site: AtSite) -> None:
    result = at_site.user.run(
        "run", "--config-ref", f"megatron_{at_site.site.name}_speed_test", SLURM_ACCOUNT="", SLURM_QOS=""
    )
    assert result.returncode == 2
    account = at_site.site.account.lower()
    assert "no account is set" in result.stderr
    # newer versions show an administrator the account root, too
    assert re.search(f"export SLURM_ACCOUNT=NAME; yours: (root, )?{account}(, root)?\n", result.stderr)
    if at_site.site.name == "marenostrum":
        assert "export SLURM_QOS=NAME; yours: acc_debug, acc_ehpc, normal" in result.stderr
    assert not at_site.user.outputs.exists()
    command = profile(at_site.site.name)["site"]["accounts_cmd"]
    with pytest.raises(ConfigError, match=f"export SLURM_ACCOUNT=NAME; to list yours: {command}"):
        at_site.plans(f"megatron_{at_site.site.name}_speed_test", SLURM_ACCOUNT="", SLURM_QOS="")(live=False)


@pytest.mark.parametrize("name", SITES)
def test_a_profile_is_short_enough_to_be_copied(name: str) -> None:
    assert len((ROOT / f"config/slurm/{name}.yaml").read_text().splitlines()) <= 40
    site = SiteSection.model_validate(profile(name)["site"])
    for limits in (*site.partitions.values(), *site.qos_limits.values()):
        assert isinstance(limits, LimitsSection)
        assert limits.time is None or parse_time(limits.time)
