"""Arguments of Megatron-LM in the spelling of their flags, in files, overrides and sweeps: the last one counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.values.argument_names import respelled, spelled
from oellm_autoexp.core.errors import BackendError, ConfigError
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.testing.plans import plan_of

HEAD = "# @package _global_\ndefaults:\n  - override /backend: megatron\n"


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        ("backend.megatron.train-iters", "backend.megatron.train_iters"),
        ("++backend.megatron.--train-iters", "++backend.megatron.train_iters"),
        ("~backend.megatron.train-iters", "~backend.megatron.train_iters"),
        ("backend.megatron.aux.my-key", "backend.megatron.aux.my-key"),
        ("slurm.env.A-B", "slurm.env.A-B"),
        ("backend.env.A-B", "backend.env.A-B"),
    ],
)
def test_only_keys_of_arguments_have_other_spellings(key: str, kept: str) -> None:
    assert spelled(key) == kept


def test_a_tree_is_kept_by_dests_wherever_it_is_laid() -> None:
    inside = {"train-iters": 5, "aux": {"a-b": 1}, 3: 4}
    kept = {"train_iters": 5, "aux": {"a-b": 1}, 3: 4}
    assert respelled(inside, "backend.megatron") == kept
    assert respelled({"megatron": inside, "a-b": inside}, "backend") == {"megatron": kept, "a-b": inside}
    assert respelled({"backend": {"megatron": inside}}) == {"backend": {"megatron": kept}}
    assert respelled({"backend.megatron.train-iters": 5}) == {"backend.megatron.train_iters": 5}
    assert respelled({"train-iters": 5}, "backend.torchtitan") == {"train-iters": 5}


def planned(folder: Path, text: str, *overrides: str) -> Plan:
    (folder / "mine.yaml").write_text(HEAD + text)
    composed = load(Source("mine", (folder,), overrides))
    return plan_of(composed)


def words(plan: Plan, flag: str) -> list[str]:
    return [job.argv[job.argv.index(flag) + 1] for job in plan.manifest.jobs]


def test_a_flag_in_a_file_counts_over_what_is_under_it(tmp_path: Path) -> None:
    plan = planned(tmp_path, "backend: {megatron: {train-iters: 777, --lr-warmup-iters: 7}}\n")
    assert words(plan, "--train-iters") == ["777"]
    assert words(plan, "--lr-warmup-iters") == ["7"]


def test_the_last_of_file_override_and_sweep_counts_however_it_is_spelled(tmp_path: Path) -> None:
    text = "backend: {megatron: {train-iters: 777}}\n"
    for override in ("backend.megatron.train_iters=888", "backend.megatron.train-iters=888"):
        assert words(planned(tmp_path, text, override), "--train-iters") == ["888"]
    sweep = "sweep: {params: {backend.megatron.train-iters: [800, 900], backend.megatron: [{lr-warmup-iters: 9}]}}\n"
    text += "project: {name: 'r${backend.megatron.train_iters}'}\n"
    for override in ("backend.megatron.train_iters=888", "backend.megatron.train-iters=888"):
        plan = planned(tmp_path, text + sweep, override)
        assert words(plan, "--train-iters") == ["800", "900"]
        assert words(plan, "--lr-warmup-iters") == ["9", "9"]


def test_a_flag_that_is_not_its_dest_in_hyphens_is_refused_with_the_dest(tmp_path: Path) -> None:
    with pytest.raises(
        BackendError, match="is layernorm_epsilon in another spelling\n    write layernorm_epsilon alone"
    ):
        planned(tmp_path, "backend: {megatron: {norm-epsilon: 1e-6}}\n")


def test_two_spellings_side_by_side_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="in another spelling"):
        planned(tmp_path, "backend: {megatron: {train-iters: 777, train_iters: 7}}\n")


def test_a_wrong_value_is_reported_at_the_line_of_its_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine.yaml:6 \(\$.backend.megatron.train_iters\)"):
        planned(tmp_path, "backend:\n  megatron:\n    train-iters: many\n")
