"""Megatron's arguments as words, without Megatron: what is left out, what is refused, and what the message says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.backends.megatron.generated.core_v0_19_0 import MegatronConfig
from oellm_autoexp.core.errors import BackendError
from oellm_autoexp.core.location import CONFIG

TABLE = Arguments.of()


def refusal(values: dict[Any, Any]) -> str:
    with pytest.raises(BackendError) as caught:
        TABLE.argv(values)
    return str(caught.value)


def test_what_is_set_is_written_also_where_it_is_the_default() -> None:
    values = {"lr_decay_style": "linear", "train_iters": 10, "bf16": False, "add_bias_linear": True, "lr": None}
    assert TABLE.argv(values) == ["--train-iters", "10", "--lr-decay-style", "linear"]


def test_of_values_for_all_arguments_only_what_differs_from_the_defaults_is_written() -> None:
    values = dataclasses.asdict(MegatronConfig())
    assert list(values) == list(TABLE.dests)
    assert TABLE.argv(values) == []
    assert TABLE.argv({**values, "train_iters": 10, "lr_decay_style": "linear"}) == ["--train-iters", "10"]
    assert TABLE.argv(dataclasses.asdict(MegatronConfig(cp_comm_type=("a2a",)))) == ["--cp-comm-type", "a2a"]


def test_the_order_is_the_parsers_whatever_that_of_the_values() -> None:
    values = {"lr": 0.1, "seed": 3, "num_layers": 2, "bf16": True}
    assert TABLE.argv(values) == TABLE.argv(dict(reversed(values.items())))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"add_bias_linear": False}, ["--disable-bias-linear"]),
        ({"masked_softmax_fusion": False}, ["--no-masked-softmax-fusion"]),
        ({"layernorm_epsilon": 1e-6}, ["--norm-epsilon", "1e-06"]),
        ({"no_save_optim": True}, ["--no-save-optim"]),
        ({"rl_partial_rollouts": True}, ["--rl-partial-rollouts"]),
        ({"yarn_correction_range_round_to_int": False}, ["--no-yarn-correction-range-round-to-int"]),
        ({"onnx_safe": True}, ["--onnx-safe", "True"]),
        ({"train_iters": 18000.0}, ["--train-iters", "18000"]),
        ({"train_iters": "1e5"}, ["--train-iters", "100000"]),
        ({"lr": "1e-4"}, ["--lr", "0.0001"]),
        ({"wandb_exp_name": "-x"}, ["--wandb-exp-name=-x"]),
        ({"seed": -1}, ["--seed=-1"]),
        ({"moe_aux_loss_coeff": [-1e-5, 1]}, ["--moe-aux-loss-coeff", "-0.00001", "1.0"]),
        ({"moe_aux_loss_coeff": [0.0]}, ["--moe-aux-loss-coeff", "0.0"]),  # the default is no list
        ({"data_path": []}, []),
        ({"data_path": [0.3, "/a b"]}, ["--data-path", "0.3", "/a b"]),
        ({"window_size": [128, 0]}, ["--window-size", "128,0"]),
        ({"--train-iters": 5, "micro-batch-size": 2}, ["--micro-batch-size", "2", "--train-iters", "5"]),
        ({"train_iters": None, "train-iters": 5}, ["--train-iters", "5"]),
        ({"fp8-format": "hybrid"}, ["--fp8-format", "hybrid"]),
        ({"override_opt_param_scheduler": True}, ["--override-opt-param-scheduler"]),
        ({"yaml_cfg": None}, []),
    ],
)
def test_values_become_words(values: dict[str, Any], words: list[str]) -> None:
    assert TABLE.argv(values) == words


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"trian_iters": 1},
            "megatron.trian_iters: Megatron has no argument 'trian_iters'\n    did you mean 'train_iters'",
        ),
        ({"learning_rate": 1}, "did you mean 'lr'?"),
        ({1: 1}, "Megatron has no argument '1'"),
        ({"norm_epsilon": 1}, "write layernorm_epsilon, whose flag is --norm-epsilon"),
        ({"disable-bias-linear": True}, "write add_bias_linear: false"),
        ({"disable-bias-linear": False}, "write add_bias_linear: true"),
        ({"no_bias_gelu_fusion": False}, "write bias_gelu_fusion: true"),
        ({"no_add_bias_linear": True}, "write add_bias_linear: false"),
        ({"no_swiglu": True}, "write swiglu: false"),
        ({"load_optim": False}, "write no_load_optim: true"),
        ({"no_hidden_size": 3}, "'hidden_size'"),
        ({"train_iters": 1, "train-iters": 1}, "$.backend.megatron.train-iters: train-iters is train_iters in another"),
        ({"lr_decay_style": "wsd"}, "unknown value 'wsd'\n    did you mean 'WSD'?"),
        ({"exit_signal": "TERM"}, "did you mean 'SIGTERM'?"),
        ({"attention_backend": "flashattn"}, "did you mean 'flash'"),
        ({"fp8": False}, "one of: e4m3, hybrid"),
        ({"flash_attention_version": 5}, "unknown value 5\n    known: 2, 3, 4"),
        ({"yaml_cfg": "x.yaml"}, "skips its own validation"),
        ({"train_iters": 1.5}, "must be a whole number, not 1.5"),
        ({"train_iters": True}, "must be a whole number, not true"),
        ({"train_iters": "1e999999999"}, "must be a whole number"),
        ({"train_iters": float("inf")}, "must be a whole number"),
        ({"lr": "fast"}, "must be a number, not 'fast'"),
        ({"lr": float("nan")}, "must be a number, not nan"),
        ({"save": True}, "must be text, not true\n    if it is meant as text, write it in quotes"),
        ({"save": {"a": 1}}, "must be text, not a mapping\n    write JSON as text, in quotes"),
        ({"save": ["a"]}, "must be text, not a list"),
        ({"save": "a\0b"}, "NUL"),
        ({"save": "--"}, "argparse drops"),
        ({"bf16": "true"}, "must be true or false, not 'true'\n    write true without quotes"),
        ({"bf16": 1}, "must be true or false, not 1"),
        ({"rampup_batch_size": [1, 2]}, "must be a list of 3 values, not of 2"),
        ({"rampup_batch_size": 16}, "must be a list of 3 values, not of 1"),
        ({"profile_ranks": [1, None]}, "$.backend.megatron.profile_ranks[1]: must be a whole number, not null"),
        ({"data_path": ["a", "-b"]}, "$.backend.megatron.data_path[1]: a list's item cannot begin with '-'"),
        ({"moe_layer_freq": "[0]*2 or 1"}, "must be a whole number or a pattern"),
        ({"moe_layer_freq": "([0]*2"}, "must be a whole number or a pattern"),
        ({"window_size": "a,b"}, "must be whole numbers with commas"),
    ],
)
def test_refusals_say_where_and_what_would_be_right(values: dict[Any, Any], message: str) -> None:
    assert message in refusal(values)


def test_all_mistakes_are_reported_in_one_go() -> None:
    with pytest.raises(BackendError) as caught:
        TABLE.argv({"lrr": 1, "train_iters": 1.5, "bf16": 1, "lr": 0.1}, where=CONFIG / "x")
    assert [str(problem.where) for problem in caught.value.problems] == ["$.x.lrr", "$.x.train_iters", "$.x.bf16"]


@pytest.mark.parametrize("value", [{"a": 1}, [[1]], [True], [{}], {1}], ids=repr)
def test_no_argument_takes_what_has_no_words(value: Any) -> None:
    for dest in TABLE.dests:
        assert f"$.backend.megatron.{dest}" in refusal({dest: value})


def test_equal_values_of_different_types_are_reported_apart() -> None:
    assert TABLE.argv({"num_layers": 1}) == ["--num-layers", "1"]
    assert "not true" in refusal({"num_layers": True})


def test_an_unknown_version_is_named_with_the_way_to_make_it() -> None:
    with pytest.raises(BackendError, match=r"no table of Megatron's arguments for 'core_v9'\n.*--name core_v9"):
        Arguments.of("core_v9")
    with pytest.raises(BackendError, match="no table"):
        Arguments.of("../x.y")


def test_keys_are_known_by_dest_and_by_hyphens() -> None:
    for key in ("train_iters", "train-iters", "--train-iters"):
        assert TABLE.by_dest({key: 5}) == {"train_iters": 5}
    assert TABLE.by_dest({"trainiters": 5, "yaml_cfg": "x"}) == {}
