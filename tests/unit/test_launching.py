"""How a job is launched: defaults count, srun's flags stand behind srun, idle GPUs and diverted streams are noted."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.config.defaults import is_schema_key, with_defaults
from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.schema import decode_section
from oellm_autoexp.core.errors import AutoexpError, ConfigError
from oellm_autoexp.planning.make_plan import job_config
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.sbatch.directives import with_options
from oellm_autoexp.sbatch.launch import Launcher, is_launched_by_srun, srun_options
from oellm_autoexp.sbatch.log_paths import stream_files
from oellm_autoexp.testing.plans import plan_of

CLUSTER: dict[str, Any] = {
    "client": {"class_name": "SlurmClient"},
    "sbatch": {"nodes": 2, "ntasks_per_node": 1, "gpus_per_node": 4, "time": "01:00:00"},
    "srun": {"wait": 60},
}
"""A slurm group of a user's own, which says nothing of the launcher, arrays or environment."""
MODEL = ("num_layers=2", "hidden_size=64", "num_attention_heads=4", "seq_length=64", "max_position_embeddings=64")
TRAINING = tuple(f"backend.megatron.{word}" for word in (*MODEL, "micro_batch_size=1", "lr=0.1"))
COMMAND = ("backend=command", "backend.argv=[train]")


def around(folder: Path) -> PlanContext:
    return PlanContext(datetime.now(UTC), folder, "python3", {}, ("plan",), "me", "here", "00")


def source(folder: Path, *overrides: str, slurm: dict[str, Any] | None = None) -> Source:
    file = folder / "groups" / "slurm" / "mycluster.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(CLUSTER if slurm is None else slurm))
    return Source(config_dirs=(folder / "groups",), overrides=("slurm=mycluster", *overrides))


def planned(folder: Path, *overrides: str, slurm: dict[str, Any] | None = None) -> Plan:
    composed = load(source(folder, *overrides, slurm=slurm))
    return plan_of(composed, around(folder))


def problems(folder: Path, *overrides: str, slurm: dict[str, Any] | None = None) -> str:
    with pytest.raises(AutoexpError) as error:
        planned(folder, *overrides, slurm=slurm)
    return str(error.value)


def changed(**slurm: Any) -> dict[str, Any]:
    return {**CLUSTER, **slurm}


# ---------------------------------------------------------------------------------------------------------------------
# Defaults


def test_a_group_without_launcher_is_launched_as_one_that_says_the_default(tmp_path: Path) -> None:
    plans = [
        planned(tmp_path, "backend=megatron_torchrun", *TRAINING, slurm=slurm)
        for slurm in (CLUSTER, changed(launcher_cmd="srun", env={}, array=False, sbatch_extra_directives=[]))
    ]
    assert plans[0].scripts == plans[1].scripts
    (job,) = plans[0].manifest.jobs
    assert job.resources.gpus == 8
    assert "--nproc-per-node=4" in " ".join(job.argv)
    assert "MASTER_ADDR" in job.env
    assert plans[0].notes == plans[1].notes


def test_a_default_can_be_referred_to_set_and_set_by_a_sweep(tmp_path: Path) -> None:
    referring = "project.name=n_${slurm.array}_${slurm.client.timeout_seconds}_${scheduler.max_gpu_hours}"
    (job,) = planned(tmp_path, *COMMAND, referring).manifest.jobs
    assert job.name == "n_False_60_None"
    assert planned(tmp_path, *COMMAND, "slurm.array=true").manifest.slurm["array"] is True
    for key in ("slurm.array", "+slurm.array", "++slurm.array"):
        group = tmp_path / "groups" / "sweep" / "arrays.yaml"
        group.parent.mkdir(exist_ok=True)
        group.write_text(yaml.safe_dump({"params": {key: [True]}}))
        assert planned(tmp_path, *COMMAND, "sweep=arrays").manifest.slurm["array"] is True


@pytest.mark.slow
def test_a_misspelt_key_of_the_schema_is_reported_all_the_same(tmp_path: Path) -> None:
    assert "no key 'slurm.arary'" in problems(tmp_path, *COMMAND, "slurm.arary=true")
    assert "launch" in problems(tmp_path, *COMMAND, "backend.launch=torchrun")


def test_every_shipped_group_says_all_that_it_decides_or_gets_it() -> None:
    composed = load(Source(overrides=("backend=megatron",)))
    whole, added = with_defaults(composed.base)
    assert with_defaults(whole) == (whole, frozenset())
    assert all(is_schema_key(key, composed.base) for key in added)
    assert not is_schema_key("backend.module", composed.base)
    assert is_schema_key("backend.module")
    assert job_config(composed, around(Path("/w")), None)["backend"]["validate"] == "checks"


# ---------------------------------------------------------------------------------------------------------------------
# GPUs that no process uses


def idle(plan: Plan) -> list[str]:
    return [note for note in plan.notes if "GPU" in note]


@pytest.mark.parametrize("launcher", [None, [], ""])
def test_without_launcher_torchrun_has_the_gpus_of_its_node_and_the_others_are_reported(
    tmp_path: Path, launcher: Any
) -> None:
    plan = planned(tmp_path, "backend=megatron_torchrun", *TRAINING, slurm=changed(launcher_cmd=launcher))
    assert "--nproc-per-node=4" in " ".join(plan.manifest.jobs[0].argv)
    (note,) = idle(plan)
    assert "asks for 8 GPUs and starts 4 processes" in note
    assert "launcher_cmd: srun" in note


def test_without_launcher_there_is_one_rank_which_is_reported_and_waits_for_no_other(tmp_path: Path) -> None:
    slurm = changed(launcher_cmd=None, sbatch={"ntasks_per_node": 4, "gpus_per_node": 4})
    plan = planned(tmp_path, "backend=megatron", *TRAINING, slurm=slurm)
    assert "asks for 4 GPUs and starts one process" in idle(plan)[0]
    ranks = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "PATH": os.environ["PATH"]}
    words = plan.manifest.jobs[0].argv[:4]
    shown = subprocess.run([*words, "sh", "-c", "echo $WORLD_SIZE"], env=ranks, capture_output=True, text=True)
    assert shown.stdout == "1\n"


@pytest.mark.parametrize(
    ("slurm", "message"),
    [
        (CLUSTER, ""),
        (changed(launcher_cmd=None), "runs on 1 of its 2 nodes: 4 of 8 GPUs are idle"),
        (changed(srun={"nodes": 1}), "runs on 1 of its 2 nodes: 4 of 8 GPUs are idle"),
        (changed(launcher_cmd="srun -N 1"), "runs on 1 of its 2 nodes: 4 of 8 GPUs are idle"),
        (changed(sbatch={"nodes": 2, "ntasks": 1, "gpus_per_node": 4}), "runs on 1 of its 2 nodes"),
        (changed(sbatch={"nodes": 2}, launcher_cmd=None), ""),
        (changed(launcher_cmd="mpirun -n 8", srun={}), ""),
    ],
)
def test_nodes_with_gpus_that_no_process_of_any_program_reaches_are_reported(
    tmp_path: Path, slurm: dict[str, Any], message: str
) -> None:
    notes = idle(planned(tmp_path, *COMMAND, slurm=slurm))
    assert notes == [] if not message else message in notes[0]


def test_ranks_that_srun_leaves_out_and_a_launcher_of_another_name_are_reported(tmp_path: Path) -> None:
    spare = changed(sbatch={"nodes": 3, "gpus_per_node": 4}, srun={"nodes": 2, "ntasks_per_node": 4})
    (note,) = idle(planned(tmp_path, "backend=megatron", *TRAINING, slurm=spare))
    assert "asks for 12 GPUs and starts 8 processes" in note
    other = changed(launcher_cmd="mylaunch", srun={}, sbatch={"nodes": 2, "ntasks_per_node": 4, "gpus_per_node": 4})
    notes = planned(tmp_path, "backend=megatron", *TRAINING, slurm=other).notes
    assert any("'mylaunch' must start the 8 ranks itself" in note for note in notes)


# ---------------------------------------------------------------------------------------------------------------------
# srun's flags


@pytest.mark.parametrize(
    ("words", "start", "wrapper"),
    [
        ("srun", "srun --wait=60", ""),
        ("srun apptainer exec --nv image.sif", "srun --wait=60", "apptainer exec --nv image.sif"),
        ("/opt/bin/srun -l -n 4 env A=1", "/opt/bin/srun -l -n 4 --wait=60", "env A=1"),
        (
            "srun --label --mpi none -ln4 --exclusive=user sh",
            "srun --label --mpi none -ln4 --exclusive=user --wait=60",
            "sh",
        ),
        ("srun --wait 30 sh -l", "srun --wait 30 --wait=60", "sh -l"),
        ("srun --no-container-mount-home -- sh", "srun --no-container-mount-home --wait=60", "sh"),
        ("env X=1 srun numactl -N 0", "env X=1 srun --wait=60", "numactl -N 0"),
        ("srun --wrapper 'a b'", "srun --wrapper 'a b' --wait=60", ""),
        ("", "", ""),
    ],
)
def test_sruns_flags_stand_behind_its_own_and_before_what_it_starts(words: str, start: str, wrapper: str) -> None:
    made = Launcher.of(shlex.split(words), {"wait": 60})
    assert made == Launcher(tuple(shlex.split(start)), tuple(shlex.split(wrapper)))
    assert made.calls_srun == bool(words)
    behind = Launcher.of(shlex.split(words), {"wait": 60}, wrapper=("apptainer", "exec"))
    assert behind.words == (*made.words, "apptainer", "exec")


def test_what_srun_is_reported_is_known_from_both_places() -> None:
    reported = srun_options(("srun", "-N", "2", "--mpi=none", "--label", "sh", "-n", "5"), {"ntasks": 4, "label": None})
    assert reported == {"nodes": "2", "mpi": "none", "label": "", "ntasks": 4}


def test_flags_without_an_srun_to_take_them_are_an_error(tmp_path: Path) -> None:
    reported = problems(tmp_path, *COMMAND, slurm=changed(launcher_cmd="mpirun -n 8"))
    assert "no srun in 'mpirun -n 8' that could take the flags of slurm.srun (--wait=60)" in reported
    assert "launcher_cmd" in reported


def test_a_wrapper_is_run_by_srun_and_without_it_in_a_terminal(tmp_path: Path) -> None:
    plan = planned(tmp_path, *COMMAND, slurm=changed(launcher_cmd="srun ./wrap --nv 'image one.sif'"))
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for file in (bin_ / "srun", tmp_path / "wrap", bin_ / "train"):
        file.write_text('#!/bin/sh\necho "$(basename "$0"): $*"\n[ "${1#--wait}" = "$1" ] || { shift; exec "$@"; }\n')
        file.chmod(0o755)
    job = tmp_path / "job"
    job.write_text(plan.scripts[0])
    assert is_launched_by_srun(plan.scripts[0])
    environment = {"PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    for more, reported in (({}, "srun: --wait=60 ./wrap --nv image one.sif train\n"), ({"AUTOEXP_LAUNCHER": ""}, "")):
        done = subprocess.run(["bash", job], env={**environment, **more}, capture_output=True, text=True)
        assert done.stdout == f"{reported}wrap: --nv image one.sif train\n"


# ---------------------------------------------------------------------------------------------------------------------
# Environment


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("NONE", "A,B"),
        ("none", "A,B"),
        ("HOME,B=2", "HOME,B=2,A"),
        (["HOME", "X=1"], "HOME,X=1,A,B"),
        ("ALL", "ALL"),
        ("ALL,X=1", "ALL,X=1"),
    ],
)
def test_sruns_export_hands_on_what_the_config_sets(given: Any, made: str) -> None:
    assert Launcher.of(("srun",), {"export": given}, env={"A": "", "B": ""}).start == ("srun", f"--export={made}")


@pytest.mark.parametrize(("name", "key"), [("SLURM_EXPORT_ENV", "export"), ("SLURM_STDOUTMODE", "output")])
def test_a_variable_that_would_hide_something_from_us_is_refused_with_its_key(
    tmp_path: Path, name: str, key: str
) -> None:
    reported = problems(tmp_path, *COMMAND, slurm=changed(env={name: "NONE"}))
    assert f"set slurm.srun.{key}" in reported
    assert planned(tmp_path, *COMMAND, slurm=changed(env={"SLURM_EXPORT_ENV": "ALL"}))


def test_only_scripts_for_slurm_make_srun_ready(tmp_path: Path) -> None:
    assert "SRUN_CPUS_PER_TASK" in planned(tmp_path, *COMMAND, slurm=changed(launcher_cmd=None)).scripts[0]
    local = plan_of(Source(overrides=COMMAND), around(tmp_path))
    assert "SRUN_CPUS_PER_TASK" not in local.scripts[0]


# ---------------------------------------------------------------------------------------------------------------------
# Streams


def test_files_that_a_stream_is_diverted_to_are_the_jobs_to_watch(tmp_path: Path) -> None:
    slurm = changed(
        sbatch={"error": "logs/%j.err"}, srun={"output": "${project.output_dir}/ranks/%j_%t.out", "error": "all"}
    )
    (job,) = planned(tmp_path, *COMMAND, slurm=slurm).manifest.jobs
    assert job.streams == (
        f"{tmp_path}/logs/%j.err",
        f"{job.output_dir}/ranks/%j_%t.out",
    )
    assert job.log_dirs[1:] == (f"{tmp_path}/logs", f"{job.output_dir}/ranks")
    assert json.loads(job.model_dump_json())["streams"] == list(job.streams)


@pytest.mark.parametrize(
    ("pattern", "job", "folder", "names"),
    [
        ("/a/100%%/%j.err", "12", "/a/100%", "12.err"),
        ("/a/%j_%3t_%N[1].out", "12", "/a", "12_[0-9]*_*[[]1].out"),
        ("/a/%A_%a.err", "12_3", "/a", "12_3.err"),
        ("/a/%J.%t", "12", "/a", "12.*.[0-9]*"),
    ],
)
def test_the_files_of_a_stream_are_those_of_one_attempt(pattern: str, job: str, folder: str, names: str) -> None:
    assert stream_files(pattern, job) == (folder, names)


@pytest.mark.parametrize(
    ("slurm", "where", "what"),
    [
        (changed(sbatch={"error": "logs/err.txt"}), "slurm.sbatch.error", "has no %j"),
        (changed(sbatch={"e": "logs/%x.err"}), "slurm.sbatch", "has no %j"),
        (changed(srun={"output": "/a/%j/out"}), "slurm.srun.output", "name of a folder"),
        (changed(launcher_cmd="srun -o /a/%t.out"), "slurm.srun.output", "has no %j"),
        (changed(sbatch_extra_directives=["--error=x"]), "slurm.sbatch_extra_directives[0]", "has no %j"),
    ],
)
def test_a_stream_whose_files_could_be_another_jobs_is_refused(
    tmp_path: Path, slurm: dict[str, Any], where: str, what: str
) -> None:
    reported = problems(tmp_path, *COMMAND, slurm=slurm)
    assert where in reported
    assert what in reported
    assert "%j" in reported


def test_flags_that_no_srun_takes_are_reported(tmp_path: Path) -> None:
    launchers: tuple[Any, ...] = (None, [], " ")
    for launcher in launchers:
        notes = planned(tmp_path, *COMMAND, slurm=changed(launcher_cmd=launcher)).notes
        assert "slurm.srun (wait) has no effect: slurm.launcher_cmd starts no srun" in notes
    assert not any("has no effect" in note for note in planned(tmp_path, *COMMAND).notes)


@pytest.mark.parametrize(
    ("section", "keys"),
    [("srun", ("cpu-bind", "cpu_bind")), ("srun", ("n", "ntasks")), ("sbatch", ("ntasks-per-node", "ntasks_per_node"))],
)
def test_an_option_in_two_spellings_is_refused_where_it_stands_again(
    tmp_path: Path, section: str, keys: tuple[str, str]
) -> None:
    first, again = keys
    reported = problems(tmp_path, *COMMAND, slurm=changed(**{section: {first: 1, again: 2}}))
    assert f"'{again}' and '{first}' are the same option" in reported
    assert f"$.slurm.{section}.{again}" in reported
    planned(tmp_path, *COMMAND, slurm=changed(**{section: {first: None, again: 2}}))


@pytest.mark.parametrize(
    ("slurm", "message"),
    [
        (
            {"launcher_cmd": "srun --cpu-bind=none", "srun": {"cpu_bind": "cores"}},
            "slurm.srun.cpu_bind counts, and not ",
        ),
        ({"launcher_cmd": "srun --cpu-bind=cores -l", "srun": {"cpu_bind": "cores", "label": True}}, ""),
        ({"sbatch_extra_directives": ["-N 3"]}, "--nodes of slurm.sbatch_extra_directives[0] counts, and not that of"),
        ({"sbatch_extra_directives": ["--mem=3G", "--mem=4G"]}, "[1] counts, and not that of slurm.sbatch_extra_"),
        ({"sbatch_extra_directives": ["--nodes=2", "--exclusive"]}, ""),
    ],
)
def test_an_option_that_two_places_give_two_values_is_noted(
    tmp_path: Path, slurm: dict[str, Any], message: str
) -> None:
    notes = [note for note in planned(tmp_path, *COMMAND, slurm=changed(**slurm)).notes if "counts, and not" in note]
    assert len(notes) == bool(message)
    assert all(message in note for note in notes)


def test_words_that_are_thrown_away_are_reported_and_a_later_attempt_keeps_its_files(tmp_path: Path) -> None:
    plan = planned(tmp_path, *COMMAND, slurm=changed(sbatch={"error": "/dev/null"}, srun={"output": "none"}))
    assert plan.manifest.jobs[0].streams == ()
    assert sum("no rule sees it" in note for note in plan.notes) == 2
    with pytest.raises(ConfigError, match="keeps the files"):
        with_options(plan.scripts[0], {"error": "x"})
    rules = "monitoring.state_events={crash: {actions: [{class_name: RestartAction, overrides: {slurm.sbatch.e: x}}]}}"
    assert "keeps the files" in problems(tmp_path, *COMMAND, f"++{rules}")


def test_jobs_whose_streams_need_their_own_number_are_not_tasks_of_an_array(tmp_path: Path) -> None:
    for name, alone in (("%j", True), ("%A_%a", False)):
        slurm = changed(array=True, srun={"output": f"/a/{name}_%t"})
        (job,) = planned(tmp_path, *COMMAND, slurm=slurm).manifest.jobs
        assert (job.array_group is None) == alone


def test_the_embedded_scheduler_diverts_nothing(tmp_path: Path) -> None:
    assert decode_section("slurm", CLUSTER).launcher_cmd == ("srun",)
    local = changed(client={"class_name": "LocalClient"}, launcher_cmd=[], sbatch={"error": "x"})
    assert planned(tmp_path, *COMMAND, slurm=local).manifest.jobs[0].streams == ()


@pytest.mark.parametrize(("count", "noted"), [(1, False), (2, True)])
def test_tasks_that_no_launcher_starts_are_noted(tmp_path: Path, count: int, noted: bool) -> None:
    slurm = {
        **CLUSTER,
        "srun": {},
        "launcher_cmd": None,
        "sbatch": {**CLUSTER["sbatch"], "nodes": 1, "ntasks_per_node": count},
    }
    plan = planned(tmp_path, *COMMAND, slurm=slurm)
    assert any("asks for 2 tasks and starts its program once" in note for note in plan.notes) is noted


# ---------------------------------------------------------------------------------------------------------------------
# Signs of a shell where no shell reads


def test_signs_of_a_shell_in_conditions_and_actions_are_noted(tmp_path: Path) -> None:
    run = {"class_name": "RunCommandAction", "command": "python $(pwd)/x.py | tee"}
    waits = {"class_name": "FileExistsCondition", "path": "$HOME/x"}
    file = tmp_path / "exp.yaml"
    crash = {"name": "crash", "actions": [{"class_name": "EventAction", "action": run, "conditions": [waits]}]}
    config = {
        "backend": {"argv": ["train"]},
        "job": {"start_condition_cmd": "test -d x && bash -c 'true && true'", "start_conditions": [waits]},
        "monitoring": {"state_events": {"crash": crash}},
    }
    file.write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    notes = plan_of(load(Source("exp", (tmp_path,), ())), around(tmp_path)).notes
    where = [note.partition(":")[0] for note in notes]
    assert where.count("job.start_condition_cmd") == 1
    assert "job.start_conditions[0].path" in where
    in_rules = [note for note in notes if note.startswith("$.monitoring.state_events.crash")]
    assert len(in_rules) == 3, in_rules


def test_a_launcher_that_is_a_command_of_the_shell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="command of the shell itself"):
        plan_of(Source(overrides=(*COMMAND, "slurm.launcher_cmd=exec srun")), around(tmp_path))


def test_what_a_sweep_sets_is_recorded_as_it_is_in_the_job_without_secrets_of_the_environment(tmp_path: Path) -> None:
    values = {
        "metadata.lr": [1, 2],
        "metadata.half": ["${oc.div:${metadata.lr},2}"],
        "metadata.x": ["${oc.env:HF_TOKEN}"],
        "metadata.section": [{"a": "${metadata.lr}", "b": [1, "${metadata.lr}", "${oc.env:HF_TOKEN}"]}],
        "backend.argv.1": ["${metadata.half}"],
    }
    metadata = {"lr": 0, "half": 0, "x": "", "section": {"other": 1}}
    config = {"backend": {"argv": ["train", ""]}, "metadata": metadata, "sweep": {"params": values}}
    config["project"] = {"name": "a_${metadata.lr}"}
    (tmp_path / "exp.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    secret = {"HF_TOKEN": "hunter2hunter2zz"}
    context = PlanContext(datetime.now(UTC), tmp_path, "python3", secret, ("plan",), "me", "here", "00")
    jobs = plan_of(load(Source("exp", (tmp_path,), ())), context).manifest.jobs
    assert [job.parameters["metadata.half"] for job in jobs] == [0.5, 1.0]
    assert [job.parameters["backend.argv.1"] for job in jobs] == [0.5, 1.0]
    assert [job.parameters["metadata.section"] for job in jobs] == [{"a": lr, "b": [1, lr, "***"]} for lr in (1, 2)]
    assert {job.parameters["metadata.x"] for job in jobs} == {"***"}
