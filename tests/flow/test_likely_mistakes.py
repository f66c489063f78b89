"""What is noted of a plan, as it mostly is a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.planning.checks.likely_mistakes import notes
from tests.flow.conftest import User
from tests.flow.test_what_is_shown import SPEC


def job(*argv: str) -> JobSpec:
    return SPEC.model_copy(update={"argv": argv})


def test_signs_of_a_shell_among_a_programs_words_are_noted(tmp_path: Path) -> None:
    (note,) = notes([job("train"), job("train", "|", "tee", "log", "2>&1")], {}, {})
    assert note.startswith("'2>&1', '|' among the arguments of the program (job a): no shell reads them")
    assert not [*notes([job("bash", "-c", "train | tee log"), job("train", "a|b")], {}, {})]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x;", "'x;' among the arguments of the program (job a)"),
        (">log", "'>log' among the arguments of the program (job a)"),
        ("~/data", "the '~' in '~/data' stays text"),
        ("--data=~/x", "the '~' in '--data=~/x' stays text"),
        ("run_{stage}", "the braces in 'run_{stage}' stay text"),
        ("/out/%j.txt", "'%j' in '/out/%j.txt' stays text"),
    ],
)
def test_a_word_in_which_a_shell_or_slurm_would_put_a_value_is_noted(word: str, message: str) -> None:
    (note,) = notes([job("train", word)], {}, {})
    assert note.startswith(message)
    assert not [*notes([job("bash", "-c", word)], {}, {})]


@pytest.mark.parametrize("word", ["a~b", "x/~", "{}", '{"a": 1}', "${x}", "50%", "100%just", "a>b c", "a;b", "{{x}}"])
def test_nothing_is_said_of_a_word_that_means_itself(word: str) -> None:
    assert not [*notes([job("train", word)], {}, {})]
    assert not [*notes([job("train", "{stage}")], {"backend": {"argv": ["train", "{{stage}}"]}}, {})]
    mixed = {"backend": {"argv": "train x{{stage}}${metadata.y}"}, "sweep": {"grids": [{"backend.argv.1": ["{{a}}"]}]}}
    assert not [*notes([job("train", "x{stage}3"), job("{a}")], mixed, {})]
    assert [*notes([job("train", "x{stage}{b}")], mixed, {})]


def of_value(index: int, **parameters: int) -> JobSpec:
    name, parameters = f"run_{index}", {key.replace("__", "."): value for key, value in parameters.items()}
    return SPEC.model_copy(
        update={"index": index, "name": name, "output_dir": f"/out/{name}", "parameters": parameters}
    )


def test_an_axis_that_reaches_no_program_is_noted() -> None:
    jobs = [of_value(0, metadata__x=1), of_value(1, metadata__x=2)]
    scripts = ["#SBATCH --job-name=run_0\n/out/run_0/logs\ntrain", "#SBATCH --job-name=run_1\n/out/run_1/logs\ntrain"]
    (note,) = notes(jobs, {}, {}, scripts)
    assert note.startswith(
        "1 of 2 jobs have the same arguments, environment and resources as another (job 1 as job 0): "
    )
    assert "they differ only in metadata.x, " in note
    assert not [*notes(jobs, {}, {}, [scripts[0], f"{scripts[1]} --x 2"])]
    for key in ("monitoring__poll_interval_seconds", "stage", "job__start_condition_cmd"):
        assert not [*notes([of_value(0, **{key: 1}), of_value(1, **{key: 2})], {}, {}, scripts)]


def test_a_jobs_name_counts_where_it_is_a_part_of_another_word() -> None:
    jobs = [of_value(0, metadata__x=1), of_value(1, metadata__x=2)]
    for word in ("my_{}", "{}2", "a.{}", "{}-x", "{0}{0}"):
        assert not [*notes(jobs, {}, {}, [f"train {word.format(each.name)}" for each in jobs])], word
    for word in ("{}", "/{}/", "x={}.json", "'{}'", "{0} {0}"):
        assert [*notes(jobs, {}, {}, [f"train {word.format(each.name)}" for each in jobs])], word


def test_no_job_has_a_pattern_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compile one takes longer than most checks of a job, and `re` keeps only some hundreds."""
    monkeypatch.setattr("re._compiler.compile", lambda pattern, *_: pytest.fail(f"{pattern!r} is compiled"))
    jobs = [of_value(index, metadata__x=index) for index in range(2)]
    assert [*notes(jobs, {}, {}, [f"train {each.name}" for each in jobs])]


def test_a_variable_that_is_empty_and_begins_a_path_is_named(user: User) -> None:
    (user.home / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /backend: command]\nproject: {name: x}\n"
        "backend: {argv: ['true'], options: {data: '${oc.env:DATA_DIR}/c4', flags: '${oc.env:FLAGS}'}}\n"
    )
    reported = "the environment variable DATA_DIR is empty, so the path in $.backend.options.data begins at the root"
    empty = user.run("plan", "--config-ref", "x.yaml", DATA_DIR="", FLAGS="")
    assert (empty.returncode, reported in " ".join(empty.stdout.split())) == (0, True), empty.stdout
    assert "FLAGS" not in empty.stdout
    assert "is empty" not in user.run("plan", "--config-ref", "x.yaml", DATA_DIR="/data", FLAGS="").stdout


def planned(user: User, text: str) -> tuple[int, str]:
    (user.home / "x.yaml").write_text(f"# @package _global_\ndefaults: [override /backend: tiny_lm]\n{text}")
    result = user.run("plan", "--config-ref", "x.yaml")
    return result.returncode, " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{backend.options.lr: [1, 2]}", "backend.options.lr is one value, a list"),
        ("{configs: [{backend.options.lr: [1, 2]}, {}]}", "backend.options.lr is one value, a list"),
        ("{defaults: {backend.options.lr: [1, 2]}}", "backend.options.lr is one value, a list"),
        ("{params: {backend.options.seed: [1, 2]}, filter: \"'a' < 'b'\"}", "the filter names no key of the config"),
    ],
)
def test_what_is_right_in_a_sweep_and_most_likely_not_meant_is_noted_with_its_line(
    user: User, sweep: str, message: str
) -> None:
    code, text = planned(user, f"project: {{name: 'r${{index}}'}}\nsweep: {sweep}\n")
    assert code == 0, text
    assert f"{message}" in text
    assert "x.yaml:4 ($.sweep." in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("slurm: {env: {Y: $metadata.x/a}}", "slurm.env.Y: $metadata.x is not read as a value of the config"),
        ("backend: {env: {Y: $metadata.x}}", "backend.env.Y: $metadata.x is not read as a value of the config"),
        ("backend: {options: {y: $metadata.x}}", "$metadata.x in '$metadata.x' stays text"),
    ],
)
def test_an_interpolation_without_its_braces_is_noted_with_them(user: User, line: str, message: str) -> None:
    code, text = planned(user, f"project: {{name: x}}\nmetadata: {{x: 1}}\n{line}\n")
    assert code == 0, text
    assert message in text
    assert "${metadata.x}" in text


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Y: $(hostname", "slurm.env.Y: the $( in '$(hostname' stays text: the $( is not closed"),
        ("Y: ~/data", "slurm.env.Y: the '~' in '~/data' stays text, as no shell expands it: write ${oc.env:HOME}"),
    ],
)
def test_what_no_shell_reads_in_a_variable_is_noted_with_the_reason(user: User, env: str, message: str) -> None:
    code, text = planned(user, f"project: {{name: x}}\nslurm: {{env: {{'{env[0]}': '{env[3:]}'}}}}\n")
    assert code == 0, text
    assert message in text


@pytest.mark.parametrize(
    ("overrides", "errors"),
    [
        ("{backend.argv.1: [x, y]}", ["$.backend.argv[1]: must be text, not a list"]),
        ("{backend.argv: 3}", ["$.backend.argv: must be a list, not 3"]),
        ("{~metadata: null}", []),
        ("{a.b: 1, a.c: 2, a.d: 3}", [f"the config has no key 'a.{key}'" for key in "bcd"]),
    ],
)
def test_of_overrides_of_a_new_attempt_each_mistake_is_said_once(user: User, overrides: str, errors: list[str]) -> None:
    action = f"{{class_name: RestartAction, overrides: {overrides}}}"
    rules = f"monitoring: {{state_events: {{crash: {{actions: [{action}]}}}}}}"
    code, text = planned(user, f"project: {{name: x}}\nbackend: {{argv: [a, b]}}\nmetadata: {{x: 1}}\n{rules}\n")
    assert (code, text.count("error: ")) == (2 if errors else 0, len(errors)), text
    assert all(error in text for error in errors)


def test_in_a_directive_an_interpolation_without_its_braces_is_refused_with_them(user: User) -> None:
    code, text = planned(user, "project: {name: x}\nslurm: {sbatch: {partition: $metadata.x}}\n")
    assert (code, "write ${metadata.x}" in text) == (2, True), text


def test_a_list_where_the_config_has_one_and_a_filter_with_a_key_are_as_they_should_be(user: User) -> None:
    sweep = "{backend.argv: [a, b], params: {backend.options.seed: [1, 2]}, filter: backend.options.seed > 0}"
    code, text = planned(user, f"project: {{name: 'r${{index}}'}}\nsweep: {sweep}\n")
    assert code == 0, text
    assert "is one value" not in text
    assert "filter" not in text


def rule(action: str) -> str:
    return f"monitoring: {{state_events: {{success: {{actions: [{{class_name: RunAutoexpAction, {action}}}]}}}}}}\n"


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("config_ref: experiments/nosuch", "no config 'experiments/nosuch'"),
        ("config_path: nosuch.yaml", "there is no such YAML file"),
        ("config_ref: autoexp, overrides: ['project.nmae=x']", "the config has no key 'project.nmae'"),
        ("config_ref: autoexp, overrides: ['a..b=1']", "the override does not parse"),
        ("overrides: ['backend.optoins.lr={loss}']", "the config has no key 'backend.optoins.lr'"),
    ],
)
def test_a_run_that_an_action_could_not_start_is_refused_when_planning(user: User, action: str, message: str) -> None:
    code, text = planned(user, f"project: {{name: x}}\n{rule(action)}")
    assert code == 2, text
    assert message in text
    assert "x.yaml:4 ($.monitoring.state_events.success.actions[0])" in text


@pytest.mark.parametrize(
    "action",
    [
        "config_ref: '{output_dir}/x.yaml', overrides: ['project.name={name}_x']",
        "overrides: ['project.name={name}_x', '++backend.options.ckpt_step={iteration}', 'backend={stage}']",
        "config_ref: autoexp, overrides: ['backend=tiny_lm', 'backend.options.lr={loss}']",
    ],
)
def test_a_run_of_which_only_the_event_tells_more_is_planned(user: User, action: str) -> None:
    code, text = planned(user, f"project: {{name: x}}\n{rule(action)}")
    assert code == 0, text


def test_the_keys_of_a_backend_that_the_sweep_chooses_are_not_judged_by_the_plans_own(user: User) -> None:
    sweep = "sweep: {configs: [{backend: command, backend.argv: ['true']}]}\n"
    code, text = planned(user, f"project: {{name: x}}\n{sweep}{rule('overrides: [backend.argv.0=true]')}")
    assert code == 0, text
