"""The laws of sweeps: one rule by path, in whatever form keys are written, in files and on the command line."""

from __future__ import annotations

import copy
import json
import os
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from oellm_autoexp.config.loader import Composed, Source, load
from oellm_autoexp.config.values.overlay import Overlay
from oellm_autoexp.core.errors import ConfigError, SweepError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.planning.make_plan import make_plan
from oellm_autoexp.planning.resolving.provenance import gather
from oellm_autoexp.planning.resolving.resolve import SweepResolver
from oellm_autoexp.sweep.expander import expand
from oellm_autoexp.sweep.paths import over
from oellm_autoexp.testing.plans import plan_of
from tests.sweeps import BASE, Made, set_in, sweeps, written

GIVEN = os.environ.get("AUTOEXP_SWEEPS")
COMPOSED = int(GIVEN or 40)
"""How many experiments are compared with Hydra's composition: of one of their jobs, or (where it is given) of each."""


def tree_of(values: list[tuple[str, Any]]) -> str:
    tree = copy.deepcopy(BASE)
    for path, value in values:
        set_in(tree, path, value)
    return json.dumps(tree, sort_keys=True)


def applied(sweep: Any) -> Counter[str]:
    """The configs of a sweep's jobs."""
    overlay = Overlay(BASE, {})
    return Counter(json.dumps(overlay.apply(point.values), sort_keys=True) for point in expand(sweep))


@given(st.data(), sweeps())
def test_a_sweep_means_what_its_values_mean_one_after_another_in_whatever_form_they_are_written(
    data: st.DataObject, made: Made
) -> None:
    wanted = Counter(map(tree_of, made.jobs()))
    assert applied(data.draw(written(made))) == applied(data.draw(written(made))) == wanted


@given(st.data(), sweeps())
def test_the_order_of_groups_does_not_change_the_set_of_jobs(data: st.DataObject, made: Made) -> None:
    plain = replace(made, factors=tuple(replace(factor, inner={}) for factor in made.factors))
    other = replace(plain, factors=tuple(data.draw(st.permutations(plain.factors))))
    assert applied(data.draw(written(plain))) == applied(data.draw(written(other)))


@pytest.mark.slow
@given(st.data(), sweeps())
def test_a_product_has_as_many_jobs_as_its_axes_multiplied_and_each_value_of_each_axis(
    data: st.DataObject, made: Made
) -> None:
    factors = tuple(factor for factor in made.factors if factor.axes)
    assume(made.kind == "product" and factors)
    points = expand(data.draw(written(Made(factors, "product", made.outer))))
    sizes = [len(axis) for factor in factors for axis in factor.axes.values()]
    count = 1
    for size in sizes:
        count *= size
    assert len(points) == count
    trees = [Overlay(BASE, {}).apply(point.values) for point in points]
    for path, axis in ((path, axis) for factor in factors for path, axis in factor.axes.items()):
        for value in axis:
            assert sum(_at(tree, path) == value for tree in trees) == count // len(axis)


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


YES: st.SearchStrategy[Any] = st.booleans()
LAYERS = st.dictionaries(
    st.sampled_from(["a", "a.b", "a.b.c", "a.d", "e"]),
    st.integers(0, 3) | st.fixed_dictionaries({"d": st.just({"x": 1})}, optional={"b": st.integers()}),
    max_size=3,
).filter(lambda layer: not ({"a", "a.b", "a.b.c"} & layer.keys() and len(layer) > 1))
"""Values that no path has twice."""


@given(LAYERS, LAYERS, LAYERS)
def test_laying_values_over_others_is_setting_them_one_after_another(
    one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]
) -> None:
    signed = [{f"++{key}": value for key, value in layer.items()} for layer in (one, two, three)]
    overlay = Overlay({"a": {"b": {"c": 0}, "d": 0}, "e": 0}, {})
    step: Any = overlay
    for layer in signed:
        step = Overlay(json.loads(json.dumps(step.apply(layer))), {})
    assert overlay.apply(over(over(signed[0], signed[1]), signed[2])) == step.base


# ---------------------------------------------------------------------------------------------------------------------
# Files, the command line, and Hydra

EXPERIMENT = """\
# @package _global_
backend: {argv: [train], options: {x: 1, y: {p: 1, q: 2}, z: 0, all: '${.x}_${metadata.t}'}}
slurm: {env: {A: a, KEPT: k}}
metadata: {t: 0, of: ['${backend.options.y}', '${slurm.env}']}
"""


def hydras(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydras(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(hydras, value)) + "]"
    return "null" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


@cache
def environment() -> Any:
    return gather([])


def configs(composed: Composed) -> list[dict[str, Any]]:
    jobs = SweepResolver(composed, environment())
    return [{**jobs.config(index), "index": 0} for index in range(len(jobs))]


@pytest.mark.slow
@settings(max_examples=COMPOSED, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), sweeps())
def test_each_job_is_what_hydra_composes_with_its_values_as_overrides(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, made: Made
) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "exp.yaml").write_text(EXPERIMENT)
    choice = data.draw(st.sampled_from(["", "", "fake", "base"]))
    sweep = data.draw(written(made))
    words: list[str] = []
    if made.factors[0].axes and data.draw(YES):  # the command line gives one of the axes other values
        path, axis = next(iter(made.factors[0].axes.items()))
        first = replace(made.factors[0], axes={**made.factors[0].axes, path: [*axis, 5]})
        made = replace(made, factors=(first, *made.factors[1:]))
        words.append(data.draw(st.sampled_from(on_command_line("sweep.groups.0.params", path, [*axis, 5]))))
    if made.outer and data.draw(YES):
        path = next(iter(made.outer))
        made = replace(made, outer={**made.outer, path: 7} if path != "slurm.env" else made.outer)
        words += [data.draw(st.sampled_from(on_command_line("sweep.defaults", path, made.outer[path])))]
    if choice:
        sweep["slurm"] = choice
    (folder / "swept.yaml").write_text(EXPERIMENT + yaml.safe_dump({"sweep": sweep}, sort_keys=False))
    found = Counter(
        json.dumps(config, sort_keys=True)
        for config in configs(load(Source(str(folder / "swept.yaml"), (), tuple(words))))
    )
    jobs = made.jobs()
    assert found.total() == len(jobs)
    for values in jobs if GIVEN else [data.draw(st.sampled_from(jobs))]:
        overrides = [f"slurm={choice}"] * bool(choice) + [f"++{path}={hydras(value)}" for path, value in values]
        (wanted,) = configs(load(Source(str(folder / "exp.yaml"), (), tuple(overrides))))
        assert found[json.dumps(wanted, sort_keys=True)] >= 1


def on_command_line(place: str, path: str, value: Any) -> list[str]:
    """The forms in which an override can set what is at a path in a part of the sweep."""
    nested: dict[str, Any] = {}
    set_in(nested, path, value)
    return [f"{place}.{path}={hydras(value)}", f"{place}={hydras({path: value})}", f"{place}={hydras(nested)}"]


# ---------------------------------------------------------------------------------------------------------------------
# What was once one job's value in another job's place


@cache
def tiny() -> Composed:
    return load(
        Source(overrides=("backend.argv=[train]", "+backend.options={x: 0, lr: 0}", "project.name='r${index}'"))
    )


def planned(sweep: str) -> Manifest:
    composed = replace(tiny(), sweep=yaml.safe_load(sweep))
    return plan_of(composed, environment()).manifest


def argvs(manifest: Manifest) -> list[str]:
    return [" ".join(job.argv) for job in manifest.jobs]


def test_two_groups_that_choose_different_options_are_multiplied() -> None:
    sweep = """
        type: product
        groups:
          - params: {backend.options: [{x: 1}, {x: 2}]}
          - params: {backend.options: [{lr: 3}, {lr: 4}]}
    """
    wanted = ["train --x 1 --lr 3", "train --x 1 --lr 4", "train --x 2 --lr 3", "train --x 2 --lr 4"]
    assert argvs(planned(sweep)) == wanted


@pytest.mark.parametrize("section", ["slurm.env", "slurm.sbatch"])
def test_inner_defaults_leave_what_outer_ones_say_of_other_keys_of_a_section(section: str) -> None:
    inner = {"defaults": {section: {"nodes": 2}}, "params": {"backend.options.x": [1]}}
    composed = replace(tiny(), sweep={"defaults": {section: {"time": "1"}}, "groups": [inner]})
    found: Any = configs(composed)[0]["slurm"][section.removeprefix("slurm.")]
    assert (found["time"], found["nodes"]) == ("1", 2)


FILE = "# @package _global_\nbackend: {argv: [train], options: {x: 0, lr: 0}}\nproject: {name: 'r${index}'}\nsweep:\n"


@pytest.mark.parametrize(
    "written_as",
    [
        "backend.options.x: [1, 2]",
        "backend: {options: {x: [1, 2]}}",
        "backend.options: {x: [1, 2]}",
        "backend.options: [{x: 1}, {x: 2}]",
    ],
)
@pytest.mark.parametrize(
    "override",
    [
        "sweep.params.backend.options.x=[7,8]",
        "++sweep.params.backend.options.x=[7,8]",
        "sweep.params={backend.options.x: [7,8]}",
        "sweep.params.backend={options: {x: [7,8]}}",
        "sweep={params: {backend: {options: {x: [7,8]}}}}",
    ],
)
def test_the_command_line_changes_an_axis_of_the_file(tmp_path: Path, written_as: str, override: str) -> None:
    (tmp_path / "exp.yaml").write_text(f"{FILE}  params:\n    {written_as}\n")
    composed = load(Source(str(tmp_path / "exp.yaml"), (), (override,)))
    assert [config["backend"]["options"] for config in configs(composed)] == [{"x": 7, "lr": 0}, {"x": 8, "lr": 0}]
    composed = load(Source(str(tmp_path / "exp.yaml"), (), ("~sweep.params.backend.options.x",)))
    assert len(configs(composed)) == 1


@pytest.mark.parametrize(
    "override",
    ["sweep.groups.5.params.x=1", "~sweep.params.nope", "~sweep.filter", "sweep.groups.x=1", "sweep.filter.deep=1"],
)
def test_an_override_of_a_place_that_the_sweep_lacks_is_reported(tmp_path: Path, override: str) -> None:
    (tmp_path / "exp.yaml").write_text(f"{FILE}  params: {{backend.options.x: [1, 2]}}\n")
    with pytest.raises(ConfigError, match=f"{re.escape(override)}: the config has no key"):
        load(Source(str(tmp_path / "exp.yaml"), (), (override,)))


@pytest.mark.parametrize(
    ("override", "sweep"),
    [
        ("sweep.filter='${backend.options.x} > 1'", {"filter": "${backend.options.x} > 1"}),
        ("sweep.type=list", {"type": "list"}),
        ("~sweep.params", {}),
        ("sweep.params=null", {"params": None}),
        ("sweep.stage=s", {"stage": "s"}),
        ("sweep.groups=[{params: {a: 1}}]", {"groups": [{"params": {"a": 1}}]}),
    ],
)
def test_an_override_sets_each_part_of_a_sweep(tmp_path: Path, override: str, sweep: dict[str, Any]) -> None:
    (tmp_path / "exp.yaml").write_text(f"{FILE}  params: {{backend.options.x: [1, 2]}}\n")
    found = load(Source(str(tmp_path / "exp.yaml"), (), (override,))).sweep
    params = {} if "sweep.params" in override else {"params": {"backend.options.x": [1, 2]}}
    assert found == {**params, **sweep}


def test_an_override_reaches_into_the_items_of_lists(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(f"{FILE}  groups: [{{grids: [{{backend.options.x: [1, 2]}}]}}]\n")
    composed = load(Source(str(tmp_path / "exp.yaml"), (), ("sweep.groups.0.grids.0.backend.options.x=[5]",)))
    assert [config["backend"]["options"]["x"] for config in configs(composed)] == [5]


def test_a_key_set_twice_is_reported_with_the_lines_of_both_places(tmp_path: Path) -> None:
    text = f"{FILE}  params:\n    backend.options.x: [1, 2]\n    backend.options: [{{x: 7}}]\n"
    (tmp_path / "exp.yaml").write_text(text)
    with pytest.raises(SweepError) as error:
        make_plan(load(Source(str(tmp_path / "exp.yaml"))), environment(), read_template=lambda _: "")
    first, second = "exp.yaml:6 ($.sweep.params.backend.options.x)", "exp.yaml:7 ($.sweep.params.backend.options)"
    problem = error.value.problems[0]
    assert first in str(problem.where)
    assert second in str(problem.where)
    assert problem.what == "'backend.options.x' is set twice"


# ---------------------------------------------------------------------------------------------------------------------
# Jobs that are the same


@pytest.mark.parametrize("values", ["[1000, 1e3]", "[0, 0.0, false]", "[1, true, 'true']", "[null, 'null']"])
def test_jobs_with_other_words_in_their_commands_are_not_the_same(values: str) -> None:
    found = planned(f"{{params: {{backend.options.x: {values}}}}}").jobs
    assert len({job.argv for job in found}) == len(found) > 1


@pytest.mark.parametrize("said", ["yes", "On", "true", "TRUE"])
def test_duplicates_are_allowed_by_any_word_for_true(tmp_path: Path, said: str) -> None:
    sweep = "  params: {backend.options.x: [1, 1]}\n"
    for text, overrides in ((f"{sweep}  allow_duplicates: {said}\n", ()), (sweep, (f"sweep.allow_duplicates={said}",))):
        (tmp_path / "exp.yaml").write_text(f"{FILE}{text}")
        composed = load(Source(str(tmp_path / "exp.yaml"), (), overrides))
        assert len(plan_of(composed, environment()).manifest.jobs) == 2


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            "{params: {backend.options.lr: [3, 4, 3, 4]}}",
            "2 of 4 jobs are the same as others: job 2 as job 0, job 3 as",
        ),
        ("{configs: [{}, {backend.options.x: 0}]}", "1 of 2 jobs is the same as another: job 1 as job 0"),
        ("{params: {backend.options.x: [1, '1']}}", "1 of 2 jobs is the same"),
        ("{params: {+backend.env.A: [1, '1']}}", "1 of 2 jobs is the same"),
        ("{params: {backend.options.x: [.nan, .nan]}}", "1 of 2 jobs is the same"),
        ("{configs: [{backend.options.x: 4}, {backend.options.x: '${oc.eval:2*2}'}]}", "1 of 2 jobs"),
        (
            "{params: {backend.options.x: [1, 1]}, defaults: {+backend.options.out: '${project.output_dir}/x'}}",
            "1 of 2",
        ),
        (
            "{type: list, groups: [{params: {backend.options.x: [1, 2]}}, {params: {backend.options.x: [2, 3]}}]}",
            "1 of 4",
        ),
    ],
)
def test_jobs_that_are_the_same_are_reported_and_refused_unless_they_are_allowed(sweep: str, message: str) -> None:
    with pytest.raises(SweepError) as error:
        planned(sweep)
    assert message in error.value.problems[0].what
    assert "allow_duplicates" in error.value.problems[0].hint
    composed = replace(tiny(), sweep={**yaml.safe_load(sweep), "allow_duplicates": True})
    plan = plan_of(composed, environment())
    assert any(message in note for note in plan.notes)


@pytest.mark.parametrize(
    "sweep",
    [
        "{params: {backend.options.lr: [3, 3]}, defaults: {+backend.options.seed: '${index}'}}",
        "{params: {backend.options.lr: [3, 3]}, defaults: {slurm.env: {SEED: 's${index}'}}}",
        "{params: {metadata.note: [1, 2]}}",
        "{params: {stage: [a, b]}}",
        "{params: {project.name: [a, b]}}",
        "{params: {backend.options.lr: [1, true, 'true']}}",
        "{configs: [{stage: a}, {stage: b, backend.options.x: '${sibling.a.output_dir}'}]}",
    ],
)
def test_jobs_that_differ_in_anything_but_their_own_number_are_no_twins(sweep: str) -> None:
    assert len(planned(sweep).jobs) >= 2


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{allow_duplicates: yes please}", "allow_duplicates is 'yes please'"),
        ("{groups: [{allow_duplicates: true, params: {a: 1}}]}", "allow_duplicates applies to the whole sweep"),
        ("{allow_duplicate: true}", "unknown key 'allow_duplicate'"),
    ],
)
def test_a_wrong_word_on_duplicates_is_reported(sweep: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        expand(yaml.safe_load(sweep))


# ---------------------------------------------------------------------------------------------------------------------
# Axes that look like none


def xs(sweep: str, **metadata: Any) -> list[Any]:
    composed = replace(tiny(), base={**tiny().base, "metadata": metadata}, sweep=yaml.safe_load(sweep))
    return [config["backend"]["options"]["x"] for config in configs(composed)]


@pytest.mark.parametrize(
    "sweep",
    [
        "params: {backend.options.x: '${metadata.xs}'}",
        "params: {backend: {options: {x: '${metadata.xs}'}}}",
        "grids: [{backend: {options: {x: [1, 2]}}}]",
        "params: {backend.options: {x: [1, 2]}}",
        "params: {backend.options.x: '${oc.create:[1, 2]}'}",
        "configs: [{params: {backend.options.x: '${metadata.xs}'}}]",
    ],
)
def test_an_interpolation_to_a_list_and_a_list_further_inside_are_axes(sweep: str) -> None:
    assert xs(sweep, xs=[1, 2]) == [1, 2]


def test_an_interpolation_to_one_value_or_to_a_list_that_is_a_value_is_none() -> None:
    assert xs("params: {backend.options.x: '${metadata.one}', metadata.y: [1, 2]}", one=5, y=0) == [5, 5]
    assert xs("params: {backend.options.x: ['${metadata.xs}', 3]}", xs=[1, 2]) == [[1, 2], 3]
    assert xs("params: {backend.options.x: '${metadata.y}', metadata.y: [1, 2]}", y=0) == [1, 2]


def test_a_list_that_only_the_jobs_know_is_an_error_and_no_value() -> None:
    with pytest.raises(SweepError, match=r"'\$\{metadata.xs\}' becomes a list only in each job"):
        xs("{defaults: {metadata.xs: [1, 2]}, params: {backend.options.x: '${metadata.xs}'}}", xs=[9])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1, 2", r"write \[1, 2\], or \['1, 2'\] for one text"),
        ("1e-3,1e-2", r"write \[1e-3, 1e-2\]"),
        ("adam, sgd", r"write \[adam, sgd\]"),
    ],
)
def test_an_axis_without_its_brackets_is_an_error_that_writes_them(text: str, message: str) -> None:
    for sweep in (f"params: {{backend.options.x: '{text}'}}", f"grids: [{{backend: {{options: {{x: '{text}'}}}}}}]"):
        with pytest.raises(SweepError, match=message):
            xs(sweep)


@pytest.mark.parametrize(
    ("sweep", "wanted"),
    [
        ("params: {backend.options.x: ['1, 2']}", ["1, 2"]),
        ("params: {backend.options.x: 'n[1,2]'}", ["n[1,2]"]),
        ("params: {backend.options.x: 'a,b'}", ["a,b"]),
        ("configs: [{backend.options.x: '1, 2'}]", ["1, 2"]),
    ],
)
def test_a_text_with_a_comma_may_be_one_value(sweep: str, wanted: list[str]) -> None:
    assert xs(sweep) == wanted


def test_a_text_with_a_comma_stays_one_where_the_config_has_such_a_text() -> None:
    base = {**tiny().base, "metadata": {"split": "99,1,0"}}
    composed = replace(tiny(), base=base, sweep={"params": {"metadata.split": "969, 30, 1"}})
    assert [config["metadata"]["split"] for config in configs(composed)] == ["969, 30, 1"]
