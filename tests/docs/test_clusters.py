"""The pages of clusters: their commands are those of this program, and their facts those of the profiles."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.core.commands import COMMANDS
from oellm_autoexp.schedulers.slurm.cluster import VARIABLES
from tests.docs.test_documents import options, shell_lines
from tests.sites.laboratory import SITES, Site

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs/clusters"


@pytest.mark.parametrize("name", ["README", *SITES])
def test_the_commands_of_a_page_are_ours(name: str) -> None:
    modules = {command.script: name for name, command in COMMANDS.items()}
    lines = [line for line in shell_lines((PAGES / f"{name}.md").read_text()) if "scripts/" in line]
    assert lines
    for line in lines:
        (script,) = re.findall(r"scripts/(\w+)\.py", line)
        assert set(re.findall(r" (--[a-z-]+)", line)) <= options(modules[script]), line
        import_module(f"oellm_autoexp.cli.{script}").parser().parse_intermixed_args(line.split()[2:])
        for ref in re.findall(r"--config-ref (\S+)", line):
            assert (ROOT / f"config/{ref}.yaml").exists()
        for chosen in re.findall(r"slurm=(\w+)", line):
            assert (ROOT / f"config/slurm/{chosen}.yaml").exists()


@pytest.mark.parametrize("name", SITES)
def test_a_page_leads_to_a_speed_test_with_all_that_its_profile_needs(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    site = yaml.safe_load((ROOT / f"config/slurm/{name}.yaml").read_text())["site"]
    exported = set(re.findall(r"^export (\w+)=", page, re.MULTILINE))
    assert {f"SLURM_{need.upper()}" for need in site["needs"]} <= exported
    assert set(Site.load(name).variables) <= exported
    assert {variable for variable, purpose in VARIABLES.items() if purpose} <= exported
    assert site["accounts_cmd"] in page
    assert f"experiments/megatron_{name}_speed_test" in page
    assert "--submit" in page
    for each in (*site.get("partitions", {}), site["partition"], site.get("debug_qos"), site["debug_partition"]):
        assert each is None or f"`{each}`" in page


def test_the_index_names_every_page_and_every_variable_of_the_mission() -> None:
    index = (PAGES / "README.md").read_text()
    for name in SITES:
        assert f"({name}.md)" in index
    names = ("SLURM_ACCOUNT", "SLURM_PARTITION", "SLURM_PARTITION_DEBUG", "SLURM_QOS", *VARIABLES)
    assert all(f"`{name}`" in index for name in names)
    steps = re.findall(r"^\d+\. ", index.partition("## Add your cluster")[2], re.MULTILINE)
    assert len(steps) == 10
