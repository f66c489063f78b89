"""What `Arguments.argv` writes, Megatron's own parser reads back: every argument, with every kind of value."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.backends.megatron import render
from oellm_autoexp.backends.megatron.arguments import Argument, Arguments
from tests.megatron import parser
from tests.megatron.parser import Parser

ROOT = Path(__file__).resolve().parents[2]
TABLE = Arguments.of("core_v0_19_0")
GROUPS = sorted({argument.group for argument in TABLE.dests.values()})

FALSE_IS_NONE = {"use_cpu_initialization", "no_save_optim", "no_save_rng", "no_load_optim", "no_load_rng", "onnx_safe"}
"""Only the absence of their flag is false to Megatron, and their default is None: as false, but not equal to it."""

Case = tuple[Any, Any]
"""A value as YAML may give it, and what Megatron's namespace then holds; `DEFAULT` stands for its default."""
DEFAULT = object()

SCALARS: Mapping[str, list[Case]] = {
    "int": [(7, 7), (0, 0), (-1, -1), (18000.0, 18000), (1e5, 100000), ("64", 64), ("1e3", 1000), ("-2", -2)],
    "float": [(0.1, 0.1), (1e-10, 1e-10), (1e20, 1e20), (-1e-5, -1e-5), (3, 3.0), (0, 0.0), ("1e-4", 1e-4)],
    "str": [
        (text, text)
        for text in ("word", "two words", "-leading", "--lr", "-1e-5", "", "it's", '"$HOME" `id`; \\', "x=y", "ü\n")
    ]
    + [(5, "5"), (0.5, "0.5")],
    "pattern": [(2, 2), ("2", 2), (2.0, 2), ("([0]*1+[1]*3)", [0, 1, 1, 1]), ([0, 1], [0, 1])],
    "tuple": [("128,0", [128, 0]), ("(1,2)", [1, 2]), ([128, -1], [128, -1]), ("-1,4", [-1, 4])],
}
LISTS: Mapping[str, list[Case]] = {
    "int": [([1, 2], [1, 2]), ([-1, 2.0, "3"], [-1, 2, 3]), ([-5], [-5])],
    "float": [([0.5, 1], [0.5, 1.0]), ([1e-7, -1e-5, "2e3"], [1e-7, -1e-5, 2000.0]), ([-1e-5], [-1e-5])],
    "str": [(["a", "b c", ""], ["a", "b c", ""]), ([0.3, "/a"], ["0.3", "/a"]), (["-x"], ["-x"]), ([-1], ["-1"])],
}


def cases(argument: Argument) -> Iterator[Case]:
    """Every kind of value that an argument takes."""
    yield None, DEFAULT
    if argument.kind != "store" or argument.type == "bool":
        yield True, True
        yield False, (DEFAULT if argument.dest in FALSE_IS_NONE else False)
        return
    single = [(choice, choice) for choice in argument.choices or ()] or SCALARS[argument.type]
    if isinstance(argument.nargs, int):
        yield list(range(argument.nargs)), list(range(argument.nargs))
        return
    if argument.nargs is None:
        yield from single
        return
    yield [], DEFAULT
    yield [value for value, _ in single[:2]], [wanted for _, wanted in single[:2]]
    yield from ((value, [wanted]) for value, wanted in single)
    if argument.choices is None:
        yield from LISTS[argument.type]


def given(argument: Argument, wanted: Any) -> Any:
    """What the namespace is to hold."""
    if wanted is not DEFAULT:
        return wanted
    return list(argument.default) if isinstance(argument.default, tuple) else argument.default


def wrong(real: Parser, values: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How Megatron's namespace differs from what is wanted; dests that `wanted` lacks are to keep their defaults."""
    argv = TABLE.argv(values)
    answer = real.parse(argv)
    if "error" in answer:
        return f"{values} as {argv}: {answer['error']}"
    changed = answer["changed"]
    expected = {dest: given(TABLE.dests[dest], value) for dest, value in wanted.items()}
    found = {dest: changed.get(dest, given(TABLE.dests[dest], DEFAULT)) for dest in {*expected, *changed}}
    return "" if repr(sorted(found.items())) == repr(sorted(expected.items())) else f"{values} as {argv}: {found}"


@pytest.mark.parametrize("group", GROUPS)
def test_every_value_of_every_argument_comes_back(megatron_parser: Parser, group: str) -> None:
    members = [argument for argument in TABLE.dests.values() if argument.group == group]
    mistakes = [
        mistake
        for argument in members
        for value, wanted in cases(argument)
        if (mistake := wrong(megatron_parser, {argument.dest: value}, {argument.dest: wanted}))
    ]
    assert not mistakes, "\n".join(mistakes)


def test_there_are_thousands_of_cases_and_every_argument_has_some() -> None:
    counts = [len(list(cases(argument))) for argument in TABLE.dests.values()]
    assert sum(counts) >= 3000
    assert min(counts) >= 2


@pytest.mark.parametrize("seed", range(100))
def test_many_arguments_together_come_back(megatron_parser: Parser, seed: int) -> None:
    chance = random.Random(seed)
    values, wanted = {}, {}
    for argument in chance.sample(list(TABLE.dests.values()), chance.randint(2, 200)):
        values[argument.dest], wanted[argument.dest] = chance.choice(list(cases(argument)))
    assert not wrong(megatron_parser, values, wanted)


def test_a_default_that_is_asked_for_is_the_default(megatron_parser: Parser) -> None:
    one_element = {"moe_router_load_balancing_type", "moe_aux_loss_coeff"}  # nargs="+" with a scalar default
    for argument in TABLE.dests.values():
        value = given(argument, DEFAULT)
        wanted = [value] if argument.dest in one_element else value
        if argument.type == "float" and value is not None and argument.dest not in one_element:
            wanted = float(value)
        argv = TABLE.argv({argument.dest: value})
        changed = megatron_parser.parse(argv)["changed"].get(argument.dest, value)
        assert changed == wanted, argv


def test_every_spelling_of_a_flag_is_the_parsers(megatron_parser: Parser) -> None:
    for row in megatron_parser.table():
        for flag in row["flags"]:
            if row["dest"] not in render.LEFT_OUT and flag != "--ckpt-fully-parallel-save":  # also a dest's spelling
                assert TABLE.by_dest({flag: 1}) == {row["dest"]: 1}


def test_the_committed_files_are_what_the_parser_gives(megatron_parser: Parser) -> None:
    rows, version = megatron_parser.table(), "core_v0_19_0"
    package = ROOT / "oellm_autoexp/backends/megatron/generated"
    assert (package / f"{version}_table.py").read_text() == render.table(version, rows)
    assert (package / f"{version}.py").read_text() == render.typed(version, rows)
    assert (ROOT / f"config/backend/megatron/{version}.yaml").read_text() == render.defaults(version, rows)


def test_a_generator_finds_the_committed_files_up_to_date(megatron_parser: Parser) -> None:
    command = [sys.executable, str(ROOT / "scripts/generate_megatron_dataclass.py"), "--check"]
    command += ["--python", str(parser.python()), "--megatron", str(parser.megatron())]
    environment = parser.environment() | {"WORLD_SIZE": "16"}  # of a job in which it may run; a default is read from it
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_megatrons_validation_answers(megatron_parser: Parser) -> None:
    values: dict[str, Any] = {
        "num_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "seq_length": 2048, "lr": 1e-3, "bf16": True,
        "max_position_embeddings": 2048, "micro_batch_size": 4, "global_batch_size": 64, "train_iters": 100,
    }  # fmt: skip
    assert megatron_parser.validate(TABLE.argv(values), 8) == ""
    three = megatron_parser.validate(TABLE.argv({**values, "tensor_model_parallel_size": 3}), 8)
    assert "world size (8) is not divisible" in three
    endless = megatron_parser.validate(TABLE.argv({**values, "train_iters": None}), 8)
    assert "either train-iters or train-samples" in endless
