"""From a sweep to each job's config: group choices, filters, stages and siblings, over the shipped configs."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oellm_autoexp.config import loader
from oellm_autoexp.config.loader import Composed, Source, load
from oellm_autoexp.core.errors import ConfigError, Problem, SweepError
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.planning.resolving.provenance import PlanContext, gather
from oellm_autoexp.planning.resolving.resolve import SweepResolver
from oellm_autoexp.testing.plans import plan_of

NAME = "${stage}_lr${backend.options.lr}_bs${backend.options.batch_size}"
LR, BS = "backend.options.lr", "backend.options.batch_size"


@cache
def base() -> Composed:
    return load(Source(overrides=("backend=tiny_lm", f"project.name='{NAME}'", "stage=only")))


@cache
def around() -> PlanContext:
    return gather([])


def jobs(sweep: Any) -> SweepResolver:
    return SweepResolver(replace(base(), sweep=sweep), around())


def plan(sweep: Any) -> Manifest:
    return plan_of(replace(base(), sweep=sweep), around()).manifest


@pytest.mark.slow
def test_a_group_choice_composes_again_once_per_distinct_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = base()
    loads: list[Source] = []
    real = loader.load

    def counting(source: Source) -> Composed:
        loads.append(source)
        return real(source)

    monkeypatch.setattr(loader, "load", counting)
    sweep = {"params": {"slurm": ["local", "base"], LR: [0.1, 0.2, 0.3]}}
    made = SweepResolver(replace(composed, sweep=sweep), around())
    clients = [made.config(index)["slurm"]["client"]["class_name"] for index in range(6)]
    assert clients == ["LocalClient"] * 3 + ["SlurmClient"] * 3
    assert made.config(4)["backend"]["options"]["lr"] == 0.2
    assert len(loads) == 2
    with pytest.raises(ConfigError, match="there is no 'nowhere'"):
        SweepResolver(replace(composed, sweep={"params": {"slurm": ["nowhere"], LR: [0.1, 0.2, 0.3]}}), around())
    assert len(loads) == 3


@pytest.mark.slow
def test_an_unknown_group_choice_is_reported_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'local'"):
        jobs({"params": {"slurm": ["locl"]}})


def test_hydras_signs_mean_what_they_mean_in_hydra() -> None:
    made = jobs({"configs": [{"+metadata.new": 1, "~backend.options.misbehave": None, "++backend.options.extra": 2}]})
    tree = made.config(0)
    assert tree["metadata"] == {"new": 1}
    assert "misbehave" not in tree["backend"]["options"]
    assert tree["backend"]["options"]["extra"] == 2


def test_a_stage_may_be_computed() -> None:
    made = jobs({"params": {LR: [1, 2]}, "defaults": {"stage": "s${backend.options.lr}"}})
    assert [member.stage for member in made.members] == ["s1", "s2"]


@pytest.mark.parametrize(
    "text", ["${backend.options.lr} > 1", "${oc.eval:'${backend.options.lr} > 1'}", "backend.options.lr > 1"]
)
def test_a_filter_may_be_written_in_three_ways(text: str) -> None:
    made = jobs({"params": {LR: [1, 2, 3]}, "filter": text})
    assert [made.config(index)["backend"]["options"]["lr"] for index in range(len(made))] == [2, 3]
    assert [made.config(index)["index"] for index in range(len(made))] == [0, 1]


GRID = {"params": {LR: [1, 2], BS: [3, 4]}}
STABLE = {"stage": "stable"}
DECAY = {"stage": "decay", "backend.options.load": "${sibling.stable.output_dir}/checkpoints"}


@pytest.mark.parametrize(
    "sweep",
    [
        {"groups": [GRID, {"configs": [STABLE, DECAY]}]},
        {"type": "list", "groups": [{**GRID, "defaults": STABLE}, {**GRID, "defaults": DECAY}]},
        # a stage that trains with another value keeps its place
        {"groups": [GRID, {"configs": [STABLE, {**DECAY, LR: 9, "project.name": "late_${index}"}]}]},
    ],
    ids=["product", "list", "overriding"],
)
def test_each_decay_depends_on_the_stable_run_of_its_own_place(sweep: Any) -> None:
    manifest = plan(sweep)
    stable = {(job.coords[LR], job.coords[BS]): job for job in manifest.jobs if job.stage == "stable"}
    decays = [job for job in manifest.jobs if job.stage == "decay"]
    assert len(stable) == len(decays) == 4
    for job in decays:
        own = stable[job.coords[LR], job.coords[BS]]
        assert job.depends_on == (own.name,)
        assert job.argv[job.argv.index("--load") + 1] == f"{own.output_dir}/checkpoints"


def test_several_decays_may_share_a_stable_run_and_siblings_may_have_siblings() -> None:
    evaluation = {"stage": "eval", "+metadata.of": "${sibling.decay.backend.options.load}"}
    sweep = {"groups": [{"params": {LR: [1, 2]}}, {"configs": [STABLE, DECAY, evaluation]}]}
    made = jobs(sweep)
    assert made.config(2)["metadata"]["of"].endswith("stable_lr1_bs128/checkpoints")
    assert (made.job(2).siblings, made.config(0)["stage"]) == ((1,), "stable")


def test_the_fields_of_a_sibling_are_those_of_its_manifest_entry() -> None:
    fields = {
        f"+metadata.{field}": f"${{sibling.stable.{field}}}" for field in ("name", "output_dir", "log_path_current")
    }
    manifest = plan({"configs": [STABLE, {"stage": "decay", **fields}]})
    made = jobs({"configs": [STABLE, {"stage": "decay", **fields}]})
    stable, seen = manifest.jobs[0], made.config(1)["metadata"]
    assert seen == {field: getattr(stable, field) for field in ("name", "output_dir", "log_path_current")}


def test_a_sibling_without_a_field_is_reported() -> None:
    made = jobs({"configs": [STABLE, {"stage": "decay", "+metadata.x": "${sibling.stable.nothing.here}"}]})
    with pytest.raises(ConfigError, match=r"nothing\.here"):
        made.config(1)


def test_values_that_refer_to_each_other_across_jobs_in_a_circle_are_reported() -> None:
    one = {"stage": "a", "+metadata.x": "${sibling.b.metadata.x}"}
    made = jobs({"configs": [one, {"stage": "b", "+metadata.x": "${sibling.a.metadata.x}"}]})
    with pytest.raises(ConfigError, match="in a circle"):
        made.config(0)


def test_siblings_left_out_of_a_plan_are_not_waited_for() -> None:
    composed = replace(base(), sweep={"configs": [STABLE, DECAY]})
    manifest = plan_of(composed, around(), subset=frozenset({1})).manifest
    assert [job.depends_on for job in manifest.jobs] == [()]


AXES = st.dictionaries(
    st.sampled_from([LR, BS, "metadata.x"]), st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=3
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(AXES, min_size=1, max_size=3))
def test_a_plan_has_unique_names_and_directories_or_is_refused(grids: list[dict[str, Any]]) -> None:
    try:
        manifest = plan({"grids": grids})
    except SweepError as error:
        assert re.search("share the name|are the same", str(error))  # noqa: PT017  either outcome is right, and neither may be half of both
        return
    assert len({job.name for job in manifest.jobs}) == len(manifest.jobs)
    assert len({Path(job.output_dir) for job in manifest.jobs}) == len(manifest.jobs)


class Unplaced:
    """Leaves the paths of mistakes as they are."""

    def of(self, where: Location) -> Location:
        return where

    def placed(self, problem: Problem) -> Problem:
        return problem


def reported(sweep: Any, **beside: Any) -> set[tuple[str, str]]:
    """Where and what is wrong with a sweep, over the base with these sections."""
    composed = replace(base(), base={**base().base, **beside}, sweep=sweep, locations=Unplaced())
    with pytest.raises(ConfigError) as error:
        plan_of(composed, around())
    return {(str(problem.where), problem.what) for problem in error.value.problems}


def test_a_filter_that_asks_for_the_index_is_refused_however_it_asks() -> None:
    for text in ("index < 2", "${index} < 2", "'${project.name}' != ''"):
        found = reported({"params": {LR: [1, 2]}, "filter": text, "project.name": "run_${index}"})
        assert found == {("$.sweep.filter", "a filter can't use the index: jobs are numbered after it")}


def test_a_mistake_in_a_filter_is_placed_where_that_filter_is_written() -> None:
    nested = {"filter": "backend.options.lrr > 1", "params": {LR: [1]}}
    found = reported({"filter": "backend.options.lr > 0", "type": "list", "groups": [GRID, nested]})
    assert {where for where, _ in found} == {"$.sweep.groups[1].filter"}


def test_a_stage_may_have_dots_in_its_name() -> None:
    later = {"stage": "d", "backend.options.load": "${sibling.v1.0.output_dir}/x"}
    made = jobs({"configs": [{"stage": "v1.0"}, later]})
    assert made.config(1)["backend"]["options"]["load"].endswith("/v1.0_lr0.01_bs128/x")


def test_a_key_is_the_same_coordinate_and_a_stage_the_same_stage_however_hydra_would_sign_it() -> None:
    one = {"params": {"metadata.a": [1, 2]}, "defaults": {"++stage": "s"}}
    other = {"params": {"++metadata.a": [1, 2]}, "defaults": {"stage": "d", "+metadata.of": "${sibling.s.metadata.a}"}}
    made = jobs({"type": "list", "groups": [one, other]})
    assert [made.config(index)["metadata"]["of"] for index in (2, 3)] == [1, 2]


def test_a_condition_for_all_jobs_lets_every_other_stage_wait_for_one() -> None:
    wait = {"class_name": "FileExistsCondition", "path": "${sibling.stable.output_dir}/done"}
    other = {"class_name": "FileExistsCondition", "path": "${project.base_output_dir}/go"}
    job = {**base().base["job"], "start_conditions": [wait, other]}
    composed = replace(base(), base={**base().base, "job": job})
    sweep = {"groups": [GRID, {"configs": [STABLE, {"stage": "decay"}]}]}
    manifest = plan_of(replace(composed, sweep=sweep), around()).manifest
    for stable, decay in zip(manifest.jobs[::2], manifest.jobs[1::2], strict=True):
        assert [condition["path"] for condition in stable.start_conditions] == ["./outputs/go"]
        assert [condition["path"] for condition in decay.start_conditions] == [
            f"{stable.output_dir}/done",
            "./outputs/go",
        ]
        assert decay.depends_on == (stable.name,)


@pytest.mark.slow
def test_all_mistakes_are_reported_together_those_of_the_sweep_and_those_beside_it() -> None:
    wrong = {"slurm": {**base().base["slurm"], "arra": 1}, "scheduler": {"max_jobs": 0}}
    beside = {("$.slurm.arra", "unknown key 'arra'"), ("$.scheduler.max_jobs", "must be at least 1, not 0")}
    assert reported({"parms": {}}, **wrong) == {("$.sweep.parms", "unknown key 'parms' in a sweep node"), *beside}
    assert reported({"params": {LR: [1]}, "backend.options.load": "${nothing}"}, **wrong) == {
        ("$.backend.options.load", "${nothing} refers to 'nothing', which does not exist"),
        *beside,
    }
    types = {"type": "list", "groups": [{"params": {"backend.options.lrr": [3]}}, {"params": {"backend": ["tiny_ml"]}}]}
    assert reported(types, **wrong) == {
        ("$.backend.options.lrr", "the config has no key 'backend.options.lrr'"),
        ("$.backend", "there is no 'tiny_ml' in the config group 'backend'"),
        *beside,
    }
    # what the sweep itself sets is not judged by what the config holds without it
    assert reported({"params": {"scheduler.max_jobs": [3], "x.y": [1]}}, **wrong) == {
        ("$.x.y", "the config has no key 'x.y'"),
        ("$.slurm.arra", "unknown key 'arra'"),
    }


def test_logs_and_links_are_each_jobs_own() -> None:
    named = {"params": {"metadata.i": [1, 2]}, "project.name": "r${metadata.i}"}
    shared = {"project.log_path": "/logs/one.log", "project.log_path_current": "/logs/current.log"}
    assert reported({**named, **shared}) == {
        ("$.project.log_path", "2 jobs share the log '/logs/one.log': jobs 0, 1"),
        ("$.project.log_path_current", "2 jobs share the link '/logs/current.log': jobs 0, 1"),
    }
    assert len(plan({**named, "project.log_path": "/logs/%%j_%j.log"}).jobs) == 2


@pytest.mark.parametrize(
    ("params", "suggested"),
    [
        ({LR: [1, 2]}, "run_${backend.options.lr}"),
        ({"backend.options": [{"lr": 1}, {"lr": 2}]}, "run_${backend.options.lr}"),
        ({"monitoring": ["default", "megatron_basic"]}, "run_${index}"),
        ({"monitoring": ["default", "megatron_basic"], LR: [1, 2]}, "run_${backend.options.lr}_${index}"),
        ({"backend.argv": [["a"], ["b"]]}, "run_${index}"),
    ],
)
def test_names_that_jobs_share_are_reported_with_one_that_would_tell_them_apart(params: Any, suggested: str) -> None:
    with pytest.raises(SweepError) as error:
        plan({"params": params, "defaults": {"project.name": "x"}})
    assert f"'{suggested}' in the sweep's defaults" in error.value.problems[0].hint


def test_a_folder_that_jobs_share_although_their_names_differ_is_reported_with_the_name_to_put_into_it() -> None:
    with pytest.raises(SweepError) as error:
        plan({"params": {LR: [1, 2]}, "defaults": {"project.output_dir": "/o"}})
    assert error.value.problems[0].hint.startswith("their names differ: put ${project.name} into project.output_dir")


WORDS = {
    "{stage}": "s",
    "{{stage}}": "{stage}",
    "${metadata.braces}": "{stage}",
    "{stage}:${metadata.braces}:${metadata.json}": 's:{stage}:{"a": {"b": 1}}',
    "x=${metadata.list}": "x=['{stage}']",
    "x=${metadata.mapping}": "x={'a': '{stage}'}",
    "${oc.select:metadata.braces}": "{stage}",
    "${.5}": "{stage}",
    r"\${HOME}": "${HOME}",
    r"\${stage} {stage}": "${stage} s",
    r"\${{stage}}": "${stage}",
    "{": "{",
}


def test_only_the_braces_that_are_written_in_a_word_name_values() -> None:
    text = '{"a": {"b": 1}}'
    metadata = {"braces": "{stage}", "json": text, "list": ["{stage}"], "mapping": {"a": "{stage}"}}
    values = {"backend": "command", "project.name": "x", "metadata": metadata, "stage": "s"}
    words = {"backend.argv": ["t", "a", "b", "c", "d", "${metadata.braces}", *WORDS]}
    (job,) = plan({"configs": [values | words]}).jobs
    assert job.argv[6:] == tuple(WORDS.values())
    of_a_list = {**values, "metadata": metadata | {"words": ["t", "{stage}"]}, "backend.argv": "${metadata.words}"}
    of_a_text = {**values, "backend.argv": "t {stage} ${metadata.braces}"}
    first, second = plan({"configs": [of_a_list | {"project.name": "a"}, of_a_text | {"project.name": "b"}]}).jobs
    assert (first.argv, second.argv) == (("t", "{stage}"), ("t", "s", "{stage}"))


def test_a_word_that_is_referred_to_is_its_value() -> None:
    words = ["t", "${metadata.json}", "${metadata.again}", "{stage}", "${sibling.a.backend.argv.1}"]
    values = {
        "backend": "command",
        "project.name": "n_${stage}_${backend.argv.0}",
        "metadata": {"json": '{"a": 1}', "again": "${backend.argv.1}", "class": "CommandBackend"},
        "backend.class_name": "${metadata.class}",
        "+backend.options.x": "${backend.argv.1}",
        "+backend.options.length": "${oc.len:${backend.argv.1}}",
        "backend.env": {"X": "${backend.argv.1}"},
        "stage": "a",
    }
    stages = [values | {"backend.argv": words[:4]}, values | {"backend.argv": words, "stage": "b"}]
    first, second = plan({"configs": stages, "filter": "'${backend.argv.1}' != 'x'"}).jobs
    json = '{"a": 1}'
    assert first.argv == ("t", json, json, "a", "--x", json, "--length", "8")
    assert second.argv == ("t", json, json, "b", json, "--x", json, "--length", "8")
    assert (first.name, first.env["X"]) == ("n_a_t", json)


def test_the_log_of_a_sibling_is_the_one_of_the_attempt_that_counts() -> None:
    for called in ("log_path", "project.log_path"):
        configs = [{"stage": "a"}, {"stage": "b", "backend.options.load": f"${{sibling.a.{called}}}"}]
        first, second = plan({"configs": configs}).jobs
        assert first.log_path_current in second.argv
    fixed = {"stage": "a", "project.log_path": "/o/one%%j.log"}
    first, second = plan({"configs": [fixed, {"stage": "b", "backend.options.load": "${sibling.a.log_path}"}]}).jobs
    assert "/o/one%%j.log" in second.argv


@pytest.mark.parametrize("place", ["", "/manifests", "/manifests/x", "/sweep.json", "/monitoring_state"])
def test_no_job_may_have_the_places_where_plans_and_sessions_are_kept(place: str) -> None:
    found = reported({"configs": [{"project.output_dir": f"${{project.base_output_dir}}{place}"}]})
    assert {where for where, _ in found} == {"$.project.output_dir"}


def test_a_part_of_a_plan_neither_waits_for_nor_is_cancelled_by_what_is_left_out_and_a_note_says_so() -> None:
    cancel = [{"class_name": "SlurmStateCondition", "job_name": "${sibling.stable.name}", "state": "FAILED"}]
    composed = replace(base(), sweep={"configs": [STABLE, {**DECAY, "job.cancel_conditions": cancel}]})

    def part(*indices: int) -> Any:
        return plan_of(composed, around(), subset=frozenset(indices))

    assert [len(job.cancel_conditions) for job in part(0, 1).manifest.jobs] == [0, 1]
    assert [job.cancel_conditions for job in part(1).manifest.jobs] == [()]
    assert any("--array-subset leaves out" in note for note in part(1).notes)
    assert not any("--array-subset" in note for note in part(0, 1).notes)


@pytest.mark.parametrize("key", ["backend.options", "backend"])
def test_a_note_tells_of_such_values_also_where_the_sweep_sets_them_in_a_mapping(key: str) -> None:
    composed = load(Source(overrides=("backend=tiny_lm", "project.name=r${index}", f"{LR}=5", f"{BS}=7")))
    options = {"lr": 1} if key == "backend.options" else {"options": {"lr": 1}}
    made = plan_of(replace(composed, sweep={"configs": [{key: options}]}), around())
    assert made.notes[0] == f"{LR} on the command line changes nothing in any job: the sweep sets it"
    assert not any(BS in note for note in made.notes)


def test_a_note_tells_of_values_on_the_command_line_that_the_sweep_sets_too() -> None:
    composed = load(Source(overrides=("backend=tiny_lm", "project.name=r${index}", f"{LR}=5", f"{BS}=7")))
    sweep = {"type": "list", "groups": [{"params": {LR: [1]}}, {"params": {LR: [2], BS: [3]}}]}
    made = plan_of(replace(composed, sweep=sweep), around())
    assert made.notes[:2] == (
        f"{LR} on the command line changes nothing in any job: the sweep sets it",
        f"{BS} on the command line changes nothing in 1 of 2 jobs: the sweep sets it",
    )
