"""Jobs that would write into one place are refused while planning, unless one goes on from the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.config.loader import Source
from oellm_autoexp.core.errors import SweepError
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.testing.plans import plan_of

MEGATRON = ("backend=megatron", "backend/megatron=130M", "slurm=local")
SHARED = "${project.base_output_dir}/ck"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))


def planned(sweep: dict[str, Any], *overrides: str) -> Plan:
    config = {"project": {"name": "${stage}job${index}"}, "stage": "", "sweep": sweep}
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    return plan_of(Source("mine.yaml", (), overrides))


def refusal(sweep: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(SweepError) as error:
        planned(sweep, *overrides)
    return str(error.value)


LR = {"params": {"backend.megatron.lr": [1e-3, 1e-4]}}


@pytest.mark.parametrize("dest", ["save", "tensorboard_dir", "wandb_save_dir"])
def test_jobs_of_a_sweep_with_one_folder_to_write_to_are_refused_with_what_to_write(dest: str) -> None:
    text = refusal(LR, *MEGATRON, f"backend.megatron.{dest}='{SHARED}'")
    assert "2 jobs would write to the same place" in text
    assert "/out/ck': jobs 0, 1" in text
    assert f"backend.megatron.{dest}" in text
    assert "write ${project.output_dir}/" in text


def test_words_of_ones_own_and_the_folders_of_other_programs_count_too() -> None:
    text = refusal(LR, *MEGATRON, "backend.extra_args=[--save,ck]")
    assert "the same place" in text
    assert "$.backend.extra_args (override backend.extra_args=[--save,ck])" in text
    options = {"params": {"backend.options.lr": [0.1, 0.2]}}
    assert "the same place" in refusal(options, "backend=tiny_lm", f"backend.options.save='{SHARED}'")


def test_a_folder_that_is_read_by_all_and_written_by_none_is_no_mistake() -> None:
    assert planned(LR, *MEGATRON, f"backend.megatron.load='{SHARED}'", "backend.megatron.data_cache_path=/cache")
    assert planned(LR, *MEGATRON)


def test_a_stage_that_goes_on_from_another_in_its_folder_is_fine_and_two_of_them_are_not() -> None:
    stable = {"stage": "stable"}
    decay = {"stage": "decay", "metadata.from": "${sibling.stable.output_dir}"}
    save = f"backend.megatron.save='{SHARED}'"
    assert len(planned({"configs": [stable, decay]}, *MEGATRON, save).manifest.jobs) == 2
    both = {"configs": [stable, {"configs": [{**decay, "backend.megatron.lr": lr} for lr in (1e-3, 1e-4)]}]}
    assert "the same place" in refusal(both, *MEGATRON, save)


A = {"class_name": "SlurmStateCondition", "job_name": "${sibling.stable.name}"}


@pytest.mark.parametrize(
    ("conditions", "fine"),
    [
        ([A | {"state": "COMPLETED"}], True),
        ([A | {"state": ["success", "FAILED"]}], True),
        ([A | {"state": "RUNNING"}], False),
        ([A | {"state": ["RUNNING", "COMPLETED"]}], False),
        ([A | {"state": "RUNNING"}, A | {"state": "COMPLETED"}], True),
        ([{"class_name": "ElapsedTimeCondition", "seconds": 5}], False),
        (
            [{"class_name": "ElapsedTimeCondition", "seconds": 5}, {"class_name": "FileExistsCondition", "path": "x"}],
            True,
        ),
        ([{"class_name": "CommandCondition", "command": "true"}], True),
    ],
)
def test_only_who_waits_for_an_end_goes_on_in_the_same_place(conditions: list[dict[str, Any]], fine: bool) -> None:
    decay = {"stage": "decay", "metadata.from": "${sibling.stable.output_dir}", "job.start_conditions": conditions}
    sweep = {"configs": [{"stage": "stable"}, decay]}
    save = f"backend.megatron.save='{SHARED}'"
    if fine:
        assert len(planned(sweep, *MEGATRON, save).manifest.jobs) == 2
    else:
        assert "the same place" in refusal(sweep, *MEGATRON, save)
