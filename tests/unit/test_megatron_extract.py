"""Reading a parser into the table, on a Megatron of a few lines: what is tolerated, what is written, what refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.backends.megatron import extract

ARGUMENTS = """
import enum, os, signal
from argparse import BooleanOptionalAction
from typing import override
from megatron.core.kernels import kernel, Base
print("loading")

class Part(enum.Enum):
    attn = 1
    mlp = 2

class Child(Base):
    pass

def part(text):
    if text in {"whole", "full"}:
        return text
    return Part[text]

def moe_freq_type(text):
    return int(text)

def add_megatron_arguments(parser):
    model = parser.add_argument_group("model")
    model.add_argument("--lr", type=float, default=None, help="The rate,   as in Adam. ")
    model.add_argument("--world", type=int, default=int(os.environ.get("WORLD_SIZE", "1")),
                       help="10% of %(default)s, 50%% at most")
    model.add_argument("--part", type=lambda name: Part[name], choices=list(Part), default=Part.mlp)
    model.add_argument("--parts", nargs="+", type=part, default=[Part.attn])
    model.add_argument("--names", nargs="*", default={"b", "a"})
    model.add_argument("--freq", type=moe_freq_type, default=1)
    model.add_argument("--signal", type=lambda name: signal.Signals[name], choices=list(signal.Signals),
                       default=signal.SIGTERM)
    switches = parser.add_argument_group("switches")
    switches.add_argument("--on", action="store_true")
    switches.add_argument("--no-bias", "--disable-bias", dest="bias", action="store_false")
    switches.add_argument("--both", action=BooleanOptionalAction, default=False, help="Either.")
    switches.add_argument("--round", action="store_true", default=None)
    switches.add_argument("--no-round", dest="round", action="store_false", help="Do not.")
    return parser
"""


@pytest.fixture
def megatron(tmp_path: Path) -> Path:
    """A Megatron and, beside it in `lib`, a torch, each of them next to nothing."""
    files = {
        "megatron/core/kernels.py": "import triton\nkernel = triton.jit\n",
        "megatron/training/arguments.py": ARGUMENTS,
        "lib/torch.py": "",
        "lib/numpy.py": "",
        "lib/packaging.py": "",
        "lib/typing_extensions.py": "def override(method): return method\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def extracted(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(folder / "lib"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", extract.__file__, *words]  # without the torch that this Python may have
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_every_kind_of_argument_is_written_and_triton_may_be_absent(megatron: Path) -> None:
    done = extracted(megatron, str(megatron))
    assert done.returncode == 0, done.stderr
    assert "loading" in done.stderr
    rows: dict[str, dict[str, Any]] = {row["dest"]: row for row in json.loads(done.stdout)}
    columns = {dest: (row["kind"], row["type"], row["nargs"], row["default"]) for dest, row in rows.items()}
    assert columns == {
        "lr": ("store", "float", None, None),
        "world": ("store", "int", None, 1),
        "part": ("store", "name", None, "mlp"),
        "parts": ("store", "name", "+", ["attn"]),
        "names": ("store", "str", "*", ["a", "b"]),
        "freq": ("store", "pattern", None, 1),
        "signal": ("store", "name", None, "SIGTERM"),
        "on": ("store_true", "bool", None, False),
        "bias": ("store_false", "bool", None, True),
        "both": ("switch", "bool", None, False),
        "round": ("switch", "bool", None, None),
    }
    texts = {dest: row["help"] for dest, row in rows.items() if row["help"]}
    assert texts == {
        "lr": "The rate, as in Adam.",
        "world": "10% of 1, 50% at most",
        "both": "Either.",
        "round": "Do not.",
    }
    assert rows["part"]["choices"] == ["attn", "mlp"]
    assert rows["parts"]["choices"] == ["attn", "mlp", "full", "whole"]
    assert rows["signal"]["choices"] == list(extract.LINUX_SIGNALS)
    switches = {dest: (row["flags"], row["off"]) for dest, row in rows.items() if row["group"] == "switches"}
    assert switches == {
        "on": (["--on"], []),
        "bias": ([], ["--no-bias", "--disable-bias"]),
        "both": (["--both"], ["--no-both"]),
        "round": (["--round"], ["--no-round"]),
    }


@pytest.mark.parametrize("absent", ["torch", "packaging"])
def test_what_is_missing_is_named_with_what_to_install(megatron: Path, absent: str) -> None:
    (megatron / "lib" / f"{absent}.py").unlink()
    done = extracted(megatron, str(megatron))
    assert done.returncode == extract.MISSING
    assert done.stderr.strip().endswith(f"has no {absent}; install there: torch numpy packaging")


def test_a_megatron_without_the_parser_is_reported_from_one_that_lacks_a_package(megatron: Path) -> None:
    done = extracted(megatron)
    assert done.returncode == extract.MISSING
    assert "has no megatron; name a checkout of Megatron-LM, or install megatron-core 0.17" in done.stderr
    (megatron / "megatron/core/kernels.py").write_text("import einops\n")
    done = extracted(megatron, str(megatron))
    assert done.returncode == extract.MISSING
    assert "needs einops" in done.stderr


def test_two_arguments_with_one_dest_are_one_with_both_flags_and_the_first_default(megatron: Path) -> None:
    file = megatron / "megatron/training/arguments.py"
    line = 'model.add_argument("--rate", dest="lr", type=float, default=1.0)'
    file.write_text(file.read_text().replace("    switches =", f"    {line}\n    switches ="))
    (row,) = [row for row in json.loads(extracted(megatron, str(megatron)).stdout) if row["dest"] == "lr"]
    assert (row["flags"], row["default"]) == (["--lr", "--rate"], None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('model.add_argument("--list", action="append")', "list: _AppendAction is an action"),
        ('model.add_argument("--rate", dest="lr", type=int)', "lr: two actions that do not make one switch"),
        ('model.add_argument("--odd", default=object())', "odd: its default is a object"),
    ],
)
def test_what_the_table_has_no_word_for_is_refused(megatron: Path, line: str, message: str) -> None:
    file = megatron / "megatron/training/arguments.py"
    file.write_text(file.read_text().replace("    switches =", f"    {line}\n    switches ="))
    done = extracted(megatron, str(megatron))
    assert done.returncode == extract.MISSING
    assert message in done.stderr
