"""The child process of tests/megatron/parser.py: Megatron's own code answers questions, one JSON line each. No GPU.

    {"table": true}                          → {"table": rows of oellm_autoexp/backends/megatron/extract.py}
    {"parse": argv}                          → {"changed": what differs from the namespace of no arguments}
    {"validate": argv, "world_size": 8}      → {} if all that Megatron checks before it builds a model passes

Or {"error": text, "at": "file.py:line"} with what Megatron said. The stages of `validate` are those of pretrain_gpt.py:
parse_args, validate_args, the calculator of microbatches, TransformerConfig, OptimizerConfig, the scheduler.
"""

import argparse
import contextlib
import enum
import importlib
import importlib.util
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

EXTRACT = Path(__file__).resolve().parents[2] / "oellm_autoexp/backends/megatron/extract.py"


class RefusedError(Exception):
    """argparse said no."""


def plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


class Megatron:
    def __init__(self, folder: str) -> None:
        spec = importlib.util.spec_from_file_location("extract", EXTRACT)
        assert spec is not None
        assert spec.loader is not None
        self.extract: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.extract)
        self.arguments = self.extract.load(folder)
        self.parser = self.extract.parser(self.arguments)
        self.parser.error = self._refuse
        self.nothing = vars(self.parser.parse_args([]))
        self.stages: Any = None

    @staticmethod
    def _refuse(message: str) -> None:
        raise RefusedError(message)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            if "table" in question:
                return {"table": self.extract.table(self.parser)}
            if "parse" in question:
                return {"changed": self._parse(question["parse"])}
            self._validate(question["validate"], question["world_size"])
        except RefusedError as error:
            return {"error": str(error)}
        except BaseException as error:  # whatever it dies of is the answer
            frame = traceback.extract_tb(error.__traceback__)[-1]
            text = str(error) or frame.line
            return {"error": f"{type(error).__name__}: {text}", "at": f"{Path(frame.filename).name}:{frame.lineno}"}
        return {}

    def _parse(self, argv: list[str]) -> dict[str, Any]:
        found = vars(self.parser.parse_args(argv)).items()
        changed = {dest: plain(value) for dest, value in found if value is not self.nothing[dest]}
        return {dest: value for dest, value in changed.items() if repr(value) != repr(plain(self.nothing[dest]))}

    def _validate(self, argv: list[str], world_size: int) -> None:
        if self.stages is None:
            self.stages = self._patched()
        os.environ |= {"RANK": "0", "WORLD_SIZE": str(world_size), "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
        self.parser.parse_args(argv)  # what argparse refuses, it refuses here, with its own words
        sys.argv = ["pretrain_gpt.py", *argv]
        args = self.arguments.parse_args()
        self.arguments.validate_args(args, {})
        args.padded_vocab_size = args.padded_vocab_size or args.vocab_size or 50304  # where the tokenizer sets it
        self._after(args)

    def _after(self, args: argparse.Namespace) -> None:
        """What pretrain_gpt.py does with validated arguments, up to the scheduler."""
        variables, microbatches, training = self.stages
        microbatches.unset_num_microbatches_calculator()
        microbatches.init_num_microbatches_calculator(
            rank=0,
            global_batch_size=args.global_batch_size,
            micro_batch_size=args.micro_batch_size,
            data_parallel_size=args.data_parallel_size * args.gtp_weight_remat_size,
            decrease_batch_size_if_needed=args.decrease_batch_size_if_needed,
            step_batch_size_schedule=args.step_batch_size_schedule,
            seq_length=args.seq_length,
        )
        self.arguments.core_transformer_config_from_args(args)
        training.get_megatron_optimizer_config(args)
        variables.set_args(args)
        training.get_optimizer_param_scheduler(argparse.Namespace(param_groups=[]))

    @staticmethod
    def _patched() -> tuple[Any, Any, Any]:
        """The modules of the later stages. What they ask a GPU or transformer_engine is answered as an H100 would."""
        torch = importlib.import_module("torch")
        torch.cuda.get_device_capability = lambda *_: (9, 0)
        torch.cuda.get_device_properties = lambda *_: argparse.Namespace(major=9, minor=0, name="H100")
        version = importlib.import_module("packaging.version").Version("2.9.0")
        vars(importlib.import_module("megatron.core.utils"))["_te_version"] = version
        for name in ("models.common.embeddings.rope_utils", "transformer.moe.moe_utils"):
            module = importlib.import_module(f"megatron.core.{name}")
            absent = [name for name, value in vars(module).items() if name.startswith("fused_") and value is None]
            vars(module).update(dict.fromkeys(absent, id))  # any function
        names = ("training.global_vars", "core.num_microbatches_calculator", "training.training")
        variables, microbatches, training = (importlib.import_module(f"megatron.{name}") for name in names)
        return variables, microbatches, training


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
