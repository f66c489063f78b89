"""The recorded config of one job: a run of it gives the job's own config again, whatever its sweep has set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.engine.executing.programs import launch
from oellm_autoexp.planning import manifest as manifests
from oellm_autoexp.planning.record.side_file import record_file, side_file
from oellm_autoexp.planning.resolving.provenance import gather
from oellm_autoexp.rules.actions import RunAutoexpAction
from oellm_autoexp.testing.plans import plan_of
from tests.unit.test_queue import make_event
from tests.unit.test_replan import EXPERIMENTS

Planned = Callable[..., Manifest]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Makes a plan and writes it; `config` is an experiment of the test's own, merged into the root config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))
    for variable in ("DATA_DIR", "PROJECT_DIR", "HF_HOME", "CONTAINER_CACHE_DIR", "SLURM_ACCOUNT", "SLURM_PARTITION"):
        monkeypatch.setenv(variable, "/somewhere")

    now = datetime.now(UTC)  # names with a time are the same in all plans of a test

    def plan(*overrides: str, ref: str = "autoexp", config: str = "", folders: tuple[Path, ...] = ()) -> Manifest:
        if config:
            (tmp_path / "mine.yaml").write_text(f"# @package _global_\n{config}")
            ref = "mine.yaml"
        made = plan_of(Source(ref, folders, overrides), replace(gather([]), now=now))
        return manifests.load(manifests.write(made))

    return plan


def written(manifest: Manifest, job: JobSpec, tmp_path: Path) -> Path:
    """The file that a run without a `config_ref` is made of."""
    request = RunAutoexpAction(class_name="RunAutoexpAction")
    made = launch(request, manifest=manifest, event=make_event(job=job.name), id="i", state_dir=tmp_path / "state")
    return Path(next(word for word in made.words if word.startswith("--config-ref=")).partition("=")[2])


def problem(manifest: Manifest, tmp_path: Path, index: int = 0) -> str:
    with pytest.raises(AutoexpError) as error:
        written(manifest, manifest.jobs[index], tmp_path)
    assert "AUTOEXP_REDACTED" not in str(error.value)
    return str(error.value)


def config_of(job: JobSpec) -> dict[str, Any]:
    """The resolved config that a plan keeps of a job, but for its number."""
    found: dict[str, Any] = json.loads(Path(job.script_path).with_name("config.json").read_text())
    del found["index"]
    return found


def without_conditions_on(others: set[str], config: dict[str, Any]) -> dict[str, Any]:
    """A job's config without the conditions that look at other jobs of its plan."""
    for key in ("start_conditions", "cancel_conditions", "done_conditions"):
        config["job"][key] = [each for each in config["job"][key] if each.get("job_name") not in others]
    return config


def check_same(manifest: Manifest, planned: Planned, tmp_path: Path, numbers: set[int]) -> None:
    for number in sorted(numbers):
        job = manifest.jobs[number]
        (again,) = planned(ref=str(written(manifest, job, tmp_path))).jobs
        others = {other.name for other in manifest.jobs} - {job.name}
        assert config_of(again) == without_conditions_on(others, config_of(job))
        assert (again.argv, again.env, again.output_dir) == (job.argv, job.env, job.output_dir)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_job_of_a_shipped_experiment_is_recorded_as_it_is(name: str, planned: Planned, tmp_path: Path) -> None:
    manifest = planned(ref=name)
    check_same(manifest, planned, tmp_path, {0, len(manifest.jobs) - 1})


BASE = """
backend:
  argv: [train, '${backend.megatron.train_iters}', '\\${x}', '\\${seed}:${stage}']
  options: {lr: 0.1, text: '1e-4', seed: 1, parent: none, same: '${backend.options.lr}'}
  megatron: {train_iters: 5, aux: {a: 1}}
monitoring: {output_paths: ['a.txt', 'b.txt']}
metadata: {note: n, here: '${index}', 'a.b': 1, 'with space': 2}
slurm: {env: {CODE: $(hostname), TEXT: "it's"}}
project: {name: 'run_${index}'}
"""
KINDS = {
    "an argument with a dash": "{backend.megatron.train-iters: 20}",
    "an argument as an option": "{backend.megatron.--train-iters: 20}",
    "a list's item": "{monitoring.output_paths.0: c.txt}",
    "a list's item with a zero": "{monitoring.output_paths.01: c.txt}",
    "an item of words": "{backend.argv.0: '${backend.options.text}'}",
    "a deletion": "{~backend.options.seed: null}",
    "a deletion of a part": "{~backend.megatron.aux.a: null}",
    "a new key": "{+backend.options.new: 1, ++backend.megatron.newer: {deep: [1, 2]}}",
    "a new key where the schema has a default": "{+container.env: {A: b}, +aux: {new: 1}}",
    "a key that only the schema has": "{container.modules: [m], +container.env.A: b}",
    "a mapping": "{backend.options: {lr: 0.5, seed: 2}}",
    "a mapping with an argument": "{backend.megatron: {train-iters: 7}}",
    "an open section": "{slurm.env.NEW: 'x', metadata.mine: {'key.with.dots': 1}}",
    "an interpolation": "{backend.options.lr: '${oc.muli:${backend.megatron.train_iters},2}'}",
    "an interpolation that is none": r"{backend.options.text: '\${backend.options.lr}'}",
    "braces in a place": "{project.log_path: '${project.output_dir}/logs/{{x}}_%j.out'}",
    "braces around a key": "{project.name: 'run_{stage}', stage: s}",
    "texts like other values": "{backend.options.text: 'yes', backend.options.parent: 'null', metadata.note: '010'}",
    "numbers": "{backend.options.lr: 1.10, backend.options.seed: 12e4}",
    "nothing": "{metadata.note: null}",
    "templates in words": r"{backend.argv: [train, '{backend.options.seed}', '${metadata.note}', '{{y}}'], "
    r"metadata.note: '{stage}'}",
    "the job's number in words": "{backend.argv: [train, '${index}{{x}}']}",
    "the job's number": "{backend.options.seed: '${index}', metadata.note: 'of ${index}'}",
    "a text over shell code": "{slurm.env.CODE: plain}",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_sweep_sets_is_in_the_recorded_config(kind: str, planned: Planned, tmp_path: Path) -> None:
    config = f"{BASE}sweep: {{configs: [{{stage: first}}, {KINDS[kind]}]}}\n"
    check_same(planned(config=config), planned, tmp_path, {0, 1})


@pytest.mark.slow
def test_a_group_choice_of_a_sweep_is_in_the_recorded_config(planned: Planned, tmp_path: Path) -> None:
    config = """
sweep:
  configs:
    - {backend: tiny_lm, project.name: a, backend.options.lr: 0.5}
    - {backend: tiny_megatron, project.name: b, backend.megatron.train-iters: 7}
    - {backend: tiny_lm, slurm: local, project.name: c}
"""
    check_same(planned(config=config), planned, tmp_path, {0, 1, 2})


SIBLINGS = """
backend: {argv: [train], options: {seed: 1, parent: none, steps: 4}}
project: {name: '${stage}_${backend.options.seed}'}
metadata: {steps: '${oc.muli:${backend.options.steps},10}'}
job: {start_conditions: [{class_name: FileExistsCondition, path: '${sibling.first.output_dir}/done'}]}
stage: ''
sweep:
  groups:
    - params: {backend.options.seed: [1, 2]}
    - configs:
        - {stage: first}
        - stage: second
          backend.options.parent: '${sibling.first.output_dir}/${sibling.first.metadata.steps}'
          metadata.all: '${sibling.first.backend.options}'
"""


def test_a_sibling_of_the_sweep_is_recorded_by_its_values(planned: Planned, tmp_path: Path) -> None:
    check_same(planned(config=SIBLINGS), planned, tmp_path, {0, 1, 2, 3})


def test_only_what_people_have_written_is_recorded_so_that_plus_can_add_the_rest(
    planned: Planned, tmp_path: Path
) -> None:
    manifest = planned(config=f"{BASE}sweep: {{params: {{backend.options.seed: [3, 4]}}}}\n")
    path = written(manifest, manifest.jobs[1], tmp_path)
    found = yaml.safe_load(path.read_text())
    assert (found["backend"]["options"]["seed"], found["sweep"]) == (4, {})
    assert "modules" not in found["container"]
    assert load(Source(str(path), (), ("+container.modules=[m]",))).base["container"]["modules"] == ["m"]


def test_what_is_interpolated_follows_an_override(planned: Planned, tmp_path: Path) -> None:
    manifest = planned(config=f"{BASE}sweep: {{params: {{backend.options.lr: [0.5, 0.25]}}}}\n")
    (job,) = planned("backend.options.lr=7", ref=str(written(manifest, manifest.jobs[1], tmp_path))).jobs
    assert config_of(job)["backend"]["options"]["same"] == 7


def test_what_holds_a_siblings_place_or_the_jobs_number_still_follows_an_override(
    planned: Planned, tmp_path: Path
) -> None:
    manifest = planned(config=SIBLINGS)
    found = yaml.safe_load(written(manifest, manifest.jobs[3], tmp_path).read_text())
    assert found["project"]["name"] == "${stage}_${backend.options.seed}"
    assert "current_3.log" in found["project"]["log_path_current"]
    assert "${project.output_dir}" in found["project"]["log_path_current"]


def test_a_value_of_a_sweep_that_is_a_secret_comes_from_the_side_file(planned: Planned, tmp_path: Path) -> None:
    config = f"{BASE}sweep: {{configs: [{{slurm.env.HF_TOKEN: pl4nted}}]}}\n"
    manifest = planned(config=config)
    path = written(manifest, manifest.jobs[0], tmp_path)
    assert yaml.safe_load(path.read_text())["slurm"]["env"]["HF_TOKEN"] == "pl4nted"  # noqa: S105
    assert path.stat().st_mode & 0o077 == 0
    side_file(manifest).unlink()
    assert "$.slurm.env.HF_TOKEN: its value is a secret" in problem(manifest, tmp_path)


def test_a_record_that_is_cut_is_reported(planned: Planned, tmp_path: Path) -> None:
    manifest = planned("project=default")
    file = record_file(manifest, manifest.jobs[0], "config_unresolved.yaml")
    for text in ("[", "[]", ""):
        file.write_text(text)
        assert problem(manifest, tmp_path).startswith(f"{file}: is incomplete, or not a file of oellm-autoexp")


def test_a_text_that_a_file_would_make_shell_code_is_refused(planned: Planned, tmp_path: Path) -> None:
    manifest = planned(config=f"{BASE}sweep: {{configs: [{{slurm.env.TEXT: $(hostname)}}]}}\n")
    assert "$.slurm.env.TEXT: " in problem(manifest, tmp_path)
