"""Which texts of a config become shell code of the job's script, and what is said of those that do not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.config.loader import Source
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.planning import manifest as manifests
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.replan import replan
from oellm_autoexp.sbatch import shell_code
from oellm_autoexp.sbatch.launch import LAUNCHER_VARIABLE
from oellm_autoexp.testing.plans import plan_of

NAMES = "A", "B", "C", "D"
SHOWING = ["bash", "-c", "for name in A B C D; do echo $name=$(printenv $name); done", "x"]
HOSTS = '$(printf "%s\\n" "$SLURM_JOB_NODELIST" | head -n1)'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))
    return tmp_path


def planned(slurm: dict[str, Any], *overrides: str, argv: list[str] = SHOWING, **more: Any) -> Plan:
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": more.pop("cluster", "local")}],
        "project": {"name": "job"},
        "backend": {"argv": argv, **more.pop("backend", {})},
        "slurm": slurm,
        **more,
    }
    Path("mine.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return plan_of(Source("mine.yaml", (), overrides))


def printed(script: str, **environment: str) -> dict[str, str]:
    """What a script's program sees of the variables, run without a launcher."""
    around = {"PATH": os.environ["PATH"], LAUNCHER_VARIABLE: "", **environment}
    done = subprocess.run(["bash"], input=script, env=around, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {name: value for name, value in found.items() if value}


def refusal(slurm: dict[str, Any], *overrides: str, **more: Any) -> str:
    with pytest.raises(AutoexpError) as error:
        planned(slurm, *overrides, **more)
    return str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# What is code


def test_commands_that_stand_in_the_slurm_env_of_a_file_are_evaluated_once_by_the_jobs_script() -> None:
    env = {"A": HOSTS, "B": "`echo $A`-$((1 + 1))", "C": 'x $(echo ")" \'$(no)\' "$(echo "b c")") ${project.name}'}
    plan = planned({"env": env})
    assert printed(plan.scripts[0], SLURM_JOB_NODELIST="n1\nn2") == {
        "A": "n1",
        "B": "n1-2",
        "C": "x ) $(no) b c job",
    }
    assert plan.manifest.jobs[0].env["A"] == HOSTS
    reported = [note for note in plan.notes if "is shell code, which the job's script runs once" in note]
    assert [note.split()[0] for note in reported] == ["slurm.env.A", "slurm.env.B", "slurm.env.C"]
    assert "| head -n1)" in reported[0]


def test_code_that_fails_is_reported_in_the_log_and_its_variable_is_what_it_printed() -> None:
    script = planned({"env": {"A": "$(echo part; false)"}}).scripts[0]
    done = subprocess.run(["bash"], input=script, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert "A=part" in done.stdout
    assert "the shell code of A has failed" in done.stderr


def test_code_of_a_group_that_the_sweep_chooses_is_that_of_its_jobs_alone(home: Path) -> None:
    groups = home / "groups" / "slurm"
    groups.mkdir(parents=True)
    for name in NAMES[:2]:
        text = yaml.safe_dump({"defaults": ["local"], "env": {name: f"$(echo {name})"}})
        (groups / f"{name}.yaml").write_text(text)
    sweep = {"params": {"slurm": list(NAMES[:2])}}
    config = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "job${index}"},
        "backend": {"argv": SHOWING},
        "sweep": sweep,
    }
    (home / "mine.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    plan = plan_of(Source("mine.yaml", (home / "groups",)))
    assert [printed(script) for script in plan.scripts] == [{"A": "A"}, {"B": "B"}]


@pytest.mark.parametrize(
    "launcher", ["env A=$(echo 'x; y' | tr x z) B=$SLURM_JOB_ID", ["env", "A=$(echo 'z; y')", "B=$SLURM_JOB_ID"]]
)
def test_commands_and_variables_in_the_launcher_of_a_file_are_evaluated(launcher: Any) -> None:
    plan = planned({"launcher_cmd": launcher, "srun": {}})
    around = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "17"}
    done = subprocess.run(["bash"], input=plan.scripts[0], env=around, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == ["A=z; y", "B=17"]
    assert any(note.startswith("slurm.launcher_cmd") and "is shell code" in note for note in plan.notes)


# ---------------------------------------------------------------------------------------------------------------------
# What never becomes code

EVIL = "$(touch evil)`touch evil`"


@pytest.mark.parametrize(
    ("env", "overrides", "more"),
    [
        ({"A": "${metadata.x}"}, [], {"metadata": {"x": EVIL}}),
        ({"A": "${oc.env:EVIL}"}, [], {}),
        ({"A": "${slurm.env.B}", "B": "${metadata.x}"}, [], {"metadata": {"x": EVIL}}),
        ({"A": "$(true)"}, [f"slurm.env.A='{EVIL}'"], {}),
        ({}, [f"+slurm.env.A='{EVIL}'"], {}),
        ({}, [], {"sweep": {"params": {"slurm.env.A": [EVIL]}}}),
        ({}, [], {"backend": {"env": {"A": EVIL}}}),
        ({}, [], {"container": {"env": {"A": EVIL}}}),
    ],
)
def test_what_comes_from_elsewhere_stays_text_and_is_noted(
    home: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], overrides: list[str], more: dict[str, Any]
) -> None:
    monkeypatch.setenv("EVIL", EVIL)
    plan = planned({"env": env}, *overrides, **more)
    assert printed(plan.scripts[0])["A"] == EVIL
    assert not (home / "evil").exists()
    assert any(".env.A: the $( in" in note and "stays text" in note for note in plan.notes)


def test_code_that_another_key_refers_to_is_text_there() -> None:
    plan = planned({"env": {"A": "$(echo a)", "B": "${slurm.env.A}"}}, metadata={"x": "${slurm.env.A}"})
    assert printed(plan.scripts[0]) == {"A": "a", "B": "$(echo a)"}


def test_marks_of_code_that_an_override_or_a_file_brings_along_make_no_code(home: Path) -> None:
    forged = "\ufdd3$(touch evil)\ufdd4"
    assert "reserved characters" in refusal({}, f"slurm.env.A='{forged}'")
    plan = planned({"env": {"A": "${metadata.x}"}}, metadata={"x": forged})
    assert printed(plan.scripts[0]) == {"A": "$(touch evil)"}
    assert not (home / "evil").exists()


def test_a_value_of_the_config_is_never_put_into_code() -> None:
    text = refusal({"env": {"A": "$(echo ${project.name})"}})
    assert "mine.yaml:" in text
    assert "would become shell code" in text
    assert "write $NAME in the code" in text
    assert "would become shell code" in refusal({"env": {"A": "$((1 + ${metadata.x}))"}}, metadata={"x": 1})
    assert printed(planned({"env": {"B": "${project.name}", "A": "$(echo \\${B})"}}).scripts[0])["A"] == "job"


def test_a_new_attempt_keeps_the_code_of_its_plan_and_takes_no_other() -> None:
    manifest = manifests.load(manifests.write(planned({"env": {"A": "$(echo a)", "C": "$(echo c)"}})))
    job = manifest.jobs[0]
    script = replan(manifest, job, {"slurm.env.A": EVIL, "metadata.x": 1}).script
    assert printed(script) == {"A": EVIL, "C": "c"}


# ---------------------------------------------------------------------------------------------------------------------
# Text of a shell that no shell reads


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("module load x; srun", "';' is shell syntax"),
        ("srun numactl --all > log.txt", "'>' is shell syntax"),
        ("srun a && srun", "'&&' is shell syntax"),
        (["srun", "|", "tee"], "'|' is shell syntax"),
        ("{{env_exports}} srun", "contains a marker of a template"),
        ("srun bash -c '{{launcher}}'", "contains a marker of a template"),
        ("srun env RANK=$SLURM_PROCID", "differs in each task"),
        ("srun $(unfinished", "is not closed"),
        ("srun bash -c", "'-c' runs only the next word"),
        ("OMP_NUM_THREADS=4 srun", "write OMP_NUM_THREADS: 4 into slurm.env"),
    ],
)
def test_a_launcher_that_only_a_shell_would_understand_is_refused_with_its_place(launcher: Any, message: str) -> None:
    text = refusal({"launcher_cmd": launcher, "srun": {}}, cluster="base")
    assert message in text
    assert "mine.yaml" in text
    assert "launcher_cmd" in text


def test_what_a_shell_in_the_launcher_reads_is_left_to_it() -> None:
    words = """srun bash -c 'export RANK=$SLURM_PROCID; exec "$@"' --"""
    (script,) = planned({"launcher_cmd": words}, cluster="base").scripts
    assert """bash -c 'export RANK=$SLURM_PROCID; exec "$@"'""" in script


def test_a_variable_in_flags_of_srun_and_of_slurm_in_the_programs_words_is_the_jobs() -> None:
    argv = ["train", "--run", "r-$SLURM_JOB_ID", "--home", "$HOME/x"]
    plan = planned({"srun": {"jobid": "$SLURM_JOB_ID"}}, cluster="base", argv=argv)
    assert '{AUTOEXP_LAUNCHER-srun --jobid="$SLURM_JOB_ID"}' in plan.scripts[0]
    assert "train --run r-\"$SLURM_JOB_ID\" --home '$HOME/x'" in plan.scripts[0]
    assert plan.manifest.jobs[0].argv == tuple(argv)
    assert any("the $HOME in '$HOME/x' stays text" in note for note in plan.notes)


def test_nothing_is_said_of_a_secret_that_holds_a_sign_of_a_shell() -> None:
    argv = ["train", "--password", "hun$ter2$(x)", "--api-key=a$key`b`"]
    plan = planned({"env": {"HF_TOKEN": "${metadata.x}"}}, argv=argv, metadata={"x": "hun$(ter)2"})
    reported = "\n".join(plan.notes)
    assert not [secret for secret in ("hun", "ter2", "a$key", "key`b`") if secret in reported]


def test_what_is_of_one_task_and_what_sbatch_does_not_read_is_refused() -> None:
    assert "differs in each task" in refusal({}, argv=["train", "--rank=$SLURM_PROCID"])
    assert "differs in each task" in refusal({"srun": {"chdir": "/x/$SLURM_LOCALID"}}, cluster="base")
    text = refusal({"sbatch": {"reservation": "$MINE"}}, cluster="base")
    assert "sbatch does not expand variables" in text
    assert "${oc.env:MINE}" in text


def test_code_may_read_what_is_of_the_first_node_where_the_script_runs() -> None:
    script = planned({"env": {"A": "$(echo $SLURMD_NODENAME)"}}).scripts[0]
    assert printed(script, SLURMD_NODENAME="n1") == {"A": "n1"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", []),
        ("a$(b)c", ["$(b)"]),
        ("\\$(no)", []),
        ("`a \\` b`", ["`a \\` b`"]),
        ("$(a \")\" ')' $(b (c)))d", ["$(a \")\" ')' $(b (c)))"]),
        ("$((1+(2)))$(x)", ["$((1+(2)))", "$(x)"]),
    ],
)
def test_the_end_of_code_is_found_as_a_shell_finds_it(text: str, parts: list[str]) -> None:
    assert [text[begin:end] for begin, end in shell_code.code_spans(text)] == parts


@pytest.mark.parametrize("text", ["$(", "a `b", '$(echo ")', "$(" * 5000])
def test_code_without_an_end_is_an_error_and_no_crash(text: str) -> None:
    with pytest.raises(ValueError, match=r"closed|deeply"):
        shell_code.code_spans(text)
