"""Every experiment of a site runs to its end under a real SLURM in a real container; its ranks write what they see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers import apptainer
from tests.containers.fixtures import Built, Person
from tests.sites.conftest import SiteCluster
from tests.sites.expected import CPUS_PER_TASK, MASTER, NETWORK, OF_CONTAINERS, masks, modules
from tests.sites.laboratory import Site
from tests.slurm.cluster import Cluster

pytestmark = [
    pytest.mark.xdist_group("containers"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can make the folders of a site's file systems"),
]

EXPERIMENTS = {
    "megatron_{site}_speed_test": "0,3",  # on one node and on two
    "megatron_auto_restart": "0",
    "megatron_wsd_decay": "0-3",  # a stable run, and three decays that wait for its checkpoints
    "korbi/dense_300M_50BT_pull": "0,15",
    "korbi/repro_sweep_niccolo_small": "0-2",  # an array
}
"""The experiments, and which of their jobs: of each stage and kind."""
IMAGE = """\
Bootstrap: localimage
From: {base}
%post
  echo here > /in_the_image
%environment
  export NCCL_SOCKET_IFNAME=of_the_image
  export NCCL_IB_TIMEOUT=of_the_image
  export WANDB_MODE=of_the_image
"""
GETENT = """\
#!/bin/sh
# The name service of the site: every node has an address.
printf '10.0.0.%s     STREAM %s\\n' "${2##*-}" "$2"
"""
MODULE = 'module() { echo "module $*" >> "$RECORDS/modules"; }\n'
TRAINER = """\
# What a rank sees, and what Megatron leaves: checkpoints.
env -0 > "$RECORDS/$SLURM_JOB_ID.$RANK"
printf '%s\\n' "$@" > "$RECORDS/$SLURM_JOB_ID.$RANK.arguments"
cp /in_the_image "$RECORDS/$SLURM_JOB_ID.$RANK.image" || exit 1
[ "$RANK" = 0 ] || exit 0
while [ $# -gt 1 ]; do
  case $1 in
    --save) save=$2 ;;
    --save-interval) interval=$2 ;;
    --train-iters) iterations=$2 ;;
  esac
  shift
done
[ -n "${save-}" ] || exit 0
for iteration in $(seq "${interval:-$iterations}" "${interval:-$iterations}" "$iterations"); do
  mkdir -p "$save/iter_$(printf %07d "$iteration")"
  echo '{}' > "$save/iter_$(printf %07d "$iteration")/metadata.json"
  echo "$iteration" > "$save/latest_checkpointed_iteration.txt"
done
"""


@dataclass(frozen=True)
class Resident:
    """Somebody with an account at a site, whose jobs run in an image."""

    site: Site
    cluster: Cluster
    person: Person
    home: Path
    image: Path

    def run(self, script: str, records: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a script of theirs, with what the site's page says that is to be set; ranks write into `records`."""
        own = {
            "PATH": f"{self.home}/bin:{apptainer.program().parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "BASH_ENV": str(self.home / "bin/module.sh"),
            "TMPDIR": str(self.home / "tmp"),
            "RECORDS": str(records),
            "DATA_DIR": str(self.home / "data"),
            "HF_HOME": str(self.home / "data"),
            "OUTPUT_DIR": str(self.home / "outputs"),
            "SLURM_ACCOUNT": self.site.account,
            **self.site.variables,
            **self.cluster.environment(),
            **more,
        }
        place = self.person.checkout / "scripts" / script
        return self.person.run(sys.executable, place, *words, cwd=self.home, **own)


def reported(records: Path) -> dict[str, list[dict[str, str]]]:
    """The environments of all ranks by their jobs, in order."""
    found: dict[str, list[dict[str, str]]] = {}
    for file in records.glob("*.*"):
        if file.suffix[1:].isdecimal():
            entries = file.read_text().rstrip("\0").split("\0")
            found.setdefault(file.stem, []).append(dict(entry.split("=", 1) for entry in entries))
    return {job: sorted(found[job], key=lambda rank: int(rank["RANK"])) for job in sorted(found, key=int)}


@pytest.fixture(scope="session")
def image(person: Person, base_image: Path) -> Path:
    """An image that sets variables of its own, as NVIDIA's and LUMI's do."""
    folder = person.make_folder("image")
    (folder / "image.def").write_text(IMAGE.format(base=base_image))
    person.own(folder)
    person.apptainer("build", "--sandbox", folder / "image", folder / "image.def")
    return folder / "image"


@pytest.fixture
def resident(site_cluster: SiteCluster, person: Person, image: Path) -> Iterator[Resident]:
    site, cluster, _ = site_cluster
    for folder in (cluster.directory, cluster.directory.parent):
        folder.chmod(0o711)
    site.admit(cluster, person.name)
    home = person.make_folder("home")
    for name in ("bin", "data", "tmp", *map(short, EXPERIMENTS)):
        (home / name).mkdir()
    for name, text in (("getent", GETENT), ("trainer", TRAINER), ("module.sh", MODULE)):
        (home / "bin" / name).write_text(text)
        (home / "bin" / name).chmod(0o755)
    person.own(home)
    made = [folder for folder in map(Path, OF_CONTAINERS[site.name].folders) if not folder.exists()]
    for folder in made:
        folder.mkdir()
    try:
        yield Resident(site, cluster, person, home, image)
    finally:
        cluster.reset()
        for folder in made:
            folder.rmdir()


def short(experiment: str) -> str:
    """The folder in which an experiment's ranks write what they see."""
    return experiment.rpartition("/")[2].replace("{site}_", "")


def test_every_experiment_runs_to_its_end_in_a_container_at_its_site(resident: Resident) -> None:
    with ThreadPoolExecutor() as pool:  # most of the time is waiting
        list(pool.map(lambda experiment: run_and_compare(resident, experiment), EXPERIMENTS))


def run_and_compare(resident: Resident, experiment: str) -> None:
    """Plan an experiment, have SLURM judge it, run it, and hold what its ranks see against the facts."""
    name, records = resident.site.name, resident.home / short(experiment)
    done = resident.run(
        "run_autoexp.py",
        records,
        "--config-ref",
        f"experiments/{experiment.format(site=name)}",
        "--array-subset",
        EXPERIMENTS[experiment],
        "--check",
        f"slurm={name}",
        f"container={name}",
        f"container.image={resident.image}",
        f"+container.binds.name_service={resident.home}/bin/getent:/usr/bin/getent:ro",
        "backend.python=bash",
        f"backend.script={resident.home}/bin/trainer",
        "monitoring.poll_interval_seconds=0.3",
        *(["container.machine=null", "slurm.sbatch.time=12:00:00"] if name == "jupiter" else []),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    by_job = reported(records)
    assert re.search(rf"{len(by_job)} jobs?: {len(by_job)} success", done.stdout), done.stdout
    for ranks in by_job.values():
        assert_as_the_facts_say(resident, records, ranks)
    loaded = (records / "modules").read_text().splitlines() if modules(name) else []
    assert sorted(loaded) == sorted(modules(name) * len(by_job))


def assert_as_the_facts_say(resident: Resident, records: Path, ranks: list[dict[str, str]]) -> None:
    """The ranks of one job are as the site's documentation has them."""
    name, gpus = resident.site.name, resident.site.gpus
    nodes = int(ranks[0]["SLURM_JOB_NUM_NODES"])
    world = nodes * gpus
    assert [rank["RANK"] for rank in ranks] == [str(number) for number in range(world)]
    assert [rank["LOCAL_RANK"] for rank in ranks] == [str(number) for number in range(gpus)] * nodes
    assert {rank["WORLD_SIZE"] for rank in ranks} == {str(world)}
    first = ranks[0]["SLURMD_NODENAME"]
    address = f"10.0.0.{first.rpartition('-')[2]}"
    assert {rank["MASTER_ADDR"] for rank in ranks} == {MASTER.get(name, address).format(name=first)}
    assert len({rank["MASTER_PORT"] for rank in ranks}) == 1
    for rank in ranks:
        assert NETWORK[name].items() <= rank.items()
        assert rank["WANDB_MODE"] == "offline"
        assert rank["SLURM_CPUS_PER_TASK"] == CPUS_PER_TASK[name]
        assert rank["SLURM_JOB_ACCOUNT"] == resident.site.account.lower()
        assert rank["SLURM_JOB_QOS"] == resident.site.variables.get("SLURM_QOS", "normal")
        assert len(rank.get("CUDA_VISIBLE_DEVICES", rank["SLURM_JOB_GPUS"]).split(",")) == gpus
        assert rank.get("SLURM_CPU_BIND_LIST", "").replace("0x", "") == (",".join(masks()) if name == "lumi" else "")
        assert rank["APPTAINER_CONTAINER"] == str(resident.image)
        job = f"{rank['SLURM_JOB_ID']}.{rank['RANK']}"
        assert (records / f"{job}.image").read_text() == "here\n"
        assert "--num-layers" in (records / f"{job}.arguments").read_text().splitlines()


@pytest.mark.parametrize("site_cluster", ["jupiter"], indirect=True)
def test_the_speed_test_is_planned_in_an_image_and_runs_in_it(resident: Resident, sif: Built) -> None:
    records, cache = resident.home / "megatron_speed_test", resident.home / "tmp"
    (cache / "MegatronTraining.sif").symlink_to(sif.path)
    done = resident.run(
        "run_autoexp_container.py",
        records,
        *("--config-ref", "experiments/megatron_jupiter_speed_test", "container=juwels", "--array-subset", "3"),
        f"+container.binds.programs={resident.home}/bin",
        f"+container.binds.mark={resident.home}/bin/module.sh:/in_the_image:ro",
        "backend.python=bash",
        f"backend.script={resident.home}/bin/trainer",
        "monitoring.poll_interval_seconds=0.3",
        CONTAINER_CACHE_DIR=str(cache),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    ((ranks,),) = [reported(records).values()]
    assert [rank["RANK"] for rank in ranks] == [str(number) for number in range(8)]
    assert {rank["APPTAINER_CONTAINER"] for rank in ranks} == {f"{cache}/MegatronTraining.sif"}
    assert {rank["NCCL_PROTO"] for rank in ranks} == {"Simple"}
