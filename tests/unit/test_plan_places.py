"""Jobs may have places of their own; the files of the plan they belong to have one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.config.loader import Source
from oellm_autoexp.core.errors import ConfigError, SweepError
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.resolving.plan_places import place_of_plan
from oellm_autoexp.testing.plans import plan_of


@pytest.mark.parametrize(
    ("path", "name", "place"),
    [
        ("/o/run_1", "run_1", "/o"),
        ("/o/run_1/state", "run_1", "/o/state"),
        ("/o/x-run_1-y/state", "run_1", "/o/state"),
        ("/o/run_10/state", "run_1", "/o/run_10/state"),
        ("/data/state", "a", "/data/state"),
        ("/run_1", "run_1", "/run_1"),
    ],
)
def test_the_plans_place_is_the_first_jobs_without_the_folders_that_are_named_after_it(
    path: str, name: str, place: str
) -> None:
    assert place_of_plan(path, name) == place


@given(st.lists(st.sampled_from(["a", "b1", "data"]), min_size=1), st.sampled_from(["job.1", "lr=3+x", "a"]))
def test_a_place_that_holds_no_name_stays_and_one_that_does_loses_it(parts: list[str], name: str) -> None:
    path = "/" + "/".join(part for part in parts if part != name)
    assert place_of_plan(path, name) == path
    if path != "/":
        assert place_of_plan(f"{path}/{name}", name) == path


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    return planned()


def planned(*overrides: str) -> Plan:
    config = (
        "# @package _global_\n"
        "backend: {argv: [sh, -c, exit 0]}\n"
        "project:\n"
        "  name: r_${stage}\n"
        "  base_output_dir: out/${project.name}\n"
        "  monitoring_state_dir: ${project.base_output_dir}/monitor\n"
        "sweep: {grids: [{stage: [a, b]}]}\n"
    )
    Path("exp.yaml").write_text(config)
    return plan_of(Source("./exp.yaml", (), overrides))


def test_each_job_is_where_its_config_says_and_the_plan_has_one_place_which_a_note_names(plan: Plan) -> None:
    here = Path.cwd()
    assert [job.output_dir for job in plan.manifest.jobs] == [f"{here}/out/r_a/r_a", f"{here}/out/r_b/r_b"]
    assert plan.manifest.base_output_dir == f"{here}/out"
    assert plan.manifest.monitoring_state_dir == f"{here}/out/monitor"
    reported = [note for note in plan.notes if "each job's own" in note]
    assert reported == [
        f"project.base_output_dir is each job's own; the plan's own files are in {here}/out",
        f"project.monitoring_state_dir is each job's own; the plan's own files are in {here}/out/monitor",
    ]


def test_a_job_whose_folder_is_the_base_folder_has_the_plans_files_above_it(plan: Plan) -> None:
    here = Path.cwd()
    for overrides in ((), ("sweep=none", "stage=a")):
        found = planned("project.output_dir=${project.base_output_dir}", *overrides)
        assert found.manifest.jobs[0].output_dir == f"{here}/out/r_a"
        assert found.manifest.base_output_dir == f"{here}/out"
        assert found.manifest.monitoring_state_dir == f"{here}/out/monitor"
    with pytest.raises(ConfigError, match="is where plans and sessions are kept"):
        planned("project.output_dir=${project.base_output_dir}", "project.base_output_dir=out")


def test_braces_and_the_home_folder_in_a_place_are_read_as_interpolations(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ("project.base_output_dir='~/{stage}'", "backend.argv=[train,'${project.output_dir}']")
    found = planned(*words, "project.output_dir='${project.base_output_dir}/{project.name}'")
    assert [job.output_dir for job in found.manifest.jobs] == ["/home/me/a/r_a", "/home/me/b/r_b"]
    assert [job.argv[1] for job in found.manifest.jobs] == ["/home/me/a/r_a", "/home/me/b/r_b"]


def test_a_folder_in_which_the_plans_own_files_are_is_no_jobs(plan: Plan) -> None:
    with pytest.raises(SweepError, match="is where plans and sessions are kept"):
        planned("project.output_dir=out/manifests/${stage}")


def test_a_copy_of_the_code_is_in_one_place(plan: Plan) -> None:
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words], check=True)
    with pytest.raises(SweepError, match="job 1 has another value of project") as error:
        planned("project.code=snapshot")
    assert str(error.value.problems[0].where) == "exp.yaml:5 ($.project.base_output_dir)"
