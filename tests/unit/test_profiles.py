"""What the keys of a cluster's profile make of a job's script, and of the variables of its user."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.sbatch.environment import module_lines
from oellm_autoexp.schedulers.site import Site
from oellm_autoexp.testing.plans import plan_of

COMMAND = ("slurm=base", "backend.argv=[echo,ran]")
MEGATRON = ("slurm=four_gpus", "backend=megatron", "backend.python=bash", "backend/megatron=130M")


def planned(*overrides: str, **environment: str) -> Plan:
    around = PlanContext(datetime.now(UTC), Path("/here"), "python3", environment, ("x",), "me", "here", "00")
    composed = load(Source(overrides=overrides))
    return plan_of(composed, around, site=lambda _: Site())


def script(*overrides: str, **environment: str) -> str:
    (text,) = planned(*overrides, **environment).scripts
    return text


def run(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines by bash, with a `module` that prints its words and fails for `broken`."""
    module = 'module() { printf "<%s>" "$@"; echo; [ "$2" != broken ]; }\n'
    words = ["bash", "-c", module + text]
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=env)


def test_modules_are_loaded_word_by_word_before_the_environment_is_set() -> None:
    text = script(*COMMAND, 'slurm.modules=[purge,"load GCC/13.3.0 \'a b\'","use $HOME/x;y"]', "slurm.env.A=1")
    lines = text.splitlines()
    assert lines.index("module purge || exit 1") < lines.index("export A=1")
    result = run(module_lines(["purge", "load GCC/13.3.0 'a b'", "use $HOME/x;y"]))
    assert result.stdout == "<purge>\n<load><GCC/13.3.0><a b>\n<use><$HOME/x;y>\n"


def test_a_module_that_cannot_be_loaded_ends_the_script_before_the_program() -> None:
    result = run(module_lines(["load broken"]) + "echo ran")
    assert (result.returncode, result.stdout) == (1, "<load><broken>\n")
    assert module_lines([]) == ""


def test_a_module_command_that_is_no_words_is_reported_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"slurm\.modules.*no closing quotation"):
        script(*COMMAND, 'slurm.modules=["load \'x"]')


def asked_of(text: str, **environment: str) -> str:
    """The MASTER_ADDR that the ranks of a script have: what it exports, and what each rank makes of it."""
    exports = [line for line in text.splitlines() if line.startswith("export MASTER_ADDR")]
    (start,) = [line for line in text.splitlines() if "pretrain_gpt.py" in line]
    prelude = start.partition(" bash -c ")[2]
    shown = prelude.replace('exec "$@"', 'echo "$MASTER_ADDR"')
    return run("\n".join((*exports, f"bash -c {shown}")), **environment).stdout.strip()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", "localhost"),
        ('"{hostname}"', "localhost"),
        ('"{hostname}i"', "localhosti"),
        ('"ib-{hostname}.site"', "ib-localhost.site"),
        ('"{address}"', "127.0.0.1"),
    ],
)
def test_ranks_call_the_first_node_as_the_profile_says(rule: str, expected: str) -> None:
    chosen = [f"slurm.master_addr={rule}"] if rule else []
    assert asked_of(script(*MEGATRON, *chosen), SLURMD_NODENAME="localhost") == expected


def test_a_name_that_cannot_be_looked_up_stays_a_name_and_an_environments_own_address_wins() -> None:
    address = 'slurm.master_addr="{address}"'
    assert asked_of(script(*MEGATRON, address), SLURMD_NODENAME="no.such.node.invalid") == "no.such.node.invalid"
    own = script(*MEGATRON, address, "slurm.env.MASTER_ADDR=mine")
    assert asked_of(own, SLURMD_NODENAME="localhost") == "mine"


@pytest.mark.parametrize("rule", ["{host}", "{address}i", "", "a b"])
def test_a_master_addr_that_means_nothing_is_reported(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"slurm\.master_addr.*must be \{hostname\}, a name made of it, or"):
        script(*MEGATRON, f'slurm.master_addr="{rule}"')


def test_an_empty_variable_counts_as_not_set() -> None:
    names = ("SLURM_ACCOUNT", "SLURM_PARTITION", "SLURM_QOS", "SLURM_PARTITION_DEBUG", "HF_HOME", "OUTPUT_DIR")
    assert script(*COMMAND, **dict.fromkeys((*names, "PROJECT_DIR"), "")) == script(*COMMAND)
    text = script(*COMMAND, SLURM_ACCOUNT="a", SLURM_PARTITION="p", SLURM_QOS="q", HF_HOME="/hf")
    assert {"#SBATCH --account=a", "#SBATCH --partition=p", "#SBATCH --qos=q", "export HF_HOME=/hf"} <= {
        *text.splitlines()
    }


def test_outputs_go_to_output_dir_else_below_project_dir_else_here() -> None:
    assert planned(*COMMAND).manifest.base_output_dir == "/here/outputs"
    assert planned(*COMMAND, PROJECT_DIR="/project").manifest.base_output_dir == "/project/outputs"
    assert planned(*COMMAND, PROJECT_DIR="/project", OUTPUT_DIR="/out").manifest.base_output_dir == "/out"


def test_debug_takes_the_partition_for_tests_and_says_so_where_none_is_known() -> None:
    text = script(*COMMAND, "slurm.debug=true", SLURM_PARTITION="usual", SLURM_PARTITION_DEBUG="quick", SLURM_QOS="q")
    assert "#SBATCH --partition=quick\n" in text
    assert "#SBATCH --qos=q\n" in text, "where no QOS for tests is known"
    with pytest.raises(ConfigError, match=r"slurm\.debug.*there is no partition or QOS for tests"):
        script(*COMMAND, "slurm.debug=true", SLURM_PARTITION="usual")


def test_debug_that_takes_another_qos_than_the_variable_says_so() -> None:
    words = (*COMMAND, "slurm.debug=true", "slurm.site.debug_qos=dbg", "slurm.site.debug_partition=p")
    plan = planned(*words, SLURM_QOS="q")
    assert "#SBATCH --qos=dbg\n" in plan.scripts[0]
    assert "slurm.debug takes QOS dbg in place of $SLURM_QOS (q)" in plan.notes
    assert not [note for note in planned(*words, SLURM_QOS="dbg").notes if "slurm.debug" in note]


def test_a_profile_of_ones_own_is_judged_by_its_data(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/ours.yaml").write_text(
        "defaults: [base, _self_]\nsite: {name: ours, needs: [account], partition: a, partitions: {a: {nodes: 2}}}\n"
    )
    around = PlanContext(datetime.now(UTC), tmp_path, "python3", {}, ("x",), "me", "here", "00")
    composed = load(
        Source(config_dirs=(tmp_path,), overrides=("slurm=ours", "backend.argv=[a]", "slurm.sbatch.nodes=3"))
    )
    with pytest.raises(ConfigError) as raised:
        plan_of(composed, around, site=lambda _: Site())
    texts = [str(problem) for problem in raised.value.problems]
    assert "no account is set, and ours accepts no job without one" in texts[0]
    assert "sacctmgr show assoc user=$USER" in texts[0]
    assert "asks for 3 nodes; partition a allows 2" in texts[1]


@pytest.mark.parametrize(
    ("override", "bound"),
    [
        ("slurm.sbatch.time=01:00:00", True),
        ("slurm.sbatch.partition=small-g", True),
        ("slurm.sbatch.partition='dev-g,small-g'", False),
        ("slurm.sbatch.exclusive=null", False),
        ("slurm.sbatch.exclusive=user", False),
        ("slurm.sbatch.ntasks_per_node=1", False),
        ("slurm.sbatch.ntasks_per_node=null", False),
    ],
)
def test_lumis_masks_go_with_whole_nodes_and_a_rank_for_each_gpu(override: str, bound: bool) -> None:
    script = planned("backend.argv=[train]", "slurm=lumi", "slurm.sbatch.account=x", override).scripts[0]
    assert ("--cpu-bind=mask_cpu:" in script) == bound
