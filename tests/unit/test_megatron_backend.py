"""Megatron-LM as a backend: its words, its environment, and scripts that are executed with a srun that is none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.backends.base import Command, Job
from oellm_autoexp.backends.megatron.backend import PARSER, MegatronBackend
from oellm_autoexp.config.loader import Source
from oellm_autoexp.config.schema import decode_section
from oellm_autoexp.core.errors import AutoexpError, BackendError, ConfigError, Problem
from oellm_autoexp.core.redaction import redact_words
from oellm_autoexp.core.secret_names import is_secret
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.programs import absent, ask
from oellm_autoexp.sbatch import directives, script
from oellm_autoexp.sbatch.launch import Launcher
from oellm_autoexp.testing.plans import plan_of
from tests.megatron.validation_cases import BASE

GOLDEN = Path(__file__).resolve().parents[1] / "golden/megatron"
TEMPLATE = (Path(script.__file__).parent / "job.sbatch.template").read_text()
PLACE = "@work@"
"""Stands for the working directory in golden files, so that they can be executed anywhere."""
ON_SLURM: dict[str, Any] = {
    "client": {"class_name": "SlurmClient"},
    "launcher_cmd": "srun",
    "env": {},
    "sbatch": {"nodes": 2, "ntasks_per_node": 4, "gpus_per_node": 4},
    "srun": {"wait": 60},
    "sbatch_extra_directives": [],
}
HERE: dict[str, Any] = {
    **ON_SLURM,
    "client": {"class_name": "LocalClient"},
    "launcher_cmd": [],
    "sbatch": {},
    "srun": {},
}


def command(slurm: dict[str, Any] = ON_SLURM, megatron: dict[str, Any] | None = None, **section: Any) -> Command:
    values = {**BASE, **(megatron or {})}
    words = {"class_name": "MegatronBackend", "script": "/m/pretrain_gpt.py", "megatron": values, **section}
    return MegatronBackend.model_validate(words).command(Job({}, decode_section("slurm", slurm)))


def refusals(slurm: dict[str, Any] = ON_SLURM, megatron: dict[str, Any] | None = None, **section: Any) -> list[Problem]:
    with pytest.raises(BackendError) as error:
        command(slurm, megatron, **section)
    return list(error.value.problems)


def given(made: Command) -> list[str]:
    """The words for Megatron itself."""
    return list(made.argv[made.argv.index("/m/pretrain_gpt.py") + 1 :])


def asking(**sbatch: Any) -> dict[str, Any]:
    return {**ON_SLURM, "sbatch": {**ON_SLURM["sbatch"], **sbatch}}


# ---------------------------------------------------------------------------------------------------------------------
# Words


def test_arguments_are_words_of_megatrons_own_spelling_and_what_is_ours_is_left_out() -> None:
    words = given(command(megatron={"aux": {"tokens": 5}, "recompute_method": None}))
    assert "--disable-bias-linear" in words
    assert words[words.index("--lr") + 1] == "0.001"
    assert not [word for word in words if "aux" in word or "tokens" in word or "recompute" in word]


def test_what_is_set_is_given_also_where_it_equals_the_default() -> None:
    assert "--log-interval" in given(command(megatron={"log_interval": 100}))
    assert "--log-interval" not in given(command())


def test_of_the_defaults_of_a_version_only_what_is_changed_is_given() -> None:
    size = "num_layers=2 hidden_size=64 num_attention_heads=4 seq_length=64 max_position_embeddings=64"
    rest = "micro_batch_size=1 train_iters=10 lr=0.1 log_interval=7"
    changes = [f"backend.megatron.{change}" for change in f"{size} {rest}".split()]
    (job,) = planned("backend=megatron", "backend/megatron=core_v0_19_0", *changes).manifest.jobs
    flags = [word for word in job.argv if word.startswith("--")]
    assert len(flags) == len(changes) + 3  # and made-up data, of which the group sets three arguments
    assert job.argv[job.argv.index("--log-interval") + 1] == "7"


def test_extra_words_come_last_and_a_repeated_flag_is_noted() -> None:
    made = command(extra_args="--kitchen-recipe-number 5 --lr=2e-3")
    assert given(made)[-3:] == ["--kitchen-recipe-number", "5", "--lr=2e-3"]
    assert [note.text for note in made.notes] == ["backend.extra_args: --lr is given again, and the last one wins"]


def test_a_word_with_a_blank_behind_its_flag_is_refused_with_what_to_write() -> None:
    (problem,) = refusals(extra_args=["--finetune", "--lr 3e-4"])
    assert str(problem.where) == "$.backend.extra_args[1]"
    assert problem.hint == "write several: '--lr', '3e-4'"
    (problem,) = refusals(extra_args=["--wandb-api-key pl4nted"])
    assert problem.hint == "write several: '--wandb-api-key', '***'"
    assert "pl4nted" not in str(problem)
    assert given(command(extra_args=["--title=two words", "--title", "two words"]))[-1] == "two words"


def test_what_the_last_words_save_to_is_where_progress_is_read() -> None:
    made = command(megatron={"save": "/a", "save_interval": 5}, extra_args=["--save", "/b"])
    assert made.progress_file.startswith("/b/")
    assert [(place.key, place.written) for place in made.places] == [("backend.megatron.save", "backend.extra_args")]


@pytest.mark.parametrize(
    ("written", "value", "note"),
    [
        ("use_mcore_models", True, "backend.megatron.use_mcore_models: has no effect"),
        ("deprecated_use_mcore_models", True, "backend.megatron.deprecated_use_mcore_models: has no effect"),
        ("dist_ckpt_format", "torch_dist", "backend.megatron.dist_ckpt_format: has no effect"),
    ],
)
def test_notes_name_an_argument_as_it_was_written(written: str, value: Any, note: str) -> None:
    assert any(each.text.startswith(note) for each in command(megatron={written: value}).notes)


def test_problems_name_an_argument_as_it_was_written() -> None:
    (problem,) = refusals(megatron={"global_batch_size": None, "--global-batch-size": 60})
    assert str(problem.where) == "$.backend.megatron.--global-batch-size"
    (problem,) = refusals(version="0.14", megatron={"layernorm_epsilon": "small"})
    assert str(problem.where) == "$.backend.megatron.layernorm_epsilon"


def test_unknown_arguments_and_wrong_values_are_reported_together_with_what_was_meant() -> None:
    problems = refusals(megatron={"learning_rte": 1, "num_querry_groups": 2, "num_layers": "many", "min_lr": 1})
    assert {str(problem.where).rpartition(".")[2] for problem in problems} == {
        "learning_rte",
        "num_querry_groups",
        "num_layers",
        "min_lr",
    }
    assert "did you mean 'num_query_groups'" in next(str(p) for p in problems if "querry" in str(p.where))


def test_an_unknown_version_is_reported_at_its_key() -> None:
    (problem,) = refusals(version="core_v9")
    assert str(problem.where) == "$.backend.version"


def test_without_checks_only_the_words_must_be_right() -> None:
    assert given(command(megatron={"min_lr": 1}, validate="none"))
    assert str(refusals(megatron={"min_lr": 1, "x": 1}, validate="none")[0].where) == "$.backend.megatron.x"


def test_no_flag_of_megatron_is_taken_for_a_secret() -> None:
    from oellm_autoexp.backends.megatron.arguments import Arguments

    for argument in Arguments.of().dests.values():
        assert not is_secret(argument.dest), argument.dest
        for flag in (*argument.flags, *argument.off):
            assert redact_words((flag, "alltoall")) == [flag, "alltoall"]
    assert is_secret("HF_TOKEN")


# ---------------------------------------------------------------------------------------------------------------------
# Ranks


@pytest.mark.parametrize(
    ("sbatch", "where", "hint"),
    [
        ({"ntasks_per_node": None}, "ntasks_per_node", "ntasks_per_node: 4"),
        ({"ntasks_per_node": 1}, "ntasks_per_node", "backend.launch: torchrun"),
        ({"ntasks_per_node": 8}, "ntasks_per_node", "ntasks_per_node: 4"),
        ({"ntasks_per_node": None, "ntasks": 2}, "ntasks_per_node", "ntasks_per_node: 4"),
    ],
)
def test_by_srun_there_must_be_a_task_for_each_gpu(sbatch: dict[str, Any], where: str, hint: str) -> None:
    (problem,) = refusals(asking(**sbatch))
    assert str(problem.where) == f"$.slurm.sbatch.{where}"
    assert hint in problem.hint


@pytest.mark.parametrize(
    "sbatch",
    [
        {},
        {"ntasks_per_node": None, "ntasks": 8},
        {"nodes": None, "ntasks_per_node": None, "ntasks": 8, "gpus_per_node": None, "gpus": 8},
        {"gpus_per_node": None, "gres": "gpu:a100:4"},
        {"gpus_per_node": None, "exclusive": True},  # which gives whole nodes
    ],
)
def test_the_world_is_what_srun_starts(sbatch: dict[str, Any]) -> None:
    (problem,) = refusals(asking(**sbatch), {"global_batch_size": 60})
    assert "on 8 copies" in problem.what


def test_what_srun_is_reported_beats_what_the_job_asks_for() -> None:
    slurm = {**asking(ntasks_per_node=None), "srun": {"ntasks": 8}}
    assert "on 8 copies" in refusals(slurm, {"global_batch_size": 60})[0].what


def test_where_srun_is_reported_what_becomes_of_a_dead_rank_the_backend_says_nothing() -> None:
    assert "SLURM_KILL_BAD_EXIT" not in command({**ON_SLURM, "srun": {"kill_on_bad_exit": 0}}).env
    assert "SLURM_KILL_BAD_EXIT" not in command({**ON_SLURM, "srun": {"kill-on-bad-exit": True}}).env
    assert "SLURM_KILL_BAD_EXIT" not in command({**ON_SLURM, "env": {"SLURM_KILL_BAD_EXIT": "0"}}).env
    assert command(asking(ntasks_per_node=1), launch="torchrun").env["SLURM_KILL_BAD_EXIT"] == "1"


@pytest.mark.parametrize("launch", ["srun", "torchrun"])
def test_a_job_without_gpus_is_refused_but_on_this_machine(launch: str) -> None:
    (problem,) = refusals(asking(gpus_per_node=None, ntasks_per_node=1), launch=launch)
    assert str(problem.where) == "$.slurm.sbatch.gpus_per_node"
    assert "the job asks for none" in problem.what
    assert command(HERE, launch=launch)


def spare(nodes: int = 3, **srun: Any) -> dict[str, Any]:
    """Nodes of which srun leaves some to spare."""
    return {**asking(nodes=nodes), "srun": {"nodes": 2, **srun}}


def test_nodes_that_srun_leaves_to_spare_have_no_ranks() -> None:
    alone = asking(nodes=3, ntasks_per_node=None)
    for slurm in (
        spare(ntasks=8),
        spare(ntasks=8, gpus_per_node=4),
        {**alone, "srun": {"nodes": 2, "ntasks_per_node": 4}},
    ):
        assert "on 8 copies" in refusals(slurm, {"global_batch_size": 60})[0].what
    slurm = spare(ntasks=2)
    assert "on 8 copies" in refusals(slurm, {"global_batch_size": 60}, launch="torchrun")[0].what
    assert '--nnodes="${SLURM_STEP_NUM_NODES:-$SLURM_JOB_NUM_NODES}"' in command(slurm, launch="torchrun").argv[2]


def test_a_wrong_number_of_tasks_is_reported_where_srun_is_reported_it() -> None:
    # without its own number srun takes that of the job, and ignores another one per node
    for srun in ({}, {"ntasks": 12}, {"ntasks_per_node": 4}):
        (problem,) = refusals(spare(**srun))
        assert (str(problem.where), problem.what[:19]) == ("$.slurm.srun.ntasks", "srun starts 12 task")
        assert "slurm.srun.ntasks: 8" in problem.hint
    (problem,) = refusals({**asking(ntasks_per_node=None), "srun": {"ntasks_per_node": 2}})
    assert "srun starts 4 tasks for 8 GPUs" in problem.what
    assert command({**ON_SLURM, "srun": {"ntasks_per_node": 2}})


def texts(made: Command) -> list[str]:
    return [note.text for note in made.notes]


def test_a_signal_that_torchrun_would_not_outlive_is_noted() -> None:
    one_each = asking(ntasks_per_node=1, signal="TERM@600")
    (text,) = texts(command(one_each, launch="torchrun"))
    assert "slurm.sbatch.signal TERM@600" in text
    assert "backend.launch: srun" in text
    assert len(texts(command(asking(ntasks_per_node=1, signal="B:USR1@600"), launch="torchrun"))) == 1
    assert texts(command(asking(signal="TERM@600"))) == []


def test_a_handler_of_signals_below_torchrun_is_noted_with_what_does_instead() -> None:
    handled = {"exit_signal_handler": True}
    (text,) = texts(command(asking(ntasks_per_node=1), handled, launch="torchrun"))
    assert "exit_duration_in_mins" in text
    assert texts(command(megatron=handled)) == []
    assert len(texts(command(asking(ntasks_per_node=1, signal="TERM@600"), handled, launch="torchrun"))) == 2


def test_gpus_that_are_bound_to_tasks_are_noted() -> None:
    bound = asking(gpus_per_node=None, gpus_per_task=1)
    (text,) = texts(command(bound))
    assert "LOCAL_RANK" in text
    assert texts(command(asking(gpus_per_task=None))) == []


def test_on_this_machine_the_world_is_one() -> None:
    assert "on 1 copy" in refusals(HERE, {"global_batch_size": 61})[0].what
    assert "1 GPU can't" in refusals(HERE, {"tensor_model_parallel_size": 2})[0].what


def test_torchrun_is_one_task_per_node_and_needs_to_know_the_gpus() -> None:
    assert "once per node" in refusals(launch="torchrun")[0].what
    (problem,) = refusals(asking(ntasks_per_node=None, gpus_per_node=None), launch="torchrun")
    assert str(problem.where) == "$.slurm.sbatch.gpus_per_node"
    wrong = refusals(asking(ntasks_per_node=1), {"global_batch_size": 60}, launch="torchrun")
    assert "on 8 copies" in wrong[0].what


def test_what_a_profile_or_a_person_says_of_the_environment_is_kept() -> None:
    assert command().env == {"MASTER_ADDR": "$SLURMD_NODENAME", "SLURM_KILL_BAD_EXIT": "1"}
    assert "MASTER_ADDR" not in command({**ON_SLURM, "env": {"MASTER_ADDR": "${SLURMD_NODENAME}i"}}).env
    assert command(env={"MASTER_ADDR": "n1"}).env["MASTER_ADDR"] == "n1"
    assert command(HERE).env == {}
    tp = {"tensor_model_parallel_size": 2}
    assert str(refusals(megatron=tp)[0].where) == "$.backend.env.CUDA_DEVICE_MAX_CONNECTIONS"
    assert command(megatron=tp, env={"CUDA_DEVICE_MAX_CONNECTIONS": 1})
    assert command({**ON_SLURM, "env": {"CUDA_DEVICE_MAX_CONNECTIONS": 1}}, tp)


# ---------------------------------------------------------------------------------------------------------------------
# Scripts, executed


@dataclass(frozen=True)
class Script:
    """How a job is launched, and what its tasks are to see."""

    slurm: dict[str, Any]
    section: dict[str, Any]
    nodes: int
    tasks: int

    def text(self) -> str:
        made = command(
            self.slurm, {"wandb_exp_name": "it's a run"}, env={"CUDA_DEVICE_MAX_CONNECTIONS": 1}, **self.section
        )
        launcher = Launcher.of(decode_section("slurm", self.slurm).launcher_cmd, self.slurm["srun"])
        env = {**self.slurm["env"], **made.env}
        lines = directives.directives(self.slurm["sbatch"], (), name="run", log_path=f"{PLACE}/%j.out", work_dir=PLACE)
        return script.render(
            TEMPLATE,
            name="run",
            lines=lines,
            env=env,
            work_dir=PLACE,
            log_path=f"{PLACE}/%j.out",
            marks=f"{PLACE}/marks",
            launcher=launcher,
            argv=made.argv,
            for_slurm=bool(launcher.start),
        )


TORCHRUN = {"launch": "torchrun", "python": "python3 -u"}
SCRIPTS = {
    "srun": Script(ON_SLURM, {}, 2, 4),
    "srun_named_master": Script({**ON_SLURM, "env": {"MASTER_ADDR": "${SLURMD_NODENAME}i"}}, {}, 2, 4),
    "torchrun": Script(asking(ntasks_per_node=1), TORCHRUN, 2, 1),
    "local": Script(HERE, {}, 1, 1),
    "local_torchrun": Script(HERE, TORCHRUN, 1, 1),
}
SRUN = """\
#!{python}
import os, subprocess, sys
nodes, tasks = int(os.environ["NODES"]), int(os.environ["TASKS"])
words = sys.argv[sys.argv.index("bash"):]
open(os.environ["SEEN"] + "/srun", "w").write(" ".join(sys.argv[1:-len(words)]))
for node in range(nodes):
    for task in range(tasks):
        own = {{"SLURM_PROCID": node * tasks + task, "SLURM_LOCALID": task, "SLURM_NODEID": node,
               "SLURM_STEP_NUM_TASKS": nodes * tasks, "SLURMD_NODENAME": f"n{{node}}"}}
        subprocess.run(words, env={{**os.environ, **{{key: str(value) for key, value in own.items()}}}}, check=True)
"""
PYTHON = """\
#!{python}
import json, os, sys
number = os.environ.get("SLURM_PROCID", "0")
json.dump({{"argv": sys.argv[1:], "env": dict(os.environ)}}, open(os.environ["SEEN"] + f"/{{number}}.json", "w"))
"""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_its_golden_file(name: str) -> None:
    file = GOLDEN / f"{name}.sbatch"
    if os.environ.get("AUTOEXP_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(SCRIPTS[name].text())
    assert SCRIPTS[name].text() == file.read_text()


def test_every_golden_file_has_its_case() -> None:
    assert sorted(file.stem for file in GOLDEN.glob("*.sbatch")) == sorted(SCRIPTS)


def executed(name: str, place: Path, **environment: str) -> list[dict[str, Any]]:
    """Run a golden file; what each task's Python was given, by rank."""
    (place / "bin").mkdir()
    for program, text in (("srun", SRUN), ("python3", PYTHON)):
        (place / "bin" / program).write_text(text.format(python=sys.executable))
        (place / "bin" / program).chmod(0o755)
    file = place / "job.sbatch"
    file.write_text((GOLDEN / f"{name}.sbatch").read_text().replace(PLACE, str(place)))
    case = SCRIPTS[name]
    variables = {
        "PATH": f"{place / 'bin'}:/usr/bin:/bin",
        "SEEN": str(place),
        "NODES": str(case.nodes),
        "TASKS": str(case.tasks),
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NUM_NODES": str(case.nodes),
        "SLURMD_NODENAME": "n0",
        "SLURM_PROCID": "0",  # of the batch script, which is a step of one task itself
        **environment,
    }
    done = subprocess.run(["/bin/bash", file], env=variables, cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(case.nodes * case.tasks)]


def variables_of(seen: list[dict[str, Any]], *names: str) -> list[tuple[str, ...]]:
    return [tuple(one["env"].get(name, "") for name in names) for one in seen]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_task_gets_exactly_megatrons_words(name: str, tmp_path: Path) -> None:
    case = SCRIPTS[name]
    words = given(
        command(case.slurm, {"wandb_exp_name": "it's a run"}, env={"CUDA_DEVICE_MAX_CONNECTIONS": 1}, **case.section)
    )
    for seen in executed(name, tmp_path):
        index = seen["argv"].index("/m/pretrain_gpt.py")
        assert seen["argv"][index + 1 :] == words
        assert "it's a run" in words
        assert seen["env"]["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"


def test_by_srun_each_task_knows_its_rank_and_all_know_the_same_master(tmp_path: Path) -> None:
    seen = executed("srun", tmp_path)
    assert variables_of(seen, "RANK", "LOCAL_RANK") == [(str(rank), str(rank % 4)) for rank in range(8)]
    assert set(variables_of(seen, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")) == {("8", "n0", "25234")}
    assert (tmp_path / "srun").read_text() == "--wait=60"
    assert seen[0]["argv"][0] == "/m/pretrain_gpt.py"


def test_a_profile_names_the_master(tmp_path: Path) -> None:
    assert set(variables_of(executed("srun_named_master", tmp_path), "MASTER_ADDR")) == {("n0i",)}


def test_a_torchrun_per_node_is_reported_its_number_and_the_master(tmp_path: Path) -> None:
    for node, seen in enumerate(executed("torchrun", tmp_path)):
        assert seen["argv"][: seen["argv"].index("/m/pretrain_gpt.py")] == [
            "-u",
            "-m",
            "torch.distributed.run",
            "--nnodes=2",
            "--nproc-per-node=4",
            f"--node-rank={node}",
            "--master-addr=n0",
            "--master-port=25234",
        ]


def test_here_there_is_one_rank_and_jobs_do_not_share_a_port(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    ports = set()
    for job, task in (("12", ""), ("13", ""), ("12_0", "0"), ("12_1", "1")):
        place = tmp_path / job
        place.mkdir()
        (found,) = variables_of(
            executed("local", place, SLURM_JOB_ID=job, **({"SLURM_ARRAY_TASK_ID": task} if task else {})), *names
        )
        assert found[:4] == ("0", "0", "1", "localhost")
        ports.add(found[4])
    assert len(ports) == 3  # a job and the first task of an array never have the same number


def test_local_torchrun_is_reported_everything(tmp_path: Path) -> None:
    (seen,) = executed("local_torchrun", tmp_path)
    before = seen["argv"][: seen["argv"].index("/m/pretrain_gpt.py")]
    assert [word for word in before if re.match("--n|--master", word)] == [
        "--nnodes=1",
        "--nproc-per-node=1",
        "--node-rank=0",
        "--master-addr=localhost",
        "--master-port=25234",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Plans


def planned(*overrides: str) -> Plan:
    return plan_of(Source(overrides=overrides))


def test_a_new_key_needs_no_plus_and_a_misspelt_one_is_refused_where_it_was_written() -> None:
    plan = planned("backend=megatron", "backend.megatron.moe_router_topk=2", "backend.megatron.num_experts=4")
    assert "--num-experts" in plan.manifest.jobs[0].argv
    with pytest.raises(BackendError) as error:
        planned("backend=megatron", "backend.megatron.num_expert=4")
    assert "override backend.megatron.num_expert=4" in str(error.value)
    assert "did you mean 'num_experts'" in str(error.value)


def test_a_sweep_sets_new_keys_too() -> None:
    plan = planned(
        "backend=megatron",
        "project.name='r_${backend.megatron.eod_mask_loss}'",
        "sweep={params:{backend.megatron.eod_mask_loss:[true,false]}}",
    )
    assert ["--eod-mask-loss" in job.argv for job in plan.manifest.jobs] == [True, False]


def test_for_a_stand_in_a_key_that_the_config_lacks_is_still_an_error() -> None:
    with pytest.raises(ConfigError):
        planned("backend=tiny_megatron", "backend.megatron.num_expert=4")
    assert planned("backend=tiny_megatron", "+backend.megatron.num_expert=4")


def test_values_of_ones_own_are_for_others_to_refer_to() -> None:
    plan = planned("backend=megatron", "backend.megatron.aux.k=3", "backend.megatron.seed='${backend.megatron.aux.k}'")
    argv = plan.manifest.jobs[0].argv
    assert argv[argv.index("--seed") + 1] == "3"


def test_a_note_is_reported_once_with_the_number_of_jobs() -> None:
    sweep = "sweep={params:{backend.megatron.seed:[1,2,3],backend.megatron.sequence_parallel:[true,false]}}"
    name = "project.name='r${backend.megatron.seed}_${backend.megatron.sequence_parallel}'"
    (note,) = [note for note in planned("backend=megatron", name, sweep).notes if "sequence_parallel" in note]
    assert note.endswith("(3 of 6 jobs)")


def test_a_wrong_key_of_the_section_is_reported_with_its_real_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'validate'"):
        planned("backend=megatron", "+backend.validat=none")


# ---------------------------------------------------------------------------------------------------------------------
# Megatron's own parser


def shape(env: dict[str, str] | None = None, extra: str = "", **megatron: Any) -> tuple[str, ...]:
    made = command(megatron=megatron, validate="parser", env=env or {}, extra_args=extra)
    assert made.probe is not None
    return made.probe.shape


def test_jobs_that_differ_in_their_folders_and_rates_are_asked_about_once() -> None:
    one = shape(lr=1e-3, save="/a", save_interval=1, wandb_exp_name="x")
    assert one == shape(lr=2e-5, min_lr=1e-06, save="/b/c", save_interval=1, wandb_exp_name="-y")
    assert command().probe is None


def test_jobs_that_differ_in_anything_else_are_each_asked_about() -> None:
    several = [
        shape(),
        shape(num_layers=4),
        shape(num_layers=None, hybrid_layer_pattern="M-M*/M-M*"),
        shape(num_layers=None, hybrid_layer_pattern="M-M*/M-MM"),
        shape(qk_clip_alpha=0.5),
        shape(qk_clip_alpha=2.0),
        shape(load="/a"),
        shape({"NCCL_GRAPH_REGISTER": "0"}),
        shape({"NCCL_GRAPH_REGISTER": "1"}),
        shape(extra="--kitchen 5"),
        shape(extra="--kitchen 6"),
    ]
    assert len({*several}) == len(several)


def test_a_plan_holds_each_question_once() -> None:
    sweep = "sweep={params:{backend.megatron.lr:[1e-3,2e-3,3e-3],backend.megatron.num_layers:[4,8]}}"
    name = "project.name='r${backend.megatron.lr}_${backend.megatron.num_layers}'"
    assert len(planned("backend=megatron", "backend.validate=parser", name, sweep).probes) == 2
    assert planned("backend=megatron", name, sweep).probes == ()


def test_where_megatron_is_not_the_error_says_how_to_get_it() -> None:
    for python in (sys.executable, "/no/such/python"):
        made = command(validate="parser", python=[python])
        assert made.probe is not None
        with pytest.raises(BackendError) as error:
            ask([made.probe])
        (problem,) = error.value.problems
        assert str(problem.where) == "$.backend.megatron"
        assert "git submodule update --init" in problem.hint


def test_a_training_script_that_is_not_there_is_noted(tmp_path: Path) -> None:
    script = tmp_path / "pretrain_gpt.py"
    plan = planned("backend=megatron", f"backend.script={script}")
    (note,) = absent(plan.needs)
    assert note.startswith(f"{script} is not on this machine")
    assert "git submodule update --init" in note
    script.touch()
    assert absent(plan.needs) == ()
    assert planned("project=default").needs == ()


def test_the_answers_of_the_parser_come_back_to_their_jobs(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        f"#!{sys.executable}\nimport json, sys\nassert sys.argv[1] == {str(PARSER)!r}\nprint('noise')\n"
        "for line in sys.stdin:\n    asked = json.loads(line)\n"
        "    print(json.dumps(['too deep'] if '9' in asked['argv'] and asked['world'] == 8 else []))\n"
    )
    fake.chmod(0o755)

    def probe(layers: int) -> Any:
        return command(megatron={"num_layers": layers}, validate="parser", python=[str(fake)]).probe

    ask([probe(8), probe(4)])
    with pytest.raises(AutoexpError, match="too deep"):
        ask([probe(8), probe(9)])


def test_the_operations_of_an_iteration_are_those_of_the_literature() -> None:
    """GPT-3 in Narayanan et al. 2021, appendix: 72 B s l h^2 (1 + s/6h + V/12lh), half of the attention masked."""
    layers, hidden, length, vocabulary, batch = 96, 12288, 2048, 51200, 1536
    model = {
        "num_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": 96,
        "seq_length": length,
        "max_position_embeddings": length,
        "vocab_size": vocabulary,
        "swiglu": False,
        "global_batch_size": batch,
        "micro_batch_size": 1,
    }
    work = command(megatron=model).work
    assert work is not None
    weights = 1 + length / (12 * hidden) + vocabulary / (12 * layers * hidden)
    assert work.flops == pytest.approx(72 * batch * length * layers * hidden**2 * weights)


def test_grouped_queries_gates_and_experts_count_as_a_token_passes_them() -> None:
    per_token, layers = 6 * 1024 * 64, 8
    plain = operations()
    assert plain - operations(swiglu=False) == pytest.approx(per_token * layers * 512 * 2048)
    grouped = operations(group_query_attention=True, num_query_groups=2)
    assert plain - grouped == pytest.approx(per_token * layers * 2 * 512 * 64 * 6)
    experts = operations(num_experts=8, moe_router_topk=2, moe_ffn_hidden_size=1024)
    assert experts == pytest.approx(plain)  # two experts of 1024 are as much as one layer of 2048


def operations(**values: Any) -> float:
    """The floating-point operations of an iteration of BASE with these values."""
    work = command(megatron=values).work
    assert work is not None
    assert work.flops is not None
    return work.flops
