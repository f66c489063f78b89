"""Train a small character language model, and look to a job monitor exactly like Megatron-LM.

The model, the text, the gradients and the falling loss are real; only the size is a toy: an embedding per character,
one tanh layer over the last few characters and a softmax, in pure Python, trained with Adam on Python's own
documentation (`pydoc_data.topics`). No package is needed and no GPU.

What a monitor sees is Megatron-LM's (core_v0.19.0): option names, log lines, checkpoint folders, exit codes and the
answer to signals as with `--exit-signal-handler`. `--misbehave` makes the run fail the way real ones do.

Several ranks (RANK and WORLD_SIZE, else SLURM_PROCID and SLURM_NTASKS) do not talk to each other: every rank computes
the same thing from the same seed. Rank 0 writes checkpoints and prints what Megatron prints on rank 0; the last rank
prints the iteration and validation lines.
"""

import argparse
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import mul
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

Row = list[float]
Matrix = list[Row]
Rows = Sequence[Sequence[float]]

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,'"
VALIDATION_SHARE = 0.1
VALIDATION_SAMPLES = 512
TRACKER = "latest_checkpointed_iteration.txt"
STATE_FILE = "state.json"
STATE_VERSION = 1
MISBEHAVED = "misbehaved.txt"
MISBEHAVIOURS = ("crash", "exit", "hang", "loop", "nan", "oom", "segv", "nccl", "slow")

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23.65 GiB of which 11.06 MiB is "
    "free. Including non-PyTorch memory, this process has 23.60 GiB memory in use. Of the allocated memory 22.97 GiB "
    "is allocated by PyTorch, and 145.12 MiB is reserved by PyTorch but unallocated."
)
NCCL_TIMEOUT = (
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=ALLREDUCE, NumelIn=2048, NumelOut=2048, "
    "Timeout(ms)=600000) ran for 600081 milliseconds before timing out.",
    "failure detected by watchdog at work sequence id: 1 PG status: last enqueued work: 1, last completed work: 0",
    "Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, subsequent GPU "
    "operations might run on corrupted/incomplete data.",
    "To avoid data inconsistency, we are taking the entire process down.",
)


class CheckpointError(Exception):
    """A checkpoint that was found but cannot be used; the message says which and why."""


class OutOfMemoryError(RuntimeError):
    """Shows in a traceback under the name that PyTorch gives it."""

    __module__ = "torch"


# --- the text ---------------------------------------------------------------------------------------------------------


def read_text() -> str:
    """Python's help topics in sorted order, or the source of some of its modules where the topics are not installed."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        folder = Path(argparse.__file__).parent
        return "\n".join((folder / f"{name}.py").read_text("utf-8") for name in ("argparse", "datetime", "typing"))
    return "\n".join(topics[name] for name in sorted(topics))


def encode(text: str) -> bytes:
    """One byte per character: its place in ALPHABET. A run of any other characters becomes one space."""
    plain = re.sub(r"[^a-z.,']+", " ", text.lower())
    return plain.translate({ord(char): place for place, char in enumerate(ALPHABET)}).encode("latin-1")


# --- the model --------------------------------------------------------------------------------------------------------


def product(a: Rows, b: Rows) -> Matrix:
    """The matrix product a · bᵀ: every row of `a` with every row of `b`."""
    return [[sum(map(mul, x, y)) for y in b] for x in a]


def transposed(a: Rows) -> Rows:
    """Rows to columns."""
    return list(zip(*a, strict=True))


@dataclass
class Model:
    """Weights, or a gradient of the same shape. The last column of `hidden` and of `output` is the bias."""

    embedding: Matrix  # characters × embedding size
    hidden: Matrix  # hidden size × (context · embedding size + 1)
    output: Matrix  # characters × (hidden size + 1)

    @classmethod
    def random(cls, rng: random.Random, context: int, embedding_size: int, hidden_size: int) -> "Model":
        """Embeddings of variance 1, layers of variance 1/inputs, and an output layer that starts near uniform."""

        def matrix(rows: int, columns: int, deviation: float) -> Matrix:
            return [[rng.gauss(0.0, deviation) for _ in range(columns)] for _ in range(rows)]

        inputs = context * embedding_size + 1
        return cls(
            matrix(len(ALPHABET), embedding_size, 1.0),
            matrix(hidden_size, inputs, inputs**-0.5),
            matrix(len(ALPHABET), hidden_size + 1, 0.01),
        )

    def rows(self) -> Matrix:
        """All weights as one list of rows: the rows themselves, not copies."""
        return [*self.embedding, *self.hidden, *self.output]

    def shape(self) -> list[tuple[int, int]]:
        """Rows and columns of the three matrices."""
        return [(len(matrix), len(matrix[0])) for matrix in (self.embedding, self.hidden, self.output)]

    def forward(self, contexts: Iterable[bytes]) -> tuple[Matrix, Matrix, Matrix]:
        """The inputs and outputs of the hidden layer (each with a 1.0 for the bias) and the logits."""
        inputs = [[*(x for char in context for x in self.embedding[char]), 1.0] for context in contexts]
        hidden = [[*map(math.tanh, row), 1.0] for row in product(inputs, self.hidden)]
        return inputs, hidden, product(hidden, self.output)

    def gradient(self, contexts: Sequence[bytes], targets: Sequence[int]) -> tuple[float, "Model"]:
        """Mean cross-entropy in nats per character, and its derivative by every weight."""
        inputs, hidden, logits = self.forward(contexts)
        loss, d_logits = cross_entropy(logits, targets)
        d_tanh = product(d_logits, transposed(self.output)[:-1])  # the last column is the bias, whose input is fixed
        d_hidden = [
            [d * (1.0 - h * h) for d, h in zip(ds, hs[:-1], strict=True)] for ds, hs in zip(d_tanh, hidden, strict=True)
        ]
        d_inputs = product(d_hidden, transposed(self.hidden)[:-1])
        size = len(self.embedding[0])
        d_embedding = [[0.0] * size for _ in self.embedding]
        for context, row in zip(contexts, d_inputs, strict=True):
            for place, char in enumerate(context):
                piece = row[place * size : (place + 1) * size]
                d_embedding[char] = [a + b for a, b in zip(d_embedding[char], piece, strict=True)]
        return loss, Model(
            d_embedding,
            product(transposed(d_hidden), transposed(inputs)),
            product(transposed(d_logits), transposed(hidden)),
        )


def cross_entropy(logits: Matrix, targets: Sequence[int]) -> tuple[float, Matrix]:
    """Mean cross-entropy in nats, and its derivative by the logits."""
    loss, derivative = 0.0, []
    for row, target in zip(logits, targets, strict=True):
        peak = max(row)
        powers = [math.exp(x - peak) for x in row]
        total = sum(powers)
        loss += math.log(total) + peak - row[target]
        slope = [power / total / len(logits) for power in powers]
        slope[target] -= 1.0 / len(logits)
        derivative.append(slope)
    return loss / len(logits), derivative


@dataclass
class Adam:
    """Adam (Kingma and Ba, 2015): running means of the gradient and of its square, row by row as in Model.rows."""

    mean: Matrix
    square: Matrix

    def step(self, weights: Matrix, gradient: Matrix, lr: float, count: int) -> None:
        """Change the weights in place; `count` is 1 for the first step."""
        b1, b2, tiny = 0.9, 0.999, 1e-8
        scale = lr / (1.0 - b1**count)
        root = (1.0 - b2**count) ** 0.5
        for index, (row, grad) in enumerate(zip(weights, gradient, strict=True)):
            self.mean[index] = mean = [b1 * m + (1.0 - b1) * g for m, g in zip(self.mean[index], grad, strict=True)]
            self.square[index] = square = [
                b2 * s + (1.0 - b2) * g * g for s, g in zip(self.square[index], grad, strict=True)
            ]
            row[:] = [w - scale * m / (math.sqrt(s) / root + tiny) for w, m, s in zip(row, mean, square, strict=True)]


def clip(gradient: Matrix, limit: float) -> tuple[float, Matrix]:
    """The gradient's 2-norm before clipping, and the gradient scaled down to `limit` where it is longer."""
    norm = math.sqrt(sum(x * x for row in gradient for x in row))
    if norm <= limit:
        return norm, gradient
    return norm, [[x * limit / norm for x in row] for row in gradient]


# --- the options ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Misbehaviour:
    """`KIND@ITER[xTIMES]`: what goes wrong, at which iteration, and in how many runs (None: in every run)."""

    kind: str
    iteration: int
    times: int | None = None
    code: int = 1

    @classmethod
    def parse(cls, text: str) -> "Misbehaviour":
        """Read one --misbehave option; argparse turns the error into its own message."""
        match = re.fullmatch(r"(?P<kind>[a-z]+)(?::(?P<code>\d+))?@(?P<iter>[1-9]\d*)(?:x(?P<times>[1-9]\d*))?", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not KIND@ITER or KIND@ITERxTIMES, for example crash@30x1")
        kind, code, times = match["kind"], match["code"], match["times"]
        if kind not in MISBEHAVIOURS:
            raise argparse.ArgumentTypeError(f"{kind!r} is not one of {', '.join(MISBEHAVIOURS)}")
        if (kind == "exit") != (code is not None) or int(code or 0) > 255:
            raise argparse.ArgumentTypeError(f"{text!r}: exit (and only exit) takes a code of 0 to 255: exit:3@30")
        return cls(kind, int(match["iter"]), int(times) if times else None, int(code or 1))

    def __str__(self) -> str:
        return f"{self.kind}@{self.iteration}"


class Options(argparse.Namespace):
    """The parsed command line; the parser's help explains every field."""

    lr: float
    min_lr: float
    lr_decay_style: str
    lr_warmup_iters: int
    lr_wsd_decay_iters: int | None
    clip_grad: float
    batch_size: int
    train_iters: int
    seed: int
    context: int
    embedding_size: int
    hidden_size: int
    save: Path | None
    load: Path | None
    save_interval: int
    log_interval: int
    eval_interval: int
    step_seconds: float
    exit_code_on_signal: int
    ignore_sigterm: bool
    misbehave: list[Misbehaviour]


class Parser(argparse.ArgumentParser):
    """Errors in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Without the usage that argparse prints first."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and the texts above and below the options as they are written."""


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""
    wanted = f"a whole number of {low} or more" if high is None else f"a whole number of {low} to {high}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"needs {wanted}, not {text!r}")
        return value

    return convert


def real(zero_allowed: bool) -> Callable[[str], float]:
    """An argparse type: a finite number above zero, or from zero on."""
    wanted = "a number of 0 or more" if zero_allowed else "a number above 0"

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and (value > 0 or (zero_allowed and value == 0))):
            raise argparse.ArgumentTypeError(f"needs {wanted}, not {text!r}")
        return value

    return convert


def folder(text: str) -> Path:
    """An argparse type: the path of a folder, which need not exist."""
    if not text:
        raise argparse.ArgumentTypeError("needs the path of a folder, not an empty word")
    return Path(text)


EPILOG = """\
misbehaviours (at the start of iteration ITER, in every run; with xTIMES only in the first TIMES runs that get there):
  crash      a Python traceback, exit code 1       oom    torch.OutOfMemoryError, exit code 1
  exit:CODE  ends at once with that exit code      segv   dies by SIGSEGV
  hang       prints nothing more, never ends       nccl   the NCCL watchdog's lines, exit code 1
  loop       prints for ever, trains no more       slow   from then on 10 times --step-seconds an iteration
  nan        a weight becomes NaN: so does the loss, which then vanishes from the line as Megatron's does

examples:
  train.py --lr 0.01
  train.py --save out --load out --save-interval 20 --misbehave crash@50x1     (run it twice)
  train.py --load out --save out2 --train-iters 150 --lr-decay-style WSD --lr-wsd-decay-iters 30
"""


def build_parser() -> Parser:
    """All options. Those that Megatron-LM also has bear its names."""
    parser = Parser("train.py", description=__doc__, epilog=EPILOG, formatter_class=HelpFormatter, allow_abbrev=False)
    add_learning_options(parser)
    add_running_options(parser)
    return parser


def add_learning_options(parser: Parser) -> None:
    """What is learned, and how."""
    count, counter, positive, from_zero = integer(1), integer(0), real(zero_allowed=False), real(zero_allowed=True)
    group = parser.add_argument_group("training")
    group.add_argument("--lr", type=positive, default=0.01, help="peak learning rate of Adam")
    group.add_argument("--min-lr", type=from_zero, default=0.0, help="learning rate where a decay ends")
    group.add_argument(
        "--lr-decay-style",
        choices=("constant", "linear", "cosine", "WSD"),
        default="constant",
        help="constant ignores --min-lr; linear and cosine decay over all of --train-iters; "
        "WSD stays at --lr and decays exponentially in the last --lr-wsd-decay-iters",
    )
    group.add_argument("--lr-warmup-iters", type=counter, default=0, help="iterations of linear rise from 0 to --lr")
    group.add_argument("--lr-wsd-decay-iters", type=count, help="iterations of the final decay of WSD, which needs it")
    group.add_argument("--clip-grad", type=positive, default=1.0, help="longest gradient, by its 2-norm")
    group.add_argument(
        "--batch-size", "--global-batch-size", type=count, default=128, help="samples per iteration, over all ranks"
    )
    group.add_argument(
        "--train-iters", type=count, default=120, help="stop when this many are done, those before --load included"
    )
    group.add_argument("--seed", type=int, default=1234, help="of the first weights and of the order of the samples")

    group = parser.add_argument_group("model")
    group.add_argument("--context", type=integer(1, 64), default=3, help="characters that the model sees")
    group.add_argument("--embedding-size", type=count, default=8, help="numbers per character")
    group.add_argument("--hidden-size", type=count, default=32, help="units of the tanh layer")


def add_running_options(parser: Parser) -> None:
    """What is kept and shown, and what goes wrong."""
    count, counter = integer(1), integer(0)
    group = parser.add_argument_group("checkpoints and logging")
    group.add_argument("--save", type=folder, help="folder for checkpoints; none are written without it")
    group.add_argument(
        "--load", type=folder, help="folder to go on from; if --save holds a later checkpoint, that one is taken"
    )
    group.add_argument("--save-interval", type=count, default=20, help="iterations between checkpoints")
    group.add_argument("--log-interval", type=count, default=10, help="iterations per log line; the loss is their mean")
    group.add_argument(
        "--eval-interval", type=counter, default=40, help="iterations between validations; 0: none, not at the end too"
    )

    group = parser.add_argument_group("behaviour")
    group.add_argument(
        "--step-seconds", type=real(zero_allowed=True), default=0.0, help="shortest time for one iteration"
    )
    group.add_argument(
        "--exit-signal-handler", action="store_true", help="accepted and always on: SIGTERM and SIGUSR1 save and exit"
    )
    group.add_argument(
        "--exit-code-on-signal", type=integer(0, 255), default=0, metavar="N", help="exit code after such a signal"
    )
    group.add_argument("--ignore-sigterm", action="store_true", help="only SIGUSR1 and SIGKILL end the run early")
    group.add_argument(
        "--misbehave",
        type=Misbehaviour.parse,
        action="append",
        default=[],
        metavar="KIND@ITER[xTIMES]",
        help="go wrong on purpose, see below; repeatable",
    )


def check(options: Options) -> list[str]:
    """What is wrong with options that are each right by themselves."""
    problems = []
    decay = options.lr_wsd_decay_iters
    if options.min_lr > options.lr:
        problems.append(f"--min-lr {options.min_lr:g} is above --lr {options.lr:g}")
    if options.lr_warmup_iters >= options.train_iters:
        problems.append(f"--lr-warmup-iters {options.lr_warmup_iters} leaves none of {options.train_iters} iterations")
    if options.lr_decay_style == "WSD" and decay is None:
        problems.append("--lr-decay-style WSD needs --lr-wsd-decay-iters")
    if options.lr_decay_style == "WSD" and options.lr_warmup_iters + (decay or 0) > options.train_iters:
        problems.append(f"--lr-warmup-iters and --lr-wsd-decay-iters are more than --train-iters {options.train_iters}")
    for fault in options.misbehave:
        if fault.times is not None and options.save is None:
            problems.append(f"--misbehave {fault}x{fault.times} counts runs in the --save folder, and there is none")
        if fault.kind == "slow" and options.step_seconds == 0:
            problems.append(f"--misbehave {fault} is 10 times --step-seconds, and that is 0")
    return problems


def learning_rate(options: Options, done: int) -> float:
    """The rate once `done` iterations are done, as Megatron's OptimizerParamScheduler.get_lr counts them."""
    if options.lr_warmup_iters > 0 and done <= options.lr_warmup_iters:
        return options.lr * done / options.lr_warmup_iters
    if options.lr_decay_style == "constant":
        return options.lr
    share = (done - options.lr_warmup_iters) / (options.train_iters - options.lr_warmup_iters)
    if options.lr_decay_style == "linear":
        height = 1.0 - share
    elif options.lr_decay_style == "cosine":
        height = 0.5 * (math.cos(math.pi * share) + 1.0)
    else:
        decay = options.lr_wsd_decay_iters or 1
        height = 2.0 * 0.5 ** (max(0, done - (options.train_iters - decay)) / decay) - 1.0
    return options.min_lr + height * (options.lr - options.min_lr)


# --- the checkpoints --------------------------------------------------------------------------------------------------


@dataclass
class State:
    """All that a run needs to go on as if it had never stopped."""

    model: Model
    adam: Adam
    rng: random.Random
    iteration: int = 0
    consumed_samples: int = 0
    losses: list[float] = field(default_factory=list)  # of the iterations since the last multiple of --log-interval

    @classmethod
    def fresh(cls, options: Options) -> "State":
        """Random weights from --seed."""
        rng = random.Random(options.seed)
        model = Model.random(rng, options.context, options.embedding_size, options.hidden_size)
        zeros = [[[0.0] * len(row) for row in model.rows()] for _ in range(2)]
        return cls(model, Adam(*zeros), rng)

    def to_json(self) -> str:
        """Floats are written so that they read back bit for bit; NaN is kept."""
        return json.dumps(
            {
                "version": STATE_VERSION,
                "iteration": self.iteration,
                "consumed_samples": self.consumed_samples,
                "losses": self.losses,
                "model": vars(self.model),
                "adam": vars(self.adam),
                "rng": self.rng.getstate(),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "State":
        """Raises ValueError, KeyError or TypeError for a text that `to_json` did not write."""
        data: dict[str, Any] = json.loads(text)
        if data["version"] != STATE_VERSION:
            raise ValueError(f"version {data['version']}, but this program reads {STATE_VERSION}")
        rng = random.Random()
        version, numbers, gauss = data["rng"]
        rng.setstate((version, tuple(numbers), gauss))
        counts = {key: data[key] for key in ("iteration", "consumed_samples", "losses")}
        return cls(Model(**data["model"]), Adam(**data["adam"]), rng, **counts)


def fsync(path: Path) -> None:
    """Have the file or folder itself on the disk, not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(save: Path, state: State) -> None:
    """Write `iter_0000060/` and then the tracker, each complete before it gets its name.

    The state is one file, so that even a checkpoint that is written for a second time is replaced in one step.
    """
    staging, final = save / ".saving", save / f"iter_{state.iteration:07d}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    (staging / STATE_FILE).write_text(state.to_json(), "utf-8")
    fsync(staging / STATE_FILE)
    fsync(staging)
    if final.is_dir():
        (staging / STATE_FILE).replace(final / STATE_FILE)
        fsync(final)
    else:
        staging.replace(final)
    fsync(save)
    tracker = save / f".{TRACKER}"
    tracker.write_text(str(state.iteration), "utf-8")
    fsync(tracker)
    tracker.replace(save / TRACKER)
    fsync(save)


def saved_iteration(directory: Path) -> int:
    """The iteration of the newest checkpoint in `directory`, 0 if there is none."""
    try:
        text = (directory / TRACKER).read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise CheckpointError(f"cannot read {directory / TRACKER}: {error.strerror}") from error
    if not text.strip().isdecimal():
        raise CheckpointError(f"{directory / TRACKER} holds {text!r}, not the number of an iteration")
    return int(text)


def load_checkpoint(options: Options) -> tuple[State, Path] | None:
    """The checkpoint to go on from and its folder: the newest of --load, unless --save has a newer one.

    Without --load nothing is loaded, as in Megatron-LM.
    """
    if options.load is None:
        return None
    directory = max(options.load, options.save or options.load, key=saved_iteration)
    iteration = saved_iteration(directory)
    if iteration == 0:
        return None
    path = directory / f"iter_{iteration:07d}" / STATE_FILE
    try:
        state = State.from_json(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error!r}") from error
    wanted = State.fresh(options).model.shape()
    if state.model.shape() != wanted:
        raise CheckpointError(
            f"the model in {path} has other sizes {state.model.shape()} than the options ask for {wanted}: "
            "--context, --embedding-size and --hidden-size must stay the same"
        )
    return state, directory


# --- the run ----------------------------------------------------------------------------------------------------------


def now() -> str:
    """The local time as Megatron-LM prints it."""
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")


@dataclass(frozen=True)
class World:
    """This process among its ranks."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> "World":
        """From torchrun's variables, else from SLURM's, else one rank. Raises ValueError if they make no sense."""
        for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if rank in os.environ and size in os.environ:
                world = cls(int(os.environ[rank]), int(os.environ[size]))
                if not 0 <= world.rank < world.size:
                    raise ValueError(f"{rank}={world.rank} is not a rank of {size}={world.size}")
                return world
        return cls()

    def print_first(self, line: str) -> None:
        """Print on rank 0: Megatron's print_rank_0."""
        if self.rank == 0:
            self._print(line)

    def print_last(self, line: str) -> None:
        """Print on the last rank: Megatron's print_rank_last."""
        if self.rank == self.size - 1:
            self._print(line)

    def _print(self, line: str) -> None:
        """One write per line, at once, so that no reader sees half a line."""
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def run_name(self) -> tuple[str, str]:
        """Who counts runs together, and the name of this run: all ranks of one srun, else each rank by itself."""
        step = os.environ.get("SLURM_STEP_ID")
        if self.size > 1 and step is not None:
            job, restart = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")
            return "srun", f"{job}.{step}.{restart}"
        return f"rank{self.rank}", str(time.time_ns())


class StopRequest:
    """Notes SIGTERM and SIGUSR1 for the end of the iteration."""

    def __init__(self, ignore_sigterm: bool) -> None:
        self.received = False
        self.signals = [signal.SIGUSR1]
        signal.signal(signal.SIGUSR1, self.note)
        if ignore_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            self.signals.append(signal.SIGTERM)
            signal.signal(signal.SIGTERM, self.note)

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self.received = True

    def release(self) -> None:
        """From now on these signals kill, also those that came before."""
        for number in self.signals:
            signal.signal(number, signal.SIG_DFL)
        if self.received:
            os.kill(os.getpid(), self.signals[-1])


class Run:
    """One run of the program, from the loaded checkpoint to its last line."""

    def __init__(self, options: Options, world: World, stop: StopRequest) -> None:
        self.options, self.world, self.stop = options, world, stop
        self.pace = options.step_seconds
        self.seconds: list[float] = []  # of the iterations in the next log line
        self.name = world.run_name()
        ids = encode(read_text())
        held_out = int(len(ids) * VALIDATION_SHARE)
        self.text, self.validation_text = ids[:-held_out], ids[-held_out:]
        self.kept = 0  # the iteration of this run's newest checkpoint in --save
        self.state = self.load()

    def load(self) -> State:
        """The newest checkpoint, or random weights."""
        loaded = load_checkpoint(self.options)
        if loaded is not None:
            state, directory = loaded
            self.world.print_first(
                f"  successfully loaded checkpoint from {directory} [ t 1/1, gtp_remat 1/1, p 1/1 ] "
                f"at iteration {state.iteration}"
            )
            self.kept = state.iteration if directory == self.options.save else 0
            return state
        if self.options.load is not None:
            self.world.print_first(f"WARNING: could not find the metadata file {self.options.load / TRACKER}")
            self.world.print_first("    will not load any checkpoints and will start from random")
        return State.fresh(self.options)

    def train(self) -> int:
        """Train until --train-iters or a signal; returns the exit code."""
        self.world.print_first("done with setup ...")
        self.world.print_first("training ...")
        self.print_datetime("before the start of training step")
        first = self.state.iteration + 1
        for iteration in range(first, self.options.train_iters + 1):
            for fault in self.options.misbehave:
                if fault.iteration == iteration and self.is_due(fault):
                    self.misbehave(fault)
            norm = self.step()
            if iteration % self.options.log_interval == 0 or iteration == first:
                self.print_iteration(norm)
            if self.options.eval_interval and iteration % self.options.eval_interval == 0:
                self.print_validation(f"iteration {iteration}")
            if self.stop.received:
                self.save()
                self.print_datetime("exiting program after receiving SIGTERM.")
                return self.options.exit_code_on_signal
            if iteration % self.options.save_interval == 0:
                self.save()
        self.print_datetime("after training is done")
        if self.kept != self.state.iteration:
            self.save()
        if self.options.eval_interval:
            self.print_validation(f"iteration {self.state.iteration} on validation set")
        return 0

    def step(self) -> float:
        """One iteration; returns the gradient's norm before clipping."""
        started, state, options = time.monotonic(), self.state, self.options
        span = options.context
        starts = [state.rng.randrange(len(self.text) - span) for _ in range(options.batch_size)]
        contexts = [self.text[start : start + span] for start in starts]
        targets = [self.text[start + span] for start in starts]
        loss, gradient = state.model.gradient(contexts, targets)
        norm, clipped = clip(gradient.rows(), options.clip_grad)
        rate = learning_rate(options, state.iteration)
        state.iteration += 1
        state.consumed_samples += options.batch_size
        if (state.iteration - 1) % options.log_interval == 0:
            state.losses.clear()
        state.losses.append(loss)
        state.adam.step(state.model.rows(), clipped, rate, state.iteration)
        time.sleep(max(0.0, started + self.pace - time.monotonic()))
        self.seconds.append(time.monotonic() - started)
        return norm

    def save(self) -> None:
        """A checkpoint in --save, if there is one, by rank 0."""
        save, iteration = self.options.save, self.state.iteration
        if save is None or self.world.rank != 0:
            return
        self.world.print_first(f"[{now()}] saving checkpoint at iteration {iteration:7d} to {save} in json format")
        save_checkpoint(save, self.state)
        self.kept = iteration
        self.world.print_first(
            f"  [{now()}] successfully saved checkpoint from iteration {iteration:7d} to {save} "
            "[ t 1/1, gtp_remat 1/1, p 1/1 ]"
        )

    def print_datetime(self, text: str) -> None:
        """Megatron's print_datetime, which ends in a space."""
        self.world.print_first(f"[{text}] datetime: {now()} ")

    def print_iteration(self, norm: float) -> None:
        """Megatron's training_log. A loss that is not a number is left out, as Megatron's `if avg >= 0.0` does."""
        state, options = self.state, self.options
        milliseconds = 1000.0 * sum(self.seconds) / len(self.seconds)
        loss = sum(state.losses) / len(state.losses)
        line = f" [{now()}] iteration {state.iteration:8d}/{options.train_iters:8d} |"
        line += f" consumed samples: {state.consumed_samples:12d} |"
        line += f" elapsed time per iteration (ms): {milliseconds:.1f} |"
        line += f" learning rate: {learning_rate(options, state.iteration):.6E} |"
        line += f" global batch size: {options.batch_size:5d} |"
        if loss >= 0.0:
            line += f" lm loss: {loss:.6E} |"
        line += f" loss scale: {1.0:.1f} | grad norm: {norm:.3f} |"
        line += f" number of skipped iterations: {0:3d} | number of nan iterations: {0:3d} |"
        self.world.print_last(line)
        self.seconds.clear()

    def print_validation(self, where: str) -> None:
        """Megatron's evaluate_and_print_results, on samples spread evenly over the held-out text."""
        span, text = self.options.context, self.validation_text
        starts = range(0, len(text) - span, max(1, (len(text) - span) // VALIDATION_SAMPLES))
        logits = self.state.model.forward(text[start : start + span] for start in starts)[-1]
        loss, _ = cross_entropy(logits, [text[start + span] for start in starts])
        line = f" validation loss at {where} | lm loss value: {loss:.6E} | "
        line += f"lm loss PPL: {math.exp(min(20, loss)):.6E} | "
        for part in ("-" * (len(line) + 1), line, "-" * (len(line) + 1)):
            self.world.print_last(part)

    def is_due(self, fault: Misbehaviour) -> bool:
        """Whether this run is one of the first TIMES to get here. Each of those leaves a line in the --save folder."""
        if fault.times is None or self.options.save is None:
            return True
        path = self.options.save / MISBEHAVED
        counter, run = self.name
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        runs = {words[-1] for words in map(str.split, lines) if words[:2] == [str(fault), counter]}
        if run in runs:
            return True
        if len(runs) >= fault.times:
            return False
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{fault} {counter} {run}\n")
        fsync(path)
        fsync(self.options.save)
        return True

    def misbehave(self, fault: Misbehaviour) -> None:
        """Do what the EPILOG says of this kind."""
        match fault.kind:
            case "crash":
                raise RuntimeError(f"crash asked for by --misbehave {fault}")
            case "oom":
                raise OutOfMemoryError(OUT_OF_MEMORY)
            case "exit":
                raise SystemExit(fault.code)
            case "nccl":
                prefix = f"[rank{self.world.rank}]:[E{datetime.now():%m%d %H:%M:%S.%f}000 ProcessGroupNCCL.cpp:685]"
                for line in NCCL_TIMEOUT:
                    sys.stderr.write(f"{prefix} [Rank {self.world.rank}] {line}\n")
                raise SystemExit(1)
            case "segv":
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                self.stop.release()
                while True:
                    time.sleep(3600)
            case "loop":
                self.stop.release()
                while True:
                    self.world.print_last(f" [{now()}] waiting for the data loader ...")
                    time.sleep(max(self.pace, 0.1))
            case "nan":
                self.state.model.output[0][0] = math.nan
            case "slow":
                self.pace = 10 * self.options.step_seconds


def main() -> int:
    """The whole program; returns its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = build_parser()
    options = parser.parse_args(namespace=Options())
    stop = StopRequest(options.ignore_sigterm)
    if problems := check(options):
        parser.error("; ".join(problems))
    try:
        world = World.from_environment()
        if options.save is not None:
            options.save.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        parser.error(f"the ranks in the environment: {error}")
    except OSError as error:
        parser.error(f"--save {options.save}: {error.strerror}")
    try:
        run = Run(options, world, stop)
    except CheckpointError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    return run.train()


if __name__ == "__main__":
    sys.exit(main())
