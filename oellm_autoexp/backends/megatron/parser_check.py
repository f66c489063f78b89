"""Whether Megatron-LM's own parser takes some arguments. Needs Megatron and torch, no GPU, and nothing of this package.

    python parser_check.py PRETRAIN_SCRIPT < questions

Each line of standard input is `{"argv": [...], "world": 8, "environment": {...}}`, each line of standard output a list
of what is wrong with it, in Megatron's words. Exit code 3: Megatron can't be loaded; the last line of stderr says why.
What asks is a config with `backend.validate: parser`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CAPABILITY = (9, 0)
"""Of the GPU that is pretended: Hopper, whose rules hold for its elders, too."""


def pretend(arguments: Any) -> None:
    """Answer what validate_args asks of the machine (arguments.py:1338, 1414): where a plan is made may be no GPU.

    Nor Transformer Engine, which the machine that trains is then taken to have.
    """
    cuda: Any = importlib.import_module("torch").cuda
    cuda.get_device_capability = lambda *_: CAPABILITY
    cuda.get_device_properties = lambda *_: SimpleNamespace(major=CAPABILITY[0], minor=CAPABILITY[1])
    arguments.get_device_arch_version = lambda: CAPABILITY[0]
    if importlib.util.find_spec("transformer_engine") is None:
        newest = importlib.import_module("packaging.version").Version("99")
        importlib.import_module("megatron.core.utils")._te_version = newest  # type: ignore[attr-defined]


def judged(arguments: Any, question: dict[str, Any], own: dict[str, str]) -> list[str]:
    """What Megatron says of one question, or nothing."""
    os.environ.clear()
    os.environ.update({**own, **question["environment"], "RANK": "0", "WORLD_SIZE": str(question["world"])})
    sys.argv = ["pretrain_gpt.py", *question["argv"]]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            arguments.validate_args(arguments.parse_args())
    except SystemExit:  # argparse has told why, and so do the arguments that Megatron ends on
        return [(said.getvalue().strip().splitlines() or ["it ended without a word"])[-1]]
    except Exception as error:  # whatever it raises is its answer
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error) or str(place.line)
        return [f"{type(error).__name__}: {what} ({Path(place.filename).name}:{place.lineno})"]
    return []


def main() -> int:
    """Answer every question."""
    here = str(Path(__file__).parent)
    sys.path[:] = [here, *(path for path in sys.path if path != here)]
    extract = importlib.import_module("extract")
    sys.path.remove(here)  # its neighbours have names that others may want
    folder = Path(sys.argv[1]).resolve().parent
    answers = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            arguments = extract.load(str(folder) if (folder / "megatron").is_dir() else None)
    except extract.ExtractError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    pretend(arguments)
    own = dict(os.environ)
    for line in sys.stdin.readlines():  # all at once: exit(), which Megatron calls, closes it
        answers.write(f"{json.dumps(judged(arguments, json.loads(line), own))}\n")
    answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
