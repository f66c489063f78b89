"""The generators, with a stand-in for the Python that loads Megatron: what they write, compare and say."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.backends.megatron import render
from oellm_autoexp.cli.megatron import generate_megatron_config, generate_megatron_dataclass

ROWS: list[dict[str, Any]] = [
    {"dest": "lr", "kind": "store", "flags": ["--lr"], "off": [], "type": "float", "nargs": None, "choices": None,
     "default": 1, "group": "learning rate", "help": 'Called "lr".'},
    {"dest": "style", "kind": "store", "flags": ["--style"], "off": [], "type": "str", "nargs": "+",
     "choices": ["it's", "no"], "default": ["no"], "group": "learning rate", "help": ""},
    {"dest": "bias", "kind": "store_false", "flags": [], "off": ["--no-bias"], "type": "bool", "nargs": None,
     "choices": None, "default": True, "group": "model", "help": ""},
    {"dest": "yaml_cfg", "kind": "store", "flags": ["--yaml-cfg"], "off": [], "type": "str", "nargs": None,
     "choices": None, "default": None, "group": "model", "help": "A file."},
]  # fmt: skip


def python_that(folder: Path, says: str, code: int = 0, stream: int = 1) -> str:
    """A program in the place of the Python that has torch."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(says)} >&{stream}\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_the_files_say_names_types_and_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--python", python_that(tmp_path, json.dumps(ROWS)), "--output", str(tmp_path / "out"), "--name", "v1"]
    assert generate_megatron_config.main(options) == 0
    assert generate_megatron_dataclass.main(options) == 0
    assert (
        (tmp_path / "out/v1.yaml")
        .read_text()
        .endswith("\n# learning rate\nlr: 1\nstyle: ['no']\n\n# model\nbias: true\n")
    )
    typed = (tmp_path / "out/v1.py").read_text()
    assert '    lr: float = 1.0\n    style: tuple[Literal["it\'s", "no"], ...] = ("no",)\n\n    # model\n' in typed
    assert '("bias", "store_false", (), ("--no-bias",), "bool", None, None, True, "model")' in (
        tmp_path / "out/v1_table.py"
    ).read_text()  # fmt: skip
    assert (
        (tmp_path / "out/v1_help.py").read_text().endswith('HELP: dict[str, str] = {\n    "lr": \'Called "lr".\',\n}\n')
    )
    assert generate_megatron_config.main([*options, "--check"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_what_this_program_needs_beside_torch_is_not_needed_for_the_class(tmp_path: Path) -> None:
    bare = "import sys; sys.modules |= dict.fromkeys(('yaml', 'pydantic', 'omegaconf', 'hydra', 'rich', 'submitit')); "
    options = ["--python", python_that(tmp_path, json.dumps(ROWS)), "--output", str(tmp_path), "--name", "v1"]

    def run(command: str) -> subprocess.CompletedProcess[str]:
        program = f"{bare}from oellm_autoexp.cli.megatron.{command} import main; sys.exit(main(sys.argv[1:]))"
        return subprocess.run([sys.executable, "-c", program, *options], capture_output=True, text=True)

    done = run("generate_megatron_dataclass")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "v1.py").exists()
    done = run("generate_megatron_config")
    assert done.returncode == 2
    assert "this Python has no yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_tells_what_is_out_of_date_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--python", python_that(tmp_path, json.dumps(ROWS)), "--output", str(tmp_path), "--name", "v1"]
    assert generate_megatron_config.main([*options, "--check"]) == 1
    assert "missing" in capsys.readouterr().out
    stale = render.defaults("v1", ROWS).replace("lr: 1", "lr: 2")
    (tmp_path / "v1.yaml").write_text(stale)
    assert generate_megatron_config.main([*options, "--check"]) == 1
    assert "1 lines to add and 1 to remove\n-lr: 2\n+lr: 1\n" in capsys.readouterr().out
    assert (tmp_path / "v1.yaml").read_text() == stale


def test_a_python_without_torch_is_reported_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = python_that(tmp_path, "a has no torch; install there: torch numpy packaging", code=3, stream=2)
    assert generate_megatron_config.main(["--python", python, "--output", str(tmp_path)]) == 2
    assert "install there: torch numpy packaging" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.yaml"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--megatron", "/usr"], "/usr: no folder megatron/ in it\n    git submodule update --init"),
        (["--python", "/nowhere/python"], "/nowhere/python: --python: No such file"),
    ],
)
def test_mistakes_are_reported(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_megatron_config.main(options) == 2
    assert message in capsys.readouterr().err


def test_a_name_is_one_that_a_module_can_have(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        generate_megatron_config.main(["--name", "../x"])
    assert "letters, digits and _ only" in capsys.readouterr().err


def test_this_python_lacks_torch_or_finds_megatron(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "megatron").mkdir()
    options = ["--python", sys.executable, "--megatron", str(tmp_path), "--output", str(tmp_path)]
    assert generate_megatron_config.main(options) == 2
    assert "install" in capsys.readouterr().err
