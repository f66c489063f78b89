"""Whether torchtitan's own parser takes some arguments. Needs torchtitan, no GPU, and nothing of this package.

    python parser_check.py < questions

Each line of standard input is `{"argv": [...]}`, each line of standard output a list of what is wrong with it, in
torchtitan's words. Exit code 3: torchtitan can't be loaded; the last line of stderr says why. What asks is a config
with `backend.validate: parser`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import sys
from typing import Any

_FRAME = re.compile(r"[\u2500-\u257f]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def judged(manager: Any, argv: list[str]) -> list[str]:
    """What torchtitan says of one question, or nothing."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            manager().parse_args(argv)
    except SystemExit:  # tyro has printed why, in a frame
        plain = _FRAME.sub(" ", _COLOUR.sub("", said.getvalue()))
        return [" ".join(plain.split()) or "it ended without a message"]
    except Exception as error:  # whatever it raises is its answer
        return [f"{type(error).__name__}: {error}"]
    return []


def main() -> int:
    """Answer every question."""
    questions = [json.loads(line) for line in sys.stdin]
    answers = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            manager = importlib.import_module("torchtitan.config").ConfigManager
    except Exception as error:  # what it imports may be broken in many ways
        sys.stderr.write(f"can't import torchtitan: {type(error).__name__}: {error}\n")
        return 3
    for question in questions:
        answers.write(f"{json.dumps(judged(manager, question['argv']))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
