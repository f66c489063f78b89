"""The child process of tests/megatron/parser.py: Megatron's own code answers questions, one JSON line each. No GPU.

    {"table": true}                          → {"table": rows of oellm_autoexp/backends/megatron/extract.py}
    {"parse": argv}                          → {"changed": what differs from the namespace of no arguments}
    {"validate": question}                   → {"error": the answer of parser_check.py, or ''}
    {"made": question}                       → {"made": what dests that were given become, where that is another value}

`table` and `parse` may be answered by {"error": what Megatron said}. A question is one of oellm_autoexp/backends/
megatron/parser_check.py, which a config with `backend.validate: parser` asks.
"""

import contextlib
import enum
import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).resolve().parents[2] / "oellm_autoexp/backends/megatron"


def loaded(name: str) -> Any:
    """A program of the package as a module; this Python lacks what the package needs."""
    spec = importlib.util.spec_from_file_location(name, PROGRAMS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class RefusedError(Exception):
    """argparse said no."""


def plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def differences(found: dict[str, Any], from_what: dict[str, Any]) -> dict[str, Any]:
    changed = {dest: plain(value) for dest, value in found.items() if value is not from_what[dest]}
    return {dest: value for dest, value in changed.items() if repr(value) != repr(plain(from_what[dest]))}


class Megatron:
    """What parser_check.py asks it, and its table."""

    def __init__(self, folder: str) -> None:
        self.check = loaded("parser_check")
        self.megatron = self.check.Megatron(folder)
        self.parser = self.check.extract.parser(self.megatron.arguments)
        self.parser.error = self._refuse
        self.nothing = vars(self.parser.parse_args([]))

    @staticmethod
    def _refuse(message: str) -> None:
        raise RefusedError(message)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            if "table" in question:
                return {"table": self.check.extract.table(self.parser)}
            if "parse" in question:
                return {"changed": differences(vars(self.parser.parse_args(question["parse"])), self.nothing)}
            if "validate" in question:
                return {"error": "\n".join(self.check.judged(self.megatron, question["validate"]))}
            return {"made": self._made(question["made"])}
        except RefusedError as error:
            return {"error": str(error)}

    def _made(self, question: dict[str, Any]) -> dict[str, Any]:
        asked = differences(vars(self.parser.parse_args(question["argv"])), self.nothing)
        args = self.megatron.parsed(question)
        self.megatron.check(args)
        after = {dest: plain(value) for dest, value in vars(args).items()}
        return {dest: after.get(dest) for dest, value in asked.items() if after.get(dest) != value}


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    questions = os.fdopen(os.dup(sys.stdin.fileno()))  # exit(), which Megatron calls, closes sys.stdin
    with contextlib.redirect_stdout(io.StringIO()) as noise:  # Megatron prints
        megatron = Megatron(sys.argv[1])
        for line in questions:
            json.dump(megatron.answer(json.loads(line)), answers)
            answers.write("\n")
            answers.flush()
            noise.seek(0)
            noise.truncate()


if __name__ == "__main__":
    main()
