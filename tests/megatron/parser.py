"""Megatron-LM's own argument parser and validation for tests, in a Python of their own, without a GPU.

    python tests/megatron/parser.py install    # about 1 GB in the user's cache folder, outside the tree
    python tests/megatron/parser.py remove

`Parser` then answers a thousand questions in a second or two, from one child process (tests/megatron/answers.py).
torch stays apart from the project's own environment, which does without it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

MEGATRON = "megatron-core==0.19.2"  # its parser is that of core_v0.19.0, and wheels hold it from 0.17 on
NEEDED = ("torch==2.13.0", "numpy", "packaging")
INSTALL_COMMAND = "python tests/megatron/parser.py install"
ANSWERS = Path(__file__).resolve().with_name("answers.py")
NOT_FOR_IT = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "RANK", "WORLD_SIZE", "LOCAL_RANK"}


ONE_CONNECTION = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


class ParserError(RuntimeError):
    """The parser cannot be installed or started; the message says why."""


def directory() -> Path:
    """Where it is installed; the name says what is in it, so that another version gets another folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    names = "-".join((MEGATRON, NEEDED[0])).replace("==", "-")
    return Path(cache).expanduser() / "oellm-autoexp-tests" / names


def python() -> Path:
    return directory() / "python/bin/python"


def megatron() -> Path:
    """The folder that holds `megatron/`."""
    return directory() / "megatron"


def missing() -> str | None:
    """Why there is no parser here, or None if there is one."""
    if (directory() / "complete").exists():
        return None
    return f"Megatron's parser is not installed; install it: {INSTALL_COMMAND}"


def install() -> None:
    """Install what is missing. Raises ParserError."""
    if missing() is None:
        return
    remove()
    downloads = directory() / "downloads"
    downloads.mkdir(parents=True)
    pip = (str(python()), "-m", "pip", "--disable-pip-version-check")
    _run(sys.executable, "-m", "venv", str(directory() / "python"))
    _run(*pip, "install", "--quiet", "--no-compile", *NEEDED)  # Python compiles the small part that is used
    # the wheel asks for Python 3.12 for one name of `typing`, and for the CUDA build of torch
    _run(
        *pip, "download", "--quiet", "--no-deps", "--ignore-requires-python", "--dest", str(downloads), MEGATRON
    )  # fmt: skip
    with zipfile.ZipFile(next(downloads.glob("*.whl"))) as wheel:
        wheel.extractall(megatron())
    shutil.rmtree(downloads)
    with Parser() as parser:
        parser.parse([])
    (directory() / "complete").touch()


def remove() -> None:
    if directory().exists():
        shutil.rmtree(directory())


def environment() -> dict[str, str]:
    """What Megatron's process gets: nothing of a surrounding job or of the tests' own Python.

    It compiles what it imports, which takes a while, but not into the tree.
    """
    kept = {name: value for name, value in os.environ.items() if name not in NOT_FOR_IT}
    return kept | {"NO_VCS_VERSION": "1", "PYTHONPYCACHEPREFIX": str(directory() / "compiled")}


def _run(*command: str) -> None:
    done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ParserError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def _question(argv: Sequence[str], world: int, environment: Mapping[str, str]) -> dict[str, Any]:
    return {"argv": list(argv), "world": world, "environment": dict(environment)}


class Parser:
    """Megatron's parser as a child process: a context manager that ends it."""

    def __enter__(self) -> "Parser":
        self._child = subprocess.Popen(
            [str(python()), "-W", "ignore", str(ANSWERS), str(megatron())],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._child.communicate(timeout=60)

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One answer of tests/megatron/answers.py. Raises ParserError if the process has ended."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            words = f"{python()} {ANSWERS} {megatron()}"
            raise ParserError(f"Megatron's process ended with {self._child.wait()}; to see why: {words}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """{"changed": {dest: value that is not the default's}}, or {"error": what argparse says}."""
        return self.ask({"parse": list(argv)})

    def validate(self, argv: Sequence[str], world: int, environment: Mapping[str, str] = ONE_CONNECTION) -> str:
        """What Megatron objects to before it would build a model on so many GPUs, or ''."""
        return str(self.ask({"validate": _question(argv, world, environment)})["error"])

    def made(self, argv: Sequence[str], world: int, environment: Mapping[str, str]) -> dict[str, Any]:
        """What Megatron makes of the dests that are given, where that is something else."""
        answer: dict[str, Any] = self.ask({"made": _question(argv, world, environment)})["made"]
        return answer

    def table(self) -> list[dict[str, Any]]:
        """The rows of oellm_autoexp/backends/megatron/extract.py."""
        rows: list[dict[str, Any]] = self.ask({"table": True})["table"]
        return rows


def main(arguments: Sequence[str]) -> int:
    commands = {"install": install, "remove": remove}
    if len(arguments) != 1 or arguments[0] not in commands:
        sys.stderr.write(f"usage: parser.py {'|'.join(commands)}\n")
        return 2
    try:
        commands[arguments[0]]()
    except ParserError as error:
        sys.stderr.write(f"parser.py: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
