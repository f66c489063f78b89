"""An unquoted no, 1e3 or True: what the type of its key makes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.config.declared import Declared, declared
from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import AutoexpError, ConfigError
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.testing.plans import plan_of

ROOT = Path(__file__).resolve().parents[2]
HEADER = "# @package _global_\n"


def planned(folder: Path, text: str, *overrides: str) -> Plan:
    """The plan of an experiment whose program is `train`."""
    file = folder / "exp.yaml"
    file.write_text(f"{HEADER}{text}")
    argv = () if "argv" in text or "override /backend" in text else ("backend.argv=[train]",)
    composed = load(Source(str(file), (), (f"project.base_output_dir={folder}/out", *argv, *overrides)))
    around = PlanContext(datetime(2026, 1, 31, tzinfo=UTC), folder, "python3", {}, (), "user", "host", "nonce")
    return plan_of(composed, around)


def reported(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(AutoexpError) as error:
        planned(folder, text, *overrides)
    return [str(problem).replace(f"{folder}/", "") for problem in error.value.problems]


def names(plan: Plan) -> list[str]:
    return [job.name for job in plan.manifest.jobs]


@pytest.mark.parametrize(
    ("text", "line", "key", "word"),
    [
        ("backend:\n  options: {+a: no}\n", 3, "backend.options.a", "no"),
        ("metadata:\n  lang: No\n", 3, "metadata.lang", "No"),
        ("metadata:\n  langs:\n    - en\n    - no\n", 5, "metadata.langs[1]", "no"),
        ("metadata:\n  langs: [en, no, sv]\n", 3, "metadata.langs[1]", "no"),
        ("backend:\n  env:\n    A: b\n    LANG: NO\n", 5, "backend.env.LANG", "NO"),
        ("slurm:\n  env: {FAST: yEs}\n", 3, "slurm.env.FAST", "yEs"),
        ("slurm:\n  sbatch: {requeue: on}\n", 3, "slurm.sbatch.requeue", "on"),
        ("slurm:\n  launcher_cmd: off\n", 3, "slurm.launcher_cmd", "off"),
        ("sweep:\n  params:\n    metadata.lang: [en, no, sv]\n", 4, "sweep.params.metadata.lang[1]", "no"),
        ("sweep:\n  params:\n    metadata.lang:\n      - en\n      - no\n", 6, "sweep.params.metadata.lang[1]", "no"),
        ("sweep:\n  grids: [{metadata: {lang: [en, no]}}]\n", 3, "sweep.grids[0].metadata.lang[1]", "no"),
        ("sweep:\n  configs:\n    - metadata.lang: no\n", 4, "sweep.configs[0].metadata.lang", "no"),
        ("sweep:\n  defaults: {+metadata.lang: no}\n", 3, "sweep.defaults.metadata.lang", "no"),
        ("sweep:\n  metadata.lang: no\n", 3, "sweep.metadata.lang", "no"),
        ("sweep:\n  groups: [{configs: [{stage: a, metadata: {l: no}}]}]\n", 3, "", "no"),
        ("sweep: {filter: on}\n", 2, "sweep.filter", "on"),
        ("monitoring: {log_events: {e: {pattern: x, metadata: {a: no}}}}\n", 2, "", "no"),
        ("backend: {megatron: {aux: {lang: no}}}\n", 2, "backend.megatron.aux.lang", "no"),
        ("backend: {megatron: {no_such: no}}\n", 2, "backend.megatron.no_such", "no"),
    ],
)
def test_an_unquoted_no_where_anything_goes_is_an_error_that_asks_which_is_meant(
    tmp_path: Path, text: str, line: int, key: str, word: str
) -> None:
    (problem,) = reported(tmp_path, text)
    meant = "true" if word.lower() in ("yes", "on") else "false"
    assert problem.startswith(f"exp.yaml:{line} ($.{key}")
    assert problem.endswith(f"write '{word}' in quotes if it is text, else {meant}")


def test_all_of_them_are_reported_at_once(tmp_path: Path) -> None:
    assert len(reported(tmp_path, "metadata: {a: no, b: [yes, x, off]}\nsweep: {params: {metadata.c: [on, x]}}\n")) == 4


def test_a_group_file_is_read_like_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/mine.yaml").write_text("defaults: [local]\n\narray: yes\nenv:\n  LANG: no\n")
    assert reported(tmp_path, "defaults: [override /slurm: mine]\n") == [
        "slurm/mine.yaml:5 ($.slurm.env.LANG): unquoted no is ambiguous: YAML reads it as true or false\n"
        "    write 'no' in quotes if it is text, else false"
    ]


def test_a_value_that_is_overridden_is_no_mistake(tmp_path: Path) -> None:
    assert names(planned(tmp_path, "metadata: {lang: no}\nproject: {name: 'r_${metadata.lang}'}\n", "metadata.lang=sv"))


def test_a_name_and_a_stage_that_are_no_are_called_so(tmp_path: Path) -> None:
    text = "project: {name: '${stage}'}\nsweep: {params: {stage: [en, no, sv, Yes, OFF]}}\n"
    assert names(planned(tmp_path, text)) == ["en", "no", "sv", "Yes", "OFF"]
    assert names(planned(tmp_path, "project: {name: no}\nsweep: {}\n")) == ["no"]


def test_quotes_make_text_and_true_and_false_make_booleans_everywhere(tmp_path: Path) -> None:
    text = (
        "project: {name: 'r_${index}'}\nsweep: {params: {+backend.options.l: [en, 'no', \"on\", true, false]}}\n"
        "backend: {env: {A: 'no', B: false}, argv: [train]}\n"
    )
    plan = planned(tmp_path, text)
    assert [job.argv[1:] for job in plan.manifest.jobs] == [("--l", "en"), ("--l", "no"), ("--l", "on"), ("--l",), ()]
    assert plan.manifest.jobs[0].env | {"A": "no", "B": "false"} == plan.manifest.jobs[0].env


def test_where_a_boolean_is_declared_yes_and_no_are_booleans(tmp_path: Path) -> None:
    text = (
        "slurm: {array: Yes}\nproject: {resume: off, name: x}\nsweep: {}\n"
        "monitoring: {log_events: {e: {pattern: x, state: stall, overrules_success: on}}}\n"
        "job: {start_conditions: [{class_name: FileExistsCondition, path: no, blocking: yes}]}\n"
    )
    manifest = planned(tmp_path, text).manifest
    assert manifest.slurm["array"] is True
    assert manifest.monitoring["log_events"]["e"]["overrules_success"] is True
    assert (
        manifest.jobs[0].start_conditions[0] | {"blocking": True, "path": "no"}
        == (manifest.jobs[0].start_conditions[0])
    )


def test_the_words_of_a_command_and_names_of_events_and_groups_are_texts(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/no.yaml").write_text("params: {stage: [on, off]}\n")
    text = (
        "defaults: [override /sweep: no]\nproject: {name: '${stage}'}\nbackend: {argv: [echo, no, 1.10, 3]}\n"
        "monitoring:\n  log_events:\n    - {name: no, pattern: yes}\n"
    )
    manifest = planned(tmp_path, text).manifest
    assert [(job.name, job.argv) for job in manifest.jobs] == [
        ("on", ("echo", "no", "1.10", "3")),
        ("off", ("echo", "no", "1.10", "3")),
    ]
    assert manifest.monitoring["log_events"]["no"]["pattern"] == "yes"


def test_a_key_is_text_as_it_is_written(tmp_path: Path) -> None:
    text = "project: {name: x}\nsweep: {}\nbackend: {env: {NO: '1'}}\nmetadata: {no: 1, 1e3: 2, on: {off: 3}}\n"
    plan = planned(tmp_path, text)
    assert plan.manifest.jobs[0].env["NO"] == "1"
    assert "unknown key 'on'" in reported(tmp_path, "on: x\n")[0]
    assert "the key 'no' is given twice" in reported(tmp_path, "metadata: {no: 1, 'no': 2}\n")[0]


def test_the_arguments_of_megatron_have_the_types_of_its_parser(tmp_path: Path) -> None:
    text = (
        "defaults: [override /backend: megatron]\nproject: {name: x}\nsweep: {}\n"
        "backend: {megatron: {bf16: yes, sequence-parallel: off, wandb_project: no, wandb_exp_name: 12e4567, "
        "lr: 1e-4, min_lr: 1.0E-5}}\n"
    )
    words = " ".join(planned(tmp_path, text).manifest.jobs[0].argv)
    assert "--bf16" in words
    assert "--sequence-parallel" not in words
    for flag in ("--wandb-project no", "--wandb-exp-name 12e4567", "--lr 0.0001", "--min-lr 1e-05"):
        assert flag.replace(" ", "=") in words or flag in words


@pytest.mark.parametrize("text", ["12e4567", "1e3", "1_000", "0x1F", "1.10", "True", "007", "1e400", "100"])
def test_a_text_keeps_the_text_as_it_is_written(tmp_path: Path, text: str) -> None:
    file = f"project: {{name: {text}}}\nstage: {text}\nbackend: {{env: {{V: {text}}}}}\nsweep: {{}}\n"
    (job,) = planned(tmp_path, file).manifest.jobs
    assert (job.name, job.stage, job.env["V"]) == (text, text, text)
    (job,) = planned(tmp_path, f"sweep: {{params: {{project.name: [{text}]}}}}\n").manifest.jobs
    assert job.name == text


@pytest.mark.parametrize("text", ["12e4567", "1e3", "1_000", "1.10", "True", "1e400"])
def test_a_text_on_the_command_line_does_so_too(tmp_path: Path, text: str) -> None:
    (job,) = planned(tmp_path, "sweep: {}\n", f"project.name={text}", f"backend.env.V={text}").manifest.jobs
    assert (job.name, job.env["V"]) == (text, text)
    jobs = planned(tmp_path, "", f"sweep={{params: {{project.name: [{text}, b]}}}}").manifest.jobs
    assert [job.name for job in jobs] == [text, "b"]
    (job,) = planned(tmp_path, "sweep: {}\nproject: {name: x}\n", f"project={{name: {text}}}").manifest.jobs
    assert job.name == text


def test_the_command_line_reads_no_as_text_as_hydra_does(tmp_path: Path) -> None:
    overrides = ("sweep={params: {metadata.lang: [en,no]}}", "project.name=r_${metadata.lang}", "slurm.array=no")
    plan = planned(tmp_path, "metadata: {lang: x}\n", *overrides)
    assert names(plan) == ["r_en", "r_no"]
    assert plan.manifest.slurm["array"] is False


def test_a_number_elsewhere_is_a_number(tmp_path: Path) -> None:
    text = "backend: {argv: [train], options: {lr: 1e-4, n: 1_000, x: 0x10, t: True, f: .inf}}\nsweep: {}\n"
    (job,) = planned(tmp_path, text, "project.name=x", "+backend.options.c=1e-5").manifest.jobs
    assert job.argv[1:] == ("--lr", "0.0001", "--n", "1000", "--x", "16", "--t", "--f", "inf", "--c", "1e-05")


def test_a_number_that_no_computer_holds_is_an_error_and_no_infinity(tmp_path: Path) -> None:
    assert reported(tmp_path, "metadata:\n  commit: 12e4567\n  small: 1e-400\n") == [
        "exp.yaml:3 ($.metadata.commit): 12e4567 is too large for a number\n"
        "    write '12e4567' in quotes if it is text",
        "exp.yaml:4 ($.metadata.small): 1e-400 is too large for a number\n    write '1e-400' in quotes if it is text",
    ]
    assert "must be a number" in reported(tmp_path, "scheduler: {max_gpu_hours: 1e400}\n")[0]
    assert "1e400 is too large for a number" in reported(tmp_path, "sweep: {}\n", "+metadata.x=1e400")[0]


def test_what_wants_a_number_or_a_mapping_says_so_of_a_no(tmp_path: Path) -> None:
    assert "must be a number, not 'off'" in reported(tmp_path, "scheduler: {max_gpu_hours: off}\n")[0]
    assert "must hold keys and values, not 'no'" in reported(tmp_path, "slurm: no\n")[0]
    assert "unknown key 'arrray'" in reported(tmp_path, "slurm: {arrray: yes}\n")[0]


def test_where_true_means_something_of_its_own_in_a_text_yes_is_unclear(tmp_path: Path) -> None:
    events = "monitoring: {state_events: {crash: {actions: [{class_name: RestartAction, exclude_nodes: %s}]}}}\n"
    assert "write 'yes' in quotes" in reported(tmp_path, events % "yes")[0]
    assert planned(tmp_path, f"sweep: {{}}\nproject: {{name: x}}\n{events % 'true'}")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("project.name", Declared.TEXT),
        ("stage", Declared.TEXT),
        ("project.log_path", Declared.TEXT),
        ("slurm.sbatch_extra_directives.0", Declared.TEXT),
        ("backend.launch", Declared.TEXT),
        ("backend.validate", Declared.TEXT),
        ("backend.argv.1", Declared.TEXT),
        ("backend.argv", Declared.TEXT_OF_OPEN),
        ("slurm.client.states.0", Declared.TEXT),
        ("monitoring.output_paths", Declared.TEXT),
        ("monitoring.log_events.x.extract_groups.y", Declared.TEXT_OF_OPEN),
        ("monitoring.state_events.x.actions.0.action.message", Declared.TEXT),
        ("monitoring.state_events.x.actions.0.conditions.0.blocking", Declared.BOOLEAN),
        ("job.done_conditions.0.state", Declared.TEXT),
        ("slurm.array", Declared.BOOLEAN),
        ("scheduler.native_dependencies", Declared.BOOLEAN),
        ("scheduler.max_jobs", Declared.OTHER),
        ("backend.megatron.bf16", Declared.BOOLEAN),
        ("backend.megatron.wandb_project", Declared.TEXT),
        ("backend.megatron.lr", Declared.OTHER),
        ("backend.torchtitan.a.b", Declared.OPEN),
        ("metadata.a.0.b", Declared.OPEN),
        ("slurm.env.A", Declared.TEXT_OF_OPEN),
        ("monitoring.detach.time", Declared.DIRECTIVE),
        ("no.such.key", Declared.OTHER),
    ],
)
def test_the_schema_says_what_a_key_holds(path: str, kind: Declared) -> None:
    assert declared(tuple(path.split("."))) is kind


def test_values_of_a_later_attempt_follow_their_keys(tmp_path: Path) -> None:
    events = (
        "sweep: {}\nproject: {name: x}\nbackend: {env: {V: a}}\nmonitoring: {state_events: {crash: {actions: "
        "[{class_name: RestartAction, overrides: {backend.env.V: 1.10}}]}}}\n"
    )
    recorded: Any = planned(tmp_path, events).manifest.monitoring
    overrides = recorded["state_events"]["crash"]["actions"][0]["overrides"]
    assert overrides == {"backend.env.V": "1.10"}


def test_a_config_error_is_what_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        planned(tmp_path, "metadata: {a: no}\n")


def test_options_of_slurm_keep_numbers_as_they_are_written_and_true_is_true(tmp_path: Path) -> None:
    keys = "account: 1e3, partition: 010, qos: 1_000, constraint: 1.10, reservation: 12e4567, exclusive: True, nodes: 2"
    text = f"defaults: [{{override /slurm: base}}]\nslurm:\n  sbatch: {{{keys}}}\n  srun: {{+label: True, +mpi: 1e1}}\n"
    for plan in (
        planned(tmp_path, text.replace("+", "")),
        planned(tmp_path, "", "slurm=base", *(f"slurm.sbatch.{word.replace(': ', '=')}" for word in keys.split(", "))),
    ):
        script = plan.scripts[0]
        for option in (
            "account=1e3",
            "partition=010",
            "qos=1_000",
            "constraint=1.10",
            "reservation=12e4567",
            "nodes=2",
        ):
            assert f"#SBATCH --{option}\n" in script
        assert "#SBATCH --exclusive\n" in script
    assert declared(("slurm", "srun", "label")) is Declared.DIRECTIVE


@pytest.mark.parametrize(
    "section",
    [
        "detach: {account: 1e3}",
        "log_events: [{name: e, pattern: x, actions: [{class_name: EventAction, mode: queue, action: {class_name: "
        "RunCommandAction, command: 'true'}, executor: {cluster: slurm, sbatch: {account: 1e3}}}]}]",
    ],
)
def test_options_of_slurm_do_so_for_the_monitors_own_jobs(tmp_path: Path, section: str) -> None:
    assert '"account":"1e3"' in planned(tmp_path, f"monitoring: {{{section}}}\n").manifest.model_dump_json()


@pytest.mark.parametrize(
    "axis", ["sweep.params.project.name=[1e3,no,1_000,010]", "sweep.params={project:{name:[1e3,no,1_000,010]}}"]
)
def test_an_axis_of_names_on_the_command_line_keeps_its_texts(tmp_path: Path, axis: str) -> None:
    assert names(planned(tmp_path, "", axis)) == ["1e3", "no", "1_000", "010"]


@pytest.mark.parametrize(
    "value", ["!!binary aGVsbG8=", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!timestamp 2024-01-02"]
)
def test_a_value_of_a_type_that_no_config_holds_is_reported_with_its_line(tmp_path: Path, value: str) -> None:
    (problem,) = reported(tmp_path, f"metadata:\n  x: {value}\n")
    assert problem.startswith("exp.yaml:3: ")
    assert f"YAML's type {value.split()[0]}" in problem


def test_values_of_ones_own_stand_in_aux_as_in_metadata(tmp_path: Path) -> None:
    text = "aux: {x: 1}\nbackend: {argv: [train], options: {y: '${aux.x}'}}\n"
    assert planned(tmp_path, text, "aux.z=2").manifest.jobs[0].argv == ("train", "--y", "1")


def test_a_start_command_without_an_interval_has_the_usual_one(tmp_path: Path) -> None:
    (job,) = planned(tmp_path, "job: {start_condition_interval_seconds: null}\n").manifest.jobs
    assert job.start_condition_interval_seconds == 60
