"""Finding and composing configs: who is searched first, what an override means, and where each value was written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm_autoexp.config.composing import VERSION_BASE, hydra_ready
from oellm_autoexp.config.hydra.config_file import read_config
from oellm_autoexp.config.loader import Composed, Source, load, load_mostly
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG, Location

Write = Callable[[Mapping[str, str]], Path]
HEADER = "# @package _global_\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files below a folder of one's own, and returns it."""

    def write_all(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            file = tmp_path / "mine" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path / "mine"

    return write_all


def composed(*overrides: str, ref: str = "autoexp", folders: tuple[Path, ...] = ()) -> Composed:
    return load(Source(ref, folders, overrides))


def problems(*overrides: str, ref: str = "autoexp", folders: tuple[Path, ...] = ()) -> list[Problem]:
    with pytest.raises(ConfigError) as error:
        composed(*overrides, ref=ref, folders=folders)
    return list(error.value.problems)


def test_the_root_config_composes_with_the_sweep_apart() -> None:
    found = composed()
    assert found.base["slurm"]["client"]["class_name"] == "LocalClient"
    assert found.base["project"]["output_dir"] == "${project.base_output_dir}/${project.name}"
    assert found.sweep == {}
    assert "sweep" not in found.base
    assert "hydra" not in found.base


# ---------------------------------------------------------------------------------------------------------------------
# Finding


def test_ones_own_folder_is_searched_before_the_shipped_one_and_earlier_ones_first(write: Write) -> None:
    mine = write({"one/backend/command.yaml": "class_name: One\n", "two/backend/command.yaml": "class_name: Two\n"})
    assert composed(folders=(mine / "one", mine / "two")).base["backend"] == {"class_name": "One"}
    assert composed("slurm=fake", folders=(mine / "two",)).base["backend"] == {"class_name": "Two"}


def test_a_name_is_found_with_and_without_experiments(write: Write) -> None:
    mine = write({"experiments/me/exp.yaml": HEADER + "project: {name: mine}\n"})
    for ref in ("experiments/me/exp", "me/exp", "me/exp.yaml"):
        assert composed(ref=ref, folders=(mine,)).base["project"]["name"] == "mine"


def test_a_path_names_a_file_inside_of_a_folder_that_is_searched(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = write({"experiments/exp.yaml": HEADER + "defaults: [override /backend: b]\n", "backend/b.yaml": "x: 1\n"})
    monkeypatch.chdir(mine)
    for ref in (str(mine / "experiments/exp.yaml"), "experiments/exp.yaml", "./experiments/exp.yaml"):
        assert composed(ref=ref, folders=(mine,)).base["backend"] == {"x": 1}


def test_a_path_names_a_file_anywhere_and_its_folder_is_searched_first(write: Write) -> None:
    mine = write({"exp.yaml": HEADER + "defaults: [override /backend: b]\n", "backend/b.yaml": "x: 1\n"})
    assert composed(ref=str(mine / "exp.yaml")).base["backend"] == {"x": 1}


def test_a_link_to_a_file_is_a_file_like_any_other(write: Write, tmp_path: Path) -> None:
    mine = write({"exp.yaml": HEADER + "project: {name: linked}\n"})
    (tmp_path / "link.yaml").symlink_to(mine / "exp.yaml")
    assert composed(ref=str(tmp_path / "link.yaml")).base["project"]["name"] == "linked"


HOSTILE = ["a=b", "it's, [x]", 'say "x"', "$(touch x);{a}", "é:%", "-a.b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_folders_and_files_may_have_any_name(write: Write, name: str) -> None:
    alone = HEADER + "defaults: [/autoexp, override /backend: tiny_lm, _self_]\nproject: {name: alone}\n"
    mine = write(
        {
            f"{name}/experiments/{name}/{name}.yaml": HEADER + "project: {name: merged}\n",
            f"{name}/experiments/{name}/alone {name}.yaml": alone.replace(", _self_", "").replace(
                "[/autoexp,", "[/autoexp, _self_,"
            ),
        }
    )
    assert composed(ref=f"{name}/{name}", folders=(mine / name,)).base["project"]["name"] == "merged"
    assert composed(ref=f"{name}/alone {name}", folders=(mine / name,)).base["project"]["name"] == "alone"
    file = mine / name / "experiments" / name / f"{name}.yaml"
    assert composed(ref=str(file)).base["project"]["name"] == "merged"


@pytest.mark.parametrize("ref", ["nowhere.yaml", "/nowhere/x.yaml", "/nowhere", "x.yml"])
def test_a_file_that_is_not_there_is_reported(ref: str) -> None:
    (problem,) = problems(ref=ref)
    assert (problem.what, str(problem.where)) == ("there is no such YAML file", ref)


def test_an_unknown_name_is_reported_with_the_nearest_ones(write: Write) -> None:
    mine = write({"experiments/me/scaling.yaml": ""})
    (problem,) = problems(ref="scalling", folders=(mine,))
    assert problem.what == "no config 'scalling'"
    assert "experiments/me/scaling" in problem.hint


def test_folders_that_are_not_there_are_all_told(tmp_path: Path) -> None:
    found = problems(folders=(tmp_path / "a", tmp_path / "b"))
    assert [str(problem.where) for problem in found] == [f"--config-dir {tmp_path}/a", f"--config-dir {tmp_path}/b"]


# ---------------------------------------------------------------------------------------------------------------------
# Experiments


@pytest.mark.parametrize("header", [HEADER, "", "# words\n"])
def test_an_experiment_that_only_overrides_is_laid_over_the_root(write: Write, header: str) -> None:
    mine = write(
        {
            "experiments/exp.yaml": header
            + "defaults:\n  - override /backend: tiny_lm\n  - override /slurm: fake\n  - _self_\n"
            + "backend: {options: {lr: 5}}\nscheduler: {max_jobs: 3}\n"
        }
    )
    base = composed("backend.options.seed=7", ref="exp", folders=(mine,)).base
    assert base["backend"]["options"]["lr"] == 5
    assert base["backend"]["options"]["seed"] == 7
    assert base["slurm"]["client"]["class_name"] == "FakeSlurmClient"
    assert base["scheduler"]["max_jobs"] == 3


WHOLE = "  - /backend: tiny_lm\n  - /slurm: fake\n  - /project: base\n  - _self_\n"


def test_an_experiment_that_chooses_for_itself_what_the_root_chooses_gets_the_rest_from_the_root(write: Write) -> None:
    mine = write({"experiments/exp.yaml": HEADER + f"defaults:\n{WHOLE}project: {{name: x}}\n"})
    base = composed(ref="exp", folders=(mine,)).base
    assert {"scheduler", "job", "stage", "metadata"} <= base.keys()
    assert base["slurm"]["client"]["class_name"] == "FakeSlurmClient"
    assert base["project"]["name"] == "x"


def test_what_an_experiment_chooses_stands_where_its_defaults_list_says(write: Write) -> None:
    mine = write(
        {
            "before.yaml": HEADER + "slurm: {array: true}\nscheduler: {max_jobs: 7}\n",
            "exp.yaml": HEADER + "defaults: [before, /slurm: fake, optional /scheduler: none_such]\n",
            "other.yaml": HEADER + "defaults: [before, override /slurm: fake]\n",
        }
    )
    base = composed(ref="exp", folders=(mine,)).base
    assert base["slurm"]["array"] is False  # as the group, which is behind, says
    assert base["scheduler"]["max_jobs"] == 7
    assert composed(ref="other", folders=(mine,)).base["slurm"]["array"] is True


def test_all_files_that_an_experiment_builds_on_are_laid_over_the_root(write: Write) -> None:
    mine = write(
        {
            "experiments/me/whole.yaml": HEADER + f"defaults:\n{WHOLE}",
            "experiments/me/part.yaml": HEADER + "defaults: [override /backend: tiny_lm]\nproject: {name: part}\n",
            "experiments/me/on_whole.yaml": HEADER + "defaults: [whole, _self_]\nproject: {name: x}\n",
            "experiments/me/on_part.yaml": HEADER + "defaults: [/experiments/me/part, _self_]\nmetadata: {a: 1}\n",
            "model/small.yaml": "width: 7\n",
            "experiments/me/own_group.yaml": HEADER
            + "defaults: [/model@backend.options: small, override /backend: tiny_lm]\n",
        }
    )
    whole = composed(ref="me/on_whole", folders=(mine,)).base
    assert (whole["slurm"]["client"]["class_name"], whole["project"]["name"]) == ("FakeSlurmClient", "x")
    assert "scheduler" in whole
    over_root = composed(ref="me/on_part", folders=(mine,)).base
    assert (over_root["project"]["name"], over_root["metadata"]) == ("part", {"a": 1})
    assert {"scheduler", "job"} <= over_root.keys()
    assert composed(ref="me/own_group", folders=(mine,)).base["backend"]["options"]["width"] == 7


def test_a_choice_of_project_in_a_defaults_list_leaves_the_others_choices_and_the_sweep_as_the_file_has_them(
    write: Write,
) -> None:
    sweep = "sweep: {grids: [{stage: [a, b]}]}\n"
    mine = write(
        {
            "exp.yaml": HEADER + f"defaults: [/backend: megatron, /slurm: fake, /project: default, _self_]\n{sweep}",
            "swept.yaml": HEADER + "defaults: [/backend: tiny_lm, /sweep: tiny_lm_lr, /project: default]\n",
        }
    )
    found = composed(ref="exp", folders=(mine,))
    assert found.base["backend"]["class_name"] == "MegatronBackend"
    assert found.sweep == {"grids": [{"stage": ["a", "b"]}]}
    assert composed(ref="swept", folders=(mine,)).sweep["grids"]
    assert composed("project=default").sweep["grids"]


@pytest.mark.parametrize(
    "entries", ["  - /backend/megatron: [base, 300M]\n", "  - /backend/megatron: base\n  - /backend/megatron: 300M\n"]
)
def test_several_choices_of_one_group_are_merged_in_order(write: Write, entries: str) -> None:
    mine = write(
        {
            "backend/megatron/base.yaml": "hidden_size: 8\nnum_layers: 2\n",
            "backend/megatron/300M.yaml": "hidden_size: 16\nseq_length: 4\n",
            "exp.yaml": HEADER + f"defaults:\n  - /backend: megatron\n{entries}",
        }
    )
    merged = composed(ref="exp", folders=(mine,)).base["backend"]["megatron"]
    assert {"hidden_size": 16, "num_layers": 2, "seq_length": 4}.items() <= merged.items()


def test_several_choices_of_a_group_of_the_root_are_merged_in_order(write: Write) -> None:
    mine = write(
        {
            "slurm/mine.yaml": "array: false\n",
            "exp.yaml": HEADER + "defaults: [/slurm: [fake, mine]]\n",
            "twice.yaml": HEADER + "defaults:\n  - /slurm: fake\n  - /slurm: mine\n",
        }
    )
    for ref in ("exp", "twice"):
        slurm = composed(ref=ref, folders=(mine,)).base["slurm"]
        assert (slurm["array"], slurm["client"]["class_name"]) == (False, "FakeSlurmClient")


INNER = {
    "backend/outer.yaml": "defaults: [inner: base, _self_]\nclass_name: Outer\n",
    "backend/inner/base.yaml": "width: 1\ndepth: 1\n",
    "backend/inner/wide.yaml": "defaults: [base]\nwidth: 2\n",
    "backend/inner/deep.yaml": "depth: 2\n",
}


@pytest.mark.parametrize(
    ("entries", "overrides", "width", "depth"),
    [
        ("/backend: outer, /backend/inner: wide", (), 2, 1),
        ("/backend/inner: wide, /backend: outer", (), 2, 1),
        ("/backend/inner: [base, deep], /backend: outer", (), 1, 2),
        ("/backend: outer, /backend/inner: wide", ("backend/inner=base",), 1, 1),
        ("/backend: outer, /backend/inner: deep", ("+backend/inner=wide",), 2, 1),
        ("override /backend: outer", ("+backend/inner=wide",), 2, 1),
        ("override /backend: outer, override /backend/inner: wide", ("+backend/inner=base",), 1, 1),
        ("override /slurm: fake", ("+backend/inner=wide", "backend=outer"), 2, 1),
    ],
)
def test_a_choice_of_a_group_within_another_counts_wherever_it_stands(
    write: Write, entries: str, overrides: tuple[str, ...], width: int, depth: int
) -> None:
    mine = write({**INNER, "exp.yaml": HEADER + f"defaults: [{entries}]\n"})
    inner = composed(*overrides, ref="exp", folders=(mine,)).base["backend"]["inner"]
    assert (inner["width"], inner["depth"]) == (width, depth)


def test_a_choice_that_leaves_an_inner_group_without_a_choice_to_override_is_reported(write: Write) -> None:
    mine = write({**INNER, "exp.yaml": HEADER + "defaults: [/backend: outer, /backend/inner: wide]\n"})
    (problem,) = problems("backend=tiny_lm", ref="exp", folders=(mine,))
    assert "no config of 'backend/inner' is chosen" in problem.what
    assert problem.hint == "leave this out, or the choice of 'backend/inner'"


def test_wrong_choices_of_an_experiment_that_chooses_for_itself_are_reported_together_with_its_other_mistakes(
    write: Write,
) -> None:
    text = "defaults: [/backend: nosuch, /slurm: nosuch, _self_]\nproject: {name: x}\nmonitoring: [1]\n"
    mine = write({"exp.yaml": HEADER + text})
    found = problems(ref="exp", folders=(mine,))
    assert sorted(problem.what for problem in found) == [
        "must be keys and values, not a list",
        "there is no 'nosuch' in the config group 'backend'",
        "there is no 'nosuch' in the config group 'slurm'",
    ]


def test_self_before_groups_is_noted_where_the_file_says_something(write: Write) -> None:
    mine = write(
        {
            "exp.yaml": HEADER + "defaults:\n  - _self_\n  - /backend: tiny_lm\nstage: a\n",
            "empty.yaml": HEADER + "defaults: [_self_, /backend: tiny_lm]\n",
            "overriding.yaml": HEADER + "defaults: [_self_, override /backend: tiny_lm]\nstage: a\n",
        }
    )
    assert [re.sub(".*/", "", note) for note in composed(ref="exp", folders=(mine,)).notes] == [
        "exp.yaml:3: _self_ is before groups, so their values replace those of this file"
    ]
    for ref in ("empty", "overriding"):
        assert composed(ref=ref, folders=(mine,)).notes == ()


@pytest.mark.parametrize(
    ("choice", "what", "hint"),
    [
        (
            "${oc.env:NOT_SET_HERE}",
            "the environment variable NOT_SET_HERE is not set",
            "${oc.env:NOT_SET_HERE,DEFAULT}",
        ),
        ("${stage}", "${stage} is not known in a defaults list", "environment variables and choices"),
    ],
)
def test_an_interpolation_that_a_defaults_list_does_not_know_is_reported(
    write: Write, choice: str, what: str, hint: str
) -> None:
    mine = write({"exp.yaml": HEADER + f"defaults:\n  - override /backend: {choice}\n"})
    (problem,) = problems(ref="exp", folders=(mine,))
    assert problem.what == what
    assert hint in problem.hint
    assert str(problem.where).endswith("exp.yaml:3")


def test_a_config_called_base_that_is_not_there_is_the_root(write: Write) -> None:
    mine = write({"experiments/me/exp.yaml": HEADER + f"defaults:\n  - base\n{WHOLE}", "x.yaml": "defaults: [bas]\n"})
    found = composed(ref="me/exp", folders=(mine,))
    assert "scheduler" in found.base
    (note,) = found.notes
    assert note.endswith("exp.yaml:3: there is no config 'experiments/me/base'; 'autoexp' is used instead")
    assert problems(ref="x", folders=(mine,))[0].what == "there is no config 'bas'"


def test_an_override_on_the_command_line_beats_the_experiments(write: Write) -> None:
    mine = write({"experiments/exp.yaml": HEADER + "defaults: [override /backend: tiny_lm]\nproject: {name: x}\n"})
    base = composed("backend=command", "project.name=y", ref="exp", folders=(mine,)).base
    assert (base["backend"]["argv"], base["project"]["name"]) == ([], "y")


def test_an_experiment_may_build_on_one_beside_it(write: Write) -> None:
    mine = write(
        {
            "experiments/me/base.yaml": HEADER + "project: {name: base, resume: false}\n",
            "experiments/me/exp.yaml": HEADER + "defaults: [/autoexp, base, _self_]\nproject: {name: mine}\n",
        }
    )
    project = composed(ref="me/exp", folders=(mine,)).base["project"]
    assert (project["name"], project["resume"]) == ("mine", False)


@pytest.mark.parametrize("text", ["- a\n", "5\n", "text\n"])
def test_an_experiment_is_a_mapping(write: Write, text: str) -> None:
    mine = write({"exp.yaml": text})
    (problem,) = problems(ref="exp", folders=(mine,))
    assert (problem.what, str(problem.where)) == ("must hold keys and values", f"{mine}/exp.yaml")


@pytest.mark.parametrize(
    "defaults", ["{a: b}", "text", "[[a]]", "[{a: 1}]", "[{a: b, c: d}]", "[{}]", "[5]", "[{1: a}]"]
)
def test_a_malformed_defaults_list_is_an_error_and_no_traceback(write: Write, defaults: str) -> None:
    mine = write({"exp.yaml": f"defaults: {defaults}\n"})
    assert problems(ref="exp", folders=(mine,))


def test_a_config_without_self_in_its_defaults_is_composed_without_a_warning(write: Write) -> None:
    mine = write({"exp.yaml": HEADER + "defaults: [/autoexp]\nproject: {name: x}\n"})
    assert composed(ref="exp", folders=(mine,)).base["project"]["name"] == "x"


def test_a_choice_written_without_override_or_as_a_value_is_reported_how_it_is_made(write: Write) -> None:
    mine = write(
        {
            "experiments/me/a.yaml": HEADER + "defaults:\n  - slurm: base\n",
            "experiments/me/b.yaml": HEADER + "slurm: base\n",
        }
    )
    for ref, line in (("me/a", 3), ("me/b", 2)):
        (problem,) = problems(ref=ref, folders=(mine,))
        assert "- override /slurm: base" in problem.hint
        assert f"{ref}.yaml:{line}" in str(problem.where)


def test_lists_in_the_place_of_keys_and_values_are_all_told_by_line_and_path(write: Write) -> None:
    text = "backend:\n  argv: [a]\n  options: [lr, 3]\nslurm: {sbatch: [x]}\nsweep: [1]\nscheduler.x: 1\n"
    mine = write({"exp.yaml": HEADER + text})
    assert [(problem.what, str(problem.where)) for problem in problems(ref="exp", folders=(mine,))] == [
        ("must be keys and values, not a list", f"{mine}/exp.yaml:4 ($.backend.options)"),
        ("must be keys and values, not a list", f"{mine}/exp.yaml:5 ($.slurm.sbatch)"),
        ("must be keys and values, not a list", f"{mine}/exp.yaml:6 ($.sweep)"),
    ]


@pytest.mark.parametrize("digits", ["9" * 5000, "0x" + "f" * 5000])
def test_a_number_of_thousands_of_digits_is_an_error_with_its_line(write: Write, digits: str) -> None:
    mine = write({"exp.yaml": HEADER + f"metadata:\n  x: {digits}\n"})
    (problem,) = problems(ref="exp", folders=(mine,))
    assert str(problem.where) == f"{mine}/exp.yaml:3"
    assert problems(f"+metadata.x={'9' * 5000}")[0].what == "a number has 5000 digits"


@pytest.mark.parametrize(("name", "message"), [("exp.yml", "only .yaml files"), ("at@x.yaml", "can't hold '@'")])
def test_a_file_that_hydra_could_not_read_is_refused_with_the_reason(write: Write, name: str, message: str) -> None:
    mine = write({name: HEADER})
    assert message in problems(ref=str(mine / name))[0].what


@pytest.mark.parametrize("override", ["sweep=null", "sweep=none", "~sweep"])
def test_the_command_line_can_do_without_the_sweep_of_an_experiment(write: Write, override: str) -> None:
    mine = write({"exp.yaml": HEADER + "sweep: {params: {metadata.x: [1, 2]}}\n"})
    assert composed(override, ref="exp", folders=(mine,)).sweep == {}
    own = "sweep={params: {metadata.x: [3]}}"
    assert composed(override, own, ref="exp", folders=(mine,)).sweep == {"params": {"metadata.x": [3]}}


# ---------------------------------------------------------------------------------------------------------------------
# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("project.name=a b", "project.name", "a b"),
        ("project.name='a, b'", "project.name", "a, b"),
        ('project.name="it\'s"', "project.name", "it's"),
        ("project.name=", "project.name", ""),
        ("project.name=null", "project.name", None),
        ("scheduler.submit_rate_limit_seconds=1e-4", "scheduler.submit_rate_limit_seconds", 1e-4),
        ("slurm.sbatch.time=12:30:00", "slurm.sbatch.time", "12:30:00"),
        ("project.name=010", "project.name", "010"),
        ("backend.argv=[a,'b c',3]", "backend.argv", ["a", "b c", "3"]),
        ("project.name=x_${index}", "project.name", "x_${index}"),
        ("project.name=\\${index}", "project.name", "\\${index}"),
        ("project.name=${oc.eval:int(50e9 / ${index})}", "project.name", "${oc.eval:'int(50e9 / ${index})'}"),
        ("project.name='${oc.eval:int(50e9 / ${index})}'", "project.name", "${oc.eval:'int(50e9 / ${index})'}"),
        ("project.name=${oc.eval:'a' == \"b\"}", "project.name", "${oc.eval:'\\'a\\' == \"b\"'}"),
        ("backend.argv=['${oc.eval:(1)}',b]", "backend.argv", ["${oc.eval:'(1)'}", "b"]),
        ("metadata={a b: '${oc.eval:(1)}'}", "metadata", {"a b": "${oc.eval:'(1)'}"}),
        ("slurm.sbatch.gres=gpu:4", "slurm.sbatch.gres", "gpu:4"),
        ("slurm.sbatch={qos: fast, gres: gpu:4}", "slurm.sbatch.gres", "gpu:4"),
        ("slurm.env.A=1", "slurm.env.A", 1),
        ("slurm.srun.cpu_bind=cores", "slurm.srun.cpu_bind", "cores"),
        ("metadata.a.b=1", "metadata.a.b", 1),
        ("backend.env.X=1", "backend.env.X", 1),
        ("+slurm.env.A=1", "slurm.env.A", 1),
        ("++project.name=x", "project.name", "x"),
        ("+backend.options.new=1", "backend.options.new", 1),
        ("~slurm.sbatch.nodes", "slurm.sbatch.nodes", KeyError),
        ("~slurm.sbatch.nodes=1", "slurm.sbatch.nodes", KeyError),
        ("+backend@other=tiny_lm", "other.class_name", "CommandBackend"),
        ("hydra.job.name=x", "project.name", "run"),
    ],
)
def test_an_override_has_the_effect_that_it_has_in_hydra(override: str, path: str, value: Any) -> None:
    found: Any = composed(override).base
    try:
        for part in path.split("."):
            found = found[part]
    except KeyError:
        found = KeyError
    assert found == value
    assert type(found) is type(value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12).filter(
    lambda t: "$" not in t
)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(TEXTS)
def test_any_text_can_be_given_as_an_override_in_quotes(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'") if "'" in text or text.endswith("\\") else text
    if "\\" in text:
        return  # Hydra's own rule for backslashes is its documentation's matter
    assert composed(f"project.name='{escaped}'").base["project"]["name"] == text


def test_a_sweep_can_be_given_on_the_command_line_and_its_backslashes_mean_nothing() -> None:
    found = composed("sweep.grids=[{project.name: [a,b]}]", "sweep.filter='\\${oc.eval:(\\${index}) >= 0}'").sweep
    assert found == {"grids": [{"project.name": ["a", "b"]}], "filter": "${oc.eval:'(${index}) >= 0'}"}
    assert composed("sweep=none").sweep == {}


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("", "the override does not parse", "write key=value"),
        ("=3", "the override names no key", "write key=value"),
        ("project.name", "the override does not parse", "write key=value"),
        ("a..b=3", "the override does not parse", ""),
        ("a b=3", "the override does not parse", ""),
        ("project.name=[1", "the override does not parse", "quotes of its own"),
        ("project.name='${stage}'b'", "the override does not parse", ""),
        ("project.name=(a)", "the override does not parse", "quotes of its own"),
        ("project.name=a,b", "the override has several values", "key=[1,2]"),
        ("project.name=range(3)", "the override has several values", ""),
        ("project.nmae=x", "the config has no key 'project.nmae'", "did you mean 'project.name'"),
        ("projct.name=x", "the config has no key 'projct.name'", "did you mean 'project.name'"),
        ("completely=x", "the config has no key 'completely'", "write '+completely=x' to add a new key"),
        ("backend.argv.7=3", "the config has no key 'backend.argv.7'", "'backend.argv' is a list of 0 items; set the"),
        ("backend.argv.x=3", "the config has no key 'backend.argv.x'", "'backend.argv' is a list of 0 items; set the"),
        ("~project.nmae", "the config has no key 'project.nmae'", "did you mean 'project.name'"),
        (
            "backend.options.lr=1",
            "the config has no key 'backend.options.lr'",
            "'+backend.options.lr=1' adds a new key",
        ),
        ("+project.name=x", "the config has 'project.name' already", "without '+'"),
        ("+backend=tiny_lm", "the config has 'backend' already", "without '+'"),
        ("backend=tinylm", "there is no 'tinylm' in the config group 'backend'", "did you mean 'tiny_lm'"),
        ("slurm=nope", "there is no 'nope' in the config group 'slurm'", "known: base, fake, four_gpus"),
        ("backend=", "there is no '' in the config group 'backend'", "tiny_lm"),
        ("experiments=x", "the config has no group 'experiments' to override", ""),
        ("backend@other=tiny_lm", "the config has no 'backend@other' to override", "did you mean 'backend'?"),
        ("backend=[command]x", "the override does not parse", ""),
        ("metadata.x=[choice(1,2)]", "the override has several values", "key=[1,2]"),
        ("++sweep.params={metadata.x: range(3)}", "the override has several values", "key=[1,2]"),
        ("backend=5", "", ""),
    ],
)
def test_a_wrong_override_is_reported_with_what_would_be_right(override: str, message: str, hint: str) -> None:
    (problem,) = problems(override)
    assert message in problem.what
    assert hint in problem.hint
    assert str(problem.where) == (override or "''")


def test_all_wrong_overrides_are_reported_at_once_and_right_ones_are_not() -> None:
    found = problems(
        "slurm=nope", "backend=tiny_lm", "backend.options.lr=1", "project.nmae=x", "metadata.x=1", "+project.name=y"
    )
    assert sorted(str(problem.where) for problem in found) == ["+project.name=y", "project.nmae=x", "slurm=nope"]


def test_all_overrides_that_do_not_parse_are_reported_at_once() -> None:
    assert [str(problem.where) for problem in problems("a..b=1", "project.name=x", "=3", "x=1,2")] == [
        "a..b=1",
        "=3",
        "x=1,2",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes in files


@pytest.mark.parametrize(
    ("defaults", "line", "message"),
    [
        (
            "- override /slurm: local\n  - override /backend: tinylm",
            4,
            "there is no 'tinylm' in the config group 'backend'",
        ),
        ("- override /bakend: tiny_lm", 3, "the config has no group 'bakend' to override"),
        ("- /autoexp\n  - /backend/tinylm", 4, "there is no 'tinylm' in the config group 'backend'"),
        ("- /autoexp\n  - /nothing@x: y", 4, "there is no config group 'nothing' with 'y'"),
        ("- /autoexp\n  - nothing", 4, "there is no 'nothing' in the config group 'experiments'"),
    ],
)
def test_a_missing_choice_in_a_defaults_list_is_reported_with_its_line(
    write: Write, defaults: str, line: int, message: str
) -> None:
    mine = write({"experiments/exp.yaml": HEADER + f"defaults:\n  {defaults}\n"})
    (problem,) = problems(ref="exp", folders=(mine,))
    assert str(problem.where) == f"{mine}/experiments/exp.yaml:{line}"
    assert message in problem.what


def test_a_missing_choice_in_a_nested_defaults_list_is_reported_with_its_line(write: Write) -> None:
    mine = write(
        {
            "slurm/mine.yaml": "defaults:\n  - base\n  - nodes@sbatch: wide\n",
            "slurm/nodes/narrow.yaml": "nodes: 1\n",
        }
    )
    (problem,) = problems("slurm=mine", folders=(mine,))
    assert str(problem.where) == f"{mine}/slurm/mine.yaml:3"
    assert problem.what == "there is no 'wide' in the config group 'slurm/nodes'"
    assert problem.hint == "known: narrow"


def test_yaml_that_does_not_parse_is_reported_with_file_and_line(write: Write) -> None:
    mine = write({"backend/broken.yaml": "a: 1\nb: [\n", "exp.yaml": HEADER + "a: 1\na: 2\n"})
    assert str(problems("backend=broken", folders=(mine,))[0].where) == f"{mine}/backend/broken.yaml:3"
    assert str(problems(ref="exp", folders=(mine,))[0].where) == f"{mine}/exp.yaml:3"


def test_all_interpolations_that_do_not_parse_are_reported_with_their_lines(write: Write) -> None:
    mine = write({"exp.yaml": HEADER + "project:\n  name: ${a\n  l:\n    - ok\n    - ${x:(1)}\n  fine: ${index}\n"})
    found = problems(ref="exp", folders=(mine,))
    assert [str(problem.where) for problem in found] == [f"{mine}/exp.yaml:3", f"{mine}/exp.yaml:6"]
    assert found[0].what == "the interpolation '${a' does not parse"


def test_a_key_is_text_also_where_yaml_reads_a_boolean_null_or_fraction(write: Write) -> None:
    mine = write({"exp.yaml": HEADER + "metadata: {no: 1, on: 2, null: 3, true: 4, 1e3: 5, ~: 6}\n"})
    found = composed(ref="exp", folders=(mine,)).base["metadata"]
    assert found == {"no": 1, "on": 2, "null": 3, "true": 4, "1e3": 5, "~": 6}


# ---------------------------------------------------------------------------------------------------------------------
# Where values were written


def test_a_value_is_placed_in_the_file_and_line_that_set_it_last(write: Write) -> None:
    mine = write(
        {
            "slurm/mine.yaml": "defaults:\n  - base\n  - _self_\nsbatch:\n  nodes: 2\n",
            "slurm/nodes/wide.yaml": "# words\nnodes: 8\nmem: 5\n",
            "backend/nested.yaml": "defaults:\n  - /slurm/nodes@megatron.aux: wide\nclass_name: x\n",
            "monitoring/mine.yaml": "# @package _global_\nmonitoring:\n  log_events:\n    - name: a\n    - name: b\n",
            "experiments/exp.yaml": HEADER
            + "defaults:\n  - override /slurm: mine\n  - override /backend: nested\n  - override /monitoring: mine\n"
            + "slurm:\n  sbatch:\n    time: 5\n",
        }
    )
    locations = composed("+slurm/nodes@extra=wide", "project.name=x", ref="exp", folders=(mine,)).locations

    def place(path: str) -> str:
        return str(locations.of(CONFIG / path)).removeprefix(f"{mine}/")

    assert place("slurm.sbatch.time") == "experiments/exp.yaml:8 ($.slurm.sbatch.time)"
    assert place("slurm.sbatch.nodes") == "slurm/mine.yaml:5 ($.slurm.sbatch.nodes)"
    assert "config/slurm/base.yaml:" in place("slurm.sbatch.qos")
    assert place("backend.megatron.aux.mem") == "slurm/nodes/wide.yaml:3 ($.backend.megatron.aux.mem)"
    assert place("extra.nodes") == "slurm/nodes/wide.yaml:2 ($.extra.nodes)"
    assert place("monitoring.log_events.b.name") == "monitoring/mine.yaml:5 ($.monitoring.log_events.b.name)"
    assert place("monitoring.log_events.b.other") == "monitoring/mine.yaml:5 ($.monitoring.log_events.b.other)"
    assert place("slurm.nothing") == "slurm/mine.yaml ($.slurm.nothing)"
    assert place("project.name") == "$.project.name (override project.name=x)"
    assert place("nowhere.at.all") == "$.nowhere.at.all"
    image = replace(CONFIG / "slurm.sbatch.nodes", value="/a.b/no.sif")
    assert str(locations.of(image)) == f"{mine}/slurm/mine.yaml:5 ($.slurm.sbatch.nodes /a.b/no.sif)"
    for other in (CONFIG, Location(text="somewhere else")):
        assert locations.of(other) == other


def test_a_value_below_an_overridden_one_is_placed_at_the_override_as_it_was_written() -> None:
    locations = composed("backend=tiny_lm", "slurm.sbatch={qos: a}", "metadata.x=1").locations
    assert str(locations.of(CONFIG / "slurm.sbatch.qos")) == "$.slurm.sbatch.qos (override slurm.sbatch={qos: a})"
    assert str(locations.of(CONFIG / "metadata.x.y")) == "$.metadata.x.y (override metadata.x=1)"
    assert "tiny_lm.yaml:" in str(locations.of(CONFIG / "backend.options.lr"))


def test_the_sweeps_of_groups_and_experiments_have_places(write: Write) -> None:
    mine = write(
        {
            "sweep/mine.yaml": "groups:\n  - params:\n      a.b: [1]\n",
            "exp.yaml": HEADER + "sweep:\n  grids:\n    - a: [1]\n    - b: []\n",
        }
    )
    of_group = composed("sweep=mine", folders=(mine,)).locations.of(CONFIG / "sweep.groups" / 0 / "params.a.b")
    assert str(of_group).startswith(f"{mine}/sweep/mine.yaml:3")
    of_experiment = composed(ref="exp", folders=(mine,)).locations.of(CONFIG / "sweep.grids" / 1 / "b")
    assert str(of_experiment).startswith(f"{mine}/exp.yaml:5")


def test_a_value_that_the_sweep_sets_is_placed_in_the_sweep(write: Write) -> None:
    mine = write(
        {
            "exp.yaml": HEADER
            + "project: {name: x}\nsweep:\n  defaults:\n    project.name: y\n  params:\n    +metadata.x: [1]\n"
        }
    )
    locations = composed("project.name=z", ref="exp", folders=(mine,)).locations
    assert str(locations.of(CONFIG / "project.name")) == f"{mine}/exp.yaml:5 ($.project.name, set by the sweep)"
    assert str(locations.of(CONFIG / "metadata.x")) == f"{mine}/exp.yaml:7 ($.metadata.x, set by the sweep)"
    assert str(locations.of(CONFIG / "sweep.defaults")) == f"{mine}/exp.yaml:4 ($.sweep.defaults)"
    assert "sweep" not in str(locations.of(CONFIG / "name"))


# ---------------------------------------------------------------------------------------------------------------------
# Hydra's global state


def test_loading_twice_or_after_a_failure_leaves_nothing_behind() -> None:
    first = composed("backend=tiny_lm").base
    assert not GlobalHydra.instance().is_initialized()
    problems("backend=nope")
    assert not GlobalHydra.instance().is_initialized()
    assert composed("backend=tiny_lm").base == first


def test_a_hydra_of_the_caller_is_left_as_it_was(tmp_path: Path) -> None:
    with initialize(config_path=None, **VERSION_BASE):
        composed()
        problems("nope=1")
        assert GlobalHydra.instance().is_initialized()
        assert "autoexp://" not in str(
            compose(overrides=["+x=1"], return_hydra_config=True).hydra.runtime.config_sources
        )
        assert compose(overrides=["+x=1"], return_hydra_config=True).hydra.launcher._target_.endswith("BasicLauncher")


def test_the_files_of_hydras_own_settings_are_left_out_for_the_time_of_composing() -> None:
    def chosen() -> Any:
        return ConfigStore.instance().load("hydra/config.yaml").node.defaults

    before = chosen()
    with hydra_ready():
        assert not chosen()
    assert chosen() == before
    assert {"launcher": "basic"} in before


def test_a_loaded_config_places_its_values_also_after_another_was_loaded(write: Write) -> None:
    mine = write({"one/exp.yaml": "project:\n  name: x\n", "two/exp.yaml": "# words\nproject:\n  name: y\n"})
    one = composed(ref="exp", folders=(mine / "one",)).locations
    two = composed(ref="exp", folders=(mine / "two",)).locations
    assert str(one.of(CONFIG / "project.name")).startswith(f"{mine}/one/exp.yaml:2")
    assert str(two.of(CONFIG / "project.name")).startswith(f"{mine}/two/exp.yaml:3")


def test_an_override_as_a_shell_would_pass_it_is_the_one_that_is_meant() -> None:
    (word,) = shlex.split("'project.name=\"a, b\"'")
    assert composed(word).base["project"]["name"] == "a, b"


# ---------------------------------------------------------------------------------------------------------------------
# Group choices of a sweep


def test_a_text_for_a_group_is_a_choice_and_everything_else_a_value() -> None:
    found = composed()
    assert found.is_choice("backend", "tiny_lm")
    assert found.is_choice("+backend@other", "tiny_lm")
    assert found.is_choice("backend/megatron", "x")
    assert not found.is_choice("backend", {"class_name": "x"})
    assert not found.is_choice("backend.options", "x")
    assert not found.is_choice("index", "x")


def test_a_choice_composes_again_with_what_was_asked_for_before() -> None:
    chosen = composed("project.name=x").choosing(("backend=tiny_lm",))
    assert chosen.base["project"]["name"] == "x"
    assert "lr" in chosen.base["backend"]["options"]


# ---------------------------------------------------------------------------------------------------------------------
# Odd defaults lists, and values without end


@pytest.mark.parametrize(
    ("entry", "what", "hint"),
    [
        ("overide /slurm: fake", "'overide' is not allowed before a group", "did you mean 'override'?"),
        ("overrides /slurm: fake", "'overrides' is not allowed before a group", "did you mean 'override'?"),
        ("override /slurm fake", "names a config", "write '- override /slurm: fake'"),
        ("override /slurm=fake", "names a config", "write '- override /slurm: fake'"),
        ("override slurm/fake", "names a config", "write '- override slurm: fake'"),
        ("override: {/slurm: fake}", "'override' is not a group", "write '- override /slurm: fake'"),
        ("/slurm fake", "there is no config 'slurm fake'", "write '- /slurm: fake'"),
        ("/backend/megatron base", "there is no 'megatron base'", "write '- /backend/megatron: base'"),
        ("_slef_", "there is no config '_slef_'", "did you mean '_self_'?"),
        ("override /slurm: [local, nosuch]", "there is no 'nosuch' in the config group 'slurm'", "known: base, fake"),
        ("nosuch/thing", "there is no config group 'nosuch' with 'thing'", ""),
        ("/slrum: fake", "there is no config group 'slrum' with 'fake'", "did you mean 'slurm'?"),
        ("override /slurm: slurm", "there is no 'slurm' in the config group 'slurm'", "known: base, fake"),
    ],
)
def test_an_entry_of_a_defaults_list_in_other_words_is_reported_with_the_right_ones(
    write: Write, entry: str, what: str, hint: str
) -> None:
    mine = write({"exp.yaml": HEADER + f"defaults:\n  - {entry}\n"})
    (problem,) = problems(ref="exp", folders=(mine,))
    assert what in problem.what
    assert str(problem.where) == f"{mine}/exp.yaml:3"
    assert problem.hint.startswith(hint)


def test_a_group_without_its_slash_in_a_folder_of_experiments_is_reported_with_it(write: Write) -> None:
    mine = write({"experiments/sub/exp.yaml": HEADER + "defaults:\n  - override slurm: fake\n"})
    (problem,) = problems(ref="experiments/sub/exp", folders=(mine,))
    assert problem.what == "there is no config group 'experiments/sub/slurm'"
    assert str(problem.where) == f"{mine}/experiments/sub/exp.yaml:3"
    assert problem.hint == "write '- override /slurm: NAME', with the /"


@pytest.mark.parametrize("key", ["default", "Defaults", "_defaults_", "defualts"])
def test_a_misspelt_defaults_list_is_reported_and_nothing_that_follows_from_it(write: Write, key: str) -> None:
    mine = write({"exp.yaml": HEADER + f"{key}:\n  - override /slurm: fake\n", "slurm/mine.yaml": f"{key}: [base]\n"})
    for reported, ref, overrides in (("exp.yaml:2", "exp", ()), ("slurm/mine.yaml:1", "autoexp", ("slurm=mine",))):
        (problem,) = problems(*overrides, ref=ref, folders=(mine,))
        assert (problem.what, problem.hint) == (f"unknown key '{key}'", "did you mean 'defaults'?")
        assert str(problem.where) == f"{mine}/{reported}"


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("slurm=slurm", "there is no 'slurm' in the config group 'slurm'", "known: base, fake"),
        ("slurm=slurm/base", "a choice of 'slurm' is a config's name, not a path", "its name is 'base'"),
        ("slurm=config/slurm/base.yaml", "a choice of 'slurm' is a config's name", "its name is 'base'"),
        ("slurm=nosuch/thing", "there is no 'nosuch/thing' in the config group 'slurm'", "known: base, fake"),
        ("slurm=null", "'slurm' is a group of configs", "write slurm=NAME to choose one; slurm.NAME=VALUE sets"),
        ("backend.argv[0]=a", "the character '[' (position 13) is not allowed in a key", "write backend.argv.0=a"),
        ("a[b.c]=a", "the character '[' (position 2) is not allowed in a key", "write key=value"),
    ],
)
def test_an_override_in_other_words_is_reported_with_the_right_ones(override: str, what: str, hint: str) -> None:
    (problem,) = problems(override)
    assert what in problem.what
    assert str(problem.where) == override
    assert problem.hint.startswith(hint)


@pytest.mark.parametrize(
    ("entries", "line", "message"),
    [
        ("- override /slurm: fake\n  - /autoexp\n", 4, "an entry with 'override' is before this one"),
        ("- /autoexp\n  - override /slurm: fake\n  - /backend/tiny_lm\n", 5, "an entry with 'override' is before"),
        ("- _self_\n  - override /slurm: fake\n  - _self_\n", 5, "_self_ is in the defaults list twice"),
        ("- override /slurm\n", 3, "names a config; 'override' is for groups only"),
        ("- overide /slurm: fake\n", 3, "'overide' is not allowed before a group"),
        ("- _self_@x\n", 3, "_self_ can't have a package"),
        ("- /: x\n", 3, "the name of the group is empty"),
        ("- {a: b, c: d}\n", 3, "an entry names one group; this one names 2"),
        ("- override /slurm: 5\n", 3, "the choice of a group is a config's name, not the number 5"),
        ("- 7\n", 3, "an entry can't be the number 7"),
        ("-\n", 3, "an entry can't be empty"),
        (
            "- override /slurm: fake\n  - override /slurm: base\n",
            4,
            "'slurm' is overridden twice in this list: by fake",
        ),
        ("- override /slurm: fake\n  - override slurm: base\n", 4, "'slurm' is overridden twice"),
    ],
)
def test_each_mistake_in_a_defaults_list_is_a_sentence_with_its_line(
    write: Write, entries: str, line: int, message: str
) -> None:
    mine = write({"exp.yaml": HEADER + f"defaults:\n  {entries}"})
    (problem,) = problems(ref="exp", folders=(mine,))
    assert message in problem.what
    assert str(problem.where) == f"{mine}/exp.yaml:{line}"
    assert problem.hint


def test_an_exception_of_hydras_without_words_is_a_sentence_with_the_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: Exception) -> Callable[..., None]:
        def compose(*_: object, **__: object) -> None:
            raise error

        return compose

    mine = write({"exp.yaml": HEADER + "defaults: [_self_]\n"})
    for error in (AssertionError(), NotImplementedError(), RecursionError(), KeyError("x"), AttributeError("y")):
        monkeypatch.setattr("oellm_autoexp.config.overrides.compose", fails(error))
        (problem,) = problems(ref="exp", folders=(mine,))
        assert str(problem.where) == f"{mine}/exp.yaml:2"
        assert " " in problem.what


BOMBS = {
    "aliases": ("&x{n} [*x{m}, *x{m}, *x{m}, *x{m}]", "its aliases (*name) expand to"),
    "merge keys": ("&x{n} {{a{n}: {{<<: [*x{m}, *x{m}]}}, b: *x{m}, c: *x{m}}}", "its aliases (*name) expand to"),
    "lists": (
        "&x{n} ['${{metadata.x{m}}}', '${{metadata.x{m}}}']",
        "the values that interpolations refer to are too large",
    ),
    "texts": ("'${{metadata.x{m}}}${{metadata.x{m}}}'", "its text is too long: at most 200000 characters"),
    "joined texts": ("'${{oc.concat:${{metadata.x{m}}},${{metadata.x{m}}}}}'", "too long: at most 200000 characters"),
    "numbers": ("'${{oc.mul:${{metadata.x{m}}},${{metadata.x{m}}}}}'", "a whole number has at most 4096 bits"),
    "lists in lists": ("['${{metadata.x{m}}}']", "its value is nested too deeply: at most 60 levels"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_few_lines_that_come_to_a_value_without_end_are_refused_with_the_limit(write: Write, kind: str) -> None:
    line, reported = BOMBS[kind]
    first = {"merge keys": "{a: 1}", "numbers": "123456789", "texts": "abcdefgh", "joined texts": "abcdefgh"}
    lines = [f"  x0: &x0 {first.get(kind, '[1]')}\n"]
    lines += [
        f"  x{n}: {line.format(n=n, m=n - 1)}\n" for n in range(1, 15 if kind in ("aliases", "merge keys") else 80)
    ]
    mine = write({"exp.yaml": HEADER + "metadata:\n" + "".join(lines)})

    def resolved() -> Any:
        overlay = composed(ref="exp", folders=(mine,)).overlay({}, datetime.now(UTC), "python")
        return overlay.resolve(overlay.apply({}))

    with pytest.raises(ConfigError, match=re.escape(reported)) as error:
        resolved()
    assert str(error.value.problems[0].where)


@pytest.mark.parametrize("begin", ["[", "{a: ", "'${", "'${oc.eval:("])
@pytest.mark.parametrize("depth", [100, 3000])
def test_nesting_without_end_is_an_error_with_its_place(write: Write, begin: str, depth: int) -> None:
    quote, begin = ("'", begin[1:]) if begin[0] == "'" else ("", begin)
    end = {"[": "]", "{a: ": "}", "${": "}", "${oc.eval:(": ")}"}[begin]
    mine = write({"exp.yaml": HEADER + f"metadata:\n  x: {quote}{begin * depth}1{end * depth}{quote}\n"})
    found = problems(ref="exp", folders=(mine,))
    assert "nest" in found[0].what
    assert f"{mine}/exp.yaml" in str(found[0].where)
    assert problems(f"+metadata.x={'[' * depth}1{']' * depth}")[0].what.startswith("it is nested too deeply")
    assert problems(f"+metadata.{'.'.join('x' * depth)}=1")[0].what.startswith("it is nested too deeply")


def test_a_large_config_of_an_honest_user_is_composed(write: Write) -> None:
    runs = "".join(f"  run{n}: {{<<: *common, seed: {n}, name: run_{n}}}\n" for n in range(300))
    common = "".join(f"    key{n}: value{n}\n" for n in range(20))
    mine = write({"exp.yaml": HEADER + f"metadata:\n  common: &common\n{common}{runs}  text: {'x' * 500_000}\n"})
    base = composed(ref="exp", folders=(mine,)).base
    assert base["metadata"]["run299"]["key19"] == "value19"
    assert len(base["metadata"]["text"]) == 500_000


# ---------------------------------------------------------------------------------------------------------------------
# All mistakes together


@pytest.mark.slow
def test_wrong_choices_of_files_and_of_the_command_line_are_reported_together(write: Write) -> None:
    defaults = "defaults:\n  - override /slurm: fakee\n  - override /backend: tinylm\n  - override /monitorin: x\n"
    mine = write({"exp.yaml": HEADER + defaults})
    found = problems("scheduler.max_job=3", "container=nope", "a b=3", ref="exp", folders=(mine,))
    assert {str(problem.where) for problem in found} == {
        f"{mine}/exp.yaml:3",
        f"{mine}/exp.yaml:4",
        f"{mine}/exp.yaml:5",
        "scheduler.max_job=3",
        "container=nope",
        "a b=3",
    }


def test_nothing_is_said_of_keys_of_a_section_whose_choice_is_wrong(write: Write) -> None:
    mine = write({"exp.yaml": HEADER + "backend: {options: {lr: 1}}\n"})
    (problem,) = problems("backend=zzz", "backend.options.lr=3", "+backend.options.x=3", ref="exp", folders=(mine,))
    assert str(problem.where) == "backend=zzz"
    assert load_mostly(Source("exp", (mine,), ("backend=zzz",))).unclear == (("backend",),)


def test_mistakes_of_several_files_are_reported_together_also_where_one_can_not_be_read(write: Write) -> None:
    mine = write(
        {
            "exp.yaml": HEADER + "defaults: [other, more, override /slurm: mine]\nmetadata: {x: '${a'}\n",
            "other.yaml": HEADER + "a: [\n",
            "more.yaml": HEADER + "index: 3\n",
            "slurm/mine.yaml": "a: 1\na: 2\n",
        }
    )
    found = {str(problem.where) for problem in problems("x=1,2", ref="exp", folders=(mine,))}
    assert found == {
        "x=1,2",
        f"{mine}/exp.yaml:3",
        f"{mine}/other.yaml:3",
        f"{mine}/more.yaml:2",
        f"{mine}/slurm/mine.yaml:2",
    }


def test_events_without_a_name_are_reported_and_each_of_one_name_gets_its_own(
    write: Write,
) -> None:
    events = "log_events:\n  - {name: a, pattern: x}\n  - {name: a, pattern: y}\nstate_events: [{actions: []}]\n"
    mine = write(
        {
            "exp.yaml": HEADER + "monitoring:\n  " + events.replace("\n", "\n  ").rstrip() + "\n",
            "monitoring/mine.yaml": "defaults: [default]\n" + events,
        }
    )
    of_group = problems("monitoring=mine", folders=(mine,))
    assert [(p.what, str(p.where)) for p in of_group] == [
        ("entry 0 of state_events is not a mapping with a name", f"{mine}/monitoring/mine.yaml:5"),
    ]
    of_file = problems(ref="exp", folders=(mine,))
    assert [str(p.where) for p in of_file] == [f"{mine}/exp.yaml:6"]
    right = mine / "exp.yaml"
    right.write_text(right.read_text().partition("  state_events")[0])
    found = composed(ref="exp", folders=(mine,))
    events = found.base["monitoring"]["log_events"]
    assert {name: event["pattern"] for name, event in events.items()} == {"a": "x", "a_2": "y"}
    assert found.notes == (f"{right}:5: two events of log_events have the name 'a'; this one is 'a_2'",)


@pytest.mark.parametrize("entry", ["/_self_", "optional _self_", "x/_self_", "'_self_ '"])
def test_self_in_another_spelling_is_reported_with_its_line(write: Write, entry: str) -> None:
    mine = write({"exp.yaml": HEADER + f"defaults:\n  - {entry}\n"})
    (problem,) = problems(ref="exp", folders=(mine,))
    assert "is not a config" in problem.what
    assert (str(problem.where), problem.hint) == (f"{mine}/exp.yaml:3", "write '- _self_'")


def test_a_group_from_which_no_defaults_list_chooses_is_reported_how_it_is_chosen(write: Write) -> None:
    mine = write({"autoexp.yaml": "defaults: [backend: tiny_lm, project: base]\n", "data/big.yaml": "x: 1\n"})
    for override in ("slurm=local", "data=big"):
        (problem,) = problems(override, folders=(mine,))
        assert "no defaults list chooses a config of" in problem.what
        assert problem.hint == f"write '+{override}'"


@pytest.mark.parametrize(
    ("override", "at_fault"),
    [
        ("+metadata.x=k\u00e4se", "the character '\u00e4' (position 14) needs quotes"),
        ("+metadata.x=f(x)", "the character '(' (position 14) needs quotes"),
        ("+metadata.x=a~b", "the character '~' (position 14) needs quotes"),
        ("+metadata.x=a=b", "the character '=' (position 14) needs quotes"),
        ("+metadata.x=a]", "the ']' at position 14 has no matching opening bracket"),
        ("+metadata.x=[1,{a:2]", "the '{' at position 16 is not closed before ']'"),
        ("+metadata.x=[1", "the '[' at position 13 is not closed"),
        ("+metadata.x='a", "the quote ' at position 13 is not closed"),
        ('+metadata.x=a"b', 'the quote " at position 14 is not closed'),
    ],
)
def test_the_character_at_fault_in_an_override_is_named_with_a_spelling_that_works(
    override: str, at_fault: str
) -> None:
    (problem,) = problems(override)
    assert problem.what == f"the override does not parse: {at_fault}"
    (suggested,) = shlex.split(problem.hint.removeprefix("close it; ").removeprefix("text needs quotes of its own: "))
    assert composed(suggested).base["metadata"]["x"] == override.partition("=")[2]


@pytest.mark.parametrize(
    "words",
    [("metadata.x = 3",), ("metadata.x", "=", "3"), ("metadata.x", "=3"), ("metadata.x=", "3"), ("metadata.x =3",)],
)
def test_spaces_around_the_equals_sign_are_one_mistake_however_the_shell_cuts_it(words: tuple[str, ...]) -> None:
    (problem,) = problems(*words)
    assert problem.what == "the override does not parse: no spaces are allowed around '='"
    assert problem.hint == "write metadata.x=3"


@pytest.mark.parametrize("override", ["index=3", "+index=3", "++index=0", "~index"])
def test_the_index_is_no_override(override: str) -> None:
    (problem,) = problems(override)
    assert "it numbers the jobs" in problem.what


@pytest.mark.parametrize("override", ["hydra.run.dir=x", "hydra/launcher=nothing", "+hydra.new=3", "hydra=nothing"])
def test_an_override_of_hydras_own_changes_nothing_and_is_noted(override: str) -> None:
    found = composed(override)
    assert found.base == composed().base
    (note,) = found.notes
    assert "has no effect here" in note


def test_interpolations_whose_ends_are_hidden_by_quotes_are_reported_as_too_deep(write: Write) -> None:
    folder = write({"exp.yaml": HEADER + 'metadata:\n  x: "' + "${'}'" * 1500 + '"\n'})
    with pytest.raises(ConfigError, match="is nested too deeply"):
        load(Source("exp", (folder,)))


def test_a_choice_with_a_name_that_no_file_can_have_is_reported_in_a_short_message() -> None:
    with pytest.raises(ConfigError, match="name too long") as error:
        load(Source("autoexp", overrides=("project=default", "container=x" + "9" * 5000)))
    assert len(str(error.value)) < 1000


def test_what_two_keys_lead_to_is_left_out_of_both(write: Write) -> None:
    folder = write({"exp.yaml": HEADER + f"metadata: {{x: 1}}\nmetadata.deep: '{'${' * 100}1{'}' * 100}'\n"})
    found = read_config(folder / "exp.yaml", "exp", is_root=True)
    assert [flaw.path for flaw in found.flaws] == [("metadata", "deep")]
    assert found.config == {"metadata": {"x": 1}}


@pytest.mark.parametrize(
    ("events", "overrides", "told"),
    [
        (
            "log_events: {gpu_bust: null}",
            (),
            "4 ($.monitoring.log_events.gpu_bust): null has no effect; did you mean 'gpu_burst'?",
        ),
        ("state_events: {sucess: null}", (), "4 ($.monitoring.state_events.sucess): null has no effect; known: crash"),
        (
            "metrics: {loss: null}",
            (),
            "4 ($.monitoring.metrics.loss): null has no effect; what is chosen has no metrics of this name",
        ),
        ("log_events: {gpu_burst: null}", (), ""),
        ("log_events: {gpu_burst: null}", ("monitoring.log_events.gpu_burst=null",), ""),
        ("log_events: {own: null}", ("monitoring.log_events.own={pattern: x}",), ""),
    ],
)
def test_an_event_that_is_switched_off_and_that_nothing_has_is_noted_with_its_place(
    write: Write, events: str, overrides: tuple[str, ...], told: str
) -> None:
    mine = write(
        {
            "monitoring/shared.yaml": "log_events: {gpu_burst: {pattern: x}}\nstate_events: {crash: {actions: []}}\n",
            "exp.yaml": f"defaults: [override /monitoring: shared]\nproject: {{name: a}}\nmonitoring:\n  {events}\n",
        }
    )
    notes = composed(*overrides, ref="exp", folders=(mine,)).notes
    assert [note.removeprefix(f"{mine}/exp.yaml:") for note in notes] == [told][: bool(told)]
