"""Other versions of Megatron-LM: their tables, arguments that they lack, and a checkout that is of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.backends.megatron.arguments import VERSION, Arguments
from oellm_autoexp.backends.megatron.versions import VERSIONS, fitting
from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import BackendError
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.programs import of_other_versions
from oellm_autoexp.testing.plans import plan_of


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(*overrides: str) -> Plan:
    made = load(Source(overrides=("backend=megatron", "backend/megatron=300M", "slurm=local", *overrides)))
    return plan_of(made)


@pytest.mark.parametrize(
    "spelled", ["core_v0.14.0", "v0.14.0", "0.14", "core_r0.14.0", "megatron-core-0.14.0", "core_v0_14"]
)
def test_a_version_in_the_spelling_of_a_tag_or_a_package_is_known(spelled: str) -> None:
    plan = planned(f"backend.version={spelled!r}", "project.name=x")
    assert {*plan.versions.values()} == {"core_v0_14_0"}


def test_a_version_without_a_table_is_reported_as_it_is_called(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no table of Megatron's arguments for 'mine'"):
        planned("backend.version=mine")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_shipped_model_plans_for_every_version_with_words_that_it_knows(version: str) -> None:
    plan = planned(f"backend.version={version}", "project.name=x")
    flags = {flag for argument in Arguments.of(version).dests.values() for flag in (*argument.flags, *argument.off)}
    given = {word.partition("=")[0] for word in plan.manifest.jobs[0].argv if word.startswith("--")}
    assert given <= flags
    assert "--norm-epsilon" in given  # whose dest is another one before 0.16


@pytest.mark.parametrize(
    ("values", "left", "noted"),
    [
        ({"lr": 1, "moe_use_legacy_grouped_gemm": None}, {"lr": 1}, "moe_use_legacy_grouped_gemm"),
        ({"moe_use_legacy_grouped_gemm": False}, {}, "has no such argument; it is left out: core_v0_"),
        ({"norm_epsilon": 1e-6}, {"layernorm_epsilon": 1e-6}, ""),
        ({"train_itres": None}, {"train_itres": None}, ""),
    ],
)
def test_an_argument_of_another_version_is_renamed_or_left_out_where_that_changes_nothing(
    values: dict[str, Any], left: dict[str, Any], noted: str
) -> None:
    found = fitting(VERSION, values)
    assert (found.values, found.problems) == (left, [])
    assert [noted in note.text for note in found.notes] == ([True] if noted else [])


@pytest.mark.parametrize(
    ("version", "given", "message"),
    [
        ("0.19", "encoder_pipeline_model_parallel_size: 3", "core_v0_12_0 and core_v0_13_0 have it"),
        ("0.14", "use_custom_fsdp: true", "core_v0_12_0 and core_v0_13_0 have it"),
        ("0.12", "use_megatron_fsdp: true", "core_v0_14_0 to core_v0_19_0 have it"),
        ("0.14", "norm_epsilon: 1e-6", "layernorm_epsilon is norm_epsilon in another spelling"),
    ],
)
def test_an_argument_of_other_versions_is_refused_with_these_and_what_chooses_them(
    version: str, given: str, message: str
) -> None:
    key, _, value = given.partition(": ")
    with pytest.raises(BackendError) as error:
        planned(f"backend.version={version!r}", f"++backend.megatron.{key}={value}", "project.name=x")
    assert message in str(error.value)
    assert "set backend.version to" in str(error.value) or "set layernorm_epsilon to null" in str(error.value)
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("values", [{"layernorm_epsilon": 1, "norm_epsilon": None}, {"layernorm_epsilon": 1}])
def test_null_beside_the_other_name_changes_nothing(values: dict[str, Any]) -> None:
    assert fitting("core_v0_14_0", values).values == {"norm_epsilon": 1}


def test_an_argument_of_no_version_is_refused_whatever_its_value() -> None:
    with pytest.raises(BackendError, match="no argument 'train_itres'"):
        planned("++backend.megatron.train_itres=null", "project.name=x")


@pytest.mark.parametrize(
    ("minor", "message"), [("19", ""), ("18", "set backend.version=core_v0_18_0"), ("30", "make its table")]
)
def test_a_checkout_of_another_version_is_reported(tmp_path: Path, minor: str, message: str) -> None:
    info = tmp_path / "megatron/core/package_info.py"
    info.parent.mkdir(parents=True)
    info.write_text(f"MAJOR = 0\nMINOR = {minor}\nPATCH = 2\n")
    plan = planned(f"backend.script={tmp_path}/pretrain_gpt.py", "project.name=x")
    notes = of_other_versions(plan.versions)
    assert [message in note for note in notes] == ([True] if message else [])
