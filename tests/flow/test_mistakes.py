"""Wrong input, each kind: one clear message, the right exit code, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User

NAMELESS = "++sweep.base_values={project.name:same}"
ONE_JOB = ("backend=command", "backend.argv=[true]", "project.name=one")
MISTAKES = {
    "misspelt key": (["project=default", "scheduler.max_job=2"], "did you mean 'scheduler.max_jobs'"),
    "misspelt section": (["project=default", "slurn.array=true"], "did you mean 'slurm.array'"),
    "wrong type": (["project=default", "scheduler.max_jobs=many"], "$.scheduler.max_jobs"),
    "unknown choice": (["project=defualt"], "did you mean 'default'?"),
    "unknown config": (
        ["--config-ref", "experiments/examples/tiny_lm_gird"],
        "did you mean 'experiments/examples/tiny_lm_grid'",
    ),
    "missing file": (["--config-ref", "nowhere.yaml"], "there is no such YAML file"),
    "missing folder": (["-C", "nowhere", "project=default"], "is not a directory"),
    "bad override": (["project=default", "backend.options.lr=[1"], "the override does not parse"),
    "no value": (["project=default", "backend.options.lr"], "write key=value"),
    "duplicate names": (["project=default", NAMELESS], "4 jobs share the name 'same': jobs 0, 1, 2, 3"),
    "invalid name": (["project=default", "++sweep.base_values={project.name:'a/b${index}'}"], "can't be a job's name"),
    "unset variable": (
        ["project=default", "project.base_output_dir=${oc.env:NO_SUCH_VARIABLE}"],
        "the environment variable NO_SUCH_VARIABLE is not set",
    ),
    "no program": ([], "no program to run"),
    "option of another kind": (["project=default", "--array-subset", "1-x"], "is not an index or a range"),
    "index out of range": (["project=default", "--array-subset", "7"], "no job has index 7"),
    "missing template": (["project=default", "slurm.template_path=nowhere"], "can't read the template"),
    "bad time": (["project=default", "slurm.sbatch.time=soon"], "'soon' is not a time that sbatch knows"),
    "owned directive": (["project=default", "slurm.sbatch.output=x"], "set project.log_path"),
    "bad environment": (["project=default", "slurm.env.A-B=1"], "is not a name for an environment variable"),
    "backslash in a log path": (
        ["project=default", "project.base_output_dir='a\\b'"],
        "'\\' is not allowed in a log path",
    ),
    "another encoding": (["project=default", "+metadata.x='\udcff'"], "the override is not UTF-8 text"),
    "a variable in another encoding": (
        ["project=default", "+metadata.x=${oc.env:LATIN}"],
        "the value of the environment variable LATIN is not UTF-8 text",
    ),
    "circle": (["project=default", "project.output_dir=${project.log_path}"], "in a circle"),
    "index": (["project=default", "index=3"], "the index can't be set: it numbers the jobs, from 0"),
    "a job in the root of the file system": (
        [*ONE_JOB, "project.output_dir=/"],
        "$.project.output_dir (override project.output_dir=/): '/' is the root of the file system",
    ),
    "a job with no place": ([*ONE_JOB, "project.output_dir=''"], "the path is empty: output_dir names a folder"),
    "a log with no place": ([*ONE_JOB, "project.log_path=' '"], "the path is empty: log_path names a file"),
    "plans in the root of the file system": ([*ONE_JOB, "project.base_output_dir=/x/.."], "is the root"),
    "sessions with no place": ([*ONE_JOB, "project.monitoring_state_dir="], "monitoring_state_dir names a folder"),
    "spaces around the equals sign": (
        ["project=default", "backend.options.lr", "=", "3"],
        "write backend.options.lr=3",
    ),
    "a character in an override": (["+metadata.x=k\u00e4se"], "the character '\u00e4' (position 14) needs quotes"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_reported_in_one_message_and_leaves_nothing_behind(user: User, kind: str) -> None:
    words, reported = MISTAKES[kind]
    result = user.run("run", *words, LATIN="\udcff")
    assert result.returncode == 2, result.stderr + result.stdout
    assert reported in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(user.home.iterdir()) == []


SWEEPS = {
    "a filter with a variable": ("filter: '$metadata.x > 1'", "write ${metadata.x}"),
    "a sibling's field": ("metadata.x: '${sibling.stable.output}'", "sibling.stable has name, output_dir, log_path"),
    "a filter that removes all": ("filter: 'backend.options.lr > 5'", "the filter removes all 2 jobs"),
    "a filter that does not parse": ("filter: 'backend.options.lr >'", "does not parse"),
    "a filter with an unknown key": ("filter: 'backend.options.lrr > 1'", "lrr"),
    "a sibling's stage misspelt": ("metadata.x: '${sibling.stabel.name}'", "did you mean 'stable'"),
    "a sibling that is not unique": ("metadata.x: '${sibling.twice.name}'", "2 jobs match: job 0"),
    "a list where a grid is meant": ("params: [1, 2]", "a grid maps keys to lists of values"),
    "a misspelt key": ("params: {backend.options.lrr: [1]}", "did you mean 'backend.options.lr'"),
    "a misspelt keyword": ("parms: {backend.options.lr: [1]}", "did you mean 'params'"),
    "two kinds in a node": ("configs: [{stage: a}]", "a node takes one of"),
    "a filter in another language": (
        "filter: '${backend.options.lr} = 1 && true'",
        "write 'and', write '==' to compare",
    ),
    "a text for a list": ("params: {backend.options.lr: 'range(1, 3)'}", "write [1, 2]"),
    "a key that ends with a dot": ("params: {'a.b.': [1]}", "'a.b.' is not a dotted key"),
    "an empty axis": ("params: {backend.options.lr: []}", "this axis has no values"),
    "a wrong type": ("type: prodct", "write product"),
    "an unknown condition": ("job.start_conditions: [{class_name: FileExistCondition}]", "FileExistsCondition"),
    "a condition on no job": (
        "job.start_conditions: [{class_name: SlurmStateCondition, job_name: nobody, state: FAILED}]",
        "refers to 'nobody', which is not a job of this plan",
    ),
    "a condition on no state": (
        "job.start_conditions: [{class_name: SlurmStateCondition, job_name: j0, state: FALIED}]",
        "did you mean 'failed'",
    ),
    "a scheduler per job": (
        "defaults: {slurm: base}\n  groups: [{configs: [{slurm: local}, {}]}]",
        "make one plan for each",
    ),
    "a condition's key misspelt": ("job.start_conditions: [{class_name: FileExistsCondition, pth: x}]", "'pth'"),
}


@pytest.mark.parametrize("kind", SWEEPS)
def test_a_mistake_in_a_sweep_is_reported_with_its_place(user: User, kind: str) -> None:
    line, reported = SWEEPS[kind]
    stages = "{configs: [{stage: twice}, {stage: twice}, {stage: stable}]}"
    alone = "params:" in line or "groups:" in line
    body = "" if alone else "params: {backend.options.lr: [1, 2]}\n  "
    if "sibling" in line:
        body = f"type: list\n  groups:\n    - {stages}\n    - configs: [{{stage: last}}]\n      "
    (user.home / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backend: tiny_lm\n"
        "project: {name: 'j${index}'}\n"
        f"sweep:\n  {body}{line}\n"
    )
    result = user.run("run", "--config-ref", "mine.yaml")
    assert result.returncode == 2, result.stdout
    assert reported in result.stderr
    assert "Traceback" not in result.stderr
    assert not user.outputs.exists()


@pytest.mark.parametrize("words", [["--overrides-from", "pipe"], [*ONE_JOB, "slurm.template_path=pipe"]])
def test_a_named_pipe_is_reported_and_not_waited_for(user: User, words: list[str]) -> None:
    os.mkfifo(user.home / "pipe")
    result = user.run("plan", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert "is a named pipe, not a file" in result.stderr


def test_jobs_that_refer_to_each_other_in_a_circle_are_named(user: User) -> None:
    (user.home / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backend: tiny_lm\n"
        "project: {name: 'j${index}'}\n"
        "sweep:\n  configs:\n    - {stage: a, +metadata.x: '${sibling.b.output_dir}'}\n"
        "    - {stage: b, +metadata.x: '${sibling.a.output_dir}'}\n"
    )
    result = user.run("run", "--config-ref", "mine.yaml")
    assert result.returncode == 2, result.stdout
    assert "mine.yaml:5 ($.sweep): jobs depend on each other in a circle: " in result.stderr
    assert "a (job 0)" in result.stderr


def test_a_circle_of_values_of_siblings_is_reported_once_with_the_lines_that_make_it(user: User) -> None:
    (user.home / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backend: tiny_lm\n"
        "project: {name: 'j${index}'}\n"
        "sweep:\n  configs:\n    - {stage: a, +metadata.x: '${sibling.b.metadata.x}'}\n"
        "    - {stage: b, +metadata.x: '${sibling.a.metadata.x}'}\n"
    )
    result = user.run("plan", "--config-ref", "mine.yaml")
    assert result.returncode == 2, result.stdout
    reported = "jobs refer to each other in a circle: a.metadata.x → b.metadata.x → a.metadata.x"
    assert result.stderr == f"error: mine.yaml:7, mine.yaml:8 ($.metadata.x, set by the sweep): {reported}\n"


def test_all_mistakes_are_reported_at_once_with_their_places(user: User) -> None:
    (user.home / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /backend: tiny_lm\n"
        "scheduler:\n  max_jobz: 3\n"
        "slurm:\n  arrray: true\n  sbatch:\n    time: never\n"
        "monitoring:\n  poll_interval_seconds: -1\n"
    )
    result = user.run("run", "--config-ref", "mine.yaml")
    assert result.returncode == 2
    for reported in ("mine.yaml:5", "did you mean 'max_jobs'", "mine.yaml:7", "did you mean 'array'", "mine.yaml:11"):
        assert reported in result.stderr, result.stderr


SIX = """\
# @package _global_
defaults:
  - override /backend: tiny_lm
project:
  name: "a b/c"
backend:
  env: {"A-B": 1}
slurm:
  template_path: nowhere.template
  sbatch:
    time: never
    output: x
job:
  start_conditions:
    - class_name: FileExistCondition
      path: x
"""


@pytest.mark.slow
def test_mistakes_of_all_stages_are_reported_at_once_those_of_options_and_overrides_too(user: User) -> None:
    (user.home / "mine.yaml").write_text(SIX)
    overrides = ("slurm=lokal", "scheduler.max_job=2", "backend.options.lr=[1")
    result = user.run("plan", "--config-ref", "mine.yaml", "--plan-id", "a/b", *overrides)
    assert result.returncode == 2, result.stdout
    for reported in (
        "--plan-id: 'a/b' can't be a plan's id",
        "slurm=lokal: there is no 'lokal' in the config group 'slurm'",
        "scheduler.max_job=2: the config has no key 'scheduler.max_job'",
        "backend.options.lr=[1: the override does not parse: the '[' at position 20 is not closed",
        "mine.yaml:5 ($.project.name): 'a b/c' can't be a job's name",
        "mine.yaml:7 ($.backend.env.A-B): 'A-B' is not a name for an environment variable",
        "mine.yaml:15 ($.job.start_conditions[0].class_name): unknown class_name 'FileExistCondition'",
    ):
        assert reported in result.stderr, result.stderr
    assert result.stderr.startswith("7 problems:"), "nothing is said of slurm, which nobody knows"
    result = user.run("plan", "--config-ref", "mine.yaml")
    for reported in (
        "mine.yaml:9 ($.slurm.template_path): can't read the template",
        "mine.yaml:11 ($.slurm.sbatch.time): 'never' is not a time that sbatch knows",
        "mine.yaml:12 ($.slurm.sbatch.output): 'output' is set by the program",
    ):
        assert reported in result.stderr, result.stderr
    assert result.stderr.startswith("6 problems:")
    assert not user.outputs.exists()


def test_jobs_that_share_a_name_are_reported_beside_other_mistakes_of_them(user: User) -> None:
    sweep = "sweep: {params: {backend.options.lr: [1, 2], slurm.sbatch.time: [never]}}\n"
    header = "# @package _global_\ndefaults:\n  - override /backend: tiny_lm\nproject: {name: same}\n"
    (user.home / "mine.yaml").write_text(header + sweep)
    result = user.run("plan", "--config-ref", "mine.yaml")
    assert result.returncode == 2, result.stdout
    assert "2 jobs share the name 'same': jobs 0, 1" in result.stderr
    assert "'never' is not a time" in result.stderr


def test_a_group_file_that_lacks_keys_is_reported_itself_with_the_base_that_holds_them(user: User) -> None:
    (user.home / "slurm").mkdir()
    (user.home / "slurm" / "mine.yaml").write_text("submit_cmd: sbatch2\n")
    result = user.run("plan", "-C", ".", "slurm=mine", "backend=tiny_lm")
    assert result.returncode == 2, result.stdout
    assert "slurm/mine.yaml: 'client' is missing; " in result.stderr
    assert "begin the file with 'defaults: [base]', or set client in it" in result.stderr
    assert "project/base.yaml" not in result.stderr
    (user.home / "slurm" / "mine.yaml").write_text("defaults: [base]\nsubmit_cmd: sbatch2\n")
    assert user.run("plan", "-C", ".", "slurm=mine", "backend=tiny_lm").returncode == 0


@pytest.mark.parametrize(
    ("group", "text", "message"),
    [
        ("backend", "argv: ['true']\n", "backend/mine.yaml ($.backend.class_name): this key is required"),
        ("container", "image: x.sif\n", "container/mine.yaml ($.container.class_name): this key is required"),
        ("slurm", "submit_cmd: sbatch\n", "slurm/mine.yaml: 'client' is missing; "),
    ],
)
@pytest.mark.parametrize("by_sweep", [False, True])
def test_a_key_that_a_group_file_of_ones_own_lacks_is_reported_at_that_file(
    user: User, group: str, text: str, message: str, by_sweep: bool
) -> None:
    (user.home / group).mkdir()
    (user.home / group / "mine.yaml").write_text(text)
    chosen = f"sweep: {{configs: [{{{group}: mine}}]}}\n" if by_sweep else ""
    (user.home / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /backend: command]\nproject: {name: x}\n"
        f"backend: {{env: {{A: 1}}}}\n{chosen}"
    )
    result = user.run("plan", "-C", ".", "--config-ref", "x.yaml", *([] if by_sweep else [f"{group}=mine"]))
    assert result.returncode == 2, result.stdout
    assert message in result.stderr


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["override /slurm: [local, base]"], ("x.yaml:3: 'local' and 'base'", "or both in the order [base, local]")),
        (["/slurm: local", "/slurm: base"], ("x.yaml:4: 'local' and 'base'", "or both in the order [base, local]")),
        (["override /backend: [megatron, command]"], ("x.yaml:3: 'megatron' and 'command'", "choose one of them\n")),
        (["override /container: [lumi, pyxis]"], ("x.yaml:3: 'pyxis' of the group 'container' has a list where",)),
    ],
)
def test_choices_of_one_group_that_do_not_go_together_are_reported_where_they_are_chosen(
    user: User, entries: list[str], message: tuple[str, ...]
) -> None:
    lines = "".join(f"  - {entry}\n" for entry in entries)
    (user.home / "x.yaml").write_text(f"# @package _global_\ndefaults:\n{lines}project: {{name: x}}\n")
    choice = () if "/backend" in lines else ("backend=command",)
    result = user.run("plan", "--config-ref", "x.yaml", "backend.argv=[true]", *choice)
    assert result.returncode == 2, result.stdout
    assert all(each in f"{result.stderr}\n" for each in message), result.stderr
    assert result.stderr.count("error: ") == 1
    assert "config/" not in result.stderr


def test_choices_of_one_group_that_go_together_are_laid_over_each_other(user: User) -> None:
    (user.home / "slurm").mkdir()
    (user.home / "slurm" / "odd.yaml").write_text("arrray: true\n")
    assert user.run("plan", *ONE_JOB, "slurm=[base,local]").returncode == 0
    result = user.run("plan", "-C", ".", *ONE_JOB, "slurm=[local,odd,base]")
    assert "slurm/odd.yaml:1 ($.slurm.arrray): unknown key 'arrray'" in result.stderr


@pytest.mark.parametrize("name", ["a\\b", "..", "/", "x/../..", "a%q"])
def test_of_a_wrong_name_nothing_but_the_name_is_reported(user: User, name: str) -> None:
    text = f"# @package _global_\ndefaults: [override /backend: tiny_lm]\nproject: {{name: {json.dumps(name)}}}\n"
    (user.home / "x.yaml").write_text(text)
    result = user.run("plan", "--config-ref", "x.yaml")
    assert result.returncode == 2, result.stdout
    assert result.stderr.count("error: ") == 1
    assert "x.yaml:3 ($.project.name): " in result.stderr
    (user.home / "x.yaml").write_text(text.replace("}", ", log_path: 'logs/%q'}"))
    assert "'%q' is not allowed in a log path" in user.run("plan", "--config-ref", "x.yaml").stderr, (
        "this one is a mistake of its own"
    )


def test_a_choice_of_the_sweep_by_which_jobs_differ_is_reported_where_the_sweep_makes_it(user: User) -> None:
    (user.home / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /backend: tiny_lm]\nproject: {name: 'x${index}'}\n"
        "sweep: {params: {slurm: [base, local]}}\n"
    )
    result = user.run("plan", "--config-ref", "x.yaml")
    assert result.returncode == 2, result.stdout
    assert "x.yaml:4 ($.slurm, set by the sweep): job 1 has another value of slurm.client than job 0" in result.stderr


def test_a_hint_with_the_values_of_one_job_names_the_job(user: User) -> None:
    (user.home / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /backend: megatron]\nproject: {name: 'x${index}'}\n"
        "backend: {megatron: {global_batch_size: 10}}\nsweep: {params: {backend.megatron.micro_batch_size: [3, 4]}}\n"
    )
    result = user.run("plan", "--config-ref", "x.yaml")
    assert result.returncode == 2, result.stdout
    assert "for job 0, for example: take global_batch_size 9 or 12" in result.stderr
    assert "for job 1, for example: take global_batch_size 8 or 12" in result.stderr


def test_settings_of_hydras_own_are_reported_to_have_no_effect(user: User) -> None:
    (user.home / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override hydra/launcher: submitit_slurm\n  - override /backend: tiny_lm\n"
        "hydra:\n  run: {dir: runs}\n"
    )
    result = user.run("plan", "--config-ref", "mine.yaml", "hydra.sweep.dir=x", "+hydra.launcher.timeout_min=3")
    assert result.returncode == 0, result.stderr
    for reported in (
        "override hydra.sweep.dir=x: hydra.sweep.dir has no effect here; use project.output_dir",
        "hydra.launcher.timeout_min has no effect here; use slurm.sbatch",
        "mine.yaml:3: hydra/launcher has no effect here; use slurm.sbatch",
        "mine.yaml:5: hydra.run.dir has no effect here; use project.output_dir",
    ):
        assert reported in " ".join(result.stdout.split()), result.stdout


def test_an_index_in_a_file_is_refused_but_for_that_of_the_root(user: User) -> None:
    (user.home / "mine.yaml").write_text("# @package _global_\ndefaults: [override /backend: tiny_lm]\nindex: 3\n")
    result = user.run("plan", "--config-ref", "mine.yaml")
    assert result.returncode == 2, result.stdout
    assert "mine.yaml:3: the index can't be set: it numbers the jobs, from 0" in result.stderr


FAILURES = {
    "plan": ("plan", "project=defualt"),
    "run": ("run", "project=defualt"),
    "visualize-plan": ("visualize_plan", "project=defualt"),
    "render-config": ("render_config", "project=defualt"),
    "submit": ("submit", "--manifest", "no.json"),
    "monitor": ("monitor", "--session", "nope"),
    "monitor --cmd try": ("monitor", "--cmd", "try", "--log", "no.log", "project=default"),
    "run-sweep-entry": ("run_sweep_entry", "--index", "3", "--dry-run"),
    "an unknown option": ("plan", "--nonsense"),
    "an option that is missing": ("submit",),
    "a command that can not be": ("monitor", "--cmd", "wacth"),
    "an unknown log level": ("plan", "project=default"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_with_json_a_command_that_fails_prints_one_document_with_the_problems(user: User, kind: str) -> None:
    level = {"OELLM_LOG_LEVEL": "LOUD"} if kind == "an unknown log level" else {}
    result = user.run(*FAILURES[kind], "--json", **level)
    assert result.returncode == 2
    document = json.loads(result.stdout)
    assert document["exit_code"] == 2
    assert all(problem.keys() == {"what", "where", "hint"} and problem["what"] for problem in document["problems"])
    assert all(problem["what"].splitlines()[0] in result.stderr for problem in document["problems"])


def test_with_json_secrets_are_in_no_problem(user: User) -> None:
    result = user.run("plan", "--json", "+slurm.env.HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz012345[")
    assert json.loads(result.stdout)["problems"]
    assert "abcdefghijklmnop" not in result.stdout


def test_of_an_override_with_a_secret_the_value_is_taken_out_and_no_word_of_ours(user: User) -> None:
    result = user.run("plan", "project=default", "nosuch.token=abc the rest", "backend=base")
    assert result.stderr.startswith("2 problems:")
    assert "error: nosuch.token=***: the config has no key 'nosuch.token'\n" in result.stderr
    assert "write '+nosuch.token=***' to add a new key" in result.stderr


def test_yaml_that_does_not_parse_is_reported_with_its_line(user: User) -> None:
    (user.home / "mine.yaml").write_text("# @package _global_\nslurm:\n  sbatch: {a: 1\nbackend: x\n")
    result = user.run("run", "--config-ref", "mine.yaml")
    assert result.returncode == 2
    assert "mine.yaml:4" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unwritable_output_directory_is_reported(user: User) -> None:
    result = user.run("run", *QUICK, "project.base_output_dir=/proc/deep")  # nobody, not even root, writes there
    assert result.returncode == 2
    assert "can't write" in result.stderr
    assert "/proc" in result.stderr


def test_an_output_directory_that_cannot_be_made_is_reported(user: User) -> None:
    (user.home / "file").write_text("")
    result = user.run("run", *QUICK, "project.base_output_dir=file/deep")
    assert result.returncode == 2
    assert "is not a directory" in result.stderr
    assert [path.name for path in user.home.iterdir()] == ["file"]


@pytest.fixture
def manifest(user: User) -> Path:
    assert user.run("plan", *QUICK, "--manifest", "demo.json").returncode == 0
    return user.home / "demo.json"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not valid JSON"),
        (lambda text: json.dumps({**json.loads(text), "version": 99}), "this program reads versions up to 1"),
        (lambda text: json.dumps({**json.loads(text), "jobs": [{}]}), "not a valid manifest: $.jobs.0.index"),
        (lambda text: "[]", "this is not a manifest"),
        (lambda text: "", "is not valid JSON"),
    ],
    ids=["cut", "newer", "incomplete", "something else", "empty"],
)
def test_a_damaged_or_newer_manifest_is_refused(user: User, manifest: Path, damage: object, message: str) -> None:
    manifest.write_text(damage(manifest.read_text()))  # type: ignore[operator]
    result = user.run("submit", "--manifest", "demo.json")
    assert result.returncode == 2
    assert message in result.stderr
    assert not (user.outputs / "monitoring_state").exists()


@pytest.mark.slow
def test_a_damaged_session_is_refused_and_left_as_it_is(user: User, manifest: Path) -> None:
    assert user.run("submit", "--manifest", str(manifest)).returncode == 0
    session = user.outputs / "monitoring_state" / f"{user.plan_id}.json"
    session.write_text(session.read_text()[:200])
    result = user.run("monitor", "--session", user.plan_id)
    assert result.returncode == 2
    assert "the session is not valid JSON" in result.stderr
    assert len(session.read_text()) == 200


@pytest.mark.slow
def test_a_plan_that_was_never_submitted_is_not_watched_or_cancelled(user: User, manifest: Path) -> None:
    for command in ("watch", "cancel", "status"):
        result = user.run("monitor", "--manifest", str(manifest), "--cmd", command)
        assert result.returncode == 2
        assert "this plan was not submitted yet" in result.stderr
    assert user.run("submit", "--manifest", str(manifest)).returncode == 0


@pytest.mark.parametrize("words", [["--session", "nope"], ["--manifest", "nope.json"], []])
def test_a_session_that_does_not_exist_is_reported(user: User, words: list[str]) -> None:
    result = user.run("monitor", *words)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_an_absent_slurm_is_reported_with_exit_code_3_and_the_plan_is_kept(user: User) -> None:
    absent = ("slurm=base", "slurm.submit_cmd=no-sbatch", "slurm.squeue_cmd=no-squeue")
    result = user.run("run", *QUICK, *absent)
    assert result.returncode == 3
    assert "no-sbatch" in result.stderr
    assert "slurm=local needs none" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((user.outputs / "monitoring_state").glob("*.json")), "no session that would block the next run"
    assert user.run("submit", "--manifest", f"outputs/manifests/{user.plan_id}.json").returncode == 3


@pytest.mark.parametrize("command", ["run", "plan", "submit", "monitor", "run_sweep_entry", "render_config"])
def test_unknown_options_are_refused_with_exit_code_2(user: User, command: str) -> None:
    assert user.run(command, "--nonsense").returncode == 2


@pytest.mark.parametrize("words", [("plan", "--manifst", "x"), ("monitor", "--cmd", "wacth")])
def test_a_misspelt_option_or_choice_is_reported_with_the_nearest(user: User, words: tuple[str, ...]) -> None:
    result = user.run(*words)
    assert result.returncode == 2
    assert {"--manifst": "'--manifest'?", "--cmd": "'watch'?"}[words[1]] in result.stderr


def test_a_manifest_that_cannot_be_written_leaves_nothing_of_the_plan(user: User) -> None:
    result = user.run("plan", *QUICK, "--manifest", "/proc/nope.json")
    assert result.returncode == 2
    assert "--manifest /proc/nope.json" in result.stderr
    assert not [path for path in user.outputs.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("words", [("run", "--dry-run"), ("visualize_plan",), ("monitor", "--cmd", "list")])
def test_output_that_nobody_reads_any_more_ends_the_command_with_141(user: User, words: tuple[str, ...]) -> None:
    config = () if words[0] == "monitor" else QUICK
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        process = subprocess.run(
            user.words(*words, *config), cwd=user.home, env=user.environment, stdout=output, check=False
        )
    assert process.returncode == 141


@pytest.mark.slow
def test_the_flags_beat_the_variable_for_the_log_level_and_info_shows_what_is_done(user: User) -> None:
    assert "composing autoexp" in user.run("plan", *QUICK, OELLM_LOG_LEVEL="INFO").stderr
    assert "reading " in user.run("plan", "--debug", *QUICK, OELLM_LOG_LEVEL="LOUD").stderr
    assert user.run("plan", *QUICK).stderr == ""


def test_an_unknown_log_level_is_reported(user: User) -> None:
    result = user.run("run", "project=default", OELLM_LOG_LEVEL="LOUD")
    assert result.returncode == 2
    assert "one of DEBUG, INFO, WARNING, ERROR, CRITICAL" in result.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("{slurm.sbatch.time:soon}", "soon"),
        ("{backend.argv:{a:1}}", "backend.argv"),
        ("{backend.env:text}", "backend.env"),
    ],
)
def test_a_rule_whose_new_attempt_could_not_be_planned_is_reported_with_the_plan(
    user: User, overrides: str, message: str
) -> None:
    rule = f"++monitoring.state_events.crash={{actions:[{{class_name:RestartAction,overrides:{overrides}}}]}}"
    result = user.run("plan", "backend=command", "backend.argv=[echo,hi]", "project.name=x", rule)
    assert result.returncode == 2, result.stdout
    assert message in result.stderr
    assert "state_events.crash" in result.stderr
    assert "Traceback" not in result.stderr
    assert not user.outputs.exists()


def test_a_deadline_that_is_past_is_refused_and_unknown_options_of_srun_are_noted(user: User) -> None:
    words = (*ONE_JOB, "slurm=base", "slurm.sbatch.time=5")
    refused = user.run("plan", *words, "slurm.sbatch.deadline=2020-01-01T12:00")
    assert refused.returncode == 2
    assert "the deadline 2020-01-01T12:00 is past: SLURM would refuse the job" in refused.stderr
    noted = user.run("plan", *words, "slurm.sbatch.deadline=2220-01-01", "slurm.srun.kil_on_bad_exit=1")
    assert noted.returncode == 0, noted.stderr
    what = "slurm.srun.kil_on_bad_exit=1): srun has no option --kil-on-bad-exit, unless this site adds it; did you mean"
    assert what in noted.stdout


@pytest.mark.slow
def test_a_cause_rule_that_does_not_exist_cannot_be_switched_off(user: User) -> None:
    (user.home / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /backend: command]\nproject: {name: x}\nbackend: {argv: [a]}\n"
        "monitoring:\n  causes:\n    nan_loss: null\n    nan_losss: null\n    zzzzzzzzz: null\n"
    )
    result = user.run("plan", "--config-ref", "x.yaml")
    assert result.returncode == 2, result.stdout
    assert "x.yaml:8 ($.monitoring.causes.nan_losss): there is no rule 'nan_losss'" in result.stderr
    assert "did you mean 'nan_loss'?" in result.stderr
    assert "x.yaml:9 ($.monitoring.causes.zzzzzzzzz): there is no rule 'zzzzzzzzz'" in result.stderr
    assert result.stderr.count("error: ") == 2
    (user.home / "x.log").touch()
    tried = user.run("monitor", "--cmd", "why", "--log", "x.log", "--config-ref", "./x.yaml")
    assert tried.returncode == 2
    assert "did you mean 'nan_loss'?" in tried.stderr


def test_a_category_of_a_condition_that_does_not_exist_is_reported(user: User) -> None:
    (user.home / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /backend: command]\nproject: {name: x}\nbackend: {argv: [a]}\n"
        "monitoring:\n  state_events:\n    crash:\n      actions:\n        - class_name: EventAction\n"
        "          conditions:\n            - {class_name: MetadataCondition, key: category, one_of: [nan, oom_gpu]}\n"
        "          action: {class_name: RestartAction}\n"
    )
    result = user.run("plan", "--config-ref", "x.yaml")
    assert result.returncode == 2, result.stdout
    assert "x.yaml:11 ($.monitoring.state_events.crash.actions[0].conditions[0]" in result.stderr
    assert "there is no category 'oom_gpu'" in result.stderr
    assert "did you mean 'oom-gpu'?" in result.stderr


@pytest.mark.slow
def test_events_of_a_name_that_no_rule_has_are_reported(user: User) -> None:
    assert user.run("run", *ONE_JOB, "--plan-id", "p").returncode == 0
    result = user.run("monitor", "--session", "p", "--cmd", "events", "--queue-event", "sucess")
    assert result.returncode == 2
    assert "no rule has the event 'sucess'" in result.stderr
