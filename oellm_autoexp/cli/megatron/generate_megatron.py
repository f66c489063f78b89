"""What generate-megatron-config and generate-megatron-dataclass share: read the parser, write files or compare them."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oellm_autoexp.backends.megatron import extract
from oellm_autoexp.backends.megatron.arguments import VERSION
from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import BackendError, ConfigError, Problem
from oellm_autoexp.storage.files import shipped, write_atomic

SUBMODULE = "submodules/Megatron-LM"
EXIT_CODES = """\
exit codes: 0 written, or up to date; 1 --check: some file is out of date; 2 wrong use, or the parser can't be read;
130 interrupted"""
_NOT_FOR_IT = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}  # some of Megatron's defaults are read from them


def parser(what: str, command: str, place: str) -> app.Parser:
    """The options of both commands; `place` is where the files go, below the checkout."""
    examples = f"""\
  python scripts/{command}.py --megatron {SUBMODULE}
  python scripts/{command}.py --megatron {SUBMODULE} --check
  python scripts/{command}.py --megatron ../Megatron-LM --name core_v0_18_0"""
    made = app.Parser(
        f"{what}, read from its own argument parser. Needs a Python with {', '.join(extract.NEEDED)} (such as the "
        "container's), but no GPU.",
        examples,
        EXIT_CODES,
    )
    made.add_argument(
        "--megatron",
        metavar="PATH",
        type=Path,
        help=f"a checkout of Megatron-LM (default: {SUBMODULE}, or the megatron-core that the Python has)",
    )
    made.add_argument(
        "--python", metavar="PYTHON", default=sys.executable, help="the Python that loads it (default: this one)"
    )
    made.add_argument(
        "--name", metavar="NAME", type=_name, default=VERSION, help="the version's name (default: %(default)s)"
    )
    made.add_argument("--output", metavar="DIR", type=Path, help=f"where to write (default: {place})")
    made.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the files are out of date")
    return made


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z]\w*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits and _ only, as in {VERSION}")
    return text


def run(options: argparse.Namespace, place: str, render: Callable[[list[Any]], Mapping[str, str]]) -> int:
    """Read the parser and write the files that `render` makes of its rows, or compare them with what is there."""
    made = render(rows(options.megatron, options.python))
    folder = options.output or shipped(place)
    if options.check:
        return check(folder, made)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        write_atomic(folder / name, text)
        print(folder / name)
    return app.OK


def rows(megatron: Path | None, python: str) -> list[Any]:
    """The table of Megatron's parser, read by another process. Raises BackendError, ConfigError."""
    folder = megatron
    if folder is None and (shipped(SUBMODULE) / "megatron").is_dir():  # a plain clone has an empty folder there
        folder = shipped(SUBMODULE)
    if folder is not None and not (folder / "megatron").is_dir():
        hint = "git submodule update --init submodules/Megatron-LM, or name a checkout with --megatron"
        raise ConfigError(Problem("no folder megatron/ in it", str(folder), hint))
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT}
    # what prints a version must not ask git, and nothing may touch a GPU that somebody else uses
    environment |= {"NO_VCS_VERSION": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    command = [python, extract.__file__, *([str(folder)] if folder else [])]
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(Problem(f"--python: {error.strerror}", python)) from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        hint = "" if done.returncode == extract.MISSING else done.stderr[-4000:]
        raise BackendError(Problem(last[0], hint=hint or "--python names another Python, --megatron another Megatron"))
    found: list[Any] = json.loads(done.stdout)
    return found


def check(folder: Path, made: Mapping[str, str]) -> int:
    """Say which files are not what the parser makes of them, and in what way. Exit code 1 if any is not."""
    stale = 0
    for name, text in made.items():
        path = folder / name
        old = path.read_text() if path.is_file() else ""
        if old == text:
            print(f"{path}: up to date")
            continue
        stale += 1
        changes = [
            line
            for line in difflib.unified_diff(old.splitlines(), text.splitlines(), n=0, lineterm="")
            if not line.startswith(("---", "+++", "@@"))
        ]
        more, fewer = (sum(line.startswith(sign) for line in changes) for sign in "+-")
        print(f"{path}: out of date, {more} lines to add and {fewer} to remove" if old else f"{path}: missing")
        print("\n".join(changes[:20] if old else []))
    return app.FAILED if stale else app.OK
