"""Whether Megatron-LM itself would take some arguments. Needs Megatron and torch, no GPU, and nothing of this package.

    python parser_check.py PRETRAIN_SCRIPT < questions

Each line of standard input is `{"argv": [...], "extra": [...], "world": 8, "environment": {...}}`, each line of
standard output a list of what is wrong with it, in Megatron's words. `extra` are the words behind `argv` that only the
program which is trained with may know. Exit code 3: Megatron can't be loaded; the last line of stderr says why. What
asks is a config with `backend.validate: parser`.

An answer takes a tenth of a second. It comes from all that pretrain_gpt.py looks at before it builds a model: the
parser, validate_args, the calculator of micro batches, the configs of the model and the optimizer, the scheduler.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_CAPABILITY = (9, 0)
"""Of the GPU that is pretended: Hopper, whose rules hold for its elders, too."""
_VOCABULARY = 50304
"""Where only the tokenizer knows."""


class Megatron:
    """What pretrain_gpt.py does with its arguments before it builds a model."""

    def __init__(self, folder: str | None) -> None:
        """`folder` holds `megatron/`; None for the megatron-core that this Python has. Raises extract.ExtractError."""
        self.arguments = extract.load(folder)
        _pretend()
        self._variables = _module("training.global_vars")
        self._microbatches = _module("core.num_microbatches_calculator")
        self._training = _module("training.training")
        for name in [name for name in vars(self._variables) if name.startswith(("_set_", "_ensure_"))]:
            setattr(self._variables, name, lambda *_: None)  # writers, timers, handlers of signals; and each but once
        # its parser is made anew for each question, and takes the help from its own source
        inspect.getsource = cache(inspect.getsource)  # type: ignore[assignment]
        self._own = dict(os.environ)
        try:  # as pretrain_gpt.py does
            self._provider = importlib.import_module("megatron.post_training.arguments").add_modelopt_args
        except ImportError:
            self._provider = None

    def parsed(self, question: Mapping[str, Any]) -> argparse.Namespace:
        """The arguments as they are read. Unknown words are passed over among `extra` alone."""
        os.environ.clear()
        ranks = {"RANK": "0", "WORLD_SIZE": str(question["world"])}
        os.environ.update({**self._own, **question.get("environment", {}), **ranks})
        argv, extra = question["argv"], question.get("extra", ())
        found = self._read(argv, ignore_unknown_args=False)
        return self._read([*argv, *extra], ignore_unknown_args=True) if extra else found

    def _read(self, argv: Sequence[str], *, ignore_unknown_args: bool) -> argparse.Namespace:
        sys.argv = ["pretrain_gpt.py", *argv]
        found: argparse.Namespace = self.arguments.parse_args(self._provider, ignore_unknown_args)
        return found

    def check(self, args: argparse.Namespace) -> None:
        """Let Megatron look at parsed arguments; whatever it raises is what it has against them. Fills `args`."""
        if args.use_checkpoint_args:
            return  # the rest of them is in a checkpoint
        self.arguments.validate_args(args, {})
        args.padded_vocab_size = args.padded_vocab_size or args.vocab_size or _VOCABULARY
        self._microbatches._GLOBAL_NUM_MICROBATCHES_CALCULATOR = None
        self._variables.set_global_variables(args, build_tokenizer=False)
        self.arguments.core_transformer_config_from_args(args)
        if not args.skip_train:
            self._training.get_megatron_optimizer_config(args)
            self._training.get_optimizer_param_scheduler(SimpleNamespace(param_groups=[]))


def _neighbour() -> Any:
    """extract.py beside this file. The folder is not left on the path: others may want the names of what is in it."""
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)
    try:
        return importlib.import_module("extract")
    finally:
        sys.path.remove(here)


extract = _neighbour()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"megatron.{name}")
    except ImportError as error:
        raise extract.ExtractError(f"can't import megatron.{name}: {error}") from None


def _pretend() -> None:
    """Answer what Megatron asks of the machine (arguments.py:1338, 1414): where a plan is made may be no GPU.

    Nor Transformer Engine, which the machine that trains is then taken to have.
    """
    cuda: Any = importlib.import_module("torch").cuda
    cuda.get_device_capability = lambda *_: _CAPABILITY
    cuda.get_device_properties = lambda *_: SimpleNamespace(major=_CAPABILITY[0], minor=_CAPABILITY[1], name="H100")
    if importlib.util.find_spec("transformer_engine") is not None:
        return
    newest = importlib.import_module("packaging.version").Version("99")
    importlib.import_module("megatron.core.utils")._te_version = newest  # type: ignore[attr-defined]
    for name in ("models.common.embeddings.rope_utils", "transformer.moe.moe_utils"):
        module = importlib.import_module(f"megatron.core.{name}")
        absent = [name for name, value in vars(module).items() if name.startswith("fused_") and value is None]
        vars(module).update(dict.fromkeys(absent, id))  # any function


def judged(megatron: Megatron, question: Mapping[str, Any]) -> list[str]:
    """What Megatron says of one question, or nothing."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            megatron.check(megatron.parsed(question))
    except SystemExit:  # argparse has printed why, and so do the arguments that Megatron ends on
        return [(said.getvalue().strip().splitlines() or ["it ended without a message"])[-1]]
    except Exception as error:  # whatever it raises is its answer
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error) or str(place.line)
        return [f"{type(error).__name__}: {what} ({Path(place.filename).name}:{place.lineno})"]
    return []


def main() -> int:
    """Answer every question."""
    folder = Path(sys.argv[1]).resolve().parent
    answers = sys.stdout
    questions = sys.stdin.readlines()  # all at once: exit(), which Megatron calls, closes it
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            megatron = Megatron(str(folder) if (folder / "megatron").is_dir() else None)
    except extract.ExtractError as error:
        sys.stderr.write(f"{error}\n")
        return int(extract.MISSING)
    for line in questions:
        answers.write(f"{json.dumps(judged(megatron, json.loads(line)))}\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
