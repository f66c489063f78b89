"""A job planned again from its plan's record: the same where nothing is overridden, else with all that follows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import AutoexpError, CorruptError, StateError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.redaction import redact
from oellm_autoexp.planning import manifest as manifests
from oellm_autoexp.planning.make_plan import make_plan
from oellm_autoexp.planning.manifest import PLAN_LINK
from oellm_autoexp.planning.record.side_file import record_file, side_file
from oellm_autoexp.planning.replan import replan
from oellm_autoexp.planning.resolving.provenance import gather
from oellm_autoexp.storage.files import shipped
from oellm_autoexp.testing.plans import plan_of

EXPERIMENTS = sorted(
    str(path.relative_to(shipped("config")).with_suffix("")) for path in shipped("config/experiments").rglob("*.yaml")
)
TEMPLATE = "#!/bin/bash\n{{directives}}\n# mine\n{{env}}\ncd {{work_dir}}\n{{command}}\n"

Planned = Callable[..., Manifest]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Makes a plan and writes it; `config` is an experiment of the test's own, merged into the root config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))

    def plan(*overrides: str, ref: str = "autoexp", config: str = "", subset: frozenset[int] | None = None) -> Manifest:
        if config:
            (tmp_path / "mine.yaml").write_text(config)
            ref = "mine.yaml"
        made = plan_of(Source(ref, (), overrides), subset=subset)
        return manifests.load(manifests.write(made))

    return plan


def scripts(manifest: Manifest) -> list[str]:
    return [Path(job.script_path).read_text() for job in manifest.jobs]


def again(manifest: Manifest, index: int = 0, **overrides: Any) -> str:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    return replan(manifest, manifest.jobs[index], named).script


def problems(manifest: Manifest, overrides: dict[str, Any], index: int = 0) -> str:
    with pytest.raises(AutoexpError) as error:
        replan(manifest, manifest.jobs[index], overrides)
    assert "AUTOEXP_REDACTED" not in str(error.value)
    return f"{type(error.value).__name__}: {error.value}"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_without_overrides_every_shipped_experiment_gives_the_same_scripts(
    name: str, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DATA_DIR", "PROJECT_DIR", "HF_HOME", "CONTAINER_CACHE_DIR", "SLURM_ACCOUNT", "SLURM_PARTITION"):
        monkeypatch.setenv(variable, "/somewhere")
    manifest = planned(ref=name)
    monkeypatch.setattr("oellm_autoexp.config.loader.load", None)  # no config of today is composed
    for number in {0, len(manifest.jobs) // 2, len(manifest.jobs) - 1}:
        job = manifest.jobs[number]
        found = replan(manifest, job, {})
        assert found.script == Path(job.script_path).read_text()
        assert (found.resources, found.argv) == (job.resources, job.argv)


SWEEP = """
defaults: [override /backend: tiny_lm]
project: {name: 'run_${stage}_${backend.options.seed}'}
metadata: {steps: '${oc.muli:${backend.options.batch_size},10}'}
stage: ''
slurm:
  env: {HOST: '${oc.env:SOME_HOST,none}', WHEN: '${oc.timestring:%Y-%m-%dT%H:%M:%S.%f}'}
  sbatch: {time: '00:10:00', nodes: 2}
  sbatch_extra_directives: ["--mem=5"]
backend:
  options: {batch_size: 4, train_iters: '${metadata.steps}', seed: 1, parent: ''}
sweep:
  groups:
    - params: {backend.options.seed: [1, 2, 3]}
    - configs:
        - {stage: first}
        - {stage: second, backend.options.parent: '${sibling.first.output_dir}/${sibling.first.metadata.steps}'}
  filter: backend.options.seed != 2
"""


def test_options_stay_spelled_as_their_plan_spelled_them(planned: Planned) -> None:
    config = "backend: {argv: [train], options: {batch_size: 4, lr: 1}}\nsweep: {}\nproject: {name: x}\n"
    manifest = planned(config=config)
    assert "--batch_size 4" in again(manifest, backend__options__lr=2)
    for name in ("config_unresolved.yaml", "planning.yaml"):  # as a plan of before there was a choice has them
        file = record_file(manifest, manifest.jobs[0], name)
        text = file.read_text()
        file.write_text(re.sub(r"\n *option_style: as_written", "", text))
        assert "option_style" not in file.read_text()
    assert "--batch-size 4" in again(manifest, backend__options__lr=2)


def test_the_record_of_a_plan_of_an_earlier_version_lies_beside_each_script(planned: Planned) -> None:
    manifest = planned(config=SWEEP)
    shared = side_file(manifest).parent
    for job in manifest.jobs:
        for file in shared.iterdir():
            os.link(file, Path(job.script_path).with_name(file.name), follow_symlinks=False)
        Path(job.script_path).with_name(PLAN_LINK).unlink()
    for file in shared.iterdir():
        file.unlink()
    assert again(manifest, backend__options__seed=7) == scripts(manifest)[0].replace("--seed 1", "--seed 7")


def argument(text: str, option: str) -> str:
    found = re.search(rf"--{option}[ =](\S+)", text)
    assert found, text
    return found[1]


def test_a_job_of_a_sweep_keeps_its_place_its_siblings_and_its_environment(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SOME_HOST", "then")
    manifest = planned(config=SWEEP)
    monkeypatch.setenv("SOME_HOST", "now")
    (tmp_path / "mine.yaml").unlink()
    assert len(manifest.jobs) == 4
    assert [again(manifest, index) for index in range(4)] == scripts(manifest)
    second = manifest.jobs[3]
    assert (second.stage, second.parameters["backend.options.seed"]) == ("second", 3)
    text = again(manifest, 3, backend__options__batch_size=7)
    assert (argument(text, "batch-size"), argument(text, "train-iters")) == ("7", "70")
    assert argument(text, "parent") == f"{manifest.jobs[2].output_dir}/40", "the sibling is as it was"
    assert "export HOST=then\n" in text
    assert scripts(manifest)[3].replace("--batch-size 4", "--batch-size 7").replace("iters 40", "iters 70") == text


def test_resources_and_words_are_those_of_the_new_attempt(planned: Planned) -> None:
    manifest = planned(config=SWEEP)
    found = replan(
        manifest,
        manifest.jobs[0],
        {
            "slurm.sbatch.time": "02:00:00",
            "slurm.sbatch.nodes": 3,
            "slurm.sbatch.gpus_per_node": 4,
            "+backend.options.x": 1,
        },
    )
    assert (found.resources.nodes, found.resources.gpus, found.resources.time_limit_seconds) == (3, 12, 7200)
    assert found.argv[-2:] == ("--x", "1")
    assert "#SBATCH --time=02:00:00\n" in found.script


def test_an_override_wins_over_all_that_the_sweep_says_of_it(planned: Planned) -> None:
    config = SWEEP.replace("{stage: first}", "{stage: first, backend.options: {batch_size: 6}}").replace(
        "sweep:\n", "sweep:\n  defaults: {backend.options.batch_size: 5}\n", 1
    )
    manifest = planned(config=config)
    assert argument(scripts(manifest)[0], "batch-size") == "6"
    assert argument(again(manifest, backend__options__batch_size=9), "train-iters") == "90"


def test_an_override_may_compute(planned: Planned) -> None:
    manifest = planned(config=SWEEP)
    overrides = {"backend.options.batch_size": "${oc.eval:${backend.options.seed} * 3 + 1}"}
    assert argument(replan(manifest, manifest.jobs[2], overrides).script, "train-iters") == "100"


def test_a_part_of_a_plan_keeps_its_indices_and_siblings_outside_of_it(planned: Planned) -> None:
    manifest = planned(config=SWEEP, subset=frozenset({3}))
    assert [again(manifest)] == scripts(manifest)


def test_group_choices_of_the_sweep_are_recorded(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    config = """
sweep:
  configs: [{backend: tiny_lm, project.name: a}, {backend: tiny_megatron, project.name: b}]
"""
    manifest = planned(config=config)
    monkeypatch.setattr("oellm_autoexp.config.loader.load", None)
    assert [again(manifest, index) for index in range(2)] == scripts(manifest)
    other = replan(manifest, manifest.jobs[0], {"backend": "tiny_megatron"})
    assert [word.replace("/a/", "/b/") for word in other.argv] == list(manifest.jobs[1].argv)
    assert "recorded: backend=tiny_lm; backend=tiny_megatron" in problems(manifest, {"backend": "command"})


def test_a_template_is_as_it_was(planned: Planned, tmp_path: Path) -> None:
    template = tmp_path / "mine.sbatch"
    template.write_text(TEMPLATE)
    manifest = planned("project=default", f"slurm.template_path={template}")
    template.write_text(TEMPLATE.replace("mine", "another"))
    assert "# mine\n" in again(manifest) == scripts(manifest)[0]
    assert "not in the plan's record" in problems(manifest, {"slurm.template_path": str(tmp_path / "other")})


def test_a_template_with_a_secret_is_in_the_side_file_alone(planned: Planned, tmp_path: Path) -> None:
    template = tmp_path / "mine.sbatch"
    template.write_text(TEMPLATE.replace("mine", "hf_abcdefghijklmnopqrst"))
    manifest = planned("project=default", f"slurm.template_path={template}")
    assert again(manifest) == scripts(manifest)[0]
    assert "hf_abc" not in record_file(manifest, manifest.jobs[0], "planning.yaml").read_text()
    side_file(manifest).unlink()
    assert problems(manifest, {}).startswith("ConfigError: $.slurm.template_path: ")


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"backend.options.batch_sise": 1}, "did you mean 'backend.options.batch_size'?"),
        ({"project.name": "x"}, "must have the same project.name"),
        ({"project.output_dir": "/x"}, "must have the same project.output_dir"),
        ({"project.log_path": "x.log"}, "must have the same project.log_path"),
        ({"stage": "other"}, "must have the same stage, 'first'"),
        ({"index": 3}, "index: a job keeps its index"),
        ({"scheduler": {"max_jobs": 1}}, "scheduler.max_jobs: this value must be the same for all jobs"),
        (
            {"slurm.client.class_name": "SlurmClient"},
            "slurm.client.class_name: this value must be the same for all jobs",
        ),
        ({"slurm": {"array": True}}, "slurm.array: this value must be the same for all jobs"),
        ({"sweep.filter": "1"}, "the sweep belongs to the whole plan"),
        ({"slurm.sbatch.output": "x"}, "'output' is set by the program"),
        ({"slurm.env.HF_TOKEN": "***"}, "slurm.env.HF_TOKEN: *** is shown in place of a secret"),
        ({"slurm.launcher_cmd": {}}, "$.slurm.launcher_cmd"),
    ],
)
def test_wrong_overrides_are_reported(overrides: dict[str, Any], expected: str, planned: Planned) -> None:
    message = problems(planned(config=SWEEP), overrides)
    assert message.startswith("ConfigError: ")
    assert expected in message


def test_a_value_in_the_name_can_be_overridden_if_the_name_is_kept(planned: Planned) -> None:
    manifest = planned(config=SWEEP)
    text = replan(manifest, manifest.jobs[0], {"backend.options.seed": 9, "project.name": "run_first_1"}).script
    assert scripts(manifest)[0].replace("--seed 1", "--seed 9") == text != scripts(manifest)[0]


@pytest.mark.parametrize("name", ["config_unresolved.yaml", "planning.yaml", "environment.json", "job.sbatch"])
def test_a_record_that_is_gone_or_cut_is_reported(name: str, planned: Planned) -> None:
    manifest = planned(config=SWEEP)
    script = Path(manifest.jobs[0].script_path)
    file = script if name == script.name else record_file(manifest, manifest.jobs[0], name)
    if name != "job.sbatch":
        file.write_text(file.read_text()[:1])
        with pytest.raises(CorruptError, match=re.escape(str(file))):
            again(manifest)
    file.unlink()
    with pytest.raises(StateError, match=re.escape(str(file))):
        again(manifest)


def test_a_record_of_another_version_or_of_other_jobs_is_refused(planned: Planned) -> None:
    manifest = planned(config=SWEEP)
    job = manifest.jobs[0].model_copy(update={"index": 2})
    with pytest.raises(StateError, match=r"another project\.name"):
        replan(manifest, job, {})
    file = record_file(manifest, job, "planning.yaml")
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "version": 99}))
    with pytest.raises(CorruptError, match="another version"):
        replan(manifest, job, {})


# ---------------------------------------------------------------------------------------------------------------------
# Secrets

SECRETS = """
defaults: [override /backend: tiny_lm]
project: {name: one}
metadata: {token: 'not asked for'}
slurm:
  env:
    HF_TOKEN: "it's secret\\nexport A_TOKEN=trap"
    A_TOKEN: 'x$HOME y'
    PROXY: 'http://me:word@host/${backend.options.seed}'
    B_TOKEN: '${oc.env:B_TOKEN}'
    C_TOKEN: '${oc.env:C_TOKEN}'
backend: {options: {seed: 1}}
"""


@pytest.fixture
def secretive(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setenv("B_TOKEN", "bee then")
    monkeypatch.setenv("C_TOKEN", "sea then")
    return planned(config=SECRETS)


def test_secrets_are_taken_from_the_script_and_the_environment(
    secretive: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (script,) = scripts(secretive)
    folder = Path(secretive.jobs[0].script_path).parent
    for file in (*folder.glob("*.json"), *(folder / PLAN_LINK).glob("*.*")):
        recorded = "" if file.name == side_file(secretive).name else file.read_text()
        assert not any(word in recorded for word in ("it's secret", "me:word", "bee then", "sea then")), file
    assert again(secretive) == script
    monkeypatch.setenv("B_TOKEN", "bee now")
    monkeypatch.delenv("C_TOKEN")
    text = again(secretive, slurm__sbatch__time=5)
    assert text == script.replace("bee then", "bee now").replace("--time=01:00:00", "--time=5")


def test_an_exported_secret_can_be_overridden(secretive: Manifest) -> None:
    text = replan(secretive, secretive.jobs[0], {"slurm.env.HF_TOKEN": "new", "slurm.env.PROXY": "none"}).script
    assert "export HF_TOKEN=new\n" in text
    assert "export PROXY=none\n" in text
    assert "export A_TOKEN=x\"$HOME\"' y'\n" in text


def test_secrets_that_the_script_does_not_show_come_from_the_side_file(secretive: Manifest) -> None:
    text = again(secretive, backend__options__seed=2)
    assert "http://me:word@host/2" in text
    assert side_file(secretive).stat().st_mode & 0o777 == 0o600


def test_an_exported_secret_that_an_override_would_change_is_refused(secretive: Manifest) -> None:
    side_file(secretive).unlink()  # as of plans that an earlier version made
    message = problems(secretive, {"backend.options.seed": 2})
    assert message.startswith("ConfigError: $.slurm.env.PROXY: its value is a secret")
    assert message.count("secret,") == 1


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("backend: {options: {api_key: abc}}", "$.backend.options.api_key"),
        ("backend: {options: {note: '${metadata.token}'}}", "$.metadata.token"),
        ("slurm: {sbatch: {wckey: hf_abcdefghijklmnopqrst}}", "$.slurm.sbatch.wckey"),
        ("backend: {options: {seed: '${oc.int:${metadata.token}}'}}", "$.metadata.token"),
    ],
)
def test_a_secret_that_the_script_does_not_export_is_refused_by_its_key(
    line: str, named: str, planned: Planned
) -> None:
    config = f"defaults: [override /backend: tiny_lm]\nproject: {{name: one}}\nmetadata: {{token: '17'}}\n{line}\n"
    manifest = planned(config=config)
    assert [again(manifest)] == scripts(manifest)
    side_file(manifest).unlink()
    assert problems(manifest, {}).startswith(f"ConfigError: {named}: its value is a secret")
    own = {named.removeprefix("$."): "3"}
    assert "***" not in replan(manifest, manifest.jobs[0], own).script


def test_a_secret_variable_that_is_not_set_any_more_is_named(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B_TOKEN", "x")
    manifest = planned("backend=tiny_lm", "project.name=one", "+backend.options.note=${oc.env:B_TOKEN}")
    assert [again(manifest)] == scripts(manifest)
    monkeypatch.delenv("B_TOKEN")
    assert "the environment variable B_TOKEN: its value is a secret" in problems(manifest, {})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("${oc.env:HF_TOKEN}", True),
        ("${slurm.env.HF_TOKEN}", True),
        ("${oc.muli:${a.b},${c},1024}", True),
        ("${oc.eval:'int(50e9 / ${b})'}", True),
        ("${oc.env:HF_TOKEN,abc}", False),
        ("${a}abc", False),
        ("abc", False),
        ("${oc.concat:abc,${b}}", False),
        ("${oc.eval:'abc'}", False),
        ("${oc.env:hf_abcdefghijklmnopqrst}", False),
    ],
)
def test_a_reference_hides_nothing_by_itself(text: str, kept: bool) -> None:
    assert (redact({"token": text})["token"] == text) is kept


def test_the_record_is_shared_by_all_jobs_and_readable_by_the_owner_alone(planned: Planned) -> None:
    manifest = planned(config=SWEEP)
    files = [Path(job.script_path).with_name(PLAN_LINK) / "planning.yaml" for job in manifest.jobs]
    assert len({file.stat().st_ino for file in files}) == 1
    assert files[0].stat().st_mode & 0o077 == 0
    assert yaml.safe_load(files[0].read_text())["choices"] == []


def test_a_plan_made_in_an_image_keeps_the_images_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    around = replace(gather([]), python="/usr/bin/python3", image={"path": "/i.sif", "shipped": "/opt/oellm-autoexp"})
    made = make_plan(
        load(Source("autoexp", (), ("project=default",))),
        around,
        read_template=lambda _: shipped("oellm_autoexp/sbatch/job.sbatch.template").read_text(),
    )
    manifest = manifests.load(manifests.write(made))
    assert manifest.provenance["image"]["path"] == "/i.sif"
    script = again(manifest, backend__options__lr=0.5)
    assert "/usr/bin/python3 /opt/oellm-autoexp/examples/tiny_lm/train.py --lr 0.5" in script
